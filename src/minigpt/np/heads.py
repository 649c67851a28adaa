"""Multi-head attention: project to queries, keys and values, attend in each head, project back.

Shapes: B batch, T time, D d_model, K heads of keys and values, G heads of queries that share one of them (H = K G in all), d the
width of a head. Derived in docs/derivations.md#heads.
"""

from minigpt.np.attention import attention, attention_backward
from minigpt.np.config import ModelConfig
from minigpt.np.norms import norm, norm_backward
from minigpt.np.ops import Cache, linear, linear_backward
from minigpt.np.parameters import Named
from minigpt.np.past import Past
from minigpt.np.positions import Angles, rope, rope_backward
from minigpt.np.workspace import FRESH, Array, Fresh


def heads_of(x: Array, B: int, K: int, G: int) -> Array:
    """(B * T, K * G * d) -> (B, K, G, T, d): another view of the same memory, which can be written through."""
    return x.reshape(B, -1, K, G, x.shape[1] // (K * G)).transpose(0, 2, 3, 1, 4)


def queries_keys_values(x: Array, B: int, config: ModelConfig) -> tuple[Array, Array, Array]:
    """(B * T, (H + 2 K) d) -> views: queries (B, K, G, T, d), keys and values (B, K, 1, T, d)."""
    K, G, d = config.n_kv_heads, config.heads_per_kv, config.d_head
    q, k = K * G * d, (K * G + K) * d
    return heads_of(x[:, :q], B, K, G), heads_of(x[:, q:k], B, K, 1), heads_of(x[:, k:], B, K, 1)


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
    K, G, d = config.n_kv_heads, config.heads_per_kv, config.d_head
    rows, attention_cache = x.reshape(B * T, D), None
    q, k, v = heads = [ws.empty((B, K, n, T, d), x.dtype) for n in (G, 1, 1)]  # laid out by head, for many small products
    with ws.scratch():
        qkv, qkv_cache = linear(rows, p["qkv.weight"], p.get("qkv.bias"), ws)
        for to, view in zip(heads, queries_keys_values(qkv, B, config), strict=True):
            to[...] = view
    q, q_cache = prepare(q, p, "q_norm.", config, angles, ws)
    k, k_cache = prepare(k, p, "k_norm.", config, angles, ws)
    if past is not None:
        past.extend(layer, k, v)
    if past is not None and T == 1:
        joined = past.attend(layer, q).reshape(B, K * G * d)
    else:
        joined = ws.empty((B * T, K * G * d), x.dtype)
        k, v = (k, v) if past is None else past.so_far(layer)
        _, attention_cache = attention(q, k, v, causal, ws, out=heads_of(joined, B, K, G))
    y, out_cache = linear(joined, p["out.weight"], p.get("out.bias"), ws)
    return y.reshape(B, T, D), (qkv_cache, q_cache, k_cache, attention_cache, out_cache, config)


def multi_head_attention_backward(dy: Array, cache: Cache, g: Named, ws: Fresh = FRESH) -> Array:
    """The same path backwards: returns dx, writes the gradients of the parameters into g."""
    qkv_cache, q_cache, k_cache, attention_cache, out_cache, config = cache
    B, T, D = dy.shape
    K, G, d = config.n_kv_heads, config.heads_per_kv, config.d_head
    # `*_`: the gradients of weight and bias, which already stand in g
    djoined, *_ = linear_backward(dy.reshape(B * T, D), out_cache, ws, (g["out.weight"], g.get("out.bias")))
    dqkv = ws.empty((B * T, (K * G + 2 * K) * d), dy.dtype)
    to_q, to_k, to_v = queries_keys_values(dqkv, B, config)
    prepared = q_cache != (None, None)  # else attention may write where the projection reads
    outs = (None, None, to_v) if prepared else (to_q, to_k, to_v)
    dq, dk, _ = attention_backward(heads_of(djoined, B, K, G), attention_cache, ws, outs)
    if prepared:
        prepare_backward(dq, q_cache, g, ws, to_q)
        prepare_backward(dk, k_cache, g, ws, to_k)
    dx, *_ = linear_backward(dqkv, qkv_cache, ws, (g["qkv.weight"], g.get("qkv.bias")))
    return dx.reshape(B, T, D)


def prepare(
    x: Array, p: Named, norm_prefix: str, config: ModelConfig, angles: Angles | None, ws: Fresh = FRESH
) -> tuple[Array, Cache]:
    """Queries or keys as they meet: normed (qk_norm) and turned (rope), if at all.  x (B, K, G, T, d) -> y as x."""
    norm_cache = rope_cache = None
    if config.qk_norm:
        x, norm_cache = norm(x, p, norm_prefix, config, ws)
    if angles is not None:
        x, rope_cache = rope(x, *angles, config.rope_pairing, ws)
    return x, (norm_cache, rope_cache)


def prepare_backward(dy: Array, cache: Cache, g: Named, ws: Fresh, out: Array) -> None:
    """Writes dx into `out`, and the gradients of the norm into g."""
    norm_cache, rope_cache = cache
    if rope_cache is not None:
        dy = rope_backward(dy, rope_cache, ws, out if norm_cache is None else None)
    if norm_cache is not None:
        out[...] = norm_backward(dy, norm_cache, g, ws)
