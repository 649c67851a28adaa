"""A run that was stopped after any step and resumed gives the same bits as one that was not, and sees the same data anywhere."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.processes import wait_until
from helpers.runs import content, interrupted_at, metrics, outcome

from minigpt import load
from minigpt.runs.checkpoint import checkpoints
from minigpt.runs.folder import RunFolder
from minigpt.training.parallel.data_parallel import DataParallel

TrainTiny = Callable[..., str]
STEPS = 8
SETTINGS: dict[str, Any] = {
    "dropout": 0.2,
    "micro_batch": 1,
    "steps": STEPS,
    "eval_every": 3,
    "checkpoint_every": 4,
    "sample_every": 3,
}
POSIX = pytest.mark.skipif(os.name == "nt", reason="on Windows, SIGINT cannot be sent to a single process")

pytestmark = pytest.mark.usefixtures("short_samples")


@pytest.mark.parametrize("threads", [1, 2])
def test_stopped_after_any_step_a_resumed_run_gives_the_same_bits(tmp_path: Path, train_tiny: TrainTiny, threads: int) -> None:
    train_tiny(tmp_path / "once", threads=threads, **SETTINGS)
    expected = outcome(tmp_path / "once")
    for k in range(1, STEPS):
        run = tmp_path / str(k)
        with interrupted_at(k):
            train_tiny(run, threads=threads, **SETTINGS)
        assert [record["step"] for record in metrics(run)] == list(range(1, k + 1))
        assert checkpoints(RunFolder(run))[-1].name == f"step-{k:06d}"
        train_tiny(run, threads=threads, resume=True, **SETTINGS)
        assert outcome(run) == expected, k


@pytest.mark.parametrize("threads", [1, 2])
def test_stopped_after_every_step_a_resumed_run_gives_the_same_bits(tmp_path: Path, train_tiny: TrainTiny, threads: int) -> None:
    train_tiny(tmp_path / "once", threads=threads, **SETTINGS)
    for k in range(1, STEPS + 1):
        with interrupted_at(k):
            train_tiny(tmp_path / "often", threads=threads, resume=k > 1, **SETTINGS)
    train_tiny(tmp_path / "often", threads=threads, resume=True, **SETTINGS)
    assert outcome(tmp_path / "often") == outcome(tmp_path / "once")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", **SETTINGS)
    before = content(tmp_path / "run")
    train_tiny(tmp_path / "run", resume=True, **SETTINGS)
    assert content(tmp_path / "run") == before


@POSIX
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_to_the_command_line_saves_exactly_what_was_trained(
    tmp_path: Path, train_tiny: TrainTiny, number: signal.Signals, code: int, threads: int
) -> None:
    never = 10**6
    settings = {**SETTINGS, "steps": never, "eval_every": never, "checkpoint_every": never, "sample_every": 0, "threads": threads}
    here, there = tmp_path / "here", tmp_path / "there"
    with interrupted_at(1):
        train_tiny(here, **settings)
    shutil.copytree(here, there)
    script = "from minigpt.cli import main; main()"
    command = [sys.executable, "-c", script, "train", "--out", str(there), "--resume"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            wait_until(lambda: process.poll() is not None or len(metrics(there)) >= 2, "no step was recorded")
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code
    assert err == "\nStopping after this step. Press Ctrl-C again to stop immediately without saving.\n"
    assert "Stopped and saved. To resume: minigpt train " in out
    with interrupted_at(len(metrics(there)), number):
        train_tiny(here, resume=True, **settings)
    assert outcome(there) == outcome(here)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("micro_batch", [0, 1])
def test_on_another_number_of_threads_a_run_sees_the_same_data(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch, threads: int, micro_batch: int
) -> None:
    settings = {**SETTINGS, "micro_batch": micro_batch}
    seen: list[tuple[bytes, object]] = []
    original = DataParallel.loss_and_grads

    def spy(data_parallel: DataParallel, tokens: np.ndarray, targets: np.ndarray, drop: Any) -> Any:
        seen.append((tokens.tobytes() + targets.tobytes(), drop))
        return original(data_parallel, tokens, targets, drop)

    monkeypatch.setattr(DataParallel, "loss_and_grads", spy)
    train_tiny(tmp_path / "once", threads=2, **settings)
    expected, seen[:] = seen[:], []
    with interrupted_at(3):
        train_tiny(tmp_path / "twice", threads=2, **settings)
    train_tiny(tmp_path / "twice", threads=threads, resume=True, **settings)
    assert seen == expected
    for found, wanted in zip(metrics(tmp_path / "twice"), metrics(tmp_path / "once"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


def test_the_weights_alone_can_be_loaded_anywhere(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = load(tiny_run)
    weights = checkpoints(RunFolder(tiny_run))[-1] / "model.safetensors"
    shutil.copy(weights, tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, Path(".")):
        model, tokenizer = load(path)
        assert tokenizer is None
        assert model.config == expected.config
        np.testing.assert_array_equal(model.parameters.flat, expected.parameters.flat)
    np.testing.assert_array_equal(model.logits([[1, 2, 3]]), expected.logits([[1, 2, 3]]))
