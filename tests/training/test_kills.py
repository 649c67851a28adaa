"""Killed at any moment: a resumed run gives exactly the bits of a run that was not killed.

This file is also a script. The tests start it as a helper process without the threads of pytest and PyTorch. It forks each
training, which therefore need not import anything, and kills it, but never its workers.
"""

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
from typing import Any

import pytest
from helpers.disk import Cut, DiskCalls, Half, PowerCuts
from helpers.processes import child_processes
from helpers.runs import TINY_MODEL, checkpoint_names, differences, outcome, shorten_samples, temporary_files

from minigpt.data.token_files import prepare
from minigpt.runs.checkpoint import load_state, newest_intact
from minigpt.runs.folder import RunFolder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks trainings and adopts their orphaned workers")

SEED = 2024
TRIALS = 15  # for each number of threads
POWER_CUTS = 15  # of those that lose only some of the data; all that lose everything are tried
HELPERS = 2
KILLED = -9
CALLS = {"open", "write", "serialize_file", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir"}
PR_SET_CHILD_SUBREAPER = 36

LONG: dict[str, Any] = {
    **TINY_MODEL,
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
"""A request to a helper: `out`, `cache` and `settings`; optionally `overwrite`; `kill_after` (seconds) or `kill_at` (the number
of a call that changes the disk); `cuts` (the folder for what power cuts leave); `listing` (order of folder listings, 1 or -1)."""
Answer = dict[str, Any]
"The result: `status` (-9: killed), `seconds`, the disk `calls` (if killed by `kill_at`: only the last one), `cuts`, `error`."


# ----------------------------------------------------------------- the helper


class KillingCalls(DiskCalls):
    """Records the calls that change the disk, and kills the process before, or in the middle of, the n-th of them."""

    def __init__(self, job: Job, answer: int) -> None:
        self.calls: list[str] = []
        self._kill_at = job.get("kill_at")
        self._listing = job.get("listing")
        self._answer = answer
        self._folder = f"{Path(job['out']).parent}/"

    def on_call(self, name: str, *arguments: object, half: Half = lambda: None) -> None:
        """Record the call, and kill the process if it is the n-th."""
        self.calls.append(" ".join([name, *(str(argument).replace(self._folder, "") for argument in arguments)]))
        if len(self.calls) == self._kill_at:
            half()
            os.write(self._answer, json.dumps({"calls": self.calls[-1:]}).encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Patch this process, and the order in which folders are listed."""
        super().install(patch)
        if self._listing:
            listdir, step = os.listdir, self._listing
            patch.setattr(os, "listdir", lambda *path: sorted(listdir(*path))[::step])


def serve() -> None:
    """Fork a training for each job read from stdin, and print the answer; at the end wait for all orphaned workers."""
    for name in ("filelock", "minigpt.training.train", "rich.console", "safetensors.numpy", "tokenizers", "tomli_w"):
        import_module(name)
    warnings.filterwarnings("ignore", ".*trying the checkpoint before it")
    shorten_samples(pytest.MonkeyPatch())
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    for line in sys.stdin:
        print(json.dumps(_supervise(json.loads(line))), flush=True)
    sys.exit(_wait_for_orphans())


def _wait_for_orphans() -> str | None:
    """Wait until all workers have ended by themselves. Kill those that do not, and return an error message."""
    deadline = time.monotonic() + 30
    while (orphans := child_processes(os.getpid())) and time.monotonic() < deadline:
        if not os.waitpid(-1, os.WNOHANG)[0]:
            time.sleep(0.01)
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    return f"{len(orphans)} workers do not end" if orphans else None


def _supervise(job: Job) -> Answer:
    with tempfile.TemporaryFile() as answer:
        start = time.perf_counter()
        child = os.fork()
        if not child:
            _run_job(job, answer.fileno())
        if "kill_after" in job:
            time.sleep(job["kill_after"])
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.perf_counter() - start
        answer.seek(0)
        return {"status": status, "seconds": seconds, **json.loads(answer.read() or "{}")}


def _run_job(job: Job, answer: int) -> None:
    """Train in the forked process, and write the answer to a file."""
    code = 1
    try:
        if "cuts" in job:
            result: Answer = {"cuts": _simulate_power_cuts(job)}
        else:
            calls = KillingCalls(job, answer)
            _train(job, calls)
            result = {"calls": calls.calls}
        os.write(answer, json.dumps(result).encode())
        code = 0
    except BaseException:
        os.write(answer, json.dumps({"error": traceback.format_exc()}).encode())
    finally:
        os._exit(code)


def _simulate_power_cuts(job: Job) -> list[Cut]:
    """Train, and write what a power cut at each moment would leave. What they report is the last saved step."""
    from minigpt.training import trainer

    cuts, save = PowerCuts(Path(job["out"]).parent), trainer.save

    def save_and_report(run: Any, model: Any, moments: Any, state: Any) -> Path:
        path = save(run, model, moments, state)
        cuts.reported = state.step
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "save", save_and_report)
        _train(job, cuts, patch)
    cuts.cut("the end")
    return cuts.write(Path(job["cuts"]))


def _train(job: Job, calls: DiskCalls, patch: pytest.MonkeyPatch | None = None) -> None:
    """Train as the command line does; a run that exists is resumed."""
    from rich.console import Console

    from minigpt.training.resolve import resolve
    from minigpt.training.settings import Settings
    from minigpt.training.train import train

    os.environ["MINIGPT_CACHE"] = job["cache"]
    out, overwrite = Path(job["out"]), job.get("overwrite", False)
    resume = not overwrite and (out / "config.toml").exists()
    given = {**job["settings"], "data": tuple(job["settings"]["data"])}
    settings = resolve({}, out / "config.toml", resume) if resume else Settings(**given)
    console = Console(file=io.StringIO())
    calls.install(patch or pytest.MonkeyPatch())
    train(settings, out, console=console, command="minigpt train", version="0", resume=resume, overwrite=overwrite)


# ------------------------------------------------------------------ the tests


class Helper:
    """A process that runs this file as a script."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])  # tests/helpers
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __call__(self, job: Job) -> Answer:
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        return dict(json.loads(line))

    def end(self) -> tuple[int, str]:
        """Wait until all of its processes have ended; return its exit code and stderr."""
        _, err = self._process.communicate()
        return self._process.returncode, err


@dataclass(frozen=True)
class Trainings:
    """Runs jobs on several helpers in parallel."""

    helpers: SimpleQueue[Helper]
    text: Path

    def run(self, out: Path, settings: dict[str, Any], cache: Path | None = None, **how: Any) -> Answer:
        """Train in `out`, or resume the run there. The training may be killed."""
        settings = {**settings, "data": [str(self.text)]}
        helper = self.helpers.get()
        try:
            answer = helper({"out": str(out), "cache": str(cache or os.environ["MINIGPT_CACHE"]), "settings": settings, **how})
        finally:
            self.helpers.put(helper)
        assert answer["status"] in (0, KILLED), f"{out}: {answer.get('error', answer)}"
        return answer

    def finish(self, out: Path, settings: dict[str, Any], cache: Path | None = None, **how: Any) -> Answer:
        """As `run`, but the training must not be killed."""
        answer = self.run(out, settings, cache, **how)
        assert answer["status"] == 0
        return answer

    def kill(self, out: Path, settings: dict[str, Any], cache: Path | None = None, **how: Any) -> str:
        """As `run`, but the training must be killed at a call; returns that call."""
        answer = self.run(out, settings, cache, **how)
        assert answer["status"] == KILLED
        return str(*answer["calls"])


@pytest.fixture
def trainings(text_file: Path) -> Iterator[Trainings]:
    prepare([str(text_file)], tokenizer="bytes")  # a test in which this is killed too uses another cache
    helpers = [Helper() for _ in range(HELPERS)]
    queue: SimpleQueue[Helper] = SimpleQueue()
    for helper in helpers:
        queue.put(helper)
    yield Trainings(queue, text_file)
    assert [helper.end() for helper in helpers] == [(0, "")] * HELPERS


def in_parallel(function: Callable[[int], Any], numbers: Iterable[int]) -> list[Any]:
    with ThreadPoolExecutor(HELPERS) as pool:
        return list(pool.map(function, numbers))


def numbers(calls: list[str], condition: Callable[[str, str], bool]) -> list[int]:
    """Return the numbers of the calls for which condition(call, the call before) holds."""
    return [number for number, (before, call) in enumerate(pairwise(["", *calls]), start=1) if condition(call, before)]


@pytest.mark.parametrize("threads", [1, 2])
def test_killed_at_random_moments_a_run_ends_as_an_undisturbed_one(tmp_path: Path, trainings: Trainings, threads: int) -> None:
    settings = {**LONG, "threads": threads}
    seconds = trainings.finish(tmp_path / "undisturbed", settings)["seconds"]
    expected = outcome(tmp_path / "undisturbed")
    assert [line["step"] for line in expected["metrics"]] == list(range(1, 1 + settings["steps"]))

    def trial(number: int) -> None:
        seed = SEED + 100 * threads + number
        rng = random.Random(seed)
        folder, delays = tmp_path / str(number), [seconds * rng.random()]
        cache = folder / "cache" if number % 3 == 0 else None
        while trainings.run(folder / "run", settings, cache, kill_after=delays[-1])["status"] != KILLED:
            shutil.rmtree(folder)  # the training finished before the kill
            delays.append(delays[-1] / 2)
        for _ in range(number % 4):
            delays.append(seconds * rng.random())
            trainings.run(folder / "run", settings, cache, kill_after=delays[-1])
        trainings.finish(folder / "run", settings, cache)
        found = differences(folder / "run", expected) + temporary_files(folder)
        assert found == [], f"seed {seed}, killed after {delays} of {seconds} s"

    in_parallel(trial, range(TRIALS))


def test_killed_at_each_call_a_run_ends_as_an_undisturbed_one(tmp_path: Path, trainings: Trainings) -> None:
    undisturbed = tmp_path / "undisturbed"
    calls = trainings.finish(undisturbed / "run", SHORT, undisturbed / "cache")["calls"]
    expected = outcome(undisturbed / "run")
    assert {name.split()[0] for name in calls} == CALLS

    def trial(number: int) -> tuple[str, list[str]]:
        folder = tmp_path / str(number)
        killed = trainings.kill(folder / "run", SHORT, folder / "cache", kill_at=number)
        trainings.finish(folder / "run", SHORT, folder / "cache")
        return killed, differences(folder / "run", expected) + temporary_files(folder)

    trials = in_parallel(trial, numbers(calls, lambda call, before: not call.startswith("fsync")))
    assert [(killed, found) for killed, found in trials if found] == []


def test_a_power_cut_at_any_moment_loses_nothing_that_was_saved(tmp_path: Path, trainings: Trainings) -> None:
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    answer = trainings.finish(recorded / "run", SHORT, recorded / "cache", cuts=str(tmp_path / "cuts"))
    cuts = [Cut(*cut) for cut in answer["cuts"]]
    expected = outcome(recorded / "run")

    def trial(number: int) -> tuple[Cut, list[str]]:
        run, cache = tmp_path / "cuts" / str(number) / "run", tmp_path / "cuts" / str(number) / "cache"
        saved = load_state(newest).step if (newest := newest_intact(RunFolder(run))) else 0
        trainings.finish(run, SHORT, cache)
        lost = [f"lost step {cuts[number].reported}"] if saved < cuts[number].reported else []
        return cuts[number], lost + differences(run, expected) + temporary_files(run, cache)

    partly = [number for number, cut in enumerate(cuts) if not cut.loses_all]
    chosen = [number for number, cut in enumerate(cuts) if cut.loses_all] + random.Random(SEED).sample(partly, POWER_CUTS)
    trials = in_parallel(trial, chosen)
    assert [(cut, found) for cut, found in trials if found] == []
    assert {cut.reported for cut, _ in trials} == {0, 2, 3, 4}


def test_killed_at_each_call_of_a_resume_a_run_can_still_be_resumed(tmp_path: Path, trainings: Trainings) -> None:
    settings = {**SHORT, "keep": 2}
    calls = trainings.finish(tmp_path / "undisturbed" / "run", settings)["calls"]
    expected = outcome(tmp_path / "undisturbed" / "run")
    broken = tmp_path / "broken" / "run"
    last_save = calls.index("serialize_file run/checkpoints/.step-000004/optimizer.safetensors")
    trainings.kill(broken, settings, kill_at=1 + last_save)
    assert checkpoint_names(broken) == [".step-000004", "step-000002", "step-000003"]
    os.truncate(broken / "checkpoints" / "step-000003" / "model.safetensors", 100)

    def copy(name: str) -> Path:
        return shutil.copytree(broken, tmp_path / name / "run")

    calls = trainings.finish(copy("once"), settings)["calls"]

    def trial(number: int) -> tuple[str, list[str]]:
        run = copy(str(number))
        killed = trainings.kill(run, settings, kill_at=number)
        trainings.finish(run, settings)
        assert checkpoint_names(run) == ["damaged-step-000003", "step-000003", "step-000004"]
        return killed, differences(run, expected) + temporary_files(run)

    trials = in_parallel(trial, range(1, calls.index("serialize_file run/checkpoints/.step-000003/model.safetensors")))
    assert [(killed, found) for killed, found in trials if found] == []


@pytest.mark.parametrize("listing", [1, -1])
def test_killed_while_replacing_a_run_the_same_command_replaces_it(tmp_path: Path, trainings: Trainings, listing: int) -> None:
    settings = {**SHORT, "seed": 1}
    trainings.finish(tmp_path / "old" / "run", SHORT)
    trainings.finish(tmp_path / "undisturbed" / "run", settings)
    expected = outcome(tmp_path / "undisturbed" / "run")

    def copy(name: str) -> Path:
        return shutil.copytree(tmp_path / "old" / "run", tmp_path / name / "run")

    calls = trainings.finish(copy("once"), settings, overwrite=True, listing=listing)["calls"]

    def trial(number: int) -> tuple[str, list[str]]:
        run = copy(str(number))
        killed = trainings.kill(run, settings, kill_at=number, overwrite=True, listing=listing)
        trainings.finish(run, settings, overwrite=True)
        return killed, differences(run, expected) + temporary_files(run)

    deleting = numbers(calls, lambda call, before: call.startswith(("unlink", "rmdir")) or before.startswith("unlink"))
    first_written = next(number for number, call in enumerate(calls) if call.startswith("replace run/.run.json"))
    trials = in_parallel(trial, [number for number in deleting if number <= first_written])
    assert [(killed, found) for killed, found in trials if found] == []
    assert len(trials) > 10


def test_killed_when_the_data_is_ready_no_lock_remains_in_the_cache(tmp_path: Path, trainings: Trainings) -> None:
    calls = trainings.finish(tmp_path / "undisturbed" / "run", SHORT, tmp_path / "undisturbed" / "cache")["calls"]
    [unlocked] = numbers(calls, lambda call, before: call.startswith("unlink cache/") and call.endswith(".lock"))
    folder = tmp_path / "killed"
    trainings.kill(folder / "run", SHORT, folder / "cache", kill_at=unlocked)
    trainings.finish(folder / "run", SHORT, folder / "cache")
    assert set(os.listdir(folder / "cache")) == set(os.listdir(tmp_path / "undisturbed" / "cache"))


def test_killed_after_the_last_checkpoint_old_checkpoints_are_deleted_later(tmp_path: Path, trainings: Trainings) -> None:
    calls = trainings.finish(tmp_path / "undisturbed" / "run", SHORT)["calls"]
    last = max(number for number, name in enumerate(calls, start=1) if name.startswith("rmdir run/checkpoints/"))
    trainings.kill(tmp_path / "killed" / "run", SHORT, kill_at=last)
    trainings.finish(tmp_path / "killed" / "run", SHORT)
    assert checkpoint_names(tmp_path / "killed" / "run") == checkpoint_names(tmp_path / "undisturbed" / "run") == ["step-000004"]


if __name__ == "__main__":
    serve()
