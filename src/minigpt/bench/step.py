"""Time training steps on random tokens, for `minigpt bench` and the scripts in benchmarks/."""

import statistics
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from minigpt.bench.operations import PRODUCTS, timed
from minigpt.bench.roofline import Product, Replay, record
from minigpt.np.config import ModelConfig, preset
from minigpt.np.lm_head import count_targets
from minigpt.np.model import GPT
from minigpt.np.ops import NO_DROPOUT
from minigpt.training.optimizer import clip_scale
from minigpt.training.parallel.data_parallel import DataParallel

WARM_UP = 3
SIZES: dict[str, tuple[ModelConfig, int]] = {  # configuration and batch size
    "nano": (preset("nano", vocab_size=65), 12),
    "tiny": (preset("tiny", vocab_size=2048), 32),
    "small": (preset("small", vocab_size=4096), 16),
    "base": (preset("base", vocab_size=4096), 8),
    "gpt2": (preset("gpt2", context_length=64), 4),
}


class Step:
    """Training steps of a model on one batch of random tokens. The context manager starts and stops the workers."""

    def __init__(self, config: ModelConfig, batch_size: int, threads: int, micro_batch: int = 0) -> None:
        self.config = config
        self.tokens, self.targets = np.random.default_rng(0).integers(
            0, config.vocab_size, (2, batch_size, config.context_length)
        )
        self.data_parallel = DataParallel(GPT(config), threads, micro_batch)
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
        self.data_parallel.update(1e-3, self._steps, clip_scale(norm, 1.0))
        return time.perf_counter() - start

    def products(self) -> list[list[Product]]:
        """Return the matrix products of each worker, recorded by computing all shards in this process."""
        arguments = self.tokens, self.targets, count_targets(self.targets), NO_DROPOUT
        compute = self.data_parallel.gradient_shard
        return [record(partial(compute, worker, *arguments)) for worker in range(self.data_parallel.threads)]


@dataclass(frozen=True)
class Measurement:
    """The speed of a training step on this machine."""

    tokens_per_s: float
    gflop_per_s: float
    "Floating-point operations in matrix products, divided by the time of the step."
    roofline_share: float
    "The time of the matrix products alone, divided by the time of the step."
    operations: dict[str, float]
    "The fraction of the time that each operation takes. The remainder is Python overhead, waiting, and the optimizer update."


def measure(config: ModelConfig, batch_size: int, threads: int, seconds: float = 10.0) -> Measurement:
    """Time steps and their matrix products alternately, and then each operation, for about `seconds` in total."""
    step_times: list[float] = []
    product_times: list[float] = []
    with Step(config, batch_size, threads) as step:
        products = step.products()
        replay = Replay(products)
        replay()
        until = time.perf_counter() + 0.7 * seconds
        while time.perf_counter() < until or len(step_times) < 3:
            step_times.append(step())
            product_times.append(replay())
        replay.close()
    median = statistics.median(step_times)
    return Measurement(
        tokens_per_s=batch_size * config.context_length / median,
        gflop_per_s=sum(p.flops for worker in products for p in worker) / median / 1e9,
        roofline_share=statistics.median(
            products_time / step_time for products_time, step_time in zip(product_times, step_times, strict=True)
        ),
        operations=_time_operations(config, batch_size, threads, 0.3 * seconds),
    )


def _time_operations(config: ModelConfig, batch_size: int, threads: int, seconds: float) -> dict[str, float]:
    """Return the fraction of a step's time that each operation takes: matrix products first, then in descending order."""
    with timed() as by_operation, Step(config, batch_size, threads) as step:
        by_operation.clear()
        total, until = 0.0, time.perf_counter() + seconds
        while time.perf_counter() < until or total == 0:
            total += step()
    shares = {name: spent / total for name, spent in sorted(by_operation.items(), key=lambda item: -item[1])}
    return {PRODUCTS: shares.pop(PRODUCTS), **shares}
