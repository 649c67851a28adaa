"""A full disk, at each write in turn: existing files stay intact, and with free space the run is resumed to the same bits."""

import errno
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.disk import DiskCalls, Half
from helpers.runs import TINY_MODEL, as_flags, differences, outcome, shorten_samples, temporary_files
from safetensors import SafetensorError

from minigpt.data.token_files import prepare
from minigpt.runs.checkpoint import checkpoints, verify
from minigpt.runs.folder import RunFolder

TrainTiny = Callable[..., str]
Run = Callable[..., tuple[int, str]]
SmallDisk = Callable[[int], Path]
SETTINGS: dict[str, Any] = {
    **TINY_MODEL,
    "dropout": 0.1,
    "batch_size": 2,
    "micro_batch": 1,
    "steps": 3,
    "samples": 5,
    "lr": 1e-2,
    "threads": 1,
    "eval_every": 2,
    "eval_tokens": 50,
    "checkpoint_every": 1,
    "keep": 1,
    "sample_every": 2,
}
FLAGS = as_flags(SETTINGS)
DELETING = ("unlink", "remove", "rmdir")

pytestmark = pytest.mark.usefixtures("short_samples")


class Disk(DiskCalls):
    """A simulated disk, which is full if `full(call, path)` is true. A write then writes half of its content."""

    def __init__(self) -> None:
        super().__init__()
        self.full: Callable[[str, str], bool] = lambda call, path: False
        self.calls = 0

    def full_at(self, number: int) -> None:
        """Make the disk full from the n-th call on."""
        self.calls = 0
        self.full = lambda call, path: self.calls >= number

    def full_for(self, call: str, name: str) -> None:
        """Make the disk full for one kind of call on one file."""
        self.full = lambda current, path: current == call and name in path

    def has_space(self) -> None:
        """Make the disk not full any more."""
        self.calls = 0
        self.full = lambda call, path: False

    def on_call(self, name: str, *arguments: object, half: Half = lambda: None) -> None:
        """Fail as the system does when the disk is full."""
        if name in DELETING:
            return
        self.calls += 1
        path = str(arguments[0])
        if self.full(name, path):
            half()
            if name == "serialize_file":
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
            has_filename = name not in ("write", "fsync")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([path] if has_filename else []))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    if sys.platform != "linux":
        pytest.skip("finds the names of open files in /proc")
    disk = Disk()
    disk.install(monkeypatch)
    return disk


@pytest.fixture
def run_command(text_file: Path, command: Callable[..., tuple[int, str, str]]) -> Run:
    """`run_command(out)` trains; `run_command("train", ...)` runs any command. Returns the exit code and stderr."""

    def call(*words: object) -> tuple[int, str]:
        if isinstance(words[0], Path):
            words = ("train", "--data", text_file, *FLAGS, "--out", *words)
        code, _, err = command(*words)
        return code, err

    return call


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, train_tiny: TrainTiny) -> Path:
    """A run on a disk with enough space."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        shorten_samples(patch)
        train_tiny(run, **SETTINGS)
    return run


def verify_all(run: Path) -> None:
    for checkpoint in checkpoints(RunFolder(run)):
        verify(checkpoint)


# ------------------------------------------------- simulated, at each call


def test_full_at_each_call_of_a_run_it_is_resumed_to_the_same_bits(
    tmp_path: Path, train_tiny: TrainTiny, undisturbed: Path, disk: Disk
) -> None:
    train_tiny(tmp_path / "once", **SETTINGS)
    expected = outcome(undisturbed)
    for number in range(1, 1 + disk.calls):
        run = tmp_path / str(number)
        disk.full_at(number)
        with pytest.raises(OSError, match="No space left on device"):
            train_tiny(run, **SETTINGS)
        assert temporary_files(run) == [], number
        assert checkpoints(RunFolder(run)) or len(RunFolder(run).records("metrics.jsonl")) < 2, number
        verify_all(run)
        disk.has_space()
        train_tiny(run, resume=(run / "config.toml").exists(), **SETTINGS)
        assert outcome(run) == expected, number


def test_full_at_each_call_of_a_resume_the_run_can_still_be_resumed(
    tmp_path: Path, train_tiny: TrainTiny, undisturbed: Path, disk: Disk
) -> None:
    disk.full_for("write", "step-000003/state.json")
    with pytest.raises(OSError, match="No space left on device"):
        train_tiny(tmp_path / "stopped", **SETTINGS)
    disk.has_space()

    def copy(name: str) -> Path:
        return shutil.copytree(tmp_path / "stopped", tmp_path / name)

    once = copy("once")
    disk.has_space()
    train_tiny(once, resume=True, **SETTINGS)
    calls, expected = disk.calls, outcome(undisturbed)
    assert outcome(once) == expected
    for number in range(1, 1 + calls):
        run = copy(str(number))
        disk.full_at(number)
        with pytest.raises(OSError, match="No space left on device"):
            train_tiny(run, resume=True, **SETTINGS)
        assert temporary_files(run) == [], number
        assert checkpoints(RunFolder(run))
        verify_all(run)
        disk.has_space()
        train_tiny(run, resume=True, **SETTINGS)
        assert outcome(run) == expected, number


def test_full_at_each_call_of_preparing_data_the_cache_contains_only_complete_data(
    tmp_path: Path, text_file: Path, disk: Disk
) -> None:
    cache = tmp_path / "cache"

    def bits(folder: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    expected = bits(prepare([str(text_file)], tokenizer="bytes", cache=tmp_path / "undisturbed").folder)
    for number in range(1, 1 + disk.calls):
        disk.full_at(number)
        with pytest.raises((OSError, ValueError), match="No space left on device"):
            prepare([str(text_file)], tokenizer="bytes", cache=cache)
        assert not cache.exists() or all(bits(folder) == expected for folder in cache.iterdir()), number
    disk.has_space()
    assert bits(prepare([str(text_file)], tokenizer="bytes", cache=cache).folder) == expected


# ------------------------------------------------------- error messages

WHILE_TRAINING = [
    ("write", "metrics.jsonl", "metrics.jsonl"),
    ("write", "samples.jsonl", "samples.jsonl"),
    ("mkdir", ".step-000002", "step-000002"),
    ("serialize_file", "step-000002/model.safetensors", "step-000002"),
    ("serialize_file", "step-000002/optimizer.safetensors", "step-000002"),
    ("open", "step-000002/state.json", "step-000002"),
    ("replace", ".step-000002", "step-000002"),
    ("write", "step-000002/state.json", "step-000002"),
    ("write", "step-000002/SHA256SUMS", "step-000002"),
    ("fsync", "step-000002/model.safetensors", "step-000002"),
    ("fsync", "metrics.jsonl", "metrics.jsonl"),
]
BEFORE_AND_AFTER_TRAINING = [
    ("open", "run/.run.json", "run.json"),
    ("write", "run/.run.json", "run.json"),
    ("write", "run/.tokenizer.json", "tokenizer.json"),
    ("write", "config.toml", "config.toml"),
    ("write", "loss.svg", "loss.svg"),
    ("fsync", "report.md", "report.md"),
]


@pytest.mark.parametrize("call, path, named", WHILE_TRAINING, ids=lambda word: str(word).replace("/", " "))
def test_one_line_names_the_file_and_the_command_that_resumes(
    tmp_path: Path, run_command: Run, undisturbed: Path, disk: Disk, call: str, path: str, named: str
) -> None:
    disk.full_for(call, path)
    code, err = run_command(tmp_path / "run")
    disk.has_space()
    assert (code, err.count("\n")) == (1, 1)
    problem, _, resume = err.partition(" To resume: ")
    assert "Training has stopped" in problem
    assert run_command(*shlex.split(resume)[1:]) == (0, "")
    assert outcome(tmp_path / "run") == outcome(undisturbed)
    assert named in problem.partition("Training has stopped")[0]


@pytest.mark.parametrize("call, path, named", BEFORE_AND_AFTER_TRAINING, ids=lambda word: str(word).replace("/", " "))
def test_before_and_after_training_one_line_names_the_file(
    tmp_path: Path, run_command: Run, undisturbed: Path, disk: Disk, call: str, path: str, named: str
) -> None:
    disk.full_for(call, path)
    code, err = run_command(tmp_path / "run")
    disk.has_space()
    assert (code, err.count("\n")) == (1, 1)
    is_run = (tmp_path / "run" / "config.toml").exists()
    assert (run_command("train", "--out", tmp_path / "run", "--resume") if is_run else run_command(tmp_path / "run")) == (0, "")
    assert outcome(tmp_path / "run") == outcome(undisturbed)
    assert f"{tmp_path / 'run'}/" in err and named in err


def test_a_failing_resume_names_the_command_that_resumes(tmp_path: Path, run_command: Run, undisturbed: Path, disk: Disk) -> None:
    disk.full_for("write", "step-000003/state.json")
    assert run_command(tmp_path / "run")[0] == 1
    disk.full_for("open", ".metrics.jsonl")
    code, err = run_command("train", "--out", tmp_path / "run", "--resume")
    assert (code, err.count("\n")) == (1, 1) and ".metrics.jsonl" in err
    assert f"To resume: minigpt train --out {tmp_path / 'run'} --resume" in err


# --------------------------------------------------------- a real disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """`small_disk(kib)` mounts a disk of that size at tmp_path/disk, or changes its size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(kib: int) -> Path:
        options = f"remount,size={kib}k" if folder.is_mount() else f"size={kib}k"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
        return folder

    if sys.platform != "linux":
        pytest.skip("mounts a tmpfs, which is specific to Linux")
    yield sized
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_on_a_full_disk_of_any_size_no_partial_file_remains(
    small_disk: SmallDisk, train_tiny: TrainTiny, undisturbed: Path
) -> None:
    expected, kib, finished = outcome(undisturbed), 4, False
    while not finished:
        run = small_disk(kib) / "run"
        try:
            train_tiny(run, **SETTINGS)
            finished = True
        except OSError as error:
            assert "No space left on device" in str(error), kib
        assert temporary_files(run) == [], kib
        verify_all(run)
        small_disk(4096)
        train_tiny(run, resume=(run / "config.toml").exists(), **SETTINGS)
        assert outcome(run) == expected, kib
        shutil.rmtree(run)
        kib += 4
    assert kib > 100


@pytest.mark.parametrize("kib", [60, 120])
def test_on_a_full_disk_the_command_line_stops_and_can_resume(
    tmp_path: Path, small_disk: SmallDisk, text_file: Path, undisturbed: Path, kib: int
) -> None:
    run = small_disk(kib) / "run"

    def minigpt(*words: object) -> subprocess.CompletedProcess[str]:
        script = "from minigpt.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", script, *map(str, words)], capture_output=True, encoding="utf-8", check=False
        )

    done = minigpt("train", "--data", text_file, *FLAGS, "--out", run)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    problem, _, resume = done.stderr.partition(" To resume: minigpt ")
    assert "No space left on device" in problem and "Training has stopped" in problem
    assert temporary_files(run) == []
    verify_all(run)
    small_disk(4096)
    done = minigpt(*shlex.split(resume))
    assert (done.returncode, done.stderr) == (0, "")
    assert differences(run, outcome(undisturbed)) == ["samples"]  # they are longer here
    assert f"{run}/" in problem.partition("Training has stopped")[0]


def test_on_a_full_disk_no_partial_data_remains_in_the_cache(
    tmp_path: Path, small_disk: SmallDisk, run_command: Run, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = small_disk(12)
    monkeypatch.setenv("MINIGPT_CACHE", str(cache))
    code, err = run_command(tmp_path / "run")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{cache}/" in err and "No space left on device" in err
    assert list(cache.iterdir()) == []
    assert not (tmp_path / "run").exists()
    small_disk(1024)
    assert run_command(tmp_path / "run") == (0, "")
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def test_prepared_data_can_be_read_from_a_read_only_disk(
    tmp_path: Path, small_disk: SmallDisk, run_command: Run, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = small_disk(1024)
    monkeypatch.setenv("MINIGPT_CACHE", str(cache))
    assert run_command(tmp_path / "once") == (0, "")
    subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
    assert run_command(tmp_path / "run") == (0, "")
    assert outcome(tmp_path / "run") == outcome(undisturbed)
