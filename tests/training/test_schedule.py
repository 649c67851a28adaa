"""The learning rate schedules: linear warmup, then a cosine, or a plateau and a linear decay."""

from itertools import pairwise
from typing import Any

import pytest

from minigpt.training.schedule import Schedule, learning_rate

EACH_SCHEDULE = pytest.mark.parametrize("schedule", ["linear", "cosine"])


def curve(steps: int, warmup: int, **more: Any) -> list[float]:
    return [learning_rate(step, steps, 2.0, warmup, **more) for step in range(1, steps + 1)]


@EACH_SCHEDULE
def test_warmup_is_linear(schedule: Schedule) -> None:
    assert curve(100, 4, schedule=schedule)[:4] == [0.5, 1.0, 1.5, 2.0]


def test_the_cosine_is_monotonic_to_a_fraction_of_the_peak() -> None:
    rates = curve(100, 10)
    assert max(rates) == rates[9] == 2.0
    assert all(after < before for before, after in pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.2)
    assert rates[54] == pytest.approx(1.1)  # halfway


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_the_ratio_at_the_end_can_be_chosen(ratio: float) -> None:
    assert curve(50, 5, min_lr_ratio=ratio)[-1] == pytest.approx(2 * ratio)


# ------------------------------------------------------------------ linear


def test_linear_has_a_plateau_and_falls_by_the_same_amount_in_each_step() -> None:
    rates = curve(100, 10, schedule="linear", decay=0.4, min_lr_ratio=0.0)
    assert rates[9:60] == [2.0] * 51
    drops = [before - after for before, after in pairwise(rates[59:])]
    assert len(drops) == 40
    assert drops == pytest.approx([2.0 / 41] * 40)


@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_linear_ends_one_step_above_its_last_rate(ratio: float) -> None:
    """No step is spent with a learning rate of zero."""
    last, drop = curve(60, 6, schedule="linear", decay=0.5, min_lr_ratio=ratio)[-1], 2.0 * (1 - ratio) / 31
    assert last == pytest.approx(2.0 * ratio + drop)
    assert last > 0


def test_linear_with_a_ratio_of_1_does_not_decay() -> None:
    assert curve(50, 5, schedule="linear", min_lr_ratio=1.0)[4:] == [2.0] * 46


@pytest.mark.parametrize("decay", [0.9, 1.0])
def test_a_decay_longer_than_what_follows_the_warmup_begins_after_it(decay: float) -> None:
    rates = curve(100, 20, schedule="linear", decay=decay, min_lr_ratio=0.0)
    assert rates[19] == 2.0
    assert [before - after for before, after in pairwise(rates[19:])] == pytest.approx([2.0 / 81] * 80)


def test_without_decay_only_the_last_step_is_lower() -> None:
    rates = curve(20, 2, schedule="linear", decay=0.0, min_lr_ratio=0.0)
    assert rates[2:] == [2.0] * 17 + [1.0]


# -------------------------------------------------------------------- both


@EACH_SCHEDULE
@pytest.mark.parametrize("steps, warmup", [(1, 1), (2, 1), (5, 5), (3, 10), (1, 0), (4, 0)])
def test_runs_as_short_as_their_warmup(steps: int, warmup: int, schedule: Schedule) -> None:
    assert all(0 < rate <= 2 for rate in curve(steps, warmup, schedule=schedule))


@pytest.mark.parametrize("steps, warmup, ratio, decay", [(50, 5, 0.1, 0.6), (40, 8, 0.0, 0.25)])
@EACH_SCHEDULE
def test_equals_the_schedulers_of_pytorch(schedule: Schedule, steps: int, warmup: int, ratio: float, decay: float) -> None:
    torch = pytest.importorskip("torch")
    schedulers = torch.optim.lr_scheduler
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    length = round(decay * steps)
    rise = schedulers.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    if schedule == "cosine":
        rest = [schedulers.CosineAnnealingLR(optimizer, T_max=steps - warmup, eta_min=2.0 * ratio)]
        milestones = [warmup - 1]
    else:
        fall = schedulers.LinearLR(optimizer, start_factor=1.0, end_factor=ratio, total_iters=length + 1)
        rest = [schedulers.ConstantLR(optimizer, factor=1.0), fall]
        milestones = [warmup - 1, steps - length - 1]
    scheduler = schedulers.SequentialLR(optimizer, [rise, *rest], milestones)
    theirs = []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert curve(steps, warmup, schedule=schedule, min_lr_ratio=ratio, decay=decay) == pytest.approx(theirs)
