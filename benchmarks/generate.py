"""Compare the speed of generation with transformers, for one text and for sixteen, and time the pass over a prompt.

usage: python benchmarks/generate.py [--threads 1 2] [--rounds 7] [--json FILE]

The model is a Llama with 15 million parameters (the preset llama-15m) and random weights. It starts from one token, and
generates greedily up to the context length of 256 tokens. Both libraries use a key/value cache. The prompt has 1,024 tokens and
passes through GPT-2 124M up to the logits of the next token; its time is compared with that of its matrix products alone. Each
library runs in its own process, and their timings are interleaved. Prints Markdown tables of medians; a ratio above 1 means
that minigpt is faster.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import TimedProcess, serve_timings
from threadpoolctl import threadpool_limits

from minigpt import GPT, preset
from minigpt.bench.roofline import Replay, record
from minigpt.np.generation import Decoder

CONFIG = preset("llama-15m")
NEW_TOKENS = CONFIG.context_length - 1
BATCH = 16
PROMPT = 1024
LIBRARIES = ("minigpt", "transformers")


def minigpt_functions() -> dict[str, Callable[[], object]]:
    """Return the functions that generate one text and sixteen."""
    model = GPT(CONFIG)

    def generate(B: int) -> object:
        return model.generate([[1]] * B, NEW_TOKENS)

    return {"step": lambda: generate(1), "batch": lambda: generate(BATCH)}


def transformers_functions(threads: int) -> dict[str, Callable[[], object]]:
    """Return the same functions with transformers and PyTorch."""
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


def prompt_functions() -> dict[str, Callable[[], object]]:
    """Return the pass over a long prompt, and its matrix products alone."""
    model = GPT(preset("gpt2"))
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, PROMPT).tolist()

    def prompt() -> object:
        return Decoder(model.parameters, model.config, [tokens], 1).next_logits()

    return {"step": prompt, "products": Replay([record(prompt)])}


def run_worker(name: str, threads: int) -> None:
    """Serve the timings of a library, or of the prompt."""
    with threadpool_limits(threads):
        if name == "transformers":
            serve_timings(transformers_functions(threads))
        else:
            serve_timings(minigpt_functions() if name == "minigpt" else prompt_functions())


def measure_decoding(threads: int, rounds: int) -> dict[str, Any]:
    """Measure the tokens/s of both libraries."""
    processes = {name: TimedProcess([__file__, "--worker", name, "--threads", str(threads)]) for name in LIBRARIES}
    seconds: dict[tuple[str, str], list[float]] = {(name, task): [] for name in LIBRARIES for task in ("step", "batch")}
    for i in range(rounds):
        for task in ("step", "batch"):
            for name in LIBRARIES if i % 2 else reversed(LIBRARIES):
                seconds[name, task].append(statistics.median(processes[name].time(task)))
    for process in processes.values():
        process.close()

    def ratio(numerator: tuple[str, str], denominator: tuple[str, str]) -> float:
        return statistics.median(a / b for a, b in zip(seconds[numerator], seconds[denominator], strict=True))

    tokens = {"step": NEW_TOKENS, "batch": NEW_TOKENS * BATCH}
    return {
        "threads": threads,
        "tokens_per_s": {f"{name} {task}": tokens[task] / statistics.median(times) for (name, task), times in seconds.items()},
        "relative_to_transformers": {task: ratio(("transformers", task), ("minigpt", task)) for task in tokens},
        "batch_relative_to_single": BATCH * ratio(("minigpt", "step"), ("minigpt", "batch")),
    }


def measure_prompt(threads: int, rounds: int) -> dict[str, Any]:
    """Measure the pass over a prompt, relative to its matrix products alone."""
    process = TimedProcess([__file__, "--worker", "prompt", "--threads", str(threads)])
    times = [(statistics.median(process.time("step")), statistics.median(process.time("products"))) for _ in range(rounds)]
    process.close()
    return {
        "threads": threads,
        "prompt_tokens_per_s": PROMPT / statistics.median(whole for whole, _ in times),
        "relative_to_products": statistics.median(whole / products for whole, products in times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=[*LIBRARIES, "prompt"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return run_worker(options.worker, options.threads[0])
    decoding = [measure_decoding(threads, options.rounds) for threads in options.threads]
    prompts = [measure_prompt(threads, options.rounds) for threads in options.threads]
    print(
        f"| threads | minigpt tokens/s | transformers | ratio | minigpt, {BATCH} texts | transformers | ratio | {BATCH} over 1 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for d in decoding:
        cells = [f"{d['threads']}"]
        for task in ("step", "batch"):
            cells += [f"{d['tokens_per_s'][f'{name} {task}']:,.0f}" for name in LIBRARIES]
            cells.append(f"{d['relative_to_transformers'][task]:.2f}")
        print("| " + " | ".join([*cells, f"{d['batch_relative_to_single']:.1f}"]) + " |")
    print(f"\n| threads | prompt of {PROMPT:,} tokens, tokens/s | time relative to its products |\n|---|---|---|")
    for p in prompts:
        print(f"| {p['threads']} | {p['prompt_tokens_per_s']:,.0f} | {p['relative_to_products']:.2f} |")
    if options.json:
        options.json.write_text(json.dumps([*decoding, *prompts], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
