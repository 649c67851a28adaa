"""Train a model from Python or from the command line: resolve the settings, train, and write the report."""

import io
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.api.run import Run
from minigpt.data.atomic import unused_path
from minigpt.report import write_report
from minigpt.runs.folder import RUNS
from minigpt.training.interrupt import StopRequest
from minigpt.training.settings import Settings, check_names, resolve
from minigpt.training.trainer import Callback

if TYPE_CHECKING:
    from rich.console import Console


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
    """Train a model, write a report, and return the run. The command `minigpt train` with the same settings gives the same bits.

    An interrupt (Ctrl-C, or the stop button of a notebook) saves a checkpoint after the current step and returns the run, which
    `minigpt.train(out=run.path, resume=True)` continues.

    Parameters
    ----------
    data
        "storybook" (the default), "tinystories", or a file or folder of text, or a list of files and folders.
    out
        Folder of the run. By default, a new folder in runs/.
    resume
        Resume the run in `out` from its newest checkpoint.
    config
        TOML file with settings, such as the config.toml of another run; other arguments take precedence.
    overwrite
        Replace the run in `out`.
    callback
        Called after each step as callback(step, record, model), where `record` is the step's line in metrics.jsonl.
    quiet
        Print nothing.
    settings
        The settings of the command line by the same names, with underscores: preset, steps, batch_size, lr, seed, d_model and so
        on. `help(minigpt.training.settings.Settings)` and `minigpt train --help` list them.

    Raises
    ------
    ValueError
        If a setting, the data or the folder is invalid. The message names it.

    Examples
    --------
    >>> import os, tempfile; os.chdir(tempfile.mkdtemp())
    >>> sizes = {"context_length": 8, "d_model": 8, "n_layers": 1, "n_heads": 2, "tokenizer": "bytes"}
    >>> train(steps=2, stories=30, threads=1, **sizes, quiet=True).path.as_posix()
    'runs/storybook-quick'
    """
    from rich.console import Console

    check_names(settings)
    if data is not None:
        settings["data"] = tuple(map(str, [data] if isinstance(data, str | Path) else data))
    paths = {name: Path(path) for name, path in (("out", out), ("config", config)) if path is not None}
    command = equivalent_command(settings, paths, resume=resume, overwrite=overwrite)
    console = Console(file=io.StringIO()) if quiet else Console()
    options: Any = {**paths, "resume": resume, "overwrite": overwrite, "callback": callback}
    run, _ = run_training(settings, console=console, command=command, **options)
    return Run(run)


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
) -> tuple[Path, StopRequest]:
    """Train with the `given` settings and, unless a stop was requested, write the report.

    Returns the folder of the run, and whether a stop was requested. `console` shows the progress, and `command` is recorded in
    run.json. The other arguments and the errors are those of `train`.
    """
    from minigpt import __version__
    from minigpt.training.parallel.mpi import mpi_ranks
    from minigpt.training.train import train

    if resume:
        config = _config_to_resume(out, config, overwrite)
    settings = resolve(given, config, resume)
    run = out or unused_path(RUNS, f"{Path(os.path.abspath(settings.data[0])).stem}-{settings.preset}")
    stop = train(
        settings,
        run,
        console=console,
        command=command,
        version=__version__,
        resume=resume,
        overwrite=overwrite,
        allow_smaller_context="context_length" not in given and not resume,
        ranks=mpi_ranks(),
        callback=callback,
    )
    if not stop():
        write_report(run)
    return run, stop


def _config_to_resume(out: Path | None, config: Path | None, overwrite: bool) -> Path:
    """Return the path of the config.toml of the run in `out`. Raises `ValueError` if it cannot be resumed."""
    if out is None or config is not None or overwrite:
        raise ValueError("--resume requires --out RUN, and cannot be combined with --config or --overwrite")
    if not (out / "config.toml").exists():
        raise ValueError(f"{out} cannot be resumed: it has no config.toml")
    return out / "config.toml"


def equivalent_command(given: Mapping[str, Any], paths: Mapping[str, Path], **switches: bool) -> str:
    """Return the command that does what the arguments of `train` do.

    >>> equivalent_command({"preset": "tiny", "attention_bias": False}, {"out": Path("a b")}, resume=True)
    "minigpt train --preset tiny --no-attention-bias --out 'a b' --resume"
    """
    words = ["minigpt", "train"]
    booleans = {field.name for field in fields(Settings) if field.type is bool}
    for name, value in {**given, **paths}.items():
        flag = name.replace("_", "-")
        if name in booleans:
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", *(value if isinstance(value, tuple) else [str(value)])]
    words += [f"--{name}" for name, on in switches.items() if on]
    return shlex.join(words)
