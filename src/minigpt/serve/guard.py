"""What every request passes: checks of its origin and its size, and the headers of the response."""

import asyncio
import secrets
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1 << 17
"The largest body of a request, in bytes."
SECONDS_TO_SEND_BODY = 10
COOKIE = "minigpt-token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Refuses requests that do not come from the page itself, and limits their bodies.

    - The Host header must name this server: a page on another site cannot reach it by a name that resolves to 127.0.0.1.
    - The Origin header, if there is one, must be the same host, and the body of a POST must be JSON: another site cannot post.
    - With a token, the request must carry it, in a cookie, in the Authorization header, or once in the address.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], token: str | None = None) -> None:
        self._app, self._hosts, self._token = app, frozenset(hosts), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    found[name] = value
            await send(message)

        if (refusal := self._refusal(scope, headers)) is not None:
            return await refusal(scope, receive, send_with_headers)
        await self._app(scope, Body(receive), send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the response to a request that is not passed on, or None."""
        if self._hosts and host_name(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("This host name is not allowed.", 403)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return PlainTextResponse("Requests of other sites are not allowed.", 403)
        if scope["method"] == "POST":
            if headers.get("content-type", "").partition(";")[0] != "application/json":
                return JSONResponse({"error": "the content type must be application/json"}, 415)
            length = headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > MAX_BODY:
                return JSONResponse({"error": f"the body must have at most {MAX_BODY:,} bytes"}, 413)
        return self._ask_for_token(scope, headers) if self._token is not None else None

    def _ask_for_token(self, scope: Scope, headers: Headers) -> Response | None:
        """Return None if the request carries the token. With the token in its address, it is moved to a cookie."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        in_address = dict(query).get("token", "")
        if self._matches(in_address):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["path"].lstrip("/\\")  # "//host" would be another host
            response = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(COOKIE, in_address, httponly=True, samesite="lax")
            return response
        given = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._matches(given) or self._matches(bearer):
            return None
        return PlainTextResponse("Open the address that minigpt serve has printed: it contains a token.", 401)

    def _matches(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self._token or "").encode())


class Body:
    """Receives the body of a request, which must be small and must not take long."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._size, self._complete = receive, 0, False
        self._deadline: float | None = None

    async def __call__(self) -> Message:
        """Return the next part of the body, or a disconnection in its place if it is too large or too late."""
        if self._complete:
            return await self._receive()  # waits for a disconnection
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + SECONDS_TO_SEND_BODY
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message if self._size <= MAX_BODY else {"type": "http.disconnect"}


def host_name(host: str) -> str:
    """Return the name in a Host header, without the port.

    >>> host_name("127.0.0.1:8642"), host_name("[::1]:8642"), host_name("LOCALHOST")
    ('127.0.0.1', '::1', 'localhost')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
