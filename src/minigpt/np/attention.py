"""Attention: which earlier tokens should this one listen to?

What is computed fits in four lines (docs/derivations.md derives its backward):

    scores = q @ k.mT / sqrt(d)                   (..., T, S): how well each query likes each key
    scores[..., future] = -inf                    causal: no query sees a later key
    P = exp(scores) / sum(exp(scores))            softmax, row by row
    y = P @ v                                     (..., T, d)

How it is computed. The T x S matrix is never held as a whole: queries come in blocks, a causal block looks only at the keys up to
its own end, and the backward pass computes the weights of a block again, so that memory grows with T. Such a matrix is what
attention spends its time on, so all but `exp`, a mask and one product moves to where there are d numbers a row in place of S:
1 / sqrt(d) goes to the keys, the division by the row's sum to y and dy.

Shapes: T queries, S keys (S = T in training), d columns, behind any leading dimensions (sequences, heads). Where q has several
and k and v have one, these are shared, as NumPy broadcasts them.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.ops import Cache, row_sum
from minigpt.np.workspace import FRESH, Array, Fresh

QUERY_BLOCK = 64  # queries handled together, in as many heads ...
BLOCK_ELEMENTS = 1 << 17  # ... as keep their weights for all keys in cache
APART = 16  # unused columns behind keys and values turned: rows a power of two apart would all fall into the same cache lines
SAFE_SCORE = 30.0  # in float32, exp of scores up to this size neither overflows nor vanishes, nor do their sums and quotients

Box = tuple[slice, ...]


def blocks(q: Array, k: Array, causal: bool) -> Iterator[tuple[Box, slice, int]]:
    """(box, rows, end): which heads, which of their queries, and how many keys these look at. The last query is at the last key.

    The last queries come first: causal or not, they look at all keys.
    """
    *leading, T, _ = q.shape
    S = k.shape[-2]
    for start in reversed(range(0, T, QUERY_BLOCK)):
        rows = slice(start, min(start + QUERY_BLOCK, T))
        end = rows.stop + S - T if causal else S
        for box in boxes(tuple(leading), BLOCK_ELEMENTS // (QUERY_BLOCK * end)):
            yield box, rows, end


def boxes(leading: tuple[int, ...], room: int) -> Iterator[Box]:
    """Slices of the leading dimensions (sequences, heads) that hold at most `room` heads, and at least one.

    >>> list(boxes((2, 4), room=2)) == [(slice(b, b + 1), slice(h, h + 2)) for b in (0, 1) for h in (0, 2)]
    True
    """
    if not leading:
        yield ()
        return
    step = max(1, room // math.prod(leading[1:]))
    for start in range(0, leading[0], step):
        for inner in boxes(leading[1:], room):
            yield (slice(start, start + step), *inner)


@lru_cache(maxsize=QUERY_BLOCK)
def future(n: int, dtype: DTypeLike) -> Array:
    """What hides the future of n queries among the last n keys: (n, n), -inf where the key lies after the query, else 0."""
    return np.triu(np.full((n, n), -np.inf, dtype), k=1)


def columns(x: Array, scale: float, out: Array) -> Array:
    """scale * x with each row as a column: (..., T, d) -> out (..., d, T)."""
    np.multiply(x, scale, out=out.mT)  # so it reads in the order of memory, the faster way round
    return out


def needs_shift(q: Array, k: Array, causal: bool) -> Array:
    """Whether exp of a query's scores could overflow, or all of them vanish, were nothing subtracted first: (..., T, 1).

    A score is at most |q| |k| / sqrt(d). Only keys that the query sees count, so that the future cannot change even a rounding.
    """
    key_sizes = np.vecdot(k, k)  # (..., S), squared
    T, S, d = q.shape[-2], k.shape[-2], q.shape[-1]
    largest = np.maximum.accumulate(key_sizes, axis=-1)[..., S - T :] if causal else key_sizes.max(-1, keepdims=True)
    return (np.vecdot(q, q) * largest > d * SAFE_SCORE**2)[..., None]


def attention(
    q: Array, k: Array, v: Array, causal: bool = True, ws: Fresh = FRESH, out: Array | None = None
) -> tuple[Array, Cache]:
    """y = softmax(q k^T / sqrt(d)) v, where with `causal` no query sees a later key.  q and y (..., T, d), k and v (..., S, d).

    In training S = T. In generation the T queries are the newest tokens, and S >= T keys are all tokens so far. Softmax does not
    change when a number, the `shift`, is subtracted from a whole row: the row's maximum where exp might overflow, else nothing.
    """
    *leading, T, d = q.shape
    S = k.shape[-2]
    y = ws.empty(q.shape, q.dtype) if out is None else out
    total, shift = ws.empty((*leading, T, 1), q.dtype), None
    key_columns = columns(k, 1 / math.sqrt(d), ws.empty((*k.shape[:-2], d, S + APART), q.dtype)[..., :S])
    shifted = needs_shift(q, k, causal)
    cache = q, k, v, key_columns
    key_columns, v = shared(key_columns, leading), shared(v, leading)
    if shifted.any():
        shift = ws.zeros(total.shape, q.dtype)
    for box, rows, end in blocks(q, k, causal):
        with ws.scratch():
            exps = block_scores(q[*box, rows], key_columns[box][..., :end], causal, ws)  # (..., rows, end)
            if shift is not None:
                shift[*box, rows] = np.where(shifted[*box, rows], exps.max(-1, keepdims=True), 0)
                exps -= shift[*box, rows]
            np.exp(exps, out=exps)
            sums = row_sum(exps, out=total[*box, rows])
            part = np.matmul(exps, v[box][..., :end, :], out=ws.empty((*exps.shape[:-1], d), q.dtype))
            np.divide(part, sums, out=y[*box, rows])
    return y, (*cache, shift, y, total, causal)


def attention_backward(
    dy: Array, cache: Cache, ws: Fresh = FRESH, out: tuple[Array | None, ...] = (None, None, None)
) -> tuple[Array, Array, Array]:
    """dv = P^T dy,  dq = dZ k / sqrt(d),  dk = dZ^T q / sqrt(d)  with  dZ = P * (dP - sum(y * dy)),  dP = dy v^T.

    P are the attention weights, dZ is the gradient of the scores. sum(y * dy) runs over the d columns, and is what
    softmax_backward calls sum(P * dP). With P = exps / total, the division by the total moves to dy.
    """
    q, k, v, key_columns, shift, y, total, causal = cache
    *leading, T, d = dy.shape
    S, scale = k.shape[-2], 1 / math.sqrt(d)
    dq, dk, dv = (
        ws.empty((*leading, n, d), dy.dtype) if array is None or array.shape[:-2] != dy.shape[:-2] else array
        for n, array in zip((T, S, S), out, strict=True)
    )
    # wide wide_values, with wide = [dy, -sum(y * dy)] / total and wide_values = [v, 1]^T / sqrt(d), is dZ / exps / sqrt(d)
    wide, wide_values = ws.empty((*leading, T, d + 1), dy.dtype), ws.empty((*v.shape[:-2], d + 1, S + APART), dy.dtype)[..., :S]
    scaled = np.divide(dy, total, out=wide[..., :d])
    np.negative(np.vecdot(y, scaled), out=wide[..., d])
    columns(v, scale, wide_values[..., :d, :])
    wide_values[..., d, :] = scale
    keys, key_columns, wide_values = (shared(x, leading) for x in (k, key_columns, wide_values))
    for box, rows, end in blocks(q, k, causal):
        with ws.scratch():
            exps = block_scores(q[*box, rows], key_columns[box][..., :end], causal, ws)
            if shift is not None:
                exps -= shift[*box, rows]
            np.exp(exps, out=exps)  # P * total
            dz = np.matmul(wide[*box, rows], wide_values[box][..., :end], out=ws.empty(exps.shape, dy.dtype))
            dz *= exps  # dZ / sqrt(d)
            np.matmul(dz, keys[box][..., :end, :], out=dq[*box, rows])
            for dx, left, right in ((dv, exps, scaled), (dk, dz, q)):
                to, product = dx[box][..., :end, :], (left.mT, right[*box, rows])
                if rows.stop == T:  # these queries come first, and see all keys
                    np.matmul(*product, out=to)
                else:
                    to += np.matmul(*product, out=ws.empty(to.shape, dy.dtype))
    return dq, summed(dk, k.shape, out[1], ws), summed(dv, v.shape, out[2], ws)


def shared(x: Array, leading: list[int]) -> Array:
    """x, with the same rows shown in every place of the leading dimensions: a view."""
    return np.broadcast_to(x, (*leading, *x.shape[-2:]))


def summed(dx: Array, shape: tuple[int, ...], out: Array | None, ws: Fresh) -> Array:
    """The way back from `shared`: the sum over all that shared an array of this shape."""
    axes = tuple(i for i, n in enumerate(shape) if n != dx.shape[i])
    return np.sum(dx, axis=axes, keepdims=True, out=ws.empty(shape, dx.dtype) if out is None else out) if axes else dx


def block_scores(q: Array, key_columns: Array, causal: bool, ws: Fresh) -> Array:
    """q k^T / sqrt(d) for a block of queries and the keys up to its end, the future masked: (..., rows, end)."""
    scores = np.matmul(q, key_columns, out=ws.empty((*q.shape[:-1], key_columns.shape[-1]), q.dtype))
    if causal:
        n = scores.shape[-2]  # the last query stands at the last key
        scores[..., -n:] += future(n, scores.dtype)
    return scores
