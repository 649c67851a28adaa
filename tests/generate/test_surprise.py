"""How sure a model was: its own probabilities, whatever the sampling made of them."""

import math
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.generate.surprise import Told, surprises


def test_probabilities_are_the_models_own_and_runners_up_the_likeliest_others() -> None:
    model = GPT(ModelConfig(vocab_size=12, context_length=8, d_model=8, n_layers=1, n_heads=2), seed=3)
    model.parameters.flat[...] *= 30
    how: dict[str, Any] = {"temperature": 2.0, "top_k": 6, "repetition_penalty": 1.5, "seeds": [4]}
    text = [1, 2, 3]
    for told in surprises(model.steps([text], 8, **how), others=3):
        z = model.logits([text[-8:]])[0, -1].astype(np.float64)
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        others = [int(i) for i in np.argsort(-p) if i != told.token][:3]
        assert told.probability == pytest.approx(p[told.token], rel=1e-4)
        assert [token for token, _ in told.runners_up] == others
        assert [each for _, each in told.runners_up] == pytest.approx(p[others], rel=1e-4)
        text.append(told.token)
    assert text == model.generate([[1, 2, 3]], 8, **how)[0].tolist()


@pytest.mark.parametrize("probability, bits", [(1.0, 0), (0.5, 1), (0.125, 3), (0.0, math.inf)])
def test_surprise_is_counted_in_bits(probability: float, bits: float) -> None:
    assert Told(0, probability, []).surprise == bits


def test_a_line_names_the_token_and_the_others() -> None:
    line = Told(1, 0.25, [(2, 0.5), (0, 0.125)]).line("abc".__getitem__)
    assert line.plain.split() == ["25.0%", "b", "c", "50.0%", "a", "12.5%"]
