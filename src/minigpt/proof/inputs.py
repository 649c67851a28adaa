"""Random inputs for the checks."""

import numpy as np

from minigpt.np.loss import IGNORE_INDEX
from minigpt.np.workspace import Array


def draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    """Draw values at a scale that depends on the name of the input.

    Weights have standard deviation 1 / sqrt(inputs), and embeddings 1 / sqrt(d_model). gamma is around 1, masks are 0 or 2, and
    all other values are around 0, but at least 0.01 away from it, because ReLU has no derivative there.
    """
    values = rng.standard_normal(shape)
    if name.endswith("gamma"):
        return 1 + values / 2
    if "mask" in name:
        return (values > 0) * 2.0
    if name.endswith("weight") or name == "head" or "embedding" in name:
        return values / np.sqrt(shape[0] if name.endswith("weight") else shape[-1])
    return np.asarray(values + np.sign(values) / 100)


def draw_tokens(rng: np.random.Generator, name: str, shape: tuple[int, ...], vocab_size: int) -> Array:
    """Draw token ids, some of which are repeated. If the name is "targets", one of them is `IGNORE_INDEX`."""
    ids = rng.integers(0, vocab_size, shape)
    ids.flat[1 : min(4, ids.size)] = ids.flat[0]  # repeated ids, next to each other
    if name == "targets":
        ids.flat[-2] = IGNORE_INDEX
    return ids
