"""What a report says, in words and tables, before it becomes Markdown or HTML."""

import math
import re
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from minigpt.np.config import MODEL_FIELDS
from minigpt.report.numbers import TAIL, Run, Split, Story, Validation


class Strong(str):
    """A part of a text that is printed bold."""


Text = list[str]
"A text in parts, some of them `Strong`; none holds markup."


@dataclass(frozen=True)
class Table:
    """Names and values under a title."""

    title: str
    rows: list[tuple[str, str]]


@dataclass(frozen=True)
class Sample:
    """A story with its prompt in bold, and how it was drawn."""

    text: Text
    note: str


@dataclass(frozen=True)
class Content:
    """A report in the order in which it is read."""

    title: str
    summary: Text
    explanation: str
    picture: str
    samples_title: str
    samples: list[Sample]
    tables: list[Table]
    commands: list[tuple[str, str]]


EXPLANATION = (
    "Bits per byte says how many bits the model needs, on average, for one byte of validation text; lower is better. "
    "Unlike the loss per token it does not depend on the tokenizer, so models with different vocabularies compare."
)


def describe(run: Run) -> Content:
    """Put a run into words and tables, naming no folder of the machine it ran on."""
    return Content(
        title=f"Training run {run.name}",
        summary=_summary(run),
        explanation=EXPLANATION,
        picture=f"Loss, learning rate and gradient norm over {_count(run.steps_done, 'step')}",
        samples_title=f"Stories after {_count(run.stories[0].step, 'step')}" if run.stories else "Stories",
        samples=[_sample(story) for story in run.stories],
        tables=[_configuration(run), _model(run), _data(run), _training(run), _machine(run)],
        commands=_commands(run),
    )


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(7.25), duration(178), duration(4000)
    ('7.2 s', '2 min 58 s', '1 h 7 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))


def about(number: float) -> str:
    """A large number as people say it.

    >>> about(9120), about(3_604_480)
    ('9,120', '3.6 million')
    """
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:,.1f} {word}"
    return f"{number:,.0f}"


def without_folders(text: str) -> str:
    """Shorten an absolute path to its last name, so that a report tells nothing of the machine's folders.

    >>> [without_folders(text) for text in ("/home/ann/my stories/train.txt", "--out=/data/run", "../a.txt")]
    ['train.txt', '--out=run', '../a.txt']
    """
    flag, equals, path = text.rpartition("=")
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(path).is_absolute():
            return flag + equals + kind(path).name
    return text


def _summary(run: Run) -> Text:
    return [
        f"The model of {about(run.parameters)} parameters saw {_count(run.tokens_seen, 'token')} of "
        f"{without_folders(run.data.name)}, {run.epochs:.2f} times its training data, in "
        f"{_count(run.steps_done, 'step')}. This took {duration(run.elapsed_s)}, at a median of "
        f"{about(run.tokens_per_s)} tokens a second. ",
        *_unfinished(run),
        *_result(run),
    ]


def _unfinished(run: Run) -> Text:
    planned = run.config.get("steps")
    if not math.isfinite(run.history.loss[-1]) and run.steps_done != planned:
        return [f"It stopped at step {run.steps_done:,}, whose loss was not finite. "]
    if isinstance(planned, int) and run.steps_done < planned:
        return [f"It has done {run.steps_done:,} of {_count(planned, 'step')}. "]
    return []


def _result(run: Run) -> Text:
    if run.final is None:
        return ["The validation loss was not measured yet; the training loss is ", *_training_loss(run), "."]
    when = "On" if run.final.step == run.steps_done else f"At step {run.final.step:,}, on"
    return [
        f"{when} validation text, which it never trained on, its loss is ",
        Strong(f"{run.final.loss:.3f} per token"),
        ", which is ",
        Strong(f"{run.final.bits_per_byte:.3f} bits per byte"),
        *_above_floor(run),
        ".",
        *_best(run),
    ]


def _above_floor(run: Run) -> Text:
    if run.above_floor is None:
        return []
    side = "above" if run.above_floor >= 0 else "below"
    entropy = "the entropy of that text" if run.data.floor_is_exact else "an upper bound of the entropy of that text"
    return [
        ": ",
        Strong(f"{abs(run.above_floor):.3f} {side} the floor"),
        f" of {run.data.floor_bits_per_byte:.3f}, {entropy}",
    ]


def _best(run: Run) -> Text:
    if run.best is None or run.final is None or run.best.loss >= run.final.loss:
        return []
    return [f" The lowest was {run.best.loss:.3f}, {run.best.bits_per_byte:.3f} bits per byte, at step {run.best.step:,}."]


def _training_loss(run: Run) -> Text:
    steps = min(TAIL, len(run.history.loss))
    return [Strong(f"{run.final_training_loss:.3f} per token"), *([f" (mean of the last {steps})"] if steps > 1 else [])]


def _sample(story: Story) -> Sample:
    top_k = f", top-k {story.top_k}" if story.top_k else ""
    return Sample([Strong(story.prompt), story.text], f"seed {story.seed}, temperature {story.temperature:g}{top_k}")


def _configuration(run: Run) -> Table:
    rows = [(name, _value(value)) for name, value in run.config.items() if name not in MODEL_FIELDS]
    return Table("Configuration", rows)


def _model(run: Run) -> Table:
    shape = [(name, _value(run.config[name])) for name in MODEL_FIELDS if name in run.config]
    return Table("Model", [("parameters", f"{run.parameters:,}"), *shape])


def _data(run: Run) -> Table:
    data = run.data
    rows = [
        ("text", without_folders(data.name)),
        *_split("training", data.train),
        *_split("validation", data.valid),
    ]
    if data.floor_bits_per_byte is not None:
        most = "" if data.floor_is_exact else "at most "
        rows.append(("floor", f"{most}{data.floor_bits_per_byte:.4f} bits per byte, {data.floor_loss:.4f} per token"))
    return Table("Data", rows)


def _split(name: str, split: Split) -> list[tuple[str, str]]:
    return [
        (f"{name} documents", f"{split.documents:,}"),
        (f"{name} text", f"{split.bytes:,} bytes"),
        (f"{name} tokens", f"{split.tokens:,} ({split.bytes / split.tokens:.2f} bytes each)"),
    ]


def _training(run: Run) -> Table:
    rows = [
        ("steps", f"{run.steps_done:,}"),
        ("tokens seen", f"{run.tokens_seen:,}"),
        ("times over the data", f"{run.epochs:.2f}"),
        ("time", duration(run.elapsed_s)),
        ("speed (median)", f"{run.tokens_per_s:,.0f} tokens/s"),
        ("training loss", "".join(_training_loss(run))),
    ]
    if run.final and run.best:
        rows.append(("last validation", f"{_measured(run.final)}, step {run.final.step:,}"))
        rows.append(("best validation", f"{_measured(run.best)}, step {run.best.step:,}"))
    return Table("Training", rows)


def _measured(validation: Validation) -> str:
    return f"{validation.loss:.4f} per token, {validation.bits_per_byte:.4f} bits per byte"


def _machine(run: Run) -> Table:
    names = {"memory_gib": "memory (GiB)", "numpy": "NumPy", "python": "Python", "blas": "BLAS"}
    names["blas_threads"] = "BLAS threads"
    rows = [(names.get(name, name.replace("_", " ")), _value(value)) for name, value in run.machine.items()]
    return Table("Machine", [*rows, ("minigpt", run.version)])


def _commands(run: Run) -> list[tuple[str, str]]:
    again = ["minigpt", "train", "--config", f"{run.name}/config.toml", "--out", f"{run.name}-again"]
    return [
        ("This run:", shlex.join(map(without_folders, run.command))),
        ("The same from its saved configuration:", shlex.join(again)),
        ("Stories from the trained model:", shlex.join(_sample_command(run))),
    ]


def _sample_command(run: Run) -> list[str]:
    command = ["minigpt", "sample", run.name]
    if run.stories:
        story = run.stories[0]
        command += ["--prompt", story.prompt, "--temperature", f"{story.temperature:g}", "--seed", str(story.seed)]
        command += ["--top-k", str(story.top_k)] if story.top_k else []
    return command


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else without_folders(str(value))


def _count(number: int, word: str) -> str:
    return f"{about(number)} {word}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Put the replacement character for what no page may hold: control characters and halves of a surrogate pair."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
