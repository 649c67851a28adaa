"""Models by name, from a server on this machine that stands in for the hub."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import GPT
from minigpt.data.tokenizer import Tokenizer
from minigpt.interop.hub import could_be_on_the_hub
from minigpt.interop.hugging_face import export

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/tiny-llama"
# The library reads its settings when it is imported: it gets a process of its own.
LOAD = """
import json, sys
from minigpt import load
try:
    model, tokenizer = load(sys.argv[1])
    print(json.dumps({"logits": model.logits([[3, 1, 4]]).tolist(), "ids": tokenizer and tokenizer.encode("Hi")}))
except ValueError as error:
    print(json.dumps({"error": str(error)}))
"""
Load = Callable[..., dict[str, Any]]


class Hub(ThreadingHTTPServer):
    """Serves `files` as the model `org/tiny-llama`, to all who ask; `behave` is "well" or "down" (503)."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.behave = files, "well"
        self.requests: list[tuple[str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def fetched(self) -> list[str]:
        return sorted(path.rsplit("/", 1)[1] for method, path in self.requests if method == "GET" and "/resolve/" in path)


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path, files = self.path.split("?")[0], self.server.files
        if path.startswith("/api/") and "/models/" not in path:  # the library may ask for other things, too
            return self.send(404)
        self.server.requests.append((self.command, path))
        if self.server.behave == "down":
            return self.send(503)
        about = f"/api/models/{NAME}"
        if path in (about, f"{about}/revision/main", f"{about}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in files]
            return self.send(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode())
        if path == f"{about}/tree/{COMMIT}":
            tree = [{"type": "file", "path": name, "size": len(body), "oid": "0"} for name, body in files.items()]
            return self.send(200, json.dumps(tree).encode())
        body = files.get(path.removeprefix(f"/{NAME}/resolve/{COMMIT}/"))
        if body is None:
            return self.send(404, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        self.send(200, body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'})

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def model(ours: Callable[..., GPT]) -> GPT:
    return ours("llama", vocab_size=257)


@pytest.fixture
def hub(model: GPT, tmp_path: Path) -> Iterator[Hub]:
    export(model, Tokenizer.bytes(), tmp_path / "served")
    files = {path.name: path.read_bytes() for path in (tmp_path / "served").iterdir()}
    server = Hub(files | {"README.md": b"# A model", "pytorch_model.bin": b"code", "onnx/model.onnx": b"much"})
    yield server
    server.close()


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path) -> Load:
    """`fetch(name)`: load in a process of its own, in an empty folder, with a cache that begins empty."""
    (tmp_path / "here").mkdir()

    def call(name: str, **environment: str) -> dict[str, Any]:
        kept = {k: value for k, value in os.environ.items() if not k.startswith("HF_") and not k.upper().endswith("_PROXY")}
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", LOAD, name],
            env={**kept, **own, **environment},
            cwd=tmp_path / "here",
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return call


def check(answer: dict[str, Any], model: GPT) -> None:
    assert "error" not in answer, answer
    np.testing.assert_allclose(answer["logits"], model.logits([[3, 1, 4]]), rtol=0, atol=1e-5)
    assert answer["ids"] == [72, 105]


def refusal(answer: dict[str, Any], name: str) -> str:
    """Why it could not be had, in one line."""
    error: str = answer["error"]
    assert error.startswith(f"{name} is no folder here, and could not be fetched from the hub (") and "\n" not in error
    return error


def test_a_model_is_fetched_and_then_found_in_the_cache(hub: Hub, fetch: Load, model: GPT) -> None:
    check(fetch(NAME), model)
    assert hub.fetched() == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    hub.requests.clear()
    check(fetch(NAME), model)
    assert hub.fetched() == []  # it was asked only whether it is still the same
    hub.requests.clear()
    check(fetch(NAME, HF_HUB_OFFLINE="1"), model)
    assert hub.requests == []
    hub.behave = "down"
    check(fetch(NAME), model)
    hub.close()
    check(fetch(NAME), model)


def test_a_name_that_does_not_exist(hub: Hub, fetch: Load) -> None:
    assert "404" in refusal(fetch("org/tiny-lama"), "org/tiny-lama")
    assert "404" in refusal(fetch("gpt-2"), "gpt-2")
    assert len(hub.requests) == 2  # once each


def test_a_hub_that_cannot_be_reached(hub: Hub, fetch: Load) -> None:
    assert "offline" in refusal(fetch(NAME, HF_HUB_OFFLINE="1"), NAME)
    assert hub.requests == []
    hub.behave = "down"
    assert "503" in refusal(fetch(NAME), NAME)
    hub.close()
    assert "refused" in refusal(fetch(NAME), NAME)


def test_a_model_without_safe_weights_or_of_another_kind(hub: Hub, fetch: Load, tmp_path: Path) -> None:
    weights = hub.files.pop("model.safetensors")
    assert "there is no model.safetensors" in fetch(NAME)["error"]
    hub.files |= {"model.safetensors": weights, "config.json": b'{"model_type": "bert"}'}
    assert "model_type is 'bert'" in fetch(NAME, HF_HOME=str(tmp_path / "another cache"))["error"]


def test_a_path_is_no_name(hub: Hub, fetch: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "here")
    Path("mine").mkdir()
    paths = [
        "runs/nothing",
        "mine/nothing",
        "./nothing",
        "../nothing",
        "/nothing",
        "a/b/c",
        "~/nothing",
        "nothing/",
        "a\nb",
        "-n",
    ]
    assert [path for path in paths if could_be_on_the_hub(path)] == []
    assert [name for name in ("gpt2", NAME, "a.b/c-d_1") if not could_be_on_the_hub(name)] == []
    for path in (*paths[:3], "mine"):
        assert "holds no checkpoint" in fetch(path)["error"]
    assert hub.requests == []
