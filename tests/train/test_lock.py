"""One training at a time in a run's folder, and no run lost to another."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minigpt import cli
from minigpt.train.checkpoint import checkpoints
from minigpt.train.folder import RunFolder
from minigpt.train.loop import Trainer

Command = Callable[..., tuple[int, str]]
Start = Callable[..., subprocess.Popen[str]]
SETTINGS: dict[str, Any] = {
    "tokenizer": "bytes",
    "context_length": 8,
    "d_model": 8,
    "n_layers": 1,
    "n_heads": 2,
    "dropout": 0.2,
    "batch_size": 3,
    "steps": 30,
    "threads": 3,
    "eval_every": 10,
    "eval_tokens": 50,
    "checkpoint_every": 10,
    "sample_every": 0,
}
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
TIMES = ("tokens_per_s", "elapsed_s")
STOPPING = """
import os, signal
from minigpt.cli import main
from minigpt.train.loop import Trainer
step = Trainer.step
def stopping(trainer):
    if trainer.state.step == 15:
        os.kill(os.getpid(), signal.SIGSTOP)
    return step(trainer)
Trainer.step = stopping
main()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stops processes, and finds them in /proc")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`command("--out", run, ...)`: a training by the command line, in this process; exit code and stderr."""
    tell = Trainer.tell
    monkeypatch.setattr(Trainer, "tell", lambda trainer, prompt, seed: tell(trainer, prompt, seed, max_new_tokens=4))

    def call(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", *map(str, words)])
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


@pytest.fixture
def start() -> Iterator[Start]:
    """`start("--out", run, ...)`: a training as a process, which stops in its 16th step and does not outlive the test."""
    processes = []

    def begin(*words: object, script: str = STOPPING) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, "train", *map(str, words)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        processes.append(process)
        return process

    yield begin
    for process in processes:
        for pid in (*workers_of(process), process.pid) if process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()]


def outcome(run: Path) -> dict[str, Any]:
    """What has to be the same, bit for bit."""
    newest = checkpoints(RunFolder(run))[-1]
    lines = RunFolder(run).records("metrics.jsonl")
    return {
        "newest": newest.name,
        "weights": (newest / "model.safetensors").read_bytes(),
        "moments": (newest / "optimizer.safetensors").read_bytes(),
        "metrics": [{name: value for name, value in line.items() if name not in TIMES} for line in lines],
    }


def content(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder in it."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


def wait_until_it_stopped(process: subprocess.Popen[str]) -> list[int]:
    """Returns its workers, stopped as well."""
    while state(process.pid) != "T":
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    workers = workers_of(process)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    while any(state(pid) != "T" for pid in workers):
        time.sleep(0.01)
    return workers


def state(pid: int) -> str:
    """T is stopped, Z has ended, and gone is "": as the system calls them."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_second_training_in_a_folder_is_refused_and_the_first_goes_on(
    tmp_path: Path, text_file: Path, command: Command, start: Start
) -> None:
    assert command("--data", text_file, *FLAGS, "--out", tmp_path / "alone") == (0, "")
    run = tmp_path / "run"
    first = start("--data", text_file, *FLAGS, "--out", run)
    workers = wait_until_it_stopped(first)
    before = content(run)
    in_use = (2, f"minigpt: {run} is in use: another training goes on in it\n")
    assert command("--out", run, "--resume") == in_use
    assert command("--data", text_file, *FLAGS, "--out", run, "--overwrite") == in_use
    assert command("--data", text_file, *FLAGS, "--out", run)[0] == 2
    assert content(run) == before
    for pid in (*workers, first.pid):
        os.kill(pid, signal.SIGCONT)
    _, err = first.communicate(timeout=60)
    assert (first.returncode, err) == (0, "")
    assert outcome(run) == outcome(tmp_path / "alone")
    assert not (run / "lock").exists()
    assert len(workers) == 2


def test_what_has_only_begun_to_begin_is_in_use_already(tmp_path: Path, text_file: Path, command: Command, start: Start) -> None:
    run = tmp_path / "run"
    holding = f"""
import signal
from pathlib import Path
from minigpt.train.folder import RunFolder
with RunFolder(Path({str(run)!r})).held():
    print("held", flush=True)
    signal.pause()
"""
    first = start(script=holding)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    for words in ([], ["--overwrite"]):
        code, err = command("--data", text_file, *FLAGS, "--out", run, *words)
        assert (code, err) == (2, f"minigpt: {run} is in use: another training goes on in it\n")
    assert list(content(run)) == ["lock"]
    first.kill()
    first.wait()
    assert command("--data", text_file, *FLAGS, "--out", run) == (0, "")


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_after_kill_9_a_run_goes_on_while_its_workers_are_still_there(
    tmp_path: Path, text_file: Path, command: Command, start: Start, how: str
) -> None:
    assert command("--data", text_file, *FLAGS, "--out", tmp_path / "alone") == (0, "")
    run = tmp_path / "run"
    first = start("--data", text_file, *FLAGS, "--out", run)
    workers = wait_until_it_stopped(first)
    first.kill()
    first.wait()
    try:
        assert (run / "lock").exists()
        assert [state(pid) for pid in workers] == ["T", "T"]
        words = ["--resume"] if how == "resume" else ["--data", text_file, *FLAGS, "--overwrite"]
        assert command("--out", run, *words) == (0, "")
        assert [state(pid) for pid in workers] == ["T", "T"]
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    assert outcome(run) == outcome(tmp_path / "alone")
    assert not (run / "lock").exists()
    deadline = time.monotonic() + 60
    while any(state(pid) not in ("", "Z") for pid in workers):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.01)


def test_a_finished_run_is_replaced_only_with_overwrite(tmp_path: Path, text_file: Path, command: Command) -> None:
    words = ("--data", text_file, *FLAGS, "--out", tmp_path / "run")
    assert command(*words) == (0, "")
    before = content(tmp_path / "run")
    code, err = command(*words, "--seed", 1)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"minigpt: {tmp_path / 'run'} exists already: ") and "--overwrite" in err
    assert content(tmp_path / "run") == before
    assert command(*words, "--seed", 1, "--overwrite") == (0, "")
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
def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path, text_file: Path, command: Command, wrong: list[str]) -> None:
    code, err = command("--data", text_file, *FLAGS, "--out", tmp_path / "a" / "b" / "run", *wrong)
    assert (code, err.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mine", [[], ["notes"]])
def test_a_start_that_fails_leaves_the_folders_that_were_there(
    tmp_path: Path, text_file: Path, command: Command, mine: list[str]
) -> None:
    for name in ("a", *mine):
        (tmp_path / name).mkdir()
    code, _ = command("--data", text_file, *FLAGS, "--out", tmp_path / "a" / "b" / "run", "--val-data", "missing.txt")
    assert code == 2
    assert list(content(tmp_path)) == sorted(["a", *mine])


def test_a_resume_that_fails_leaves_the_run_as_it_was(tmp_path: Path, text_file: Path, command: Command) -> None:
    text = shutil.copy(text_file, tmp_path / "text.txt")
    assert command("--data", text, *FLAGS, "--out", tmp_path / "run") == (0, "")
    before = content(tmp_path / "run")
    for words in (["--n-layers", 2], ["--steps", 20], ["--data", "missing.txt"], ["--seed", 2, "--tokenizer", "char"]):
        code, err = command("--out", tmp_path / "run", "--resume", *words)
        assert (code, err.count("\n")) == (2, 1), words
        assert content(tmp_path / "run") == before
