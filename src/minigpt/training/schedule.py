"""The learning rate schedule."""

import math


def learning_rate(step: int, steps: int, lr: float, warmup: int, min_lr_ratio: float = 0.1) -> float:
    """Return the learning rate of a step from 1 to `steps`: linear warmup to `lr`, then cosine decay to `min_lr_ratio * lr`.

    >>> [round(learning_rate(step, steps=100, lr=1.0, warmup=10), 2) for step in (1, 10, 55, 100)]
    [0.1, 1.0, 0.55, 0.1]
    """
    if step <= warmup:
        return lr * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return lr * (min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)
