"""The operations of a transformer, each forward right above its backward.

How to read this file. `f(...)` computes `y` and returns it with `cache`, what its backward needs to remember. `f_backward(dy,
cache)` receives `dy`, the gradient of the loss with respect to `y`, and returns the gradients with respect to everything `f` was
given: `dx`, `dweight`, ... The derivation of each one is in docs/derivations.md.

Shapes: N rows (a batch of B sequences of T tokens, flattened: N = B * T), D columns, V words. `ws` says where arrays come from
(see workspace.py) and does not change what is computed; `out` arguments are arrays to write a result into, as in NumPy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.workspace import FRESH, Array, Fresh

Cache = Any
Outs = tuple[Array | None, Array | None]

IGNORE = -100
"The target of a row that does not count (PyTorch's default)."

GELU_C = float(np.sqrt(2 / np.pi))
GELU_A = 0.044715
PIECE = 1 << 16  # elements: this much of a few arrays stays in a core's second-level cache


def pieces(rows: int, row_size: int) -> Iterator[slice]:
    """Slices of rows small enough that element-wise work on them stays in cache."""
    step = max(1, PIECE // row_size)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def row_sum(x: Array) -> Array:
    """Sum of each row: (..., D) -> (..., 1). A product with ones is several times faster than `x.sum(-1)`."""
    return np.matmul(x, np.ones((x.shape[-1], 1), x.dtype))


def column_sum(x: Array, out: Array | None = None) -> Array:
    """Sum of each column: (N, D) -> (D,)."""
    return np.matmul(np.ones(len(x), x.dtype), x, out=out)


# ---------------------------------------------------------------- linear


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


# ------------------------------------------------------------- embedding


def embedding(tokens: Array, weight: Array, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """y = the rows of `weight` that the tokens name.  tokens (N,), weight (V, D) -> y (N, D)."""
    y = np.take(weight, tokens, axis=0, mode="clip", out=ws.empty((len(tokens), weight.shape[1]), weight.dtype))
    return y, (tokens, weight.shape)


def embedding_backward(dy: Array, cache: Cache, out: Array | None = None) -> Array:
    """dweight[v] = sum of the rows of dy whose token is v.

    Adds to `out` where it is given, because a head tied to the embedding has already put its share there.
    """
    tokens, shape = cache
    dweight = np.zeros(shape, dy.dtype) if out is None else out
    np.add.at(dweight, tokens, dy)  # not `dweight[tokens] += dy`, which counts a repeated token once
    return dweight


def positions(x: Array, weight: Array, start: int = 0) -> tuple[Array, Cache]:
    """y[b, t] = x[b, t] + weight[start + t].  x (B, T, D), weight (at least start + T, D) -> y (B, T, D), in place of x."""
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


# --------------------------------------------------------------- softmax


def softmax(x: Array, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """y = exp(x) / sum(exp(x)), row by row; the row's maximum is taken off first so that exp cannot overflow."""
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


# ------------------------------------------------------------ layer norm


def layer_norm(x: Array, gamma: Array, beta: Array, ws: Fresh = FRESH, epsilon: float = 1e-5) -> tuple[Array, Cache]:
    """y = gamma * x_hat + beta,  x_hat = (x - mean) / sqrt(variance + epsilon), row by row.  x (N, D) -> y (N, D)."""
    D = x.shape[1]
    x_hat = np.subtract(x, row_sum(x) / D, out=ws.empty(x.shape, x.dtype))
    rstd = 1 / np.sqrt(np.vecdot(x_hat, x_hat)[:, None] / D + epsilon)  # (N, 1)
    x_hat *= rstd
    y = np.multiply(x_hat, gamma, out=ws.empty(x.shape, x.dtype))
    y += beta
    return y, (x_hat, rstd, gamma)


def layer_norm_backward(dy: Array, cache: Cache, ws: Fresh = FRESH, out: Outs = (None, None)) -> tuple[Array, Array, Array]:
    """dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat)),  g = gamma * dy;  dgamma = sum(dy * x_hat),  dbeta = sum(dy)."""
    x_hat, rstd, gamma = cache
    D = dy.shape[1]
    dgamma = np.einsum("nd,nd->d", dy, x_hat, out=out[0])
    dbeta = column_sum(dy, out=out[1])
    dx = np.multiply(dy, gamma, out=ws.empty(dy.shape, dy.dtype))
    along = np.vecdot(dx, x_hat)[:, None] / D
    dx -= row_sum(dx) / D
    with ws.scratch():
        dx -= np.multiply(x_hat, along, out=ws.empty(dy.shape, dy.dtype))
    dx *= rstd
    return dx, dgamma, dbeta


# ----------------------------------------------------------- activations


def relu(x: Array, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """y = max(x, 0)."""
    return np.maximum(x, 0, out=ws.empty(x.shape, x.dtype)), x


def relu_backward(dy: Array, cache: Cache, ws: Fresh = FRESH) -> Array:
    """dx = dy where x > 0, else 0."""
    x = cache
    return np.multiply(dy, x > 0, out=ws.empty(dy.shape, dy.dtype))


def gelu(x: Array, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """y = x * g,  g = (1 + tanh(c * (x + a * x^3))) / 2.  The tanh form, as in GPT-2.  x (N, F) -> y (N, F)."""
    y, gate = ws.empty(x.shape, x.dtype), ws.empty(x.shape, x.dtype)
    for rows in pieces(*x.shape):
        xi, g = x[rows], gate[rows]
        np.multiply(xi, xi, out=g)
        g *= GELU_C * GELU_A
        g += GELU_C
        g *= xi  # c * (x + a * x^3)
        np.tanh(g, out=g)
        g *= 0.5
        g += 0.5
        np.multiply(xi, g, out=y[rows])
    return y, (x, gate)


def gelu_backward(dy: Array, cache: Cache, ws: Fresh = FRESH) -> Array:
    """dx = dy * (g + x * dg/dx),  dg/dx = 2 * g * (1 - g) * c * (1 + 3 * a * x^2)."""
    x, gate = cache
    dx = ws.empty(x.shape, dy.dtype)
    for rows in pieces(*x.shape):
        xi, g, slope = x[rows], gate[rows], dx[rows]
        with ws.scratch():
            gg = np.subtract(1, g, out=ws.empty(g.shape, g.dtype))
            gg *= g  # g * (1 - g)
            np.multiply(xi, xi, out=slope)
            slope *= 6 * GELU_C * GELU_A
            slope += 2 * GELU_C
            slope *= xi
            slope *= gg
            slope += g
            slope *= dy[rows]
    return dx


# --------------------------------------------------------- cross-entropy


def cross_entropy(
    logits: Array, targets: Array, count: int | None = None, ignore_index: int = IGNORE, out: Array | None = None
) -> tuple[float, Cache]:
    """loss = sum over the rows that count of  log(sum(exp(logits))) - logits[target],  divided by `count`.

    logits (N, V), targets (N,). Rows whose target is `ignore_index` do not count. `count` is the number of rows to average over
    where these rows are a part of something larger; by default the rows that count here. `out` may be `logits` itself.
    """
    counted = targets != ignore_index
    if count is None:
        count = int(np.count_nonzero(counted))
    rows, labels = np.flatnonzero(counted), targets[counted]
    picked = logits[rows, labels]
    largest = logits.max(-1, keepdims=True)  # (N, 1)
    p = np.subtract(logits, largest, out=out)
    np.exp(p, out=p)
    total = row_sum(p)  # (N, 1): softmax = p / total
    losses = (np.log(total) + largest)[rows, 0] - picked
    loss = float(losses.sum(dtype=np.float64)) / max(count, 1)
    return loss, (p, total, rows, labels, max(count, 1))


def cross_entropy_backward(cache: Cache, dloss: float = 1.0) -> Array:
    """dlogits = dloss / count * (softmax(logits) - one_hot(target)), and 0 in rows that do not count.  In place of the cache."""
    p, total, rows, labels, count = cache
    scale = np.zeros_like(total)
    scale[rows] = dloss / count
    p *= scale / total
    p[rows, labels] -= dloss / count
    return p


# --------------------------------------------------------------- dropout


def dropout(x: Array, mask: Array | None) -> tuple[Array, Cache]:
    """y = x * mask, in place.  A mask holds 0 with probability `rate`, else 1 / (1 - rate): the mean stays.  None: y = x."""
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
        """The mask for activations (B, T, D) at a place in the network numbered `site`; None where nothing is dropped."""
        if self.rate == 0:
            return None
        mask = ws.empty(shape, dtype)
        for b, rows in enumerate(mask):
            draws = np.random.default_rng((self.seed, self.step, self.first_sequence + b, site))
            np.multiply(draws.random(rows.shape, np.float32) >= self.rate, 1 / (1 - self.rate), out=rows)
        return mask


NO_DROPOUT = Dropout()
