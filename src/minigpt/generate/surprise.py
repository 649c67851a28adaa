"""The probability of each generated token, and its likeliest alternatives."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minigpt.np.generation import GenerationStep

if TYPE_CHECKING:
    from rich.text import Text

COLORS = ((1.0, "green"), (3.0, "cyan"), (6.0, "yellow"), (math.inf, "red"))
"The color of a token by its surprise: pairs of an inclusive upper bound, in bits, and a color."


@dataclass(frozen=True)
class TokenSurprise:
    """A generated token, its probability, and the likeliest other tokens."""

    token: int
    probability: float
    runners_up: list[tuple[int, float]]
    "The likeliest other tokens with their probabilities, in descending order."

    @property
    def surprise(self) -> float:
        """The surprisal of the token in bits, -log2(probability): 0 for a certain token, 1 for a probability of one half."""
        return -math.log2(self.probability) if self.probability else math.inf

    def line(self, name: Callable[[int], str]) -> "Text":
        """Return one line for the terminal; `name` converts a token id to text."""
        from rich.text import Text

        color = next(color for bound, color in COLORS if self.surprise <= bound)
        others = "  ".join(f"{name(token)} {p:.1%}" for token, p in self.runners_up)
        return Text.assemble(f"{self.probability:7.1%}  ", (f"{name(self.token):24}", color), f"  {others}")


def token_surprises(steps: Iterable[GenerationStep], others: int = 4) -> Iterator[TokenSurprise]:
    """Yield the surprise of each token of a single generated text, with up to `others` runners-up.

    The probabilities are those of the model, before the repetition penalty, the temperature and the filters of sampling.
    """
    for step in steps:
        z = step.logits[0].astype(np.float64)
        p = np.exp(z - z.max())
        p /= p.sum()
        token = int(step.tokens[0])
        likeliest = np.argsort(-p, kind="stable")[: others + 1]
        yield TokenSurprise(token, float(p[token]), [(int(i), float(p[i])) for i in likeliest if i != token][:others])
