"""Sides that take turns: each is a process that stays alive and does something again and again whenever it is asked.

So all sides are measured in one run, and a machine that slows down slows all of them.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SECONDS_A_TURN = 1.0
WARM_UP = 3
SPOILERS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # they change what BLAS is measured


class Side:
    """A process that answers with `answer`, seen from outside."""

    def __init__(self, command: list[str], env: Mapping[str, str] = {}) -> None:
        inherited = {key: value for key, value in os.environ.items() if key not in SPOILERS}
        self._process = subprocess.Popen(
            [sys.executable, *command], env=inherited | dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.peak_mib: float = self._answer()["peak_mib"]

    def ask(self, what: str) -> list[float]:
        """The seconds of each of its doings for a turn."""
        assert self._process.stdin
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return list(self._answer())

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a side has died; see above")
        return json.loads(line)


def answer(doings: Mapping[str, Callable[[], object]]) -> None:
    """The life of a side: warm up with "step", then do for a turn what each line of input names, and say how long each took."""
    for _ in range(WARM_UP):
        doings["step"]()
    print(json.dumps({"peak_mib": peak_mib()}), flush=True)
    for line in sys.stdin:
        do = doings[line.strip()]
        seconds: list[float] = []
        until = time.perf_counter() + SECONDS_A_TURN
        while len(seconds) < 2 or time.perf_counter() < until:
            start = time.perf_counter()
            do()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


def peak_mib() -> float:
    """Memory of this process and its workers: the peak of this one, or what all hold now (shared pages once) if that is more."""
    children = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    held = 0
    for pid in [os.getpid(), *children]:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        held += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, held) / 1024
