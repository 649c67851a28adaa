"""The ranks of an MPI job. Needs mpi4py and an MPI library; the extra `mpi` installs both.

Ranks exchange bytes, JSON and arrays, never pickled objects. Where a rank may wait long for the others (while rank 0 prepares
the data or writes the report) it polls and sleeps; within a training step it does not sleep.

No wait is unlimited. Each belongs to a phase, and a rank that waits longer than the limit of the phase prints the phase, and the
ranks that do not answer, and ends the job. The limit is `MPIRanks.watchdog` seconds, and `LONG_PHASE_FACTOR` times as much in
phases in which one rank may work for long while the others wait. Work itself is not limited, only waiting for other ranks.
"""

import faulthandler
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from minigpt.data.ranks import Ranks, SingleProcess, in_mpi_job
from minigpt.np.workspace import Array
from minigpt.training.machine import available_cores

POLL_INTERVAL_S = 0.002
LONG_PHASE_FACTOR = 10
PING_TIMEOUT_S = 1.0  # a rank that waits answers within POLL_INTERVAL_S
PING_TAG = 1
JOB_PHASES = {"encode": "tokenizing", "train": "training step"}
INSTALL_HINT = "pip install 'minigpt[mpi]' installs mpi4py and an MPI library"


@cache
def mpi_ranks() -> Ranks:
    """Return the ranks of the MPI job that this process belongs to, or a `SingleProcess`.

    Raises
    ------
    ValueError
        If mpiexec or srun started this process as one of several, but MPI is missing or does not see the other processes.
    """
    if not in_mpi_job():
        return SingleProcess(available_cores())
    ranks = MPIRanks()
    if ranks.size == 1:
        raise ValueError(
            "this process was started as one of several, but MPI does not see the others: use mpiexec or srun --mpi=pmix"
        )
    return ranks


class MPIRanks:
    """All ranks of an MPI job (COMM_WORLD). Raises `ValueError` without mpi4py or an MPI library."""

    def __init__(self) -> None:
        self._mpi = start_mpi()
        self._comm = self._mpi.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size
        self.in_job = False  # while a job runs, the other ranks would wait for a rank that exits
        self.watchdog = 0
        self._phase, self._limit_factor = "start", LONG_PHASE_FACTOR
        self.cores = self._cores_per_rank()

    def enter_phase(self, name: str, long: bool = False) -> None:
        """Set the phase that the watchdog names, and whether a rank may wait `LONG_PHASE_FACTOR` times as long in it."""
        self._phase, self._limit_factor = name, LONG_PHASE_FACTOR if long else 1

    @contextmanager
    def phase(self, name: str, long: bool = False) -> Iterator[None]:
        """Enter a phase for the duration of the block. All ranks leave a long one together."""
        before = self._phase, self._limit_factor
        self.enter_phase(name, long)
        yield
        if long:
            self._wait([self._comm.Ibarrier()])
        self._phase, self._limit_factor = before

    def bcast_json(self, message: Any = None) -> Any:
        """Broadcast a JSON value from rank 0; return it on every rank."""
        text = json.dumps(message).encode() if self.rank == 0 else b""
        length = np.array([len(text)])
        self._wait([self._comm.Ibcast(length)])
        content = np.frombuffer(text, np.uint8) if self.rank == 0 else np.empty(length[0], np.uint8)
        self._wait([self._comm.Ibcast(content)])
        return json.loads(content.tobytes())

    @contextmanager
    def job(self, name: str, **arguments: Any) -> Iterator[None]:
        """See `Ranks`."""
        if self.rank == 0:
            self.bcast_json({"job": name, "watchdog": self.watchdog, **arguments})
        self.in_job = True
        with self.phase(JOB_PHASES[name]):
            yield
        self.in_job = False

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """See `Ranks`."""
        sizes = np.empty(self.size, np.int64)
        self._wait([self._comm.Iallgather(np.array([len(content)]), sizes)])
        counts = [int(size) for size in sizes]
        gathered = np.empty(sum(counts) if self.rank == 0 else 0, np.uint8)
        self._wait([self._comm.Igatherv(np.frombuffer(content, np.uint8), [gathered, counts] if self.rank == 0 else None)])
        stops = np.cumsum(counts)
        return [gathered[stop - n : stop].tobytes() for stop, n in zip(stops, counts, strict=True)] if self.rank == 0 else []

    def allreduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over the ranks, with the same bits on every rank."""
        rows = np.empty((self.size, len(values)))
        self.wait_all([self._comm.Iallgather(np.array(values, float), rows)])
        return [math.fsum(column) for column in rows.T.tolist()]

    def ialltoallv(self, send: Array, receive: Array, parts: Sequence[slice]) -> Any:
        """Start an all-to-all exchange: rank i is sent send[parts[i]]; return the request.

        `receive` has shape (size, length of this rank's part) and gets one row from each rank. The caller sums the rows, so
        that the order of the sum does not depend on the MPI library.
        """
        mpi_type = self._mpi_type(send)
        receive_counts = [receive.shape[1]] * self.size
        offsets = [receive_counts[0] * rank for rank in range(self.size)]
        return self._comm.Ialltoallv([send, *_layout(parts), mpi_type], [receive, receive_counts, offsets, mpi_type])

    def iallgatherv(self, vector: Array, parts: Sequence[slice]) -> Any:
        """Start to send each rank's part of a vector to all ranks, in place; return the request."""
        return self._comm.Iallgatherv(self._mpi.IN_PLACE, [vector, *_layout(parts), self._mpi_type(vector)])

    def gatherv(self, part: Array, vector: Array, parts: Sequence[slice]) -> None:
        """Gather the parts of all ranks in `vector` on rank 0."""
        mpi_type = self._mpi_type(part)
        buffer = [vector, *_layout(parts), mpi_type] if self.rank == 0 else None
        self.wait_all([self._comm.Igatherv([part, mpi_type], buffer)])

    def scatterv(self, vector: Array, part: Array, parts: Sequence[slice]) -> None:
        """Scatter a vector on rank 0: each rank gets its part in `part`."""
        mpi_type = self._mpi_type(part)
        buffer = [vector, *_layout(parts), mpi_type] if self.rank == 0 else None
        self.wait_all([self._comm.Iscatterv(buffer, [part, mpi_type])])

    def bcast(self, vector: Array) -> None:
        """Broadcast a vector from rank 0, in place."""
        self.wait_all([self._comm.Ibcast([vector, self._mpi_type(vector)])])

    def test_all(self, requests: Sequence[Any]) -> None:
        """Test the requests for completion. MPI makes progress only inside such calls."""
        self._mpi.Request.Testall(list(requests))

    def wait_all(self, requests: Sequence[Any]) -> None:
        """Wait until all requests have completed, without sleeping."""
        self._wait(requests, poll_interval=0)

    def finalize(self) -> None:
        """Leave MPI together with the other ranks."""
        self.enter_phase("end")
        self._wait([self._comm.Ibarrier()])
        with hard_limit(self.watchdog):
            self._mpi.Finalize()

    def abort(self, code: int) -> None:
        """End all ranks immediately, with this exit code."""
        self._comm.Abort(code)

    def _mpi_type(self, array: Array) -> Any:
        return self._mpi.FLOAT if array.dtype == np.float32 else self._mpi.DOUBLE

    def _cores_per_rank(self) -> int:
        """Return the number of cores that this machine's ranks may use together, divided by the number of those ranks.

        mpiexec may have bound each rank to a core of its own, or none of them.
        """
        local = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(available_cores())
        mask = np.zeros(4096, np.uint8)
        mask[list(allowed)] = 1
        union = np.empty_like(mask)
        local.Allreduce(mask, union, self._mpi.MAX)
        return max(1, int(union.sum()) // local.size)

    def _wait(self, requests: Sequence[Any], poll_interval: float = POLL_INTERVAL_S) -> None:
        """Wait until all requests have completed. Ends the job if that takes longer than the limit of the phase."""
        requests = list(requests)
        limit = self.watchdog * self._limit_factor
        start = time.monotonic()
        while not self._mpi.Request.Testall(requests):
            self._answer_pings()
            if limit and time.monotonic() - start > limit:
                self._end_job(limit)
            time.sleep(poll_interval)

    def _end_job(self, seconds: int) -> None:
        silent = ", ".join(map(str, self._silent_ranks()))
        message = f"minigpt: rank {self.rank} waited {seconds} s for other ranks in the phase {self._phase!r} (--watchdog)"
        print(f"{message}; no answer from rank {silent}" if silent else message, file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr, all_threads=False)
        self.abort(1)

    def _silent_ranks(self) -> list[int]:
        """Return the ranks that do not answer a message: they are stopped, or do something else than wait."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        pings = [self._comm.Issend([b"", self._mpi.BYTE], rank, PING_TAG) for rank in others]  # complete when received
        deadline = time.monotonic() + PING_TIMEOUT_S
        while not self._mpi.Request.Testall(pings) and time.monotonic() < deadline:
            self._answer_pings()
            time.sleep(POLL_INTERVAL_S)
        return [rank for rank, ping in zip(others, pings, strict=True) if not ping.Test()]

    def _answer_pings(self) -> None:
        """Receive the messages of ranks whose limit has passed."""
        while self._comm.Iprobe(tag=PING_TAG):
            self._comm.Recv([bytearray(), self._mpi.BYTE], tag=PING_TAG)


def start_mpi() -> Any:
    """Import mpi4py's module MPI, which waits for the other ranks to do the same."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"this process was started as one of several, but MPI cannot be loaded ({error}): {INSTALL_HINT}"
        ) from None
    return MPI


@contextmanager
def hard_limit(seconds: int) -> Iterator[None]:
    """End this process, printing where it is, if the block takes longer: for calls of MPI that hold the interpreter lock.

    MPI then ends the other ranks. 0 means no limit.
    """
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _layout(parts: Sequence[slice]) -> tuple[list[int], list[int]]:
    """Return the counts and the displacements of the parts of a vector, as MPI expects them."""
    return [part.stop - part.start for part in parts], [part.start for part in parts]
