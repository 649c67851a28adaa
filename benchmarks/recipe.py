"""Measure what each piece of the default recipe contributes, and how the best learning rate depends on the width.

usage: python benchmarks/recipe.py {pieces,widths} --train FILE --valid FILE [--seeds 0 1] [--jobs 2] [--out FILE]

pieces   the default recipe without each of its pieces: D128, 4 layers, T128, vocabulary 2,048, 512 steps of 1,024 tokens
widths   learning rates of the matrices at D128, D256 and D512: 256 steps of 1,024 tokens

Prints a Markdown table of the bits per byte on all of the validation text. Each run has one thread; the results do not depend on
other work on the machine. `--out` appends one line per run (JSON), with the training loss over the tokens and the seconds of
processor time. All runs with the same seed see the same batches, and none sees a batch twice.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from learning import minigpt_side

from minigpt.data.token_files import prepare
from minigpt.training.resolve import resolve

TINY = {"preset": "tiny", "vocab_size": 2048, "batch_size": 8, "threads": 1}
PIECES: dict[str, dict[str, Any]] = {
    "the default recipe": {},
    "AdamW for the matrices, learning rate 3e-3": {"optimizer": "adamw", "lr": 3e-3},
    "AdamW for the matrices, learning rate 6e-3": {"optimizer": "adamw", "lr": 6e-3},
    "five iterations with the coefficients of Jordan": {"muon_iterations": 5, "muon_coefficients": "jordan"},
    "one learning rate (0.015) for all groups": {"embedding_lr": 0.0, "head_lr": 0.0, "vector_lr": 0.0},
    "cosine to a tenth": {"schedule": "cosine", "min_lr_ratio": 0.1},
    "no zero initialization": {"zero_init": False},
    "tied head": {"tied": True, "embedding_std": 0.02},
    "learned positions": {"positions": "learned"},
    "layer norm": {"norm": "layer"},
    "no query/key norm": {"qk_norm": False},
    "GELU": {"activation": "gelu"},
    "squared ReLU": {"activation": "relu_squared"},
    "biases": {"attention_bias": True, "feed_forward_bias": True},
    "weight decay 0.1": {"weight_decay": 0.1},
    "embeddings of standard deviation 0.02": {"embedding_std": 0.02},
    "--recipe gpt2, learning rate 3e-3": {"recipe": "gpt2", "lr": 3e-3, "beta2": 0.99},
}
RATES = (0.0075, 0.01, 0.015, 0.02, 0.03)
WIDTHS: dict[str, dict[str, Any]] = {
    f"D{width}, lr {lr:g}": {"d_model": width, "n_layers": 4, "n_heads": width // 32, "lr": lr}
    for width in (128, 256, 512)
    for lr in RATES
}
EXPERIMENTS = {"pieces": (PIECES, 512), "widths": (WIDTHS, 256)}
POINTS = 32
"Number of points of the curve of the training loss; each is the mean over an equal number of steps."


def measure(settings: dict[str, Any], train: str, valid: str, seed: int) -> dict[str, Any]:
    """Train with these settings; return the bits per byte on the validation text, and the curve of the training loss."""
    s = resolve({**TINY, "data": (train,), "val_data": valid, "seed": seed, **settings})
    data = prepare(s.data, s.val_data, vocab_size=s.vocab_size)
    train_to, score = minigpt_side(s, data)
    curve, losses, start = [], [], time.process_time()
    for step in range(1, s.steps + 1):
        losses.append(train_to(step, step))
        if step * POINTS // s.steps > (step - 1) * POINTS // s.steps:
            tokens = step * s.batch_size * s.context_length
            curve.append([tokens, round(time.process_time() - start, 2), round(sum(losses) / len(losses), 4)])
            losses = []
    return {"bits_per_byte": score()[1], "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--train", required=True, help="training text")
    parser.add_argument("--valid", required=True, help="validation text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=2, help="number of runs at the same time")
    parser.add_argument("--only", nargs="+", default=[""], help="only the runs whose names start with one of these")
    parser.add_argument("--out", type=Path, help="file to which the results are appended")
    options = parser.parse_args()
    variants, steps = EXPERIMENTS[options.experiment]
    chosen = [name for name in variants if name.startswith(tuple(options.only))]
    with ProcessPoolExecutor(options.jobs) as pool:
        futures = {
            (name, seed): pool.submit(measure, {"steps": steps, **variants[name]}, options.train, options.valid, seed)
            for name in chosen
            for seed in options.seeds
        }
        print("| recipe | " + " | ".join(f"seed {seed}" for seed in options.seeds) + " |\n|---|" + "---|" * len(options.seeds))
        for name in chosen:
            results = {seed: futures[name, seed].result() for seed in options.seeds}
            print(f"| {name} | " + " | ".join(f"{r['bits_per_byte']:.4f}" for r in results.values()) + " |", flush=True)
            if options.out:
                with options.out.open("a", encoding="utf-8") as file:
                    for seed, result in results.items():
                        file.write(json.dumps({"experiment": options.experiment, "name": name, "seed": seed, **result}) + "\n")


if __name__ == "__main__":
    main()
