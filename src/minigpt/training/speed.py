"""How long training takes on this machine, estimated from training steps of a small part of the model.

The part has some of the model's blocks and the same fraction of its vocabulary, so that it does the same kinds of work in nearly
the same proportions. The time of the gradients is proportional to their floating-point operations, and that of the update to its
approximate time in `minigpt.training.optimizer`.
"""

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.ops import Dropout
from minigpt.np.parameters import Parameters, shapes
from minigpt.training.estimate import flops, micro_batch_of
from minigpt.training.optimizer import pieces, update_seconds
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.recipe import optimizer
from minigpt.training.settings import Settings

MIN_LENGTH = 64  # tokens


@dataclass(frozen=True)
class Speed:
    """The speed of the workers of this process while all of them compute."""

    flops_per_s: float
    "Floating-point operations in matrix products of one worker, divided by the time of a complete forward and backward pass."
    update_factor: float
    "The time of an update, divided by its approximate time."


def measure_speed(settings: Settings, config: ModelConfig, threads: int, seconds: float = 0.5, max_flops: float = 1e10) -> Speed:
    """Measure the speed of training a model for about `seconds`, or as long as three steps of its part take.

    `max_flops` limits the work of a worker in each of these steps. The fastest step counts: others may have waited for processes
    that do not belong to the training.
    """
    part, sequences = _part(settings, config, threads, max_flops)
    shape = 2, min(sequences * threads, settings.batch_size), part.context_length
    tokens, targets = np.random.default_rng(0).integers(0, part.vocab_size, shape)
    steps: list[float] = []
    updates: list[float] = []
    with DataParallel(_model(part), threads, sequences, optimizer(settings)) as workers:
        until = time.perf_counter() + seconds
        while len(steps) < 3 or time.perf_counter() < until:
            start = time.perf_counter()
            workers.loss_and_grads(tokens, targets, Dropout(config.dropout, 0, len(steps)))
            middle = time.perf_counter()
            workers.update(1e-3, 1 + len(steps), 1.0)
            steps.append(middle - start)
            updates.append(time.perf_counter() - middle)
    return Speed(_work(part, sequences) / min(steps), min(updates) / _update_seconds(settings, part, threads))


def _part(settings: Settings, config: ModelConfig, threads: int, max_flops: float) -> tuple[ModelConfig, int]:
    """Return a part of the model, and the number of sequences in a step of one worker: as much as `max_flops` allows."""
    sequences, _ = micro_batch_of(settings, config.context_length, threads)
    n_layers = min(config.n_layers, max(1, int(config.n_layers * max_flops / _work(config, sequences))))
    part = replace(config, n_layers=n_layers, vocab_size=max(1, config.vocab_size * n_layers // config.n_layers))
    while sequences > 1 and _work(part, sequences) > max_flops:
        sequences = sequences // 2
    while part.context_length >= 2 * MIN_LENGTH and _work(part, sequences) > max_flops:
        part = replace(part, context_length=part.context_length // 2)
    return part, sequences


def _work(config: ModelConfig, sequences: int) -> int:
    """Return the floating-point operations of the forward and the backward pass of some sequences."""
    return sequences * sum(flops(config, config.context_length))


def _model(config: ModelConfig) -> GPT:
    """Return a model with repeated random parameters, which take less time than those of an initial model."""
    normal = np.random.default_rng(0).standard_normal(1 << 16, np.float32)
    parameters = Parameters(shapes(config), np.float32)
    parameters.flat = 0.02 * np.resize(normal, parameters.flat.size)
    return GPT(config, parameters=parameters)


def step_seconds(settings: Settings, config: ModelConfig, speed: Speed, threads: int, ranks: int = 1) -> float:
    """Return the estimated time of a step. The worker with the most sequences determines it."""
    sequences = -(-settings.batch_size // (threads * ranks))
    update = speed.update_factor * _update_seconds(settings, config, threads * ranks)
    return _work(config, sequences) / speed.flops_per_s + update


def _update_seconds(settings: Settings, config: ModelConfig, workers: int) -> float:
    """Return the approximate time of an update."""
    return update_seconds(pieces(optimizer(settings), config, shapes(config)), workers)


def training_seconds(settings: Settings, config: ModelConfig, seconds: float, steps: int, valid_tokens: int) -> float:
    """Return the estimated time of training and of the validations. Samples, checkpoints and the report are not included.

    `seconds` is the time of a step, and `valid_tokens` the size of the validation split.
    """
    forward, backward = flops(config, config.context_length)
    per_token = seconds / (settings.batch_size * config.context_length) * forward / (forward + backward)
    validations = -(-steps // settings.eval_every)
    return steps * seconds + validations * min(settings.eval_tokens, valid_tokens) * per_token


def duration(seconds: float) -> str:
    """Return an approximate time.

    >>> [duration(seconds) for seconds in (0.0123, 4.56, 89, 567, 12_345, 400_000)]
    ['0.012 s', '4.6 s', '89 s', '9 min', '3.4 h', '4.6 d']
    """
    if 99.5 <= seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    limits = {"s": (1, 99.5), "h": (3600, 47.5), "d": (86400, math.inf)}
    unit, size = next((unit, size) for unit, (size, limit) in limits.items() if seconds / size < limit)
    return f"{two_digits(seconds / size)} {unit}"


def two_digits(value: float) -> str:
    """Return a number with at least two digits.

    >>> two_digits(0.0123), two_digits(4.56), two_digits(12_345.6)
    ('0.012', '4.6', '12,346')
    """
    digits = max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{digits}f}"
