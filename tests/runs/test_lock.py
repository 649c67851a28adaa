"""The lock of a run folder: one training process at a time, and no run is lost."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import child_processes, has_ended, process_state, wait_until
from helpers.runs import TINY_MODEL, as_flags, content, outcome

Train = Callable[..., tuple[int, str]]
Start = Callable[..., subprocess.Popen[str]]
SETTINGS: dict[str, Any] = {
    **TINY_MODEL,
    "dropout": 0.2,
    "batch_size": 3,
    "steps": 30,
    "threads": 3,
    "eval_every": 10,
    "eval_tokens": 50,
    "checkpoint_every": 10,
    "sample_every": 0,
}
FLAGS = as_flags(SETTINGS)
STOPS_AT_STEP_16 = """
import os, signal
from minigpt.cli import main
from minigpt.training.trainer import Trainer
step = Trainer.step
def stopping(trainer):
    if trainer.state.step == 15:
        os.kill(os.getpid(), signal.SIGSTOP)
    return step(trainer)
Trainer.step = stopping
main()
"""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="stops processes, and finds them in /proc"),
    pytest.mark.usefixtures("short_samples"),
]


@pytest.fixture
def train(command: Callable[..., tuple[int, str, str]]) -> Train:
    """`train("--out", run, ...)` runs the command `train` in this process; returns its exit code and stderr."""

    def call(*words: object) -> tuple[int, str]:
        code, _, err = command("train", *words)
        return code, err

    return call


@pytest.fixture
def start() -> Iterator[Start]:
    """`start("--out", run, ...)` starts a training process that stops in step 16. It is killed after the test."""
    processes = []

    def begin(*words: object, script: str = STOPS_AT_STEP_16) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, "train", *map(str, words)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        processes.append(process)
        return process

    yield begin
    for process in processes:
        for pid in (*child_processes(process.pid), process.pid) if process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def same_outcome(run: Path, other: Path) -> bool:
    """Compare two runs, one of which has samples of another length."""
    return outcome(run, without=("samples",)) == outcome(other, without=("samples",))


def wait_until_stopped(process: subprocess.Popen[str]) -> list[int]:
    """Wait until the process has stopped, stop its workers too, and return them."""

    def stopped() -> bool:
        assert process.poll() is None, process.communicate()
        return process_state(process.pid) == "T"

    wait_until(stopped, "the training does not stop")
    workers = child_processes(process.pid)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(process_state(pid) == "T" for pid in workers), "a worker does not stop")
    return workers


def in_use(run: Path) -> tuple[int, str]:
    return 2, f"minigpt: {run} is in use by another training process\n"


def test_a_second_training_in_a_folder_is_refused_and_the_first_continues(
    tmp_path: Path, text_file: Path, train: Train, start: Start
) -> None:
    assert train("--data", text_file, *FLAGS, "--out", tmp_path / "alone") == (0, "")
    run = tmp_path / "run"
    first = start("--data", text_file, *FLAGS, "--out", run)
    workers = wait_until_stopped(first)
    before = content(run)
    assert train("--out", run, "--resume") == in_use(run)
    assert train("--data", text_file, *FLAGS, "--out", run, "--overwrite") == in_use(run)
    assert train("--data", text_file, *FLAGS, "--out", run)[0] == 2
    assert content(run) == before
    for pid in (*workers, first.pid):
        os.kill(pid, signal.SIGCONT)
    _, err = first.communicate(timeout=60)
    assert (first.returncode, err) == (0, "")
    assert same_outcome(run, tmp_path / "alone")
    assert not (run / "lock").exists()
    assert len(workers) == 2


def test_a_folder_is_in_use_before_the_run_has_started(tmp_path: Path, text_file: Path, train: Train, start: Start) -> None:
    run = tmp_path / "run"
    holding = f"""
import signal
from pathlib import Path
from minigpt.runs.folder import RunFolder
with RunFolder(Path({str(run)!r})).lock():
    print("locked", flush=True)
    signal.pause()
"""
    first = start(script=holding)
    assert first.stdout is not None and first.stdout.readline() == "locked\n"
    for words in ([], ["--overwrite"]):
        assert train("--data", text_file, *FLAGS, "--out", run, *words) == in_use(run)
    assert list(content(run)) == ["lock"]
    first.kill()
    first.wait()
    assert train("--data", text_file, *FLAGS, "--out", run) == (0, "")


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_after_kill_9_a_run_continues_while_its_workers_still_exist(
    tmp_path: Path, text_file: Path, train: Train, start: Start, how: str
) -> None:
    assert train("--data", text_file, *FLAGS, "--out", tmp_path / "alone") == (0, "")
    run = tmp_path / "run"
    first = start("--data", text_file, *FLAGS, "--out", run)
    workers = wait_until_stopped(first)
    first.kill()
    first.wait()
    try:
        assert (run / "lock").exists()
        assert [process_state(pid) for pid in workers] == ["T", "T"]
        words = ["--resume"] if how == "resume" else ["--data", text_file, *FLAGS, "--overwrite"]
        assert train("--out", run, *words) == (0, "")
        assert [process_state(pid) for pid in workers] == ["T", "T"]
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    assert same_outcome(run, tmp_path / "alone")
    assert not (run / "lock").exists()
    wait_until(lambda: all(map(has_ended, workers)), "a worker has not ended")


def test_a_finished_run_is_replaced_only_with_overwrite(tmp_path: Path, text_file: Path, train: Train) -> None:
    words = ("--data", text_file, *FLAGS, "--out", tmp_path / "run")
    assert train(*words) == (0, "")
    before = content(tmp_path / "run")
    code, err = train(*words, "--seed", 1)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"minigpt: {tmp_path / 'run'} already exists: ") and "--overwrite" in err
    assert content(tmp_path / "run") == before
    assert train(*words, "--seed", 1, "--overwrite") == (0, "")
    assert content(tmp_path / "run")["metrics.jsonl"] != before["metrics.jsonl"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--data", "missing.txt"],
        ["--val-data", "missing.txt"],
        ["--tokenizer", "missing.json"],
        ["--context-length", "100000"],
        ["--n-heads", "3"],
        ["--init", "missing"],
    ],
    ids=" ".join,
)
def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path, text_file: Path, train: Train, wrong: list[str]) -> None:
    code, err = train("--data", text_file, *FLAGS, "--out", tmp_path / "a" / "b" / "run", *wrong)
    assert (code, err.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", [[], ["notes"]])
def test_a_start_that_fails_leaves_existing_folders(tmp_path: Path, text_file: Path, train: Train, existing: list[str]) -> None:
    for name in ("a", *existing):
        (tmp_path / name).mkdir()
    code, _ = train("--data", text_file, *FLAGS, "--out", tmp_path / "a" / "b" / "run", "--val-data", "missing.txt")
    assert code == 2
    assert list(content(tmp_path)) == sorted(["a", *existing])


def test_a_resume_that_fails_leaves_the_run_unchanged(tmp_path: Path, text_file: Path, train: Train) -> None:
    text = shutil.copy(text_file, tmp_path / "text.txt")
    assert train("--data", text, *FLAGS, "--out", tmp_path / "run") == (0, "")
    before = content(tmp_path / "run")
    for words in (["--n-layers", 2], ["--steps", 20], ["--data", "missing.txt"], ["--seed", 2, "--tokenizer", "char"]):
        code, err = train("--out", tmp_path / "run", "--resume", *words)
        assert (code, err.count("\n")) == (2, 1), words
        assert content(tmp_path / "run") == before
