"""Interleaved timing: each variant runs in its own process, which repeats a function whenever the benchmark asks for it.

All variants are measured in the same period, so that a change in the speed of the machine affects them equally.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS_PER_REQUEST = 1.0
WARM_UP = 3
REMOVED_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # they would change the BLAS that is measured


class BenchmarkProcess:
    """A Python process that prints a line of JSON when it is ready, and one for each line that it receives."""

    def __init__(self, command: list[str], env: Mapping[str, str] = {}) -> None:
        inherited = {key: value for key, value in os.environ.items() if key not in REMOVED_VARIABLES}
        self._process = subprocess.Popen(
            [sys.executable, *command], env=inherited | dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready: dict[str, Any] = self._read()

    def request(self, line: str) -> Any:
        """Send a line, and return the answer."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Stop the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a benchmark process has failed; its error is printed above")
        return json.loads(line)


class TimedProcess(BenchmarkProcess):
    """A process that runs `serve_timings`."""

    @property
    def peak_mib(self) -> float:
        """The memory after the warm-up."""
        return float(self.ready["peak_mib"])

    def time(self, name: str) -> list[float]:
        """Return the seconds of each call of a function, which is called repeatedly for `SECONDS_PER_REQUEST`."""
        return list(self.request(name))


def serve_timings(functions: Mapping[str, Callable[[], object]]) -> None:
    """Time functions on request, in the process of a `TimedProcess`.

    Call "step" a few times to warm up and print the peak memory. Then, for each name on standard input, call that function
    repeatedly and print the seconds of each call.
    """
    for _ in range(WARM_UP):
        functions["step"]()
    print(json.dumps({"peak_mib": peak_mib()}), flush=True)
    for line in sys.stdin:
        function = functions[line.strip()]
        seconds: list[float] = []
        until = time.perf_counter() + SECONDS_PER_REQUEST
        while len(seconds) < 2 or time.perf_counter() < until:
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


def rotated(items: Sequence[T], i: int) -> list[T]:
    """Return the items in the order of round `i`, so that each is first in turn.

    >>> rotated("abc", 4)
    ['b', 'c', 'a']
    """
    i %= len(items)
    return [*items[i:], *items[:i]]


def peak_mib() -> float:
    """Return the memory of this process and its workers in MiB.

    This is the larger of the peak of this process and the present memory of all of them, with shared pages counted once.
    """
    children = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    present = 0
    for pid in [os.getpid(), *children]:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        present += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, present) / 1024
