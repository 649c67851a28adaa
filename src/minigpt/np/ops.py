"""Linear layers, embedding, softmax and dropout, each with its forward pass followed by its backward pass.

Every operation in this package has the same form. `f(...)` returns the result `y` and a `cache` of what the backward pass needs.
`f_backward(dy, cache)` takes `dy`, the gradient of the loss with respect to `y`, and returns the gradients with respect to the
arguments of `f`: `dx`, `dweight`, and so on. docs/derivations.md derives each backward pass. The other operations are in loss.py,
norms.py, activations.py, positions.py and attention.py.

Shapes: N rows (a batch of B sequences of T tokens, flattened: N = B * T), D columns, V tokens in the vocabulary. NumPy 2
introduced `np.vecdot(a, b)`, which is `(a * b).sum(-1)`, and `a.mT`, which swaps the last two axes.

`ws` is the workspace that allocates arrays (workspace.py). At first, read `ws.empty(shape, dtype)` as `np.empty(shape,
dtype)`, and skip `with ws.scratch():`, which frees temporary arrays, and `out=`, the array to write a result to. They save memory
and time, and do not change any result.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.workspace import DEFAULT_WORKSPACE, Array, Workspace

Cache = Any
GradOut = tuple[Array | None, Array | None]  # arrays to write (dweight, dbias) or (dgamma, dbeta) to

ROW_BLOCK_ELEMENTS = 1 << 16  # a few arrays of this many elements fit in the second-level cache of a core


def row_blocks(rows: int, row_size: int) -> Iterator[slice]:
    """Yield slices of rows, small enough that element-wise operations on them stay in the cache."""
    step = max(1, ROW_BLOCK_ELEMENTS // row_size)
    if rows <= step:
        return iter((slice(0, rows),))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


@lru_cache(maxsize=64)
def ones(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an array of ones. It is shared between callers, so do not modify it."""
    return np.ones(shape, dtype)


def row_sum(x: Array, out: Array | None = None) -> Array:
    """Sum each row: (..., D) -> (..., 1). A product with ones is two to five times faster than `x.sum(-1)`."""
    return np.matmul(x, ones((x.shape[-1], 1), x.dtype), out=out)


def column_sum(x: Array, out: Array | None = None) -> Array:
    """Sum each column: (N, D) -> (D,)."""
    return np.matmul(ones((len(x),), x.dtype), x, out=out)


# --------------------------------------- linear: docs/derivations.md#linear


def linear(x: Array, weight: Array, bias: Array | None = None, ws: Workspace = DEFAULT_WORKSPACE) -> tuple[Array, Cache]:
    """y = x W + b.  x (N, D), weight (D, F), bias (F,) or None -> y (N, F)."""
    y = np.matmul(x, weight, out=ws.empty((len(x), weight.shape[1]), x.dtype))
    if bias is not None:
        y += bias
    return y, (x, weight, bias is not None)


def linear_backward(
    dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE, out: GradOut = (None, None)
) -> tuple[Array, Array, Array | None]:
    """dx = dy W^T,  dW = x^T dy,  db = the sum of the rows of dy."""
    x, weight, has_bias = cache
    dx = np.matmul(dy, weight.T, out=ws.empty(x.shape, dy.dtype))
    dweight = np.matmul(x.T, dy, out=out[0])
    dbias = column_sum(dy, out=out[1]) if has_bias else None
    return dx, dweight, dbias


# --------------------------------- embedding: docs/derivations.md#embedding


def embedding(tokens: Array, weight: Array, ws: Workspace = DEFAULT_WORKSPACE) -> tuple[Array, Cache]:
    """y[i] = weight[tokens[i]].  tokens (N,), each from 0 to V - 1, weight (V, D) -> y (N, D)."""
    # GPT has already checked the tokens; with mode="raise", `take` would check them again and buffer its output
    y = np.take(weight, tokens, axis=0, mode="clip", out=ws.empty((len(tokens), weight.shape[1]), weight.dtype))
    return y, (tokens, weight.shape)


def embedding_backward(dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE, out: Array | None = None) -> Array:
    """dweight[v] = the sum of the rows of dy whose token is v.

    The result is added to `out` if given, which already holds the gradient of a tied LM head.
    """
    tokens, shape = cache
    dweight = np.zeros(shape, dy.dtype) if out is None else out
    # `dweight[tokens] += dy` would count a repeated token only once; adding single elements is three times faster than rows
    V, D = shape
    with ws.scratch():
        elements = np.add(tokens[:, None] * D, np.arange(D), out=ws.empty((len(tokens), D), tokens.dtype))
        np.add.at(dweight.reshape(V * D), elements.reshape(-1), dy.reshape(-1))
    return dweight


# ------------------------------------- softmax: docs/derivations.md#softmax


def softmax(x: Array, ws: Workspace = DEFAULT_WORKSPACE) -> tuple[Array, Cache]:
    """y = exp(x) / sum(exp(x)) for each row. The maximum of the row is subtracted first, so that exp cannot overflow.

    The model does not call this function: attention and cross_entropy include their own computation of softmax.
    """
    y = np.subtract(x, x.max(-1, keepdims=True), out=ws.empty(x.shape, x.dtype))
    np.exp(y, out=y)
    y /= row_sum(y)
    return y, y


def softmax_backward(dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE) -> Array:
    """dx = y * (dy - sum(y * dy)) for each row."""
    y = cache
    dx = np.subtract(dy, np.vecdot(dy, y)[..., None], out=ws.empty(dy.shape, dy.dtype))
    dx *= y
    return dx


# ------------------------------------- dropout: docs/derivations.md#dropout


def dropout(x: Array, mask: Array | None) -> tuple[Array, Cache]:
    """y = x * mask, where the mask is 0 with probability `rate` and 1 / (1 - rate) otherwise. Overwrites x. None: y = x."""
    if mask is not None:
        x *= mask
    return x, mask


def dropout_backward(dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE) -> Array:
    """dx = dy * mask."""
    mask = cache
    return dy if mask is None else np.multiply(dy, mask, out=ws.empty(dy.shape, dy.dtype))


@dataclass(frozen=True)
class Dropout:
    """Generates dropout masks as a function of the seed, the step, the sequence and the dropout layer.

    The masks do not depend on how the batch is divided among workers.

    >>> first, again = (Dropout(0.5, seed=1, step=7).mask(0, (2, 3, 4), np.float32) for _ in range(2))
    >>> np.array_equal(first, again)
    True
    """

    rate: float = 0.0
    "Probability that an activation is set to zero."
    seed: int = 0
    step: int = 0
    first_sequence: int = 0
    "Index in the whole batch of the first sequence that is masked here."

    def mask(self, layer: int, shape: tuple[int, int, int], dtype: DTypeLike, ws: Workspace = DEFAULT_WORKSPACE) -> Array | None:
        """Return the mask of a dropout layer for activations (B, T, D), or None if the rate is 0.

        Layer 0 follows the embeddings; 2 l + 1 and 2 l + 2 follow the attention and the feed-forward network of block l.
        """
        if self.rate == 0:
            return None
        mask = ws.empty(shape, dtype)
        for b, rows in enumerate(mask):
            draws = np.random.default_rng((self.seed, self.step, self.first_sequence + b, layer))
            np.multiply(draws.random(rows.shape, np.float32) >= self.rate, 1 / (1 - self.rate), out=rows)
        return mask


NO_DROPOUT = Dropout()
