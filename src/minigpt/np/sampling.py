"""From logits to the next token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from minigpt.np.workspace import Array


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling`, as keyword arguments."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Each filter works on what the ones before it have left, in the order of the fields.

    >>> logits = np.array([0.0, 3.0, 1.0])
    >>> Sampling().choose(logits, [], np.random.default_rng(0))
    1
    >>> Sampling(temperature=1.0, top_k=2).probabilities(logits, [])[0].tolist()
    [1, 2]
    """

    repetition_penalty: float = 1.0
    "Divides the positive logits of tokens that occurred already, and multiplies their negative ones (Keskar et al. 2019)."
    temperature: float = 0.0
    "0 takes the likeliest token; else logits are divided by it: below 1 sharpens the distribution, above 1 flattens it."
    top_k: int | None = None
    "Only this many likeliest tokens (Fan et al. 2018)."
    top_p: float | None = None
    "Only the likeliest tokens that together reach this probability (Holtzman et al. 2020)."
    min_p: float | None = None
    "Only tokens at least this times as likely as the likeliest (Nguyen et al. 2024)."

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < np.inf:
            raise ValueError(f"temperature is {self.temperature}, but must be 0 (the likeliest token) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}, but must be at least 1")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} is {value}, but must be greater than 0 and at most 1")
        if not 0 < self.repetition_penalty < np.inf:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}, but must be greater than 0 (1 is none)")

    def choose(self, logits: Array, seen: Sequence[int], rng: np.random.Generator) -> int:
        """The next token.  logits (V,); `seen` are the tokens before it."""
        if self.temperature == 0:
            return int(self.penalised(logits, seen).argmax())
        ids, probabilities = self.probabilities(logits, seen)
        cumulative = probabilities.cumsum()
        return int(ids[np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")])

    def probabilities(self, logits: Array, seen: Sequence[int]) -> tuple[Array, Array]:
        """The tokens that can be drawn, in the order of their ids, and the probability of each; temperature must not be 0."""
        z = self.penalised(logits, seen)
        ids = np.arange(len(z))
        if self.top_k is not None and self.top_k < len(z):
            ids = np.flatnonzero(z >= np.partition(z, -self.top_k)[-self.top_k])
        z = z[ids].astype(np.float64)
        p = np.exp((z - z.max()) / self.temperature)
        if self.top_p is not None:
            order = np.argsort(-p, kind="stable")
            before = np.cumsum(p[order]) - p[order]  # of the likelier ones
            ids, p = _only(order[before < self.top_p * p.sum()], ids, p)
        if self.min_p is not None:
            ids, p = _only(np.flatnonzero(p >= self.min_p * p.max()), ids, p)
        return ids, p / p.sum()

    def penalised(self, logits: Array, seen: Sequence[int]) -> Array:
        """The logits after the repetition penalty."""
        if self.repetition_penalty == 1 or not len(seen):
            return logits
        changed = logits.copy()
        z = logits[seen]
        changed[seen] = np.where(z > 0, z / self.repetition_penalty, z * self.repetition_penalty)
        return changed


def _only(kept: Array, ids: Array, p: Array) -> tuple[Array, Array]:
    kept = np.sort(kept)
    return ids[kept], p[kept]
