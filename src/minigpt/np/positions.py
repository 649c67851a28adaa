"""Position encodings: learned position embeddings, and rotary embeddings (rope)."""

from functools import lru_cache

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.ops import Cache
from minigpt.np.workspace import DEFAULT_WORKSPACE, Array, Workspace

Positions = slice | Array
"The positions of T tokens: a slice if they are the same in every sequence, otherwise an integer array (B, T)."
RopeAngles = tuple[Array, Array]
"The cosines and signed sines by which `rope` rotates each column at each position: two arrays (T, d) or (B, T, d)."

# ----------------- learned position embeddings: docs/derivations.md#positions


def position_embedding(x: Array, weight: Array, positions: Positions) -> tuple[Array, Cache]:
    """y[b, t] = x[b, t] + weight[positions[t]].  x (B, T, D), weight (context_length, D) -> y (B, T, D).  Overwrites x."""
    x += weight[positions]
    return x, (positions, weight.shape)


def position_embedding_backward(dy: Array, cache: Cache, out: Array | None = None) -> Array:
    """dweight[positions[t]] = the sum of dy[b, t] over the batch, and 0 at unused positions. dx is dy itself.

    `positions` must be a slice. Only generation uses arrays of positions, and it has no backward pass.
    """
    positions, shape = cache
    dweight = np.empty(shape, dy.dtype) if out is None else out
    dweight.fill(0)
    np.sum(dy, axis=0, out=dweight[positions])
    return dweight


# ------------------------------------------- rope: docs/derivations.md#rope


@lru_cache(maxsize=32)
def rope_table(length: int, d: int, theta: float, pairing: str, dtype: DTypeLike) -> RopeAngles:
    """Return the cosines and signed sines for the positions 0 to length - 1: two arrays (length, d).

    The angle of pair i at position t is t * theta^(-2 i / d). The sines of the first column of each pair are negated, as `rope`
    needs them.
    """
    angles = np.arange(length)[:, None] * theta ** (-np.arange(0, d, 2) / d)
    cos, sin = np.empty((2, length, d), dtype)
    for table, first, second in ((cos, np.cos(angles), np.cos(angles)), (sin, -np.sin(angles), np.sin(angles))):
        a, b = pairs(table, pairing)
        a[...], b[...] = first, second
    return cos, sin


def rope(
    x: Array, cos: Array, sin: Array, pairing: str, ws: Workspace = DEFAULT_WORKSPACE, out: Array | None = None
) -> tuple[Array, Cache]:
    """Rotate each pair (a, b) of columns by an angle: (a cos - b sin, b cos + a sin).  x (..., T, d) -> y (..., T, d).

    cos and sin, (T, d) or (B, T, d), are rows of `rope_table`. The pairs are columns i and i + d / 2 with pairing "half", and 2 i
    and 2 i + 1 with "interleaved". `out` must not be x. Su et al. 2021, https://arxiv.org/abs/2104.09864.
    """
    y = np.multiply(x, cos, out=ws.empty(x.shape, x.dtype) if out is None else out)
    with ws.scratch():
        other = ws.empty(x.shape, x.dtype)
        (a, b), (sin_a, sin_b), (other_a, other_b) = pairs(x, pairing), pairs(sin, pairing), pairs(other, pairing)
        np.multiply(b, sin_a, out=other_a)
        np.multiply(a, sin_b, out=other_b)
        y += other
    return y, (cos, sin, pairing)


def rope_backward(dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE, out: Array | None = None) -> Array:
    """dx = dy rotated by the negative angle.  `out` must not be dy."""
    cos, sin, pairing = cache
    dx, _ = rope(dy, cos, -sin, pairing, ws, out)
    return dx


def pairs(x: Array, pairing: str) -> tuple[Array, Array]:
    """Return views of the first and the second column of each pair, (..., d / 2) each."""
    half = x.shape[-1] // 2
    return (x[..., :half], x[..., half:]) if pairing == "half" else (x[..., 0::2], x[..., 1::2])
