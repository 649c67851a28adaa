"""Where a token stands: a learned vector for each position, or a rotation of queries and keys."""

from functools import lru_cache

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.ops import Cache
from minigpt.np.workspace import FRESH, Array, Fresh

Places = slice | Array
"Positions of T tokens: a slice where all sequences have the same, else their numbers, (B, T)."
Angles = tuple[Array, Array]
"For each column the cos of the angle by which rope turns it, and the sin by which its partner comes in: (T, d) each."

# --------------------------- learned positions: docs/derivations.md#positions


def positions(x: Array, weight: Array, places: Places) -> tuple[Array, Cache]:
    """y[b, t] = x[b, t] + weight[place of t].  x (B, T, D), weight (positions, D) -> y (B, T, D).  x is overwritten."""
    x += weight[places]
    return x, (places, weight.shape)


def positions_backward(dy: Array, cache: Cache, out: Array | None = None) -> Array:
    """dweight[place of t] = sum over the batch of dy[b, t], and 0 for positions that were not used.  (dx is dy itself.)

    For places that are a slice: only generation has others.
    """
    used, shape = cache
    dweight = np.empty(shape, dy.dtype) if out is None else out
    dweight.fill(0)
    np.sum(dy, axis=0, out=dweight[used])
    return dweight


# ------------------------------------------- rope: docs/derivations.md#rope


@lru_cache(maxsize=8)
def angles(length: int, d: int, theta: float, pairing: str, dtype: DTypeLike) -> Angles:
    """cos and sin of t * theta^(-2 i / d) for positions t < length and pairs i < d / 2, the sin with its sign in `rope`."""
    turn = np.arange(length)[:, None] * theta ** (-np.arange(0, d, 2) / d)
    cos, sin = np.empty((2, length, d), dtype)
    for table, first, second in ((cos, np.cos(turn), np.cos(turn)), (sin, -np.sin(turn), np.sin(turn))):
        a, b = pairs(table, pairing)
        a[...], b[...] = first, second
    return cos, sin


def rope(x: Array, cos: Array, sin: Array, pairing: str, ws: Fresh = FRESH, out: Array | None = None) -> tuple[Array, Cache]:
    """Turn each pair (a, b) of columns by an angle:  (a, b) -> (a cos - b sin, b cos + a sin).  x (..., T, d) -> y as x.

    cos and sin, (T, d) or (B, T, d), come from `angles`. Pairs are (i, i + d / 2) with `half`, (2 i, 2 i + 1)
    with `interleaved` (Su et al. 2021). `out` must not be x.
    """
    y = np.multiply(x, cos, out=ws.empty(x.shape, x.dtype) if out is None else out)
    with ws.scratch():
        other = ws.empty(x.shape, x.dtype)
        (a, b), (sin_a, sin_b), (other_a, other_b) = pairs(x, pairing), pairs(sin, pairing), pairs(other, pairing)
        np.multiply(b, sin_a, out=other_a)
        np.multiply(a, sin_b, out=other_b)
        y += other
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
