"""Ranks of an MPI job. Needs mpi4py and an MPI: the extra `mpi` brings both.

Between ranks go bytes, JSON and arrays, never pickled objects. Where ranks wait for one another for long (while rank 0 prepares
the data, or writes the report) they sleep in between; inside a training step they do not.
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

from minigpt.data.ranks import Alone, Ranks, in_a_job
from minigpt.np.workspace import Array
from minigpt.train.machine import available_cores

NAP_S = 0.002
HOW = "pip install 'minigpt[mpi]' brings mpi4py and an MPI"


@cache
def world() -> Ranks:
    """The ranks of the MPI job that this process belongs to, or this process alone.

    Raises `ValueError` where MPI is missing, or does not see the others.
    """
    if not in_a_job():
        return Alone(available_cores())
    ranks = World()
    if ranks.size == 1:
        raise ValueError("this is one of several processes, but MPI sees it alone: start them with mpiexec, or srun --mpi=pmix")
    return ranks


class World:
    """All ranks of an MPI job. Raises `ValueError` without mpi4py."""

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise ValueError(f"this is one of several processes, but MPI cannot be loaded ({error}): {HOW}") from None
        self._mpi, self._comm = MPI, MPI.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size
        self.busy = False  # in a job: the others would wait for ever if this one left
        self.cores = self._share_of_cores()

    def tell(self, message: Any = None) -> Any:
        """What rank 0 says, to all."""
        text = json.dumps(message).encode() if self.rank == 0 else b""
        length = np.array([len(text)])
        self._wait(self._comm.Ibcast(length))
        content = np.frombuffer(text, np.uint8) if self.rank == 0 else np.empty(length[0], np.uint8)
        self._wait(self._comm.Ibcast(content))
        return json.loads(content.tobytes())

    @contextmanager
    def job(self, name: str, **facts: Any) -> Iterator[None]:
        """See `Ranks`."""
        if self.rank == 0:
            self.tell({"job": name, **facts})
        self.busy = True
        yield
        self.busy = False

    def gather(self, content: bytes) -> list[bytes]:
        """See `Ranks`."""
        sizes = np.empty(self.size, np.int64)
        self._wait(self._comm.Iallgather(np.array([len(content)]), sizes))
        counts = [int(size) for size in sizes]
        everything = np.empty(sum(counts) if self.rank == 0 else 0, np.uint8)
        self._wait(self._comm.Igatherv(np.frombuffer(content, np.uint8), [everything, counts] if self.rank == 0 else None))
        stops = np.cumsum(counts)
        return [everything[stop - n : stop].tobytes() for stop, n in zip(stops, counts, strict=True)] if self.rank == 0 else []

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over the ranks: the same bits on every rank."""
        rows = np.empty((self.size, len(values)))
        self._comm.Allgather(np.array(values, float), rows)
        return [math.fsum(column) for column in rows.T.tolist()]

    def exchange(self, send: Array, receive: Array, bounds: Sequence[int]) -> Any:
        """Begin to send each rank its part of a vector, cut at `bounds`, and to receive (size, part) all there is of one's own.

        An all-to-all, after which the sum is ours: its order does not depend on the MPI.
        """
        counts, kind = np.diff(bounds).tolist(), self._kind(send)
        own = [receive.shape[1]] * self.size
        places = [own[0] * rank for rank in range(self.size)]
        return self._comm.Ialltoallv([send, counts, list(bounds[:-1]), kind], [receive, own, places, kind])

    def spread(self, vector: Array, bounds: Sequence[int]) -> Any:
        """Begin to give everybody the parts of a vector that each rank has its own of."""
        counts = np.diff(bounds).tolist()
        return self._comm.Iallgatherv(self._mpi.IN_PLACE, [vector, counts, list(bounds[:-1]), self._kind(vector)])

    def collect(self, own: Array, whole: Array, bounds: Sequence[int]) -> None:
        """Put every rank's own part of a vector together on rank 0, in `whole`."""
        kind = self._kind(own)
        where = [whole, np.diff(bounds).tolist(), list(bounds[:-1]), kind] if self.rank == 0 else None
        self._comm.Gatherv([own, kind], where)

    def deal(self, whole: Array, own: Array, bounds: Sequence[int]) -> None:
        """Give every rank its own part of a vector on rank 0."""
        kind = self._kind(own)
        where = [whole, np.diff(bounds).tolist(), list(bounds[:-1]), kind] if self.rank == 0 else None
        self._comm.Scatterv(where, [own, kind])

    def copy(self, vector: Array) -> None:
        """Give everybody a vector of rank 0."""
        self._comm.Bcast([vector, self._kind(vector)])

    def test(self, requests: Sequence[Any]) -> None:
        """Let what was begun go on: MPI works while it is called."""
        self._mpi.Request.Testall(list(requests))

    def wait(self, requests: Sequence[Any]) -> None:
        """Wait for the end of what was begun."""
        self._mpi.Request.Waitall(list(requests))

    def abort(self, code: int) -> None:
        """End all ranks at once."""
        self._comm.Abort(code)

    def _kind(self, array: Array) -> Any:
        return self._mpi.FLOAT if array.dtype == np.float32 else self._mpi.DOUBLE

    def _share_of_cores(self) -> int:
        """Cores that the ranks on this machine may use together, divided among them: some are bound to a core each, some not."""
        here = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(available_cores())
        marks = np.zeros(4096, np.uint8)
        marks[list(allowed)] = 1
        together = np.empty_like(marks)
        here.Allreduce(marks, together, self._mpi.MAX)
        return max(1, int(together.sum()) // here.size)

    @staticmethod
    def _wait(request: Any) -> None:
        while not request.Test():
            time.sleep(NAP_S)
