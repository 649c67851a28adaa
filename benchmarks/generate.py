"""Generation beside transformers, side by side in one run: tokens a second of one text, of sixteen, and the pass over a prompt.

usage: python benchmarks/generate.py [--threads 1 2] [--rounds 7] [--json FILE]

The shape is that of a Llama with 15 million parameters (the preset llama-15m) with random weights: one token to begin with,
greedy, up to the context's 256 tokens. Both sides keep keys and values. The prompt is 1,024 tokens through GPT-2 124M, up to the
logits of the next token, compared with the time of its own matrix products alone. Each side is a process of its own, and they
take turns. Prints Markdown tables of medians; more than 1 times means that minigpt is faster.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from turns import Side, answer

from minigpt import GPT, preset
from minigpt.bench.roofline import Replay, record
from minigpt.np.generation import Context

CONFIG = preset("llama-15m")
NEW_TOKENS = CONFIG.context_length - 1
BATCH = 16
PROMPT = 1024
SIDES = ("minigpt", "transformers")


def minigpt_side() -> dict[str, Callable[[], object]]:
    """One text, and sixteen."""
    model = GPT(CONFIG)

    def generate(B: int) -> object:
        return model.generate([[1]] * B, NEW_TOKENS)

    return {"step": lambda: generate(1), "batch": lambda: generate(BATCH)}


def transformers_side(threads: int) -> dict[str, Callable[[], object]]:
    """The same with transformers and PyTorch."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(threads)
    config = LlamaConfig(
        vocab_size=CONFIG.vocab_size,
        hidden_size=CONFIG.d_model,
        intermediate_size=CONFIG.d_ff,
        num_hidden_layers=CONFIG.n_layers,
        num_attention_heads=CONFIG.n_heads,
        max_position_embeddings=CONFIG.context_length,
        tie_word_embeddings=True,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()

    def generate(B: int) -> object:
        with torch.inference_mode():
            return model.generate(
                torch.ones((B, 1), dtype=torch.long), max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True
            )

    return {"step": lambda: generate(1), "batch": lambda: generate(BATCH)}


def prompt_side() -> dict[str, Callable[[], object]]:
    """The pass over a long prompt, and its products alone."""
    model = GPT(preset("gpt2"))
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, PROMPT).tolist()

    def prompt() -> object:
        return Context(model.parameters, model.config, [tokens], 1).next_logits()

    return {"step": prompt, "products": Replay([record(prompt)])}


def work(side: str, threads: int) -> None:
    """The life of a side's process."""
    with threadpool_limits(threads):
        if side == "transformers":
            answer(transformers_side(threads))
        else:
            answer(minigpt_side() if side == "minigpt" else prompt_side())


def decode(threads: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of both sides, taking turns."""
    running = {side: Side([__file__, "--worker", side, "--threads", str(threads)]) for side in SIDES}
    seconds: dict[tuple[str, str], list[float]] = {(side, what): [] for side in SIDES for what in ("step", "batch")}
    for i in range(rounds):
        for what in ("step", "batch"):
            for side in SIDES if i % 2 else reversed(SIDES):
                seconds[side, what].append(statistics.median(running[side].ask(what)))
    for process in running.values():
        process.close()

    def ratio(over: tuple[str, str], under: tuple[str, str]) -> float:
        return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))

    tokens = {"step": NEW_TOKENS, "batch": NEW_TOKENS * BATCH}
    return {
        "threads": threads,
        "tokens_per_s": {f"{side} {what}": tokens[what] / statistics.median(times) for (side, what), times in seconds.items()},
        "times_transformers": {what: ratio(("transformers", what), ("minigpt", what)) for what in tokens},
        "batch_over_single": BATCH * ratio(("minigpt", "step"), ("minigpt", "batch")),
    }


def prompt(threads: int, rounds: int) -> dict[str, Any]:
    """The pass over a prompt, by the time of its products."""
    side = Side([__file__, "--worker", "prompt", "--threads", str(threads)])
    turns = [(statistics.median(side.ask("step")), statistics.median(side.ask("products"))) for _ in range(rounds)]
    side.close()
    return {
        "threads": threads,
        "prompt_tokens_per_s": PROMPT / statistics.median(whole for whole, _ in turns),
        "over_its_products": statistics.median(whole / products for whole, products in turns),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=[*SIDES, "prompt"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.threads[0])
    decodes = [decode(threads, options.rounds) for threads in options.threads]
    prompts = [prompt(threads, options.rounds) for threads in options.threads]
    print(
        f"| threads | minigpt tokens/s | transformers | times | minigpt, {BATCH} texts | transformers | times | {BATCH} over 1 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for d in decodes:
        speed, times = d["tokens_per_s"], d["times_transformers"]
        cells = [f"{d['threads']}"]
        for what in ("step", "batch"):
            cells += [f"{speed[f'{side} {what}']:,.0f}" for side in SIDES] + [f"{times[what]:.2f}"]
        print("| " + " | ".join([*cells, f"{d['batch_over_single']:.1f}"]) + " |")
    print(f"\n| threads | {PROMPT:,} tokens of prompt, tokens/s | time over that of its products |\n|---|---|---|")
    for d in prompts:
        print(f"| {d['threads']} | {d['prompt_tokens_per_s']:,.0f} | {d['over_its_products']:.2f} |")
    if options.json:
        options.json.write_text(json.dumps([*decodes, *prompts], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
