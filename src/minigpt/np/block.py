"""A transformer block: attention, then a feed-forward network, each a branch beside the residual stream.

These functions take their parameters by name, `p`; their backwards write gradients under the same names into `g`.
`p.under("attention.")` are the parameters whose names begin so. Derived in docs/derivations.md#feed-forward and #residual.
"""

from collections.abc import Callable

import numpy as np

from minigpt.np.attention import KeyValues, multi_head_attention, multi_head_attention_backward
from minigpt.np.config import ModelConfig
from minigpt.np.ops import (
    NO_DROPOUT,
    Cache,
    Dropout,
    dropout,
    dropout_backward,
    gelu,
    gelu_backward,
    layer_norm,
    layer_norm_backward,
    linear,
    linear_backward,
    relu,
    relu_backward,
)
from minigpt.np.parameters import Named, Parameters
from minigpt.np.workspace import FRESH, Array, Fresh

ACTIVATIONS = {"gelu": (gelu, gelu_backward), "relu": (relu, relu_backward)}


def norm(x: Array, p: Named, epsilon: float, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """Layer norm of the last axis.  x (B, T, D) -> y (B, T, D).  Parameters: gamma (D,), beta (D,)."""
    y, cache = layer_norm(x.reshape(-1, x.shape[-1]), p["gamma"], p["beta"], ws, epsilon)
    return y.reshape(x.shape), cache


def norm_backward(dy: Array, cache: Cache, g: Named, ws: Fresh = FRESH) -> Array:
    """Returns dx, writes dgamma and dbeta."""
    dx, *_ = layer_norm_backward(dy.reshape(-1, dy.shape[-1]), cache, ws, (g["gamma"], g["beta"]))
    return dx.reshape(dy.shape)


def feed_forward(x: Array, p: Named, activation: str, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """y = activation(x W_up + b_up) W_down + b_down, each token for itself.  x (B, T, D) -> y (B, T, D).

    Parameters: up.weight (D, F), up.bias (F,), down.weight (F, D), down.bias (D,); the biases may be missing.
    """
    act, _ = ACTIVATIONS[activation]
    hidden, up_cache = linear(x.reshape(-1, x.shape[-1]), p["up.weight"], p.get("up.bias"), ws)  # (N, F)
    active, act_cache = act(hidden, ws, keep_x=False)
    y, down_cache = linear(active, p["down.weight"], p.get("down.bias"), ws)
    return y.reshape(x.shape), (up_cache, act_cache, down_cache, activation)


def feed_forward_backward(dy: Array, cache: Cache, g: Named, ws: Fresh = FRESH) -> Array:
    """dx = ((dy W_down^T) * activation'(hidden)) W_up^T; writes the gradients of the parameters into g."""
    up_cache, act_cache, down_cache, activation = cache
    _, act_backward = ACTIVATIONS[activation]
    rows = dy.reshape(-1, dy.shape[-1])
    dactive, *_ = linear_backward(rows, down_cache, ws, (g["down.weight"], g.get("down.bias")))
    dhidden = act_backward(dactive, act_cache, ws, out=dactive)
    dx, *_ = linear_backward(dhidden, up_cache, ws, (g["up.weight"], g.get("up.bias")))
    return dx.reshape(dy.shape)


def residual(
    x: Array,
    branch: Callable[[Array], tuple[Array, Cache]],
    norm_p: Named,
    config: ModelConfig,
    ws: Fresh = FRESH,
    drop_mask: Array | None = None,
) -> tuple[Array, Cache]:
    """pre:  y = x + branch(norm(x));    post:  y = norm(x + branch(x)).    x (B, T, D) -> y (B, T, D)."""
    pre = config.norm_placement == "pre"
    h, norm_cache = norm(x, norm_p, config.norm_epsilon, ws) if pre else (x, None)
    y, branch_cache = branch(h)
    y, mask_cache = dropout(y, drop_mask)
    y += x  # y is the branch's own result and in nobody's cache, so it may change
    if not pre:
        y, norm_cache = norm(y, norm_p, config.norm_epsilon, ws)
    return y, (norm_cache, branch_cache, mask_cache, pre)


def residual_backward(
    dy: Array,
    cache: Cache,
    branch_backward: Callable[[Array, Cache], Array],
    norm_g: Named,
    ws: Fresh = FRESH,
    out: Array | None = None,
) -> Array:
    """pre:  dx = dy + norm_backward(branch_backward(dy));    post:  ds = norm_backward(dy),  dx = ds + branch_backward(ds)."""
    norm_cache, branch_cache, mask_cache, pre = cache
    if not pre:
        dy = norm_backward(dy, norm_cache, norm_g, ws)
    dx = branch_backward(dropout_backward(dy, mask_cache, ws), branch_cache)
    if pre:
        dx = norm_backward(dx, norm_cache, norm_g, ws)
    return np.add(dx, dy, out=dx if out is None else out)


def block(
    x: Array,
    p: Parameters,
    config: ModelConfig,
    causal: bool = True,
    ws: Fresh = FRESH,
    drop: Dropout = NO_DROPOUT,
    layer: int = 0,
    past: KeyValues | None = None,
) -> tuple[Array, Cache]:
    """Tokens look at each other (attention), then each thinks for itself (feed-forward).  x (B, T, D) -> y (B, T, D)."""
    x, attention_cache = residual(
        x,
        lambda h: multi_head_attention(h, p.under("attention."), config.n_heads, causal, ws, past),
        p.under("attention_norm."),
        config,
        ws,
        drop.mask(2 * layer + 1, x.shape, x.dtype, ws),
    )
    y, feed_forward_cache = residual(
        x,
        lambda h: feed_forward(h, p.under("feed_forward."), config.activation, ws),
        p.under("feed_forward_norm."),
        config,
        ws,
        drop.mask(2 * layer + 2, x.shape, x.dtype, ws),
    )
    return y, (attention_cache, feed_forward_cache)


def block_backward(dy: Array, cache: Cache, g: Parameters, ws: Fresh = FRESH, out: Array | None = None) -> Array:
    """The block backwards: returns dx (in `out`, which may be dy), writes the gradients of its parameters into g."""
    attention_cache, feed_forward_cache = cache
    dx = residual_backward(
        dy,
        feed_forward_cache,
        lambda d, c: feed_forward_backward(d, c, g.under("feed_forward."), ws),
        g.under("feed_forward_norm."),
        ws,
    )
    return residual_backward(
        dx,
        attention_cache,
        lambda d, c: multi_head_attention_backward(d, c, g.under("attention."), ws),
        g.under("attention_norm."),
        ws,
        out,
    )
