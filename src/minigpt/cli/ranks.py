"""Run a command of the command line in an MPI job."""

import sys
import traceback
from collections.abc import Callable

from minigpt.data.token_files import encode_as_follower
from minigpt.train.parallel.mpi import MPIRanks, mpi_ranks
from minigpt.train.train import train_as_follower

JOBS: dict[str, Callable[..., None]] = {"encode": encode_as_follower, "train": train_as_follower}


def run_as_rank(command: Callable[[], None]) -> None:
    """Run the command on rank 0. The other ranks take part in the jobs that rank 0 starts, until it ends.

    A rank that fails during a job ends all ranks, because they would wait for it forever.
    """
    try:
        ranks = mpi_ranks()
    except ValueError as error:
        print(f"minigpt: {error}", file=sys.stderr)
        sys.exit(2)
    assert isinstance(ranks, MPIRanks)
    try:
        if ranks.rank == 0:
            command()
        else:
            _follow(ranks)
    except SystemExit as end:
        if sys.stdout:
            sys.stdout.flush()
        if ranks.in_job:
            ranks.abort(int(end.code or 0))
        if ranks.rank == 0:
            ranks.bcast_json(None)
        raise
    except ArithmeticError:  # all ranks see the same loss that is not finite, and rank 0 reports it
        sys.exit(1)
    except BaseException as error:
        _report(ranks, error)
        ranks.abort(1)


def _follow(ranks: MPIRanks) -> None:
    while message := ranks.bcast_json():
        with ranks.job(job := message.pop("job")):
            JOBS[job](ranks, **message)


def _report(ranks: MPIRanks, error: BaseException) -> None:
    if isinstance(error, ValueError | OSError):
        print(f"minigpt: rank {ranks.rank}: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
