"""Serve a run in this process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from minigpt.page.subject import Subject
from minigpt.serve.app import application
from minigpt.serve.guard import LOOPBACK


@contextmanager
def serving(run: Path, token: str | None = None) -> Iterator[int]:
    """Serve a run in a thread, and yield the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = application(Subject(run), LOOPBACK, token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(10)
