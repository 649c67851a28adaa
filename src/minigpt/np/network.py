"""The whole network: embed the tokens, pass them through the blocks; and all the way back.

Derived in docs/derivations.md#the-whole-model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minigpt.np.block import block, block_backward
from minigpt.np.config import ModelConfig
from minigpt.np.norms import norm, norm_backward
from minigpt.np.ops import NO_DROPOUT, Cache, Dropout, dropout, dropout_backward, embedding, embedding_backward
from minigpt.np.parameters import Parameters
from minigpt.np.past import Past
from minigpt.np.positions import Angles, Places, angles, positions, positions_backward
from minigpt.np.workspace import FRESH, Array, Fresh

Ready = Callable[[str], None]


def unheard(prefix: str) -> None:
    """What to call where nobody wants to know."""


def forward(
    tokens: Array,
    p: Parameters,
    config: ModelConfig,
    ws: Fresh = FRESH,
    drop: Dropout = NO_DROPOUT,
    keep: bool = True,
    past: Past | None = None,
) -> tuple[Array, Cache]:
    """tokens (B, T) -> what the head reads, (B, T, D).  Without `keep`, caches are forgotten block by block: no backward.

    `past` holds the keys and values of the tokens before these, and receives those of these.
    """
    T = tokens.shape[1]
    places = past.begin(T) if past else slice(0, T)
    x, enter_cache = enter(tokens, p, config, places, ws)
    turn = rope_angles(places, config, x.dtype) if config.positions == "rope" else None
    x, mask_cache = dropout(x, drop.mask(0, x.shape, x.dtype, ws))
    blocks = []
    for i in range(config.n_layers):
        mark = ws.mark()
        y, cache = block(x, p.under(f"blocks.{i}."), config, True, ws, drop, i, turn, past, keep)
        if keep:
            x = y
            blocks.append((mark, cache))
        else:
            x[...] = y  # y lies above the mark, in memory that is about to be given back
            ws.release(mark)
    if past:
        past.lengths += T
    x, norm_cache = leave(x, p, config, ws)
    return x, (enter_cache, mask_cache, blocks, norm_cache)


def enter(tokens: Array, p: Parameters, config: ModelConfig, places: Places, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """Before the blocks: tokens (B, T) that stand at these places -> their embeddings, (B, T, D)."""
    B, T = tokens.shape
    x, token_cache = embedding(tokens.reshape(B * T), p["token_embedding"], ws)
    x, position_cache = x.reshape(B, T, -1), None
    if config.positions == "learned":
        x, position_cache = positions(x, p["position_embedding"], places)
    return x, (token_cache, position_cache)


def leave(x: Array, p: Parameters, config: ModelConfig, ws: Fresh = FRESH) -> tuple[Array, Cache]:
    """After the blocks: a last norm, where the blocks do not end in one.  x (B, T, D) -> y (B, T, D)."""
    return norm(x, p.under("final_norm."), "", config, ws) if config.norm_placement == "pre" else (x, None)


def backward(dx: Array, cache: Cache, g: Parameters, add: bool = False, ws: Fresh = FRESH, ready: Ready = unheard) -> None:
    """Writes the gradients of all parameters but the head's into g, or adds them with `add`.

    g["token_embedding"] is always added to: it holds the share of a tied head, or zeros. dx (B, T, D), the gradient of what
    `forward` returned, is overwritten: it follows the residual stream down to the embeddings. The cache is used up.

    `ready(prefix)` is called each time that gradients are final from the first parameter of that prefix to the last of all.
    """
    (token_cache, position_cache), mask_cache, blocks, norm_cache = cache
    if not blocks:
        raise ValueError("this cache has been used: there is one backward for each forward")
    if norm_cache is not None:
        with destination(g, "final_norm.", add, ws) as part:
            dx[...] = norm_backward(dx, norm_cache, part, ws)
        ready("final_norm.")
    for i in reversed(range(len(blocks))):
        mark, block_cache = blocks.pop()
        with destination(g, f"blocks.{i}.", add, ws) as part:
            block_backward(dx, block_cache, part, ws, out=dx)
        ws.release(mark)  # the block's cache lies on top of the stack, now that those above it are gone
        ready(f"blocks.{i}.")
    dx = dropout_backward(dx, mask_cache, ws)
    if position_cache is not None:
        dposition = positions_backward(dx, position_cache)
        if add:
            g["position_embedding"] += dposition
        else:
            g["position_embedding"][...] = dposition
    embedding_backward(dx.reshape(-1, dx.shape[-1]), token_cache, ws, out=g["token_embedding"])


def head_weight(p: Parameters, config: ModelConfig) -> Array:
    """Weight of the head, (V, D): the token embedding itself where they are tied."""
    return p["token_embedding" if config.tied else "head"]


def rope_angles(places: Places, config: ModelConfig, dtype: np.dtype[Any]) -> Angles:
    """cos and sin for tokens at these places, in the shape of heads: (T, d), or (B, T, d)."""
    cos, sin = angles(config.context_length, config.d_head, config.rope_theta, config.rope_pairing, dtype)
    return cos[places], sin[places]


@contextmanager
def destination(g: Parameters, prefix: str, add: bool, ws: Fresh) -> Iterator[Parameters]:
    """Where the gradients of one part of the model are to be written: into g, or beside it and then added."""
    part = g.under(prefix)
    if not add:
        yield part
        return
    with ws.scratch():
        fresh = Parameters(part.shapes, part.flat.dtype, ws.empty(part.flat.shape, part.flat.dtype))
        yield fresh
        part.flat += fresh.flat
