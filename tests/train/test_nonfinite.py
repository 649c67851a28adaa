"""Gradients that are not finite, one after the other: what is skipped leaves no trace, is counted, and has an end."""

import json
import math
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, cli, load
from minigpt.data.batches import batch
from minigpt.data.token_files import prepare
from minigpt.np.ops import Dropout
from minigpt.report import write_report
from minigpt.train.checkpoint import State, checkpoints, load_moments, load_state
from minigpt.train.folder import RunFolder
from minigpt.train.loop import MOST_SKIPPED, NotFinite, Trainer
from minigpt.train.optimizer import AdamW, Moments, clip_scale
from minigpt.train.parallel import Team
from minigpt.train.schedule import learning_rate
from minigpt.train.settings import resolve

TrainTiny = Callable[..., str]
Poison = Callable[..., None]
SKIP: dict[str, Any] = {"on_nonfinite": "skip", "dropout": 0.2, "threads": 2, "warmup": 3, "eval_every": 4, "sample_every": 0}
TIMES = ("tokens_per_s", "elapsed_s")
WEIGHT = "blocks.1.attention.out.weight"


@pytest.fixture(autouse=True)
def short_stories(monkeypatch: pytest.MonkeyPatch) -> None:
    tell = Trainer.tell
    monkeypatch.setattr(Trainer, "tell", lambda trainer, prompt, seed: tell(trainer, prompt, seed, max_new_tokens=4))


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """`poison([2, 5], math.nan)`: the gradients of these steps are not finite; with `loss`, the losses, too."""
    step, sum_gradients, loss_and_grads = Trainer.step, Team.sum_gradients, Team.loss_and_grads

    def at(steps: Iterable[int], value: float = math.nan, loss: float | None = None) -> None:
        ill, now = set(steps), [0]

        def counted(trainer: Trainer) -> dict[str, Any]:
            now[0] = trainer.state.step + 1
            return step(trainer)

        def poisoned(team: Team) -> float:
            if now[0] in ill:
                team.grads[WEIGHT][2, 3] = value
            return sum_gradients(team)

        def lost(team: Team, *arguments: Any) -> tuple[float, float]:
            healthy, norm = loss_and_grads(team, *arguments)
            return loss if loss is not None and now[0] in ill else healthy, norm

        monkeypatch.setattr(Trainer, "step", counted)
        monkeypatch.setattr(Team, "sum_gradients", poisoned)
        monkeypatch.setattr(Team, "loss_and_grads", lost)

    return at


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines without their times, strictly JSON: NaN and Infinity are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in metrics.jsonl")

    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line, parse_constant=refuse) for line in lines]
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def newest(run: Path) -> Path:
    return checkpoints(RunFolder(run))[-1]


def bits(checkpoint: Path) -> list[bytes]:
    return [(checkpoint / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]


def state(run: Path) -> State:
    return load_state(newest(run))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_skipped_step_leaves_weights_and_moments_as_they_were(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison, value: float, threads: int
) -> None:
    poison([4, 5, 6], value)
    printed = train_tiny(tmp_path / "run", **{**SKIP, "threads": threads, "checkpoint_every": 1, "keep": 9})
    third, *skipped, seventh = [bits(checkpoint) for checkpoint in checkpoints(RunFolder(tmp_path / "run"))[2:7]]
    assert skipped == [third] * 3
    assert seventh[0] != third[0] and seventh[1] != third[1]
    assert f"step 4: the gradient of {WEIGHT} is not finite" in printed
    assert "skipped, the 3. so far." in printed
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line.get("skipped") for line in lines] == [None, None, None, 1, 2, 3, None, None]
    assert [line["grad_norm"] is None for line in lines] == [False, False, False, True, True, True, False, False]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert [load_state(checkpoint).skipped for checkpoint in checkpoints(RunFolder(tmp_path / "run"))] == [0, 0, 0, 1, 2, 3, 3, 3]


def test_a_loss_that_is_not_finite_is_skipped_and_no_json(tmp_path: Path, train_tiny: TrainTiny, poison: Poison) -> None:
    poison([4], value=0.0, loss=math.nan)
    assert "step 4: the loss is not finite (loss nan): skipped, the 1. so far." in train_tiny(tmp_path / "run", **SKIP)
    lines = metrics(tmp_path / "run")
    assert lines[3]["loss"] is None and lines[3]["skipped"] == 1
    assert state(tmp_path / "run").skipped == 1


def test_the_steps_after_it_are_those_of_a_training_that_never_updated_there(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison
) -> None:
    ill = {3, 6}
    poison(ill)
    train_tiny(tmp_path / "run", **SKIP)
    s = resolve({}, tmp_path / "run" / "config.toml")
    data, model, updates = prepare(s.data, tokenizer="bytes"), GPT(s.model(257), s.seed), 0
    with Team(model, s.threads) as team:
        for step in range(1, 1 + s.steps):
            tokens, targets = batch(data.train.tokens, s.seed, step, s.batch_size, s.context_length)
            loss, norm = team.loss_and_grads(tokens, targets, Dropout(s.dropout, s.seed, step))
            line = metrics(tmp_path / "run")[step - 1]
            assert line["loss"] == loss
            if step in ill:
                continue
            updates += 1
            lr = learning_rate(step, s.steps, s.lr, s.warmup, s.final_lr)
            assert (line["grad_norm"], line["lr"]) == (norm, lr)
            team.update(AdamW(s.beta1, s.beta2, weight_decay=s.weight_decay), lr, updates, clip_scale(norm, s.clip))
        found, moments = load(tmp_path / "run")[0], Moments(model.parameters.like(), model.parameters.like())
        load_moments(newest(tmp_path / "run"), moments)
        np.testing.assert_array_equal(found.parameters.flat, model.parameters.flat)
        for one, other in zip(moments, team.moments, strict=True):
            np.testing.assert_array_equal(one.flat, other.flat)


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6, 7])
def test_stopped_around_skipped_steps_a_run_goes_on_to_the_same_bits(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    poison([3, 4, 6])
    train_tiny(tmp_path / "once", **SKIP)
    step = Trainer.step

    def interrupted(trainer: Trainer) -> dict[str, Any]:
        if trainer.state.step + 1 == k:
            signal.raise_signal(signal.SIGINT)
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        train_tiny(tmp_path / "twice", **SKIP)
    assert state(tmp_path / "twice").step == k
    train_tiny(tmp_path / "twice", resume=True, **SKIP)
    assert metrics(tmp_path / "twice") == metrics(tmp_path / "once")
    assert bits(newest(tmp_path / "twice")) == bits(newest(tmp_path / "once"))
    assert state(tmp_path / "twice").skipped == state(tmp_path / "once").skipped == 3


@pytest.mark.parametrize("ill", [[4], [1, 8], list(range(1, 9))], ids=str)
@pytest.mark.parametrize("loss", [None, math.nan], ids=["gradient", "loss"])
def test_the_report_is_written_of_a_run_that_skipped(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison, ill: list[int], loss: float | None
) -> None:
    poison(ill, loss=loss)
    train_tiny(tmp_path / "run", **SKIP)
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "| steps | 8 |" in text
    assert (tmp_path / "run" / "loss.svg").stat().st_size


def test_a_run_whose_last_step_was_skipped_is_not_said_to_have_stopped(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison
) -> None:
    poison([8], loss=math.nan)
    train_tiny(tmp_path / "run", **SKIP)
    assert "It stopped at step 8" not in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_so_many_in_a_row_stop_the_training(tmp_path: Path, train_tiny: TrainTiny, poison: Poison) -> None:
    poison(range(11, 100))
    last = 10 + MOST_SKIPPED
    with pytest.raises(NotFinite, match=rf"^step {last}: .* for {MOST_SKIPPED} steps in a row; a smaller --lr may help"):
        train_tiny(tmp_path / "run", **{**SKIP, "steps": 60})
    assert MOST_SKIPPED == 20
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, last))
    assert metrics(tmp_path / "run")[-1]["skipped"] == MOST_SKIPPED - 1


def test_one_good_step_in_between_begins_the_count_again(tmp_path: Path, train_tiny: TrainTiny, poison: Poison) -> None:
    poison([step for step in range(1, 41) if step % MOST_SKIPPED])
    train_tiny(tmp_path / "run", **{**SKIP, "steps": 41})
    assert state(tmp_path / "run").skipped == 2 * (MOST_SKIPPED - 1)


def test_the_command_line_ends_with_1_and_one_line(
    tmp_path: Path, train_tiny: TrainTiny, poison: Poison, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tiny(tmp_path / "run", **SKIP)
    poison(range(1, 100))
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--out", str(tmp_path / "run"), "--resume", "--steps", "40"])
    assert ended.value.code == 1
    what = f"minigpt: step {8 + MOST_SKIPPED}: the gradient of {WEIGHT} is not finite"
    err = capsys.readouterr().err
    assert err.startswith(what) and err.count("\n") == 1
