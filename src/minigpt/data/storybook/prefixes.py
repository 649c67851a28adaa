"""The probability that a story of the storybook begins with a text.

The generator is run on all choices at once, as a set of unfinished derivations that agree with the text so far. Those that do not
agree are dropped, so that there are never many. The sum of their probabilities is that of the text as a beginning.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from minigpt.data.storybook import _grammar
from minigpt.data.storybook.engine import Choice, Mention, Node, Word
from minigpt.data.storybook.engine import Sequence as NodeSequence

Rest = tuple[Node | str, "Rest"] | None
"What remains to be generated: the next node, and the rest after it."


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A derivation whose text agrees with the beginning of the given one."""

    probability: float
    rest: Rest
    pending: bytes = b""
    "Text that is generated already, but has not been compared yet."
    position: int = 0
    "The number of bytes that have been compared."
    roles: Mapping[str, Word] = field(default_factory=dict)
    remaining: Mapping[str, tuple[Word, ...]] = field(default_factory=dict)

    def successors(self) -> Iterator["Unfinished"]:
        """Yield the derivations after the next node: one for each of its options."""
        assert self.rest
        node, rest = self.rest
        if isinstance(node, str):
            yield replace(self, pending=node.encode(), rest=rest)
        elif isinstance(node, NodeSequence):
            for part in reversed(node.parts):
                rest = part, rest
            yield replace(self, rest=rest)
        elif isinstance(node, Choice):
            share = self.probability / len(node.options)
            yield from (replace(self, probability=share, rest=(option, rest)) for option in node.options)
        elif word := self.roles.get(node.role):
            yield replace(self, pending=word.forms[node.form].encode(), rest=rest)
        else:
            yield from self._draw(node, rest)

    def _draw(self, node: Mention, rest: Rest) -> Iterator["Unfinished"]:
        """Yield the derivations in which a role gets each of the words that are left for it."""
        words = self.remaining.get(node.kind, node.words)
        for i, word in enumerate(words):
            yield replace(
                self,
                probability=self.probability / len(words),
                rest=rest,
                pending=word.forms[node.form].encode(),
                roles={**self.roles, node.role: word},
                remaining={**self.remaining, node.kind: words[:i] + words[i + 1 :]},
            )


def token_bits(pieces: Sequence[bytes], complete: bool = False) -> list[float]:
    """Return the information content of each piece of a story in bits, given the pieces before it.

    This is -log2 of the probability of the piece under the grammar, and so the lowest surprise that a model can have on average.
    With `complete`, a last element is added: the information that the story ends there. All elements then add up to `Story.bits`.
    From the first piece on that cannot continue any story, the elements are infinite.

    >>> from minigpt.data import storybook
    >>> story = next(storybook.stories(1, seed=7))
    >>> pieces = [word.encode() for word in story.text.split(" ")]
    >>> pieces[1:] = [b" " + piece for piece in pieces[1:]]
    >>> bits = token_bits(pieces, complete=True)
    >>> abs(sum(bits) - story.bits) < 1e-6
    True
    """
    text, end, total = b"".join(pieces), 0, [0.0]
    unfinished = [Unfinished(1.0, (_grammar(), None))]
    for piece in pieces:
        end += len(piece)
        unfinished = list(_agreeing(unfinished, text, end))
        total.append(_information(unfinished))
    if complete:
        total.append(_information(list(_complete(unfinished))))
    return [after - before if math.isfinite(before) else math.inf for before, after in pairwise(total)]


def _information(unfinished: Sequence[Unfinished]) -> float:
    """Return -log2 of the sum of the probabilities."""
    probability = math.fsum(u.probability for u in unfinished)
    return -math.log2(probability) if probability else math.inf


def _agreeing(unfinished: list[Unfinished], text: bytes, end: int) -> Iterator[Unfinished]:
    """Yield the continuations of derivations whose text agrees with text[:end]."""
    stack = list(unfinished)
    while stack:
        u = stack.pop()
        if u.pending:
            compared = min(len(u.pending), end - u.position)
            if u.pending[:compared] != text[u.position : u.position + compared]:
                continue
            u = replace(u, pending=u.pending[compared:], position=u.position + compared)
        if u.position == end:
            yield u
        elif u.rest:
            stack += u.successors()


def _complete(unfinished: list[Unfinished]) -> Iterator[Unfinished]:
    """Yield the derivations that end without further text."""
    stack = list(unfinished)
    while stack:
        u = stack.pop()
        if u.pending:
            continue
        if u.rest:
            stack += u.successors()
        else:
            yield u
