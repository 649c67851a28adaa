"""Stopped after any step and gone on with: the same bits as a run that was not, and the same data whatever the machine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import load
from minigpt.train.checkpoint import checkpoints
from minigpt.train.folder import RunFolder
from minigpt.train.loop import Trainer
from minigpt.train.parallel import Team

TrainTiny = Callable[..., str]
InterruptAt = Callable[..., None]
STEPS = 8
HARD: dict[str, Any] = {
    "dropout": 0.2,
    "micro_batch": 1,
    "steps": STEPS,
    "eval_every": 3,
    "checkpoint_every": 4,
    "sample_every": 3,
}
TIMES = ("tokens_per_s", "elapsed_s")
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")


@pytest.fixture(autouse=True)
def short_stories(monkeypatch: pytest.MonkeyPatch) -> None:
    tell = Trainer.tell
    monkeypatch.setattr(Trainer, "tell", lambda trainer, prompt, seed: tell(trainer, prompt, seed, max_new_tokens=4))


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> InterruptAt:
    """`interrupt_at(step)`: Ctrl-C arrives in that step; 0: no more."""
    step = Trainer.step

    def at(when: int, number: signal.Signals = signal.SIGINT) -> None:
        def interrupted(trainer: Trainer) -> dict[str, Any]:
            if trainer.state.step + 1 == when:
                signal.raise_signal(number)
            return step(trainer)

        monkeypatch.setattr(Trainer, "step", interrupted)

    return at


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = RunFolder(run).records("metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def outcome(run: Path) -> dict[str, Any]:
    """What has to be the same, bit for bit."""
    newest = checkpoints(RunFolder(run))[-1]
    return {
        "newest": newest.name,
        "weights": (newest / "model.safetensors").read_bytes(),
        "moments": (newest / "optimizer.safetensors").read_bytes(),
        "metrics": metrics(run),
        "samples": RunFolder(run).records("samples.jsonl"),
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_stopped_after_any_step_a_run_goes_on_to_the_same_bits(
    tmp_path: Path, train_tiny: TrainTiny, interrupt_at: InterruptAt, threads: int
) -> None:
    train_tiny(tmp_path / "once", threads=threads, **HARD)
    expected = outcome(tmp_path / "once")
    for k in range(1, STEPS):
        run = tmp_path / str(k)
        interrupt_at(k)
        train_tiny(run, threads=threads, **HARD)
        assert [line["step"] for line in metrics(run)] == list(range(1, k + 1))
        assert checkpoints(RunFolder(run))[-1].name == f"step-{k:06d}"
        interrupt_at(0)
        train_tiny(run, threads=threads, resume=True, **HARD)
        assert outcome(run) == expected, k


@pytest.mark.parametrize("threads", [1, 2])
def test_stopped_after_every_step_a_run_goes_on_to_the_same_bits(
    tmp_path: Path, train_tiny: TrainTiny, interrupt_at: InterruptAt, threads: int
) -> None:
    train_tiny(tmp_path / "once", threads=threads, **HARD)
    for k in range(1, STEPS + 1):
        interrupt_at(k)
        train_tiny(tmp_path / "often", threads=threads, resume=k > 1, **HARD)
    interrupt_at(0)
    train_tiny(tmp_path / "often", threads=threads, resume=True, **HARD)
    assert outcome(tmp_path / "often") == outcome(tmp_path / "once")


def test_going_on_with_a_finished_run_changes_nothing(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", **HARD)

    def files() -> dict[str, bytes]:
        paths = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in paths}

    before = files()
    train_tiny(tmp_path / "run", resume=True, **HARD)
    assert files() == before


@POSIX
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_to_the_command_line_saves_exactly_what_was_trained(
    tmp_path: Path,
    train_tiny: TrainTiny,
    interrupt_at: InterruptAt,
    text_file: Path,
    number: signal.Signals,
    code: int,
    threads: int,
) -> None:
    settings = {**HARD, "steps": 10**6, "eval_every": 10**6, "checkpoint_every": 10**6, "sample_every": 0, "threads": threads}
    interrupt_at(1)
    train_tiny(tmp_path / "here", **settings)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    script = "from minigpt.cli import main; main()"
    command = [sys.executable, "-c", script, "train", "--out", str(tmp_path / "there"), "--resume"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            while process.poll() is None and len(metrics(tmp_path / "there")) < 2:
                time.sleep(0.01)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (code, "\nStopping after this step; once more to stop at once, unsaved.\n")
    assert "Stopped and saved. To go on: minigpt train " in out
    interrupt_at(len(metrics(tmp_path / "there")), number)
    train_tiny(tmp_path / "here", resume=True, **settings)
    assert outcome(tmp_path / "there") == outcome(tmp_path / "here")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("micro_batch", [0, 1])
def test_on_another_number_of_threads_a_run_sees_the_same_data(
    tmp_path: Path,
    train_tiny: TrainTiny,
    interrupt_at: InterruptAt,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    micro_batch: int,
) -> None:
    settings = {**HARD, "micro_batch": micro_batch}
    seen: list[tuple[bytes, object]] = []
    original = Team.loss_and_grads

    def spy(team: Team, tokens: np.ndarray, targets: np.ndarray, drop: Any) -> Any:
        seen.append((tokens.tobytes() + targets.tobytes(), drop))
        return original(team, tokens, targets, drop)

    monkeypatch.setattr(Team, "loss_and_grads", spy)
    train_tiny(tmp_path / "once", threads=2, **settings)
    expected, seen[:] = seen[:], []
    interrupt_at(3)
    train_tiny(tmp_path / "twice", threads=2, **settings)
    interrupt_at(0)
    train_tiny(tmp_path / "twice", threads=threads, resume=True, **settings)
    assert seen == expected
    for found, wanted in zip(metrics(tmp_path / "twice"), metrics(tmp_path / "once"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


def test_the_weights_alone_can_be_loaded_anywhere(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = load(tiny_run)
    weights = checkpoints(RunFolder(tiny_run))[-1] / "model.safetensors"
    shutil.copy(weights, tmp_path)
    monkeypatch.chdir(tmp_path)
    for where in (tmp_path, Path(".")):
        model, tokenizer = load(where)
        assert tokenizer is None
        assert model.config == expected.config
        np.testing.assert_array_equal(model.parameters.flat, expected.parameters.flat)
    np.testing.assert_array_equal(model.logits([[1, 2, 3]]), expected.logits([[1, 2, 3]]))
