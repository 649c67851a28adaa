"""What a person sees while a model trains: one live line on a terminal, plain lines anywhere else."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_LINES_EVERY_S = 10.0


class Progress:
    """Shows records of metrics.jsonl as they come. A context manager: the live line ends with the block.

    A plain line comes at the first and last step, at each validation, and at least every ten seconds.
    """

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self._validation = ""
        self._shown = 0.0
        self._speeds: list[float] = []
        self._has_reader = True

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def say(self, line: str = "") -> None:
        """Print a line of text as it is."""
        if self._console.is_terminal:
            self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
        elif self._has_reader:
            try:
                print(line, file=self._console.file, flush=True)
            except BrokenPipeError:  # `| head`: whoever read has seen enough, and the training goes on
                self._has_reader = False

    def story(self, step: int, text: str) -> None:
        """Show a sample story."""
        self.say(f"\nA story after step {step:,}:\n{text.strip()}\n")

    def show(self, record: dict[str, Any]) -> None:
        """Show where the training stands."""
        if "val_loss" in record:
            self._validation = f"  validation {record['val_loss']:.3f} ({record['val_bits_per_byte']:.3f} bits/byte)"
        line = self._line(record)
        if self._live:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        due = time.monotonic() - self._shown >= PLAIN_LINES_EVERY_S
        if "val_loss" in record or (not self._live and (due or record["step"] == 1)):
            self.say(line)
            self._shown = time.monotonic()

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
    """
    >>> _clock(75), _clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
