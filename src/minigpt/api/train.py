"""Train a model from Python or from the command line: resolve the settings, train, and write the report."""

import io
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.api.arguments import documented, equivalent_command, errors_in_python_terms, given_path, given_settings
from minigpt.api.run import Run
from minigpt.data.atomic import unused_path
from minigpt.data.printable import printable
from minigpt.data.ranks import in_mpi_job
from minigpt.data.sources import name_of_data
from minigpt.data.standard_input import replace_standard_input
from minigpt.report import write_report
from minigpt.runs.folder import RUNS, find_run, nearest_run
from minigpt.training.interrupt import StopRequest
from minigpt.training.prepare import check_is_text
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings
from minigpt.training.trainer import Callback

if TYPE_CHECKING:
    from rich.console import Console

_ONE_TRAINING = threading.Lock()


@documented
def train(
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    config: str | Path | None = None,
    overwrite: bool = False,
    callback: Callback | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train a model, write a report, and return the run. `minigpt train` with the same settings gives the same bits.

    An interrupt (Ctrl-C, or the stop button of a notebook) saves a checkpoint after the current step and returns the run, which
    `minigpt.train(out=run.path, resume=True)` continues; a second one raises `KeyboardInterrupt` at once. SIGTERM, SIGHUP and
    SIGUSR1 save a checkpoint, and then have their usual effect. Only the main thread can handle signals.

    Parameters
    ----------
    data : str, Path, or list of them
        "storybook" (the default), "tinystories", or files and folders of text.
    out : str or Path
        Folder of the run. By default, a new folder in runs/.
    resume : bool
        Resume the run in `out` from its newest checkpoint, with its settings and those that are given here.
    config : str or Path
        TOML file with settings, such as the config.toml of another run; other arguments take precedence.
    overwrite : bool
        Replace the run in `out`.
    callback : callable
        Called after each step as callback(step, record, model), where `record` is the step's line in metrics.jsonl. It must not
        change the model. If it raises an exception, a checkpoint is saved first.
    quiet : bool
        Print nothing. Warnings are still issued, through the module `warnings`.
    **settings
        The settings of `minigpt train` by the same names. None has the same effect as leaving a setting out. The defaults in
        the signature are those of the preset quick. The settings are:

    Raises
    ------
    ValueError
        If a setting, the data or the folder is invalid. The message names it.
    ArithmeticError
        If the loss or a gradient is not finite.
    RuntimeError
        If another training is running in this process.
    """
    paths = {name: given_path(name, path) for name, path in (("out", out), ("config", config)) if path is not None}
    return _train(given_settings(data, settings), paths, callback, quiet, resume=resume, overwrite=overwrite)


def _train(given: Mapping[str, Any], paths: Mapping[str, Path], callback: Callback | None, quiet: bool, **switches: bool) -> Run:
    from rich.console import Console

    if callback is not None and not callable(callback):
        raise ValueError(f"callback is {callback!r}, but must be a function of a step, its record and the model")
    if in_mpi_job():
        raise ValueError("minigpt.train cannot be used in an MPI job: use the command `minigpt train`")
    console = Console(file=io.StringIO(), quiet=True) if quiet else Console()
    command = equivalent_command(given, paths, **switches)
    options: Any = {**paths, **switches, "callback": callback}
    with _one_training(), errors_in_python_terms():
        path, stop = run_training(given, console=console, command=command, **options)
    if stop() and not quiet:
        print(printable(f"Stopped and saved. To resume: minigpt.train(out={str(path)!r}, resume=True)"), flush=True)
    if stop.received not in (None, signal.SIGINT):
        signal.raise_signal(stop.received)
    return Run(path)


def run_training(
    given: Mapping[str, Any],
    *,
    console: "Console",
    command: str,
    out: Path | None = None,
    config: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callback: Callback | None = None,
    beside: Callable[[Path], AbstractContextManager[object]] = nullcontext,
) -> tuple[Path, StopRequest]:
    """Train with the `given` settings and, unless a stop was requested, write the report.

    Returns the folder of the run, and whether a stop was requested. `console` shows the progress, and `command` is recorded in
    run.json. The training takes place inside the context `beside(run)`. The other arguments and the errors are those of `train`.
    """
    from minigpt import __version__
    from minigpt.training.parallel.mpi import mpi_ranks
    from minigpt.training.train import train

    settings, run, smaller_context = _settings_and_run(given, out, config, resume, overwrite)
    with beside(run):
        stop = train(
            settings,
            run,
            console=console,
            command=command,
            version=__version__,
            resume=resume,
            overwrite=overwrite,
            allow_smaller_context=smaller_context,
            ranks=mpi_ranks(),
            callback=callback,
        )
    if not stop():
        write_report(run)
    return run, stop


def estimate_training(
    given: Mapping[str, Any],
    *,
    console: "Console",
    out: Path | None = None,
    config: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Print what `run_training` with these arguments needs and how long it takes. Only the data is prepared."""
    from minigpt.training.dry_run import dry_run
    from minigpt.training.parallel.mpi import mpi_ranks

    settings, run, smaller_context = _settings_and_run(given, out, config, resume, overwrite)
    options: Any = {"resume": resume, "overwrite": overwrite, "allow_smaller_context": smaller_context}
    dry_run(settings, run, console=console, ranks=mpi_ranks(), **options)


def _settings_and_run(
    given: Mapping[str, Any], out: Path | None, config: Path | None, resume: bool, overwrite: bool
) -> tuple[Settings, Path, bool]:
    """Return the settings and the folder of a run, and whether a short text may reduce its context_length."""
    check_is_text(given.get("data", ()))
    if resume:
        out, config = _run_to_resume(out, config, overwrite)
    settings = resolve(given, config, resume)
    run = out or unused_path(RUNS, f"{name_of_data(settings.data[0])}-{settings.preset}")
    settings = replace(settings, data=replace_standard_input(settings.data))
    return settings, run, "context_length" not in given and not resume


def _run_to_resume(out: Path | None, config: Path | None, overwrite: bool) -> tuple[Path, Path]:
    """Return the folder and the config.toml of the run `out`. Raises `ValueError` if it cannot be resumed."""
    if out is None or config is not None or overwrite:
        raise ValueError("--resume requires --out RUN, and cannot be combined with --config or --overwrite")
    run = find_run(out)
    if not (run / "config.toml").exists():
        hint = "" if run.exists() else nearest_run(run)
        raise ValueError(f"{out} cannot be resumed: it has no config.toml{hint}")
    return run, run / "config.toml"


@contextmanager
def _one_training() -> Iterator[None]:
    """Raise `RuntimeError` if another training is running in this process.

    The standard output, the number of BLAS threads and the signal handlers belong to the process, and a training changes them.
    """
    if not _ONE_TRAINING.acquire(blocking=False):
        raise RuntimeError("another training is running in this process: wait until it has ended, or start another process")
    try:
        yield
    finally:
        _ONE_TRAINING.release()
