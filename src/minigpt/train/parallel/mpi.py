"""The ranks of an MPI job. Needs mpi4py and an MPI library; the extra `mpi` installs both.

Ranks exchange bytes, JSON and arrays, never pickled objects. Where a rank may wait long for the others (while rank 0 prepares
the data or writes the report) it polls and sleeps; within a training step it does not sleep.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from minigpt.data.ranks import Ranks, SingleProcess, in_mpi_job
from minigpt.np.workspace import Array
from minigpt.train.machine import available_cores

POLL_INTERVAL_S = 0.002
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
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise ValueError(
                f"this process was started as one of several, but MPI cannot be loaded ({error}): {INSTALL_HINT}"
            ) from None
        self._mpi, self._comm = MPI, MPI.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size
        self.in_job = False  # while a job runs, the other ranks would wait forever for a rank that exits
        self.cores = self._cores_per_rank()

    def bcast_json(self, message: Any = None) -> Any:
        """Broadcast a JSON value from rank 0; return it on every rank."""
        text = json.dumps(message).encode() if self.rank == 0 else b""
        length = np.array([len(text)])
        self._wait(self._comm.Ibcast(length))
        content = np.frombuffer(text, np.uint8) if self.rank == 0 else np.empty(length[0], np.uint8)
        self._wait(self._comm.Ibcast(content))
        return json.loads(content.tobytes())

    @contextmanager
    def job(self, name: str, **arguments: Any) -> Iterator[None]:
        """See `Ranks`."""
        if self.rank == 0:
            self.bcast_json({"job": name, **arguments})
        self.in_job = True
        yield
        self.in_job = False

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """See `Ranks`."""
        sizes = np.empty(self.size, np.int64)
        self._wait(self._comm.Iallgather(np.array([len(content)]), sizes))
        counts = [int(size) for size in sizes]
        gathered = np.empty(sum(counts) if self.rank == 0 else 0, np.uint8)
        self._wait(self._comm.Igatherv(np.frombuffer(content, np.uint8), [gathered, counts] if self.rank == 0 else None))
        stops = np.cumsum(counts)
        return [gathered[stop - n : stop].tobytes() for stop, n in zip(stops, counts, strict=True)] if self.rank == 0 else []

    def allreduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over the ranks, with the same bits on every rank."""
        rows = np.empty((self.size, len(values)))
        self._comm.Allgather(np.array(values, float), rows)
        return [math.fsum(column) for column in rows.T.tolist()]

    def ialltoallv(self, send: Array, receive: Array, bounds: Sequence[int]) -> Any:
        """Start an all-to-all exchange: rank i is sent send[bounds[i]:bounds[i + 1]]; return the request.

        `receive` has shape (size, length of this rank's part) and gets one row from each rank. The caller sums the rows, so
        that the order of the sum does not depend on the MPI library.
        """
        counts, mpi_type = np.diff(bounds).tolist(), self._mpi_type(send)
        receive_counts = [receive.shape[1]] * self.size
        offsets = [receive_counts[0] * rank for rank in range(self.size)]
        return self._comm.Ialltoallv([send, counts, list(bounds[:-1]), mpi_type], [receive, receive_counts, offsets, mpi_type])

    def iallgatherv(self, vector: Array, bounds: Sequence[int]) -> Any:
        """Start to send each rank's part of a vector to all ranks, in place; return the request."""
        counts = np.diff(bounds).tolist()
        return self._comm.Iallgatherv(self._mpi.IN_PLACE, [vector, counts, list(bounds[:-1]), self._mpi_type(vector)])

    def gatherv(self, part: Array, vector: Array, bounds: Sequence[int]) -> None:
        """Gather the parts of all ranks in `vector` on rank 0."""
        mpi_type = self._mpi_type(part)
        buffer = [vector, np.diff(bounds).tolist(), list(bounds[:-1]), mpi_type] if self.rank == 0 else None
        self._comm.Gatherv([part, mpi_type], buffer)

    def scatterv(self, vector: Array, part: Array, bounds: Sequence[int]) -> None:
        """Scatter a vector on rank 0: each rank gets its part in `part`."""
        mpi_type = self._mpi_type(part)
        buffer = [vector, np.diff(bounds).tolist(), list(bounds[:-1]), mpi_type] if self.rank == 0 else None
        self._comm.Scatterv(buffer, [part, mpi_type])

    def bcast(self, vector: Array) -> None:
        """Broadcast a vector from rank 0, in place."""
        self._comm.Bcast([vector, self._mpi_type(vector)])

    def test_all(self, requests: Sequence[Any]) -> None:
        """Test the requests for completion. MPI makes progress only inside such calls."""
        self._mpi.Request.Testall(list(requests))

    def wait_all(self, requests: Sequence[Any]) -> None:
        """Wait until all requests have completed."""
        self._mpi.Request.Waitall(list(requests))

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

    @staticmethod
    def _wait(request: Any) -> None:
        while not request.Test():
            time.sleep(POLL_INTERVAL_S)
