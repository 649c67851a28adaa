"""Time training steps on random tokens, for `minigpt bench` and the scripts in benchmarks/."""

import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from minigpt.bench.operations import PRODUCTS, timed
from minigpt.bench.roofline import Product, Replay, record
from minigpt.np.lm_head import count_targets
from minigpt.np.model import GPT
from minigpt.np.ops import NO_DROPOUT
from minigpt.training.optimizer import clip_scale
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.recipe import optimizer
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings

WARM_UP = 3
LR = 0.01  # as a fraction of the peak, so that the model hardly changes
SIZES: dict[str, dict[str, Any]] = {
    "quick": {},
    "nano": {"vocab_size": 65},
    "tiny": {},
    "small": {},
    "base": {},
    "gpt2": {"context_length": 64},
    "llama-tiny": {},
    "llama-15m": {},
}
"The presets, with the settings that are timed in place of those of the preset."


def settings_of(size: str, **changes: Any) -> Settings:
    """Return the settings of a training run of a size, with some of them changed."""
    return resolve({"preset": size, **SIZES[size], **changes})


class Step:
    """Training steps with these settings on one batch of random tokens. The context manager starts and stops the workers."""

    def __init__(self, settings: Settings, threads: int) -> None:
        s = settings
        self.tokens, self.targets = np.random.default_rng(0).integers(0, s.vocab_size, (2, s.batch_size, s.context_length))
        self.data_parallel = DataParallel(GPT(s.model(s.vocab_size)), threads, s.micro_batch, optimizer(s))
        self.update_seconds = 0.0  # of the last step
        self._steps = 0

    def __enter__(self) -> "Step":
        self.data_parallel.__enter__()
        for _ in range(WARM_UP):
            self()
        return self

    def __exit__(self, *error: object) -> None:
        self.data_parallel.__exit__(None, None, None)

    def __call__(self) -> float:
        """Perform a step, and return the seconds that it takes."""
        start = time.perf_counter()
        self._steps += 1
        _, norm = self.data_parallel.loss_and_grads(self.tokens, self.targets)
        before_update = time.perf_counter()
        self.data_parallel.update(LR, self._steps, clip_scale(norm, 1.0))
        end = time.perf_counter()
        self.update_seconds = end - before_update
        return end - start

    def products(self) -> list[list[Product]]:
        """Return the matrix products of each worker, recorded by computing all shards in this process."""
        return [record(partial(self._compute_shards, worker)) for worker in range(self.data_parallel.threads)]

    def _compute_shards(self, worker: int) -> None:
        """Compute a worker's part of the gradients and of the update, with a learning rate of 0."""
        self.data_parallel.gradient_shard(worker, self.tokens, self.targets, count_targets(self.targets), NO_DROPOUT)
        self.data_parallel.update_shard(worker, lr=0.0, step=1, scale=1.0, measure=False)


@dataclass(frozen=True)
class Measurement:
    """The speed of a training step on this machine."""

    tokens_per_s: float
    gflop_per_s: float
    "Floating-point operations in matrix products, divided by the time of the step."
    roofline_share: float
    "The time of the matrix products alone, divided by the time of the step."
    update_share: float
    "The time of the optimizer's update, divided by the time of the step."
    operations: dict[str, float]
    """The fraction of the time that each operation takes. The products of the update are among the matrix products. The remainder
    is the rest of the update, waiting, and Python overhead."""


def measure(settings: Settings, threads: int, seconds: float = 10.0) -> Measurement:
    """Time steps and their matrix products alternately, and then each operation, for about `seconds` in total."""
    step_times: list[float] = []
    product_times: list[float] = []
    update_shares: list[float] = []
    with Step(settings, threads) as step:
        products = step.products()
        replay = Replay(products)
        replay()
        until = time.perf_counter() + 0.7 * seconds
        while time.perf_counter() < until or len(step_times) < 3:
            step_times.append(step())
            update_shares.append(step.update_seconds / step_times[-1])
            product_times.append(replay())
        replay.close()
    median = statistics.median(step_times)
    return Measurement(
        tokens_per_s=settings.batch_size * settings.context_length / median,
        gflop_per_s=sum(p.flops for worker in products for p in worker) / median / 1e9,
        roofline_share=statistics.median(
            products_time / step_time for products_time, step_time in zip(product_times, step_times, strict=True)
        ),
        update_share=statistics.median(update_shares),
        operations=_time_operations(settings, threads, 0.3 * seconds),
    )


def _time_operations(settings: Settings, threads: int, seconds: float) -> dict[str, float]:
    """Return the fraction of a step's time that each operation takes: matrix products first, then in descending order."""
    with timed() as by_operation, Step(settings, threads) as step:
        by_operation.clear()
        total, until = 0.0, time.perf_counter() + seconds
        while time.perf_counter() < until or total == 0:
            total += step()
    shares = {name: spent / total for name, spent in sorted(by_operation.items(), key=lambda item: -item[1])}
    return {PRODUCTS: shares.pop(PRODUCTS), **shares}
