"""The command that shows what each preset holds."""

import json
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from minigpt.cli.app import Integer, Switch, app, check_minimum
from minigpt.cli.columns import aligned
from minigpt.np.config import PRESETS
from minigpt.training.resolve import resolve

SECONDS, MAX_FLOPS = 0.03, 2e9  # of the measurement of each preset: about a second for all of them
COLUMNS = ("preset", "layers", "width", "heads", "context", "vocab", "params", "memory", "tokens", "time")
EXPLANATION = """\
width: d_model; vocab: at most, a short text has fewer tokens;
tokens: seen in training; memory, time: estimates for {threads} of this machine
gpt2 and the Llamas have the form of their family, the others that of Qwen 3,
or with --recipe gpt2, that of GPT-2

minigpt train --preset tiny            trains it; options change single settings
minigpt train --preset tiny --dry-run  estimates for your data and options"""


@dataclass(frozen=True)
class PresetSummary:
    """The sizes of a preset, and what training with it takes on this machine."""

    preset: str
    n_layers: int
    d_model: int
    n_heads: int
    context_length: int
    vocab_size: int
    "The largest size of the vocabulary; a short text has fewer tokens."
    parameters: int
    memory_bytes: int
    steps: int
    batch_size: int
    tokens: int
    seconds: float


@app.command
def presets(
    *,
    threads: Integer = 0,
    json_: Annotated[Switch, Parameter(name="--json")] = False,
) -> None:
    """Show the sizes of each preset, and how long training takes on this machine.

    Parameters
    ----------
    threads
        Number of workers, each on one core; 0 means all cores that this process may use.
    json_
        Print the table as JSON.
    """
    from minigpt.data.text_files import plural
    from minigpt.training.machine import available_cores

    check_minimum(0, threads=threads)
    workers = threads or available_cores()
    summaries = [summarize(name, workers) for name in PRESETS]
    if json_:
        print(json.dumps([vars(summary) for summary in summaries], indent=2))
        return
    print(aligned([COLUMNS, *map(_row, summaries)]))
    print("\n" + EXPLANATION.format(threads=plural(workers, "thread")))


def summarize(preset: str, threads: int) -> PresetSummary:
    """Return the summary of a preset, whose speed is measured for a moment."""
    from minigpt.training.estimate import count_parameters, memory
    from minigpt.training.speed import measure_speed, step_seconds, training_seconds

    s = resolve({"preset": preset})
    config = s.model(s.vocab_size)
    speed = measure_speed(s, config, threads, SECONDS, MAX_FLOPS)
    seconds = training_seconds(s, config, step_seconds(s, config, speed, threads), s.steps, s.eval_tokens)
    return PresetSummary(
        preset=preset,
        **{name: getattr(config, name) for name in ("n_layers", "d_model", "n_heads", "context_length", "vocab_size")},
        parameters=count_parameters(config),
        memory_bytes=memory(s, config, threads).total,
        steps=s.steps,
        batch_size=s.batch_size,
        tokens=s.steps * s.batch_size * s.context_length,
        seconds=seconds,
    )


def _row(s: PresetSummary) -> tuple[str, ...]:
    from minigpt.training.estimate import gigabytes
    from minigpt.training.speed import duration

    sizes = map(str, (s.n_layers, s.d_model, s.n_heads, s.context_length, s.vocab_size))
    parameters, tokens = (f"{number / 1e6:.1f}M" for number in (s.parameters, s.tokens))
    return s.preset, *sizes, parameters, gigabytes(s.memory_bytes), tokens, duration(s.seconds)
