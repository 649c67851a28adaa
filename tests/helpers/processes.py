"""Look at processes in /proc (Linux), and wait for them."""

import time
from collections.abc import Callable
from pathlib import Path


def process_state(pid: int) -> str:
    """Return the state of a process as the kernel names it: T is stopped, Z is a zombie; "" if there is no such process."""
    status = _status(pid)
    return status[0] if status else ""


def has_ended(pid: int) -> bool:
    """Return whether a process has ended. It may remain as a zombie until its parent, or init, reads its exit code."""
    return process_state(pid) in ("", "Z")


def descends_from(pid: int, ancestor: int) -> bool:
    """Return whether a process is `ancestor` or descends from it."""
    while pid > 1 and pid != ancestor:
        status = _status(pid)
        pid = int(status[1]) if status else 0
    return pid == ancestor


def child_processes(pid: int) -> list[int]:
    """Return the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def wait_until(condition: Callable[[], bool], message: str, timeout: float = 60) -> None:
    """Wait until a condition holds; fail with a message if it does not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.01)


def _status(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: the state, the parent and so on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
