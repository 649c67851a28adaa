"""From logits to the next token."""

import numpy as np

from minigpt.np.workspace import Array


def next_token(logits: Array, temperature: float, top_k: int | None, rng: np.random.Generator) -> int:
    """Choose a token: the likeliest at temperature 0, else drawn from softmax(logits / temperature) over the top_k likeliest.

    logits (V,). A temperature below 1 sharpens the distribution, above 1 flattens it.

    >>> next_token(np.array([0.0, 3.0, 1.0]), temperature=0, top_k=None, rng=np.random.default_rng(0))
    1
    """
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits.astype(np.float64) - logits.max()) / temperature
    if top_k is not None and top_k < len(scaled):
        scaled[scaled < np.partition(scaled, -top_k)[-top_k]] = -np.inf
    cumulative = np.exp(scaled).cumsum()
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def check_sampling(temperature: float, top_k: int | None) -> None:
    """Raises `ValueError` for a temperature below 0 or a top_k below 1."""
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}, but must be 0 (the likeliest token) or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}, but must be at least 1")
