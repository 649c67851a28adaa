"""The text and tables of a report, independent of the output format (Markdown or HTML)."""

import math
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from minigpt.np.config import MODEL_FIELDS
from minigpt.report.numbers import TAIL, Run, Sample, Split, Validation


class Strong(str):
    """A part of a text to be set in bold."""


Text = list[str]
"A text as a list of parts without markup, some of which are `Strong`."


@dataclass(frozen=True)
class Table:
    """A titled table of names and values."""

    title: str
    rows: list[tuple[str, str]]


@dataclass(frozen=True)
class FormattedSample:
    """A generated sample with its prompt in bold, and a note with its sampling options."""

    text: Text
    note: str


@dataclass(frozen=True)
class Content:
    """The contents of a report, in the order in which they appear."""

    title: str
    summary: Text
    explanation: str
    alt_text: str
    samples_title: str
    samples: list[FormattedSample]
    tables: list[Table]
    commands: list[tuple[str, str]]


EXPLANATION = (
    "Bits per byte is the average number of bits that the model needs to encode one byte of the validation text; lower is "
    "better. Unlike the loss per token, it does not depend on the tokenizer, so models with different vocabularies can be "
    "compared."
)


def describe(run: Run) -> Content:
    """Describe a run in text and tables, without revealing the folders of the machine it ran on."""
    return Content(
        title=f"Training run {run.name}",
        summary=_summary(run),
        explanation=EXPLANATION,
        alt_text=f"Loss, learning rate and gradient norm over {_count(run.steps_done, 'step')}",
        samples_title=f"Samples after {_count(run.samples[0].step, 'step')}" if run.samples else "Samples",
        samples=[_format_sample(sample) for sample in run.samples],
        tables=[_configuration(run), _model(run), _data(run), _training(run), _machine(run)],
        commands=_commands(run),
    )


def format_duration(seconds: float) -> str:
    """Format a duration for reading.

    >>> format_duration(7.25), format_duration(178), format_duration(4000)
    ('7.2 s', '2 min 58 s', '1 h 7 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))


def format_number(number: float) -> str:
    """Format a number for reading; millions and billions are rounded to one decimal place.

    >>> format_number(9120), format_number(3_604_480)
    ('9,120', '3.6 million')
    """
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:,.1f} {word}"
    return f"{number:,.0f}"


def strip_folders(text: str) -> str:
    """Shorten an absolute path, or the absolute path after `=`, to its last component; return other text unchanged.

    >>> [strip_folders(text) for text in ("/home/ann/my stories/train.txt", "--out=/data/run", "../a.txt")]
    ['train.txt', '--out=run', '../a.txt']
    """
    flag, equals, path = text.rpartition("=")
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(path).is_absolute():
            return flag + equals + kind(path).name
    return text


def _summary(run: Run) -> Text:
    return [
        f"The model has {format_number(run.parameters)} parameters. It was trained for {_count(run.steps_done, 'step')} on "
        f"{_count(run.tokens_seen, 'token')} of {strip_folders(run.data.name)}, or {run.epochs:.2f} epochs. Training took "
        f"{format_duration(run.elapsed_s)}, at a median speed of {format_number(run.tokens_per_s)} tokens per second. ",
        *_unfinished(run),
        *_result(run),
    ]


def _unfinished(run: Run) -> Text:
    planned = run.config.get("steps")
    if not math.isfinite(run.history.loss[-1]) and run.steps_done != planned:
        return [f"Training stopped at step {run.steps_done:,}, where the loss was not finite. "]
    if isinstance(planned, int) and run.steps_done < planned:
        return [f"The run has completed {run.steps_done:,} of {_count(planned, 'step')}. "]
    return []


def _result(run: Run) -> Text:
    if run.final is None:
        return ["The validation loss has not been measured yet; the training loss is ", *_training_loss(run), "."]
    when = "The" if run.final.step == run.steps_done else f"At step {run.final.step:,}, the"
    return [
        f"{when} loss on the validation text, which is not part of the training data, is ",
        Strong(f"{run.final.loss:.3f} nats per token"),
        ", or ",
        Strong(f"{run.final.bits_per_byte:.3f} bits per byte"),
        *_above_floor(run),
        ".",
        *_best(run),
    ]


def _above_floor(run: Run) -> Text:
    if run.above_floor is None:
        return []
    side = "above" if run.above_floor >= 0 else "below"
    entropy = "the entropy of the text" if run.data.floor_is_exact else "an upper bound on the entropy of the text"
    return [
        ", ",
        Strong(f"{abs(run.above_floor):.3f} {side} the floor"),
        f" of {run.data.floor_bits_per_byte:.3f} ({entropy})",
    ]


def _best(run: Run) -> Text:
    if run.best is None or run.final is None or run.best.loss >= run.final.loss:
        return []
    lowest = f"{run.best.loss:.3f} nats per token ({run.best.bits_per_byte:.3f} bits per byte)"
    return [f" The lowest validation loss was {lowest}, at step {run.best.step:,}."]


def _training_loss(run: Run) -> Text:
    steps = min(TAIL, len(run.history.loss))
    loss = Strong(f"{run.final_training_loss:.3f} nats per token")
    return [loss, f" (mean of the last {steps} steps)"] if steps > 1 else [loss]


def _format_sample(sample: Sample) -> FormattedSample:
    top_k = f", top-k {sample.top_k}" if sample.top_k else ""
    note = f"seed {sample.seed}, temperature {sample.temperature:g}{top_k}"
    return FormattedSample([Strong(sample.prompt), sample.text], note)


def _configuration(run: Run) -> Table:
    rows = [(name, _format_value(value)) for name, value in run.config.items() if name not in MODEL_FIELDS]
    return Table("Configuration", rows)


def _model(run: Run) -> Table:
    shape = [(name, _format_value(run.config[name])) for name in MODEL_FIELDS if name in run.config]
    return Table("Model", [("parameters", f"{run.parameters:,}"), *shape])


def _data(run: Run) -> Table:
    data = run.data
    rows = [
        ("source", strip_folders(data.name)),
        *_split("training", data.train),
        *_split("validation", data.valid),
    ]
    if data.floor_bits_per_byte is not None:
        at_most = "" if data.floor_is_exact else "at most "
        rows.append(("floor", f"{at_most}{data.floor_bits_per_byte:.4f} bits per byte, {data.floor_loss:.4f} nats per token"))
    return Table("Data", rows)


def _split(name: str, split: Split) -> list[tuple[str, str]]:
    return [
        (f"{name} documents", f"{split.documents:,}"),
        (f"{name} text", f"{split.bytes:,} bytes"),
        (f"{name} tokens", f"{split.tokens:,} ({split.bytes / split.tokens:.2f} bytes per token)"),
    ]


def _training(run: Run) -> Table:
    rows = [
        ("steps", f"{run.steps_done:,}"),
        ("tokens seen", f"{run.tokens_seen:,}"),
        ("epochs", f"{run.epochs:.2f}"),
        ("time", format_duration(run.elapsed_s)),
        ("speed (median)", f"{run.tokens_per_s:,.0f} tokens/s"),
        ("training loss", "".join(_training_loss(run))),
    ]
    if run.final and run.best:
        rows.append(("last validation", f"{_format_validation(run.final)}, step {run.final.step:,}"))
        rows.append(("best validation", f"{_format_validation(run.best)}, step {run.best.step:,}"))
    return Table("Training", rows)


def _format_validation(validation: Validation) -> str:
    return f"{validation.loss:.4f} nats per token, {validation.bits_per_byte:.4f} bits per byte"


def _machine(run: Run) -> Table:
    names = {
        "memory_gib": "memory (GiB)",
        "numpy": "NumPy",
        "python": "Python",
        "blas": "BLAS",
        "blas_threads": "BLAS threads",
    }
    rows = [(names.get(name, name.replace("_", " ")), _format_value(value)) for name, value in run.machine.items()]
    return Table("Machine", [*rows, ("minigpt", run.version)])


def _commands(run: Run) -> list[tuple[str, str]]:
    repeat = ["minigpt", "train", "--config", f"{run.name}/config.toml", "--out", f"{run.name}-again"]
    return [
        ("The command that started this run:", shlex.join(map(strip_folders, run.command))),
        ("Repeat the run from its saved configuration:", shlex.join(repeat)),
        ("Generate text with the trained model:", shlex.join(_sample_command(run))),
    ]


def _sample_command(run: Run) -> list[str]:
    command = ["minigpt", "sample", run.name]
    if not run.samples:
        return command
    sample = run.samples[0]
    command += ["--prompt", sample.prompt, "--temperature", f"{sample.temperature:g}", "--seed", str(sample.seed)]
    if sample.top_k:
        command += ["--top-k", str(sample.top_k)]
    return command


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(_format_value, value))
    return f"{value:g}" if isinstance(value, float) else strip_folders(str(value))


def _count(number: int, word: str) -> str:
    plural = "" if number == 1 else "s"
    return f"{format_number(number)} {word}{plural}"
