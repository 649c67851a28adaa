"""The language-model head with its loss: from the residual stream to the next token.

The logits of a whole batch would be the largest array of all, (B * T, V). They exist for some rows at a time: project, compare
with the targets, go back through both, forget. Derived in docs/derivations.md#head-and-loss-in-chunks.
"""

from collections.abc import Iterator

import numpy as np

from minigpt.np.ops import IGNORE, cross_entropy, cross_entropy_backward, linear, linear_backward
from minigpt.np.workspace import FRESH, Array, Fresh

CHUNK_ELEMENTS = 1 << 21  # logits at a time (8 MB in float32) ...
MIN_CHUNK_ROWS = 256  # ... but enough rows that the products with the weight stay large


def row_chunks(N: int, V: int) -> Iterator[slice]:
    """The rows, some at a time."""
    step = max(MIN_CHUNK_ROWS, CHUNK_ELEMENTS // V)
    return (slice(start, min(start + step, N)) for start in range(0, N, step))


def count_targets(targets: Array, ignore_index: int = IGNORE) -> int:
    """How many targets count; at least 1, to divide by."""
    return max(1, int(np.count_nonzero(targets != ignore_index)))


def head_loss(x: Array, weight: Array, targets: Array, count: int, ws: Fresh = FRESH) -> tuple[float, int]:
    """Cross-entropy of logits = x W^T against the targets.  x (N, D), weight (V, D), targets (N,) -> loss, summed / count.

    And how many targets were the likeliest token.
    """
    loss, correct = 0.0, 0
    for rows in row_chunks(len(x), len(weight)):
        with ws.scratch():
            logits, _ = linear(x[rows], weight.T, ws=ws)
            correct += int(np.count_nonzero(logits.argmax(-1) == targets[rows]))
            loss += cross_entropy(logits, targets[rows], count, out=logits)[0]
    return loss, correct


def head_loss_and_backward(
    x: Array, weight: Array, targets: Array, count: int, dx: Array, dweight: Array, add: bool = False, ws: Fresh = FRESH
) -> float:
    """The same loss; writes its gradients into dx (N, D) and dweight (V, D), or adds to dweight with `add`.

    dx = dlogits W,  dW = dlogits^T x, summed over the chunks.
    """
    loss = 0.0
    for rows in row_chunks(len(x), len(weight)):
        with ws.scratch():
            logits, logits_cache = linear(x[rows], weight.T, ws=ws)
            chunk_loss, loss_cache = cross_entropy(logits, targets[rows], count, out=logits)
            loss += chunk_loss
            dlogits = cross_entropy_backward(loss_cache)
            share = ws.empty(dweight.shape, dweight.dtype) if add else dweight
            dx[rows], *_ = linear_backward(dlogits, logits_cache, ws, (share.T, None))  # the product was with W^T
            if add:
                dweight += share
        add = True  # the first chunk writes, the others add
    return loss
