"""Scaled dot-product attention with a causal mask (docs/derivations.md#attention).

The computation takes four lines:

    scores = q @ k.mT / sqrt(d)                    (..., T, S): the score of each key for each query
    scores += causal_mask                          -inf where the key comes after the query
    weights = exp(scores) / sum(exp(scores))       softmax of each row
    y = weights @ v                                (..., T, d)

Shapes: T queries, S keys (S = T in training), d columns, after any leading dimensions (heads, sequences). If several query heads
share a key and value head, k and v have a leading dimension of 1, which broadcasts as in NumPy.

The T x S matrix is never stored. The queries are processed in blocks; a causal block reads only the keys up to its own end, and
the backward pass recomputes the weights of a block. Memory is thus linear in T. Most of the time is spent in passes over these
T x S elements, so everything except `exp`, the mask and one product is applied to arrays with d columns instead of S: the keys
are scaled by 1 / sqrt(d), and y and dy are divided by the sum of each row.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.ops import Cache, row_sum, softmax_backward
from minigpt.np.watch import NO_WATCH, Watch
from minigpt.np.workspace import DEFAULT_WORKSPACE, Array, Workspace

QUERY_BLOCK = 64  # number of queries in a block
BLOCK_ELEMENTS = 1 << 17  # number of attention weights in a block: as many heads are processed together as fit in the cache
ROW_PADDING = 16  # unused columns of transposed keys and values: rows a power of two apart would compete for the same cache lines
SAFE_SCORE = 30.0  # exp of scores of at most this absolute value neither overflows nor underflows in float32, nor do sums of it

HeadIndex = tuple[slice, ...]
"An index of the leading dimensions that selects a group of heads."


def query_blocks(q: Array, k: Array, causal: bool, whole: bool = False) -> Iterator[tuple[HeadIndex, slice, int]]:
    """Yield (heads, rows, end): a group of heads, a block of their queries, and the number of keys that these queries attend to.

    The last query is aligned with the last key. The last block comes first, because it attends to every key, causal or not. If
    `whole` is true, there is only one block.
    """
    *leading, T, _ = q.shape
    S = k.shape[-2]
    if whole:
        yield tuple(slice(None) for _ in leading), slice(0, T), S
        return
    for start in reversed(range(0, T, QUERY_BLOCK)):
        rows = slice(start, min(start + QUERY_BLOCK, T))
        end = rows.stop + S - T if causal else S
        for heads in head_groups(tuple(leading), BLOCK_ELEMENTS // (QUERY_BLOCK * end)):
            yield heads, rows, end


def head_groups(leading: tuple[int, ...], size: int) -> Iterator[HeadIndex]:
    """Divide the leading dimensions into groups of at most `size` heads, but at least one head.

    >>> list(head_groups((2, 4), size=2)) == [(slice(b, b + 1), slice(h, h + 2)) for b in (0, 1) for h in (0, 2)]
    True
    """
    if not leading:
        yield ()
        return
    step = max(1, size // math.prod(leading[1:]))
    for start in range(0, leading[0], step):
        for inner in head_groups(leading[1:], size):
            yield (slice(start, start + step), *inner)


@lru_cache(maxsize=QUERY_BLOCK)
def causal_mask(n: int, dtype: DTypeLike) -> Array:
    """Return the mask of n queries and the last n keys, (n, n): -inf where the key comes after the query, otherwise 0."""
    return np.triu(np.full((n, n), -np.inf, dtype), k=1)


def scaled_transpose(x: Array, scale: float, out: Array) -> Array:
    """out = scale * x.mT.  x (..., T, d) -> out (..., d, T)."""
    np.multiply(x, scale, out=out.mT)  # this order reads x contiguously, which is faster
    return out


def needs_shift(q: Array, k: Array, causal: bool) -> Array:
    """Return whether exp of a query's scores could overflow, or all of them underflow, without a shift: (..., T, 1) bool.

    The absolute value of a score is at most |q| |k| / sqrt(d). Only keys that the query attends to are considered, so that
    later tokens cannot affect earlier ones, not even by rounding.
    """
    squared_norms = np.vecdot(k, k)  # (..., S)
    T, S, d = q.shape[-2], k.shape[-2], q.shape[-1]
    largest = np.maximum.accumulate(squared_norms, axis=-1)[..., S - T :] if causal else squared_norms.max(-1, keepdims=True)
    return (np.vecdot(q, q) * largest > d * SAFE_SCORE**2)[..., None]


def attention(
    q: Array,
    k: Array,
    v: Array,
    causal: bool = True,
    ws: Workspace = DEFAULT_WORKSPACE,
    out: Array | None = None,
    watch: Watch = NO_WATCH,
) -> tuple[Array, Cache]:
    """y = softmax(q k^T / sqrt(d) + causal_mask) v.  q and y (..., T, d), k and v (..., S, d).

    In training S = T. In generation the T queries belong to the newest tokens, and the S >= T keys to all tokens so far.

    Subtracting the same number, the shift, from a row does not change its softmax. The shift is the maximum of the row if exp
    could otherwise overflow, and 0 if not. If the scores and weights are watched, all rows are in one block and have a shift.
    """
    *leading, T, d = q.shape
    S = k.shape[-2]
    y = ws.empty(q.shape, q.dtype) if out is None else out
    total, shift = ws.empty((*leading, T, 1), q.dtype), None
    transposed_keys = scaled_transpose(k, 1 / math.sqrt(d), ws.empty((*k.shape[:-2], d, S + ROW_PADDING), q.dtype)[..., :S])
    shifted = needs_shift(q, k, causal)
    if watch.active:
        shifted[...] = True  # a patch of the scores can make them large
    cache = q, k, v, transposed_keys
    transposed_keys, v = broadcast_heads(transposed_keys, leading), broadcast_heads(v, leading)
    if shifted.any():
        shift = ws.zeros(total.shape, q.dtype)
    for heads, rows, end in query_blocks(q, k, causal, whole=watch.active):
        with ws.scratch():
            exps = block_scores(q[*heads, rows], transposed_keys[heads][..., :end], causal, ws, watch.value)  # (..., rows, end)
            if shift is not None:
                shift[*heads, rows] = np.where(shifted[*heads, rows], exps.max(-1, keepdims=True), 0)
                exps -= shift[*heads, rows]
            np.exp(exps, out=exps)
            sums = row_sum(exps, out=total[*heads, rows])
            if watch.active:
                exps /= sums
                watch.value("weights", exps)
                exps *= sums
            product = np.matmul(exps, v[heads][..., :end, :], out=ws.empty((*exps.shape[:-1], d), q.dtype))
            np.divide(product, sums, out=y[*heads, rows])
    return y, (*cache, shift, y, total, causal)


def attention_backward(
    dy: Array,
    cache: Cache,
    ws: Workspace = DEFAULT_WORKSPACE,
    out: tuple[Array | None, ...] = (None, None, None),
    watch: Watch = NO_WATCH,
) -> tuple[Array, Array, Array]:
    """Return dq, dk and dv. With P the attention weights, and dZ the gradient of the scores:

    dP = dy v^T,  dZ = P * (dP - sum(y * dy)),  dq = dZ k / sqrt(d),  dk = dZ^T q / sqrt(d),  dv = P^T dy.

    sum(y * dy) equals the sum(P * dP) of softmax_backward, but has d terms instead of S. Since P = exps / total, dy is divided
    by the total, which takes less time than dividing every block of exps.
    """
    q, k, v, transposed_keys, shift, y, total, causal = cache
    *leading, T, d = dy.shape
    S, scale = k.shape[-2], 1 / math.sqrt(d)
    dq, dk, dv = (
        ws.empty((*leading, n, d), dy.dtype) if array is None or array.shape[:-2] != dy.shape[:-2] else array
        for n, array in zip((T, S, S), out, strict=True)
    )
    left, right = score_gradient_factors(dy, y, total, v, scale, ws)
    dy_by_total = left[..., :d]
    keys, transposed_keys, right = (broadcast_heads(x, leading) for x in (k, transposed_keys, right))
    for heads, rows, end in query_blocks(q, k, causal, whole=watch.active):
        with ws.scratch():
            exps = block_scores(q[*heads, rows], transposed_keys[heads][..., :end], causal, ws, watch.recall)
            if shift is not None:
                exps -= shift[*heads, rows]
            np.exp(exps, out=exps)  # P * total
            dz = np.matmul(left[*heads, rows], right[heads][..., :end], out=ws.empty(exps.shape, dy.dtype))
            dz *= exps  # dZ / sqrt(d)
            if watch.active:
                watched_backward(dy, v, exps, total, dz, scale, watch)
            np.matmul(dz, keys[heads][..., :end, :], out=dq[*heads, rows])
            first = rows.stop == T
            accumulate_product(exps.mT, dy_by_total[*heads, rows], dv[heads][..., :end, :], first, ws)
            accumulate_product(dz.mT, q[*heads, rows], dk[heads][..., :end, :], first, ws)
    return dq, sum_shared_heads(dk, k.shape, out[1], ws), sum_shared_heads(dv, v.shape, out[2], ws)


def score_gradient_factors(dy: Array, y: Array, total: Array, v: Array, scale: float, ws: Workspace) -> tuple[Array, Array]:
    """Return the factors of left @ right = scale * dZ / exps = scale * (dy v^T - sum(y * dy)) / total.

    left = [dy, -sum(y * dy)] / total is (..., T, d + 1) and right = scale * [v, 1]^T is (..., d + 1, S). The extra column makes
    the subtraction a part of the matrix product, which saves a pass over T x S elements.
    """
    d, S = dy.shape[-1], v.shape[-2]
    left = ws.empty((*dy.shape[:-1], d + 1), dy.dtype)
    right = ws.empty((*v.shape[:-2], d + 1, S + ROW_PADDING), dy.dtype)[..., :S]
    dy_by_total = np.divide(dy, total, out=left[..., :d])
    np.negative(np.vecdot(y, dy_by_total), out=left[..., d])
    scaled_transpose(v, scale, right[..., :d, :])
    right[..., d, :] = scale
    return left, right


def watched_backward(dy: Array, v: Array, exps: Array, total: Array, dz: Array, scale: float, watch: Watch) -> None:
    """Report the gradients of the weights and of the scores. Computes exps and dz again, which a patch of the weights changes."""
    weights, dweights = exps / total, np.matmul(dy, v.mT, out=np.empty_like(exps))
    watch.grad("weights", dweights)
    dz[...] = softmax_backward(dweights, weights)
    watch.grad("scores", dz)
    dz *= scale
    watch.recall("weights", weights)
    np.multiply(weights, total, out=exps)


def accumulate_product(left: Array, right: Array, out: Array, first: bool, ws: Workspace) -> None:
    """out = left @ right for the first block of queries, which attends to every key, and out += left @ right for the others."""
    if first:
        np.matmul(left, right, out=out)
    else:
        out += np.matmul(left, right, out=ws.empty(out.shape, out.dtype))


def broadcast_heads(x: Array, leading: list[int]) -> Array:
    """Return a view of x that repeats shared heads, with the given leading dimensions."""
    return np.broadcast_to(x, (*leading, *x.shape[-2:]))


def sum_shared_heads(dx: Array, shape: tuple[int, ...], out: Array | None, ws: Workspace) -> Array:
    """The backward pass of `broadcast_heads`: sum dx over the heads that share an array of the given shape."""
    axes = tuple(i for i, n in enumerate(shape) if n != dx.shape[i])
    return np.sum(dx, axis=axes, keepdims=True, out=ws.empty(shape, dx.dtype) if out is None else out) if axes else dx


def block_scores(
    q: Array, transposed_keys: Array, causal: bool, ws: Workspace, observe: Callable[[str, Array], None] = NO_WATCH.value
) -> Array:
    """Return q k^T / sqrt(d) + causal_mask for a block of queries and the keys up to its end: (..., rows, end).

    `observe` is called with the scores before they are masked.
    """
    scores = np.matmul(q, transposed_keys, out=ws.empty((*q.shape[:-1], transposed_keys.shape[-1]), q.dtype))
    observe("scores", scores)
    if causal:
        n = scores.shape[-2]  # the last query is aligned with the last key
        scores[..., -n:] += causal_mask(n, scores.dtype)
    return scores
