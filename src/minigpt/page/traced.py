"""Traces of a text, which the views of the page read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from minigpt.data.storybook.prefixes import token_bits
from minigpt.np.config import ModelConfig
from minigpt.np.loss import IGNORE_INDEX
from minigpt.np.trace import Trace
from minigpt.np.watch import Patch
from minigpt.np.workspace import Array
from minigpt.page.subject import Cache, Subject

TRACE_MEMORY = 256 << 20
"The memory of the traces that are kept, in bytes."
TEXTS = 16
"The number of texts whose information content is kept."
MAX_TOKENS = 256
"The largest number of tokens of a text that is traced: the arrays of attention are quadratic in it."


@dataclass(frozen=True)
class Question:
    """What is traced: a text, with the weights after a step, and without some parts of the model."""

    text: str
    step: int | None = None
    target: int | None = None
    "The position of the token whose loss is followed backwards, at least 1. None is the mean over all tokens."
    off: tuple[str, ...] = ()
    "The parts that are switched off, such as blocks.1.attention.heads.2, blocks.0.attention or blocks.2.feed_forward."


@dataclass(frozen=True)
class Traced:
    """A text, its tokens, and the trace that belongs to it. The first token is the beginning of the text."""

    question: Question
    ids: tuple[int, ...]
    pieces: list[str]
    trace: Trace

    @property
    def surprise(self) -> list[float | None]:
        """The surprise of each token in bits, given the tokens before it; None for the first one."""
        all_targets = replace(self.trace, targets=next_tokens(self.ids))
        return [None, *(float(bits) for bits in all_targets.surprise()[0, :-1])]


class Tracer:
    """Traces texts with the models of a subject, and keeps the last traces."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._traces: Cache[Traced] = Cache(TRACE_MEMORY, _size)
        self._pieces: dict[int, str] = {}
        self._bits: Cache[list[float]] = Cache(TEXTS, lambda bits: 1)

    def __call__(self, question: Question, gradients: bool = True) -> Traced:
        """Return the trace that a question asks for. Raises `ValueError` if the text is too long, or a part does not exist."""
        resolved = replace(question, step=self.subject.resolve(question.step))
        return self._traces.get((resolved, gradients), lambda: self._trace(resolved, gradients))

    def _trace(self, question: Question, gradients: bool) -> Traced:
        model = self.subject.model(question.step)
        ids = self.ids(question.text)
        trace = model.trace(
            [ids], targets_of(ids, question.target), patch=ablation(question.off, model.config), gradients=gradients
        )
        return Traced(question, tuple(ids), self.pieces(ids), trace)

    @property
    def limit(self) -> int:
        """The largest number of tokens of a text, without the one that begins it."""
        return min(self.subject.model().config.context_length, MAX_TOKENS) - 1

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text after the one that begins a text. Raises `ValueError` if there are too many or none."""
        ids = self.subject.tokenizer.input_ids(text)
        if not 2 <= len(ids) <= self.limit + 1:
            raise ValueError(f"the text has {len(ids) - 1:,} tokens, but must have from 1 to {self.limit}")
        return ids

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token; a token that ends within a character has a replacement character in its place."""
        return [piece.decode("utf-8", errors="replace") for piece in self.subject.tokenizer.pieces(ids)]

    def storybook_bits(self, ids: tuple[int, ...]) -> list[float]:
        """Return the information content of each token of a text under the grammar of the storybook."""
        return self._bits.get(ids, lambda: token_bits(self.subject.tokenizer.pieces(ids)))

    def piece(self, token: int) -> str:
        """Return the text of one token."""
        if token not in self._pieces:
            self._pieces[token] = self.pieces([token])[0]
        return self._pieces[token]


def _size(traced: Traced) -> int:
    """Return the memory of a trace in bytes, with the gradients of the parameters."""
    grads = traced.trace.parameter_grads
    return traced.trace.nbytes + (0 if grads is None else grads.flat.nbytes)


def next_tokens(ids: Sequence[int]) -> Array:
    """Return the targets (1, T) of a text: the token that follows each one, and none for the last."""
    return np.array([[*ids[1:], IGNORE_INDEX]])


def targets_of(ids: Sequence[int], target: int | None) -> Array:
    """Return the targets (1, T) of a text, or of one of its tokens alone."""
    targets = next_tokens(ids)
    if target is not None:
        if not 1 <= target < len(ids):
            raise ValueError(f"target is {target}, but must be the position of a token, from 1 to {len(ids) - 1}")
        targets[0, np.arange(len(ids)) != target - 1] = IGNORE_INDEX
    return targets


def ablation(off: Sequence[str], config: ModelConfig) -> dict[str, Patch]:
    """Return the patches that switch parts off. Raises `ValueError` for a name that is not that of a head or a branch.

    >>> sorted(ablation(["blocks.0.attention.heads.1", "blocks.0.feed_forward"], ModelConfig(vocab_size=9, n_heads=4)))
    ['blocks.0.attention.heads', 'blocks.0.feed_forward']
    """
    heads: dict[str, list[int]] = {}
    patches: dict[str, Patch] = {}
    for name in off:
        array, _, head = name.rpartition(".")
        if name in branches(config):
            patches[name] = (np.zeros_like, np.zeros_like)
        elif array.removesuffix(".heads") in branches(config) and head in map(str, range(config.n_heads)):
            heads.setdefault(array, []).append(int(head))
        else:
            raise ValueError(f"off has {name!r}, but must have names of heads or branches, such as {branches(config)[0]}.heads.0")
    without = {name: _without(indices) for name, indices in heads.items()}
    return patches | {name: (function, function) for name, function in without.items()}


def branches(config: ModelConfig) -> list[str]:
    """Return the names of the branches of all blocks."""
    return [f"blocks.{i}.{branch}" for i in range(config.n_layers) for branch in ("attention", "feed_forward")]


def _without(heads: list[int]) -> Callable[[Array], Array]:
    """Return a function that sets some heads to zero. It is linear, so it is its own backward pass."""

    def zero(x: Array) -> Array:
        x[:, heads] = 0
        return x

    return zero
