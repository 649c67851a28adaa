"""Tests of the download, with a local server in place of the hub, which can simulate faults."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from minigpt.data.tinystories import FILES, REPOSITORY

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STORIES = {name: (f"{name}: once upon a time.\n<|endoftext|>\n" * 20_000).encode() for name in FILES}

Answer = dict[str, Any]
Download = Callable[..., Answer]
"A function that runs the download and returns its paths or its error."

CHUNK = 1 << 16
# The library reads its settings when it is imported, so each download runs in a new process. That does not wait between
# attempts, and stores chunks of 64 KB instead of 10 MB, so that small files suffice.
DOWNLOAD = f"""
import json, time
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}
time.sleep = lambda seconds: None
from minigpt.data.tinystories import download
try:
    print(json.dumps({{"paths": [str(path) for path in download()]}}))
except ValueError as error:
    print(json.dumps({{"error": str(error)}}))
"""


class Hub(ThreadingHTTPServer):
    """A server of STORIES with the URLs of the hub.

    `mode` is "normal" or a fault: "absent" (404), "down" (503), "truncated" (the connection breaks after a third), "too long"
    (Content-Length is larger than the content), "short" (half of the length that HEAD returned).
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode = "normal"
        self.etag: str | None = None  # None is the SHA-256 of the content
        self.requests: list[tuple[str, str, str | None]] = []  # (method, path, range)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def ranges(self) -> list[str]:
        return [requested for method, _, requested in self.requests if method == "GET" and requested]


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        requested = self.headers.get("Range")
        if "/datasets/" not in self.path:  # the library may send other requests to the hub
            return self.refuse(404, {})
        self.server.requests.append((self.command, self.path, requested))
        content = STORIES.get(self.path.removeprefix(f"/datasets/{REPOSITORY}/resolve/main/"))
        if content is None or self.server.mode == "absent":
            return self.refuse(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        if self.server.mode == "down":
            return self.refuse(503, {})
        if self.server.mode == "short" and with_body:
            content = content[: len(content) // 2]
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested else 0
        length = len(content) - start + (1000 if self.server.mode == "too long" else 0)
        self.send_response(206 if requested else 200)
        self.send_header("ETag", f'"{self.server.etag or hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(length))
        if requested:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            self.send_body(content[start:], resumed=start > 0)

    def refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_body(self, body: bytes, resumed: bool) -> None:
        if self.server.mode == "truncated" and not resumed:
            body = body[: len(body) // 3]
        self.wfile.write(body)
        if self.server.mode in ("truncated", "too long"):
            self.close_connection = True


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def download(hub: Hub, tmp_path: Path) -> Download:
    """Return a function that runs the download in a new process with its own cache, and returns the paths or the error."""

    def run(**environment: str) -> Answer:
        kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
        kept = {name: value for name, value in kept.items() if not name.startswith("HF_")}
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        completed = subprocess.run(
            [sys.executable, "-c", DOWNLOAD],
            env={**kept, **settings, **environment},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
        )
        assert completed.returncode == 0, completed.stderr
        return json.loads(completed.stdout)

    return run


def contents(answer: Answer) -> dict[str, bytes]:
    assert "error" not in answer, answer
    return {name: open(path, "rb").read() for name, path in zip(FILES, answer["paths"], strict=True)}


def refusal(answer: Answer) -> str:
    """Return the error, which must be one line and name the two alternatives."""
    error = answer["error"]
    assert error.startswith("TinyStories could not be downloaded (")
    assert "--data storybook" in error and "--data FILE" in error and "\n" not in error
    return error


def complete_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 10_000]


def test_both_files_are_fetched_and_then_found_in_the_cache(hub: Hub, download: Download) -> None:
    assert contents(download()) == STORIES
    gets = [path.rsplit("/", 1)[1] for method, path, _ in hub.requests if method == "GET"]
    assert gets == list(FILES)

    hub.requests.clear()
    assert contents(download()) == STORIES
    assert all(method == "HEAD" for method, _, _ in hub.requests)

    hub.requests.clear()
    assert contents(download(HF_HUB_OFFLINE="1")) == STORIES
    assert hub.requests == []

    hub.mode = "down"
    assert contents(download()) == STORIES
    hub.close()
    assert contents(download()) == STORIES


def test_a_broken_connection_is_resumed(hub: Hub, download: Download) -> None:
    hub.mode = "truncated"
    assert contents(download()) == STORIES
    sizes = [len(content) // 3 // CHUNK * CHUNK for content in STORIES.values()]
    assert hub.ranges() == [f"bytes={size}-" for size in sizes] and min(sizes) > 0


@pytest.mark.parametrize("fault", ["too long", "short"])
def test_a_wrong_length_is_an_error(hub: Hub, download: Download, tmp_path: Path, fault: str) -> None:
    hub.mode = fault
    refusal(download())
    assert complete_files(tmp_path) == []
    hub.mode = "normal"
    assert contents(download()) == STORIES


def test_missing_files(hub: Hub, download: Download) -> None:
    hub.mode = "absent"
    assert "404" in refusal(download())
    assert len(hub.requests) < 10


def test_a_hub_that_is_down_gets_one_request(hub: Hub, download: Download) -> None:
    hub.mode = "down"
    assert "503" in refusal(download())
    assert len(hub.requests) == 1


def test_without_a_network(hub: Hub, download: Download) -> None:
    hub.close()
    assert "refused" in refusal(download()).lower()


def test_the_offline_setting(hub: Hub, download: Download) -> None:
    refusal(download(HF_HUB_OFFLINE="1"))
    assert hub.requests == []


def test_an_etag_that_is_a_path_creates_no_file(hub: Hub, download: Download, tmp_path: Path) -> None:
    hub.etag = "../../../../outside"
    answer = download()
    assert complete_files(tmp_path) == []
    assert "ETag is '../../../../outside', which is not a safe name" in refusal(answer)


def test_a_text_without_the_checksum_that_the_hub_names_is_refused(hub: Hub, download: Download) -> None:
    hub.etag = "a" * 64
    assert f"but the hub names {'a' * 64}" in refusal(download())
    assert f"but the hub names {'a' * 64}" in refusal(download(HF_HUB_OFFLINE="1"))
