"""Text in, text out: stories told by a model."""

from collections.abc import Iterator

from minigpt.data.tokenizer import Tokenizer
from minigpt.np.model import GPT


def stream_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str = "",
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = 40,
    seed: int = 0,
) -> Iterator[str]:
    """Yield the continuation of a prompt piece by piece, whole characters only, until the end of text.

    The model is shown an end of text before the prompt, as it saw it before each document in training. Temperature 0 takes the
    likeliest token, else tokens are drawn among the `top_k` likeliest (None: all).
    """
    ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    text = tokenizer.stream()
    for (token,) in model.stream([ids], max_new_tokens, temperature, top_k, [seed]):
        if token == tokenizer.end_of_text:
            break
        yield text.push(int(token))
    yield text.finish()
