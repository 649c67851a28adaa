"""Where a token stands: a learned vector for each position, or a rotation of queries and keys."""

from functools import lru_cache

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.ops import Cache
from minigpt.np.workspace import FRESH, Array, Fresh

Places = slice | Array
"Positions of T tokens: a slice where all sequences have the same, else their numbers, (B, T)."
Angles = tuple[Array, Array]
"cos and sin of the angles by which rope turns each pair of columns, (T, d / 2) each."

# --------------------------- learned positions: docs/derivations.md#positions


def positions(x: Array, weight: Array, places: Places) -> tuple[Array, Cache]:
    """y[b, t] = x[b, t] + weight[place of t].  x (B, T, D), weight (positions, D) -> y (B, T, D).  x is overwritten."""
    x += weight[places]
    return x, (places, weight.shape)


def positions_backward(dy: Array, cache: Cache, out: Array | None = None) -> Array:
    """dweight[place of t] = sum over the batch of dy[b, t], and 0 for positions that were not used.  (dx is dy itself.)"""
    used, shape = cache
    dweight = np.empty(shape, dy.dtype) if out is None else out
    dweight.fill(0)
    np.sum(dy, axis=0, out=dweight[used])
    return dweight


# ------------------------------------------- rope: docs/derivations.md#rope


@lru_cache(maxsize=8)
def angles(length: int, d: int, theta: float, dtype: DTypeLike) -> Angles:
    """cos and sin of t * theta^(-2 i / d) for positions t < length and pairs i < d / 2: (length, d / 2) each."""
    turn = np.arange(length)[:, None] * theta ** (-np.arange(0, d, 2) / d)
    return np.cos(turn).astype(dtype), np.sin(turn).astype(dtype)


def rope(x: Array, cos: Array, sin: Array, pairing: str, ws: Fresh = FRESH, out: Array | None = None) -> tuple[Array, Cache]:
    """Turn each pair (a, b) of columns by an angle:  (a, b) -> (a cos - b sin, b cos + a sin).  x (..., T, d) -> y (..., T, d).

    cos and sin (T, d / 2), or as many dimensions as x. Pairs are (i, i + d / 2) with `half`, (2 i, 2 i + 1) with `interleaved`
    (Su et al. 2021). `out` must not be x.
    """
    y = ws.empty(x.shape, x.dtype) if out is None else out
    (a, b), (ya, yb) = pairs(x, pairing), pairs(y, pairing)
    with ws.scratch():
        product = ws.empty(a.shape, x.dtype)
        np.multiply(a, cos, out=ya)
        ya -= np.multiply(b, sin, out=product)
        np.multiply(b, cos, out=yb)
        yb += np.multiply(a, sin, out=product)
    return y, (cos, sin, pairing)


def rope_backward(dy: Array, cache: Cache, ws: Fresh = FRESH, out: Array | None = None) -> Array:
    """dx = dy, turned back by the same angle.  `out` must not be dy."""
    cos, sin, pairing = cache
    dx, _ = rope(dy, cos, -sin, pairing, ws, out)
    return dx


def pairs(x: Array, pairing: str) -> tuple[Array, Array]:
    """The first and the second of each pair of columns: two views, (..., d / 2) each."""
    half = x.shape[-1] // 2
    return (x[..., :half], x[..., half:]) if pairing == "half" else (x[..., 0::2], x[..., 1::2])
