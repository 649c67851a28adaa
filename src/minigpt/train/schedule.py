"""The learning rate at each step."""

import math


def learning_rate(step: int, steps: int, lr: float, warmup: int, final_share: float = 0.1) -> float:
    """Linear warm-up over `warmup` steps to `lr`, then half a cosine down to `final_share * lr`.  Steps count from 1 to `steps`.

    >>> [round(learning_rate(step, steps=100, lr=1.0, warmup=10), 2) for step in (1, 10, 55, 100)]
    [0.1, 1.0, 0.55, 0.1]
    """
    if step <= warmup:
        return lr * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return lr * (final_share + (1 - final_share) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)
