"""Measure the time and memory of training at context lengths 256, 1,024 and 4,096 with the same number of tokens per step.

usage: python benchmarks/long_context.py [--contexts 256 1024 4096] [--rounds 5] [--threads N]
"""

import argparse
import statistics

from interleaved import TimedProcess, serve_timings

from minigpt.bench.step import Step, settings_of
from minigpt.training.machine import available_cores

TOKENS = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", nargs="+", type=int, default=[256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        settings = settings_of("small", context_length=options.worker, batch_size=TOKENS // options.worker)
        with Step(settings, options.threads) as step:
            return serve_timings({"step": step})
    threads = str(options.threads)
    processes = {T: TimedProcess([__file__, "--worker", str(T), "--threads", threads]) for T in options.contexts}
    times: dict[int, list[float]] = {T: [] for T in processes}
    for _ in range(options.rounds):
        for T, process in processes.items():
            times[T].append(statistics.median(process.time("step")))
    print("| context | microseconds per token | MiB |\n|---|---|---|")
    for T, process in processes.items():
        print(f"| {T:,} | {statistics.median(times[T]) / TOKENS * 1e6:.0f} | {process.peak_mib:,.0f} |")
        process.close()


if __name__ == "__main__":
    main()
