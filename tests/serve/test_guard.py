"""Requests of other sites and of strangers are refused."""

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.serving import serving

from minigpt.serve.guard import host_name

Request = Callable[..., tuple[int, dict[str, str], bytes]]
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]", "a b", "[", "localhost@evil.example"]
)
def test_other_host_names_are_refused(request_: Request, host: str) -> None:
    assert request_("GET", "/write", None, {"Host": host})[0] in (400, 403)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "[::1]:80", "LOCALHOST"])
def test_the_names_of_this_computer(request_: Request, host: str) -> None:
    assert request_("GET", "/write", None, {"Host": host})[0] == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://[", "http://a@127.0.0.1", "null", "http://127.0.0.1:1", "https://localhost.evil.example"],
)
def test_other_origins_are_refused(request_: Request, origin: str) -> None:
    assert request_("POST", "/api/tokens", b'{"text": "a"}', {**JSON, "Origin": origin})[0] == 403


def test_the_own_origin_is_allowed(request_: Request, port: int) -> None:
    assert request_("POST", "/api/tokens", b'{"text": "a"}', {**JSON, "Origin": f"http://127.0.0.1:{port}"})[0] == 200


@pytest.fixture(scope="module")
def guarded(tiny_run: Path) -> Iterator[int]:
    with serving(tiny_run, token="secret") as port:
        yield port


def get(port: int, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    response.read()
    return response


@pytest.mark.parametrize(
    "headers", [{}, {"Cookie": "minigpt-token=wrong"}, {"Authorization": "Bearer x"}, {"Cookie": "minigpt-token="}]
)
def test_without_the_token_nothing_is_shown(guarded: int, headers: dict[str, str]) -> None:
    for path in ("/write", "/api/model", "/static/main.js", "/write?token=wrong", "/write?token="):
        assert get(guarded, path, headers).status == 401


def test_the_token_moves_from_the_address_to_a_cookie(guarded: int) -> None:
    response = get(guarded, "/inside?text=a%20b&token=secret&step=")
    assert response.status == 303 and response.getheader("Location") == "/inside?text=a+b&step="
    cookie = response.getheader("Set-Cookie") or ""
    assert cookie.startswith("minigpt-token=secret") and "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert get(guarded, "/inside", {"Cookie": cookie.partition(";")[0]}).status == 200
    assert get(guarded, "/api/model", {"Authorization": "Bearer secret"}).status == 200
    assert (get(guarded, "//evil.example/?token=secret").getheader("Location") or "").startswith("/evil.example")


def test_host_names() -> None:
    assert [host_name(name) for name in ("a:1", "[::1]", "[", "")] == ["a", "::1", "", ""]
