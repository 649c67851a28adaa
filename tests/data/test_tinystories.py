"""The download, against a server on this machine that stands in for the hub and misbehaves on request."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minigpt.data.tinystories import FILES, REPOSITORY

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STORIES = {name: (f"{name}: once upon a time.\n<|endoftext|>\n" * 20_000).encode() for name in FILES}

CHUNK = 1 << 16
# The library reads its settings when it is imported: it gets a process of its own, in which it does not wait between
# attempts and keeps what arrived in pieces of 64 KB (instead of 10 MB), so that small files will do.
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
    """Serves STORIES at the hub's addresses.

    `behave` is "well" or names a fault: "absent" (404), "down" (503), "cut" (breaks off after a third), "lying"
    (promises more bytes than there are), "short" (sends half of what HEAD promised).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.behave = "well"
        self.requests = []  # (method, path, range)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()

    def ranges(self):
        return [requested for method, _, requested in self.requests if method == "GET" and requested]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        requested = self.headers.get("Range")
        if "/datasets/" not in self.path:  # the library may ask the hub for other things too
            return self.refuse(404, {})
        self.server.requests.append((self.command, self.path, requested))
        content = STORIES.get(self.path.removeprefix(f"/datasets/{REPOSITORY}/resolve/main/"))
        if content is None or self.server.behave == "absent":
            return self.refuse(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        if self.server.behave == "down":
            return self.refuse(503, {})
        if self.server.behave == "short" and with_body:
            content = content[: len(content) // 2]
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested else 0
        promised = len(content) - start + (1000 if self.server.behave == "lying" else 0)
        self.send_response(206 if requested else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(promised))
        if requested:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            self.send_body(content[start:], whole=start > 0)

    def refuse(self, status, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_body(self, body, whole):
        if self.server.behave == "cut" and not whole:
            body = body[: len(body) // 3]
        self.wfile.write(body)
        if self.server.behave in ("cut", "lying"):
            self.close_connection = True


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def download(hub, tmp_path):
    """Run the download in a process of its own, with an empty cache; returns the stories it got, or its error."""

    def run(**environment):
        kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
        kept = {name: value for name, value in kept.items() if not name.startswith("HF_")}
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        finished = subprocess.run(
            [sys.executable, "-c", DOWNLOAD],
            env={**kept, **settings, **environment},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    return run


def contents(answer):
    assert "error" not in answer, answer
    return {name: open(path, "rb").read() for name, path in zip(FILES, answer["paths"], strict=True)}


def refusal(answer):
    """The error, which is one line and names the two ways on."""
    error = answer["error"]
    assert error.startswith("TinyStories could not be downloaded (")
    assert "--data storybook" in error and "--data FILE" in error and "\n" not in error
    return error


def complete_files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 10_000]


def test_both_files_are_fetched_and_then_found_in_the_cache(hub, download):
    assert contents(download()) == STORIES
    gets = [path.rsplit("/", 1)[1] for method, path, _ in hub.requests if method == "GET"]
    assert gets == list(FILES)

    hub.requests.clear()
    assert contents(download()) == STORIES
    assert all(method == "HEAD" for method, _, _ in hub.requests)

    hub.requests.clear()
    assert contents(download(HF_HUB_OFFLINE="1")) == STORIES
    assert hub.requests == []

    hub.behave = "down"
    assert contents(download()) == STORIES
    hub.close()
    assert contents(download()) == STORIES


def test_a_connection_that_breaks_off_is_resumed_where_it_was(hub, download):
    hub.behave = "cut"
    assert contents(download()) == STORIES
    kept = [len(content) // 3 // CHUNK * CHUNK for content in STORIES.values()]
    assert hub.ranges() == [f"bytes={size}-" for size in kept] and min(kept) > 0


@pytest.mark.parametrize("lie", ["lying", "short"])
def test_a_server_that_lies_about_the_length_is_not_believed(hub, download, tmp_path, lie):
    hub.behave = lie
    refusal(download())
    assert complete_files(tmp_path) == []
    hub.behave = "well"
    assert contents(download()) == STORIES


def test_files_that_are_not_there(hub, download):
    hub.behave = "absent"
    assert "404" in refusal(download())
    assert len(hub.requests) < 10


def test_a_hub_that_is_down_is_asked_once(hub, download):
    hub.behave = "down"
    assert "503" in refusal(download())
    assert len(hub.requests) == 1


def test_without_a_network(hub, download):
    hub.close()
    assert "refused" in refusal(download()).lower()


def test_offline_by_choice(hub, download):
    refusal(download(HF_HUB_OFFLINE="1"))
    assert hub.requests == []
