"""Stories for the view "Write": one token after the other, each with its alternatives."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt.np.sampling import Sampling, SamplingOptions
from minigpt.np.workspace import Array
from minigpt.page.inside import best
from minigpt.page.traced import Tracer

ALTERNATIVES = 10
MAX_NEW_TOKENS = 1000


@dataclass(frozen=True)
class Story:
    """A story to write: its beginning, and how it goes on."""

    prompt: str
    ids: tuple[int, ...]
    "Tokens that follow the prompt, if an earlier story is continued."
    step: int | None
    seed: int
    sampling: SamplingOptions
    max_new_tokens: int
    skip: int = 0
    "The number of generated tokens that the reader already has."


def write(tracer: Tracer, story: Story) -> Iterator[dict[str, Any]]:
    """Yield the tokens of the prompt and the command that repeats the story, then each new token, and why the story ends.

    The tokens are those that `minigpt sample` generates with the same options.
    """
    tokenizer = tracer.subject.tokenizer
    model, sampler = tracer.subject.model(story.step), Sampling(**story.sampling)
    prompt = [*tokenizer.encode(story.prompt), *story.ids]
    ends = {tokenizer.end_of_text, tokenizer.begin_of_text}
    steps = model.steps(
        [[tokenizer.begin_of_text, *prompt]],
        story.max_new_tokens,
        seeds=[story.seed],
        stop_tokens=tuple(ends),
        n_ids=tokenizer.vocab_size,
        **story.sampling,
    )
    stream = tokenizer.stream()
    yield {"prompt": [[i, stream.push(i)] for i in prompt], "command": command(tracer, story, prompt)}
    seen, token = [tokenizer.begin_of_text, *prompt], None
    for n, step in enumerate(steps):
        token = int(step.tokens[0])
        if token in ends:
            break
        piece = stream.push(token)
        if n >= story.skip:
            yield {"id": token, "text": piece, **choices(tracer, sampler, step.logits[0], seen, token)}
        seen.append(token)
    yield {
        "end": "the story has ended" if token in ends else f"{story.max_new_tokens} tokens have been written",
        "rest": stream.finish(),
    }


def choices(tracer: Tracer, sampler: Sampling, logits: Array, seen: list[int], token: int) -> dict[str, Any]:
    """Return the probability of a token, and the likeliest ones with their probabilities before and after the sampling's cuts."""
    z = logits.astype(np.float64)
    p = np.exp(z - z.max())
    p /= p.sum()
    q = np.zeros(len(p))
    if sampler.temperature == 0:
        q[int(sampler.penalize(logits, seen).argmax())] = 1
    else:
        kept, probabilities = sampler.probabilities(logits, seen)
        q[kept] = probabilities
    top = [[i, text, probability, float(q[i])] for i, text, probability in best(tracer, p, ALTERNATIVES)]
    return {"p": float(p[token]), "bits": -math.log2(max(p[token], 1e-300)), "top": top, "kept": int((q > 0).sum())}


def command(tracer: Tracer, story: Story, prompt: list[int]) -> str:
    """Return the command that writes the same story.

    The prompt is given as text if its tokens are those of the text, which is not so for every continuation of a story.
    """
    tokenizer, s = tracer.subject.tokenizer, story.sampling
    where = str(tracer.subject.where) + ("" if story.step is None else f"@{story.step}")
    text = tokenizer.decode(prompt)
    as_text = "\0" not in text and tokenizer.encode(text) == prompt  # an argument cannot have a null character
    begin = [f"--prompt={text}"] if as_text else ["--prompt-ids", *map(str, [tokenizer.begin_of_text, *prompt])]
    options = {
        "temperature": s.get("temperature"),
        "top-k": s.get("top_k") or 0,
        "top-p": s.get("top_p"),
        "min-p": s.get("min_p"),
    }
    given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    words = [*given, "--seed", str(story.seed), "--max-new-tokens", str(story.max_new_tokens)]
    return shlex.join(["minigpt", "sample", where, *(begin if text else []), *words])
