"""No room on the disk, at each write in turn: what is there stays whole, and with room the run goes on to the same bits."""

import builtins
import errno
import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.numpy
from safetensors import SafetensorError

from minigpt import cli
from minigpt.data.token_files import prepare
from minigpt.train import loop
from minigpt.train.checkpoint import check, checkpoints
from minigpt.train.folder import RunFolder

TrainTiny = Callable[..., str]
Command = Callable[..., tuple[int, str]]
SmallDisk = Callable[[int], Path]
SETTINGS: dict[str, Any] = {
    "tokenizer": "bytes",
    "context_length": 8,
    "d_model": 8,
    "n_layers": 1,
    "n_heads": 2,
    "dropout": 0.1,
    "batch_size": 2,
    "micro_batch": 1,
    "steps": 3,
    "lr": 1e-2,
    "threads": 1,
    "eval_every": 2,
    "eval_tokens": 50,
    "checkpoint_every": 1,
    "keep": 1,
    "sample_every": 2,
}
TIMES = ("tokens_per_s", "elapsed_s")
LEFT_BEHIND = (".*", "building-*", "lock", "*.lock")
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


class Disk:
    """A disk that is full when `full(event, path)` says so. Half of what is written then is there; fsync does not know where."""

    def __init__(self) -> None:
        self.full: Callable[[str, str], bool] = lambda event, path: False
        self.events = 0

    def full_at(self, number: int) -> None:
        """It is full from the n-th event on."""
        self.events = 0
        self.full = lambda event, path: self.events >= number

    def full_for(self, event: str, name: str) -> None:
        """It is full for one kind of event and one file."""
        self.full = lambda now, path: now == event and name in path

    def has_room(self) -> None:
        """It is not full any more."""
        self.events = 0
        self.full = lambda event, path: False

    def __call__(self, event: str, path: object) -> bool:
        self.events += 1
        return self.full(event, str(path))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """From here on everything that takes room asks this disk."""
        patch.setattr(os, "mkdir", self._making(os.mkdir))
        patch.setattr(os, "replace", self._making(os.replace))
        patch.setattr(os, "rename", self._making(os.rename))
        patch.setattr(os, "fsync", self._synced(os.fsync))
        patch.setattr(safetensors.numpy, "serialize_file", self._serialized(safetensors.numpy.serialize_file))
        opened = self._opened(open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)

    def _making(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def checked(path: Any, *arguments: Any, **options: Any) -> Any:
            if self(function.__name__, path):
                no_room(path)
            return function(path, *arguments, **options)

        return checked

    def _synced(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        def checked(file: int) -> None:
            if self("fsync", os.readlink(f"/proc/self/fd/{file}")):
                no_room()
            function(file)

        return checked

    def _serialized(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def checked(tensors: Any, path: Path, **options: Any) -> None:
            function(tensors, path, **options)
            if self("serialize_file", path):
                os.truncate(path, path.stat().st_size // 2)
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        return checked

    def _opened(self, function: Callable[..., Any]) -> Callable[..., Any]:
        disk = self

        class Checked(io.FileIO):
            def write(self, content: Any) -> int:
                if disk("write", self.name):
                    super().write(content[: len(content) // 2])
                    no_room()
                return super().write(content)

        def checked(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            **more: Any,
        ) -> Any:
            if more or isinstance(file, int) or not set(mode) & set("wax+"):
                return function(file, mode, buffering, encoding, errors, newline, **more)
            if self("open", file):
                no_room(file)
            stream = io.BufferedWriter(Checked(file, mode.replace("t", "")))
            return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)

        return checked


def no_room(*path: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *map(str, path))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    disk.install(monkeypatch)
    return disk


@pytest.fixture(autouse=True)
def short_stories(monkeypatch: pytest.MonkeyPatch) -> None:
    make_stories_short(monkeypatch)


def make_stories_short(patch: pytest.MonkeyPatch) -> None:
    tell = loop.Trainer.tell
    patch.setattr(loop.Trainer, "tell", lambda trainer, prompt, seed: tell(trainer, prompt, seed, max_new_tokens=4))


@pytest.fixture
def command(text_file: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """`command(out)`: trains by the command line; `command("train", ...)`: any command. Exit code and stderr."""

    def call(*words: object) -> tuple[int, str]:
        if isinstance(words[0], Path):
            words = ("train", "--data", text_file, *FLAGS, "--out", *words)
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, train_tiny: TrainTiny) -> Path:
    """A run that had room."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        make_stories_short(patch)
        train_tiny(run, **SETTINGS)
    return run


def outcome(run: Path) -> dict[str, Any]:
    """What has to be the same, bit for bit."""
    newest = checkpoints(RunFolder(run))[-1]
    lines = RunFolder(run).records("metrics.jsonl")
    return {
        "newest": newest.name,
        "weights": (newest / "model.safetensors").read_bytes(),
        "moments": (newest / "optimizer.safetensors").read_bytes(),
        "metrics": [{name: value for name, value in line.items() if name not in TIMES} for line in lines],
        "samples": (run / "samples.jsonl").read_bytes(),
        "config": (run / "config.toml").read_bytes(),
    }


def left_behind(*folders: Path) -> list[str]:
    return sorted(path.name for folder in folders for pattern in LEFT_BEHIND for path in folder.rglob(pattern))


def check_all(run: Path) -> None:
    for checkpoint in checkpoints(RunFolder(run)):
        check(checkpoint)


# ------------------------------------------------- injected, at each event


def test_full_at_each_event_of_a_run_it_goes_on_to_the_same_bits(
    tmp_path: Path, train_tiny: TrainTiny, undisturbed: Path, disk: Disk
) -> None:
    train_tiny(tmp_path / "once", **SETTINGS)
    expected = outcome(undisturbed)
    for number in range(1, 1 + disk.events):
        run = tmp_path / str(number)
        disk.full_at(number)
        with pytest.raises(OSError, match="No space left on device"):
            train_tiny(run, **SETTINGS)
        assert left_behind(run) == [], number
        assert checkpoints(RunFolder(run)) or len(RunFolder(run).records("metrics.jsonl")) < 2, number
        check_all(run)
        disk.has_room()
        train_tiny(run, resume=(run / "config.toml").exists(), **SETTINGS)
        assert outcome(run) == expected, number


def test_full_at_each_event_of_going_on_the_run_still_goes_on(
    tmp_path: Path, train_tiny: TrainTiny, undisturbed: Path, disk: Disk
) -> None:
    disk.full_for("write", "step-000003/state.json")
    with pytest.raises(OSError, match="No space left on device"):
        train_tiny(tmp_path / "stopped", **SETTINGS)
    disk.has_room()

    def again(name: str) -> Path:
        return shutil.copytree(tmp_path / "stopped", tmp_path / name)

    once = again("once")
    disk.has_room()
    train_tiny(once, resume=True, **SETTINGS)
    events, expected = disk.events, outcome(undisturbed)
    assert outcome(once) == expected
    for number in range(1, 1 + events):
        run = again(str(number))
        disk.full_at(number)
        with pytest.raises(OSError, match="No space left on device"):
            train_tiny(run, resume=True, **SETTINGS)
        assert left_behind(run) == [], number
        assert checkpoints(RunFolder(run))
        check_all(run)
        disk.has_room()
        train_tiny(run, resume=True, **SETTINGS)
        assert outcome(run) == expected, number


def test_full_at_each_event_of_preparing_the_cache_holds_nothing_that_is_not_whole(
    tmp_path: Path, text_file: Path, disk: Disk
) -> None:
    cache = tmp_path / "cache"

    def bits(folder: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    expected = bits(prepare([str(text_file)], tokenizer="bytes", cache=tmp_path / "undisturbed").folder)
    for number in range(1, 1 + disk.events):
        disk.full_at(number)
        with pytest.raises((OSError, ValueError), match="No space left on device"):
            prepare([str(text_file)], tokenizer="bytes", cache=cache)
        assert not cache.exists() or all(bits(folder) == expected for folder in cache.iterdir()), number
    disk.has_room()
    assert bits(prepare([str(text_file)], tokenizer="bytes", cache=cache).folder) == expected


# ------------------------------------------------------- what is said of it

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
AROUND = [
    ("open", "run/.run.json", "run.json"),
    ("write", "run/.run.json", "run.json"),
    ("write", "run/.tokenizer.json", "tokenizer.json"),
    ("write", "config.toml", "config.toml"),
    ("write", "loss.svg", "loss.svg"),
    ("fsync", "report.md", "report.md"),
]


@pytest.mark.parametrize("event, where, named", WHILE_TRAINING, ids=lambda word: str(word).replace("/", " "))
def test_one_line_names_the_file_and_says_how_to_go_on(
    tmp_path: Path, command: Command, undisturbed: Path, disk: Disk, event: str, where: str, named: str
) -> None:
    disk.full_for(event, where)
    code, err = command(tmp_path / "run")
    disk.has_room()
    assert (code, err.count("\n")) == (1, 1)
    what, _, how = err.partition(" To go on: ")
    assert "The training has stopped" in what
    assert command(*shlex.split(how)[1:]) == (0, "")
    assert outcome(tmp_path / "run") == outcome(undisturbed)
    assert named in what.partition("The training has stopped")[0]


@pytest.mark.parametrize("event, where, named", AROUND, ids=lambda word: str(word).replace("/", " "))
def test_before_and_after_the_steps_one_line_names_the_file(
    tmp_path: Path, command: Command, undisturbed: Path, disk: Disk, event: str, where: str, named: str
) -> None:
    disk.full_for(event, where)
    code, err = command(tmp_path / "run")
    disk.has_room()
    assert (code, err.count("\n")) == (1, 1)
    begun = (tmp_path / "run" / "config.toml").exists()
    assert (command("train", "--out", tmp_path / "run", "--resume") if begun else command(tmp_path / "run")) == (0, "")
    assert outcome(tmp_path / "run") == outcome(undisturbed)
    assert f"{tmp_path / 'run'}/" in err and named in err


def test_a_run_that_cannot_even_go_on_says_how_to_go_on(tmp_path: Path, command: Command, undisturbed: Path, disk: Disk) -> None:
    disk.full_for("write", "step-000003/state.json")
    assert command(tmp_path / "run")[0] == 1
    disk.full_for("open", ".metrics.jsonl")
    code, err = command("train", "--out", tmp_path / "run", "--resume")
    assert (code, err.count("\n")) == (1, 1) and ".metrics.jsonl" in err
    assert f"To go on: minigpt train --out {tmp_path / 'run'} --resume" in err


# --------------------------------------------------------- a disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """`small_disk(kib)`: a disk of that size at tmp_path/disk, or the same disk with another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(kib: int) -> Path:
        again = ["remount"] * folder.is_mount()
        options = ",".join([*again, f"size={kib}k"])
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"may not mount a small disk: {done.stderr.strip()}")
        return folder

    if sys.platform != "linux":
        pytest.skip("mounts a tmpfs of Linux")
    yield sized
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_on_a_full_disk_of_any_size_nothing_half_written_stays(
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
        assert left_behind(run) == [], kib
        check_all(run)
        small_disk(4096)
        train_tiny(run, resume=(run / "config.toml").exists(), **SETTINGS)
        assert outcome(run) == expected, kib
        shutil.rmtree(run)
        kib += 4
    assert kib > 100


@pytest.mark.parametrize("kib", [60, 120])
def test_on_a_full_disk_the_command_line_stops_and_goes_on(
    tmp_path: Path, small_disk: SmallDisk, text_file: Path, undisturbed: Path, kib: int
) -> None:
    run = small_disk(kib) / "run"

    def minigpt(*words: object) -> subprocess.CompletedProcess[str]:
        script = "from minigpt.cli import main; main()"
        command = [sys.executable, "-c", script, *map(str, words)]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)

    done = minigpt("train", "--data", text_file, *FLAGS, "--out", run)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    what, _, how = done.stderr.partition(" To go on: minigpt ")
    assert "No space left on device" in what and "The training has stopped" in what
    assert left_behind(run) == []
    check_all(run)
    small_disk(4096)
    done = minigpt(*shlex.split(how))
    assert (done.returncode, done.stderr) == (0, "")
    found, expected = outcome(run), outcome(undisturbed)
    assert [name for name in expected if found[name] != expected[name]] == ["samples"]  # here they are longer
    assert f"{run}/" in what.partition("The training has stopped")[0]


def test_on_a_full_disk_nothing_half_prepared_stays_in_the_cache(
    tmp_path: Path, small_disk: SmallDisk, command: Command, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = small_disk(12)
    monkeypatch.setenv("MINIGPT_CACHE", str(cache))
    code, err = command(tmp_path / "run")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{cache}/" in err and "No space left on device" in err
    assert list(cache.iterdir()) == []
    assert not (tmp_path / "run").exists()
    small_disk(1024)
    assert command(tmp_path / "run") == (0, "")
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def test_what_is_prepared_can_be_read_from_a_disk_that_takes_no_writes(
    tmp_path: Path, small_disk: SmallDisk, command: Command, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = small_disk(1024)
    monkeypatch.setenv("MINIGPT_CACHE", str(cache))
    assert command(tmp_path / "once") == (0, "")
    subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
    assert command(tmp_path / "run") == (0, "")
    assert outcome(tmp_path / "run") == outcome(undisturbed)
