"""The learning rate schedules: a warmup, and then a cosine, or a plateau and a linear decay (docs/derivations.md#schedules)."""

import math
from typing import Literal

Schedule = Literal["linear", "cosine"]


def learning_rate(
    step: int,
    steps: int,
    lr: float,
    warmup: int,
    min_lr_ratio: float = 0.1,
    schedule: Schedule = "cosine",
    decay: float = 0.6,
) -> float:
    """Return the learning rate of a step from 1 to `steps`: linear warmup to `lr`, then decay to `min_lr_ratio * lr`.

    The decay of "cosine" follows half a period of a cosine from the end of the warmup to the last step (Loshchilov and Hutter
    2017, https://arxiv.org/abs/1608.03983). "linear" stays at `lr`, and decays linearly in the last steps, a fraction `decay` of
    all of them (Hu et al. 2024, https://arxiv.org/abs/2404.06395). It would reach `min_lr_ratio * lr` one step after the last.

    >>> [round(learning_rate(step, steps=100, lr=1.0, warmup=10), 2) for step in (1, 10, 55, 100)]
    [0.1, 1.0, 0.55, 0.1]
    >>> [round(learning_rate(step, 100, 1.0, 10, min_lr_ratio=0.0, schedule="linear"), 2) for step in (1, 10, 40, 70, 100)]
    [0.1, 1.0, 1.0, 0.51, 0.02]
    """
    if step <= warmup:
        return lr * step / warmup
    if schedule == "linear":
        length = max(1.0, min(decay * steps, steps - warmup))
        remaining = min(1.0, (steps + 1 - step) / (length + 1))
        return lr * (min_lr_ratio + (1 - min_lr_ratio) * remaining)
    progress = (step - warmup) / max(1, steps - warmup)
    return lr * (min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)
