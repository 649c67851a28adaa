"""The norms of gradients, weights and updates, layer by layer.

They are computed from sums of squares, which are collected slice by slice while the optimizer updates the parameters, so that no
copy of all parameters is needed.
"""

import math
from itertools import groupby

import numpy as np

from minigpt.np.parameters import Parameters
from minigpt.np.workspace import Array

KINDS = ("gradient", "weight", "update")
LayerNorms = dict[str, dict[str, float]]
"Layer -> the norm of its gradient (before clipping), of its weights (after the update) and of the update."


def layer_spans(p: Parameters) -> dict[str, slice]:
    """Return the span of each layer in the flat vector: embeddings, blocks, final norm and head.

    >>> layer_spans(Parameters({"blocks.0.up": (2, 3), "blocks.0.down": (3, 2), "head": (1, 2)}, np.float32))
    {'blocks.0': slice(0, 12, None), 'head': slice(12, 14, None)}
    """
    spans, start = {}, 0
    for layer, arrays in groupby(p.items(), lambda item: layer_name(item[0])):
        stop = start + sum(array.size for _, array in arrays)
        spans[layer], start = slice(start, stop), stop
    return spans


def layer_name(name: str) -> str:
    """Return the layer of a parameter.

    >>> layer_name("blocks.0.attention.qkv.weight"), layer_name("final_norm.gamma")
    ('blocks.0', 'final_norm')
    """
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "blocks" else 1])


def add_squares(sums: Array, spans: list[slice], at: slice, vectors: tuple[Array, Array, Array]) -> None:
    """Add the squares of a slice `at` of the flat vector to the sums (layers, 3) of the layers that it overlaps.

    `vectors` are the gradient, the weights and the update of that slice.
    """
    for i, layer in enumerate(spans):
        start, stop = max(layer.start, at.start) - at.start, min(layer.stop, at.stop) - at.start
        if start < stop:
            sums[i] += [float(np.vdot(x[start:stop], x[start:stop])) for x in vectors]


def norms(spans: dict[str, slice], sums: Array) -> LayerNorms:
    """Return the norms of each layer, given the sums of squares (layers, 3)."""
    return {
        layer: {kind: float(f"{math.sqrt(square):.6g}") for kind, square in zip(KINDS, squares, strict=True)}
        for layer, squares in zip(spans, sums.tolist(), strict=True)
    }
