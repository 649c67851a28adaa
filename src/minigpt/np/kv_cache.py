"""The key/value cache for generation: only the newest token, and not the whole sequence, goes through the model."""

import math

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.config import ModelConfig
from minigpt.np.ops import row_sum
from minigpt.np.positions import Positions
from minigpt.np.workspace import Array


class KVCache:
    """The keys and values of every layer for B sequences of at most `capacity` tokens.

    The sequences may have different lengths. The unused slots of shorter sequences are masked.
    """

    def __init__(self, config: ModelConfig, B: int, capacity: int, dtype: DTypeLike) -> None:
        self._keys, self._values = np.empty((2, config.n_layers, config.n_kv_heads, B, capacity, config.d_head), dtype)
        self._keys.fill(0)  # masked slots must be finite; unlike `np.zeros`, filling also maps the memory in large pages
        self._values.fill(0)
        self.lengths = np.zeros(B, np.intp)
        "Number of tokens in each sequence, (B,)."
        self.capacity = capacity
        self._positions: Positions = slice(0, 0)
        self._end = 0
        self._mask: Array | None = None

    def reserve(self, T: int) -> Positions:
        """Reserve slots for T more tokens of each sequence, and return their positions.

        Raises `ValueError` if the cache is full, or if T > 1 and the sequences have different lengths.
        """
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        if longest + T > self.capacity:
            raise ValueError(f"the key/value cache has a capacity of {self.capacity} tokens, but {longest + T} are needed")
        self._end = longest + T
        if shortest == longest:
            self._positions, self._mask = slice(longest, longest + T), None
        elif T > 1:
            raise ValueError(f"T is {T}, but must be 1 for sequences of different lengths ({shortest} to {longest} tokens)")
        else:
            self._positions = self.lengths[:, None].copy()
            unused = np.arange(self._end) > self._positions  # (B, S)
            self._mask = np.where(unused, -np.inf, 0).astype(self._values.dtype)[:, None]
        return self._positions

    def append(self, layer: int, k: Array, v: Array) -> None:
        """Store the keys and values of the new tokens in the reserved slots.  k and v (K, B, T, d)."""
        keys, values, positions = self._keys[layer], self._values[layer], self._positions
        if isinstance(positions, slice):
            keys[:, :, positions], values[:, :, positions] = k, v
        else:
            rows, position = np.arange(len(positions)), positions[:, 0]
            keys[:, rows, position], values[:, rows, position] = k[:, :, 0], v[:, :, 0]

    def keys_and_values(self, layer: int) -> tuple[Array, Array]:
        """Return views of all keys and values stored so far, (K, B, S, d) each."""
        return self._keys[layer][:, :, : self._end], self._values[layer][:, :, : self._end]

    def attend(self, layer: int, q: Array, out: Array) -> None:
        """y = softmax(q k^T / sqrt(d)) v for the newest token of each sequence.  q (K, G, B, 1, d) -> out, same shape.

        The G query heads that share a key head become the rows of one product: (K, B, G, d) with (K, B, d, S).
        """
        keys, values = self.keys_and_values(layer)
        scores = np.matmul(q[..., 0, :].swapaxes(1, 2), keys.mT)  # (K, B, G, S)
        scores *= 1 / math.sqrt(q.shape[-1])
        if self._mask is not None:
            scores += self._mask
        scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        np.divide(np.matmul(scores, values), row_sum(scores), out=out[..., 0, :].swapaxes(1, 2))

    def select(self, rows: Array) -> None:
        """Keep only the given sequences: a boolean mask (B,) or an array of indices."""
        self._keys, self._values = self._keys[:, :, rows], self._values[:, :, rows]
        self.lengths = self.lengths[rows]
