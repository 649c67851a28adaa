"""The cross-entropy loss (docs/derivations.md#cross-entropy)."""

import numpy as np

from minigpt.np.ops import Cache, row_blocks, row_sum
from minigpt.np.workspace import Array

IGNORE_INDEX = -100
"A target with this value is ignored: it contributes nothing to the loss or the gradient (PyTorch's default)."

SAFE_LOGIT = 30.0  # if the absolute value of the largest logit of a row is at most this, exp of the row is summed without a shift


def cross_entropy(
    logits: Array, targets: Array, count: int | None = None, ignore_index: int = IGNORE_INDEX, out: Array | None = None
) -> tuple[float, Cache]:
    """loss = the sum over rows of  log(sum(exp(logits))) - logits[target],  divided by `count`.

    logits (N, V), targets (N,) -> loss, a float. Rows whose target is `ignore_index` are left out. `count` is by default the
    number of targets that are not ignored; if these rows are a part of a batch, give the number in the whole batch. `out` may
    be `logits` itself.
    """
    used = targets != ignore_index
    count = max(1, int(np.count_nonzero(used)) if count is None else count)
    rows, labels = np.flatnonzero(used), targets[used]
    target_logits = logits[rows, labels]
    exps = np.empty_like(logits) if out is None else out
    shift, total = np.empty((2, len(logits), 1), logits.dtype)
    for block in row_blocks(*logits.shape):
        largest = logits[block].max(-1, keepdims=True)
        shift[block] = np.where(np.abs(largest) > SAFE_LOGIT, largest, 0)
        shifted = np.subtract(logits[block], shift[block], out=exps[block]) if shift[block].any() else logits[block]
        np.exp(shifted, out=exps[block])
        row_sum(exps[block], out=total[block])  # softmax = exps / total
    losses = (np.log(total) + shift)[rows, 0] - target_logits
    return float(losses.sum(dtype=np.float64)) / count, (exps, total, rows, labels, count)


def cross_entropy_backward(cache: Cache, dloss: float = 1.0) -> Array:
    """dlogits = dloss / count * (softmax(logits) - one_hot(target)), and 0 in ignored rows.

    The result overwrites the cache, so this function may be called only once for each forward pass.
    """
    exps, total, rows, labels, count = cache
    scale = np.zeros_like(total)
    scale[rows] = dloss / count
    exps *= scale / total
    exps[rows, labels] -= dloss / count  # each row occurs once, so `-=` is correct
    return exps
