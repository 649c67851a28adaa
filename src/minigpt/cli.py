"""The command line: parse, call one function, print."""

import io
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError

from minigpt import __version__
from minigpt.np.config import PRESETS
from minigpt.train.settings import PRESET_TRAINING, Settings, resolve

app = App(
    name="minigpt",
    help="A transformer language model in pure NumPy: train it, read it, check its every gradient.",
    version=__version__,
)


def _whole(kind: Any, tokens: Sequence[Any]) -> int:
    """A whole number; cyclopts by itself would cut 1.5 down to 1."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number") from None


Whole = Annotated[int, Parameter(converter=_whole)]


def _flag(field: Any) -> tuple[str, Any, None]:
    """A flag for a field of Settings. None says that it was not given."""
    by_preset = any(field.name in preset for preset in (PRESETS["quick"], PRESET_TRAINING["quick"]))
    default = "by preset" if by_preset else " ".join(field.default) if field.name == "data" else field.default
    shown = "" if default is None or default == "" else f" [default: {default}]"
    parameter = Parameter(
        help=field.metadata["help"] + shown,
        consume_multiple=field.name == "data",
        negative_iterable="",
        converter=_whole if field.type is int else None,
    )
    return field.name, Annotated[field.type | None, parameter], None


Flags: Any = Parameter(name="*")(
    make_dataclass("Flags", map(_flag, fields(Settings)), kw_only=True, namespace={"__module__": __name__})
)
Prompt = Annotated[str, Parameter(help="How the text begins.")]


@app.command
def train(
    *,
    flags: Flags = Flags(),  # noqa: B008
    config: Path | None = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
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
    from minigpt.train.start import train as start

    given = {name: value for name, value in vars(flags).items() if value is not None}
    if resume and (out is None or config is not None or overwrite):
        raise ValueError("--resume goes with --out RUN, and without --config and --overwrite")
    if resume and out and not (out / "config.toml").exists():
        raise ValueError(f"{out} is not a run to resume: it has no config.toml")
    settings = resolve(given, out / "config.toml" if resume and out else config)
    run = out or free_folder(Path("runs"), f"{Path(settings.data[0]).resolve().stem}-{settings.preset}")
    command = shlex.join(["minigpt", *sys.argv[1:]])
    stop = start(
        settings,
        run,
        console=Console(),
        command=command,
        version=__version__,
        resume=resume,
        overwrite=overwrite,
        may_shrink="context_length" not in given and not resume,
    )
    if stop():
        print(f"\nStopped and saved. To go on: minigpt train --out {shlex.quote(str(run))} --resume")
        return stop.exit_code
    print(f"Report: {write_report(run)} (and report.html)\nMore stories: minigpt sample {shlex.quote(str(run))}")
    return 0


@app.command
def sample(
    run: Path,
    *,
    prompt: Prompt = "",
    max_new_tokens: Whole = 200,
    temperature: float = 0.8,
    top_k: Whole = 40,
    seed: Whole = 0,
    n: Annotated[int, Parameter(name=["-n", "--number"], converter=_whole)] = 1,
) -> None:
    """Let a trained model continue a prompt, printed as it is written.

    Parameters
    ----------
    run
        A run's folder, or that of one of its checkpoints.
    prompt
        How the text begins.
    max_new_tokens
        Most tokens to add; an end of text ends it before.
    temperature
        0 takes the likeliest token; below 1 is more careful, above 1 wilder.
    top_k
        Draw among this many likeliest tokens; 0 is all of them.
    seed
        Seed of the first sample; the others count up from it.
    n
        How many samples.
    """
    from minigpt.generate.text import stream_text
    from minigpt.np.sampling import Sampling
    from minigpt.train.checkpoint import load

    _at_least(1, max_new_tokens=max_new_tokens, number=n)
    _at_least(0, top_k=top_k, seed=seed)
    Sampling(temperature=temperature, top_k=top_k or None)
    model, tokenizer = load(run)
    for i in range(n):
        if i:
            print("-" * 40)
        print(prompt, end="", flush=True)
        for piece in stream_text(
            model, tokenizer, prompt, max_new_tokens, seed=seed + i, temperature=temperature, top_k=top_k or None
        ):
            print(piece, end="", flush=True)
        print()


@app.command(name="eval")
def evaluate(
    run: Path,
    *,
    data: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable="")],
    threads: Whole = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure how well a trained model predicts the whole of a text: loss per token and bits per byte.

    Parameters
    ----------
    run
        A run's folder, or that of one of its checkpoints.
    data
        Files or folders of text.
    threads
        Threads to compute with; 0 is all cores this process may use.
    json_
        Print JSON.
    """
    from minigpt.data.token_files import encode_files
    from minigpt.train.checkpoint import load
    from minigpt.train.evaluate import evaluate
    from minigpt.train.machine import available_cores
    from minigpt.train.parallel import Team

    _at_least(0, threads=threads)
    model, tokenizer = load(run)
    split = encode_files(data, tokenizer)
    with Team(model, threads or available_cores()) as team:
        result = evaluate(team, split)
    if json_:
        print(json.dumps(asdict(result)))
    else:
        print(f"loss {result.loss:.4f} nats per token, {result.bits_per_byte:.4f} bits per byte, over {result.tokens:,} tokens")


@app.command
def prepare(*, flags: Flags = Flags()) -> None:  # noqa: B008
    """Read and tokenize data ahead of a training, which then finds it ready (give the same flags)."""
    from minigpt.data.token_files import prepare as run

    s = resolve({name: value for name, value in vars(flags).items() if value is not None})
    data = run(s.data, s.val_data, vocab_size=s.vocab_size, tokenizer=s.tokenizer, stories=s.stories, seed=s.seed, say=print)
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

    _at_least(0, threads=threads)
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


@app.command
def info(run: Path | None = None) -> None:
    """Describe this machine, or a trained model.

    Parameters
    ----------
    run
        A run's folder.
    """
    from minigpt.train.checkpoint import load_model, newest
    from minigpt.train.machine import available_cores, describe

    if run is None:
        facts: dict[str, Any] = {"minigpt": __version__, **describe(available_cores())}
    else:
        checkpoint = newest(run)
        model = load_model(checkpoint / "model.safetensors")
        facts = {"checkpoint": str(checkpoint), "parameters": f"{model.parameters.flat.size:,}", **asdict(model.config)}
    for name, value in facts.items():
        print(f"{name:16} {value}")


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}, but must be at least {least}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 well, 1 failed, 2 asked for something impossible, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a story may hold what a terminal cannot show
    try:
        sys.exit(app(arguments, exit_on_error=False, print_error=False, result_action="return_int_as_exit_code_else_zero"))
    except CycloptsError as error:
        _fail(" ".join(str(error).split()), 2)
    except ValueError as error:
        _fail(str(error), 2)
    except MemoryError:
        _fail("there is not enough memory for this", 1)
    except (ArithmeticError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our pipe has gone: nothing to say, and nobody to say it to
            sys.stdout = None
            sys.exit(141)
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    print(f"minigpt: {message}", file=sys.stderr)
    sys.exit(code)
