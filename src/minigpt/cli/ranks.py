"""Run a command of the command line in an MPI job."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from minigpt.data.printable import printable
from minigpt.data.token_files import encode_as_follower
from minigpt.training.parallel.mpi import LONG_PHASE_FACTOR, MPIRanks, hard_limit, mpi_ranks
from minigpt.training.train import train_as_follower

PARENT_CHECK_INTERVAL_S = 1
JOBS: dict[str, Callable[..., None]] = {"encode": encode_as_follower, "train": train_as_follower}


def run_as_rank(command: Callable[[], None], watchdog: int) -> None:
    """Run the command on rank 0. The other ranks take part in the jobs that rank 0 starts, until it ends.

    A rank that fails during a job ends all ranks, because they would wait for it. `watchdog` is the limit of waits until
    rank 0 has read the settings.
    """
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        with hard_limit(LONG_PHASE_FACTOR * watchdog):
            ranks = mpi_ranks()
    except ValueError as error:
        print(printable(f"minigpt: {error}"), file=sys.stderr)
        sys.exit(2)
    assert isinstance(ranks, MPIRanks)
    ranks.watchdog = watchdog
    ranks.enter_phase("preparing the data", long=True)
    try:
        if ranks.rank == 0:
            command()
        else:
            _follow(ranks)
            ranks.finalize()
    except SystemExit as end:
        if sys.stdout:
            sys.stdout.flush()
        if ranks.in_job:
            ranks.abort(int(end.code or 0))
        if ranks.rank == 0:
            ranks.bcast_json(None)
            ranks.finalize()
        raise
    except ArithmeticError:  # all ranks see the same loss that is not finite, and rank 0 reports it
        ranks.finalize()
        sys.exit(1)
    except BaseException as error:
        _report(ranks, error)
        ranks.abort(1)


def _exit_with_parent(parent: int) -> None:
    """End this process when its parent, mpiexec, has ended without ending the ranks, because it was killed."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_INTERVAL_S)
    os._exit(1)


def _follow(ranks: MPIRanks) -> None:
    while message := ranks.bcast_json():
        ranks.watchdog = message.pop("watchdog")
        with ranks.job(job := message.pop("job")):
            JOBS[job](ranks, **message)
        if job == "train":
            ranks.enter_phase("the samples and the report after the last step", long=True)


def _report(ranks: MPIRanks, error: BaseException) -> None:
    if isinstance(error, ValueError | OSError):
        print(printable(f"minigpt: rank {ranks.rank}: {error}"), file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
