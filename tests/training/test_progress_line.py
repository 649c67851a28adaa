"""The progress line fits any width, and its parts are correct."""

import re
from dataclasses import replace

import pytest
from rich.cells import cell_len

from minigpt.training.progress import Pace
from minigpt.training.progress_line import ProgressLine, Status, plain_line, trend

STATUS = Status(
    steps=1200,
    step=540,
    step_s=0.1,
    elapsed_s=62,
    left_s=73,
    loss=2.123,
    trend="↓",
    validation=(400, 2.305, 1.243),
    floor=0.93,
    tokens_per_s=18_124,
)


def line(status: Status, width: int) -> str:
    return ProgressLine(status).text(width).plain


@pytest.mark.parametrize(
    "width, parts",
    [
        (160, "45%  step 540/1,200  1:13 left  loss 2.123 ↓  validation 2.305 at 400  1.243 bits/byte, 0.313 above the floor  18,124 tokens/s"),  # noqa: E501
        (120, "45%  step 540/1,200  1:13 left  loss 2.123 ↓  val 2.305 at 400  floor +0.31  18,124 tokens/s"),
        (80, "45%  1:13 left  loss 2.123 ↓  val 2.305 at 400  floor +0.31  18k tok/s"),
        (40, "45%  1:13 left  loss 2.123 ↓"),
    ],
)  # fmt: skip
def test_the_line_fits_the_width_and_has_a_bar(width: int, parts: str) -> None:
    text = line(STATUS, width)
    bar, rest = text.split("  ", 1)
    assert (len(text), rest) == (width, parts)
    assert set(bar) == {"━", "╸"} and bar.index("╸") == pytest.approx(0.45 * len(bar), abs=1)


@pytest.mark.parametrize("width", [20, 12, 7])
def test_the_loss_is_never_lost(width: int) -> None:
    assert "2.123" in line(STATUS, width)
    assert "not finite" in line(replace(STATUS, loss=float("nan")), max(width, 10))


def test_every_line_fits_every_width() -> None:
    long = replace(STATUS, steps=2_000_000, step=1_000_000, left_s=360_000, step_s=3, micro_batches=(3, 16), loss=float("nan"))
    for status in (STATUS, long, replace(STATUS, step=1200, activity="writing sample 2 of 5"), Status(steps=7)):
        for width in range(10, 200):
            assert cell_len(line(status, width)) <= width


def test_the_bar_is_visible_without_colors_and_in_ascii() -> None:
    assert re.match(r"━+╸ +  45%", ProgressLine(STATUS).text(120, colors=False).plain)
    assert re.match(r"#+-+  45%.*loss 2.123  val", ProgressLine(STATUS).text(120, ascii_only=True).plain)
    assert ProgressLine(STATUS).text(120, ascii_only=True).plain.isascii()


def test_the_bar_moves_within_a_slow_step() -> None:
    waiting = Status(steps=10)
    assert line(waiting, 60).endswith("  0%  step 1/10  0:00")
    assert line(replace(waiting, micro_batches=(3, 4)), 60).endswith("  7%  step 1/10: 3 of 4 micro-batches  0:00")
    assert line(replace(waiting, micro_batches=(3, 4)), 34).endswith("  7%  step 1/10 (3/4)  0:00")
    assert "step 541/1,200: 1 of 2 micro-batches" in line(replace(STATUS, step_s=60, micro_batches=(1, 2)), 160)
    assert "micro-batches" not in line(replace(STATUS, step_s=60, micro_batches=(0, 1)), 160)
    assert "micro-batches" not in line(replace(STATUS, micro_batches=(1, 2)), 160)  # a fast step: it would flicker
    assert replace(STATUS, step_s=60, micro_batches=(1, 2)).fraction == 540.5 / 1200


def test_plain_lines_have_all_parts() -> None:
    expected = "step 540/1,200  1:13 left  loss 2.123 ↓  validation 2.305 at 400  1.243 bits/byte, 0.313 above the floor"
    assert plain_line(STATUS) == f"{expected}  18,124 tokens/s"
    assert plain_line(replace(STATUS, step=1200)).startswith("step 1,200/1,200  in 1:02  loss 2.123")
    assert "validation 2.305 at 400  1.243 bits/byte  18,124" in plain_line(replace(STATUS, floor=None))


def test_the_trend_compares_the_newer_losses_with_the_older_ones() -> None:
    falling = [5 - step / 100 for step in range(20)]
    assert [trend(falling), trend(falling[::-1]), trend([2.0, 2.1] * 10)] == ["↓", "↑", "→"]
    assert trend(falling[:9]) == ""
    assert trend([9.0, *falling[9::-1]]) == "↑"  # of an odd number of losses, the first one is left out


def test_the_time_left_includes_the_time_between_steps() -> None:
    pace = Pace()
    pace.last, now = 0.0, 0.0
    for step in range(1, 11):
        now += 2.0 + (30 if step == 6 else 0)  # a validation and a sample before step 6
        pace.add(2.0, now)
    pace.add(50.0, now + 50)  # the median ignores a step that was interrupted
    assert (pace.step_s, pace.seconds) == (2.0, pytest.approx(2 + 30 / 11))
