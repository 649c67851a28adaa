"""Ctrl-C and SIGTERM ask a training to stop after the step it is in, so that what it saves is whole.

So does SIGUSR1, with which Slurm can announce the end of a job's time, and which mpiexec hands on to every rank.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if sys.platform != "win32" else [])]


class StopRequest:
    """Whether somebody asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Was it asked for?"""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The shell's code for a process ended by the signal: 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1."""
        return 128 + (self.signal or 0)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Listen inside the `with`. A second Ctrl-C interrupts at once, as without it."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signals = [number for number in before if before[number] is not signal.SIG_IGN]  # `nohup` says not to listen

    def ask(number: int, frame: FrameType | None) -> None:
        request.signal = number
        restore()
        print("\nStopping after this step; once more to stop at once, unsaved.", file=sys.stderr, flush=True)

    def restore() -> None:
        for number in signals:
            signal.signal(number, before[number])

    for number in signals:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
