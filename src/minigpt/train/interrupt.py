"""Stop training after the current step on Ctrl-C, SIGTERM or SIGUSR1.

Slurm can send SIGUSR1 before the time limit of a job, and mpiexec forwards it to every rank.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if sys.platform != "win32" else [])]


class StopRequest:
    """Call it to find out whether a stop was requested; `signal` is the number of the signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Return whether a stop was requested."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code of a process that the signal ends: 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1."""
        return 128 + (self.signal or 0)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Handle the signals inside the `with` block. After the first signal the previous handlers are restored."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signals = [number for number in before if before[number] is not signal.SIG_IGN]  # `nohup` ignores signals

    def handle(number: int, frame: FrameType | None) -> None:
        request.signal = number
        restore()
        print("\nStopping after this step. Press Ctrl-C again to stop immediately without saving.", file=sys.stderr, flush=True)

    def restore() -> None:
        for number in signals:
            signal.signal(number, before[number])

    for number in signals:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        restore()
