"""A training step on random tokens, to be timed: `minigpt bench`, and minigpt's side in benchmarks/train_step.py."""

import statistics
import time
from dataclasses import dataclass

import numpy as np

from minigpt.bench.operations import PRODUCTS, timed
from minigpt.bench.roofline import Product, Replay, record
from minigpt.np.config import ModelConfig, preset
from minigpt.np.head import count_targets
from minigpt.np.model import GPT
from minigpt.np.ops import NO_DROPOUT
from minigpt.train.optimizer import AdamW, clip_scale
from minigpt.train.parallel import Team

WARM_UP = 3
SIZES: dict[str, tuple[ModelConfig, int]] = {  # what is trained, on how many sequences a step
    "nano": (preset("nano", vocab_size=65), 12),
    "tiny": (preset("tiny", vocab_size=2048), 32),
    "small": (preset("small", vocab_size=4096), 16),
    "base": (preset("base", vocab_size=4096), 8),
    "gpt2": (preset("gpt2", context_length=64), 4),
}


class Step:
    """Training steps of a model on one batch of random tokens. A context manager, as the `Team` inside it."""

    def __init__(self, config: ModelConfig, batch_size: int, threads: int, micro_batch: int = 0) -> None:
        self.config = config
        self.tokens, self.targets = np.random.default_rng(0).integers(
            0, config.vocab_size, (2, batch_size, config.context_length)
        )
        self.team = Team(GPT(config), threads, micro_batch)
        self._done = 0

    def __enter__(self) -> "Step":
        self.team.__enter__()
        for _ in range(WARM_UP):
            self()
        return self

    def __exit__(self, *error: object) -> None:
        self.team.__exit__(None, None, None)

    def __call__(self) -> float:
        """Make a step; returns its seconds."""
        start = time.perf_counter()
        self._done += 1
        _, norm = self.team.loss_and_grads(self.tokens, self.targets)
        self.team.update(AdamW(), 1e-3, self._done, clip_scale(norm, 1.0))
        return time.perf_counter() - start

    def products(self) -> list[list[Product]]:
        """The matrix products of each worker, found by doing all their shares here."""
        arguments = self.tokens, self.targets, count_targets(self.targets), NO_DROPOUT
        share = self.team.share_of_gradients
        return [record(lambda worker=worker: share(worker, *arguments)) for worker in range(self.team.threads)]  # type: ignore[misc]


@dataclass(frozen=True)
class Measured:
    """What `measure` found out about the training step on this machine."""

    tokens_per_s: float
    gflop_per_s: float
    "Floating-point operations of the matrix products alone, by the time of the whole step."
    roofline_share: float
    "The time of the step's own products, run alone, by the time of the whole step."
    operations: dict[str, float]
    "Operation -> its share of a step's time, the largest first; what is left is Python between them, waiting and the update."


def measure(config: ModelConfig, batch_size: int, threads: int, seconds: float = 10.0) -> Measured:
    """Time steps and their products by turns for about so many seconds, then once more operation by operation."""
    steps: list[float] = []
    floors: list[float] = []
    with Step(config, batch_size, threads) as step:
        products = step.products()
        replay = Replay(products)
        replay()
        until = time.perf_counter() + 0.7 * seconds
        while time.perf_counter() < until or len(steps) < 3:
            steps.append(step())
            floors.append(replay())
        replay.close()
    with timed() as by_operation, Step(config, batch_size, threads) as step:
        by_operation.clear()
        total, until = 0.0, time.perf_counter() + 0.3 * seconds
        while time.perf_counter() < until or total == 0:
            total += step()
    median = statistics.median(steps)
    shares = {name: spent / total for name, spent in sorted(by_operation.items(), key=lambda item: -item[1])}
    return Measured(
        tokens_per_s=batch_size * config.context_length / median,
        gflop_per_s=sum(p.flops for each in products for p in each) / median / 1e9,
        roofline_share=statistics.median(floor / whole for floor, whole in zip(floors, steps, strict=True)),
        operations={PRODUCTS: shares.pop(PRODUCTS), **shares},
    )
