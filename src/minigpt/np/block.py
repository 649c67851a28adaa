"""A transformer block: attention, then a feed-forward network, each a branch beside the residual stream.

These functions take their parameters by name, `p`; their backwards write gradients under the same names into `g`.
`p.under("attention.")` are the parameters whose names begin so. Derived in docs/derivations.md#feed-forward and #residual.
"""

from collections.abc import Callable

import numpy as np

from minigpt.np.activations import (
    gelu,
    gelu_backward,
    gelu_exact,
    gelu_exact_backward,
    relu,
    relu_backward,
    swiglu,
    swiglu_backward,
)
from minigpt.np.config import ModelConfig
from minigpt.np.heads import multi_head_attention, multi_head_attention_backward
from minigpt.np.norms import norm, norm_backward
from minigpt.np.ops import NO_DROPOUT, Cache, Dropout, dropout, dropout_backward, linear, linear_backward
from minigpt.np.parameters import Named, Parameters
from minigpt.np.past import Past
from minigpt.np.positions import Angles
from minigpt.np.workspace import FRESH, Array, Fresh

ACTIVATIONS = {"gelu": (gelu, gelu_backward), "gelu_exact": (gelu_exact, gelu_exact_backward), "relu": (relu, relu_backward)}


def feed_forward(x: Array, p: Named, activation: str, ws: Fresh = FRESH, keep: bool = True) -> tuple[Array, Cache]:
    """y = activation(x W_up + b_up) W_down + b_down, each token for itself.  x (B, T, D) -> y (B, T, D).

    With swiglu: y = (silu(x W_gate + b_gate) * (x W_up + b_up)) W_down + b_down. Parameters: up.weight (D, F), up.bias (F,),
    down.weight (F, D), down.bias (D,), with swiglu gate.weight (D, F), gate.bias (F,); the biases may be missing.
    """
    rows = x.reshape(-1, x.shape[-1])
    up, up_cache = linear(rows, p["up.weight"], p.get("up.bias"), ws)  # (N, F)
    gate_cache = None
    if activation == "swiglu":
        gate, gate_cache = linear(rows, p["gate.weight"], p.get("gate.bias"), ws)
        active, act_cache = swiglu(gate, up, ws, keep_x=False, keep=keep)
    else:
        active, act_cache = ACTIVATIONS[activation][0](up, ws, keep_x=False, keep=keep)
    y, down_cache = linear(active, p["down.weight"], p.get("down.bias"), ws)
    return y.reshape(x.shape), (gate_cache, up_cache, act_cache, down_cache, activation)


def feed_forward_backward(dy: Array, cache: Cache, g: Named, ws: Fresh = FRESH) -> Array:
    """dx = ((dy W_down^T) * activation'(hidden)) W_up^T, with swiglu the sum of two such; writes the other gradients into g."""
    gate_cache, up_cache, act_cache, down_cache, activation = cache
    rows = dy.reshape(-1, dy.shape[-1])
    dactive, *_ = linear_backward(rows, down_cache, ws, (g["down.weight"], g.get("down.bias")))
    if activation == "swiglu":
        dgate, dup = swiglu_backward(dactive, act_cache, ws, out=(act_cache[0], dactive))
        dx_gate, *_ = linear_backward(dgate, gate_cache, ws, (g["gate.weight"], g.get("gate.bias")))
    else:
        dup = ACTIVATIONS[activation][1](dactive, act_cache, ws, out=dactive)
    dx, *_ = linear_backward(dup, up_cache, ws, (g["up.weight"], g.get("up.bias")))
    if activation == "swiglu":
        dx += dx_gate
    return dx.reshape(dy.shape)


def residual(
    x: Array,
    branch: Callable[[Array], tuple[Array, Cache]],
    p: Named,
    norm_prefix: str,
    config: ModelConfig,
    ws: Fresh = FRESH,
    drop_mask: Array | None = None,
) -> tuple[Array, Cache]:
    """pre:  y = x + branch(norm(x));    post:  y = norm(x + branch(x)).    x (B, T, D) -> y (B, T, D)."""
    pre = config.norm_placement == "pre"
    h, norm_cache = norm(x, p, norm_prefix, config, ws) if pre else (x, None)
    y, branch_cache = branch(h)
    y, mask_cache = dropout(y, drop_mask)
    y += x  # y is the branch's own result and in nobody's cache, so it may change
    if not pre:
        y, norm_cache = norm(y, p, norm_prefix, config, ws)
    return y, (norm_cache, branch_cache, mask_cache, pre)


def residual_backward(
    dy: Array,
    cache: Cache,
    branch_backward: Callable[[Array, Cache], Array],
    g: Named,
    ws: Fresh = FRESH,
    out: Array | None = None,
) -> Array:
    """pre:  dx = dy + norm_backward(branch_backward(dy));    post:  ds = norm_backward(dy),  dx = ds + branch_backward(ds)."""
    norm_cache, branch_cache, mask_cache, pre = cache
    if not pre:
        dy = norm_backward(dy, norm_cache, g, ws)
    dx = branch_backward(dropout_backward(dy, mask_cache, ws), branch_cache)
    if pre:
        dx = norm_backward(dx, norm_cache, g, ws)
    return np.add(dx, dy, out=dx if out is None else out)


def block(
    x: Array,
    p: Parameters,
    config: ModelConfig,
    causal: bool = True,
    ws: Fresh = FRESH,
    drop: Dropout = NO_DROPOUT,
    layer: int = 0,
    angles: Angles | None = None,
    past: Past | None = None,
    keep: bool = True,
) -> tuple[Array, Cache]:
    """Tokens look at each other (attention), then each thinks for itself (feed-forward).  x (B, T, D) -> y (B, T, D).

    `angles` are those of rope at these positions; `past` is what generation remembers of this layer.
    """
    x, attention_cache = residual(
        x,
        lambda h: multi_head_attention(h, p.under("attention."), config, causal, ws, angles, past, layer),
        p,
        "attention_norm.",
        config,
        ws,
        drop.mask(2 * layer + 1, x.shape, x.dtype, ws),
    )
    y, feed_forward_cache = residual(
        x,
        lambda h: feed_forward(h, p.under("feed_forward."), config.activation, ws, keep),
        p,
        "feed_forward_norm.",
        config,
        ws,
        drop.mask(2 * layer + 2, x.shape, x.dtype, ws),
    )
    return y, (attention_cache, feed_forward_cache)


def block_backward(dy: Array, cache: Cache, g: Parameters, ws: Fresh = FRESH, out: Array | None = None) -> Array:
    """The block backwards: returns dx (in `out`, which may be dy), writes the gradients of its parameters into g."""
    attention_cache, feed_forward_cache = cache
    dx = residual_backward(dy, feed_forward_cache, lambda d, c: feed_forward_backward(d, c, g.under("feed_forward."), ws), g, ws)
    return residual_backward(
        dx, attention_cache, lambda d, c: multi_head_attention_backward(d, c, g.under("attention."), ws), g, ws, out
    )
