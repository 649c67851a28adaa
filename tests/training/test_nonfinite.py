"""Steps whose gradient is not finite: a skipped step changes nothing and is counted, and too many in a row end the training."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import interrupted_at, metrics

from minigpt import load
from minigpt.data.batches import batch
from minigpt.data.token_files import prepare
from minigpt.np.ops import Dropout
from minigpt.np.parameters import Moments
from minigpt.report import write_report
from minigpt.runs.checkpoint import TrainingState, checkpoints, load_optimizer, load_state
from minigpt.runs.folder import RunFolder
from minigpt.training.initial_model import initial_model
from minigpt.training.optimizer import clip_scale
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.recipe import optimizer
from minigpt.training.resolve import resolve
from minigpt.training.schedule import learning_rate
from minigpt.training.trainer import MAX_CONSECUTIVE_SKIPS, NonFiniteError, Trainer

TrainTiny = Callable[..., str]
Poison = Callable[..., None]
SKIP: dict[str, Any] = {"on_nonfinite": "skip", "dropout": 0.2, "threads": 2, "warmup": 3, "eval_every": 4, "sample_every": 0}
WEIGHT = "blocks.1.attention.out.weight"


pytestmark = pytest.mark.usefixtures("short_samples")


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """`poison([2, 5], math.nan)` sets a gradient of these steps to a value that is not finite; `loss` replaces the loss too."""
    step, sum_gradients, loss_and_grads = Trainer.step, DataParallel.sum_gradients, DataParallel.loss_and_grads

    def at(steps: Iterable[int], value: float = math.nan, loss: float | None = None) -> None:
        poisoned_steps, current = set(steps), [0]

        def counting_step(trainer: Trainer) -> dict[str, Any]:
            current[0] = trainer.state.step + 1
            return step(trainer)

        def poisoned_sum(data_parallel: DataParallel) -> float:
            if current[0] in poisoned_steps:
                data_parallel.grads[WEIGHT][2, 3] = value
            return sum_gradients(data_parallel)

        def poisoned_loss(data_parallel: DataParallel, *arguments: Any) -> tuple[float, float]:
            true_loss, norm = loss_and_grads(data_parallel, *arguments)
            return loss if loss is not None and current[0] in poisoned_steps else true_loss, norm

        monkeypatch.setattr(Trainer, "step", counting_step)
        monkeypatch.setattr(DataParallel, "sum_gradients", poisoned_sum)
        monkeypatch.setattr(DataParallel, "loss_and_grads", poisoned_loss)

    return at


def newest(run: Path) -> Path:
    return checkpoints(RunFolder(run))[-1]


def bits(checkpoint: Path) -> list[bytes]:
    return [(checkpoint / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]


def state(run: Path) -> TrainingState:
    return load_state(newest(run))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_skipped_step_leaves_weights_and_moments_unchanged(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison, value: float, threads: int
) -> None:
    poison([4, 5, 6], value)
    printed = train_tiny(tmp_path / "run", **{**SKIP, "threads": threads, "checkpoint_every": 1, "keep": 9})
    third, *skipped, seventh = [bits(checkpoint) for checkpoint in checkpoints(RunFolder(tmp_path / "run"))[2:7]]
    assert skipped == [third] * 3
    assert seventh[0] != third[0] and seventh[1] != third[1]
    assert f"step 4: the gradient of {WEIGHT} is not finite" in printed
    assert "skipped this step (3 so far)" in printed
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line.get("skipped") for line in lines] == [None, None, None, 1, 2, 3, None, None]
    assert [line["grad_norm"] is None for line in lines] == [False, False, False, True, True, True, False, False]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert [load_state(checkpoint).skipped for checkpoint in checkpoints(RunFolder(tmp_path / "run"))] == [0, 0, 0, 1, 2, 3, 3, 3]


def test_a_loss_that_is_not_finite_is_skipped_and_recorded_as_null(tmp_path: Path, train_tiny: TrainTiny, poison: Poison) -> None:
    poison([4], value=0.0, loss=math.nan)
    assert "step 4: the loss is not finite (loss nan); skipped this step (1 so far)" in train_tiny(tmp_path / "run", **SKIP)
    lines = metrics(tmp_path / "run")
    assert lines[3]["loss"] is None and lines[3]["skipped"] == 1
    assert state(tmp_path / "run").skipped == 1


def test_later_steps_equal_those_of_a_training_without_the_skipped_updates(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison
) -> None:
    poisoned_steps = {3, 6}
    poison(poisoned_steps)
    train_tiny(tmp_path / "run", **SKIP)
    s = resolve({}, tmp_path / "run" / "config.toml")
    data, model, updates = prepare(s.data, tokenizer="bytes"), initial_model(s, 257), 0
    with DataParallel(model, s.threads, 0, optimizer(s)) as data_parallel:
        for step in range(1, 1 + s.steps):
            tokens, targets = batch(data.train.tokens, s.seed, step, s.batch_size, s.context_length)
            loss, norm = data_parallel.loss_and_grads(tokens, targets, Dropout(s.dropout, s.seed, step))
            line = metrics(tmp_path / "run")[step - 1]
            assert line["loss"] == loss
            if step in poisoned_steps:
                continue
            updates += 1
            factor = learning_rate(step, s.steps, 1.0, s.warmup, s.min_lr_ratio, s.schedule, s.decay)
            assert (line["grad_norm"], line["lr"]) == (norm, factor * s.lr)
            data_parallel.update(factor, updates, clip_scale(norm, s.clip))
        found, moments = load(tmp_path / "run")[0], Moments(model.parameters.zeros_like(), model.parameters.zeros_like())
        load_optimizer(newest(tmp_path / "run"), moments)
        np.testing.assert_array_equal(found.parameters.flat, model.parameters.flat)
        for one, other in zip(moments, data_parallel.moments, strict=True):
            np.testing.assert_array_equal(one.flat, other.flat)


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6, 7])
def test_stopped_around_skipped_steps_a_resumed_run_gives_the_same_bits(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison, k: int
) -> None:
    poison([3, 4, 6])
    train_tiny(tmp_path / "once", **SKIP)
    with interrupted_at(k):
        train_tiny(tmp_path / "twice", **SKIP)
    assert state(tmp_path / "twice").step == k
    train_tiny(tmp_path / "twice", resume=True, **SKIP)
    assert metrics(tmp_path / "twice") == metrics(tmp_path / "once")
    assert bits(newest(tmp_path / "twice")) == bits(newest(tmp_path / "once"))
    assert state(tmp_path / "twice").skipped == state(tmp_path / "once").skipped == 3


@pytest.mark.parametrize("steps", [[4], [1, 8], list(range(1, 9))], ids=str)
@pytest.mark.parametrize("loss", [None, math.nan], ids=["gradient", "loss"])
def test_a_run_with_skipped_steps_has_a_report(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison, steps: list[int], loss: float | None
) -> None:
    poison(steps, loss=loss)
    train_tiny(tmp_path / "run", **SKIP)
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "| steps | 8 |" in text
    assert (tmp_path / "run" / "loss.svg").stat().st_size


def test_a_run_whose_last_step_was_skipped_is_not_reported_as_stopped(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison
) -> None:
    poison([8], loss=math.nan)
    train_tiny(tmp_path / "run", **SKIP)
    assert "Training stopped at step 8" not in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_too_many_skipped_steps_in_a_row_end_the_training(tmp_path: Path, train_tiny: TrainTiny, poison: Poison) -> None:
    poison(range(11, 100))
    last = 10 + MAX_CONSECUTIVE_SKIPS
    with pytest.raises(NonFiniteError, match=rf"^step {last}: .*, for {MAX_CONSECUTIVE_SKIPS} steps in a row; a smaller --lr"):
        train_tiny(tmp_path / "run", **{**SKIP, "steps": 60})
    assert MAX_CONSECUTIVE_SKIPS == 20
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, last))
    assert metrics(tmp_path / "run")[-1]["skipped"] == MAX_CONSECUTIVE_SKIPS - 1


def test_a_finite_step_resets_the_count(tmp_path: Path, train_tiny: TrainTiny, poison: Poison) -> None:
    poison([step for step in range(1, 41) if step % MAX_CONSECUTIVE_SKIPS])
    train_tiny(tmp_path / "run", **{**SKIP, "steps": 41})
    assert state(tmp_path / "run").skipped == 2 * (MAX_CONSECUTIVE_SKIPS - 1)


def test_the_command_line_exits_with_1_and_one_line(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison, command: Callable[..., tuple[int, str, str]]
) -> None:
    train_tiny(tmp_path / "run", **SKIP)
    poison(range(1, 100))
    code, _, err = command("train", "--out", tmp_path / "run", "--resume", "--steps", 40)
    message = f"minigpt: step {8 + MAX_CONSECUTIVE_SKIPS}: the gradient of {WEIGHT} is not finite"
    assert code == 1
    assert err.startswith(message) and err.count("\n") == 1
