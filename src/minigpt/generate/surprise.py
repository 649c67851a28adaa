"""How sure a model was of each token it chose, and what it would have said instead."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minigpt.np.generation import Step

if TYPE_CHECKING:
    from rich.text import Text

COLOURS = ((1.0, "green"), (3.0, "cyan"), (6.0, "yellow"), (math.inf, "red"))
"Up to so many bits of surprise: the colour of a token."


@dataclass(frozen=True)
class Told:
    """A token, its probability, and the likeliest others."""

    token: int
    probability: float
    runners_up: list[tuple[int, float]]

    @property
    def surprise(self) -> float:
        """-log2 of the probability: 0 bits for a certainty, 1 for the toss of a coin."""
        return -math.log2(self.probability) if self.probability else math.inf

    def line(self, name: Callable[[int], str]) -> "Text":
        """One line for a terminal; `name` writes a token."""
        from rich.text import Text

        colour = next(colour for most, colour in COLOURS if self.surprise <= most)
        others = "  ".join(f"{name(token)} {p:.1%}" for token, p in self.runners_up)
        return Text.assemble(f"{self.probability:7.1%}  ", (f"{name(self.token):24}", colour), f"  {others}")


def surprises(steps: Iterable[Step], others: int = 4) -> Iterator[Told]:
    """For each token of a single row: the model's own probabilities, before temperature and filters."""
    for step in steps:
        z = step.logits[0].astype(np.float64)
        p = np.exp(z - z.max())
        p /= p.sum()
        token = int(step.tokens[0])
        likeliest = np.argsort(-p, kind="stable")[: others + 1]
        yield Told(token, float(p[token]), [(int(i), float(p[i])) for i in likeliest if i != token][:others])
