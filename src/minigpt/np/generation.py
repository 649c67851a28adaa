"""Generation: one pass over the prompts, then token after token, remembering keys and values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from minigpt.np.config import ModelConfig
from minigpt.np.network import forward, head_weight
from minigpt.np.parameters import Parameters
from minigpt.np.past import Past
from minigpt.np.plan import Plan
from minigpt.np.sampling import Sampling
from minigpt.np.workspace import Array, Workspace

Overflow = Literal["slide", "refuse"]
Ends = Callable[[int, int], bool]
"(row, its new token) -> whether the row ends with it. It is asked once for each new token."
WORDS = 1000  # logits of so many words at a time, where there are several texts
ENDED = -1
"In place of a token, in a row that has ended."


@dataclass(frozen=True)
class Step:
    """One more token for each row of a batch."""

    tokens: Array
    "The new tokens, (B,); `ENDED` in rows that had ended before."
    rows: Array
    "Which rows had not, (n,)."
    logits: Array
    "What their tokens were chosen by, (n, V)."


def steps(
    p: Parameters,
    config: ModelConfig,
    prompts: Sequence[Array],
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    ends: Ends,
    overflow: Overflow = "slide",
    n_ids: int | None = None,
) -> Iterator[Step]:
    """Continue prompts, each (T,), until all have ended or each has `max_new_tokens` more. See `GPT.stream`.

    Each row gets the tokens it would get alone, but for rounding: rows share nothing but the work.
    """
    longest = max(map(len, prompts)) + max_new_tokens
    if overflow not in get_args(Overflow):
        raise ValueError(f"overflow is {overflow!r}, but must be one of: {', '.join(get_args(Overflow))}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, but must be 0 or more")
    if overflow == "refuse" and longest > config.context_length:
        raise ValueError(
            f"the longest prompt with {max_new_tokens} new tokens has {longest}, "
            f"but the model's context_length is {config.context_length}"
        )

    def make() -> Iterator[Step]:  # a generator of its own, so that what is wrong is said at once and not at the first step
        texts = [row.tolist() for row in prompts]
        rngs = [np.random.default_rng(seed) for seed in seeds]
        alive = np.arange(len(texts))
        context = Context(p, config, texts, max_new_tokens)
        for _ in range(max_new_tokens):
            logits = context.next_logits()[:, :n_ids]
            tokens = np.full(len(texts), ENDED)
            for b, row in zip(alive, logits, strict=True):
                tokens[b] = sampling.choose(row, texts[b], rngs[b])
                texts[b].append(int(tokens[b]))
            going_on = np.array([not ends(int(b), int(tokens[b])) for b in alive])
            yield Step(tokens, alive, logits)
            if not going_on.any():
                return
            if not going_on.all():
                alive = alive[going_on]
                context.select(going_on)

    return make()


class Context:
    """Texts that grow token by token, and what the model remembers of them. Whoever holds `texts` makes them grow."""

    def __init__(self, p: Parameters, config: ModelConfig, texts: Sequence[list[int]], max_new_tokens: int) -> None:
        self._p, self._config, self._texts = p, config, list(texts)
        capacity = min(config.context_length, max(map(len, texts)) + max_new_tokens)
        self._past = Past(config, len(texts), capacity, p.flat.dtype)
        self._plan = Plan(p, config, len(texts), self._past)
        self._workspace = Workspace()

    def next_logits(self) -> Array:
        """Scores of every possible next token of each text: (B, V).

        Beyond context_length every position shifts with each new token, and with it every key: all is computed again.
        """
        limit = self._config.context_length
        if not self._past.lengths.any():
            return self._whole(self._texts, self._past)
        beyond = np.array([len(text) > limit for text in self._texts])
        if beyond.all():
            return self._whole(self._texts)
        self._past.lengths[beyond] = limit - 1  # what is remembered of them is of no more use: it may be overwritten
        newest = np.array([[text[-1]] for text in self._texts])
        logits = self._head(self._plan(newest)[:, 0])
        if beyond.any():
            logits[beyond] = self._whole([text for text, is_beyond in zip(self._texts, beyond, strict=True) if is_beyond])
        return logits

    def select(self, rows: Array) -> None:
        """Forget all texts but these: rows (B,) says of each whether it stays."""
        self._texts = [text for text, stays in zip(self._texts, rows, strict=True) if stays]
        self._past.select(rows)
        self._plan = Plan(self._p, self._config, len(self._texts), self._past)

    def _whole(self, texts: Sequence[list[int]], past: Past | None = None) -> Array:
        """The same in one pass over the last context_length tokens of each text.

        Shorter texts are filled up behind their end, where no query of theirs can see it.
        """
        windows = [text[-self._config.context_length :] for text in texts]
        lengths = np.array([len(window) for window in windows])
        tokens = np.zeros((len(windows), lengths.max()), np.intp)
        for row, window in zip(tokens, windows, strict=True):
            row[: len(window)] = window
        with self._workspace.scratch():
            x, _ = forward(tokens, self._p, self._config, self._workspace, keep=False, past=past)
            if past is not None:
                past.lengths[...] = lengths
            return self._head(x[np.arange(len(x)), lengths - 1])

    def _head(self, x: Array) -> Array:
        """Logits of x (n, D): (n, V). For several rows some words at a time, their weight on the left: BLAS copies the least."""
        weight = head_weight(self._p, self._config)
        if len(x) == 1:
            return np.matmul(x, weight.T)
        columns = np.ascontiguousarray(x.T)
        logits = np.empty((len(x), len(weight)), x.dtype)
        for start in range(0, len(weight), WORDS):
            words = slice(start, start + WORDS)
            logits[:, words] = np.matmul(weight[words], columns).T
        return logits
