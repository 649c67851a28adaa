"""Multi-head attention: project to queries, keys and values, attend in each head, project back.

Shapes: B batch, T time, D d_model, K heads of keys and values, G heads of queries that share one of them (H = K G in all), d the
width of a head. Heads are the first dimension: all queries, all keys and all values are each one block of memory, with a matrix
(T, d) for each head and sequence. Derived in docs/derivations.md#heads.
"""

from minigpt.np.attention import attention, attention_backward
from minigpt.np.config import ModelConfig
from minigpt.np.norms import norm, norm_backward
from minigpt.np.ops import Cache, linear, linear_backward
from minigpt.np.parameters import Named
from minigpt.np.past import Past
from minigpt.np.positions import Angles, rope, rope_backward
from minigpt.np.workspace import FRESH, Array, Fresh


def heads_of(x: Array, B: int, d: int) -> Array:
    """(B * T, n * d) -> (n, B, T, d): another view of the same memory, which can be written through."""
    return x.reshape(B, -1, x.shape[1] // d, d).transpose(2, 0, 1, 3)


def grouped(q: Array, K: int) -> Array:
    """(H, B, T, d) -> (K, G, B, T, d): the heads that share keys and values stand together."""
    return q.reshape(K, -1, *q.shape[1:])


def multi_head_attention(
    x: Array,
    p: Named,
    config: ModelConfig,
    causal: bool = True,
    ws: Fresh = FRESH,
    angles: Angles | None = None,
    past: Past | None = None,
    layer: int = 0,
) -> tuple[Array, Cache]:
    """x (B, T, D) -> y (B, T, D).

    Parameters: qkv.weight (D, (H + 2 K) d), qkv.bias, out.weight (H d, D), out.bias (D,), and with qk_norm q_norm.gamma (d,),
    k_norm.gamma (d,) and their beta; the biases may be missing. The columns of qkv are all queries, all keys, all values; within
    each, head by head. `angles` turn queries and keys (rope). `past` holds the keys and values of the tokens before x in this
    layer, and receives those of x.
    """
    B, T, D = x.shape
    H, K, d = config.n_heads, config.n_kv_heads, config.d_head
    heads, attention_cache = ws.empty((H + 2 * K, B, T, d), x.dtype), None
    with ws.scratch():
        qkv, qkv_cache = linear(x.reshape(B * T, D), p["qkv.weight"], p.get("qkv.bias"), ws)
        heads[...] = heads_of(qkv, B, d)  # laid out by head, for many small products
    qk, prepare_cache = prepare(heads[: H + K], p, config, angles, ws)
    q, k, v = grouped(qk[:H], K), qk[H:], heads[H + K :]
    if past is not None:
        past.extend(layer, k, v)
    joined = ws.empty((B * T, H * d), x.dtype)
    to = grouped(heads_of(joined, B, d), K)
    if past is not None and T == 1:
        past.attend(layer, q, out=to)
    else:
        k, v = (k, v) if past is None else past.so_far(layer)
        _, attention_cache = attention(q, k[:, None], v[:, None], causal, ws, out=to)
    y, out_cache = linear(joined, p["out.weight"], p.get("out.bias"), ws)
    return y.reshape(B, T, D), (qkv_cache, prepare_cache, attention_cache, out_cache, config)


def multi_head_attention_backward(dy: Array, cache: Cache, g: Named, ws: Fresh = FRESH) -> Array:
    """The same path backwards: returns dx, writes the gradients of the parameters into g."""
    qkv_cache, prepare_cache, attention_cache, out_cache, config = cache
    B, T, D = dy.shape
    H, K, d = config.n_heads, config.n_kv_heads, config.d_head
    # `*_`: the gradients of weight and bias, which already stand in g
    djoined, *_ = linear_backward(dy.reshape(B * T, D), out_cache, ws, (g["out.weight"], g.get("out.bias")))
    dqkv = ws.empty((B * T, (H + 2 * K) * d), dy.dtype)
    dheads = heads_of(dqkv, B, d)
    with ws.scratch():
        prepared = any(prepare_cache)  # if not, attention can write its gradients where the projection reads them
        dqk = ws.empty((H + K, B, T, d), dy.dtype) if prepared else dheads[: H + K]
        outs = (grouped(dqk[:H], K), dqk[H:, None], dheads[H + K :, None])
        attention_backward(grouped(heads_of(djoined, B, d), K), attention_cache, ws, outs)
        if prepared:
            prepare_backward(dqk, prepare_cache, g, config, ws, out=dheads[: H + K])
    dx, *_ = linear_backward(dqkv, qkv_cache, ws, (g["qkv.weight"], g.get("qkv.bias")))
    return dx.reshape(B, T, D)


def prepare(qk: Array, p: Named, config: ModelConfig, angles: Angles | None, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """Queries and keys as they meet: normed (qk_norm) and turned (rope), if at all.  qk (H + K, B, T, d) -> as qk."""
    H, norm_caches, rope_cache = config.n_heads, None, None
    if config.qk_norm:
        before, qk = qk, ws.empty(qk.shape, qk.dtype)
        qk[:H], q_cache = norm(before[:H], p, "q_norm.", config, ws)
        qk[H:], k_cache = norm(before[H:], p, "k_norm.", config, ws)
        norm_caches = q_cache, k_cache
    if angles is not None:
        qk, rope_cache = rope(qk, *angles, config.rope_pairing, ws)
    return qk, (norm_caches, rope_cache)


def prepare_backward(dy: Array, cache: Cache, g: Named, config: ModelConfig, ws: Fresh, out: Array) -> None:
    """Writes the gradient of qk into `out`, and those of the norms into g."""
    H, (norm_caches, rope_cache) = config.n_heads, cache
    if rope_cache is not None:
        dy = rope_backward(dy, rope_cache, ws, out if norm_caches is None else None)
    if norm_caches is not None:
        out[:H] = norm_backward(dy[:H], norm_caches[0], g, ws)
        out[H:] = norm_backward(dy[H:], norm_caches[1], g, ws)
