"""What each measure brings: minigpt beside minigpt without it, taking turns in one run.

usage: python benchmarks/ablations.py [--sizes nano small] [--measures processes workspace] [--rounds 7] [--threads N]

Prints a Markdown table: how many times longer a step takes without the measure.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits
from turns import Side, answer

from minigpt.bench.step import SIZES, Step
from minigpt.np import attention, head, ops
from minigpt.np.workspace import Array, Fresh
from minigpt.train import crew, parallel
from minigpt.train.machine import available_cores

FAR_MORE = 1 << 40


def threads_for_processes() -> None:
    """Workers that share Python's lock."""
    crew.CAN_FORK = False


def fresh_arrays() -> None:
    """Every array a new one: memory from the system, page by page, again in each step."""
    parallel.Workspace = Fresh  # type: ignore[misc,assignment]


def no_pieces() -> None:
    """Element-wise work over whole arrays."""
    ops.PIECE = FAR_MORE


def no_query_blocks() -> None:
    """All queries at once: the future is computed, and masked."""
    attention.QUERY_BLOCK, attention.BLOCK_ELEMENTS = 1 << 20, FAR_MORE


def no_boxes() -> None:
    """Blocks of queries in all heads of all sequences at once."""
    attention.BLOCK_ELEMENTS = FAR_MORE


def always_shift() -> None:
    """A row's maximum found and subtracted in every softmax."""
    attention.SAFE_SCORE = ops.SAFE_LOGIT = -1.0


def whole_logits() -> None:
    """The logits of a whole micro-batch at once."""
    head.CHUNK_ELEMENTS = FAR_MORE


def plain_sums() -> None:
    """`sum` in place of products with ones."""

    def row_sum(x: Array, out: Array | None = None) -> Array:
        return np.sum(x, axis=-1, keepdims=True, out=out)

    def column_sum(x: Array, out: Array | None = None) -> Array:
        return np.asarray(np.sum(x, axis=0, out=out))

    ops.row_sum = attention.row_sum = row_sum
    ops.column_sum = column_sum


def one_sequence() -> None:
    """Micro-batches of one sequence."""
    parallel.TOKENS_AT_A_TIME = 1


MEASURES: dict[str, tuple[str, Callable[[], None]]] = {
    "processes": ("workers are processes, not threads", threads_for_processes),
    "blas": ("workers, not BLAS's own threads", lambda: None),
    "workspace": ("the same memory in each step", fresh_arrays),
    "pieces": ("element-wise work in pieces", no_pieces),
    "blocks": ("attention in blocks of queries", no_query_blocks),
    "boxes": ("few heads at a time in a block", no_boxes),
    "shift": ("no maximum where none is needed", always_shift),
    "chunks": ("head and loss some rows at a time", whole_logits),
    "sums": ("sums as products with ones", plain_sums),
    "micro": ("micro-batches of many sequences", one_sequence),
}


def work(measure: str, size: str, threads: int) -> None:
    """The life of a side's process."""
    if measure in MEASURES:
        MEASURES[measure][1]()
    if measure == "blas":
        with Step(*SIZES[size], 1) as step, threadpool_limits(threads, user_api="blas"):
            answer({"step": step})
    else:
        with Step(*SIZES[size], threads) as step:
            answer({"step": step})


def compare(size: str, measures: list[str], rounds: int, threads: int) -> dict[str, float]:
    """Measure -> how many times longer a step takes without it: medians, each side against all of it in the same round."""
    sides = {name: Side([__file__, "--worker", name, "--sizes", size, "--threads", str(threads)]) for name in ["all", *measures]}
    ratios: dict[str, list[float]] = {name: [] for name in measures}
    names = list(sides)
    for i in range(rounds):
        order = names[i % len(names) :] + names[: i % len(names)]  # nobody is always the first
        seconds = {name: statistics.median(sides[name].ask("step")) for name in order}
        for name in measures:
            ratios[name].append(seconds[name] / seconds["all"])
    for side in sides.values():
        side.close()
    return {name: statistics.median(found) for name, found in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["nano", "tiny", "small"])
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.sizes[0], options.threads)
    found = {}
    for size in options.sizes:
        found[size] = compare(size, options.measures, options.rounds, options.threads)
        print(size, found[size], file=sys.stderr)
    print("| without | " + " | ".join(options.sizes) + " |\n|---|" + "---|" * len(options.sizes))
    for name in options.measures:
        values = [found[size].get(name, math.nan) for size in options.sizes]
        print(f"| {MEASURES[name][0]} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    main()
