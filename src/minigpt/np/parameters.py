"""The parameters of a model: one flat vector with a named view for each weight matrix, bias and norm.

The optimizer, the gradient norm, an all-reduce and a checkpoint each need a single pass over one array, while the layers use
named matrices. The names and their order are defined here; checkpoints, exports and error messages use them.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from minigpt.np.config import ModelConfig
from minigpt.np.workspace import Array

NamedArrays = Mapping[str, Array]
INITIAL_STD = 0.02


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


def qkv_columns(config: ModelConfig) -> list[slice]:
    """Return the columns of attention.qkv.weight that project to the queries, to the keys and to the values.

    >>> qkv_columns(ModelConfig(vocab_size=10, d_model=8, n_layers=1, n_heads=4, n_kv_heads=2))
    [slice(0, 8, None), slice(8, 12, None), slice(12, 16, None)]
    """
    queries, keys = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    return [slice(0, queries), slice(queries, queries + keys), slice(queries + keys, queries + 2 * keys)]


def _norm(name: str, width: int, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{kind}": (width,) for kind in (("gamma", "beta") if config.norm == "layer" else ("gamma",))}


def _linear(name: str, inputs: int, outputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (inputs, outputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


class Parameters(Mapping[str, Array]):
    """A mapping from names to views into one flat vector, `flat`. Gradients and optimizer moments have the same form.

    `p[name] = array` copies the array into the vector. Copies and unpickled objects have a vector of
    their own, and views into it. Raises `ValueError` if `flat` does not have one element for each parameter.

    >>> p = Parameters({"a": (2, 3), "b": (4,)}, np.float32)
    >>> p["b"] = np.ones(4)
    >>> p.flat.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike, flat: Array | None = None) -> None:
        size = sum(map(math.prod, shapes.values()))
        if flat is not None and flat.shape != (size,):
            raise ValueError(f"flat has shape {flat.shape}, but must have shape {(size,)}")
        self._flat = np.zeros(size, dtype) if flat is None else flat
        self._arrays: dict[str, Array] = {}
        self._subsets: dict[str, Parameters] = {}
        start = 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            self._arrays[name] = self._flat[start : start + size].reshape(shape)
            start += size

    @property
    def flat(self) -> Array:
        """All parameters in one vector. Assigning to it copies into the vector."""
        return self._flat

    @flat.setter
    def flat(self, value: ArrayLike) -> None:
        _assign("flat", self._flat, value)

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        """Copy `value` into the vector. Raises `KeyError` for an unknown name, and `ValueError` for another shape."""
        _assign(name, self._arrays[name], value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"Parameters({len(self)} arrays, {self.flat.size:,} elements, {self.flat.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle only the vector, because the copy of a view would no longer share its memory."""
        return Parameters, (self.shapes, self.flat.dtype, self.flat)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter, by name."""
        return {name: array.shape for name, array in self.items()}

    def with_prefix(self, prefix: str) -> "Parameters":
        """Return the parameters whose names start with `prefix`, with the prefix removed, as views into the same vector.

        These parameters are contiguous, so the `flat` of the result is a slice of this one.
        """
        if prefix not in self._subsets:
            names = list(self)
            selected = [name for name in names if name.startswith(prefix)]
            start = sum(self[name].size for name in names[: names.index(selected[0])])
            shapes = {name.removeprefix(prefix): self[name].shape for name in selected}
            size = sum(map(math.prod, shapes.values()))
            self._subsets[prefix] = Parameters(shapes, self.flat.dtype, self.flat[start : start + size])
        return self._subsets[prefix]

    def zeros_like(self) -> "Parameters":
        """Return zeros with the same names and shapes."""
        return Parameters(self.shapes, self.flat.dtype)


def _assign(name: str, array: Array, value: ArrayLike) -> None:
    value = np.asarray(value)
    if value.shape != array.shape:
        raise ValueError(f"{name} has shape {array.shape}, but is given an array of shape {value.shape}")
    if value is not array:  # `p[name] -= x` has already changed the array when it assigns it
        array[...] = value


def first_nonfinite(arrays: NamedArrays) -> str | None:
    """Return the name of the first array that has a NaN or an infinity, or None. No memory is allocated.

    >>> first_nonfinite({"a": np.ones(2), "b": np.array([1.0, np.nan])})
    'b'
    """
    return next((name for name, x in arrays.items() if not (np.isfinite(x.min()) and np.isfinite(x.max()))), None)


class Moments(NamedTuple):
    """The state of the optimizer: running averages of the gradient, `m`, and for AdamW of its square, `v`."""

    m: Parameters
    v: Parameters


def initialize(
    config: ModelConfig,
    seed: int,
    dtype: DTypeLike = np.float32,
    zero_outputs: bool = False,
    embedding_std: float = INITIAL_STD,
) -> Parameters:
    """Return the initial parameters for a configuration and a seed.

    As in GPT-2 (Radford et al. 2019), matrices are drawn from a normal distribution with standard deviation 0.02, or
    0.02 / sqrt(2 n_layers) if they write to the residual stream, which is the sum of 2 n_layers such terms. Biases and beta are
    0, and gamma is 1. With `zero_outputs`, the matrices that write to the residual stream are 0, so that each block starts as
    the identity. `embedding_std` is the standard deviation of the embeddings.
    """
    p = Parameters(shapes(config), dtype)
    for i, (name, array) in enumerate(p.items()):
        if array.ndim == 2:
            writes_residual = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
            if writes_residual and zero_outputs:
                continue
            std = embedding_std if name.endswith("_embedding") else INITIAL_STD
            if writes_residual:
                std /= math.sqrt(2 * config.n_layers)
            array[...] = np.random.default_rng((seed, i)).standard_normal(array.shape, np.float32) * std
        elif name.endswith("gamma"):
            array.fill(1)
    return p
