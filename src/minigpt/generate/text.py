"""Generate text from text prompts."""

from collections.abc import Iterator, Sequence
from typing import Unpack

from minigpt.data.tokenizer import Tokenizer
from minigpt.np.generation import GenerationStep, Overflow
from minigpt.np.model import GPT
from minigpt.np.sampling import SamplingOptions

DEFAULT_SAMPLING: SamplingOptions = {"temperature": 0.8, "top_k": 40}
"The sampling options of generated text; keyword arguments override them."


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
    """Yield the continuation of a prompt in chunks of complete characters.

    As in training, the tokenizer's begin-of-text token precedes the prompt. The text ends before the first stop token (by
    default the end-of-text or begin-of-text token) or before the first of the strings in `stop`, neither of which is part of
    it. The default sampling has temperature 0.8 and top-k 40; see `minigpt.np.sampling.Sampling` for the options, and
    `GPT.stream` for `overflow`.

    Raises `ValueError` at the call, and not at the first chunk, if an argument is invalid.
    """
    generator = TextGenerator(model, tokenizer, [prompt], max_new_tokens, [seed], stop, stop_tokens, overflow, **sampling)
    return (chunk for (chunk,) in generator.chunks())


class TextGenerator:
    """Continue several prompts in one batch, each with its own seed. The arguments are those of `stream_text`."""

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
            raise ValueError("a stop string is empty, but must have at least one character")
        options: SamplingOptions = {**DEFAULT_SAMPLING, **sampling}
        stop_ids = {tokenizer.end_of_text, tokenizer.begin_of_text} if stop_tokens is None else set(stop_tokens)
        encoded = [tokenizer.encode(prompt) for prompt in prompts]
        self.n = len(prompts)
        self._rows = [TextRow(tokenizer, ids, stop, stop_ids) for ids in encoded]
        self.steps: Iterator[GenerationStep] = model.steps(
            [[tokenizer.begin_of_text, *ids] for ids in encoded],
            max_new_tokens,
            seeds=seeds,
            stop_tokens=lambda b, token: self._rows[b].push(token),
            overflow=overflow,
            n_ids=tokenizer.vocab_size,
            **options,
        )
        "The generation steps. `chunks` consumes this iterator, so use either one."

    def chunks(self) -> Iterator[list[str]]:
        """Yield, after each token, the new text of each row. It is often empty."""
        for _ in self.steps:
            yield [row.take() for row in self._rows]
        yield [row.finish() for row in self._rows]


class TextRow:
    """The generated text of one row. Text that may be the beginning of a stop string is held back until that is decided."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], stop_tokens: set[int]) -> None:
        self._text = tokenizer.stream(prompt)
        self._stop, self._stop_tokens = stop, stop_tokens
        self._ready, self._held = "", ""
        self._ended = False

    def push(self, token: int) -> bool:
        """Append a token; return whether the text ends here."""
        if token in self._stop_tokens:
            return True
        self._held += self._text.push(token)
        if (end := self._find_stop(self._held)) is not None:
            self._ready, self._held, self._ended = self._ready + self._held[:end], "", True
            return True
        kept = max((n for s in self._stop for n in range(1, len(s)) if self._held.endswith(s[:n])), default=0)
        cut = len(self._held) - kept
        self._ready, self._held = self._ready + self._held[:cut], self._held[cut:]
        return False

    def take(self) -> str:
        """Return the text that became available since the last call."""
        ready, self._ready = self._ready, ""
        return ready

    def finish(self) -> str:
        """Return the remaining text, once there are no more tokens."""
        if self._ended:
            return self.take()
        rest = self._held + self._text.finish()
        return self.take() + rest[: self._find_stop(rest)]

    def _find_stop(self, text: str) -> int | None:
        """Return the index of the first stop string in `text`, or None."""
        return min((index for s in self._stop if (index := text.find(s)) >= 0), default=None)
