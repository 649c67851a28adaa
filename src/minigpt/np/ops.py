"""The operations of a transformer, each forward right above its backward.

How to read this file. `f(...)` computes `y` and returns it with `cache`, what its backward needs to remember. `f_backward(dy,
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
GELU_C = float(np.sqrt(2 / np.pi))
GELU_A = 0.044715
PIECE = 1 << 16  # elements: this much of a few arrays stays in a core's second-level cache


def pieces(rows: int, row_size: int) -> Iterator[slice]:
    """Slices of rows small enough that element-wise work on them stays in cache."""
    step = max(1, PIECE // row_size)
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


def positions(x: Array, weight: Array, start: int = 0) -> tuple[Array, Cache]:
    """y[b, t] = x[b, t] + weight[start + t].  x (B, T, D), weight (at least start + T, D) -> y (B, T, D).  x is overwritten."""
    T = x.shape[1]
    x += weight[start : start + T]
    return x, (slice(start, start + T), weight.shape)


def positions_backward(dy: Array, cache: Cache, out: Array | None = None) -> Array:
    """dweight[start + t] = sum over the batch of dy[b, t], and 0 for positions that were not used.  (dx is dy itself.)"""
    used, shape = cache
    dweight = np.empty(shape, dy.dtype) if out is None else out
    dweight.fill(0)
    np.sum(dy, axis=0, out=dweight[used])
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


# ------------------------------- layer norm: docs/derivations.md#layer-norm


def layer_norm(x: Array, gamma: Array, beta: Array, ws: Fresh = FRESH, epsilon: float = 1e-5) -> tuple[Array, Cache]:
    """y = gamma * x_hat + beta,  x_hat = (x - mean) / sqrt(variance + epsilon), row by row.  x (N, D) -> y (N, D)."""
    N, D = x.shape
    y, x_hat, rstd = (ws.empty(shape, x.dtype) for shape in (x.shape, x.shape, (N, 1)))
    for rows in pieces(N, D):
        xi = np.subtract(x[rows], row_sum(x[rows]) / D, out=x_hat[rows])
        np.divide(1, np.sqrt(np.vecdot(xi, xi)[:, None] / D + epsilon), out=rstd[rows])
        xi *= rstd[rows]
        yi = np.multiply(xi, gamma, out=y[rows])
        yi += beta
    return y, (x_hat, rstd, gamma)


def layer_norm_backward(dy: Array, cache: Cache, ws: Fresh = FRESH, out: Outs = (None, None)) -> tuple[Array, Array, Array]:
    """dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat)),  g = gamma * dy;  dgamma = sum(dy * x_hat),  dbeta = sum(dy)."""
    x_hat, rstd, gamma = cache
    N, D = dy.shape
    dx = ws.empty(dy.shape, dy.dtype)
    dgamma = np.zeros(D, dy.dtype) if out[0] is None else out[0]
    dgamma.fill(0)
    for rows in pieces(N, D):
        with ws.scratch():
            product = np.multiply(dy[rows], x_hat[rows], out=ws.empty(dx[rows].shape, dy.dtype))
            dgamma += column_sum(product)
            mean_g, mean_g_x_hat = dy[rows] @ gamma / D, product @ gamma / D  # (n,) each
            dxi = np.multiply(dy[rows], gamma, out=dx[rows])
            dxi -= mean_g[:, None]
            dxi -= np.multiply(x_hat[rows], mean_g_x_hat[:, None], out=product)
            dxi *= rstd[rows]
    return dx, dgamma, column_sum(dy, out=out[1])


# ----------------------------- activations: docs/derivations.md#relu, #gelu


def relu(x: Array, ws: Fresh = FRESH, keep_x: bool = True) -> tuple[Array, Cache]:
    """y = max(x, 0).  The cache is y. Without `keep_x`, x is overwritten."""
    y = np.maximum(x, 0, out=ws.empty(x.shape, x.dtype) if keep_x else x)
    return y, y


def relu_backward(dy: Array, cache: Cache, ws: Fresh = FRESH, out: Array | None = None) -> Array:
    """dx = dy where y > 0, else 0.  `out` may be dy."""
    y = cache
    return np.multiply(dy, y > 0, out=ws.empty(dy.shape, dy.dtype) if out is None else out)


def gelu(x: Array, ws: Fresh = FRESH, keep_x: bool = True) -> tuple[Array, Cache]:
    """y = x * g,  g = (1 + tanh(c * (x + a * x^3))) / 2,  with c = sqrt(2 / pi), a = 0.044715.  x (N, F) -> y (N, F).

    GPT-2's approximation of x * (probability that a normal variable is below x). The cache is the slope, computed along with y:
    dy/dx = g + x * dg/dx,  dg/dx = 2 * g * (1 - g) * c * (1 + 3 * a * x^2).  Without `keep_x`, x is overwritten.
    """
    y = ws.empty(x.shape, x.dtype)
    slope = ws.empty(x.shape, x.dtype) if keep_x else x
    for rows in pieces(*x.shape):
        xi, yi = x[rows], y[rows]
        with ws.scratch():
            g, square, product = (ws.empty(xi.shape, x.dtype) for _ in range(3))
            np.multiply(xi, xi, out=square)
            np.multiply(square, GELU_C * GELU_A, out=g)
            g += GELU_C
            g *= xi  # c * (x + a * x^3)
            np.tanh(g, out=g)
            g *= 0.5
            g += 0.5
            np.multiply(xi, g, out=yi)  # y
            square *= 6 * GELU_C * GELU_A
            square += 2 * GELU_C
            square *= yi  # x * g * 2 * c * (1 + 3 * a * x^2)
            np.multiply(square, g, out=product)
            square -= product  # x * dg/dx
            np.add(square, g, out=slope[rows])
    return y, slope


def gelu_backward(dy: Array, cache: Cache, ws: Fresh = FRESH, out: Array | None = None) -> Array:
    """dx = dy * slope.  `out` may be dy."""
    slope = cache
    return np.multiply(dy, slope, out=ws.empty(dy.shape, dy.dtype) if out is None else out)


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
