"""Print to a terminal, pipe or file that may fail while the training continues."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast


class OptionalOutput:
    """A text stream that discards its output from the first `OSError` on, such as that of a closed terminal or a full disk."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._failed = False

    def write(self, text: str) -> int:
        """Write to the stream."""
        if not self._failed:
            try:
                self._stream.write(text)
            except OSError:
                self._discard()
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        if not self._failed:
            try:
                self._stream.flush()
            except OSError:
                self._discard()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _discard(self) -> None:
        self._failed = True
        discard(self._stream)


def discard(stream: TextIO) -> None:
    """Redirect a stream that failed to the null device, so that Python does not fail to flush its buffer at exit."""
    with suppress(OSError, ValueError):  # a stream without a file descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextmanager
def optional_output() -> Iterator[None]:
    """Make stdout and stderr `OptionalOutput` inside the block."""
    out, err = (stream and cast(TextIO, OptionalOutput(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        finally:
            for stream in filter(None, (out, err)):
                stream.flush()
