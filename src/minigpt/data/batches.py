"""Token windows from a split: random ones to train on, consecutive ones to measure on."""

from collections.abc import Iterator

import numpy as np


def batch(tokens: np.ndarray, seed: int, step: int, batch_size: int, context_length: int) -> tuple[np.ndarray, np.ndarray]:
    """The training batch of a step: tokens (B, T) int64 and, one place further, the targets (B, T).

    A function of its arguments alone, so a resumed run needs no memory of what came before. Windows start anywhere in
    the split with equal chance. Raises ValueError if the split is shorter than one window.

    >>> tokens, targets = batch(np.arange(100), seed=0, step=1, batch_size=2, context_length=8)
    >>> tokens.shape, bool((targets == tokens + 1).all())
    ((2, 8), True)
    """
    if min(batch_size, context_length) < 1:
        raise ValueError(f"batch_size {batch_size} and context_length {context_length} must be at least 1")
    if len(tokens) < context_length + 1:
        raise ValueError(
            f"the split has {len(tokens):,} tokens, but one window of context_length {context_length:,} "
            f"needs {context_length + 1:,}: give more text or a smaller context_length"
        )
    starts = np.random.default_rng((seed, step)).integers(0, len(tokens) - context_length, size=batch_size)
    return _cut(tokens, starts, context_length)


def windows(
    tokens: np.ndarray, context_length: int, batch_size: int, limit: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The fixed evaluation: windows side by side, so that each of the first `limit` targets is predicted exactly once.

    Yields tokens and targets (b, T) int64 with b <= batch_size; a last, shorter window comes alone as (1, t).
    Without a `limit` all of the split is covered. Raises ValueError if nothing is left to predict.

    >>> [targets.tolist() for _, targets in windows(np.arange(10), context_length=4, batch_size=2)]
    [[[1, 2, 3, 4], [5, 6, 7, 8]], [[9]]]
    """
    if min(batch_size, context_length) < 1:
        raise ValueError(f"batch_size {batch_size} and context_length {context_length} must be at least 1")
    targets = len(tokens) - 1 if limit is None else min(limit, len(tokens) - 1)
    if targets < 1:
        raise ValueError(f"nothing to evaluate: the split has {len(tokens)} tokens and the limit is {limit}")
    return _windows(tokens, context_length, batch_size, targets)


def _windows(tokens: np.ndarray, context_length: int, batch_size: int, targets: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    full, rest = divmod(targets, context_length)
    starts = context_length * np.arange(full)
    for row in range(0, full, batch_size):
        yield _cut(tokens, starts[row : row + batch_size], context_length)
    if rest:
        yield _cut(tokens, np.array([full * context_length]), rest)


def _cut(tokens: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Copies of `length` tokens from each start, and the same one place further."""
    places = starts[:, None] + np.arange(length + 1)  # (B, T + 1)
    rows = tokens[places].astype(np.int64)  # (B, T + 1)
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])  # (B, T) each
