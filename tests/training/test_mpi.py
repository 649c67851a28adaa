"""Real MPI jobs: several ranks compute the same as one process, and a rank that fails ends the job."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.processes import child_processes, descends_from, has_ended, wait_until
from helpers.runs import as_flags
from safetensors.numpy import load_file

from minigpt import load
from minigpt.runs.checkpoint import load_state, newest_checkpoint
from minigpt.runs.folder import RunFolder
from minigpt.training.parallel.launch import mpiexec

pytest.importorskip("mpi4py", reason="needs the extra mpi")

RARELY = {"eval_every": 50, "checkpoint_every": 5}
Start = Callable[..., "subprocess.Popen[str]"]
Finish = Callable[..., tuple[int, str, str]]
SETTINGS = {
    "tokenizer": "bytes",
    "context_length": 16,
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 2,
    "batch_size": 6,
    "micro_batch": 1,
    "dropout": 0.1,
    "steps": 12,
    "lr": 1e-2,
    "threads": 1,
    "eval_every": 4,
    "eval_tokens": 200,
    "checkpoint_every": 4,
    "sample_every": 0,
    "watchdog": 60,
}
FLAGS = as_flags(SETTINGS)


@pytest.fixture
def start(text_file: Path, tmp_path: Path) -> Iterator[Start]:
    """`start(ranks, out, steps=...)` starts a training as that many ranks; 0 means without MPI. It is killed after the test."""
    started = []

    def begin(ranks: int, out: Path, *words: object, restarts: int = 0, **changes: Any) -> "subprocess.Popen[str]":
        flags = as_flags({**SETTINGS, **changes})
        job = ["launch", "-n", str(ranks), *(["--restarts", str(restarts)] if restarts else [])] if ranks else []
        command = [*job, "train", "--data", str(text_file), "--out", str(out), *flags, *map(str, words)]
        process = subprocess.Popen(
            [sys.executable, "-m", "minigpt", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            for rank in ranks_of(process):
                with suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGKILL)
            process.kill()
            process.wait()


@pytest.fixture
def finish(start: Start) -> Finish:
    """Like `start`, but wait for the end; return exit code, stdout and stderr."""

    def run(*arguments: Any, **changes: Any) -> tuple[int, str, str]:
        process = start(*arguments, **changes)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    return run


def ranks_of(process: "subprocess.Popen[str]") -> list[int]:
    """Return the process ids of a job's ranks, in the order of ranks."""
    ranks = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "environ").read_bytes().split(b"\0")
            environment = dict(word.split(b"=", 1) for word in words if b"=" in word)
            if b"OMPI_COMM_WORLD_RANK" in environment and descends_from(int(folder.name), process.pid):
                ranks[int(environment[b"OMPI_COMM_WORLD_RANK"])] = int(folder.name)
    return [ranks[number] for number in sorted(ranks)]


def wait_for_step(run: Path, step: int) -> None:
    """Wait until that many steps are recorded."""
    path = run / "metrics.jsonl"
    wait_until(lambda: path.exists() and len(path.read_bytes().splitlines()) >= step, f"{run} does not reach step {step}")


def losses(run: Path) -> list[float]:
    records = RunFolder(run).records("metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    return [value for record in records for value in (record["loss"], record["grad_norm"], record.get("val_loss", 0.0))]


def layer_norms(run: Path) -> list[float]:
    records = [record["norms"] for record in RunFolder(run).records("metrics.jsonl") if "norms" in record]
    assert len(records) == SETTINGS["steps"] // SETTINGS["eval_every"]
    return [value for norms in records for layer in norms.values() for value in layer.values()]


def weights(run: Path) -> np.ndarray:
    return load(run)[0].parameters.flat


def newest_files(run: Path) -> dict[str, bytes]:
    return {name: (newest_checkpoint(run) / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


linux = pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")


@pytest.fixture(scope="module")
def train_alone(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`train_alone(recipe)` returns the run of a single process."""

    @cache
    def train(recipe: str) -> Path:
        out = tmp_path_factory.mktemp("alone") / "run"
        command = [sys.executable, "-m", "minigpt", "train", "--data", str(text_file), "--out", str(out), *FLAGS]
        subprocess.run([*command, "--recipe", recipe], check=True, capture_output=True, timeout=120)
        return out

    return train


@pytest.fixture
def alone(train_alone: Callable[[str], Path]) -> Path:
    """The run of a single process with the default recipe."""
    return train_alone("default")


SMALL_BUCKETS = """
import os
if os.environ.get("OMPI_COMM_WORLD_RANK") is not None:
    import minigpt.training.parallel.mpi_data_parallel as module
    module.BUCKET_SIZE, module.MIN_PART_SIZE = 1000, 1
"""
"The default size of a bucket is larger than the whole model."


@pytest.mark.parametrize(
    "ranks, threads, recipe", [(2, 1, "default"), (4, 1, "default"), (3, 2, "default"), (2, 1, "gpt2"), (3, 2, "gpt2")]
)
def test_ranks_learn_what_one_process_learns(
    tmp_path: Path,
    finish: Finish,
    train_alone: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
    threads: int,
    recipe: str,
) -> None:
    alone = train_alone(recipe)
    (tmp_path / "sitecustomize.py").write_text(SMALL_BUCKETS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    code, out, err = finish(ranks, tmp_path / "run", threads=threads, recipe=recipe)
    assert code == 0, err
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=2e-5)
    np.testing.assert_allclose(layer_norms(tmp_path / "run"), layer_norms(alone), rtol=1e-4)
    np.testing.assert_allclose(weights(tmp_path / "run"), weights(alone), rtol=1e-3, atol=2e-5)
    found, expected = (load_file(newest_checkpoint(run) / "optimizer.safetensors") for run in (tmp_path / "run", alone))
    for name, moment in expected.items():
        np.testing.assert_allclose(found[name], moment, rtol=1e-3, atol=1e-6, err_msg=name)
    assert f"{ranks} ranks with" in out and (tmp_path / "run" / "report.html").exists()
    files = [{path.relative_to(run).as_posix() for path in run.rglob("*")} for run in (tmp_path / "run", alone)]
    assert files[0] == files[1]  # the same files, whatever the number of ranks


def test_the_same_number_of_ranks_gives_the_same_bits_even_if_resumed(tmp_path: Path, start: Start, finish: Finish) -> None:
    assert finish(2, tmp_path / "once", steps=150, **RARELY)[0] == 0
    process = start(2, tmp_path / "twice", steps=150, **RARELY)
    wait_for_step(tmp_path / "twice", 3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert 3 <= step_of(tmp_path / "twice") < 150
    assert finish(2, tmp_path / "twice", "--resume", steps=150, **RARELY)[0] == 0
    assert losses(tmp_path / "twice") == losses(tmp_path / "once")
    assert newest_files(tmp_path / "twice") == newest_files(tmp_path / "once")


@pytest.mark.parametrize("first, second", [(0, 2), (2, 3), (3, 0)])
def test_another_number_of_ranks_can_resume_a_run(tmp_path: Path, finish: Finish, alone: Path, first: int, second: int) -> None:
    assert finish(first, tmp_path / "run", steps=8, warmup=1)[0] == 0
    code, out, err = finish(second, tmp_path / "run", "--resume", steps=12, warmup=1)
    assert code == 0, err
    assert "Resuming after step 8." in out
    assert finish(0, tmp_path / "straight", steps=8, warmup=1)[0] == 0
    assert finish(0, tmp_path / "straight", "--resume", steps=12, warmup=1)[0] == 0
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "straight"), rtol=2e-5)


@linux
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies_ends_the_job_and_leaves_a_checkpoint(tmp_path: Path, start: Start, finish: Finish, victim: int) -> None:
    assert finish(2, tmp_path / "once", steps=150, **RARELY)[0] == 0
    process = start(2, tmp_path / "run", steps=150, **RARELY)
    wait_for_step(tmp_path / "run", 6)
    os.kill(ranks_of(process)[victim], signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode not in (0, 2)
    assert finish(2, tmp_path / "run", "--resume", steps=150, **RARELY)[0] == 0
    assert newest_files(tmp_path / "run") == newest_files(tmp_path / "once")


@linux
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_hangs_ends_the_job(tmp_path: Path, start: Start, finish: Finish, victim: int) -> None:
    process = start(2, tmp_path / "run", steps=100_000, checkpoint_every=5, eval_every=100_000, watchdog=2)
    wait_for_step(tmp_path / "run", 6)
    os.kill(ranks_of(process)[victim], signal.SIGSTOP)
    _, err = process.communicate(timeout=60)
    assert process.returncode not in (0, 2)
    assert f"minigpt: rank {1 - victim} waited " in err and f"(--watchdog); no answer from rank {victim}\n" in err
    assert "mpi_data_parallel.py" in err  # where the other rank waited
    code, out, _ = finish(0, tmp_path / "run", "--resume", steps=step_of(tmp_path / "run") + 1, eval_every=1000)
    assert code == 0 and "Resuming after step" in out


def step_of(run: Path) -> int:
    return load_state(newest_checkpoint(run)).step


@linux
def test_launch_restarts_from_the_last_checkpoint(tmp_path: Path, start: Start, finish: Finish) -> None:
    assert finish(2, tmp_path / "once", steps=150, **RARELY)[0] == 0
    process = start(2, tmp_path / "run", restarts=2, steps=150, **RARELY)
    wait_for_step(tmp_path / "run", 6)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "restarting (1 of 2)" in err
    assert losses(tmp_path / "run") == losses(tmp_path / "once")
    assert newest_files(tmp_path / "run") == newest_files(tmp_path / "once")


@linux
@pytest.mark.parametrize("ended", ["launch", "mpiexec"])
def test_a_job_ends_with_its_launcher(tmp_path: Path, start: Start, ended: str) -> None:
    process = start(2, tmp_path / "run", steps=100_000, **RARELY)
    wait_for_step(tmp_path / "run", 3)
    ranks = ranks_of(process)
    [mpi] = child_processes(process.pid)
    os.kill(process.pid if ended == "launch" else mpi, signal.SIGKILL)
    wait_until(lambda: all(map(has_ended, [process.pid, mpi, *ranks])), "the job has not ended")
    assert process.wait() in (-signal.SIGKILL, 128 + signal.SIGKILL)


def test_a_hangup_saves_the_job(tmp_path: Path, start: Start) -> None:
    process = start(2, tmp_path / "run", steps=100_000, eval_every=100_000, checkpoint_every=100_000)
    wait_for_step(tmp_path / "run", 3)
    for _ in range(2):  # as a shell does whose terminal is closed
        process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 129, err
    assert step_of(tmp_path / "run") == len(RunFolder(tmp_path / "run").records("metrics.jsonl")) >= 3


def test_an_error_is_one_line_and_ends_all_ranks(tmp_path: Path, finish: Finish) -> None:
    code, _, err = finish(2, tmp_path / "run", d_model=15)
    assert code == 2
    [line] = [line for line in err.splitlines() if line.startswith("minigpt: ")]
    assert line.startswith("minigpt: d_model is 15, but must be divisible by n_heads = 2")
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_all_ranks(tmp_path: Path, finish: Finish) -> None:
    code, _, err = finish(2, tmp_path / "run", recipe="gpt2", lr=1e30, clip=0, weight_decay=0, warmup=1)
    assert code == 1
    assert sum("is not finite" in line for line in err.splitlines()) == 1


def test_ranks_prepare_the_same_token_file(tmp_path: Path, text_file: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    text = text_file.read_text(encoding="utf-8")
    for i in range(40):
        (folder / f"{i}.txt").write_text(f"{i} {text * 20}", encoding="utf-8")
    found = []
    for job in ([], ["launch", "-n", "3"]):
        cache = tmp_path / f"cache{len(job)}"
        command = [sys.executable, "-m", "minigpt", *job, "prepare", "--data", str(folder), "--vocab-size", "300"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "MINIGPT_CACHE": str(cache)}, timeout=120)
        (prepared,) = cache.iterdir()
        found.append({path.name: path.read_bytes() for path in prepared.iterdir()})
    assert found[0] == found[1]
    assert len(found[0]["train.bin"]) > 1 << 20  # several chunks of text for each rank


def without_launch(ranks: int, text: Path, out: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Train with mpiexec instead of `minigpt launch`."""
    script = Path(sys.executable).with_name("minigpt")
    if not script.exists():
        pytest.skip("minigpt is not installed beside this Python")
    command = [*mpiexec(), "-n", str(ranks), str(script), "train", "--data", str(text), "--out", str(out), *FLAGS]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, **root, **environment}, timeout=40)


def test_mpiexec_can_be_used_directly(tmp_path: Path, text_file: Path, alone: Path) -> None:
    done = without_launch(2, text_file, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=2e-5)


STOPPING = """
import os, signal
if os.environ.get("OMPI_COMM_WORLD_RANK") is not None:
    import minigpt.training.parallel.mpi
    minigpt.training.parallel.mpi.LONG_PHASE_FACTOR = 1
if os.environ.get("OMPI_COMM_WORLD_RANK") == "{rank}":
    import {module}
    original = {module}.{function}
    def stop(*arguments, **options):
        result = original(*arguments, **options) if {after} else None
        os.kill(os.getpid(), signal.SIGSTOP)
        return result
    {module}.{function} = stop
"""


@linux
@pytest.mark.parametrize(
    "phase, rank, function",
    [
        ("tokenizing", 1, "minigpt.data.token_files._encode"),
        ("the samples and the report after the last step", 0, "minigpt.training.trainer.Trainer.write_final_samples"),
        ("end", 1, "after minigpt.training.trainer.Trainer.train"),
    ],
)
def test_a_rank_that_hangs_in_any_phase_ends_the_job(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, phase: str, rank: int, function: str
) -> None:
    name = function.removeprefix("after ")
    module = ".".join(name.split(".")[:3])
    script = STOPPING.format(rank=rank, module=module, function=name.removeprefix(f"{module}."), after=name != function)
    (tmp_path / "sitecustomize.py").write_text(script, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    process = start(2, tmp_path / "run", steps=2, watchdog=2)
    _, err = process.communicate(timeout=60)
    assert process.returncode not in (0, 2)
    message = f"rank {1 - rank} waited 2 s for other ranks in the phase {phase!r} (--watchdog); no answer from rank {rank}\n"
    assert message in err


FAILING = """
import os
if os.environ.get("OMPI_COMM_WORLD_RANK") == "{rank}":
    import minigpt.training.trainer
    step = minigpt.training.trainer.Trainer.step
    def fail(trainer):
        if trainer.state.step == 5:
            raise OSError("the disk is gone")
        return step(trainer)
    minigpt.training.trainer.Trainer.step = fail
"""


@pytest.mark.parametrize("rank, message", [(0, "minigpt: the disk is gone. "), (1, "minigpt: rank 1: the disk is gone")])
def test_an_error_in_one_rank_ends_all_ranks(tmp_path: Path, text_file: Path, rank: int, message: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILING.format(rank=rank), encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = without_launch(2, text_file, tmp_path / "run", PYTHONPATH=path)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert step_of(tmp_path / "run") == 4


@pytest.mark.parametrize("job", [["launch", "-n", "2", "info"], ["train"]], ids=" ".join)
def test_without_mpi_the_error_names_the_extra(tmp_path: Path, job: list[str]) -> None:
    (tmp_path / "mpi4py.py").write_text("raise ImportError('there is no mpi4py')", encoding="utf-8")
    several = {"OMPI_COMM_WORLD_SIZE": "2"} if job == ["train"] else {}
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), **several}
    done = subprocess.run(
        [sys.executable, "-m", "minigpt", *job], capture_output=True, encoding="utf-8", env=environment, cwd=tmp_path
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'minigpt[mpi]'" in done.stderr


def test_processes_that_mpi_does_not_connect_are_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "SLURM_STEP_NUM_TASKS": "2"}
    command = [sys.executable, "-m", "minigpt", "train"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "MPI does not see the others" in done.stderr and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, message",
    [
        (["-n", "0", "info"], "ranks is 0, but must be at least 1"),
        (["-n", "2"], "launch needs a command to run"),
        (
            ["-n", "2", "--restarts", "1", "train"],
            "--restarts requires the command train with --out RUN",
        ),
        (["-n", "2", "trian"], "trian"),
    ],
    ids=lambda value: shlex.join(value) if isinstance(value, list) else "",
)
def test_invalid_launch_commands_are_refused(words: list[str], message: str) -> None:
    done = subprocess.run([sys.executable, "-m", "minigpt", "launch", *words], capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
