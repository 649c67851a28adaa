"""Compare the speed of training of GPT-2, variants of Llama and Qwen 3, all of the preset `small` and with AdamW.

usage: python benchmarks/families.py [--rounds 9] [--threads N]

The feed-forward network with SwiGLU has three matrices of 680 columns in place of two of 1,024, which is the same amount of
matrix multiplication. Each variant runs in its own process, and their timings are interleaved. Prints a Markdown table of
medians; a ratio above 1 means faster than GPT-2.
"""

import argparse
import statistics
from typing import Any

from interleaved import TimedProcess, rotated, serve_timings

from minigpt.bench.step import Step, settings_of
from minigpt.np.config import LLAMA, QWEN3
from minigpt.training.machine import available_cores

VARIANTS: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "Llama": {**LLAMA, "d_ff": 680},
    "Llama, rope interleaved": {**LLAMA, "d_ff": 680, "rope_pairing": "interleaved"},
    "Llama, query/key norm": {**LLAMA, "d_ff": 680, "qk_norm": True},
    "Llama, 2 key/value heads": {**LLAMA, "d_ff": 680, "n_kv_heads": 2},
    "Qwen 3": {**QWEN3, "d_ff": 680},
    "GPT-2, exact GELU": {"activation": "gelu_exact"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        settings = settings_of("small", recipe="gpt2", **VARIANTS[options.worker])
        with Step(settings, options.threads) as step:
            return serve_timings({"step": step})
    threads = str(options.threads)
    processes = {name: TimedProcess([__file__, "--worker", name, "--threads", threads]) for name in VARIANTS}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for i in range(options.rounds):
        for name in rotated([*VARIANTS], i):
            times[name].append(statistics.median(processes[name].time("step")))
    settings = settings_of("small")
    tokens = settings.batch_size * settings.context_length
    print("| variant | tokens/s | relative to GPT-2 | MiB |\n|---|---|---|---|")
    for name, process in processes.items():
        ratio = statistics.median(a / b for a, b in zip(times["GPT-2"], times[name], strict=True))
        print(f"| {name} | {tokens / statistics.median(times[name]):,.0f} | {ratio:.2f} | {process.peak_mib:,.0f} |")
        process.close()


if __name__ == "__main__":
    main()
