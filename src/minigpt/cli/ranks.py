"""What the command line does where it is one of several ranks."""

import sys
import traceback
from collections.abc import Callable

from minigpt.data.token_files import help_encode
from minigpt.train.mpi import World, world
from minigpt.train.start import follow

JOBS: dict[str, Callable[..., None]] = {"encode": help_encode, "train": follow}


def run_as_rank(command: Callable[[], None]) -> None:
    """Run the command on rank 0, which exits with it; on the others whatever rank 0 begins, until it ends.

    A rank that fails in the middle of a job ends all of them: they would wait for it for ever.
    """
    try:
        ranks = world()
    except ValueError as error:
        print(f"minigpt: {error}", file=sys.stderr)
        sys.exit(2)
    assert isinstance(ranks, World)
    try:
        command() if ranks.rank == 0 else _follow(ranks)
    except SystemExit as end:
        sys.stdout and sys.stdout.flush()
        if ranks.busy:
            ranks.abort(int(end.code or 0))
        if ranks.rank == 0:
            ranks.tell(None)
        raise
    except ArithmeticError:  # a loss that is not finite is so on all ranks, and the first tells
        sys.exit(1)
    except BaseException as error:
        _say(ranks, error)
        ranks.abort(1)


def _follow(ranks: World) -> None:
    while message := ranks.tell():
        with ranks.job(job := message.pop("job")):
            JOBS[job](ranks, **message)


def _say(ranks: World, error: BaseException) -> None:
    if isinstance(error, ValueError | OSError):
        print(f"minigpt: rank {ranks.rank}: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
