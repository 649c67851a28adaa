"""The command line."""

import io
import sys
import warnings
from collections.abc import Sequence

from cyclopts.exceptions import CycloptsError

from minigpt.cli import checks, data, launch, models, presets, replay, reports, serve, trace, training  # noqa: F401  # these add their commands
from minigpt.cli.app import app
from minigpt.cli.suggestions import describe
from minigpt.data.printable import printable
from minigpt.data.ranks import in_mpi_job
from minigpt.training.output import optional_output


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit, with code 0 (success), 1 (failure), 2 (invalid arguments) or 130 (interrupted).

    In an MPI job, rank 0 runs the command, and the other ranks take part in the jobs that it starts.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # generated text can contain characters that the terminal cannot encode
    warnings.showwarning = _print_warning
    words = sys.argv[1:] if arguments is None else arguments
    if in_mpi_job():
        from minigpt.cli.ranks import run_as_rank

        run_as_rank(lambda: _run(words), training.given_watchdog(words))
    else:
        _run(words)


def _run(words: Sequence[str]) -> None:
    try:
        words = data.hyphens_as_values(launch.insert_separator(words))
        sys.exit(app(words, exit_on_error=False, print_error=False, result_action="return_int_as_exit_code_else_zero"))
    except CycloptsError as error:
        _fail(describe(error), 2)
    except ValueError as error:
        _fail(str(error), 2)
    except MemoryError:
        _fail("there is not enough memory for this", 1)
    except KeyboardInterrupt:
        if sys.stderr and sys.stderr.isatty():
            print(file=sys.stderr)  # the cursor is behind "^C", or behind a part of a text
        _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of the output has closed the pipe
        sys.stdout = None
        sys.exit(141)
    except (ArithmeticError, OSError) as error:
        _fail(str(error), 1)


def _print_warning(message: Warning | str, *args: object, **kwargs: object) -> None:
    print(printable(f"minigpt: warning: {message}"), file=sys.stderr)


def _fail(message: str, code: int) -> None:
    with optional_output():  # the exit code does not depend on whether the message can be printed
        print(printable(f"minigpt: {' '.join(message.splitlines())}"), file=sys.stderr)
    sys.exit(code)
