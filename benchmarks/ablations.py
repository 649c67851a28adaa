"""Measure the contribution of each optimization: time training steps without it, interleaved with the full minigpt.

usage: python benchmarks/ablations.py [--sizes nano small] [--optimizations processes arena] [--rounds 7] [--threads N]

Prints a Markdown table of the time of a step without each optimization, relative to the time with all of them.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable

import numpy as np
from interleaved import TimedProcess, rotated, serve_timings
from threadpoolctl import threadpool_limits

from minigpt.bench.step import SIZES, Step, settings_of
from minigpt.np import attention, lm_head, loss, norms, ops
from minigpt.np.workspace import Array, Workspace
from minigpt.training.machine import available_cores
from minigpt.training.parallel import data_parallel, workers

NO_LIMIT = 1 << 40


def use_threads() -> None:
    """Run workers as threads, which share Python's global interpreter lock."""
    workers.CAN_FORK = False


def allocate_arrays() -> None:
    """Allocate each array anew, so that the operating system provides its pages again in each step."""
    data_parallel.Arena = Workspace  # type: ignore[misc,assignment]


def disable_row_blocks() -> None:
    """Apply element-wise operations to whole arrays."""
    ops.ROW_BLOCK_ELEMENTS = NO_LIMIT


def disable_query_blocks() -> None:
    """Compute the scores of all queries at once, including those that are masked."""
    attention.QUERY_BLOCK, attention.BLOCK_ELEMENTS = 1 << 20, NO_LIMIT


def disable_head_groups() -> None:
    """Compute each block of queries for all heads of all sequences at once."""
    attention.BLOCK_ELEMENTS = NO_LIMIT


def always_shift() -> None:
    """Subtract the maximum of each row in every softmax."""
    attention.SAFE_SCORE = loss.SAFE_LOGIT = -1.0


def disable_logit_chunks() -> None:
    """Compute the logits of a micro-batch at once."""
    lm_head.CHUNK_ELEMENTS = NO_LIMIT


def use_numpy_sums() -> None:
    """Compute sums with `np.sum` in place of products with ones."""

    def row_sum(x: Array, out: Array | None = None) -> Array:
        return np.sum(x, axis=-1, keepdims=True, out=out)

    def column_sum(x: Array, out: Array | None = None) -> Array:
        return np.asarray(np.sum(x, axis=0, out=out))

    ops.row_sum = attention.row_sum = norms.row_sum = row_sum
    ops.column_sum = norms.column_sum = column_sum


def use_single_sequences() -> None:
    """Use micro-batches of one sequence."""
    data_parallel.TOKENS_PER_MICRO_BATCH = 1


OPTIMIZATIONS: dict[str, tuple[str, Callable[[], None]]] = {
    "processes": ("worker processes in place of threads", use_threads),
    "blas": ("workers in place of BLAS threads", lambda: None),
    "arena": ("reused memory (`Arena`)", allocate_arrays),
    "row-blocks": ("element-wise operations in blocks of rows", disable_row_blocks),
    "query-blocks": ("attention in blocks of queries", disable_query_blocks),
    "head-groups": ("attention in groups of heads", disable_head_groups),
    "shift": ("softmax without maximum where possible", always_shift),
    "chunks": ("LM head and loss in chunks of rows", disable_logit_chunks),
    "sums": ("sums as products with ones", use_numpy_sums),
    "micro-batches": ("micro-batches of several sequences", use_single_sequences),
}


def run_worker(variant: str, size: str, threads: int) -> None:
    """Serve the timings of one variant."""
    if variant in OPTIMIZATIONS:
        OPTIMIZATIONS[variant][1]()
    if variant == "blas":
        with Step(settings_of(size), 1) as step, threadpool_limits(threads, user_api="blas"):
            serve_timings({"step": step})
    else:
        with Step(settings_of(size), threads) as step:
            serve_timings({"step": step})


def compare(size: str, optimizations: list[str], rounds: int, threads: int) -> dict[str, float]:
    """Return for each optimization the relative time of a step without it: the median of the ratios within each round."""

    def start(name: str) -> TimedProcess:
        return TimedProcess([__file__, "--worker", name, "--sizes", size, "--threads", str(threads)])

    processes = {name: start(name) for name in ["all", *optimizations]}
    ratios: dict[str, list[float]] = {name: [] for name in optimizations}
    for i in range(rounds):
        seconds = {name: statistics.median(processes[name].time("step")) for name in rotated([*processes], i)}
        for name in optimizations:
            ratios[name].append(seconds[name] / seconds["all"])
    for process in processes.values():
        process.close()
    return {name: statistics.median(values) for name, values in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["nano", "tiny", "small"])
    parser.add_argument("--optimizations", nargs="+", choices=OPTIMIZATIONS, default=list(OPTIMIZATIONS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return run_worker(options.worker, options.sizes[0], options.threads)
    results = {}
    for size in options.sizes:
        results[size] = compare(size, options.optimizations, options.rounds, options.threads)
        print(size, results[size], file=sys.stderr)
    print("| without | " + " | ".join(options.sizes) + " |\n|---|" + "---|" * len(options.sizes))
    for name in options.optimizations:
        values = [results[size].get(name, math.nan) for size in options.sizes]
        print(f"| {OPTIMIZATIONS[name][0]} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    main()
