"""Start the server of the page."""

import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn
from threadpoolctl import threadpool_limits

from minigpt.page.inside import inside
from minigpt.page.subject import Subject, blas_threads
from minigpt.page.traced import Question, Tracer
from minigpt.serve.app import application
from minigpt.serve.guard import LOOPBACK

DEFAULT_PORT = 8642
PORTS_TO_TRY = 50
SECONDS_TO_STOP = 2
EVERYWHERE = ("0.0.0.0", "::")
"The hosts that stand for all addresses of this computer."


def serve(
    where: str | Path,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    open_page: bool = True,
    path: str = "/write",
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page of a model until Ctrl-C.

    On another host than this one, every address of the page needs a token, which is part of the address that is printed.

    Parameters
    ----------
    where
        A run, or another model with a tokenizer.
    port
        The port; by default the first free one from 8642 on.
    host
        The address to listen on.
    open_page
        Whether to open the page in the browser.
    path
        The view to open.
    say
        Called with the line that gives the address.

    Raises
    ------
    ValueError
        If there is no such model, or the port or the host cannot be used.
    """
    if not host:
        raise ValueError("host is empty, but must be an address to listen on, such as 127.0.0.1")
    subject = Subject(where)
    listening = listen(host, port)
    local = host in LOOPBACK
    token = None if local else secrets.token_urlsafe(16)
    actual = listening.getsockname()[1]
    name = socket.gethostname() if host in EVERYWHERE else host
    shown = f"[{name}]" if ":" in name else name
    address = f"http://{shown}:{actual}{path}" + ("" if token is None else f"?token={token}")
    app = application(subject, LOOPBACK if local else named_hosts(host), token)
    config = uvicorn.Config(
        app, log_level="error", timeout_graceful_shutdown=SECONDS_TO_STOP, timeout_keep_alive=15, lifespan="off"
    )
    threadpool_limits(blas_threads(subject.model()))
    threading.Thread(target=warm, args=(subject,), daemon=True).start()
    say(f"{subject.name}: {address} (Ctrl-C stops the server)")
    if open_page:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        return


def warm(subject: Subject) -> None:
    """Do what only the first request would wait for: read the weights, and compute a first trace."""
    with suppress(ValueError, ArithmeticError, OSError):
        tracer = Tracer(subject)
        inside(tracer, tracer(Question("a")))


def free_port() -> int:
    """Return the first free port from the default one on."""
    with listen("127.0.0.1", None) as listening:
        return int(listening.getsockname()[1])


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens on a port. Raises `ValueError` if that is not possible."""
    ports = range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TO_TRY) if port is None else [port]
    reason: OSError | None = None
    for candidate in ports:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen()
        except OSError as error:
            listening.close()
            reason = error
        else:
            return listening
    where = f"port {port}" if port is not None else f"the ports {ports[0]} to {ports[-1]}"
    raise ValueError(f"cannot listen on {where} of {host}: {reason.strerror if reason else 'it is in use'}")


def named_hosts(host: str) -> tuple[str, ...]:
    """Return the names that the Host header may have: any if the server listens on all addresses, because a token is needed."""
    return () if host in EVERYWHERE else (host.lower(), *LOOPBACK)
