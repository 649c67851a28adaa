"""The contents of a report, independent of the output format (Markdown or HTML)."""

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from minigpt.report.elements import Content, FormattedSample, Strong, Text, Token
from minigpt.report.floor import explain_floor
from minigpt.report.formats import format_count, format_duration, format_number, format_value, strip_folders
from minigpt.report.numbers import Run, Sample, SettingsChange
from minigpt.report.tables import norm_table, tables, training_loss

EXPLANATION = (
    "Bits per byte is the average number of bits that the model needs to encode one byte of the validation text; lower is "
    "better. Unlike the loss per token, it does not depend on the tokenizer, so models with different vocabularies can be "
    "compared."
)

MAX_PROGRESS = 50
"The maximum number of samples that show how the text changed, to limit the size of the page."


def describe(run: Run) -> Content:
    """Describe a run in text and tables, without revealing the folders of the machine it ran on."""
    progress = _progress(run)
    shown = _evenly(progress, MAX_PROGRESS)
    return Content(
        title=f"Training run {run.name}",
        summary=_summary(run),
        explanation=EXPLANATION,
        alt_text=f"Loss, learning rate and gradient norm over {format_count(run.steps_done, 'step')}",
        floor=explain_floor(run),
        progress_note=_progress_note(progress, len(shown)),
        progress=[_format_progress(sample, repeated=_same_options(progress)) for sample in shown],
        samples_title=f"Samples after {format_count(run.samples[0].step, 'step')}" if run.samples else "Samples",
        samples=[_format_sample(sample, _options(sample)) for sample in run.samples],
        norms=norm_table(run),
        tables=tables(run),
        commands=_commands(run),
    )


def _summary(run: Run) -> Text:
    return [
        f"The model has {format_number(run.parameters)} parameters. It was trained for {format_count(run.steps_done, 'step')} on "
        f"{format_count(run.tokens_seen, 'token')} of {strip_folders(run.data.name)}, or {run.epochs:.2f} epochs. Training took "
        f"{format_duration(run.elapsed_s)}, at a median speed of {format_number(run.tokens_per_s)} tokens per second. ",
        *map(_change, run.changes),
        *_unfinished(run),
        *_result(run),
    ]


def _change(change: SettingsChange) -> str:
    settings = (f"{name} was {format_value(new)} instead of {format_value(old)}" for name, (old, new) in change.settings.items())
    return f"From step {change.step + 1:,} on, {', and '.join(settings)}. "


def _unfinished(run: Run) -> Text:
    planned = run.config.get("steps")
    if not math.isfinite(run.history.loss[-1]) and run.steps_done != planned:
        return [f"Training stopped at step {run.steps_done:,}, where the loss was not finite. "]
    if isinstance(planned, int) and run.steps_done < planned:
        return [f"The run has completed {run.steps_done:,} of {format_count(planned, 'step')}. "]
    return []


def _result(run: Run) -> Text:
    if run.final is None:
        loss, mean = training_loss(run)
        return ["The validation loss has not been measured yet; the training loss is ", Strong(loss), f"{mean}."]
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


def _progress(run: Run) -> list[Sample]:
    """Return all samples before the last step with samples, and those of the last step that continue their series."""
    earlier = [sample for sample in run.all_samples if sample.step != run.samples[0].step]
    if not earlier:
        return []
    series = {sample.options for sample in earlier}
    return [*earlier, *([sample for sample in run.samples if sample.options in series] or run.samples[:1])]


def _same_options(samples: Sequence[Sample]) -> bool:
    return len({sample.options for sample in samples}) == 1


def _progress_note(progress: list[Sample], shown: int) -> str:
    if not progress:
        return ""
    note = "The text that the model generated at each measuring point"
    if _same_options(progress):
        prompt = f"from the prompt “{progress[0].prompt}”" if progress[0].prompt else "without a prompt"
        note += f", always {prompt} and with {_options(progress[0])}"
    if shown < len(progress):
        note += f" ({shown} of {len(progress):,} samples, evenly spaced; samples.jsonl has all)"
    return f"{note}."


def _evenly(samples: list[Sample], count: int) -> list[Sample]:
    """Return at most `count` of the samples, evenly spaced, including the first and the last."""
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)] if len(samples) > count else samples


def _format_progress(sample: Sample, repeated: bool) -> FormattedSample:
    return _format_sample(sample, "" if repeated else _options(sample), title=f"Step {sample.step:,}")


def _format_sample(sample: Sample, options: str, title: str = "") -> FormattedSample:
    note = "; ".join(filter(None, (options, _mean_surprise(sample))))
    tokens = tuple(_tokens(sample.tokens))
    return FormattedSample([Strong(sample.prompt), sample.text], note, tokens, title)


def _options(sample: Sample) -> str:
    top_k = f", top-k {sample.top_k}" if sample.top_k else ""
    return f"seed {sample.seed}, temperature {sample.temperature:g}{top_k}"


def _mean_surprise(sample: Sample) -> str:
    mean = sum(bits for _, bits in sample.tokens) / len(sample.tokens) if sample.tokens else math.nan
    return f"{mean:.1f} bits of surprise per token" if math.isfinite(mean) else ""


def _tokens(pieces: Iterable[tuple[str, float]]) -> Iterator[Token]:
    """Yield the tokens; several tokens that make up one character are one token with the sum of their surprisals.

    >>> [(token.text, token.bits) for token in _tokens([(" a", 1.0), ("", 2.0), ("é", 3.0)])]
    [(' a', 1.0), ('é', 5.0)]
    """
    pending = 0.0
    for text, bits in pieces:
        pending += bits
        if text:
            yield Token(text, pending)
            pending = 0.0


def _commands(run: Run) -> list[tuple[str, str]]:
    repeat = ["minigpt", "train", "--config", f"{run.path}/config.toml", "--out", f"{run.path}-again"]
    return [
        ("The command that started this run:", shlex.join(map(strip_folders, run.command))),
        ("Repeat the run from its saved configuration:", shlex.join(repeat)),
        ("Generate text with the trained model:", shlex.join(_sample_command(run))),
    ]


def _sample_command(run: Run) -> list[str]:
    command = ["minigpt", "sample", run.path]
    if not run.samples:
        return command
    sample = run.samples[0]
    command += ["--prompt", sample.prompt, "--temperature", f"{sample.temperature:g}", "--seed", str(sample.seed)]
    if sample.top_k:
        command += ["--top-k", str(sample.top_k)]
    return command
