"""Generation: one pass over the prompts, then one token at a time with a key/value cache."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from minigpt.np.config import ModelConfig
from minigpt.np.context import Context
from minigpt.np.kv_cache import KVCache
from minigpt.np.network import forward, lm_head_weight
from minigpt.np.parameters import Parameters
from minigpt.np.recording import RecordedStep
from minigpt.np.sampling import Sampling
from minigpt.np.workspace import Arena, Array

Overflow = Literal["slide", "refuse"]
StopCondition = Callable[[int, int], bool]
"(row, its new token) -> whether the row is finished. It is called once for each new token."
VOCAB_CHUNK = 1000  # number of logits computed at a time for several rows
FINISHED = -1
"The value in place of a token in rows that have finished."


@dataclass(frozen=True)
class GenerationStep:
    """One new token for each row of a batch."""

    tokens: Array
    "The new tokens, (B,); `FINISHED` in rows that had finished before."
    rows: Array
    "Indices of the rows that had not finished, (n,)."
    logits: Array
    "The logits from which their tokens were chosen, (n, V)."


def generate_steps(
    p: Parameters,
    config: ModelConfig,
    prompts: Sequence[Array],
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    stop: StopCondition,
    overflow: Overflow = "slide",
    n_ids: int | None = None,
) -> Iterator[GenerationStep]:
    """Continue prompts, each (T,), until every row has finished or has `max_new_tokens` more tokens. See `GPT.stream`.

    The tokens of a row do not depend on the other rows, up to rounding errors.
    """
    longest = max(map(len, prompts)) + max_new_tokens
    if overflow not in get_args(Overflow):
        raise ValueError(f"overflow is {overflow!r}, but must be one of: {', '.join(get_args(Overflow))}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, but must be 0 or more")
    if overflow == "refuse" and longest > config.context_length:
        raise ValueError(
            f"the longest prompt and {max_new_tokens} new tokens make {longest}, "
            f"but the model's context_length is {config.context_length}"
        )

    def generate() -> Iterator[GenerationStep]:  # a separate generator, so that the errors above are raised by the call itself
        texts = [row.tolist() for row in prompts]
        rngs = [np.random.default_rng(seed) for seed in seeds]
        active = np.arange(len(texts))
        decoder = Decoder(p, config, texts, max_new_tokens)
        for _ in range(max_new_tokens):
            logits = decoder.next_logits()[:, :n_ids]
            tokens = np.full(len(texts), FINISHED)
            for b, row in zip(active, logits, strict=True):
                tokens[b] = sampling.choose(row, texts[b], rngs[b])
                texts[b].append(int(tokens[b]))
            unfinished = np.array([not stop(int(b), int(tokens[b])) for b in active])
            yield GenerationStep(tokens, active, logits)
            if not unfinished.any():
                return
            if not unfinished.all():
                active = active[unfinished]
                decoder.select(unfinished)

    return generate()


class Decoder:
    """Computes the next logits of several texts (lists of token ids), which the caller extends by one token at a time."""

    def __init__(self, p: Parameters, config: ModelConfig, texts: Sequence[list[int]], max_new_tokens: int) -> None:
        self._p, self._config, self._texts = p, config, list(texts)
        capacity = min(config.context_length, max(map(len, texts)) + max_new_tokens)
        self._kv_cache = KVCache(config, len(texts), capacity, p.flat.dtype)
        self._step = RecordedStep(p, config, len(texts), self._kv_cache)
        self._arena = Arena()

    def next_logits(self) -> Array:
        """Return the logits of the next token of each text, (B, V).

        Once a text is longer than context_length, each new token shifts all positions, so its window is computed again.
        """
        limit = self._config.context_length
        if not self._kv_cache.lengths.any():
            return self._prefill(self._texts, self._kv_cache)
        too_long = np.array([len(text) > limit for text in self._texts])
        if too_long.all():
            return self._prefill(self._texts)
        self._kv_cache.lengths[too_long] = limit - 1  # their cached keys are no longer used, and may be overwritten
        newest = np.array([[text[-1]] for text in self._texts])
        logits = self._logits(self._step(newest)[:, 0])
        if too_long.any():
            logits[too_long] = self._prefill([text for text, is_long in zip(self._texts, too_long, strict=True) if is_long])
        return logits

    def select(self, rows: Array) -> None:
        """Keep only some of the texts.  rows (B,) bool."""
        self._texts = [text for text, keep in zip(self._texts, rows, strict=True) if keep]
        self._kv_cache.select(rows)
        self._step = RecordedStep(self._p, self._config, len(self._texts), self._kv_cache)

    def _prefill(self, texts: Sequence[list[int]], kv_cache: KVCache | None = None) -> Array:
        """Return the next logits from one pass over the last context_length tokens of each text, filling the cache if given.

        Shorter texts are padded at the end, where the causal mask hides the padding.
        """
        windows = [text[-self._config.context_length :] for text in texts]
        lengths = np.array([len(window) for window in windows])
        tokens = np.zeros((len(windows), lengths.max()), np.intp)
        for row, window in zip(tokens, windows, strict=True):
            row[: len(window)] = window
        with self._arena.scratch():
            x, _ = forward(tokens, self._p, Context(self._config, self._arena, kv_cache=kv_cache, needs_grad=False))
            if kv_cache is not None:
                kv_cache.lengths[...] = lengths
            return self._logits(x[np.arange(len(x)), lengths - 1])

    def _logits(self, x: Array) -> Array:
        """x (n, D) -> logits (n, V).

        For several rows, the logits are computed for a chunk of the vocabulary at a time, with the weight as the left operand,
        because BLAS then copies the least.
        """
        weight = lm_head_weight(self._p, self._config)
        if len(x) == 1:
            return np.matmul(x, weight.T)
        columns = np.ascontiguousarray(x.T)
        logits = np.empty((len(x), len(weight)), x.dtype)
        for start in range(0, len(weight), VOCAB_CHUNK):
            chunk = slice(start, start + VOCAB_CHUNK)
            logits[:, chunk] = np.matmul(weight[chunk], columns).T
        return logits
