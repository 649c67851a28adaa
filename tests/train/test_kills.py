"""Killed at any moment, with no time to say goodbye: a run goes on to the very bits of one that nobody disturbed.

This file is also a script. The tests start it as a helper: a process without the threads of pytest and PyTorch, from which each
training is forked, so that it need not import anything. The helper kills the training, and never its workers.
"""

import builtins
import ctypes
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest

from minigpt.data.token_files import prepare

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the trainings are forked, their orphans adopted")

SEED = 2024
TRIALS = 15  # for each number of threads
HELPERS = 2
KILLED = -9
EVENTS = {"open", "write", "serialize_file", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir"}
TIMES = ("tokens_per_s", "elapsed_s")
PR_SET_CHILD_SUBREAPER = 36
LEFT_BEHIND = (".*", "building-*", "lock")

LONG: dict[str, Any] = {
    "tokenizer": "bytes",
    "context_length": 8,
    "d_model": 8,
    "n_layers": 1,
    "n_heads": 2,
    "dropout": 0.2,
    "batch_size": 4,
    "micro_batch": 1,
    "steps": 18,
    "lr": 1e-2,
    "threads": 1,
    "eval_every": 3,
    "eval_tokens": 100,
    "checkpoint_every": 2,
    "keep": 1,
    "sample_every": 4,
}
SHORT = {**LONG, "steps": 4, "batch_size": 2, "sample_every": 3}

Job = dict[str, Any]
"""What a helper is asked: `out`, `cache` and `settings`; perhaps `overwrite`; `kill_after` (seconds) or `kill_at` (the number of
an event), `power_cut` (what is not on the disk is lost, too), `listing` (folders are listed in this order: 1 or -1)."""
Answer = dict[str, Any]
"How it went: `status` (-9: killed), `seconds`, the names of its `events` (killed by `kill_at`: the last one), `error`."


# ----------------------------------------------------------------- the helper


class Events:
    """Counts what a process asks of the file system, and kills it before, or in the middle of, the n-th of these events."""

    def __init__(self, job: Job, note: int) -> None:
        self.names: list[str] = []
        self._kill_at = job.get("kill_at")
        self._power_cut = job.get("power_cut", False)
        self._listing = job.get("listing")
        self._note = note
        self._folder = f"{Path(job['out']).parent}/"
        self._safe: dict[str, int] = {}  # of files not all of which is on the disk: how many bytes are

    def __call__(self, what: str, *where: object, half: Callable[[], object] = lambda: None) -> None:
        """One more event; `half` does half of it."""
        self.names.append(" ".join([what, *(str(name).replace(self._folder, "") for name in where)]))
        if len(self.names) == self._kill_at:
            half()
            for path, size in self._safe.items() if self._power_cut else ():
                os.truncate(path, size)
            os.write(self._note, json.dumps({"events": self.names[-1:]}).encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """From here on count, in this process, everything that changes a file or a folder."""
        import safetensors.numpy

        for name in ("unlink", "remove", "rmdir", "mkdir"):
            setattr(os, name, self._before(getattr(os, name)))
        os.replace, os.rename = self._moved(os.replace), self._moved(os.rename)
        os.fsync = cast(Any, self._synced(os.fsync))
        builtins.open = io.open = cast(Any, self._opened(open))
        safetensors.numpy.serialize_file = self._serialized(safetensors.numpy.serialize_file)
        if self._listing:
            listdir, step = os.listdir, self._listing
            os.listdir = lambda *where: sorted(listdir(*where))[::step]  # type: ignore[assignment]

    def _before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self(function.__name__, *arguments)
            return function(*arguments, **options)

        return counted

    def _moved(self, function: Callable[..., None]) -> Callable[..., None]:
        def counted(source: Any, target: Any, **options: Any) -> None:
            self(function.__name__, source, target)
            function(source, target, **options)
            self._safe = {path.replace(str(source), str(target)): size for path, size in self._safe.items()}

        return counted

    def _synced(self, function: Callable[[Any], None]) -> Callable[[int], None]:
        def counted(file: int) -> None:
            path = os.readlink(f"/proc/self/fd/{file}")
            self("fsync", path)
            function(file)
            self._safe.pop(path, None)

        return counted

    def _serialized(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensors: Any, path: Path, **options: Any) -> None:
            def half() -> None:
                function(tensors, path, **options)
                os.truncate(path, path.stat().st_size // 2)

            self("serialize_file", path, half=half)
            function(tensors, path, **options)
            self._safe[str(path)] = 0

        return counted

    def _opened(self, function: Callable[..., Any]) -> Callable[..., Any]:
        events = self

        class Watched(io.FileIO):
            def write(self, content: Any) -> int:
                write, path = super().write, str(self.name)
                events("write", path, half=lambda: write(content[: len(content) // 2]))
                events._safe.setdefault(path, os.fstat(self.fileno()).st_size)
                return write(content)

        def counted(
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
            self("open", file)
            stream = io.BufferedWriter(Watched(file, mode.replace("t", "")))
            return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)

        return counted


def serve() -> None:
    """Fork a training for each job that comes in, kill it when told, answer how it went; at the end wait for all orphans."""
    from minigpt.train import loop

    for name in ("filelock", "minigpt.train.start", "rich.console", "safetensors.numpy", "tokenizers", "tomli_w"):
        import_module(name)
    warnings.filterwarnings("ignore", ".*trying the checkpoint before it")
    tell = loop.Trainer.tell
    setattr(loop.Trainer, "tell", lambda trainer, prompt, seed: tell(trainer, prompt, seed, max_new_tokens=4))  # noqa: B010
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    for line in sys.stdin:
        print(json.dumps(_supervise(json.loads(line))), flush=True)
    sys.exit(_wait_for_orphans())


def _wait_for_orphans() -> str | None:
    """Wait until all workers have ended by themselves; those that never do are killed, and told of."""
    deadline = time.monotonic() + 30
    while (
        orphans := Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    ) and time.monotonic() < deadline:
        if not os.waitpid(-1, os.WNOHANG)[0]:
            time.sleep(0.01)
    for pid in orphans:
        os.kill(int(pid), signal.SIGKILL)
    return f"{len(orphans)} workers do not end" if orphans else None


def _supervise(job: Job) -> Answer:
    with tempfile.TemporaryFile() as notes:
        start = time.perf_counter()
        child = os.fork()
        if not child:
            _play(job, notes.fileno())
        if "kill_after" in job:
            time.sleep(job["kill_after"])
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.perf_counter() - start
        notes.seek(0)
        return {"status": status, "seconds": seconds, **json.loads(notes.read() or "{}")}


def _play(job: Job, note: int) -> None:
    """The life of a forked training."""
    code = 1
    try:
        events = Events(job, note)
        _train(job, events)
        os.write(note, json.dumps({"events": events.names}).encode())
        code = 0
    except BaseException:
        os.write(note, json.dumps({"error": traceback.format_exc()}).encode())
    finally:
        os._exit(code)


def _train(job: Job, events: Events) -> None:
    """What the command line does; a run that has begun is resumed."""
    from rich.console import Console

    from minigpt.train.settings import Settings, resolve
    from minigpt.train.start import train

    os.environ["MINIGPT_CACHE"] = job["cache"]
    out, overwrite = Path(job["out"]), job.get("overwrite", False)
    resume = not overwrite and (out / "config.toml").exists()
    given = {**job["settings"], "data": tuple(job["settings"]["data"])}
    settings = resolve({}, out / "config.toml", resume) if resume else Settings(**given)
    console = Console(file=io.StringIO())
    events.watch()
    train(settings, out, console=console, command="minigpt train", version="0", resume=resume, overwrite=overwrite)


# ------------------------------------------------------------------ the tests


class Helper:
    """This file as a script."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __call__(self, job: Job) -> Answer:
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        return dict(json.loads(line))

    def end(self) -> tuple[int, str]:
        """Exit code and stderr, when all that it started has ended."""
        _, err = self._process.communicate()
        return self._process.returncode, err


@dataclass(frozen=True)
class Trainings:
    """Plays jobs on several helpers side by side."""

    helpers: SimpleQueue[Helper]
    text: Path

    def play(self, out: Path, settings: dict[str, Any], cache: Path | None = None, **how: Any) -> Answer:
        """Train in `out`, or go on with what is there, and perhaps be killed."""
        settings = {**settings, "data": [str(self.text)]}
        helper = self.helpers.get()
        try:
            answer = helper({"out": str(out), "cache": str(cache or os.environ["MINIGPT_CACHE"]), "settings": settings, **how})
        finally:
            self.helpers.put(helper)
        assert answer["status"] in (0, KILLED), f"{out}: {answer.get('error', answer)}"
        return answer

    def finish(self, out: Path, settings: dict[str, Any], cache: Path | None = None, **how: Any) -> Answer:
        """The same, undisturbed."""
        answer = self.play(out, settings, cache, **how)
        assert answer["status"] == 0
        return answer

    def kill(self, out: Path, settings: dict[str, Any], cache: Path | None = None, **how: Any) -> str:
        """The same, killed at an event; returns what that was."""
        answer = self.play(out, settings, cache, **how)
        assert answer["status"] == KILLED
        return str(*answer["events"])


@pytest.fixture
def trainings(text_file: Path) -> Iterator[Trainings]:
    prepare([str(text_file)], tokenizer="bytes")  # who wants to see this killed, too, gives another cache
    helpers = [Helper() for _ in range(HELPERS)]
    queue: SimpleQueue[Helper] = SimpleQueue()
    for helper in helpers:
        queue.put(helper)
    yield Trainings(queue, text_file)
    assert [helper.end() for helper in helpers] == [(0, "")] * HELPERS


def side_by_side(function: Callable[[int], Any], numbers: Iterable[int]) -> list[Any]:
    with ThreadPoolExecutor(HELPERS) as pool:
        return list(pool.map(function, numbers))


def numbers(events: list[str], wanted: Callable[[str, str], bool]) -> list[int]:
    """The numbers of those events that are wanted for their name and the name of the one before."""
    return [number for number, names in enumerate(pairwise(["", *events]), start=1) if wanted(names[1], names[0])]


def outcome(run: Path) -> dict[str, Any]:
    """What has to be the same, bit for bit."""
    newest = max((run / "checkpoints").glob("step-*"))
    state = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {
        "newest": newest.name,
        "weights": (newest / "model.safetensors").read_bytes(),
        "moments": (newest / "optimizer.safetensors").read_bytes(),
        "state": {name: value for name, value in state.items() if name != "elapsed_s"},
        "metrics": [{name: value for name, value in line.items() if name not in TIMES} for line in lines],
        "samples": (run / "samples.jsonl").read_bytes(),
        "config": (run / "config.toml").read_bytes(),
        "tokenizer": (run / "tokenizer.json").read_bytes(),
    }


def differing(run: Path, expected: dict[str, Any]) -> list[str]:
    found = outcome(run)
    return [name for name, value in expected.items() if found[name] != value]


def left_behind(*folders: Path) -> list[str]:
    return sorted(path.name for folder in folders for pattern in LEFT_BEHIND for path in folder.rglob(pattern))


def kept(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize("threads", [1, 2])
def test_killed_at_random_moments_a_run_ends_as_one_that_was_not(tmp_path: Path, trainings: Trainings, threads: int) -> None:
    settings = {**LONG, "threads": threads}
    seconds = trainings.finish(tmp_path / "undisturbed", settings)["seconds"]
    expected = outcome(tmp_path / "undisturbed")
    assert [line["step"] for line in expected["metrics"]] == list(range(1, 1 + settings["steps"]))

    def trial(number: int) -> None:
        seed = SEED + 100 * threads + number
        rng = random.Random(seed)
        folder, delays = tmp_path / str(number), [seconds * rng.random()]
        cache = folder / "cache" if number % 3 == 0 else None
        while trainings.play(folder / "run", settings, cache, kill_after=delays[-1])["status"] != KILLED:
            shutil.rmtree(folder)  # it had ended before
            delays.append(delays[-1] / 2)
        for _ in range(number % 4):
            delays.append(seconds * rng.random())
            trainings.play(folder / "run", settings, cache, kill_after=delays[-1])
        trainings.finish(folder / "run", settings, cache)
        found = differing(folder / "run", expected) + left_behind(folder)
        assert found == [], f"seed {seed}, killed after {delays} of {seconds} s"

    side_by_side(trial, range(TRIALS))


def test_killed_at_each_event_a_run_ends_as_one_that_was_not(tmp_path: Path, trainings: Trainings) -> None:
    undisturbed = tmp_path / "undisturbed"
    events = trainings.finish(undisturbed / "run", SHORT, undisturbed / "cache")["events"]
    expected = outcome(undisturbed / "run")
    assert {name.split()[0] for name in events} == EVENTS

    def trial(number: int) -> tuple[str, list[str]]:
        folder = tmp_path / str(number)
        killed = trainings.kill(folder / "run", SHORT, folder / "cache", kill_at=number)
        trainings.finish(folder / "run", SHORT, folder / "cache")
        return killed, differing(folder / "run", expected) + left_behind(folder)

    trials = side_by_side(trial, numbers(events, lambda event, before: not event.startswith("fsync")))
    assert [(killed, found) for killed, found in trials if found] == []


def test_a_power_cut_loses_nothing_that_is_built_upon(tmp_path: Path, trainings: Trainings) -> None:
    undisturbed = tmp_path / "undisturbed"
    events = trainings.finish(undisturbed / "run", SHORT, undisturbed / "cache")["events"]
    expected = outcome(undisturbed / "run")

    def trial(number: int) -> tuple[str, list[str]]:
        folder = tmp_path / str(number)
        killed = trainings.kill(folder / "run", SHORT, folder / "cache", kill_at=number, power_cut=True)
        trainings.finish(folder / "run", SHORT, folder / "cache")
        return killed, differing(folder / "run", expected) + left_behind(folder)

    trials = side_by_side(trial, numbers(events, lambda event, before: before.startswith(("replace", "rename", "rmdir"))))
    assert [(killed, found) for killed, found in trials if found] == []


def test_killed_at_each_event_of_going_on_a_run_still_goes_on(tmp_path: Path, trainings: Trainings) -> None:
    settings = {**SHORT, "keep": 2}
    events = trainings.finish(tmp_path / "undisturbed" / "run", settings)["events"]
    expected = outcome(tmp_path / "undisturbed" / "run")
    broken = tmp_path / "broken" / "run"
    last_save = events.index("serialize_file run/checkpoints/.step-000004/optimizer.safetensors")
    trainings.kill(broken, settings, kill_at=1 + last_save)
    assert kept(broken) == [".step-000004", "step-000002", "step-000003"]
    os.truncate(broken / "checkpoints" / "step-000003" / "model.safetensors", 100)

    def again(name: str) -> Path:
        return shutil.copytree(broken, tmp_path / name / "run")

    events = trainings.finish(again("once"), settings)["events"]

    def trial(number: int) -> tuple[str, list[str]]:
        run = again(str(number))
        killed = trainings.kill(run, settings, kill_at=number)
        trainings.finish(run, settings)
        assert kept(run) == ["damaged-step-000003", "step-000003", "step-000004"]
        return killed, differing(run, expected) + left_behind(run)

    trials = side_by_side(trial, range(1, events.index("serialize_file run/checkpoints/.step-000003/model.safetensors")))
    assert [(killed, found) for killed, found in trials if found] == []


@pytest.mark.parametrize("listing", [1, -1])
def test_killed_while_it_replaces_a_run_the_same_command_does_replace_it(
    tmp_path: Path, trainings: Trainings, listing: int
) -> None:
    settings = {**SHORT, "seed": 1}
    trainings.finish(tmp_path / "old" / "run", SHORT)
    trainings.finish(tmp_path / "undisturbed" / "run", settings)
    expected = outcome(tmp_path / "undisturbed" / "run")

    def again(name: str) -> Path:
        return shutil.copytree(tmp_path / "old" / "run", tmp_path / name / "run")

    events = trainings.finish(again("once"), settings, overwrite=True, listing=listing)["events"]

    def trial(number: int) -> tuple[str, list[str]]:
        run = again(str(number))
        killed = trainings.kill(run, settings, kill_at=number, overwrite=True, listing=listing)
        trainings.finish(run, settings, overwrite=True)
        return killed, differing(run, expected) + left_behind(run)

    deleting = numbers(events, lambda event, before: event.startswith(("unlink", "rmdir")) or before.startswith("unlink"))
    first_written = next(number for number, event in enumerate(events) if event.startswith("replace run/.run.json"))
    trials = side_by_side(trial, [number for number in deleting if number <= first_written])
    assert [(killed, found) for killed, found in trials if found] == []
    assert len(trials) > 10


def test_killed_when_the_data_is_ready_no_lock_remains_beside_it(tmp_path: Path, trainings: Trainings) -> None:
    events = trainings.finish(tmp_path / "undisturbed" / "run", SHORT, tmp_path / "undisturbed" / "cache")["events"]
    [unlocked] = numbers(events, lambda event, before: event.startswith("unlink cache/") and event.endswith(".lock"))
    folder = tmp_path / "killed"
    trainings.kill(folder / "run", SHORT, folder / "cache", kill_at=unlocked)
    trainings.finish(folder / "run", SHORT, folder / "cache")
    assert set(os.listdir(folder / "cache")) == set(os.listdir(tmp_path / "undisturbed" / "cache"))


def test_killed_after_the_last_checkpoint_the_old_ones_are_deleted_later(tmp_path: Path, trainings: Trainings) -> None:
    events = trainings.finish(tmp_path / "undisturbed" / "run", SHORT)["events"]
    last = max(number for number, name in enumerate(events, start=1) if name.startswith("rmdir run/checkpoints/"))
    trainings.kill(tmp_path / "killed" / "run", SHORT, kill_at=last)
    trainings.finish(tmp_path / "killed" / "run", SHORT)
    assert kept(tmp_path / "killed" / "run") == kept(tmp_path / "undisturbed" / "run") == ["step-000004"]


if __name__ == "__main__":
    serve()
