"""Multi-head attention: project to queries, keys and values, attend in each head, and project back.

Shapes: B sequences, T tokens, D d_model, d head width, H query heads and K key/value heads, each of which is shared by a group of
G query heads (H = K G). Heads are the first dimension, so that the queries, the keys and the values are contiguous arrays with a
matrix (T, d) for each head and sequence. The backward pass is derived in docs/derivations.md#heads.
"""

from minigpt.np.attention import attention, attention_backward
from minigpt.np.context import Context
from minigpt.np.norms import norm, norm_backward
from minigpt.np.ops import Cache, linear, linear_backward
from minigpt.np.parameters import NamedArrays
from minigpt.np.positions import rope, rope_backward
from minigpt.np.workspace import Array


def split_heads(x: Array, B: int, d: int) -> Array:
    """Return x (B * T, n * d) as a view (n, B, T, d) of the same memory."""
    return x.reshape(B, -1, x.shape[1] // d, d).transpose(2, 0, 1, 3)


def group_queries(q: Array, K: int) -> Array:
    """Group the query heads that share a key head: (H, B, T, d) -> (K, G, B, T, d), a view."""
    return q.reshape(K, -1, *q.shape[1:])


def multi_head_attention(x: Array, p: NamedArrays, ctx: Context) -> tuple[Array, Cache]:
    """y = attention(q, k, v) W_out + b_out, with q, k and v the columns of x W_qkv + b_qkv.  x (B, T, D) -> y (B, T, D).

    The parameters are qkv.weight (D, (H + 2 K) d), qkv.bias, out.weight (H d, D), out.bias (D,), and with qk_norm also
    q_norm.gamma (d,), k_norm.gamma (d,) and their beta. The biases are optional. The columns of qkv are all queries, then all
    keys, then all values, each ordered by head. The context's `rope` rotates queries and keys; its `kv_cache` holds the keys and
    values of earlier tokens, and stores those of x.
    """
    config, ws, kv_cache, watch = ctx.config, ctx.ws, ctx.kv_cache, ctx.watch.with_prefix("attention.")
    B, T, D = x.shape
    H, K, d = config.n_heads, config.n_kv_heads, config.d_head
    heads, attention_cache = ws.empty((H + 2 * K, B, T, d), x.dtype), None
    with ws.scratch():
        qkv, qkv_cache = linear(x.reshape(B * T, D), p["qkv.weight"], p.get("qkv.bias"), ws)
        heads[...] = split_heads(qkv, B, d)  # copied, so that the matrices of the small products in attention are contiguous
    for name, part in zip(("queries", "keys", "values"), (heads[:H], heads[H : H + K], heads[H + K :]), strict=True):
        watch.value(name, part)
    qk, qk_cache = normalize_and_rotate(heads[: H + K], p, ctx)
    q, k, v = group_queries(qk[:H], K), qk[H:], heads[H + K :]
    if kv_cache is not None:
        kv_cache.append(ctx.layer, k, v)
    merged = ws.empty((B * T, H * d), x.dtype)
    y_heads = group_queries(split_heads(merged, B, d), K)
    if kv_cache is not None and T == 1:
        kv_cache.attend(ctx.layer, q, out=y_heads)
    else:
        k, v = (k, v) if kv_cache is None else kv_cache.keys_and_values(ctx.layer)
        _, attention_cache = attention(q, k[:, None], v[:, None], ctx.causal, ws, out=y_heads, watch=watch)
    watch.value("heads", split_heads(merged, B, d))
    y, out_cache = linear(merged, p["out.weight"], p.get("out.bias"), ws)
    return y.reshape(B, T, D), (qkv_cache, qk_cache, attention_cache, out_cache)


def multi_head_attention_backward(dy: Array, cache: Cache, g: NamedArrays, ctx: Context) -> Array:
    """Return dx, and write the gradients of the parameters to g."""
    qkv_cache, qk_cache, attention_cache, out_cache = cache
    config, ws, watch = ctx.config, ctx.ws, ctx.watch.with_prefix("attention.")
    B, T, D = dy.shape
    H, K, d = config.n_heads, config.n_kv_heads, config.d_head
    # `*_` are the gradients of the weight and the bias, which were written to g
    dmerged, *_ = linear_backward(dy.reshape(B * T, D), out_cache, ws, (g["out.weight"], g.get("out.bias")))
    watch.grad("heads", split_heads(dmerged, B, d))
    dqkv = ws.empty((B * T, (H + 2 * K) * d), dy.dtype)
    dheads = split_heads(dqkv, B, d)
    with ws.scratch():
        transforms_qk = any(qk_cache)  # if not, attention writes the gradients directly to the input of linear_backward
        dqk = ws.empty((H + K, B, T, d), dy.dtype) if transforms_qk else dheads[: H + K]
        outs = (group_queries(dqk[:H], K), dqk[H:, None], dheads[H + K :, None])
        attention_backward(group_queries(split_heads(dmerged, B, d), K), attention_cache, ws, outs, watch)
        if transforms_qk:
            normalize_and_rotate_backward(dqk, qk_cache, g, ctx, out=dheads[: H + K])
    for name, part in zip(("queries", "keys", "values"), (dheads[:H], dheads[H : H + K], dheads[H + K :]), strict=True):
        watch.grad(name, part)
    dx, *_ = linear_backward(dqkv, qkv_cache, ws, (g["qkv.weight"], g.get("qkv.bias")))
    return dx.reshape(B, T, D)


def normalize_and_rotate(qk: Array, p: NamedArrays, ctx: Context) -> tuple[Array, Cache]:
    """Normalize queries and keys (qk_norm), then rotate them (rope), if configured.  qk (H + K, B, T, d) -> same shape."""
    H, norm_caches, rope_cache, watch = ctx.config.n_heads, None, None, ctx.watch.with_prefix("attention.")
    if ctx.config.qk_norm:
        raw, qk = qk, ctx.ws.empty(qk.shape, qk.dtype)
        qk[:H], q_cache = norm(raw[:H], p, "q_norm.", ctx)
        qk[H:], k_cache = norm(raw[H:], p, "k_norm.", ctx)
        norm_caches = q_cache, k_cache
        watch.value("q_norm", qk[:H])
        watch.value("k_norm", qk[H:])
    if ctx.rope is not None:
        qk, rope_cache = rope(qk, *ctx.rope, ctx.config.rope_pairing, ctx.ws)
        watch.value("rotated_queries", qk[:H])
        watch.value("rotated_keys", qk[H:])
    return qk, (norm_caches, rope_cache)


def normalize_and_rotate_backward(dy: Array, cache: Cache, g: NamedArrays, ctx: Context, out: Array) -> None:
    """Write the gradient of qk to `out`, and the gradients of the norms to g."""
    H, (norm_caches, rope_cache), watch = ctx.config.n_heads, cache, ctx.watch.with_prefix("attention.")
    if rope_cache is not None:
        watch.grad("rotated_queries", dy[:H])
        watch.grad("rotated_keys", dy[H:])
        dy = rope_backward(dy, rope_cache, ctx.ws, out if norm_caches is None else None)
    if norm_caches is not None:
        watch.grad("q_norm", dy[:H])
        watch.grad("k_norm", dy[H:])
        out[:H] = norm_backward(dy[:H], norm_caches[0], g, "q_norm.", ctx)
        out[H:] = norm_backward(dy[H:], norm_caches[1], g, "k_norm.", ctx)
