"""What a person sees: plain lines in a file, one living line on a terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from minigpt.train import progress
from minigpt.train.progress import Progress


def record(step: int, **more: float) -> dict[str, Any]:
    return {"step": step, "tokens": 100 * step, "loss": 5.0 - step / 10, "tokens_per_s": 50.0, **more}


def show(records: list[dict[str, Any]], terminal: bool = False) -> str:
    printed = io.StringIO()
    with Progress(Console(file=printed, force_terminal=terminal, width=60), steps=20) as shown:
        for each in records:
            shown.show(each)
    return printed.getvalue()


def test_lines_in_a_file_are_whole_and_plain() -> None:
    text = show([record(1), record(10, val_loss=4.2, val_bits_per_byte=1.75)])
    assert text.splitlines() == [
        "step 1/20  0:38 left  50 tokens/s  loss 4.900",
        "step 10/20  0:20 left  50 tokens/s  loss 4.000  validation 4.200 (1.750 bits/byte)",
    ]


def test_not_every_step_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    printed = io.StringIO()
    with Progress(Console(file=printed), steps=20) as shown:
        shown.show(record(1))
        shown.show(record(2))
        now += progress.PLAIN_LINES_EVERY_S
        shown.show(record(3))
        shown.show(record(4))
    assert [line.split()[1] for line in printed.getvalue().splitlines()] == ["1/20", "3/20"]


def test_a_terminal_keeps_the_lines_that_measure() -> None:
    text = show([record(1), record(2), record(10, val_loss=4.2, val_bits_per_byte=1.75)], terminal=True)
    assert "\x1b[" in text  # the living line is drawn with escape codes
    assert "validation 4.200" in text


def test_stories_are_shown_as_they_are() -> None:
    printed = io.StringIO()
    Progress(Console(file=printed, width=20), steps=5).story(
        1000, " [bold]Mia[/bold] said: 12 :smile: and much more than a line\n"
    )
    assert printed.getvalue() == "\nA story after step 1,000:\n[bold]Mia[/bold] said: 12 :smile: and much more than a line\n\n"
