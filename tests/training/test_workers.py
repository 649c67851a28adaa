"""Workers run in parallel, their errors are raised in the caller, and none of them outlives it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.processes import has_ended, wait_until

from minigpt.training.interrupt import SIGNALS
from minigpt.training.parallel.workers import CAN_FORK, ProcessWorkers, ThreadWorkers, shared_zeros, start_workers

KINDS = [ThreadWorkers, *([ProcessWorkers] if CAN_FORK else [])]
only_forked = pytest.mark.skipif(not CAN_FORK, reason="workers are not forked on this system")


class Target:
    def __init__(self) -> None:
        self.shared = shared_zeros(8, np.float32) if CAN_FORK else np.zeros(8, np.float32)

    def double(self, worker: int, x: int) -> tuple[int, int]:
        self.shared[worker] = x
        return worker, 2 * x

    def fail(self, worker: int, which: int) -> int:
        if worker == which:
            raise ValueError(f"worker {worker} failed")
        return worker

    def overflow(self, worker: int) -> float:
        return float(np.float32(1e38) * np.float32(10))

    def process(self, worker: int) -> int:
        return os.getpid()

    def die(self, worker: int) -> None:
        if worker == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def sleep(self, worker: int) -> None:
        if worker:
            time.sleep(60)

    def multiply(self, worker: int) -> None:
        """Compute one product that takes minutes, because NumPy multiplies integers without a BLAS."""
        if worker:
            a = np.ones((6000, 6000), np.int8)
            a @ a

    def interrupt(self, worker: int) -> None:
        if worker == 0:
            raise KeyboardInterrupt
        self.multiply(worker)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_worker_runs_and_all_see_what_it_wrote(kind: type, n: int) -> None:
    target = Target()
    workers = kind(target, n)
    for x in (3, 4):
        assert workers.run("double", x) == [(worker, 2 * x) for worker in range(n)]
        assert target.shared.tolist() == [x] * n + [0] * (8 - n)
    workers.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_error_is_raised_and_the_workers_can_continue(kind: type, which: int) -> None:
    workers = kind(Target(), 3)
    with pytest.raises(ValueError, match=f"worker {which} failed"):
        workers.run("fail", which)
    assert workers.run("double", 1) == [(0, 2), (1, 2), (2, 2)]
    workers.close()


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_overflow_do_not_warn(kind: type) -> None:
    workers = kind(Target(), 2)
    assert workers.run("overflow") == [np.inf, np.inf]
    workers.close()


@only_forked
def test_several_workers_are_processes_which_end_when_closed() -> None:
    workers = start_workers(Target(), 3)
    pids = workers.run("process")
    assert pids[0] == os.getpid()
    assert len(set(pids)) == 3
    workers.close()
    for pid in pids[1:]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_processes_of_an_mpi_job_do_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    workers = start_workers(Target(), 2)
    assert isinstance(workers, ThreadWorkers)
    workers.close()


@only_forked
def test_a_worker_that_was_killed_is_reported() -> None:
    workers = ProcessWorkers(Target(), 3)
    for method in ("die", "process"):  # it dies during a call, and is dead before one
        with pytest.raises(ChildProcessError, match=r"worker 1 died \(exit code -9\)"):
            workers.run(method)
    workers.close()


@only_forked
def test_workers_ignore_the_signals_that_request_a_stop() -> None:
    workers = ProcessWorkers(Target(), 2)
    for number in SIGNALS:
        os.kill(workers.run("process")[1], number)
        assert workers.run("double", 1) == [(0, 2), (1, 2)]
    workers.close()


@only_forked
def test_closing_does_not_wait_for_a_running_call() -> None:
    workers = ProcessWorkers(Target(), 3)
    pids = workers.run("process")[1:]
    for pipe in workers._pipes:
        pipe.send(("sleep", ()))
    start = time.perf_counter()
    workers.close()
    assert time.perf_counter() - start < 30
    assert all(map(has_ended, pids))


@only_forked
def test_an_interrupt_of_the_caller_ends_the_running_calls_of_the_workers() -> None:
    workers = ProcessWorkers(Target(), 3)
    pids = workers.run("process")[1:]
    with pytest.raises(KeyboardInterrupt):
        workers.run("interrupt")
    assert all(map(has_ended, pids))
    with pytest.raises(ChildProcessError, match="worker 1 died"):
        workers.run("process")  # not an answer to the previous call
    workers.close()


CALLER = """
import os, signal, sys
sys.path[:0] = {folders!r}
from test_workers import Target
from minigpt.training.parallel.workers import ProcessWorkers
workers = ProcessWorkers(Target(), 3)
print(*workers.run("process")[1:], flush=True)
if {end!r} == "killed during a call":
    for pipe in workers._pipes:
        pipe.send(("multiply", ()))
if {end!r} != "returns":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@only_forked
@pytest.mark.parametrize("end", ["returns", "killed", "killed during a call"])
def test_no_worker_outlives_a_caller_that_does_not_close(end: str) -> None:
    script = CALLER.format(folders=[str(Path(__file__).parent), str(Path(__file__).parents[1])], end=end)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == (0 if end == "returns" else -signal.SIGKILL), result.stderr
    pids = list(map(int, result.stdout.split()))
    wait_until(lambda: all(map(has_ended, pids)), "a worker has not ended", timeout=30)
