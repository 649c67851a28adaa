"""The progress of a run: a live line on a terminal or in a notebook, plain lines elsewhere."""

import math
import re
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

from rich.console import Console

from minigpt.data.printable import printable
from minigpt.training.display import in_notebook, live_line, preview, wrap
from minigpt.training.progress_line import Status, plain_line, trend

PLAIN_LINE_INTERVAL_S = 10.0
PLAIN_LINE_INTERVAL = 0.05  # of the elapsed time: a run of ten hours prints about a hundred lines
FIRST_LINE_AFTER_S = 1.5
TREND_STEPS = 100  # the newer half is compared with the older one
SPEED_STEPS = 50
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")  # a model that was trained little generates many
MIN_TOKENS_PER_S = 0.1  # the record is rounded to 0 if the process was stopped for hours during a step


class Progress:
    """Print the progress of a run. A context manager, inside which a terminal or a notebook shows the live line.

    Elsewhere a line is printed at the first step, at each validation and at the end, and otherwise at intervals of at least ten
    seconds and 5% of the elapsed time. If the first step or the sample before it takes long, lines say how far it is.
    """

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._status = Status(steps)
        self._micro_batches = (0, 0)
        self._activity = ""
        self._losses: deque[float] = deque(maxlen=TREND_STEPS)
        self._pace = Pace()
        self._started_at = self._last_line_at = time.monotonic()
        self._last_step = 0  # that was printed
        self._waiting = False  # for the first line
        self._waited = threading.Event()  # set at its end
        self._reminder: threading.Thread | None = None
        self._live = live_line(console, self._current)

    @property
    def quiet(self) -> bool:
        """Whether nothing is to be printed, not even when the training is interrupted."""
        return self._console.quiet

    def begin(self, step: int, floor: float | None) -> None:
        """Set the number of steps that are complete, and the entropy of the text in bits per byte (None: unknown)."""
        self._status = replace(self._status, step=step, floor=floor)

    def __enter__(self) -> "Progress":
        self._started_at = self._last_line_at = self._pace.last = time.monotonic()
        if self._live:
            self._live.start()
        self._waiting = self._live is None
        self._print_status_later()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_waiting()
        if self._live:
            self._live.stop()
        if self._last_step != self._status.step and self._status.loss is not None:
            self._print_progress()

    def print_line(self, line: str = "") -> None:
        """Print a line of text, without markup and control characters."""
        line = printable(line)
        if self._live and not in_notebook(self._console):
            self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            print(line + "\n", end="", file=self._console.file, flush=True)  # one write, because threads print too

    def print_text(self, text: str) -> None:
        """Print text, which is wrapped at words on a terminal and in a notebook. Paths and commands should not be wrapped."""
        self.print_line(wrap(printable(text), self._console))

    def print_sample(self, step: int, prompt: str, text: str, short: bool = False) -> None:
        """Print generated text: all of it, or a few lines."""
        heading = f"Sample after step {step:,}:" if step else "Sample before training:"
        text = _BLANK_LINES.sub("\n\n", text)
        shown = prompt + (preview(text.rstrip(), self._console) if short else text)
        self.print_text(f"\n{heading}\n{shown.strip()}\n")

    def micro_batch(self, done: int, total: int) -> None:
        """Show how many micro-batches of the current step are complete."""
        self._micro_batches = (done, total)

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Show inside the block what the run does between steps."""
        self._activity = name
        try:
            self._print_status_later()
            yield
        finally:
            self._activity = ""
            self._print_status_later()

    def update(self, record: dict[str, Any]) -> None:
        """Show the progress after a step, given its record for metrics.jsonl."""
        self._end_waiting()
        first = self._status.loss is None
        self._micro_batches = (0, 0)
        self._status = self._after(record)
        validated = "val_loss" in record
        if validated or (not self._live and (first or self._is_due())):
            self._print_progress()

    def _after(self, record: dict[str, Any]) -> Status:
        """Return the status after a step."""
        now = time.monotonic()
        loss = math.nan if record["loss"] is None else record["loss"]
        if math.isfinite(loss):
            self._losses.append(loss)
        tokens = record["tokens"] / record["step"]
        self._pace.add(tokens / max(record["tokens_per_s"], MIN_TOKENS_PER_S), now)
        measured = (record["step"], record["val_loss"], record["val_bits_per_byte"]) if "val_loss" in record else None
        return replace(
            self._status,
            step=record["step"],
            elapsed_s=now - self._started_at,
            step_s=self._pace.step_s,
            left_s=(self._status.steps - record["step"]) * self._pace.seconds,
            loss=loss,
            trend=trend(list(self._losses)),
            validation=measured or self._status.validation,
            tokens_per_s=tokens / self._pace.step_s,
        )

    def _current(self) -> Status:
        """Return the status at this moment. Called from other threads."""
        elapsed = time.monotonic() - self._started_at
        return replace(self._status, micro_batches=self._micro_batches, activity=self._activity, elapsed_s=elapsed)

    def _is_due(self) -> bool:
        now = time.monotonic()
        return now - self._last_line_at >= max(PLAIN_LINE_INTERVAL_S, PLAIN_LINE_INTERVAL * (now - self._started_at))

    def _print_progress(self) -> None:
        self._last_step, self._last_line_at = self._status.step, time.monotonic()
        if not in_notebook(self._console):  # its live line remains
            self.print_line(plain_line(self._status, self._console.width if self._live else math.inf))

    def _print_status_later(self) -> None:
        """Before the end of the first step, start a thread that prints the status from time to time, or start it again."""
        if self._waiting:
            self._end_reminder()
            self._waited = threading.Event()
            self._reminder = threading.Thread(target=self._remind, args=(self._waited,), daemon=True)
            self._reminder.start()

    def _remind(self, waited: threading.Event) -> None:
        """Print the status soon, and then at the intervals of plain lines."""
        interval = FIRST_LINE_AFTER_S
        while not waited.wait(interval):
            status = self._current()
            self.print_line(plain_line(status))
            interval = max(PLAIN_LINE_INTERVAL_S, PLAIN_LINE_INTERVAL * status.elapsed_s)

    def _end_waiting(self) -> None:
        self._waiting = False
        self._end_reminder()

    def _end_reminder(self) -> None:
        self._waited.set()
        if self._reminder:
            self._reminder.join()  # it may be printing
            self._reminder = None


class Pace:
    """The time that a step takes, and the time between steps, for validations, samples and checkpoints."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=SPEED_STEPS)
        self._between, self._count = 0.0, 0
        self.last = time.monotonic()

    def add(self, step_s: float, now: float) -> None:
        """Add a step that took `step_s` seconds, and what preceded it since the last call."""
        self._steps.append(step_s)
        self._between += max(0.0, now - self.last - step_s) if self._count else 0
        self._count += 1
        self.last = now

    @property
    def step_s(self) -> float:
        """The median time of the recent steps."""
        return statistics.median(self._steps)

    @property
    def seconds(self) -> float:
        """The estimated time of a step with what is between steps."""
        return self.step_s + self._between / self._count
