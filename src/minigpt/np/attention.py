"""Attention: which earlier tokens should this one listen to?

The T x T matrix of attention weights is never held as a whole. Queries come in blocks; a causal block looks only at the keys up
to its own end, so the future is not masked out but never computed (but for the small triangle on the diagonal). The backward
pass computes the weights of a block again from the log-sum-exp that the forward pass left for each row: memory grows with T,
not with T squared.

Shapes: B batch, T time, D d_model, H heads, d = D / H width of a head. `attention` takes any leading dimensions.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.ops import Cache, linear, linear_backward, row_sum
from minigpt.np.parameters import Named
from minigpt.np.workspace import FRESH, Array, Fresh

QUERY_BLOCK = 64  # queries handled together: their weights for all keys stay in cache


def query_blocks(q: Array, k: Array, causal: bool) -> Iterator[tuple[slice, int]]:
    """(rows, end): the queries of a block, and how many keys they look at. The last query stands at the last key."""
    T, S = q.shape[-2], k.shape[-2]
    for start in range(0, T, QUERY_BLOCK):
        rows = slice(start, min(start + QUERY_BLOCK, T))
        yield rows, rows.stop + S - T if causal else S


def mask_future(scores: Array) -> None:
    """scores[..., i, j] = -inf where key j lies after query i; the last query stands at the last key.  In place."""
    n = scores.shape[-2]
    future = np.triu(np.ones((n, n), np.bool_), k=1)
    np.copyto(scores[..., -n:], -np.inf, where=future)


def attention(q: Array, k: Array, v: Array, causal: bool = True, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """y = softmax(q k^T / sqrt(d)) v, where with `causal` no query sees a later key.  q and y: (..., T, d), k and v: (..., S, d).

    In training S = T. In generation the T queries are the newest tokens, and S >= T keys are all tokens so far.
    """
    y = ws.empty(q.shape, q.dtype)
    log_sum_exp = ws.empty((*q.shape[:-1], 1), q.dtype)
    for rows, end in query_blocks(q, k, causal):
        with ws.scratch():
            weights = _scores(q, k, rows, end, causal, ws)  # (..., rows, end)
            largest = weights.max(-1, keepdims=True)
            weights -= largest
            np.exp(weights, out=weights)
            total = row_sum(weights)
            np.matmul(weights, v[..., :end, :], out=y[..., rows, :])
            y[..., rows, :] /= total  # d numbers a row to divide here, `end` numbers a row above
            log_sum_exp[..., rows, :] = np.log(total) + largest
    return y, (q, k, v, y, log_sum_exp, causal)


def attention_backward(dy: Array, cache: Cache, ws: Fresh = FRESH) -> tuple[Array, Array, Array]:
    """dv = P^T dy,  dq = dS k,  dk = dS^T q  with  dS = P * (dP - sum(y * dy)) / sqrt(d),  dP = dy v^T,  P the attention weights.

    The sum runs over a row; sum(y * dy) is what softmax_backward calls sum(P * dP), with d numbers to add in place of T.
    """
    q, k, v, y, log_sum_exp, causal = cache
    d = q.shape[-1]
    dq = ws.empty(q.shape, dy.dtype)
    dk, dv = ws.zeros(k.shape, dy.dtype), ws.zeros(v.shape, dy.dtype)
    along = np.vecdot(y, dy)[..., None]  # (..., T, 1)
    for rows, end in query_blocks(q, k, causal):
        with ws.scratch():
            weights = _scores(q, k, rows, end, causal, ws)
            weights -= log_sum_exp[..., rows, :]
            np.exp(weights, out=weights)
            dy_rows = dy[..., rows, :]
            dv[..., :end, :] += np.matmul(weights.mT, dy_rows, out=ws.empty(v[..., :end, :].shape, dy.dtype))
            dscores = np.matmul(dy_rows, v[..., :end, :].mT, out=ws.empty(weights.shape, dy.dtype))
            dscores -= along[..., rows, :]
            dscores *= weights
            np.matmul(dscores, k[..., :end, :], out=dq[..., rows, :])
            dk[..., :end, :] += np.matmul(dscores.mT, q[..., rows, :], out=ws.empty(k[..., :end, :].shape, dy.dtype))
    dq /= np.sqrt(d).astype(dq.dtype)
    dk /= np.sqrt(d).astype(dk.dtype)
    return dq, dk, dv


def _scores(q: Array, k: Array, rows: slice, end: int, causal: bool, ws: Fresh) -> Array:
    """q k^T / sqrt(d) for a block of queries and the first `end` keys, the future masked: (..., rows, end)."""
    queries = q[..., rows, :] / np.sqrt(q.shape[-1]).astype(q.dtype)
    scores = np.matmul(queries, k[..., :end, :].mT, out=ws.empty((*queries.shape[:-1], end), q.dtype))
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


def split_heads(x: Array, B: int, n: int, H: int, ws: Fresh = FRESH) -> Array:
    """(B * T, n * D) -> (n, B, H, T, d), contiguous: one copy, paid back by every product that follows."""
    d = x.shape[1] // (n * H)
    heads = ws.empty((n, B, H, len(x) // B, d), x.dtype)
    heads[...] = x.reshape(B, -1, n, H, d).transpose(2, 0, 3, 1, 4)
    return heads


def join_heads(heads: Sequence[Array], ws: Fresh = FRESH) -> Array:
    """n arrays (B, H, T, d) -> (B * T, n * D): what split_heads took apart."""
    B, H, T, d = heads[0].shape
    joined = ws.empty((B, T, len(heads), H, d), heads[0].dtype)
    for i, array in enumerate(heads):
        joined[:, :, i] = array.transpose(0, 2, 1, 3)
    return joined.reshape(B * T, len(heads) * H * d)


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
    q, k, v = split_heads(qkv, B, 3, n_heads, ws)
    if past is not None:
        k, v = past.extend(k, v)
    heads, attention_cache = attention(q, k, v, causal, ws)
    y, out_cache = linear(join_heads([heads], ws), p["out.weight"], p.get("out.bias"), ws)
    return y.reshape(B, T, D), (qkv_cache, attention_cache, out_cache, n_heads)


def multi_head_attention_backward(dy: Array, cache: Cache, g: Named, ws: Fresh = FRESH) -> Array:
    """The same path backwards: returns dx, writes the gradients of the parameters into g."""
    qkv_cache, attention_cache, out_cache, n_heads = cache
    B, T, D = dy.shape
    djoined, *_ = linear_backward(dy.reshape(B * T, D), out_cache, ws, (g["out.weight"], g.get("out.bias")))
    (dheads,) = split_heads(djoined, B, 1, n_heads, ws)
    dqkv = join_heads(attention_backward(dheads, attention_cache, ws), ws)
    dx, *_ = linear_backward(dqkv, qkv_cache, ws, (g["qkv.weight"], g.get("qkv.bias")))
    return dx.reshape(B, T, D)
