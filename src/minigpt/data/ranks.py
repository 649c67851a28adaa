"""Ranks: the processes that do one job together, on one machine or on many. Rank 0 leads, the others follow it.

`minigpt.train.mpi` has the ranks of an MPI job; here is what one process alone is.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")


def in_a_job() -> bool:
    """Was this process started by mpiexec or srun as one of several?"""
    return any(os.environ.get(name, "1") not in ("", "1") for name in _SIZES)


class Ranks(Protocol):
    """What ranks can do. Each method is called by all of them together."""

    rank: int
    size: int
    cores: int  # that each rank may use for itself

    def job(self, name: str, **facts: Any) -> AbstractContextManager[object]:
        """Rank 0 begins a job with the others, who are told its name and facts (JSON), and ends it with the block."""
        ...

    def gather(self, content: bytes) -> list[bytes]:
        """On rank 0 what each rank has, in their order; nothing elsewhere."""
        ...


class Alone:
    """One process, with nobody to talk to."""

    rank, size = 0, 1

    def __init__(self, cores: int = 1) -> None:
        self.cores = cores

    def job(self, name: str, **facts: Any) -> AbstractContextManager[object]:
        """See `Ranks`."""
        return nullcontext()

    def gather(self, content: bytes) -> list[bytes]:
        """See `Ranks`."""
        return [content]


ALONE = Alone()
