"""The learning rate schedule: linear warmup, then cosine decay."""

from itertools import pairwise

import pytest

from minigpt.training.schedule import learning_rate


def curve(steps: int, warmup: int, **more: float) -> list[float]:
    return [learning_rate(step, steps, 2.0, warmup, **more) for step in range(1, steps + 1)]


def test_warmup_is_linear() -> None:
    assert curve(100, 4)[:4] == [0.5, 1.0, 1.5, 2.0]


def test_decay_is_monotonic_to_a_fraction_of_the_peak() -> None:
    rates = curve(100, 10)
    assert max(rates) == rates[9] == 2.0
    assert all(after < before for before, after in pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.2)
    assert rates[54] == pytest.approx(1.1)  # halfway


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_the_ratio_at_the_end_can_be_chosen(ratio: float) -> None:
    assert curve(50, 5, min_lr_ratio=ratio)[-1] == pytest.approx(2 * ratio)


@pytest.mark.parametrize("steps, warmup", [(1, 1), (2, 1), (5, 5), (3, 10)])
def test_runs_as_short_as_their_warmup(steps: int, warmup: int) -> None:
    assert all(0 < rate <= 2 for rate in curve(steps, warmup))
