"""The operations of a transformer, each forward right above its backward. (More of them: norms.py, activations.py, positions.py.)

How to read these files. `f(...)` computes `y` and returns it with `cache`, what its backward needs to remember. `f_backward(dy,
cache)` receives `dy`, the gradient of the loss with respect to `y`, and returns the gradients with respect to what `f` was given:
`dx`, `dweight`, ... (cross_entropy, where the loss ends and gradients begin, receives `dloss`.) The derivation of each one is in
docs/derivations.md.

Shapes: N rows (a batch of B sequences of T tokens, flattened: N = B * T), D columns, V words. NumPy's newer names:
`np.vecdot(a, b)` is `(a * b).sum(-1)`, `a.mT` swaps the last two axes.

`ws` says where arrays come from. While reading, take `ws.empty(shape, dtype)` for `np.empty(shape, dtype)`, and pass over `with
ws.scratch():` (temporaries, given back at its end) and `out=` (where to write a result): they save memory and time, no more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.workspace import FRESH, Array, Fresh

Cache = Any
Outs = tuple[Array | None, Array | None]  # where to write (dweight, dbias), or (dgamma, dbeta)

IGNORE = -100
"The target of a row that does not count (PyTorch's default)."

SAFE_LOGIT = 30.0  # where a row's largest is no farther from 0, exp of the row can be summed as it is, in float32 too
PIECE = 1 << 16  # elements: this much of a few arrays stays in a core's second-level cache


def pieces(rows: int, row_size: int) -> Iterator[slice]:
    """Slices of rows small enough that element-wise work on them stays in cache."""
    step = max(1, PIECE // row_size)
    if rows <= step:
        return iter((slice(0, rows),))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


@lru_cache(maxsize=64)
def ones(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An array of ones, to be read only."""
    return np.ones(shape, dtype)


def row_sum(x: Array, out: Array | None = None) -> Array:
    """Sum of each row: (..., D) -> (..., 1). A product with ones is two to five times faster than `x.sum(-1)`."""
    return np.matmul(x, ones((x.shape[-1], 1), x.dtype), out=out)


def column_sum(x: Array, out: Array | None = None) -> Array:
    """Sum of each column: (N, D) -> (D,)."""
    return np.matmul(ones((len(x),), x.dtype), x, out=out)


# --------------------------------------- linear: docs/derivations.md#linear


def linear(x: Array, weight: Array, bias: Array | None = None, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """y = x W + b.  x (N, D), weight (D, F), bias (F,) or None -> y (N, F)."""
    y = np.matmul(x, weight, out=ws.empty((len(x), weight.shape[1]), x.dtype))
    if bias is not None:
        y += bias
    return y, (x, weight, bias is not None)


def linear_backward(dy: Array, cache: Cache, ws: Fresh = FRESH, out: Outs = (None, None)) -> tuple[Array, Array, Array | None]:
    """dx = dy W^T,  dW = x^T dy,  db = sum of the rows of dy."""
    x, weight, has_bias = cache
    dx = np.matmul(dy, weight.T, out=ws.empty(x.shape, dy.dtype))
    dweight = np.matmul(x.T, dy, out=out[0])
    dbias = column_sum(dy, out=out[1]) if has_bias else None
    return dx, dweight, dbias


# --------------------------------- embedding: docs/derivations.md#embedding


def embedding(tokens: Array, weight: Array, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """y = the rows of `weight` that the tokens name.  tokens (N,), each from 0 to V - 1, weight (V, D) -> y (N, D)."""
    # GPT has checked the tokens; "clip" spares `take` a check of its own, with a copy of y
    y = np.take(weight, tokens, axis=0, mode="clip", out=ws.empty((len(tokens), weight.shape[1]), weight.dtype))
    return y, (tokens, weight.shape)


def embedding_backward(dy: Array, cache: Cache, ws: Fresh = FRESH, out: Array | None = None) -> Array:
    """dweight[v] = sum of the rows of dy whose token is v.

    Adds to `out` where it is given, because a head tied to the embedding has already put its share there.
    """
    tokens, shape = cache
    dweight = np.zeros(shape, dy.dtype) if out is None else out
    # not `dweight[tokens] += dy`, which counts a repeated token once; element by element it is three times faster than by rows
    V, D = shape
    with ws.scratch():
        elements = np.add(tokens[:, None] * D, np.arange(D), out=ws.empty((len(tokens), D), tokens.dtype))
        np.add.at(dweight.reshape(V * D), elements.reshape(-1), dy.reshape(-1))
    return dweight


# ------------------------------------- softmax: docs/derivations.md#softmax


def softmax(x: Array, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """y = exp(x) / sum(exp(x)), row by row; the row's maximum is taken off first so that exp cannot overflow.

    Here it stands alone, to be understood and checked; the model has it inside attention and cross_entropy.
    """
    y = np.subtract(x, x.max(-1, keepdims=True), out=ws.empty(x.shape, x.dtype))
    np.exp(y, out=y)
    y /= row_sum(y)
    return y, y


def softmax_backward(dy: Array, cache: Cache, ws: Fresh = FRESH) -> Array:
    """dx = y * (dy - sum(y * dy)), row by row."""
    y = cache
    dx = np.subtract(dy, np.vecdot(dy, y)[..., None], out=ws.empty(dy.shape, dy.dtype))
    dx *= y
    return dx


# ------------------------- cross-entropy: docs/derivations.md#cross-entropy


def cross_entropy(
    logits: Array, targets: Array, count: int | None = None, ignore_index: int = IGNORE, out: Array | None = None
) -> tuple[float, Cache]:
    """loss = sum over the rows that count of  log(sum(exp(logits))) - logits[target],  divided by `count`.

    logits (N, V), targets (N,). Rows whose target is `ignore_index` do not count. `count` is the number of rows to average over
    where these rows are a part of something larger; by default the rows that count here. `out` may be `logits` itself.
    """
    counted = targets != ignore_index
    count = max(1, int(np.count_nonzero(counted)) if count is None else count)
    rows, labels = np.flatnonzero(counted), targets[counted]
    picked = logits[rows, labels]
    exps = np.empty_like(logits) if out is None else out
    shift, total = np.empty((2, len(logits), 1), logits.dtype)
    for piece in pieces(*logits.shape):
        largest = logits[piece].max(-1, keepdims=True)
        shift[piece] = np.where(np.abs(largest) > SAFE_LOGIT, largest, 0)
        shifted = np.subtract(logits[piece], shift[piece], out=exps[piece]) if shift[piece].any() else logits[piece]
        np.exp(shifted, out=exps[piece])
        row_sum(exps[piece], out=total[piece])  # softmax = exps / total
    losses = (np.log(total) + shift)[rows, 0] - picked
    return float(losses.sum(dtype=np.float64)) / count, (exps, total, rows, labels, count)


def cross_entropy_backward(cache: Cache, dloss: float = 1.0) -> Array:
    """dlogits = dloss / count * (softmax(logits) - one_hot(target)), and 0 in rows that do not count.

    Overwrites the cache: call it once.
    """
    exps, total, rows, labels, count = cache
    scale = np.zeros_like(total)
    scale[rows] = dloss / count
    exps *= scale / total
    exps[rows, labels] -= dloss / count  # each row stands there once, so that `-=` is right
    return exps


# ------------------------------------- dropout: docs/derivations.md#dropout


def dropout(x: Array, mask: Array | None) -> tuple[Array, Cache]:
    """y = x * mask; a mask holds 0 with probability `rate`, else 1 / (1 - rate).  None: y = x.  x is overwritten."""
    if mask is not None:
        x *= mask
    return x, mask


def dropout_backward(dy: Array, cache: Cache, ws: Fresh = FRESH) -> Array:
    """dx = dy * mask."""
    mask = cache
    return dy if mask is None else np.multiply(dy, mask, out=ws.empty(dy.shape, dy.dtype))


@dataclass(frozen=True)
class Dropout:
    """Where dropout masks come from: a function of seed, step, sequence and site alone.

    The same numbers fall whoever computes them, so a run does not depend on how many threads share the batch.

    >>> first, again = (Dropout(0.5, seed=1, step=7).mask(0, (2, 3, 4), np.float32) for _ in range(2))
    >>> np.array_equal(first, again)
    True
    """

    rate: float = 0.0
    seed: int = 0
    step: int = 0
    first_sequence: int = 0  # place of the first of these sequences in the whole batch

    def mask(self, site: int, shape: tuple[int, int, int], dtype: DTypeLike, ws: Fresh = FRESH) -> Array | None:
        """The mask for activations (B, T, D) at a `site`; None where nothing is dropped.

        The sites: 0 after the embeddings, 2 l + 1 and 2 l + 2 after attention and feed-forward network of block l.
        """
        if self.rate == 0:
            return None
        mask = ws.empty(shape, dtype)
        for b, rows in enumerate(mask):
            draws = np.random.default_rng((self.seed, self.step, self.first_sequence + b, site))
            np.multiply(draws.random(rows.shape, np.float32) >= self.rate, 1 / (1 - self.rate), out=rows)
        return mask


NO_DROPOUT = Dropout()
