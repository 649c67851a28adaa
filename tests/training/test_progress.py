"""Progress output: plain lines in a file, a live line on a terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from minigpt.training import progress
from minigpt.training.progress import Progress


def record(step: int, **more: float) -> dict[str, Any]:
    return {"step": step, "tokens": 100 * step, "loss": 5.0 - step / 10, "tokens_per_s": 50.0, **more}


def show(records: list[dict[str, Any]], terminal: bool = False) -> str:
    printed = io.StringIO()
    with Progress(Console(file=printed, force_terminal=terminal, width=60), steps=20) as progress_output:
        for each in records:
            progress_output.update(each)
    return printed.getvalue()


def test_lines_in_a_file_are_plain_and_not_wrapped() -> None:
    text = show([record(1), record(10, val_loss=4.2, val_bits_per_byte=1.75)])
    assert text.splitlines() == [
        "step 1/20  0:38 left  50 tokens/s  loss 4.900",
        "step 10/20  0:20 left  50 tokens/s  loss 4.000  validation 4.200 (1.750 bits/byte)",
    ]


def test_lines_are_printed_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    printed = io.StringIO()
    with Progress(Console(file=printed), steps=20) as progress_output:
        progress_output.update(record(1))
        progress_output.update(record(2))
        now += progress.PLAIN_LINE_INTERVAL_S
        progress_output.update(record(3))
        progress_output.update(record(4))
    assert [line.split()[1] for line in printed.getvalue().splitlines()] == ["1/20", "3/20"]


def test_a_terminal_keeps_the_lines_of_validations() -> None:
    text = show([record(1), record(2), record(10, val_loss=4.2, val_bits_per_byte=1.75)], terminal=True)
    assert "\x1b[" in text  # the live line uses escape codes
    assert "validation 4.200" in text


def test_samples_are_printed_unchanged() -> None:
    printed = io.StringIO()
    Progress(Console(file=printed, width=20), steps=5).print_sample(
        1000, " [bold]Mia[/bold] said: 12 :smile: and much more than a line\n"
    )
    assert printed.getvalue() == "\nSample after step 1,000:\n[bold]Mia[/bold] said: 12 :smile: and much more than a line\n\n"
