"""Serve the page of a run in a process of its own, beside the training (`minigpt train --serve`)."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minigpt.serve.server import free_port, serve

POLL_S = 0.2
NICENESS = 10
"How much the training precedes the page when both need the processor."
SECONDS_TO_STOP = 5


@contextmanager
def served(run: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Serve the page of a run as soon as it has weights, until the end of the `with` block, and open it in the browser."""
    port = free_port()
    say(f"Page: http://127.0.0.1:{port}/training (while the training goes on)")
    command = [sys.executable, "-m", "minigpt.serve.beside", str(run), str(port)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        child.terminate()
        try:
            child.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def main(run: str, port: str) -> None:
    """Wait until the run has weights, and serve its page until the process that has started this one ends."""
    parent = os.getppid()
    if hasattr(os, "nice"):
        os.nice(NICENESS)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    folder = Path(run)
    while not (folder / "tokenizer.json").exists() or not any(folder.glob("*/step-*/model.safetensors")):
        time.sleep(POLL_S)
    serve(folder, port=int(port), path="/training", say=lambda line: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
