"""What generation remembers: the keys and values of the tokens so far, so that a new token costs one token's work."""

import math

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.config import ModelConfig
from minigpt.np.ops import row_sum
from minigpt.np.positions import Places
from minigpt.np.workspace import Array


class Past:
    """Keys and values of every layer for B sequences, with room for `capacity` tokens each.

    The sequences may differ in length. Shorter ones have places that hold nothing of theirs; these are hidden from their queries.
    """

    def __init__(self, config: ModelConfig, B: int, capacity: int, dtype: DTypeLike) -> None:
        self._keys, self._values = np.empty((2, config.n_layers, config.n_kv_heads, B, capacity, config.d_head), dtype)
        self._keys.fill(0)  # because what is hidden must still be a number; `zeros` would get its memory in small pages
        self._values.fill(0)
        self.lengths = np.zeros(B, np.intp)  # tokens so far
        self.capacity = capacity
        self._places: Places = slice(0, 0)
        self._end = 0
        self._hidden: Array | None = None

    def begin(self, T: int) -> Places:
        """T more tokens come for each sequence: the positions at which they will stand."""
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        if longest + T > self.capacity:
            raise ValueError(f"there is room for {self.capacity} tokens, but there would be {longest + T}")
        self._end = longest + T
        if shortest == longest:
            self._places, self._hidden = slice(longest, longest + T), None
        elif T > 1:
            raise ValueError(f"sequences of {shortest} to {longest} tokens go on by one token at a time, not by {T}")
        else:
            self._places = self.lengths[:, None].copy()
            hidden = np.arange(self._end) > self._places  # (B, S)
            self._hidden = np.where(hidden, -np.inf, 0).astype(self._values.dtype)[:, None]
        return self._places

    def extend(self, layer: int, k: Array, v: Array) -> None:
        """Keep the keys and values of the new tokens: k and v (K, B, T, d)."""
        keys, values, places = self._keys[layer], self._values[layer], self._places
        if isinstance(places, slice):
            keys[:, :, places], values[:, :, places] = k, v
        else:
            rows, place = np.arange(len(places)), places[:, 0]
            keys[:, rows, place], values[:, rows, place] = k[:, :, 0], v[:, :, 0]

    def so_far(self, layer: int) -> tuple[Array, Array]:
        """All keys and values: (K, B, S, d) each."""
        return self._keys[layer][:, :, : self._end], self._values[layer][:, :, : self._end]

    def attend(self, layer: int, q: Array, out: Array) -> None:
        """y = softmax(q k^T / sqrt(d)) v, one query a head, the newest, which sees all.  q (K, G, B, 1, d) -> out, as q.

        The heads that share keys are the rows of one product: (K, B, G, d) with (K, B, d, S).
        """
        keys, values = self.so_far(layer)
        scores = np.matmul(q[..., 0, :].swapaxes(1, 2), keys.mT)  # (K, B, G, S)
        scores *= 1 / math.sqrt(q.shape[-1])
        if self._hidden is not None:
            scores += self._hidden
        scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        np.divide(np.matmul(scores, values), row_sum(scores), out=out[..., 0, :].swapaxes(1, 2))

    def select(self, rows: Array) -> None:
        """Forget all sequences but these."""
        self._keys, self._values = self._keys[:, :, rows], self._values[:, :, rows]
        self.lengths = self.lengths[rows]
