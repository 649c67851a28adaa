"""Stop training after the current step on Ctrl-C, SIGTERM, SIGHUP or SIGUSR1.

A terminal that is closed sends SIGHUP. Slurm can send SIGUSR1 before the time limit of a job, and mpiexec forwards it to every
rank.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

IMMEDIATE = (signal.SIGINT, signal.SIGTERM)
"The signals that end the process if they come after the first signal."
SIGNALS = [*IMMEDIATE, *([signal.SIGHUP, signal.SIGUSR1] if sys.platform != "win32" else [])]
GRACE_S = 1.0
ERASE_LINE = "\r\x1b[2K"
MESSAGE = "Stopping after this step. Interrupt again (Ctrl-C) to stop immediately without saving.\n"


class StopRequest:
    """Call it to find out whether a stop was requested.

    `signal` is the number of the signal, or None if the training was completed nevertheless; `received` is never reset.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.received: int | None = None

    def __call__(self) -> bool:
        """Return whether a stop was requested."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code of a process that the signal ends: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, 138 for SIGUSR1."""
        return 128 + (self.signal or 0)


@contextmanager
def stop_request(message: str = MESSAGE) -> Iterator[StopRequest]:
    """Handle the signals inside the `with` block, unless it runs in another thread than the main one.

    The first signal prints the message to stderr, unless it is empty.

    After the first signal, the previous handlers of Ctrl-C and SIGTERM are restored. SIGHUP and SIGUSR1 never end the process
    inside the block, because they may come more than once: a shell whose terminal is closed sends SIGHUP to its jobs, and the
    system sends it again when the shell ends.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # `nohup` ignores SIGHUP; None is a handler of a program that embeds Python, which could not be restored
    signals = [number for number in before if before[number] not in (signal.SIG_IGN, None)]

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal is None:
            request.signal = request.received = number
            restore([number for number in signals if number in IMMEDIATE])
            if message:
                _print_at_once(message)

    def restore(numbers: list[signal.Signals]) -> None:
        for number in numbers:
            signal.signal(number, before[number])

    for number in signals:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        restore(signals)


@contextmanager
def forced_exit() -> Iterator[None]:
    """End this process `GRACE_S` after a second signal inside the block, if it is still inside.

    Python handles a signal only between two calls, and a call of NumPy or of the tokenizer may last for minutes.
    """
    if sys.platform == "win32":
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_exit_after_second_signal, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


def _exit_after_second_signal(reader: int) -> None:
    """Read the numbers of signals, as they arrive, until the pipe is closed."""
    first = True
    while received := os.read(reader, 1):
        if received[0] in IMMEDIATE and not first:
            ready, _, _ = select.select([reader], [], [], GRACE_S)
            if not ready or os.read(reader, 1):
                _print_at_once("minigpt: interrupted\n")
                os._exit(128 + received[0])
            break
        first = False
    os.close(reader)


def _print_at_once(message: str) -> None:
    """Print to stderr, without its buffer, which the signal may have interrupted in the middle of another print.

    On a terminal the message replaces the line of the cursor, which contains the progress line and "^C".
    """
    with suppress(OSError, ValueError, AttributeError):  # a closed terminal; no stderr
        descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]
        start = ERASE_LINE if os.isatty(descriptor) else "\n"
        os.write(descriptor, (start + message).encode())
