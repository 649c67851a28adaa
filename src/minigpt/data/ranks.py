"""The interface to the ranks of a job, and its implementation for a single process.

Ranks are processes that work on one job together, on one machine or on several. Rank 0 starts jobs, and the other ranks
follow. `minigpt.training.parallel.mpi` implements the interface with MPI.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")


def in_mpi_job() -> bool:
    """Return whether mpiexec or srun started this process as one of several."""
    return any(os.environ.get(name, "1") not in ("", "1") for name in _SIZES)


class Ranks(Protocol):
    """The collective operations of ranks. All ranks call each method together."""

    rank: int
    size: int
    cores: int  # that each rank may use
    watchdog: int  # seconds that a rank waits for the others before it ends the job; 0 means no limit

    def job(self, name: str, **arguments: Any) -> AbstractContextManager[object]:
        """Start a job on all ranks for the duration of the block: rank 0 sends its name and its arguments (JSON)."""
        ...

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """Return the content of each rank, in their order, on rank 0, and an empty list on the others."""
        ...


class SingleProcess:
    """A single process, which is rank 0 of 1."""

    rank, size = 0, 1

    def __init__(self, cores: int = 1) -> None:
        self.cores = cores
        self.watchdog = 0

    def job(self, name: str, **arguments: Any) -> AbstractContextManager[object]:
        """See `Ranks`."""
        return nullcontext()

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """See `Ranks`."""
        return [content]


SINGLE_PROCESS = SingleProcess()
