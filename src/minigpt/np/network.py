"""The forward and the backward pass of the network, from the tokens to the final norm (docs/derivations.md#the-whole-model)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from minigpt.np.block import block, block_backward
from minigpt.np.config import ModelConfig
from minigpt.np.context import Context
from minigpt.np.norms import norm, norm_backward
from minigpt.np.ops import Cache, dropout, dropout_backward, embedding, embedding_backward
from minigpt.np.parameters import Parameters
from minigpt.np.positions import Positions, RopeAngles, position_embedding, position_embedding_backward, rope_table
from minigpt.np.workspace import Array, Workspace

GradHook = Callable[[str], None]
"Called with a prefix of parameter names once the gradients of these parameters, and of all that follow them, are final."


def no_hook(prefix: str) -> None:
    """Do nothing."""


def forward(tokens: Array, p: Parameters, ctx: Context) -> tuple[Array, Cache]:
    """tokens (B, T) -> the input of the LM head, (B, T, D).

    Without `needs_grad`, the cache of each block is discarded, and there can be no backward pass. With a `kv_cache`, the tokens
    follow those in the cache, which stores their keys and values.
    """
    T = tokens.shape[1]
    positions = slice(0, T) if ctx.kv_cache is None else ctx.kv_cache.reserve(T)
    x, embed_cache = embed(tokens, p, positions, ctx)
    ctx.watch.value("embedding", x)
    if ctx.config.positions == "rope":
        ctx = replace(ctx, rope=rope_angles(positions, ctx.config, x.dtype))
    x, mask_cache = dropout(x, ctx.dropout.mask(0, x.shape, x.dtype, ctx.ws))
    blocks = []
    for i in range(ctx.config.n_layers):
        mark = ctx.ws.mark()
        y, cache = block(x, p.with_prefix(f"blocks.{i}."), ctx.for_layer(i))
        if ctx.needs_grad:
            x = y
            blocks.append((mark, cache))
        else:
            x[...] = y  # the memory of y is released by the next line
            ctx.ws.release(mark)
    if ctx.kv_cache is not None:
        ctx.kv_cache.lengths += T
    x, norm_cache = final_norm(x, p, ctx)
    ctx.watch.value("final_norm", x)
    return x, (embed_cache, mask_cache, blocks, norm_cache)


def embed(tokens: Array, p: Parameters, positions: Positions, ctx: Context) -> tuple[Array, Cache]:
    """Return the token embeddings plus, if positions are learned, the position embeddings.  tokens (B, T) -> (B, T, D)."""
    B, T = tokens.shape
    x, token_cache = embedding(tokens.reshape(B * T), p["token_embedding"], ctx.ws)
    ctx.watch.value("token_embedding", x)
    x, position_cache = x.reshape(B, T, -1), None
    if ctx.config.positions == "learned":
        x, position_cache = position_embedding(x, p["position_embedding"], positions)
    return x, (token_cache, position_cache)


def final_norm(x: Array, p: Parameters, ctx: Context) -> tuple[Array, Cache]:
    """Normalize the output of the last block, unless a post-norm block has already done so.  x (B, T, D) -> y (B, T, D)."""
    return norm(x, p.with_prefix("final_norm."), "", ctx) if ctx.config.norm_placement == "pre" else (x, None)


def backward(dx: Array, cache: Cache, g: Parameters, ctx: Context, add: bool = False, grad_hook: GradHook = no_hook) -> None:
    """Write the gradients of all parameters but the LM head to g, or add them if `add` is true.

    g["token_embedding"] is always added to, because it holds the gradient of a tied LM head (or zeros). dx (B, T, D), the
    gradient of the result of `forward`, is overwritten with the gradient at each point of the residual stream. The cache can be
    used only once.
    """
    (token_cache, position_cache), mask_cache, blocks, norm_cache = cache
    if not blocks:
        raise ValueError("the cache has already been used: run forward again before each backward pass")
    ctx.watch.grad("final_norm", dx)
    if norm_cache is not None:
        with gradient_buffer(g, "final_norm.", add, ctx.ws) as part:
            dx[...] = norm_backward(dx, norm_cache, part, "", ctx)
        grad_hook("final_norm.")
    for i in reversed(range(len(blocks))):
        mark, block_cache = blocks.pop()
        with gradient_buffer(g, f"blocks.{i}.", add, ctx.ws) as part:
            block_backward(dx, block_cache, part, ctx.for_layer(i), out=dx)
        ctx.ws.release(mark)  # the caches of later blocks have been released already
        grad_hook(f"blocks.{i}.")
    dx = dropout_backward(dx, mask_cache, ctx.ws)
    ctx.watch.grad("embedding", dx)
    if position_cache is not None:
        dposition = position_embedding_backward(dx, position_cache)
        if add:
            g["position_embedding"] += dposition
        else:
            g["position_embedding"][...] = dposition
    ctx.watch.grad("token_embedding", dx)
    embedding_backward(dx.reshape(-1, dx.shape[-1]), token_cache, ctx.ws, out=g["token_embedding"])


def lm_head_weight(p: Parameters, config: ModelConfig) -> Array:
    """Return the weight of the LM head, (V, D). If it is tied, this is the token embedding itself."""
    return p["token_embedding" if config.tied else "head"]


def rope_angles(positions: Positions, config: ModelConfig, dtype: np.dtype[Any]) -> RopeAngles:
    """Return the cosines and sines of rope at the given positions: (T, d) or (B, T, d) each.

    The table is computed up to the next power of two, not for the whole context_length, which can be very large.
    """
    needed = positions.stop if isinstance(positions, slice) else int(positions.max()) + 1
    length = min(config.context_length, 1 << (needed - 1).bit_length())
    cos, sin = rope_table(length, config.d_head, config.rope_theta, config.rope_pairing, dtype)
    return cos[positions], sin[positions]


@contextmanager
def gradient_buffer(g: Parameters, prefix: str, add: bool, ws: Workspace) -> Iterator[Parameters]:
    """Yield the arrays for the gradients of one part of the model: those of g or, with `add`, a buffer that is added to g."""
    part = g.with_prefix(prefix)
    if not add:
        yield part
        return
    with ws.scratch():
        buffer = Parameters(part.shapes, part.flat.dtype, ws.empty(part.flat.shape, part.flat.dtype))
        yield buffer
        part.flat += buffer.flat
