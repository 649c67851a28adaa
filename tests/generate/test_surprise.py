"""Tests of the probabilities of generated tokens, which must not depend on the sampling options."""

import math
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.generate.surprise import TokenSurprise, token_surprises


def test_probabilities_are_those_of_the_model_and_runners_up_are_the_likeliest_others() -> None:
    model = GPT(ModelConfig(vocab_size=12, context_length=8, d_model=8, n_layers=1, n_heads=2), seed=3)
    model.parameters.flat[...] *= 30
    options: dict[str, Any] = {"temperature": 2.0, "top_k": 6, "repetition_penalty": 1.5, "seeds": [4]}
    tokens = [1, 2, 3]
    for generated in token_surprises(model.steps([tokens], 8, **options), others=3):
        z = model.logits([tokens[-8:]])[0, -1].astype(np.float64)
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        others = [int(i) for i in np.argsort(-p) if i != generated.token][:3]
        assert generated.probability == pytest.approx(p[generated.token], rel=1e-4)
        assert [token for token, _ in generated.runners_up] == others
        assert [probability for _, probability in generated.runners_up] == pytest.approx(p[others], rel=1e-4)
        tokens.append(generated.token)
    assert tokens == model.generate([[1, 2, 3]], 8, **options)[0].tolist()


@pytest.mark.parametrize("probability, bits", [(1.0, 0), (0.5, 1), (0.125, 3), (0.0, math.inf)])
def test_surprise_is_in_bits(probability: float, bits: float) -> None:
    assert TokenSurprise(0, probability, []).surprise == bits


def test_a_line_has_the_token_and_the_runners_up() -> None:
    line = TokenSurprise(1, 0.25, [(2, 0.5), (0, 0.125)]).line("abc".__getitem__)
    assert line.plain.split() == ["25.0%", "b", "c", "50.0%", "a", "12.5%"]
