"""Download models by name from a local server in place of the hub."""

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
from minigpt.interop.hub import is_hub_name
from minigpt.interop.hugging_face import export

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/tiny-llama"
# In a new process, because the library reads its settings when it is imported.
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
    """A server of `files` as the model `org/tiny-llama`. If `down` is true, it answers every request with status 503."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.down = files, False
        self.requests: list[tuple[str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def downloaded(self) -> list[str]:
        """Return the names of the files that were downloaded."""
        return sorted(path.rsplit("/", 1)[1] for method, path in self.requests if method == "GET" and "/resolve/" in path)


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of `huggingface_hub` for one model."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def respond(self) -> None:
        path, files = self.path.split("?")[0], self.server.files
        if path.startswith("/api/") and "/models/" not in path:  # other requests of the library
            return self.send(404)
        self.server.requests.append((self.command, path))
        if self.server.down:
            return self.send(503)
        model = f"/api/models/{NAME}"
        if path in (model, f"{model}/revision/main", f"{model}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in files]
            return self.send(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode())
        if path == f"{model}/tree/{COMMIT}":
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
    server = Hub(files | {"README.md": b"# A model", "pytorch_model.bin": b"code", "onnx/model.onnx": b"large"})
    yield server
    server.close()


@pytest.fixture
def load_by_name(hub: Hub, tmp_path: Path) -> Load:
    """Return a function that loads a model by name in a new process, in an empty folder, with an empty cache at first."""
    (tmp_path / "here").mkdir()

    def call(name: str, **environment: str) -> dict[str, Any]:
        kept = {k: value for k, value in os.environ.items() if not k.startswith("HF_") and not k.upper().endswith("_PROXY")}
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        finished = subprocess.run(
            [sys.executable, "-c", LOAD, name],
            env={**kept, **own, **environment},
            cwd=tmp_path / "here",
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        assert finished.returncode == 0, finished.stderr
        return dict(json.loads(finished.stdout))

    return call


def check(answer: dict[str, Any], model: GPT) -> None:
    assert "error" not in answer, answer
    np.testing.assert_allclose(answer["logits"], model.logits([[3, 1, 4]]), rtol=0, atol=1e-5)
    assert answer["ids"] == [72, 105]


def refusal(answer: dict[str, Any], name: str) -> str:
    """Return the error, which is one line."""
    error: str = answer["error"]
    assert error.startswith(f"{name} is not a local folder, and cannot be downloaded from the hub (") and "\n" not in error
    return error


def test_a_model_is_downloaded_once_and_then_read_from_the_cache(hub: Hub, load_by_name: Load, model: GPT) -> None:
    check(load_by_name(NAME), model)
    assert hub.downloaded() == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    hub.requests.clear()
    check(load_by_name(NAME), model)
    assert hub.downloaded() == []  # one request, whether the model has changed
    hub.requests.clear()
    check(load_by_name(NAME, HF_HUB_OFFLINE="1"), model)
    assert hub.requests == []
    hub.down = True
    check(load_by_name(NAME), model)
    hub.close()
    check(load_by_name(NAME), model)


def test_a_name_that_does_not_exist(hub: Hub, load_by_name: Load) -> None:
    assert "404" in refusal(load_by_name("org/tiny-lama"), "org/tiny-lama")
    assert "404" in refusal(load_by_name("gpt-2"), "gpt-2")
    assert len(hub.requests) == 2  # one for each name


def test_a_hub_that_cannot_be_reached(hub: Hub, load_by_name: Load) -> None:
    assert "offline" in refusal(load_by_name(NAME, HF_HUB_OFFLINE="1"), NAME)
    assert hub.requests == []
    hub.down = True
    assert "503" in refusal(load_by_name(NAME), NAME)
    hub.close()
    assert "refused" in refusal(load_by_name(NAME), NAME)


def test_a_model_without_safe_weights_or_of_another_kind(hub: Hub, load_by_name: Load, tmp_path: Path) -> None:
    weights = hub.files.pop("model.safetensors")
    assert "there is no model.safetensors" in load_by_name(NAME)["error"]
    hub.files |= {"model.safetensors": weights, "config.json": b'{"model_type": "bert"}'}
    assert "model_type is 'bert'" in load_by_name(NAME, HF_HOME=str(tmp_path / "another cache"))["error"]


def test_a_path_is_not_a_hub_name(hub: Hub, load_by_name: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert [path for path in paths if is_hub_name(path)] == []
    assert [name for name in ("gpt2", NAME, "a.b/c-d_1") if not is_hub_name(name)] == []
    for path in (*paths[:3], "mine"):
        assert "holds no checkpoint" in load_by_name(path)["error"]
    assert hub.requests == []
