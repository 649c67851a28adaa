"""The norms of gradients, weights and updates, layer by layer.

They are computed from sums of squares, which are collected piece by piece while the optimizer updates the parameters, so that no
copy of all parameters is needed.
"""

import math
from collections.abc import Iterable

from minigpt.np.workspace import Array

KINDS = ("gradient", "weight", "update")
LayerNorms = dict[str, dict[str, float]]
"Layer -> the norm of its gradient (before clipping), of its weights (after the update) and of the update."


def layer_names(parameters: Iterable[str]) -> list[str]:
    """Return the layers in the order of the flat vector: embeddings, blocks, final norm and head.

    >>> layer_names(["blocks.0.up.weight", "blocks.0.down.weight", "head"])
    ['blocks.0', 'head']
    """
    return list(dict.fromkeys(map(layer_name, parameters)))


def layer_name(name: str) -> str:
    """Return the layer of a parameter.

    >>> layer_name("blocks.0.attention.qkv.weight"), layer_name("final_norm.gamma")
    ('blocks.0', 'final_norm')
    """
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "blocks" else 1])


def norms(layers: list[str], sums: Array) -> LayerNorms:
    """Return the norms of each layer, given the sums of squares (layers, 3)."""
    return {
        layer: {kind: float(f"{math.sqrt(square):.6g}") for kind, square in zip(KINDS, squares, strict=True)}
        for layer, squares in zip(layers, sums.tolist(), strict=True)
    }
