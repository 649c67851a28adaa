"""Commands that train, and look at training."""

import json
import os
import shlex
import sys
from dataclasses import asdict, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from minigpt import __version__
from minigpt.cli.app import Switch, Whole, app, at_least, whole
from minigpt.np.config import PRESETS
from minigpt.train.settings import PRESET_TRAINING, Settings, resolve


def _flag(field: Any) -> tuple[str, Any, None]:
    """A flag for a field of Settings. None says that it was not given."""
    by_preset = any(field.name in preset for preset in (PRESETS["quick"], PRESET_TRAINING["quick"]))
    default = "by preset" if by_preset else " ".join(field.default) if field.name == "data" else field.default
    shown = "" if default is None or default == "" else f" [default: {default}]"
    parameter = Parameter(
        help=field.metadata["help"] + shown,
        consume_multiple=field.name == "data",
        negative_iterable="",
        converter=whole if field.type is int else None,
    )
    return field.name, Annotated[field.type | None, parameter], None


Flags: Any = Parameter(name="*")(
    make_dataclass("Flags", map(_flag, fields(Settings)), kw_only=True, namespace={"__module__": __name__})
)


@app.command
def train(
    *,
    flags: Flags = Flags(),  # noqa: B008
    config: Path | None = None,
    out: Path | None = None,
    resume: Switch = False,
    overwrite: Switch = False,
) -> int:
    """Train a model and write a report.

    With no flags at all: a small model on built-in stories, in about three minutes.

    Parameters
    ----------
    config
        Settings to begin with, such as the config.toml of another run; flags stand above it.
    out
        Folder for the run [default: a new one in runs/].
    resume
        Go on with the run in --out from its newest checkpoint.
    overwrite
        Replace the run in --out.
    """
    from rich.console import Console

    from minigpt.report import write_report
    from minigpt.train.folder import free_folder
    from minigpt.train.mpi import world
    from minigpt.train.start import train as start

    given = {name: value for name, value in vars(flags).items() if value is not None}
    if resume and (out is None or config is not None or overwrite):
        raise ValueError("--resume goes with --out RUN, and without --config and --overwrite")
    if resume and out and not (out / "config.toml").exists():
        raise ValueError(f"{out} is not a run to resume: it has no config.toml")
    settings = resolve(given, out / "config.toml" if resume and out else config, resume)
    run = out or free_folder(Path("runs"), f"{Path(os.path.abspath(settings.data[0])).stem}-{settings.preset}")
    command = shlex.join(["minigpt", *sys.argv[1:]])
    ranks = world()
    stop = start(
        settings,
        run,
        console=Console(force_terminal=None if ranks.size == 1 else False),  # mpiexec shows what ranks print line by line
        command=command,
        version=__version__,
        resume=resume,
        overwrite=overwrite,
        may_shrink="context_length" not in given and not resume,
        ranks=ranks,
    )
    if stop():
        print(f"\nStopped and saved. To go on: minigpt train --out {shlex.quote(str(run))} --resume")
        return stop.exit_code
    print(f"Report: {write_report(run)} (and report.html)\nMore stories: minigpt sample {shlex.quote(str(run))}")
    return 0


@app.command
def prepare(*, flags: Flags = Flags()) -> None:  # noqa: B008
    """Read and tokenize data ahead of a training, which then finds it ready (give the same flags)."""
    from minigpt.train.mpi import world
    from minigpt.train.start import prepare_for

    s = resolve({name: value for name, value in vars(flags).items() if value is not None})
    data = prepare_for(s, print, ranks=world())
    for name, split in (("training", data.train), ("validation", data.valid)):
        print(f"{name}: {split.documents:,} documents, {split.bytes:,} bytes, {split.n_tokens:,} tokens")
    print(f"vocabulary: {data.tokenizer.vocab_size:,}\nfolder: {data.folder}")


@app.command
def report(run: Path) -> None:
    """Write a run's report again, from what its folder holds.

    Parameters
    ----------
    run
        A run's folder.
    """
    from minigpt.report import write_report

    print(f"Report: {write_report(run)} (and report.html)")


@app.command
def gradcheck(*, quick: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Prove every gradient: against PyTorch (if it is installed) and against finite differences.

    Parameters
    ----------
    quick
        Leave out the 200-step loss curves and the planted faults.
    """
    from minigpt.proof.gradcheck import gradcheck

    return 0 if gradcheck(quick) else 1


@app.command
def bench(
    size: str = "small",
    *,
    threads: Whole = 0,
    seconds: float = 20.0,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Time a training step on this machine, and where its time goes.

    Parameters
    ----------
    size
        A preset that benchmarks/train_step.py measures: nano, tiny, small, base or gpt2.
    threads
        Workers, one a core; 0 is all cores this process may use.
    seconds
        About how long to measure.
    json_
        Print JSON.
    """
    from minigpt.bench.step import SIZES, measure
    from minigpt.train.machine import available_cores

    at_least(0, threads=threads)
    if size not in SIZES:
        raise ValueError(f"there is no size {size!r} to measure; there are {', '.join(SIZES)}")
    config, batch_size = SIZES[size]
    found = measure(config, batch_size, threads or available_cores(), seconds)
    if json_:
        print(json.dumps(asdict(found)))
        return
    print(f"{found.tokens_per_s:,.0f} tokens/s: {size}, {batch_size} x {config.context_length} tokens a step")
    print(f"{found.gflop_per_s:,.0f} GFLOP/s in matrix products, over the whole step")
    print(f"{found.roofline_share:.0%} of the speed of its matrix products alone\n")
    for name, share in found.operations.items():
        if share >= 0.002:
            print(f"{share:6.1%}  {name}")
    print(f"{1 - sum(found.operations.values()):6.1%}  the update, waiting for other workers, Python in between")
