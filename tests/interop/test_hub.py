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
from minigpt.data.hub import COMMIT as COMMITS
from minigpt.data.hub import ETAG, FILE_NAME, SHA256, UntrustedAnswerError, check_name
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
    """A server of `files` as the model `org/tiny-llama`. If `down` is true, it answers every request with status 503.

    `commit` is what the list of files names, `header_commit` what the responses name. `checksums` are the SHA-256 of large files
    in the list, and `etags` the ETags that are not the SHA-256 of the file. `absent` files are only in the list.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.down = files, False
        self.commit = self.header_commit = COMMIT
        self.checksums: dict[str, str] = {}
        self.etags: dict[str, str] = {}
        self.absent: set[str] = set()
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
        path, files, commit = self.path.split("?")[0], self.server.files, self.server.commit
        if path.startswith("/api/") and "/models/" not in path:  # other requests of the library
            return self.send(404)
        self.server.requests.append((self.command, path))
        if self.server.down:
            return self.send(503)
        model = f"/api/models/{NAME}"
        if path in (model, f"{model}/revision/main", f"{model}/revision/{COMMIT}"):
            siblings = [{"rfilename": name, "size": len(body), **self.lfs(name, body)} for name, body in files.items()]
            return self.send(200, json.dumps({"id": NAME, "sha": commit, "siblings": siblings}).encode())
        if path == f"{model}/tree/{commit}":
            tree = [{"type": "file", "path": name, "size": len(body), "oid": "0"} for name, body in files.items()]
            return self.send(200, json.dumps(tree).encode())
        name = path.removeprefix(f"/{NAME}/resolve/").partition("/")[2]
        body = files.get(name)
        if name in self.server.absent:
            return self.send(404, headers={"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        if body is None:
            return self.send(404, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        self.send(200, body, {"ETag": self.server.etags.get(name, f'"{hashlib.sha256(body).hexdigest()}"')})

    def lfs(self, name: str, body: bytes) -> dict[str, Any]:
        checksum = self.server.checksums.get(name)
        return {"lfs": {"sha256": checksum, "size": len(body), "pointerSize": 134}} if checksum else {}

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": self.server.header_commit, **headers}.items():
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


def test_a_name_that_does_not_exist_may_be_that_of_a_run(hub: Hub, load_by_name: Load, tmp_path: Path) -> None:
    """The hub is asked nevertheless: many of its names resemble names of runs. Without runs, the error says how to get one."""
    hint = "there is no run in runs yet, and `minigpt train` trains one"
    assert refusal(load_by_name("gpt-2"), "gpt-2").endswith(f"); {hint}")
    (tmp_path / "here" / "runs" / "gpt-3").mkdir(parents=True)
    assert refusal(load_by_name("gpt-2"), "gpt-2").endswith("); did you mean runs/gpt-3?")
    assert refusal(load_by_name("org/gpt-2"), "org/gpt-2").endswith(")")
    assert [path.rpartition("/models/")[2] for _, path in hub.requests] == ["gpt-2", "gpt-2", "org/gpt-2"]


def test_a_model_of_the_hub_is_found_in_spite_of_a_run_with_a_similar_name(
    hub: Hub, load_by_name: Load, model: GPT, tmp_path: Path
) -> None:
    (tmp_path / "here" / "runs" / "tiny-lama").mkdir(parents=True)
    check(load_by_name(NAME), model)


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


# ----------------------------------------------------------- a hostile server

OUTSIDE = ["../../..", "../../../../outside", "..", "/outside", "C:\\outside", "a/b", "", "a\x07b", "a\n"]


def files_outside_the_cache(tmp_path: Path) -> set[str]:
    """Return the files in the folder of the test, except those in the cache of the library."""
    return {
        str(path) for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "hf" / "hub" / "models--org--tiny-llama")
    }


@pytest.mark.parametrize("etag", OUTSIDE[:3])
def test_an_etag_that_is_a_path_creates_no_file(hub: Hub, load_by_name: Load, tmp_path: Path, etag: str) -> None:
    (tmp_path / "hf" / "hub" / "models--org--tiny-llama").mkdir(parents=True)
    before = files_outside_the_cache(tmp_path)
    hub.etags = {"model.safetensors": f'"{etag}"'}
    answer = load_by_name(NAME)
    created = files_outside_the_cache(tmp_path) - before
    assert {path for path in created if ".locks" not in path and "CACHEDIR.TAG" not in path} == set()
    assert "ETag is" in refusal(answer, NAME)


@pytest.mark.parametrize("how", ["a found file", "a missing file", "the list of files"])
def test_a_commit_that_is_a_path_creates_no_file(hub: Hub, load_by_name: Load, tmp_path: Path, how: str) -> None:
    (tmp_path / "hf" / "hub" / "models--org--tiny-llama").mkdir(parents=True)
    before = files_outside_the_cache(tmp_path)
    commit = "../../../../outside"
    if how == "the list of files":
        hub.commit = commit
    else:
        hub.header_commit = commit
    if how == "a missing file":
        hub.absent = set(hub.files)
    answer = load_by_name(NAME)
    assert files_outside_the_cache(tmp_path) == before
    assert "is '../../../../outside', which is not a safe name" in refusal(answer, NAME)


@pytest.mark.parametrize("name", OUTSIDE)
def test_only_names_of_files_are_safe(name: str) -> None:
    for pattern in (ETAG, COMMITS, SHA256, FILE_NAME):
        with pytest.raises(UntrustedAnswerError, match="is not a safe name") as refused:
            check_name("name", name, pattern)
        assert "\n" not in str(refused.value)


def test_the_names_that_the_hub_uses_are_safe() -> None:
    for etag in ("0" * 64, "a" * 40, "d41d8cd98f00b204e9800998ecf8427e-38"):
        check_name("ETag", etag, ETAG)
    for file in ("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        check_name("file", file, FILE_NAME)


def test_a_file_name_with_control_characters_is_refused(hub: Hub, load_by_name: Load) -> None:
    hub.files["a\x1b]52;c;QQ==\x07.safetensors"] = b"weights"
    assert "which is not a safe name" in refusal(load_by_name(NAME), NAME)
    assert hub.downloaded() == []


@pytest.mark.parametrize("where", ["the list of files", "the ETag"])
def test_weights_with_another_checksum_than_the_hub_names(hub: Hub, load_by_name: Load, model: GPT, where: str) -> None:
    correct = hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    hub.checksums = {"model.safetensors": correct}
    check(load_by_name(NAME), model)
    (hub.checksums if where == "the list of files" else hub.etags)["model.safetensors"] = "a" * 64
    hub.commit = hub.header_commit = "f" * 40 if where == "the ETag" else COMMIT
    error = load_by_name(NAME)["error"]
    assert f"model.safetensors has the SHA-256 {correct}, but the hub names {'a' * 64}; delete " in error
    if where == "the ETag":  # the cache names the file after it, so that it is refused without the hub as well
        assert load_by_name(NAME, HF_HUB_OFFLINE="1")["error"] == error
    Path(error.split("delete ")[1].split(" to download")[0]).unlink()
    hub.checksums, hub.etags = {}, {}
    check(load_by_name(NAME), model)


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
