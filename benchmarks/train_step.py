"""minigpt beside PyTorch: one training step, side by side in one run.

usage: python benchmarks/train_step.py [--sizes tiny small] [--sides eager bf16] [--rounds 7] [--threads N] [--json FILE]

Each side is a process of its own that stays alive and makes a few steps whenever it is asked: the sides take turns, so that a
machine that slows down slows all of them. PyTorch runs in its strongest form: fused AdamW, its own attention kernel, and glibc
told to keep freed memory. The side `denormal` is eager with PyTorch's own initialisation of an embedding, N(0, 1): with the head
tied to it the logits are so wide that most of softmax is denormal numbers, on which a processor crawls. Prints a Markdown table
of medians and ratios; more than 1 means that minigpt is faster.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import Side, answer

from minigpt.bench.roofline import Replay
from minigpt.bench.step import SIZES, Step
from minigpt.train.machine import available_cores

SIDES = ("minigpt", "eager", "compile", "bf16", "denormal")
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


def minigpt_side(size: str, threads: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """A step, and the time of its matrix products alone."""
    step = Step(*SIZES[size], threads).__enter__()
    replays: list[Replay] = []

    def roofline() -> float:
        if not replays:
            replays.append(Replay(step.products()))
            replays[0]()
        return replays[0]()

    return step, roofline


def torch_side(size: str, threads: int, mode: str) -> Callable[[], object]:
    """A step of the same model in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    config, B = SIZES[size]
    V, T, D, L, H = config.vocab_size, config.context_length, config.d_model, config.n_layers, config.n_heads
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
            if mode != "denormal":
                nn.init.normal_(self.tokens.weight, std=0.02)

        def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.blocks(self.tokens(tokens) + self.positions))
            return F.cross_entropy((x @ self.tokens.weight.T).view(B * T, V), targets.view(B * T))

    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    loss_of = torch.compile(model) if mode == "compile" else model
    tokens, targets = torch.randint(0, V, (2, B, T))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
            loss = loss_of(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def work(side: str, size: str, threads: int) -> None:
    """The life of a side's process."""
    if side == "minigpt":
        step, roofline = minigpt_side(size, threads)
        answer({"step": step, "roofline": roofline})
    else:
        answer({"step": torch_side(size, threads, side)})


def measure(size: str, sides: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """Medians of one size, all sides taking turns."""

    def start(side: str) -> Side:
        command = [__file__, "--worker", side, "--sizes", size, "--threads", str(threads)]
        return Side(command, KEEP_MEMORY if side != "minigpt" else {})

    running = {side: start(side) for side in sides}
    times: dict[str, list[float]] = {side: [] for side in [*sides, "roofline"]}
    ratios: dict[str, list[float]] = {side: [] for side in sides}
    for i in range(rounds):
        order = sides[i % len(sides) :] + sides[: i % len(sides)]  # nobody is always the first
        turn = {side: statistics.median(running[side].ask("step")) for side in order}
        turn["roofline"] = statistics.median(running["minigpt"].ask("roofline"))
        for side, seconds in turn.items():
            times[side].append(seconds)
        for side in sides:
            ratios[side].append(turn[side] / turn["minigpt"])
    config, batch_size = SIZES[size]
    tokens = batch_size * config.context_length
    result = {
        "size": size,
        "tokens_per_s": {side: tokens / statistics.median(times[side]) for side in sides},
        "faster_than": {side: statistics.median(ratios[side]) for side in sides if side != "minigpt"},
        "roofline_share": statistics.median(a / b for a, b in zip(times["roofline"], times["minigpt"], strict=True)),
        "peak_mib": {side: process.peak_mib for side, process in running.items()},
    }
    for process in running.values():
        process.close()
    return result


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    sides = list(results[0]["tokens_per_s"])
    others = [side for side in sides if side != "minigpt"]
    head = [
        "size",
        "minigpt tokens/s",
        *(f"faster than {side}" for side in others),
        "roofline",
        *(f"MiB {side}" for side in sides),
    ]
    rows = [
        [
            r["size"],
            f"{r['tokens_per_s']['minigpt']:,.0f}",
            *(f"{r['faster_than'][side]:.2f}" for side in others),
            f"{r['roofline_share']:.2f}",
            *(f"{r['peak_mib'][side]:,.0f}" for side in sides),
        ]
        for r in results
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.sizes[0], options.threads)
    sides = ["minigpt", *(side for side in options.sides if side != "minigpt")]
    results = []
    for size in options.sizes:
        results.append(measure(size, sides, options.rounds, options.threads))
        print(json.dumps(results[-1]), file=sys.stderr)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
