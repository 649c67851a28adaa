"""The parameters: one flat vector, many named views.

The optimizer, the gradient norm, a sum over machines and a checkpoint are each one pass over one array; the mathematics sees
matrices with names. Names and order are fixed here, once; checkpoints, exports and error messages use them.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.config import ModelConfig
from minigpt.np.workspace import Array

Named = Mapping[str, Array]


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, in the order of the flat vector.

    Weights are (inputs, outputs): a layer computes x W. Embeddings and an untied head are (vocab_size, d_model).

    >>> shapes(ModelConfig(vocab_size=10, d_model=8, n_layers=1, n_heads=2))["blocks.0.feed_forward.up.weight"]
    (8, 32)
    """
    V, D, F = config.vocab_size, config.d_model, config.d_ff
    queries, keys = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    block: dict[str, tuple[int, ...]] = {
        **_norm("attention_norm", D, config),
        **_linear("attention.qkv", D, queries + 2 * keys, config),
        **(_norm("attention.q_norm", config.d_head, config) if config.qk_norm else {}),
        **(_norm("attention.k_norm", config.d_head, config) if config.qk_norm else {}),
        **_linear("attention.out", queries, D, config),
        **_norm("feed_forward_norm", D, config),
        **(_linear("feed_forward.gate", D, F, config) if config.activation == "swiglu" else {}),
        **_linear("feed_forward.up", D, F, config),
        **_linear("feed_forward.down", F, D, config),
    }
    named: dict[str, tuple[int, ...]] = {"token_embedding": (V, D)}
    if config.positions == "learned":
        named["position_embedding"] = (config.context_length, D)
    for i in range(config.n_layers):
        named |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    if config.norm_placement == "pre":  # a post-norm block ends in a norm of its own
        named |= _norm("final_norm", D, config)
    if not config.tied:
        named["head"] = (V, D)
    return named


def _norm(name: str, width: int, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{kind}": (width,) for kind in (("gamma", "beta") if config.norm == "layer" else ("gamma",))}


def _linear(name: str, inputs: int, outputs: int, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (inputs, outputs)} | ({f"{name}.bias": (outputs,)} if config.bias else {})


class Parameters(dict[str, Array]):
    """Name -> view into one flat vector, `flat`. Gradients and the optimizer's moments have the same form.

    Change a parameter in place (`p[name] -= ...`, `p[name][...] = ...`): `p[name] = array` would part it from `flat`.

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
        """Name -> shape."""
        return {name: array.shape for name, array in self.items()}

    def under(self, prefix: str) -> "Parameters":
        """The parameters whose names begin with `prefix`, without it: the same memory.

        They lie one after the other, so their own `flat` is a slice of this one.
        """
        if prefix not in self._scopes:
            names = list(self)
            inside = [name for name in names if name.startswith(prefix)]
            start = sum(self[name].size for name in names[: names.index(inside[0])])
            inner = {name.removeprefix(prefix): self[name].shape for name in inside}
            size = sum(map(math.prod, inner.values()))
            self._scopes[prefix] = Parameters(inner, self.flat.dtype, self.flat[start : start + size])
        return self._scopes[prefix]

    def like(self) -> "Parameters":
        """Zeros under the same names."""
        return Parameters(self.shapes, self.flat.dtype)


def initialise(config: ModelConfig, seed: int, dtype: DTypeLike = np.float32) -> Parameters:
    """Parameters to start training from, a function of the configuration and the seed.

    As in GPT-2, matrices are normal with standard deviation 0.02, or 0.02 / sqrt(2 n_layers) where they write into the residual
    stream, which sums 2 n_layers of them (Radford et al. 2019). Biases and beta are 0, gamma is 1.
    """
    p = Parameters(shapes(config), dtype)
    for i, (name, array) in enumerate(p.items()):
        if array.ndim == 2:
            into_residual = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
            std = 0.02 / math.sqrt(2 * config.n_layers) if into_residual else 0.02
            array[...] = np.random.default_rng((seed, i)).standard_normal(array.shape, np.float32) * std
        elif name.endswith("gamma"):
            array.fill(1)
    return p
