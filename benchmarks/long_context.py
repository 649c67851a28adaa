"""What a longer context costs: time and memory for each token at T = 256, 1,024 and 4,096, the same number of tokens a step.

usage: python benchmarks/long_context.py [--contexts 256 1024 4096] [--rounds 5] [--threads N]
"""

import argparse
import statistics

from turns import Side, answer

from minigpt.bench.step import Step
from minigpt.np.config import preset
from minigpt.train.machine import available_cores

TOKENS = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", nargs="+", type=int, default=[256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        config = preset("small", vocab_size=4096, context_length=options.worker)
        with Step(config, TOKENS // options.worker, options.threads) as step:
            return answer({"step": step})
    sides = {T: Side([__file__, "--worker", str(T), "--threads", str(options.threads)]) for T in options.contexts}
    times: dict[int, list[float]] = {T: [] for T in sides}
    for _ in range(options.rounds):
        for T, side in sides.items():
            times[T].append(statistics.median(side.ask("step")))
    print("| context | microseconds a token | MiB |\n|---|---|---|")
    for T, side in sides.items():
        print(f"| {T:,} | {statistics.median(times[T]) / TOKENS * 1e6:.0f} | {side.peak_mib:,.0f} |")
        side.close()


if __name__ == "__main__":
    main()
