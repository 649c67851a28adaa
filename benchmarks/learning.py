"""Compare how much minigpt and PyTorch learn in the same time.

usage: python benchmarks/learning.py RACE --train FILE --valid FILE [--seeds 0 1] [--sides ...] [--out FILE]

The sides of a race train on the same batches. They take turns, a few steps each, so that other work on the machine slows all of
them alike. All use two threads. Prints the bits per byte (or the loss) on all of the validation text over the seconds of
training, which do not include validation. `--out` appends one line per run, with its curve (JSON).

races:
  small        TinyStories, preset small, vocabulary 4,096: 880 steps of 4,096 tokens
  short        the same, with as many steps as minigpt needs for PyTorch's best loss
  shakespeare  nanoGPT's recipe for a CPU: tiny Shakespeare by characters, 2,000 steps of 768 tokens
  cs336        TinyStories with a vocabulary of 10,000, as in the course CS336, a tenth of its tokens
  storybook    the built-in stories, `minigpt train` (no files are needed)
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interleaved import BenchmarkProcess

from minigpt.data.batches import batch
from minigpt.data.token_files import PreparedData, prepare
from minigpt.np.ops import Dropout
from minigpt.training.evaluate import evaluate
from minigpt.training.initial_model import initial_model
from minigpt.training.machine import describe
from minigpt.training.optimizer import clip_scale
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.recipe import optimizer, rate
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings

THREADS = 2
TURNS, EVALUATE_EVERY = 40, 4
"The number of turns in which a side trains, and the number of turns between validations."


@dataclass(frozen=True)
class Race:
    """The settings of both sides, and the sides that take part by default."""

    settings: dict[str, Any]
    sides: tuple[str, ...]


RACES = {
    "small": Race({"preset": "small", "steps": 880}, ("minigpt", "torch-gpt2")),
    "short": Race({"preset": "small", "steps": 240}, ("minigpt",)),
    "shakespeare": Race({"preset": "nano", "tokenizer": "char"}, ("minigpt", "torch-gpt2")),
    "cs336": Race({"preset": "small", "vocab_size": 10_000}, ("minigpt",)),
    "storybook": Race({}, ("minigpt",)),
}
SIDES = {
    "minigpt": "minigpt, its default recipe",
    "minigpt-gpt2": "minigpt, --recipe gpt2",
    "torch-gpt2": "PyTorch, AdamW, nanoGPT's recipe, learning rate 3e-3",
    "torch-default": "PyTorch, the default recipe of minigpt",
    "torch-extras": "PyTorch, the default recipe with three extras",
}
Train = Callable[[int, int], float]
"Train from one step to another, and return the loss of the last step."
Score = Callable[[], tuple[float, float]]
"Return the loss and the bits per byte on the validation text."


def settings_of(race: str, side: str, seed: int, options: argparse.Namespace) -> Settings:
    """Return the settings of a side."""
    given = {**RACES[race].settings, "seed": seed, "threads": THREADS}
    if race != "storybook":
        given |= {"data": (options.train,), "val_data": options.valid}
    if side.endswith("gpt2"):
        given |= {"recipe": "gpt2", "lr": 3e-3}
    return resolve({**given, **dict(setting(text) for text in options.set or ())})


def setting(text: str) -> tuple[str, Any]:
    """Return a setting given as name=value."""
    name, value = text.split("=", 1)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def minigpt_side(settings: Settings, data: PreparedData) -> tuple[Train, Score]:
    """Return the functions that train and evaluate minigpt."""
    s, model = settings, initial_model(settings, data.tokenizer.vocab_size)
    workers = DataParallel(model, s.threads, s.micro_batch, optimizer(s)).__enter__()

    def train(first: int, last: int) -> float:
        loss = 0.0
        for step in range(first, last + 1):
            tokens, targets = batch(data.train, s.seed, step, s.batch_size, s.context_length)
            loss, norm = workers.loss_and_grads(tokens, targets, Dropout(s.dropout, s.seed, step))
            workers.update(rate(s, step), step, clip_scale(norm, s.clip))
        return loss

    def score() -> tuple[float, float]:
        result = evaluate(workers, data.valid)
        return result.loss, result.bits_per_byte

    return train, score


def serve(race: str, side: str, seed: int, options: argparse.Namespace) -> None:
    """Be one side of a race: for each step on standard input, train to it, and print the result as JSON."""
    s = settings_of(race, side, seed, options)
    data = prepare(s.data, s.val_data, vocab_size=s.vocab_size, tokenizer=s.tokenizer)  # the same text with all seeds
    if side.startswith("torch"):
        from learning_torch import torch_side

        train, score = torch_side(s, data, rate, extras=side.endswith("extras"))
    else:
        train, score = minigpt_side(s, data)
    done, seconds = 0, 0.0
    print(json.dumps({"steps": s.steps, "tokens_per_step": s.batch_size * s.context_length}), flush=True)
    for line in sys.stdin:
        target = int(line.split()[0])
        start = time.perf_counter()
        train(done + 1, target)
        seconds += time.perf_counter() - start
        done = target
        print(json.dumps([done, round(seconds, 2), *(score() if "evaluate" in line else ())]), flush=True)


def run(race: str, seed: int, options: argparse.Namespace, arguments: list[str]) -> list[dict[str, Any]]:
    """Run a race with one seed; return one record for each side."""
    command = [__file__, race, "--seeds", str(seed), *arguments]
    sides = {side: BenchmarkProcess([*command, "--serve", side]) for side in options.sides or RACES[race].sides}
    curves: dict[str, list[Any]] = {side: [] for side in sides}
    for turn in range(1, TURNS + 1):
        for side, process in sides.items():
            step = process.ready["steps"] * turn // TURNS
            result = process.request(f"{step} evaluate" if turn % EVALUATE_EVERY == 0 else f"{step}")
            curves[side] += [result] if turn % EVALUATE_EVERY == 0 else []
            print(f"{turn}/{TURNS} {side} {result}", file=sys.stderr, flush=True)
    for process in sides.values():
        process.close()
    common = {"race": race, "seed": seed, "machine": describe(THREADS), "set": options.set or []}
    return [{**common, "side": side, **process.ready, "curve": curves[side]} for side, process in sides.items()]


def print_table(records: list[dict[str, Any]]) -> None:
    """Print the final results as a Markdown table."""
    print("| race | side | seed | tokens | seconds | loss | bits per byte |\n|---|---|---|---|---|---|---|")
    for r in records:
        step, seconds, loss, bits = r["curve"][-1]
        tokens = step * r["tokens_per_step"]
        print(f"| {r['race']} | {SIDES[r['side']]} | {r['seed']} | {tokens:,} | {seconds:.0f} | {loss:.3f} | {bits:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("race", choices=RACES)
    parser.add_argument("--train", help="training text")
    parser.add_argument("--valid", help="validation text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--sides", nargs="+", choices=SIDES)
    parser.add_argument("--set", nargs="+", metavar="NAME=VALUE", help="settings that replace those of the race, for all sides")
    parser.add_argument("--out", type=Path, help="file to which the results are appended")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.race, options.serve, options.seeds[0], options)
    arguments = []
    for name in ("train", "valid"):
        if value := getattr(options, name):
            arguments += [f"--{name}", value]
    arguments += ["--set", *options.set] if options.set else []
    records = []
    for seed in options.seeds:
        new = run(options.race, seed, options, arguments)
        records += new
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in new)
    print_table(records)


if __name__ == "__main__":
    main()
