"""The parameters of a model: one flat vector with a named view for each weight matrix, bias and norm.

The optimizer, the gradient norm, a sum over machines and a checkpoint each need a single pass over one array, while the layers
use named matrices. The names and their order are defined here; checkpoints, exports and error messages use them.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.config import ModelConfig
from minigpt.np.workspace import Array

NamedArrays = Mapping[str, Array]


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter, in the order of the flat vector.

    Weights have shape (inputs, outputs), and a layer computes x W. Embeddings and an untied LM head have shape
    (vocab_size, d_model).

    >>> shapes(ModelConfig(vocab_size=10, d_model=8, n_layers=1, n_heads=2))["blocks.0.feed_forward.up.weight"]
    (8, 32)
    """
    V, D, F = config.vocab_size, config.d_model, config.d_ff
    queries, keys = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    attention_bias, feed_forward_bias = config.attention_bias, config.feed_forward_bias
    block: dict[str, tuple[int, ...]] = {
        **_norm("attention_norm", D, config),
        **_linear("attention.qkv", D, queries + 2 * keys, attention_bias),
        **(_norm("attention.q_norm", config.d_head, config) if config.qk_norm else {}),
        **(_norm("attention.k_norm", config.d_head, config) if config.qk_norm else {}),
        **_linear("attention.out", queries, D, attention_bias),
        **_norm("feed_forward_norm", D, config),
        **(_linear("feed_forward.gate", D, F, feed_forward_bias) if config.activation == "swiglu" else {}),
        **_linear("feed_forward.up", D, F, feed_forward_bias),
        **_linear("feed_forward.down", F, D, feed_forward_bias),
    }
    named: dict[str, tuple[int, ...]] = {"token_embedding": (V, D)}
    if config.positions == "learned":
        named["position_embedding"] = (config.context_length, D)
    for i in range(config.n_layers):
        named |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    if config.norm_placement == "pre":  # a post-norm block already ends in a norm
        named |= _norm("final_norm", D, config)
    if not config.tied:
        named["head"] = (V, D)
    return named


def _norm(name: str, width: int, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{kind}": (width,) for kind in (("gamma", "beta") if config.norm == "layer" else ("gamma",))}


def _linear(name: str, inputs: int, outputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (inputs, outputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


class Parameters(dict[str, Array]):
    """A dictionary of named views into one flat vector, `flat`. Gradients and optimizer moments have the same form.

    Modify a parameter in place (`p[name] -= ...` or `p[name][...] = ...`): `p[name] = array` would detach it from `flat`.

    >>> p = Parameters({"a": (2, 3), "b": (4,)}, np.float32)
    >>> p["b"][:] = 1
    >>> p.flat.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike, flat: Array | None = None) -> None:
        super().__init__()
        self.flat = np.zeros(sum(map(math.prod, shapes.values())), dtype) if flat is None else flat
        self._scopes: dict[str, Parameters] = {}
        start = 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            self[name] = self.flat[start : start + size].reshape(shape)
            start += size

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter, by name."""
        return {name: array.shape for name, array in self.items()}

    def under(self, prefix: str) -> "Parameters":
        """Return the parameters whose names start with `prefix`, named without it. They share this object's memory.

        These parameters are contiguous, so the `flat` of the result is a slice of this one.
        """
        if prefix not in self._scopes:
            names = list(self)
            selected = [name for name in names if name.startswith(prefix)]
            start = sum(self[name].size for name in names[: names.index(selected[0])])
            shapes = {name.removeprefix(prefix): self[name].shape for name in selected}
            size = sum(map(math.prod, shapes.values()))
            self._scopes[prefix] = Parameters(shapes, self.flat.dtype, self.flat[start : start + size])
        return self._scopes[prefix]

    def zeros_like(self) -> "Parameters":
        """Return zeros with the same names and shapes."""
        return Parameters(self.shapes, self.flat.dtype)


class Moments(NamedTuple):
    """The state of AdamW: running averages of the gradient, `m`, and of its square, `v`."""

    m: Parameters
    v: Parameters


def initialize(config: ModelConfig, seed: int, dtype: DTypeLike = np.float32) -> Parameters:
    """Return the initial parameters for a configuration and a seed.

    As in GPT-2 (Radford et al. 2019), matrices are drawn from a normal distribution with standard deviation 0.02, or
    0.02 / sqrt(2 n_layers) if they write to the residual stream, which is the sum of 2 n_layers such terms. Biases and beta are
    0, and gamma is 1.
    """
    p = Parameters(shapes(config), dtype)
    for i, (name, array) in enumerate(p.items()):
        if array.ndim == 2:
            writes_residual = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
            std = 0.02 / math.sqrt(2 * config.n_layers) if writes_residual else 0.02
            array[...] = np.random.default_rng((seed, i)).standard_normal(array.shape, np.float32) * std
        elif name.endswith("gamma"):
            array.fill(1)
    return p
