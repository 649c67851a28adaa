"""What the choices of a Llama cost in training: the preset `small` in GPT-2's form and in others, side by side in one run.

usage: python benchmarks/families.py [--rounds 9] [--threads N]

The feed-forward network with SwiGLU has three matrices of 680 columns in place of two of 1,024: the same matrix work. Each side
is a process of its own that stays alive, and they take turns. Prints a Markdown table of medians; more than 1 means faster than
GPT-2.
"""

import argparse
import statistics
from typing import Any

from turns import Side, answer

from minigpt.bench.step import SIZES, Step
from minigpt.np.config import LLAMA, preset
from minigpt.train.machine import available_cores

FORMS: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "Llama": {**LLAMA, "d_ff": 680},
    "Llama, rope interleaved": {**LLAMA, "d_ff": 680, "rope_pairing": "interleaved"},
    "Llama, query/key norm": {**LLAMA, "d_ff": 680, "qk_norm": True},
    "Llama, 2 key/value heads": {**LLAMA, "d_ff": 680, "n_kv_heads": 2},
    "GPT-2, exact GELU": {"activation": "gelu_exact"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--worker", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    batch_size = SIZES["small"][1]
    if options.worker:
        config = preset("small", vocab_size=4096, **FORMS[options.worker])
        with Step(config, batch_size, options.threads) as step:
            return answer({"step": step})
    sides = {form: Side([__file__, "--worker", form, "--threads", str(options.threads)]) for form in FORMS}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for i in range(options.rounds):
        order = [*FORMS][i % len(FORMS) :] + [*FORMS][: i % len(FORMS)]  # nobody is always the first
        for form in order:
            times[form].append(statistics.median(sides[form].ask("step")))
    tokens = batch_size * preset("small", vocab_size=4096).context_length
    print("| form | tokens/s | times GPT-2 | MiB |\n|---|---|---|---|")
    for form, side in sides.items():
        ratio = statistics.median(a / b for a, b in zip(times["GPT-2"], times[form], strict=True))
        print(f"| {form} | {tokens / statistics.median(times[form]):,.0f} | {ratio:.2f} | {side.peak_mib:,.0f} |")
        side.close()


if __name__ == "__main__":
    main()
