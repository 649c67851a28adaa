"""Text in, text out: stories told by a model."""

from collections.abc import Iterator, Sequence
from typing import Unpack

from minigpt.data.tokenizer import Tokenizer
from minigpt.np.generation import Overflow, Step
from minigpt.np.model import GPT
from minigpt.np.sampling import SamplingOptions

USUAL: SamplingOptions = {"temperature": 0.8, "top_k": 40}
"How text is sampled unless one says otherwise."


def stream_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str = "",
    max_new_tokens: int = 200,
    *,
    seed: int = 0,
    stop: Sequence[str] = (),
    stop_tokens: Sequence[int] | None = None,
    overflow: Overflow = "slide",
    **sampling: Unpack[SamplingOptions],
) -> Iterator[str]:
    """Yield the continuation of a prompt piece by piece, whole characters only, until the end of text.

    The model is shown the beginning of a text before the prompt, as it was in training. The text ends before a stop token (by
    default the end of a text, or the beginning of another) and before any of the strings `stop`. Tokens are drawn at temperature
    0.8 among the 40 likeliest, unless `sampling` says otherwise (see `minigpt.np.sampling.Sampling`); `overflow` is as in
    `GPT.stream`.
    """
    telling = Telling(model, tokenizer, [prompt], max_new_tokens, [seed], stop, stop_tokens, overflow, **sampling)
    return (piece for (piece,) in telling.pieces())


class Telling:
    """Continuations of several prompts at once, one seed for each. The arguments are those of `stream_text`."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        max_new_tokens: int,
        seeds: Sequence[int],
        stop: Sequence[str] = (),
        stop_tokens: Sequence[int] | None = None,
        overflow: Overflow = "slide",
        **sampling: Unpack[SamplingOptions],
    ) -> None:
        if not all(stop):
            raise ValueError("a stop string is empty: every text would end before it began")
        usual: SamplingOptions = {**USUAL, **sampling}
        ends = {tokenizer.end_of_text, tokenizer.begin_of_text} if stop_tokens is None else set(stop_tokens)
        encoded = [tokenizer.encode(prompt) for prompt in prompts]
        self.n = len(prompts)
        self._rows = [Row(tokenizer, ids, stop, ends) for ids in encoded]
        self.steps: Iterator[Step] = model.steps(
            [[tokenizer.begin_of_text, *ids] for ids in encoded],
            max_new_tokens,
            seeds=seeds,
            stop_tokens=lambda b, token: self._rows[b].push(token),
            overflow=overflow,
            n_ids=tokenizer.vocab_size,
            **usual,
        )
        "The steps as they are made; whoever takes them from here gets no `pieces`."

    def pieces(self) -> Iterator[list[str]]:
        """After each token: the new text of each row, which is often nothing."""
        for _ in self.steps:
            yield [row.take() for row in self._rows]
        yield [row.finish() for row in self._rows]


class Row:
    """The text of one row. What could be the beginning of a stop string is held back until it is known not to be."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], stop_tokens: set[int]) -> None:
        self._text = tokenizer.stream(prompt)
        self._stop, self._stop_tokens = stop, stop_tokens
        self._ready, self._held = "", ""
        self._ended = False

    def push(self, token: int) -> bool:
        """One more token; returns whether the text ends here."""
        if token in self._stop_tokens:
            return True
        self._held += self._text.push(token)
        if (end := self._end_of(self._held)) is not None:
            self._ready, self._held, self._ended = self._ready + self._held[:end], "", True
            return True
        kept = max((n for s in self._stop for n in range(1, len(s)) if self._held.endswith(s[:n])), default=0)
        cut = len(self._held) - kept
        self._ready, self._held = self._ready + self._held[:cut], self._held[cut:]
        return False

    def take(self) -> str:
        """The text since the last time."""
        ready, self._ready = self._ready, ""
        return ready

    def finish(self) -> str:
        """What is left when no more tokens come."""
        if self._ended:
            return self.take()
        rest = self._held + self._text.finish()
        return self.take() + rest[: self._end_of(rest)]

    def _end_of(self, text: str) -> int | None:
        """Where the first stop string begins."""
        return min((place for s in self._stop if (place := text.find(s)) >= 0), default=None)
