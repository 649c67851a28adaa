"""The LM head and its loss.

The logits of a whole batch, (B * T, V), would be the largest array of all. They are computed for a chunk of rows at a time,
together with the loss and the gradients of that chunk, and then discarded (docs/derivations.md#head-and-loss-in-chunks).
"""

from collections.abc import Iterator

import numpy as np

from minigpt.np.loss import IGNORE_INDEX, cross_entropy, cross_entropy_backward
from minigpt.np.ops import linear, linear_backward
from minigpt.np.watch import NO_WATCH, Watch
from minigpt.np.workspace import DEFAULT_WORKSPACE, Array, Workspace

CHUNK_ELEMENTS = 1 << 21  # number of logits in a chunk (8 MB in float32)
MIN_CHUNK_ROWS = 256  # minimum number of rows in a chunk, so that the products with the weight remain large


def row_chunks(N: int, V: int, whole: bool = False) -> Iterator[slice]:
    """Yield slices of the rows, one for each chunk. If `whole` is true, there is only one."""
    step = N if whole else max(MIN_CHUNK_ROWS, CHUNK_ELEMENTS // V)
    return (slice(start, min(start + step, N)) for start in range(0, N, step))


def count_targets(targets: Array, ignore_index: int = IGNORE_INDEX) -> int:
    """Return the number of targets that are not ignored. It is at least 1, because the loss is divided by it."""
    return max(1, int(np.count_nonzero(targets != ignore_index)))


def lm_head_loss(
    x: Array, weight: Array, targets: Array, count: int, ws: Workspace = DEFAULT_WORKSPACE, watch: Watch = NO_WATCH
) -> tuple[float, int]:
    """Return the cross-entropy of logits = x W^T, summed and divided by `count`, and the number of correct predictions.

    x (N, D), weight (V, D), targets (N,). A prediction is correct if the target is the most likely token.
    """
    loss, correct = 0.0, 0
    for rows in row_chunks(len(x), len(weight), whole=watch.active):
        with ws.scratch():
            logits, _ = linear(x[rows], weight.T, ws=ws)
            watch.value("logits", logits)
            correct += int(np.count_nonzero(logits.argmax(-1) == targets[rows]))
            loss += cross_entropy(logits, targets[rows], count, out=logits)[0]
    return loss, correct


def lm_head_loss_and_backward(
    x: Array,
    weight: Array,
    targets: Array,
    count: int,
    dx: Array,
    dweight: Array,
    add: bool = False,
    ws: Workspace = DEFAULT_WORKSPACE,
    watch: Watch = NO_WATCH,
) -> float:
    """Return the loss of `lm_head_loss`, and write its gradients to dx (N, D) and dweight (V, D).

    If `add` is true, the gradient of the weight is added to dweight.

    dx = dlogits W,  dW = dlogits^T x, summed over the chunks.
    """
    loss = 0.0
    for rows in row_chunks(len(x), len(weight), whole=watch.active):
        with ws.scratch():
            logits, logits_cache = linear(x[rows], weight.T, ws=ws)
            watch.value("logits", logits)
            chunk_loss, loss_cache = cross_entropy(logits, targets[rows], count, out=logits)
            loss += chunk_loss
            dlogits = cross_entropy_backward(loss_cache)
            watch.grad("logits", dlogits)
            chunk_dweight = ws.empty(dweight.shape, dweight.dtype) if add else dweight
            dx[rows], *_ = linear_backward(dlogits, logits_cache, ws, (chunk_dweight.T, None))  # transposed like the weight above
            if add:
                dweight += chunk_dweight
        add = True  # the first chunk overwrites dweight, and the others add to it
    return loss
