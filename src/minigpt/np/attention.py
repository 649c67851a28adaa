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

Shapes: B batch, T queries, S keys (S = T in training), D d_model, H heads, d = D / H. `attention` takes any leading dimensions.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.ops import Cache, linear, linear_backward, row_sum
from minigpt.np.parameters import Named
from minigpt.np.workspace import FRESH, Array, Fresh

QUERY_BLOCK = 64  # queries handled together, in as many heads ...
BLOCK_ELEMENTS = 1 << 17  # ... as keep their weights for all keys in cache
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
    """y = softmax(q k^T / sqrt(d)) v, where with `causal` no query sees a later key.  q and y: (..., T, d), k and v: (..., S, d).

    In training S = T. In generation the T queries are the newest tokens, and S >= T keys are all tokens so far. Softmax does not
    change when a number, the `shift`, is subtracted from a whole row: the row's maximum where exp might overflow, else nothing.
    """
    *leading, T, d = q.shape
    S = k.shape[-2]
    y = ws.empty(q.shape, q.dtype) if out is None else out
    total, shift = ws.empty((*leading, T, 1), q.dtype), None
    key_columns = columns(k, 1 / math.sqrt(d), ws.empty((*leading, d, S), q.dtype))
    shifted = needs_shift(q, k, causal)
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
    return y, (q, k, v, key_columns, shift, y, total, causal)


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
        ws.empty((*leading, n, d), dy.dtype) if array is None else array for n, array in zip((T, S, S), out, strict=True)
    )
    # wide wide_values, with wide = [dy, -sum(y * dy)] / total and wide_values = [v, 1]^T / sqrt(d), is dZ / exps / sqrt(d)
    wide, wide_values = ws.empty((*leading, T, d + 1), dy.dtype), ws.empty((*leading, d + 1, S), dy.dtype)
    scaled = np.divide(dy, total, out=wide[..., :d])
    np.negative(np.vecdot(y, scaled), out=wide[..., d])
    columns(v, scale, wide_values[..., :d, :])
    wide_values[..., d, :] = scale
    for box, rows, end in blocks(q, k, causal):
        with ws.scratch():
            exps = block_scores(q[*box, rows], key_columns[box][..., :end], causal, ws)
            if shift is not None:
                exps -= shift[*box, rows]
            np.exp(exps, out=exps)  # P * total
            dz = np.matmul(wide[*box, rows], wide_values[box][..., :end], out=ws.empty(exps.shape, dy.dtype))
            dz *= exps  # dZ / sqrt(d)
            np.matmul(dz, k[box][..., :end, :], out=dq[*box, rows])
            for dx, left, right in ((dv, exps, scaled), (dk, dz, q)):
                to, product = dx[box][..., :end, :], (left.mT, right[*box, rows])
                if rows.stop == T:  # these queries come first, and see all keys
                    np.matmul(*product, out=to)
                else:
                    to += np.matmul(*product, out=ws.empty(to.shape, dy.dtype))
    return dq, dk, dv


def block_scores(q: Array, key_columns: Array, causal: bool, ws: Fresh) -> Array:
    """q k^T / sqrt(d) for a block of queries and the keys up to its end, the future masked: (..., rows, end)."""
    scores = np.matmul(q, key_columns, out=ws.empty((*q.shape[:-1], key_columns.shape[-1]), q.dtype))
    if causal:
        n = scores.shape[-2]  # the last query stands at the last key
        scores[..., -n:] += future(n, scores.dtype)
    return scores


class KeyValues:
    """The keys and values of the tokens so far, in one attention layer, with room for `capacity` of them."""

    def __init__(self, B: int, H: int, capacity: int, d: int, dtype: DTypeLike) -> None:
        self._keys, self._values = np.empty((2, B, H, capacity, d), dtype)
        self.length = 0

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Add those of new tokens, (B, H, T, d); returns all so far, (B, H, S, d)."""
        start, self.length = self.length, self.length + k.shape[-2]
        self._keys[..., start : self.length, :] = k
        self._values[..., start : self.length, :] = v
        return self._keys[..., : self.length, :], self._values[..., : self.length, :]


def heads_of(x: Array, B: int, n: int, H: int) -> Array:
    """(B * T, n * D) -> (n, B, H, T, d): another view of the same memory, which can be written through."""
    return x.reshape(B, -1, n, H, x.shape[1] // (n * H)).transpose(2, 0, 3, 1, 4)


def multi_head_attention(
    x: Array, p: Named, n_heads: int, causal: bool = True, ws: Fresh = FRESH, past: KeyValues | None = None
) -> tuple[Array, Cache]:
    """Project to queries, keys and values in one product, attend in each head, project back.

    x (B, T, D) -> y (B, T, D). Parameters: qkv.weight (D, 3 D), qkv.bias (3 D,), out.weight (D, D), out.bias (D,); the biases
    may be missing. The columns of qkv are all queries, all keys, all values; within each, head by head.
    `past` holds the keys and values of the tokens before x, and receives those of x.
    """
    B, T, D = x.shape
    q, k, v = heads = ws.empty((3, B, n_heads, T, D // n_heads), x.dtype)  # laid out by head, for many small products
    with ws.scratch():
        qkv, qkv_cache = linear(x.reshape(B * T, D), p["qkv.weight"], p.get("qkv.bias"), ws)
        heads[...] = heads_of(qkv, B, 3, n_heads)
    if past is not None:
        k, v = past.extend(k, v)
    joined = ws.empty((B * T, D), x.dtype)
    _, attention_cache = attention(q, k, v, causal, ws, out=heads_of(joined, B, 1, n_heads)[0])
    y, out_cache = linear(joined, p["out.weight"], p.get("out.bias"), ws)
    return y.reshape(B, T, D), (qkv_cache, attention_cache, out_cache, n_heads)


def multi_head_attention_backward(dy: Array, cache: Cache, g: Named, ws: Fresh = FRESH) -> Array:
    """The same path backwards: returns dx, writes the gradients of the parameters into g."""
    qkv_cache, attention_cache, out_cache, n_heads = cache
    B, T, D = dy.shape
    # `*_`: the gradients of weight and bias, which already stand in g
    djoined, *_ = linear_backward(dy.reshape(B * T, D), out_cache, ws, (g["out.weight"], g.get("out.bias")))
    dqkv = ws.empty((B * T, 3 * D), dy.dtype)
    attention_backward(heads_of(djoined, B, 1, n_heads)[0], attention_cache, ws, out=tuple(heads_of(dqkv, B, 3, n_heads)))
    dx, *_ = linear_backward(dqkv, qkv_cache, ws, (g["qkv.weight"], g.get("qkv.bias")))
    return dx.reshape(B, T, D)
