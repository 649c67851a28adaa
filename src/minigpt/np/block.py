"""A transformer block: attention and a feed-forward network, each a branch that is added to the residual stream.

These functions take their parameters by name in `p`, and their backward passes write gradients by the same names to `g`.
`p.with_prefix("attention.")` returns the parameters whose names start with "attention.". The backward passes are derived in
docs/derivations.md#feed-forward and #residual.
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
    relu_squared,
    relu_squared_backward,
    swiglu,
    swiglu_backward,
)
from minigpt.np.context import Context
from minigpt.np.multi_head_attention import multi_head_attention, multi_head_attention_backward
from minigpt.np.norms import norm, norm_backward
from minigpt.np.ops import Cache, dropout, dropout_backward, linear, linear_backward
from minigpt.np.parameters import NamedArrays, Parameters
from minigpt.np.workspace import Array

Branch = Callable[[Array, Parameters, Context], tuple[Array, Cache]]
BranchBackward = Callable[[Array, Cache, Parameters, Context], Array]

ACTIVATIONS = {
    "gelu": (gelu, gelu_backward),
    "gelu_exact": (gelu_exact, gelu_exact_backward),
    "relu": (relu, relu_backward),
    "relu_squared": (relu_squared, relu_squared_backward),
}


def feed_forward(x: Array, p: NamedArrays, ctx: Context) -> tuple[Array, Cache]:
    """y = activation(x W_up + b_up) W_down + b_down, for each token separately.  x (B, T, D) -> y (B, T, D).

    With swiglu, y = (silu(x W_gate + b_gate) * (x W_up + b_up)) W_down + b_down. The parameters are up.weight (D, F), up.bias
    (F,), down.weight (F, D), down.bias (D,), and with swiglu gate.weight (D, F) and gate.bias (F,). The biases are optional.
    """
    activation, ws, watch = ctx.config.activation, ctx.ws, ctx.watch.with_prefix("feed_forward.")
    rows = x.reshape(-1, x.shape[-1])
    up, up_cache = linear(rows, p["up.weight"], p.get("up.bias"), ws)  # (N, F)
    watch.value("up", up)
    gate_cache = None
    if activation == "swiglu":
        gate, gate_cache = linear(rows, p["gate.weight"], p.get("gate.bias"), ws)
        watch.value("gate", gate)
        hidden, activation_cache = swiglu(gate, up, ws, inplace=True, needs_grad=ctx.needs_grad)
    else:
        hidden, activation_cache = ACTIVATIONS[activation][0](up, ws, inplace=True, needs_grad=ctx.needs_grad)
    if watch.active:
        hidden = hidden.copy()  # a patch must not change the cache of relu, which is its result
    watch.value("active", hidden)
    y, down_cache = linear(hidden, p["down.weight"], p.get("down.bias"), ws)
    return y.reshape(x.shape), (gate_cache, up_cache, activation_cache, down_cache)


def feed_forward_backward(dy: Array, cache: Cache, g: NamedArrays, ctx: Context) -> Array:
    """dx = ((dy W_down^T) * activation'(x W_up + b_up)) W_up^T, and with swiglu a second such term.

    The gradients of the parameters are written to g."""
    gate_cache, up_cache, activation_cache, down_cache = cache
    activation, ws, watch = ctx.config.activation, ctx.ws, ctx.watch.with_prefix("feed_forward.")
    rows = dy.reshape(-1, dy.shape[-1])
    dhidden, *_ = linear_backward(rows, down_cache, ws, (g["down.weight"], g.get("down.bias")))
    watch.grad("active", dhidden)
    if activation == "swiglu":
        dgate, dup = swiglu_backward(dhidden, activation_cache, ws, out=(activation_cache[0], dhidden))
        watch.grad("gate", dgate)
        dx_gate, *_ = linear_backward(dgate, gate_cache, ws, (g["gate.weight"], g.get("gate.bias")))
    else:
        dup = ACTIVATIONS[activation][1](dhidden, activation_cache, ws, out=dhidden)
    watch.grad("up", dup)
    dx, *_ = linear_backward(dup, up_cache, ws, (g["up.weight"], g.get("up.bias")))
    if activation == "swiglu":
        dx += dx_gate
    return dx.reshape(dy.shape)


def residual(x: Array, p: Parameters, name: str, branch: Branch, ctx: Context, dropout_layer: int) -> tuple[Array, Cache]:
    """pre-norm:  y = x + branch(norm(x));    post-norm:  y = norm(x + branch(x)).    x (B, T, D) -> y (B, T, D).

    The parameters of the branch are named `name`.*, and those of the norm `name`_norm.*.
    """
    pre = ctx.config.norm_placement == "pre"
    mask = ctx.dropout.mask(dropout_layer, x.shape, x.dtype, ctx.ws)
    h, norm_cache = norm(x, p, f"{name}_norm.", ctx) if pre else (x, None)
    if pre:
        ctx.watch.value(f"{name}_norm", h)
    y, branch_cache = branch(h, p.with_prefix(f"{name}."), ctx)
    y, mask_cache = dropout(y, mask)
    ctx.watch.value(name, y)
    y += x  # no cache refers to the result of the branch, so it may be overwritten
    if not pre:
        y, norm_cache = norm(y, p, f"{name}_norm.", ctx)
    return y, (norm_cache, branch_cache, mask_cache)


def residual_backward(
    dy: Array,
    cache: Cache,
    g: Parameters,
    name: str,
    branch_backward: BranchBackward,
    ctx: Context,
    out: Array | None = None,
) -> Array:
    """pre-norm:  dx = dy + norm_backward(branch_backward(dy));

    post-norm:  ds = norm_backward(dy),  dx = ds + branch_backward(ds).
    """
    norm_cache, branch_cache, mask_cache = cache
    pre = ctx.config.norm_placement == "pre"
    if not pre:
        dy = norm_backward(dy, norm_cache, g, f"{name}_norm.", ctx)
    dbranch = dy.copy() if ctx.watch.active else dy  # a patch of the branch must not change the gradient of the residual stream
    ctx.watch.grad(name, dbranch)
    dx = branch_backward(dropout_backward(dbranch, mask_cache, ctx.ws), branch_cache, g.with_prefix(f"{name}."), ctx)
    if pre:
        ctx.watch.grad(f"{name}_norm", dx)
        dx = norm_backward(dx, norm_cache, g, f"{name}_norm.", ctx)
    return np.add(dx, dy, out=dx if out is None else out)


def block(x: Array, p: Parameters, ctx: Context) -> tuple[Array, Cache]:
    """Apply attention across the tokens, then the feed-forward network to each token.  x (B, T, D) -> y (B, T, D)."""
    dropout_layer = 2 * ctx.layer + 1
    x, attention_cache = residual(x, p, "attention", multi_head_attention, ctx, dropout_layer)
    ctx.watch.value("residual_mid", x)
    x, feed_forward_cache = residual(x, p, "feed_forward", feed_forward, ctx, dropout_layer + 1)
    ctx.watch.value("residual_post", x)
    return x, (attention_cache, feed_forward_cache)


def block_backward(dy: Array, cache: Cache, g: Parameters, ctx: Context, out: Array | None = None) -> Array:
    """Return dx (in `out`, which may be dy), and write the gradients of the parameters to g."""
    attention_cache, feed_forward_cache = cache
    ctx.watch.grad("residual_post", dy)
    dx = residual_backward(dy, feed_forward_cache, g, "feed_forward", feed_forward_backward, ctx)
    ctx.watch.grad("residual_mid", dx)
    return residual_backward(dx, attention_cache, g, "attention", multi_head_attention_backward, ctx, out)
