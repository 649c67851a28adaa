"""Windows of tokens from a split: random ones for training, consecutive ones for evaluation."""

from collections.abc import Iterator

import numpy as np

from minigpt.data.splits import Split

Tokens = np.ndarray | Split
"A vector of token ids in memory, or a token file."


def batch(tokens: Tokens, seed: int, step: int, batch_size: int, context_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the training batch of a step: inputs (B, T) int64, and targets (B, T) int64, the inputs shifted by one position.

    The batch depends on the arguments alone, so a resumed run has no sampler state to restore. All starts of a window in the
    split are equally likely. Raises ValueError if the split is shorter than one window, and OSError if its file has changed.

    >>> inputs, targets = batch(np.arange(100), seed=0, step=1, batch_size=2, context_length=8)
    >>> inputs.shape, bool((targets == inputs + 1).all())
    ((2, 8), True)
    """
    if min(batch_size, context_length) < 1:
        raise ValueError(f"batch_size {batch_size} and context_length {context_length} must be at least 1")
    if len(tokens) < context_length + 1:
        raise ValueError(
            f"the split has {len(tokens):,} tokens, but one window of context_length {context_length:,} "
            f"needs {context_length + 1:,}: use more text or a smaller context_length"
        )
    return _gather_windows(tokens, window_starts(len(tokens), seed, step, batch_size, context_length), context_length)


def window_starts(n_tokens: int, seed: int, step: int, batch_size: int, context_length: int) -> np.ndarray:
    """Return where the windows of the batch of a step start in a split of n_tokens, (B,) int64."""
    return np.random.default_rng((seed, step)).integers(0, n_tokens - context_length, size=batch_size)


def windows(
    tokens: Tokens, context_length: int, batch_size: int, limit: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield adjacent windows for evaluation, in which each of the first `limit` targets occurs exactly once.

    Yields inputs and targets (b, T) int64 with b <= batch_size; a shorter last window is a batch of its own, (1, t).
    Without a `limit` the windows cover the entire split. Raises ValueError if there is no target.

    >>> [targets.tolist() for _, targets in windows(np.arange(10), context_length=4, batch_size=2)]
    [[[1, 2, 3, 4], [5, 6, 7, 8]], [[9]]]
    """
    if min(batch_size, context_length) < 1:
        raise ValueError(f"batch_size {batch_size} and context_length {context_length} must be at least 1")
    n_targets = len(tokens) - 1 if limit is None else min(limit, len(tokens) - 1)
    if n_targets < 1:
        raise ValueError(f"nothing to evaluate: the split has {len(tokens)} tokens and the limit is {limit}")
    return _windows(tokens, context_length, batch_size, n_targets)


def _windows(tokens: Tokens, context_length: int, batch_size: int, n_targets: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    n_full, remainder = divmod(n_targets, context_length)
    starts = context_length * np.arange(n_full)
    for row in range(0, n_full, batch_size):
        yield _gather_windows(tokens, starts[row : row + batch_size], context_length)
    if remainder:
        yield _gather_windows(tokens, np.array([n_full * context_length]), remainder)


def _gather_windows(tokens: Tokens, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return copies of `length` tokens from each start, and the same shifted by one position."""
    positions = starts[:, None] + np.arange(length + 1)
    rows = tokens.read(starts, length + 1) if isinstance(tokens, Split) else tokens[positions]
    rows = rows.astype(np.int64)  # (B, T + 1)
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])  # (B, T) each
