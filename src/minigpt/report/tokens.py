"""Render the tokens of a sample as HTML, each in a box whose color and underline show its surprise."""

import html
from itertools import pairwise

from minigpt.data.printable import printable
from minigpt.report.elements import Token

LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0)
"The lower bounds, in bits, of the levels 1 to 5 of surprise. The style sheet has a color and an underline for each."


def html_tokens(tokens: tuple[Token, ...]) -> str:
    """Return one `<span>` for each token, with its surprise as title."""
    return "".join(map(_token, tokens))


def level(bits: float) -> int:
    """Return the level of surprise, 0 to 5; a surprisal that is not finite has the highest.

    >>> [level(bits) for bits in (0, 0.5, 3.9, 4, float("inf"), float("nan"))]
    [0, 1, 3, 4, 5, 5]
    """
    return sum(not bits < bound for bound in LEVELS)


def _token(token: Token) -> str:
    text = html.escape(printable(token.text)).replace("\n", '<span class="newline"></span>\n')
    return f'<span class="{_classes(level(token.bits))}" title="{token.bits:.3g} bits">{text}</span>'


def _classes(level: int) -> str:
    return f"token level-{level}" if level else "token"


def html_legend() -> str:
    """Return the explanation of the boxes and colors."""
    bounds = [f"{bound:g}" for bound in LEVELS]
    ranges = [f"under {bounds[0]}", *(f"{low} to {high}" for low, high in pairwise(bounds))]
    names = [*ranges, f"{bounds[-1]} and more"]
    boxes = "\n".join(f'<span class="{_classes(i)}">{name}</span>' for i, name in enumerate(names))
    return f"""<p class="legend">Each box is a token. The stronger its color and the thicker its underline, the more it surprised
the model, in bits:
{boxes}
A token with a probability of 1/2 has 1 bit, one with a probability of 1/16 has 4 bits. The probabilities are those of the
model, before the temperature and top-k of the sampling.</p>"""
