"""Commands that prepare data and train."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, make_dataclass, replace
from typing import Annotated, Any

from cyclopts import Group, Parameter

from minigpt.cli.app import NonEmptyPath, Switch, app, given_once, integer
from minigpt.data.printable import printable
from minigpt.np.config import PRESETS, ModelOptions
from minigpt.training.interrupt import forced_exit
from minigpt.training.output import optional_output
from minigpt.training.presets import FINE_TUNING, PRESET_RECIPES, PRESET_TRAINING, RECIPES
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings

COMMON = Group("Common options", sort_key=0)
SAVING = Group("Validation, samples and saving", sort_key=5)
GROUPS: dict[Group, tuple[str, ...]] = {
    COMMON: ("data", "val_data", "tokenizer", "preset", "recipe", "steps", "batch_size", "lr", "threads"),
    Group("Data", sort_key=1): ("field", "vocab_size", "stories"),
    Group("Model", sort_key=2): ("init", *(field.name for field in fields(ModelOptions)), "zero_init", "embedding_std"),
    Group("Training", sort_key=3): ("schedule", "warmup", "decay", "min_lr_ratio", "clip", "on_nonfinite", "seed"),
    Group("Optimizer", sort_key=4): (
        *("optimizer", "embedding_lr", "head_lr", "vector_lr", "weight_decay", "beta1", "beta2"),
        *("momentum", "muon_weight_decay", "muon_iterations", "muon_coefficients", "muon_scale"),
    ),
    SAVING: ("eval_every", "eval_tokens", "checkpoint_every", "keep", "snapshots", "sample_every", "samples", "prompt"),
    Group("Machine", sort_key=6): ("micro_batch", "watchdog"),
}
"The settings in the order of `minigpt train --help`."
SOURCES = {
    "--preset": [{**PRESETS[name], **PRESET_TRAINING[name], "recipe": PRESET_RECIPES.get(name)} for name in PRESETS],
    "--recipe": list(RECIPES.values()),
}
"The options that select the defaults of other options, and the defaults for each of their values."


def _default(field: Any) -> str:
    """Return the default of a setting, as the help of its flag shows it."""
    value: Any = field.default
    if field.type is bool:
        shown = "on" if value else "off"
    elif field.type is float:
        shown = f"{value:g}"
    else:
        shown = " ".join(value) if isinstance(value, tuple) else str(value)
    if field.name in FINE_TUNING:
        shown += f", or {FINE_TUNING[field.name]} with --init"
    sources = [source for source, tables in SOURCES.items() if len({table.get(field.name) for table in tables}) > 1]
    return f"{shown}; depends on {' and '.join(sources)}" if sources else shown


def _flag(field: Any, group: Group) -> tuple[str, Any, None]:
    """Return the name, type and default of the flag for a setting. The default None means that the flag is not given."""
    help = field.metadata["help"]
    parameter = Parameter(
        help=help if field.default in (None, "") else f"{help} [default: {_default(field)}]",
        group=group,
        consume_multiple=field.name == "data",
        negative_iterable="",
        show_choices=False,  # the help names them
        converter=integer if field.type is int else None,
    )
    return field.name, Annotated[field.type | None, parameter], None


def _flags() -> Iterator[tuple[str, Any, None]]:
    settings = {field.name: field for field in fields(Settings)}
    for group, names in GROUPS.items():
        for name in names:
            yield _flag(settings[name], group)


Flags: Any = Parameter(name="*")(make_dataclass("Flags", _flags(), kw_only=True, namespace={"__module__": __name__}))


Files = Annotated[str, Parameter(help="Training text, as with --data.", group=COMMON)]


def given_watchdog(words: Sequence[str]) -> int:
    """Return the watchdog of a command line: 0 for commands without this option.

    Every rank of an MPI job needs it, before rank 0 has read the settings.

    >>> given_watchdog(["train", "--watchdog", "4"]), given_watchdog(["prepare"]), given_watchdog(["info"])
    (4, 600, 0)
    """
    if not words or words[0] not in ("train", "prepare"):
        return 0
    pairs = zip(words, [*words[1:], ""], strict=True)
    values = [word.partition("=")[2] or following for word, following in pairs if word.partition("=")[0] == "--watchdog"]
    return int(values[-1]) if values and values[-1].isdecimal() else Settings.watchdog


def _given(files: tuple[str, ...], flags: Any) -> dict[str, Any]:
    """Return the settings whose flags were given. `files` is text that was given without a flag."""
    given = {name: value for name, value in vars(flags).items() if value is not None}
    if data := given_once(files, given.get("data")):
        given["data"] = data
    return given


@app.command
@forced_exit()
@optional_output()
def train(
    *files: Files,
    flags: Flags = Flags(),  # noqa: B008
    out: Annotated[NonEmptyPath | None, Parameter(group=COMMON)] = None,
    resume: Annotated[Switch, Parameter(group=COMMON)] = False,
    config: Annotated[NonEmptyPath | None, Parameter(group=COMMON)] = None,
    overwrite: Annotated[Switch, Parameter(group=SAVING)] = False,
    dry_run: Annotated[Switch, Parameter(group=COMMON)] = False,
    serve: Annotated[Switch, Parameter(group=COMMON)] = False,
) -> int:
    """Train a model and write a report.

    Without options, trains a small model on built-in stories in about three minutes.

    Parameters
    ----------
    out
        Folder of the run. [default: a new folder in runs/]
    resume
        Resume the run in --out from its newest checkpoint.
    config
        TOML file with settings, such as the config.toml of another run; flags take precedence.
    overwrite
        Replace the run in --out.
    dry_run
        Prepare the data, print what training needs (memory, operations, time), and stop without training.
    serve
        Open a page in the browser that shows the training while it goes on (see minigpt serve).
    """
    from rich.console import Console

    from minigpt.api.train import estimate_training, run_training
    from minigpt.training.parallel.mpi import mpi_ranks

    # mpiexec forwards the output line by line
    console = Console(force_terminal=None if mpi_ranks().size == 1 else False)
    command = shlex.join(["minigpt", *sys.argv[1:]])
    options: dict[str, Any] = {"out": out, "config": config, "resume": resume, "overwrite": overwrite}
    if dry_run:
        estimate_training(_given(files, flags), console=console, **options)
        return 0
    if serve:
        from minigpt.serve.beside import served

        if mpi_ranks().size > 1:
            raise ValueError("--serve cannot be combined with several MPI ranks: run minigpt serve RUN beside them")
        options["beside"] = lambda run: served(run, lambda line: console.print(printable(line), markup=False, highlight=False))
    run, stop = run_training(_given(files, flags), console=console, command=command, **options)
    if stop():
        print(printable(f"\nStopped and saved. To resume: minigpt train --out {shlex.quote(str(run))} --resume"))
        return stop.exit_code
    report = run / "report.md"
    name = shlex.quote(str(run))
    next_steps = f"To generate text: minigpt sample {name}\nTo look inside: minigpt serve {name}"
    print(printable(f"Report: {report} (and report.html)\n{next_steps}"))
    return 0


@app.command
def prepare(*files: Files, flags: Flags = Flags()) -> None:  # noqa: B008
    """Read and tokenize the data in advance. Training with the same options then uses the result."""
    from minigpt.data.standard_input import replace_standard_input
    from minigpt.data.text_files import plural
    from minigpt.training.parallel.mpi import mpi_ranks
    from minigpt.training.prepare import check_is_text, prepare_data

    given = _given(files, flags)
    check_is_text(given.get("data", ()))
    settings = resolve(given)
    settings = replace(settings, data=replace_standard_input(settings.data))
    data = prepare_data(settings, lambda line: print(printable(line)), ranks=mpi_ranks())
    held_out = f" ({data.held_out})" if data.held_out else ""
    for name, split, note in (("training", data.train, ""), ("validation", data.valid, held_out)):
        print(f"{name}: {plural(split.documents, 'document')}, {split.bytes:,} bytes, {split.n_tokens:,} tokens{note}")
    print(printable(f"vocabulary: {data.tokenizer.vocab_size:,}\nfolder: {data.folder}"))
