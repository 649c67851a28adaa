"""Snapshots: when they are written, and how they are read."""

import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import content, interrupted_at

from minigpt import load, open_run
from minigpt.runs import snapshots as module
from minigpt.runs.checkpoint import step_of
from minigpt.runs.folder import RunFolder, split_step
from minigpt.runs.snapshots import is_due, snapshots

TrainTiny = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]


def steps(run: Path) -> list[int]:
    return [step_of(path) for path in snapshots(RunFolder(run))]


def test_powers_of_two_and_the_last_step(tiny_run: Path) -> None:
    assert steps(tiny_run) == [0, 1, 2, 4, 8, 16, 32, 60]
    for path in snapshots(RunFolder(tiny_run)):
        assert sorted(file.name for file in path.iterdir()) == ["SHA256SUMS", "model.safetensors"]


def test_large_models_have_none_unless_they_are_wanted() -> None:
    largest = module.AUTO_BYTES // 4
    assert is_due(4, 9, "auto", largest) and not is_due(4, 9, "auto", largest + 1)
    assert is_due(4, 9, "powers", largest + 1) and not is_due(4, 9, "none", 1)
    assert is_due(9, 9, "powers", 1) and not is_due(7, 9, "powers", 1)


def test_none(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", steps=4, snapshots="none")
    assert not (tmp_path / "run" / "snapshots").exists()


@pytest.mark.parametrize("value", ["often", "", "8"])
def test_other_values_are_refused(tmp_path: Path, command: Command, value: str) -> None:
    code, _, error = command("train", "--snapshots", value, "--out", tmp_path / "run")
    assert code == 2 and "snapshots" in error


def test_a_snapshot_has_the_weights_of_its_step(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", steps=8)
    train_tiny(tmp_path / "first", steps=8)
    for step in (4, 8):  # there is a checkpoint of the same step
        there = [tmp_path / "run" / name / f"step-{step:06d}" / "model.safetensors" for name in ("checkpoints", "snapshots")]
        assert there[0].read_bytes() == there[1].read_bytes()
    assert content(tmp_path / "run" / "snapshots") == content(tmp_path / "first" / "snapshots")
    weights = [load(tmp_path / "run", step=step)[0].parameters.flat for step in steps(tmp_path / "run")]
    assert all((a != b).any() for a, b in pairwise(weights))


def test_a_resumed_run_has_the_snapshots_of_one_that_was_not_interrupted(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "expected", steps=16)
    with interrupted_at(10):
        train_tiny(tmp_path / "run", steps=16)
    assert steps(tmp_path / "run") == [0, 1, 2, 4, 8]
    later = tmp_path / "run" / "snapshots" / "step-000012"
    shutil.copytree(later.with_name("step-000008"), later)  # of a step after the checkpoint, from which the run goes on
    train_tiny(tmp_path / "run", steps=16, resume=True)
    assert content(tmp_path / "run" / "snapshots") == content(tmp_path / "expected" / "snapshots")


# -------------------------------------------------------------------- RUN@64


def test_every_way_to_load_a_step(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(tiny_run / "snapshots" / "step-000016")[0].parameters.flat
    monkeypatch.chdir(tiny_run.parent)
    for where, step in ((tiny_run, 16), (f"{tiny_run}@16", None), ("tiny@16", None), ("tiny@016", None)):
        model, tokenizer = load(where, step=step)
        np.testing.assert_array_equal(model.parameters.flat, expected)
        assert tokenizer is not None
    assert (open_run(tiny_run).model.parameters.flat != expected).any()


def test_checkpoints_count_as_well(tiny_run: Path) -> None:
    np.testing.assert_array_equal(
        load(tiny_run, step=40)[0].parameters.flat, load(tiny_run / "checkpoints" / "step-000040")[0].parameters.flat
    )


def test_the_error_lists_the_steps(tiny_run: Path) -> None:
    expected = "has no weights of step 5; it has weights of these steps: 0, 1, 2, 4, 8, 16, 20, 32, 40, 60"
    message = "|".join((re.escape(expected), re.escape(expected.replace("20, ", ""))))  # the best checkpoint is kept as well
    with pytest.raises(ValueError, match=message):
        load(tiny_run, step=5)


def test_a_damaged_snapshot_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    path = run / "snapshots" / "step-000008" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its checksum does not match"):
        load(run, step=8)


def test_a_path_that_exists_is_not_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@5").mkdir()
    assert split_step("a@5") == ("a@5", None)
    assert split_step("a@6") == ("a", 6)
    for name in ("a", "a@", "@5", "a@x", "a@-1"):
        assert split_step(name) == (name, None)


def test_commands_take_a_step(tiny_run: Path, command: Command) -> None:
    at = f"{tiny_run}@8"
    samples = {command("sample", where, "--max-new-tokens", 8, "--greedy", "Tom")[1] for where in (at, tiny_run)}
    assert len(samples) == 2
    losses = {command("eval", where)[1].splitlines()[1] for where in (at, f"{tiny_run}@32", tiny_run)}
    assert len(losses) == 3
    code, output, _ = command("info", at)
    assert code == 0 and "step-000008" in output
    assert re.search(r"^snapshots +steps 0, 1, 2, 4, 8, 16, 32, 60 \(0\.1 MB each\)", output, re.MULTILINE)
    code, _, error = command("sample", f"{tiny_run}@9")
    assert code == 2 and len(error.splitlines()) == 1 and "has no weights of step 9" in error


def test_training_from_a_step(tiny_run: Path, tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", steps=1, init=f"{tiny_run}@8", vocab_size=257, n_layers=2, snapshots="powers")
    np.testing.assert_array_equal(load(tmp_path / "run", step=0)[0].parameters.flat, load(tiny_run, step=8)[0].parameters.flat)
