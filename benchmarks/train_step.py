"""Compare the time of a training step with PyTorch, of models with GPT-2's form and with AdamW (`--recipe gpt2`).

usage: python benchmarks/train_step.py [--sizes tiny small] [--variants eager bf16] [--rounds 7] [--threads N] [--json FILE]

Each variant runs in its own process, and their timings are interleaved, so that a change in the speed of the machine affects
all of them equally. PyTorch runs in its fastest configuration: fused AdamW, its own attention kernel, and glibc set to keep
freed memory. The variant `denormal` is `eager` with PyTorch's default initialization of an embedding, N(0, 1). With the LM head
tied to it, the logits are so large that most of the softmax is denormal numbers, which some processors compute slowly. Prints a
Markdown table of medians and ratios; a ratio above 1 means that minigpt is faster.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interleaved import TimedProcess, rotated, serve_timings

from minigpt.bench.roofline import Replay
from minigpt.bench.step import Step
from minigpt.training.machine import available_cores
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings

SIZES: dict[str, dict[str, int]] = {
    "nano": {"vocab_size": 65},
    "tiny": {"vocab_size": 2048},
    "small": {},
    "base": {"batch_size": 8},
    "gpt2": {"context_length": 64},
}
VARIANTS = ("minigpt", "eager", "compile", "bf16", "denormal")
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


def settings_of(size: str) -> Settings:
    """Return the settings of a training run of a size."""
    return resolve({"preset": size, "recipe": "gpt2", **SIZES[size]})


def minigpt_step(size: str, threads: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return a training step, and its matrix products alone."""
    step = Step(settings_of(size), threads).__enter__()
    replays: list[Replay] = []

    def roofline() -> float:
        if not replays:
            replays.append(Replay(step.products()))
            replays[0]()
        return replays[0]()

    return step, roofline


def torch_step(size: str, threads: int, variant: str) -> Callable[[], object]:
    """Return a training step of the same model in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    s = settings_of(size)
    B, V, T, D, L, H = s.batch_size, s.vocab_size, s.context_length, s.d_model, s.n_layers, s.n_heads
    torch.manual_seed(0)
    torch.set_num_threads(threads)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).view(B, T, 3, H, D // H).permute(2, 0, 3, 1, 4)
            return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D))

    class Residual(nn.Module):
        def __init__(self, branch: nn.Module) -> None:
            super().__init__()
            self.norm, self.branch = nn.LayerNorm(D), branch

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.branch(self.norm(x))

    def feed_forward() -> nn.Module:
        return nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(approximate="tanh"), nn.Linear(4 * D, D))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(V, D), nn.Parameter(torch.randn(T, D) / 50)
            branches = [make() for _ in range(L) for make in (Attention, feed_forward)]
            self.blocks, self.norm = nn.Sequential(*map(Residual, branches)), nn.LayerNorm(D)
            if variant != "denormal":
                nn.init.normal_(self.tokens.weight, std=0.02)

        def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.blocks(self.tokens(tokens) + self.positions))
            return F.cross_entropy((x @ self.tokens.weight.T).view(B * T, V), targets.view(B * T))

    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    loss_of = torch.compile(model) if variant == "compile" else model
    tokens, targets = torch.randint(0, V, (2, B, T))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=variant == "bf16"):
            loss = loss_of(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def run_worker(variant: str, size: str, threads: int) -> None:
    """Serve the timings of one variant."""
    if variant == "minigpt":
        step, roofline = minigpt_step(size, threads)
        serve_timings({"step": step, "roofline": roofline})
    else:
        serve_timings({"step": torch_step(size, threads, variant)})


def measure(size: str, variants: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """Measure all variants of one size, and return medians."""

    def start(variant: str) -> TimedProcess:
        command = [__file__, "--worker", variant, "--sizes", size, "--threads", str(threads)]
        return TimedProcess(command, KEEP_MEMORY if variant != "minigpt" else {})

    processes = {variant: start(variant) for variant in variants}
    times: dict[str, list[float]] = {variant: [] for variant in [*variants, "roofline"]}
    ratios: dict[str, list[float]] = {variant: [] for variant in variants}
    for i in range(rounds):
        seconds = {variant: statistics.median(processes[variant].time("step")) for variant in rotated(variants, i)}
        seconds["roofline"] = statistics.median(processes["minigpt"].time("roofline"))
        for variant, value in seconds.items():
            times[variant].append(value)
        for variant in variants:
            ratios[variant].append(seconds[variant] / seconds["minigpt"])
    settings = settings_of(size)
    tokens = settings.batch_size * settings.context_length
    result = {
        "size": size,
        "tokens_per_s": {variant: tokens / statistics.median(times[variant]) for variant in variants},
        "relative_to": {variant: statistics.median(ratios[variant]) for variant in variants if variant != "minigpt"},
        "roofline_share": statistics.median(a / b for a, b in zip(times["roofline"], times["minigpt"], strict=True)),
        "peak_mib": {variant: process.peak_mib for variant, process in processes.items()},
    }
    for process in processes.values():
        process.close()
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    variants = list(results[0]["tokens_per_s"])
    others = [variant for variant in variants if variant != "minigpt"]
    header = [
        "size",
        "minigpt tokens/s",
        *(f"relative to {variant}" for variant in others),
        "roofline",
        *(f"MiB {variant}" for variant in variants),
    ]
    rows = [
        [
            r["size"],
            f"{r['tokens_per_s']['minigpt']:,.0f}",
            *(f"{r['relative_to'][variant]:.2f}" for variant in others),
            f"{r['roofline_share']:.2f}",
            *(f"{r['peak_mib'][variant]:,.0f}" for variant in variants),
        ]
        for r in results
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return run_worker(options.worker, options.sizes[0], options.threads)
    variants = ["minigpt", *(variant for variant in options.variants if variant != "minigpt")]
    results = []
    for size in options.sizes:
        results.append(measure(size, variants, options.rounds, options.threads))
        print(json.dumps(results[-1]), file=sys.stderr)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
