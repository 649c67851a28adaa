"""Fixtures of the tests of the model: small models with parameters that are not at their initial 0 and 1."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt import GPT, ModelConfig
from minigpt.np.config import LLAMA
from minigpt.proof.inputs import draw

MakeModel = Callable[..., GPT]

FORMS: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "Llama": {**LLAMA, "n_heads": 4, "n_kv_heads": 2, "d_head": 6, "tied": False},
    "interleaved": {
        **{"positions": "rope", "rope_pairing": "interleaved", "qk_norm": True, "norm_placement": "post"},
        **{"activation": "gelu_exact", "n_kv_heads": 1, "tied": False},
    },
}


@pytest.fixture(params=list(FORMS.values()), ids=list(FORMS))
def form(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Changes of the configuration of `make_model`, for each of a few kinds of model."""
    changes: dict[str, Any] = request.param
    return changes


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """`make_model(dtype, **config)` returns a small model with random parameters, always the same for the same arguments."""

    def make(dtype: DTypeLike = np.float64, **changes: Any) -> GPT:
        sizes = {"vocab_size": 13, "context_length": 16, "d_model": 12, "n_layers": 2, "n_heads": 3, "d_ff": 20}
        model = GPT(ModelConfig(**{**sizes, **changes}), dtype=dtype)
        rng = np.random.default_rng(5)
        for name, array in model.parameters.items():
            array[...] = draw(rng, name, array.shape)
        return model

    return make
