"""What the view "Look inside" shows: surprise, attention, the logit lens, the residual stream and attribution."""

import math
from typing import Any

import numpy as np

from minigpt.np.config import ModelConfig
from minigpt.np.ops import softmax
from minigpt.np.trace import Trace
from minigpt.np.workspace import Array
from minigpt.page.arrays import encoded
from minigpt.page.traced import Traced, Tracer

ALTERNATIVES = 10
LENS = 3
"The number of predictions at each position: of the model, and of the logit lens."


def inside(tracer: Tracer, traced: Traced) -> dict[str, Any]:
    """Return the quantities of a trace that the view shows at once. Lists have one element for each token of the text."""
    t, config = traced.trace, traced.trace.config
    return {
        **tokens_of(tracer, traced),
        "step": traced.question.step,
        "loss": t.loss,
        "attention": encoded(np.stack([t[f"blocks.{i}.attention.weights"][0] for i in range(config.n_layers)])),
        "lens": lens(tracer, traced),
        "streams": streams(config),
        "residual_norms": encoded(residual_norms(t)),
    }


def streams(config: ModelConfig) -> list[str]:
    """Return the names of the residual stream after the embedding and after each branch."""
    return ["embedding", *(f"blocks.{i}.residual_{part}" for i in range(config.n_layers) for part in ("mid", "post"))]


def residual_norms(t: Trace) -> Array:
    """Return the norm of the residual stream at each of `streams` and each position."""
    return np.stack([np.linalg.norm(t[name][0], axis=-1) for name in streams(t.config)])


def tokens_of(tracer: Tracer, traced: Traced) -> dict[str, Any]:
    """Return the tokens, their surprise in bits, that of the storybook, and the likeliest tokens in the place of each one."""
    probabilities = traced.trace.probabilities()[0]
    likeliest = [best(tracer, row, ALTERNATIVES) for row in probabilities[:-1]]
    return {
        "tokens": traced.pieces,
        "ids": traced.ids,
        "surprise": traced.surprise,
        "storybook": storybook_bits(tracer, traced),
        "likeliest": [None, *likeliest],
    }


def best(tracer: Tracer, probabilities: np.ndarray, count: int) -> list[tuple[int, str, float]]:
    """Return the ids, the texts and the probabilities of the likeliest tokens."""
    known = probabilities[: tracer.subject.tokenizer.vocab_size]  # a model can have more ids than its tokenizer
    candidates = np.flatnonzero(known >= np.partition(known, -count)[-count]) if count < len(known) else np.arange(len(known))
    order = candidates[np.argsort(-known[candidates], kind="stable")][:count]
    return [(int(i), tracer.piece(int(i)), float(known[i])) for i in order]


def storybook_bits(tracer: Tracer, traced: Traced) -> list[float | None] | None:
    """Return the information content of each token in bits, if the text is that of a storybook's story or of its beginning."""
    bits = tracer.storybook_bits(traced.ids[1:])
    return [None, *bits] if all(map(math.isfinite, bits)) else None


def lens(tracer: Tracer, traced: Traced) -> list[list[dict[str, Any]]]:
    """Return what the model would predict after the embedding and after each block, for each position.

    Each element has the likeliest tokens and, where the next token is known, its probability and its rank.
    """
    probabilities, _ = softmax(traced.trace.logit_lens()[:, 0].astype(np.float64))
    rows = []
    for layer in probabilities:
        cells: list[dict[str, Any]] = [{"best": [(text, p) for _, text, p in best(tracer, row, LENS)]} for row in layer]
        for cell, row, target in zip(cells, layer, traced.ids[1:], strict=False):
            cell |= {"p": float(row[target]), "rank": 1 + int((row > row[target]).sum())}
        rows.append(cells)
    return rows


def attribution(tracer: Tracer, traced: Traced, position: int, token: int | None = None) -> dict[str, Any]:
    """Return the share of each part of the model in the logit of a token, by default the one that follows the position."""
    t = traced.trace
    if token is None and 0 <= position < len(traced.ids) - 1:
        token = traced.ids[position + 1]
    shares = t.attribution(position, token)
    chosen = int(t["logits"][0, position].argmax()) if token is None else token
    return {
        "token": tracer.piece(chosen),
        "logit": float(t["logits"][0, position, chosen]),
        "shares": [[name, share] for name, share in shares.items()],
    }
