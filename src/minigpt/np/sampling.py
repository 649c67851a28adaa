"""Sampling: choose the next token from its logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from minigpt.np.workspace import Array


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keyword arguments."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose the next token. The filters are applied in the order of the fields, each to what the previous ones kept.

    >>> logits = np.array([0.0, 3.0, 1.0])
    >>> Sampling().choose(logits, [], np.random.default_rng(0))
    1
    >>> Sampling(temperature=1.0, top_k=2).probabilities(logits, [])[0].tolist()
    [1, 2]
    """

    repetition_penalty: float = 1.0
    "Divide positive logits of tokens that have already occurred by this number, and multiply negative ones (Keskar et al. 2019)."
    temperature: float = 0.0
    "Divide the logits by this number: below 1 sharpens the distribution, above 1 flattens it, and 0 takes the most likely token."
    top_k: int | None = None
    "Keep only this many of the most likely tokens (Fan et al. 2018)."
    top_p: float | None = None
    "Keep only the most likely tokens whose probabilities add up to this number (Holtzman et al. 2020)."
    min_p: float | None = None
    "Keep only tokens whose probability is at least this fraction of the highest one (Nguyen et al. 2024)."

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < np.inf:
            raise ValueError(f"temperature is {self.temperature}, but must be finite and 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}, but must be at least 1")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} is {value}, but must be greater than 0 and at most 1")
        if not 0 < self.repetition_penalty < np.inf:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}, but must be finite and greater than 0 (1 means no penalty)"
            )

    def choose(self, logits: Array, seen: Sequence[int], rng: np.random.Generator) -> int:
        """Return the next token.  logits (V,); `seen` holds the tokens before it.

        A logit of -inf is a token that cannot be chosen. Raises `FloatingPointError` if one is NaN or +inf, or if all are -inf.
        """
        if not np.isfinite(logits.max()):
            raise FloatingPointError("the logits of the next token are not finite, because weights or activations are not")
        if self.temperature == 0:
            return int(self.penalize(logits, seen).argmax())
        ids, probabilities = self.probabilities(logits, seen)
        cumulative = probabilities.cumsum()
        return int(ids[np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")])

    def probabilities(self, logits: Array, seen: Sequence[int]) -> tuple[Array, Array]:
        """Return the ids that can be drawn, in ascending order, and their probabilities. The temperature must not be 0."""
        z = self.penalize(logits, seen)
        ids = np.arange(len(z))
        if self.top_k is not None and self.top_k < len(z):
            ids = np.flatnonzero(z >= np.partition(z, -self.top_k)[-self.top_k])
        z = z[ids].astype(np.float64)
        p = np.exp((z - z.max()) / self.temperature)
        if self.top_p is not None:
            order = np.argsort(-p, kind="stable")
            before = np.cumsum(p[order]) - p[order]  # the total probability of the more likely tokens
            ids, p = _keep(order[before < self.top_p * p.sum()], ids, p)
        if self.min_p is not None:
            ids, p = _keep(np.flatnonzero(p >= self.min_p * p.max()), ids, p)
        return ids, p / p.sum()

    def penalize(self, logits: Array, seen: Sequence[int]) -> Array:
        """Return the logits after the repetition penalty."""
        if self.repetition_penalty == 1 or not len(seen):
            return logits
        penalized = logits.copy()
        z = logits[seen]
        penalized[seen] = np.where(z > 0, z / self.repetition_penalty, z * self.repetition_penalty)
        return penalized


def _keep(kept: Array, ids: Array, p: Array) -> tuple[Array, Array]:
    kept = np.sort(kept)
    return ids[kept], p[kept]
