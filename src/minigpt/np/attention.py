"""Attention: which earlier tokens should this one listen to?

What is computed fits in four lines (docs/derivations.md derives its backward):

    scores = q @ k.mT / sqrt(d)                   (..., T, S): how well each query likes each key
    scores[..., future] = -inf                    causal: no query sees a later key
    P = exp(scores) / sum(exp(scores))            softmax, row by row
    y = P @ v                                     (..., T, d)

How it is computed. The T x S matrix is never held as a whole: queries come in blocks, a causal block looks only at the keys up to
its own end, and the backward pass computes the weights of a block again, so that memory grows with T. And since such a matrix is
what attention spends its time on, all but `exp`, a mask and one product moves to where there are d numbers a row in place of S,
or into the matrix products as an extra column (see `extended`): the sums of the rows, and what is to be subtracted from them.

Shapes: B batch, T queries, S keys (S = T in training), D d_model, H heads, d = D / H. `attention` takes any leading dimensions.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.ops import Cache, linear, linear_backward
from minigpt.np.parameters import Named
from minigpt.np.workspace import FRESH, Array, Fresh

QUERY_BLOCK = 64  # queries handled together: their weights for all keys stay in cache
SAFE_SCORE = 30.0  # in float32, exp of scores up to this size neither overflows nor vanishes, nor do their sums and quotients


def query_blocks(q: Array, k: Array, causal: bool) -> Iterator[tuple[slice, int]]:
    """(rows, end): the queries of a block, and how many keys they look at. The last query stands at the last key."""
    T, S = q.shape[-2], k.shape[-2]
    for start in range(0, T, QUERY_BLOCK):
        rows = slice(start, min(start + QUERY_BLOCK, T))
        yield rows, (rows.stop + S - T if causal else S)


def mask_future(scores: Array) -> None:
    """scores[..., i, j] = -inf where key j lies after query i; the last query stands at the last key.  In place."""
    n = scores.shape[-2]  # the future of n queries is a triangle in the last n columns
    np.copyto(scores[..., -n:], -np.inf, where=future(n))


@cache
def future(n: int) -> Array:
    """Which of n keys lie after which of n queries: (n, n)."""
    return np.triu(np.ones((n, n), np.bool_), k=1)


def extended(x: Array, column: Array | float, ws: Fresh, transposed: bool = False) -> Array:
    """[x, column]: (..., T, d) -> (..., T, d + 1), or the same laid out as (..., d + 1, T).

    What an extra column is good for: [a, c] [b, 1]^T = a b^T + c adds a number c to each row of a product, for nothing, and
    E [v, 1] = [E v, sums of E's rows].
    """
    *leading, T, d = x.shape
    wide = ws.empty((*leading, d + 1, T), x.dtype).mT if transposed else ws.empty((*leading, T, d + 1), x.dtype)
    wide[..., :d] = x
    wide[..., d:] = column
    return wide


def needs_shift(queries: Array, k: Array, causal: bool) -> Array:
    """Whether exp of a query's scores could overflow, or all of them vanish, were nothing subtracted first: (..., T, 1).

    A score is at most |query| |key|. Only keys that the query sees count, so that the future cannot change even a rounding.
    """
    key_sizes = np.sqrt(np.vecdot(k, k))  # (..., S)
    T, S = queries.shape[-2], k.shape[-2]
    largest = np.maximum.accumulate(key_sizes, axis=-1)[..., S - T :] if causal else key_sizes.max(-1, keepdims=True)
    return (np.sqrt(np.vecdot(queries, queries)) * largest > SAFE_SCORE)[..., None]


def attention(
    q: Array, k: Array, v: Array, causal: bool = True, ws: Fresh = FRESH, out: Array | None = None
) -> tuple[Array, Cache]:
    """y = softmax(q k^T / sqrt(d)) v, where with `causal` no query sees a later key.  q and y: (..., T, d), k and v: (..., S, d).

    In training S = T. In generation the T queries are the newest tokens, and S >= T keys are all tokens so far. Softmax does not
    change when a number, the `shift`, is subtracted from a whole row: the row's maximum where exp might overflow, else nothing.
    """
    d = q.shape[-1]
    y = ws.empty(q.shape, q.dtype) if out is None else out
    total = ws.empty((*q.shape[:-1], 1), q.dtype)
    queries, keys, values = extended(q, 0, ws), extended(k, 1, ws, transposed=True), extended(v, 1, ws)
    queries[..., :d] /= np.sqrt(d).astype(q.dtype)
    shifted = needs_shift(queries[..., :d], k, causal)
    for rows, end in query_blocks(q, k, causal):
        with ws.scratch():
            scores = block_scores(queries, keys, rows, end, causal, ws)  # (..., rows, end)
            if shifted[..., rows, :].any():
                shift = np.where(shifted[..., rows, :], scores.max(-1, keepdims=True), 0)
                scores -= shift
                queries[..., rows, d:] = -shift  # block_scores will subtract it by itself in the backward pass
            np.exp(scores, out=scores)
            sums = np.matmul(scores, values[..., :end, :], out=ws.empty((*scores.shape[:-1], d + 1), q.dtype))
            total[..., rows, :] = sums[..., d:]
            np.divide(sums[..., :d], sums[..., d:], out=y[..., rows, :])
    return y, (queries, keys, values, y, total, causal)


def attention_backward(
    dy: Array, cache: Cache, ws: Fresh = FRESH, out: tuple[Array | None, ...] = (None, None, None)
) -> tuple[Array, Array, Array]:
    """dv = P^T dy,  dq = dZ k / sqrt(d),  dk = dZ^T q / sqrt(d)  with  dZ = P * (dP - sum(y * dy)),  dP = dy v^T.

    P are the attention weights, dZ is the gradient of the scores. sum(y * dy) runs over the d columns, and is what
    softmax_backward calls sum(P * dP). With P = exp(scores) / total, the division by the total moves to dy.
    """
    queries, keys, values, y, total, causal = cache
    *leading, T, d = dy.shape
    S = keys.shape[-2]
    dq, dk, dv = (
        ws.empty((*leading, n, d), dy.dtype) if array is None else array for n, array in zip((T, S, S), out, strict=True)
    )
    # the gradients of keys and values add up over the blocks; as (d, S) they are the faster products, and are turned at the end
    dk_columns, dv_columns = ws.zeros((*leading, d, S), dy.dtype), ws.zeros((*leading, d, S), dy.dtype)
    plain_keys = ws.empty((*leading, S, d), dy.dtype)
    plain_keys[...] = keys[..., :d]
    value_columns = extended(values[..., :d], 1, ws, transposed=True)
    # scaled = [dy, -sum(y * dy)] / total, so that scaled [v, 1]^T = (dP - sum(y * dy)) / total
    scaled = extended(dy, 0, ws)
    scaled[..., :d] /= total
    scaled[..., d] = -np.vecdot(y, scaled[..., :d])
    for rows, end in query_blocks(queries, keys, causal):
        with ws.scratch():
            exps = block_scores(queries, keys, rows, end, causal, ws)
            np.exp(exps, out=exps)  # P * total
            dz = np.matmul(scaled[..., rows, :], value_columns[..., :end, :].mT, out=ws.empty(exps.shape, dy.dtype))
            dz *= exps
            part = ws.empty((*leading, d, end), dy.dtype)
            dv_columns[..., :end] += np.matmul(scaled[..., rows, :d].mT, exps, out=part)
            dk_columns[..., :end] += np.matmul(queries[..., rows, :d].mT, dz, out=part)
            np.matmul(dz, plain_keys[..., :end, :], out=dq[..., rows, :])
    dq /= np.sqrt(d).astype(dq.dtype)  # dk needs no division: the queries it was made with were divided
    dk[...], dv[...] = dk_columns.mT, dv_columns.mT
    return dq, dk, dv


def block_scores(queries: Array, keys: Array, rows: slice, end: int, causal: bool, ws: Fresh) -> Array:
    """[q / sqrt(d), -shift] [k, 1]^T for a block of queries and the first `end` keys, the future masked: (..., rows, end)."""
    block = queries[..., rows, :]
    scores = np.matmul(block, keys[..., :end, :].mT, out=ws.empty((*block.shape[:-1], end), block.dtype))
    if causal:
        mask_future(scores)
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


def heads_of(x: Array, B: int, n: int, H: int) -> Sequence[Array]:
    """(B * T, n * D) -> n arrays (B, H, T, d): other views of the same memory, which can be written through."""
    views = x.reshape(B, -1, n, H, x.shape[1] // (n * H)).transpose(2, 0, 3, 1, 4)
    return list(views)


def multi_head_attention(
    x: Array, p: Named, n_heads: int, causal: bool = True, ws: Fresh = FRESH, past: KeyValues | None = None
) -> tuple[Array, Cache]:
    """Project to queries, keys and values in one product, attend in each head, project back.

    x (B, T, D) -> y (B, T, D). Parameters: qkv.weight (D, 3 D), qkv.bias (3 D,), out.weight (D, D), out.bias (D,); the biases
    may be missing. The columns of qkv are all queries, all keys, all values; within each, head by head.
    `past` holds the keys and values of the tokens before x, and receives those of x.
    """
    B, T, D = x.shape
    qkv, qkv_cache = linear(x.reshape(B * T, D), p["qkv.weight"], p.get("qkv.bias"), ws)
    q, k, v = heads_of(qkv, B, 3, n_heads)
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
