"""Workers: they do their share side by side, their errors arrive, and none of them stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minigpt.train import crew

ALL = [crew.Threads] + [crew.Processes] * crew.CAN_FORK
only_forked = pytest.mark.skipif(not crew.CAN_FORK, reason="processes are not forked on this system")


class Target:
    def __init__(self) -> None:
        self.shared = crew.shared_zeros(8, np.float32) if crew.CAN_FORK else np.zeros(8, np.float32)

    def double(self, worker: int, x: int) -> tuple[int, int]:
        self.shared[worker] = x
        return worker, 2 * x

    def fail(self, worker: int, which: int) -> int:
        if worker == which:
            raise ValueError(f"worker {worker} cannot")
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


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_worker_does_its_share_and_all_see_what_it_wrote(kind: type, workers: int) -> None:
    target = Target()
    hands = kind(target, workers)
    for x in (3, 4):
        assert hands.run("double", x) == [(worker, 2 * x) for worker in range(workers)]
        assert target.shared.tolist() == [x] * workers + [0] * (8 - workers)
    hands.close()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_error_arrives_and_the_crew_can_go_on(kind: type, which: int) -> None:
    hands = kind(Target(), 3)
    with pytest.raises(ValueError, match=f"worker {which} cannot"):
        hands.run("fail", which)
    assert hands.run("double", 1) == [(0, 2), (1, 2), (2, 2)]
    hands.close()


@pytest.mark.parametrize("kind", ALL)
def test_numbers_that_overflow_do_not_warn(kind: type) -> None:
    hands = kind(Target(), 2)
    assert hands.run("overflow") == [np.inf, np.inf]
    hands.close()


@only_forked
def test_more_than_one_worker_are_processes_which_end_with_the_crew() -> None:
    hands = crew.crew(Target(), 3)
    pids = hands.run("process")
    assert pids[0] == os.getpid()
    assert len(set(pids)) == 3
    hands.close()
    for pid in pids[1:]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@only_forked
def test_a_worker_that_was_killed_is_reported() -> None:
    hands = crew.Processes(Target(), 3)
    for method in ("die", "process"):  # found while it works, and found dead
        with pytest.raises(ChildProcessError, match=r"worker 1 died \(exit code -9\)"):
            hands.run(method)
    hands.close()


@only_forked
def test_ctrl_c_and_sigterm_are_the_callers_affair() -> None:
    hands = crew.Processes(Target(), 2)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(hands.run("process")[1], number)
        assert hands.run("double", 1) == [(0, 2), (1, 2)]
    hands.close()


@only_forked
def test_closing_does_not_wait_for_what_a_worker_is_at() -> None:
    hands = crew.Processes(Target(), 2)
    hands._pipes[0].send(("sleep", ()))
    start = time.perf_counter()
    hands.close()
    assert time.perf_counter() - start < 30


ALONE = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from test_crew import Target
from minigpt.train import crew
hands = crew.Processes(Target(), 3)
print(*hands.run("process")[1:], flush=True)
if {end!r} == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@only_forked
@pytest.mark.parametrize("end", ["forgotten", "killed"])
def test_no_worker_outlives_a_caller_that_does_not_close(end: str) -> None:
    script = ALONE.format(folder=str(Path(__file__).parent), end=end)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == (-signal.SIGKILL if end == "killed" else 0), result.stderr
    deadline = time.monotonic() + 30
    for pid in map(int, result.stdout.split()):
        while _alive(pid):
            assert time.monotonic() < deadline, f"worker {pid} is still there"
            time.sleep(0.01)


def _alive(pid: int) -> bool:
    """Whether the process exists and has not ended (one whose parent is gone may wait as a zombie for somebody to notice)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
