"""Progress output of training: a live line on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from minigpt.data.printable import printable

PLAIN_LINE_INTERVAL_S = 10.0


class Progress:
    """Print the progress of a run. A context manager, which removes the live line at its end.

    Without a terminal, a line is printed at the first step, at each validation, and otherwise every ten seconds.
    """

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self._validation = ""
        self._last_line_at = 0.0
        self._speeds: list[float] = []

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def print_line(self, line: str = "") -> None:
        """Print a line of text, without markup and control characters."""
        line = printable(line)
        if self._console.is_terminal:
            self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._console.file, flush=True)

    def print_sample(self, step: int, text: str) -> None:
        """Print generated text."""
        self.print_line(f"\nSample after step {step:,}:\n{text.strip()}\n")

    def update(self, record: dict[str, Any]) -> None:
        """Show the progress after a step, given its record for metrics.jsonl."""
        if "val_loss" in record:
            self._validation = f"  validation {record['val_loss']:.3f} ({record['val_bits_per_byte']:.3f} bits/byte)"
        line = self._line(record)
        if self._live:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        due = time.monotonic() - self._last_line_at >= PLAIN_LINE_INTERVAL_S
        if "val_loss" in record or (not self._live and (due or record["step"] == 1)):
            self.print_line(line)
            self._last_line_at = time.monotonic()

    def _line(self, record: dict[str, Any]) -> str:
        self._speeds = [*self._speeds[-49:], record["tokens_per_s"]]
        speed = sorted(self._speeds)[len(self._speeds) // 2]
        tokens_left = (self._steps - record["step"]) * record["tokens"] / record["step"]
        loss = "not finite" if record["loss"] is None else f"{record['loss']:.3f}"
        return (
            f"step {record['step']:,}/{self._steps:,}  {_clock(tokens_left / speed)} left  {speed:,.0f} tokens/s"
            f"  loss {loss}{self._validation}"
        )


def _clock(seconds: float) -> str:
    """Return a duration as h:mm:ss, or as m:ss below one hour.

    >>> _clock(75), _clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
