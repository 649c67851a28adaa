"""The command line: parse, call one function, print."""

import io
import sys
import warnings
from collections.abc import Sequence

from cyclopts.exceptions import CycloptsError

from minigpt.cli import launch, models, training  # noqa: F401  # they add their commands to the app
from minigpt.cli.app import app
from minigpt.data.ranks import in_a_job


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 well, 1 failed, 2 asked for something impossible, 130 interrupted.

    Of several ranks the first runs the command, and the others do what it tells them.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a story may hold what a terminal cannot show
    warnings.showwarning = _warn
    if in_a_job():
        from minigpt.cli.ranks import run_as_rank

        run_as_rank(lambda: _run(arguments))
    else:
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> None:
    try:
        words = launch.fenced(sys.argv[1:] if arguments is None else arguments)
        sys.exit(app(words, exit_on_error=False, print_error=False, result_action="return_int_as_exit_code_else_zero"))
    except CycloptsError as error:
        _fail(" ".join(str(error).split()), 2)
    except ValueError as error:
        _fail(str(error), 2)
    except MemoryError:
        _fail("there is not enough memory for this", 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except (ArithmeticError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our pipe has gone: nothing to say, and nobody to say it to
            sys.stdout = None
            sys.exit(141)
        _fail(str(error), 1)


def _warn(message: Warning | str, *where: object, **more: object) -> None:
    print(f"minigpt: warning: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> None:
    print(f"minigpt: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(code)
