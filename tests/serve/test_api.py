"""The answers of the server, and its refusals."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigpt.page.inside import inside
from minigpt.page.subject import Subject
from minigpt.page.traced import Question, Tracer
from minigpt.serve.app import VIEWS
from minigpt.serve.guard import MAX_BODY

Ask = Callable[..., tuple[int, Any]]
Request = Callable[..., tuple[int, dict[str, str], bytes]]
JSON = {"Content-Type": "application/json"}


def test_the_views_and_their_files(request_: Request) -> None:
    for view in VIEWS:
        status, headers, body = request_("GET", f"/{view}?text=a")
        assert status == 200 and headers["content-type"].startswith("text/html") and b"<main" in body
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert b"style=" not in body and b"<script>" not in body
    assert request_("GET", "/")[0] == 307
    assert request_("GET", "/theme.css")[1]["content-type"].startswith("text/css")
    assert request_("GET", "/static/main.js")[1]["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/%2e%2e/fields.py", "//etc/passwd", "/static/", "/x", "/api/x"],
)
def test_no_path_reaches_another_file(request_: Request, path: str) -> None:
    assert request_("GET", path)[0] == 404


def test_the_model(request_: Request) -> None:
    found = json.loads(request_("GET", "/api/model")[2])
    assert (found["name"], found["layers"], found["heads"], found["vocabulary"], found["limit"]) == ("tiny", 2, 2, 257, 15)
    assert found["steps"] == [0, 1, 2, 4, 8, 16, 32, 40, 60] and found["trained"] and not found["post_norm"]
    assert 0 < len(found["example"]) <= 15


def test_answers_are_those_of_the_library(ask: Ask, tiny_run: Path) -> None:
    tracer = Tracer(Subject(tiny_run))
    status, found = ask("inside", text="Tom saw", step=8, off=["blocks.0.attention.heads.1"])
    assert status == 200
    expected = inside(tracer, tracer(Question("Tom saw", 8, None, ("blocks.0.attention.heads.1",))))
    assert found == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gradient", {"target": 3}),
        ("array", {"name": "blocks.0.attention.weights", "index": 1}),
        ("array", {"name": "head", "rows": [2, 9], "columns": [0, 3]}),
        ("nudge", {"name": "embedding", "index": [2, 3]}),
        ("nudge", {"name": "head", "index": [2, 3], "amount": -0.1, "target": 2, "step": 4}),
        ("update", {"name": "blocks.0.attention.qkv.weight"}),
        ("attribution", {"position": 3}),
        ("tokens", {}),
        ("merges", {"start": 0, "count": 5}),
    ],
)
def test_every_question_has_an_answer(ask: Ask, name: str, fields: dict[str, Any]) -> None:
    status, found = ask(name, text="Tom saw", **fields)
    assert status == 200 and "error" not in found


def test_training_and_explanations(request_: Request) -> None:
    assert json.loads(request_("GET", "/api/training")[2])["done"] == 60
    assert json.loads(request_("GET", "/api/explain/linear")[2])["title"] == "Linear layer"
    status, _, body = request_("GET", "/api/explain/x")
    assert status == 404 and b"kind is 'x'" in body


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("inside", {}, "text must be a string of at most 20,000 characters"),
        ("inside", {"text": 3}, "text must be a string"),
        ("inside", {"text": "x" * 20_001}, "text must be a string"),
        ("inside", {"text": "\ud800"}, "lone surrogate"),
        ("inside", {"text": ""}, "the text has 0 tokens"),
        ("inside", {"text": "x" * 99}, "the text has 99 tokens, but must have from 1 to 15"),
        ("inside", {"text": "a", "step": 3}, "no weights of step 3"),
        ("inside", {"text": "a", "step": -1}, "step is -1, but must be an integer from 0"),
        ("inside", {"text": "a", "step": 10**40}, "step is"),
        ("inside", {"text": "a", "step": "8"}, "step is '8'"),
        ("inside", {"text": "a", "step": True}, "step is True"),
        ("inside", {"text": "a", "off": "head"}, "off must be a list of at most 1,000 names"),
        ("inside", {"text": "a", "off": ["x"]}, "off has 'x'"),
        ("inside", {"text": "a", "off": [3]}, "off must be a list"),
        ("gradient", {"text": "ab", "target": 9}, "target is 9"),
        ("array", {"text": "a", "name": "x"}, "name is 'x'"),
        ("array", {"text": "a", "name": "head", "rows": [3]}, "rows must be a list of two integers"),
        ("array", {"text": "a", "name": "head", "rows": [9, 3]}, r"rows is \[9, 3\]"),
        ("array", {"text": "a", "name": "blocks.0.attention.heads", "index": 7}, "index is 7"),
        ("nudge", {"text": "a", "name": "head", "index": [1]}, r"index is \[1\]"),
        ("nudge", {"text": "a", "name": "head", "index": [1, 1], "amount": 7}, "amount is 7"),
        ("nudge", {"text": "a", "name": "head", "index": [1, 1], "amount": "x"}, "amount is 'x', but must be a finite number"),
        ("update", {"text": "a", "step": 8, "name": "head"}, "checkpoints of these steps: 40, 60"),
        ("write", {"prompt": "a", "temperature": -1}, "temperature is -1"),
        ("write", {"prompt": "a", "top_p": 7}, "top_p is 7"),
        ("write", {"prompt": "a", "max_new_tokens": 10**6}, "max_new_tokens is 1000000"),
        ("write", {"prompt": "a", "ids": [999]}, "999"),
        ("write", {"prompt": "a", "ids": [-1]}, "ids must be a list"),
    ],
)
def test_invalid_questions_are_refused(ask: Ask, name: str, fields: dict[str, Any], message: str) -> None:
    status, found = ask(name, **fields)
    assert status == 400 and re.search(message, found["error"]), found


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff", b'{"text": NaN}', b"[" * 60_000])
def test_bodies_that_are_not_objects(request_: Request, body: bytes) -> None:
    status, _, answer = request_("POST", "/api/inside", body, JSON)
    assert status == 400 and "error" in json.loads(answer)


def test_methods_and_types(request_: Request) -> None:
    assert request_("GET", "/api/inside")[0] == 405
    assert request_("POST", "/api/inside", b"{}", {"Content-Type": "text/plain"})[0] == 415
    assert request_("POST", "/api/inside", b"x" * (MAX_BODY + 1), JSON)[0] == 413


def test_a_body_without_a_length_is_limited(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        head = f"POST /api/inside HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
        for _ in range(8):
            try:
                client.sendall(chunk)
            except OSError:
                return
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def lines(port: int, **fields: Any) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/api/write", json.dumps(fields).encode(), JSON)
    response = connection.getresponse()
    assert response.status == 200
    return [json.loads(line) for line in response.read().splitlines()]


def test_a_reader_who_leaves_frees_the_place(port: int) -> None:
    question = json.dumps({"prompt": "a", "max_new_tokens": 1000, "temperature": 2, "top_k": 0}).encode()
    for _ in range(8):  # more than can write at the same time
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            head = f"POST /api/write HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(question)}\r\n\r\n".encode() + question)
            assert client.recv(20).startswith(b"HTTP/1.1")
    deadline = time.monotonic() + 30
    while True:
        try:
            found = lines(port, prompt="a", max_new_tokens=2)
            break
        except AssertionError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert found[-1]["end"]


def test_several_clients_at_once(port: int) -> None:
    alone = lines(port, prompt="Tom", max_new_tokens=8)
    found: list[list[dict[str, Any]]] = []
    threads = [threading.Thread(target=lambda: found.append(lines(port, prompt="Tom", max_new_tokens=8))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [alone] * 3
