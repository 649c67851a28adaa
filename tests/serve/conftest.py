"""Fixtures of the tests of the server: a server of the tiny run, and ways to ask it."""

import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import serving

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="session")
def port(tiny_run: Path) -> Iterator[int]:
    """The port of a server of the tiny run."""
    with serving(tiny_run) as found:
        yield found


@pytest.fixture
def request_(port: int) -> Callable[..., Answer]:
    """`request_(method, path, body, headers)` returns the status, the headers and the body of the answer."""

    def ask(method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        answer = (response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        connection.close()
        return answer

    return ask


@pytest.fixture
def ask(request_: Callable[..., Answer]) -> Callable[..., tuple[int, Any]]:
    """`ask("inside", text="a")` returns the status and the value of the answer to a question."""

    def call(name: str, /, **fields: Any) -> tuple[int, Any]:
        body = json.dumps(fields).encode()
        status, _, answer = request_("POST", f"/api/{name}", body, {"Content-Type": "application/json"})
        return status, json.loads(answer)

    return call


@pytest.fixture(scope="session")
def hostile_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run whose name and stories look like HTML."""
    path = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=alert(1)>"
    shutil.copytree(tiny_run, path)
    lines = (path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    sample = json.loads(lines[-1]) | {"text": "<script>alert(1)</script>", "pieces": None, "surprises": None}
    (path / "samples.jsonl").write_text("\n".join([*lines, json.dumps(sample), ""]), encoding="utf-8")
    return path
