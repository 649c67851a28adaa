"""Measure what observing costs: a trace, and training and generation without one.

usage: python benchmarks/observing.py [--before SRC] [--rounds 9] [--threads 2]

A trace of 256 tokens of GPT-2 124M is compared with the gradients of the same tokens, which train the model. With --before, the
folder `src` of another version, a training step and generation are compared with those of that version. The timings are
interleaved. Prints a Markdown table of medians; a ratio above 1 means that the first takes longer.
"""

import argparse
import os
import statistics
from collections.abc import Callable

import numpy as np
from interleaved import TimedProcess, rotated, serve_timings
from threadpoolctl import threadpool_limits

from minigpt import GPT, preset
from minigpt.np.workspace import Arena

TRACED, TOKENS = "gpt2", 256
TRAINED = ("tiny", "small")
NEW_TOKENS = 100


def functions(traced: bool) -> dict[str, Callable[[], object]]:
    """Return the functions that are timed: those of a trace, or those that every version has."""
    rng = np.random.default_rng(0)
    if traced:
        model, ws = GPT(preset(TRACED)), Arena()
        tokens, targets = rng.integers(0, model.config.vocab_size, (2, 1, TOKENS))
        out = model.parameters.zeros_like()
        return {
            "step": lambda: model.loss_and_grads(tokens, targets, ws=ws, out=out),
            "trace": lambda: model.trace(tokens, targets),
        }
    found: dict[str, Callable[[], object]] = {}
    for name in TRAINED:
        found |= training_and_generation(name, GPT(preset(name, vocab_size=2048)), rng)
    return {"step": found[f"gradients {TRAINED[0]}"], **found}


def training_and_generation(name: str, model: GPT, rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """Return the gradients of a micro-batch of 1,024 tokens, and the generation of a text."""
    ws, out = Arena(), model.parameters.zeros_like()
    T = model.config.context_length
    tokens, targets = rng.integers(0, model.config.vocab_size, (2, 1024 // T, T))
    return {
        f"gradients {name}": lambda: model.loss_and_grads(tokens, targets, ws=ws, out=out),
        f"generation {name}": lambda: model.generate([[1]], NEW_TOKENS),
    }


def compare(processes: dict[str, TimedProcess], names: list[tuple[str, str]], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Return the median time of each function (of a process, by name) in each round."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in names}
    for i in range(rounds):
        for process, name in rotated(names, i):
            times[process, name].append(statistics.median(processes[process].time(name)))
    return times


def print_row(label: str, first: list[float], second: list[float]) -> None:
    """Print the medians in milliseconds, and the median and the range of their ratio in the rounds."""
    ratios = sorted(a / b for a, b in zip(first, second, strict=True))
    a, b = (f"{1e3 * statistics.median(times):.1f}" for times in (first, second))
    print(f"| {label} | {a} | {b} | {statistics.median(ratios):.3f} | {ratios[0]:.3f} to {ratios[-1]:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="folder src of the version to compare with")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", choices=("traced", "untraced"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        with threadpool_limits(options.threads):
            return serve_timings(functions(options.worker == "traced"))
    command = [__file__, "--threads", str(options.threads), "--worker"]
    print("| compared | ms | ms | ratio | in the rounds |\n|---|---|---|---|---|")
    traced = TimedProcess([*command, "traced"])
    times = compare({"": traced}, [("", "trace"), ("", "step")], options.rounds)
    print_row(f"trace, gradients ({TRACED}, {TOKENS} tokens)", times["", "trace"], times["", "step"])
    traced.close()
    if not options.before:
        return
    processes = {
        "now": TimedProcess([*command, "untraced"]),
        "before": TimedProcess([*command, "untraced"], {"PYTHONPATH": os.path.abspath(options.before)}),
    }
    names = [f"{what} {name}" for name in TRAINED for what in ("gradients", "generation")]
    times = compare(processes, [(version, name) for name in names for version in processes], options.rounds)
    for name in names:
        print_row(f"now, before: {name}", times["now", name], times["before", name])
    for process in processes.values():
        process.close()


if __name__ == "__main__":
    main()
