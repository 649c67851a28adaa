"""The shape of a model, and what cannot be one."""

from typing import Any

import pytest

from minigpt import ModelConfig, preset
from minigpt.np.config import PRESETS

SIZES = {"vocab_size": 10, "d_model": 8, "n_heads": 2}


@pytest.mark.parametrize("name", ["vocab_size", "context_length", "d_model", "n_layers", "n_heads"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "4", True])
def test_sizes_are_whole_numbers_of_at_least_one(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*, but must be a whole number of at least 1$"):
        ModelConfig(**{**SIZES, name: value})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_heads": 3}, "d_model is 8, which n_heads = 3 does not divide"),
        ({"d_ff": -4}, "d_ff is -4"),
        ({"dropout": 1.0}, "dropout is 1.0, but must be at least 0 and less than 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"norm_epsilon": 0.0}, "norm_epsilon is 0.0, but must be greater than 0"),
        ({"activation": "tanh"}, "activation is 'tanh', but must be one of: gelu, relu"),
        ({"norm_placement": "both"}, "norm_placement is 'both', but must be one of: pre, post"),
    ],
)
def test_a_shape_that_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ModelConfig(**{**SIZES, **changes})
    assert str(caught.value).startswith(message)


def test_the_hidden_layer_is_four_times_as_wide_unless_told() -> None:
    assert ModelConfig(**SIZES).d_ff == 32
    assert ModelConfig(**SIZES, d_ff=5).d_ff == 5


@pytest.mark.parametrize(
    "name, context_length, d_model, n_layers, n_heads",
    [("tiny", 128, 128, 4, 4), ("small", 256, 256, 4, 8), ("base", 256, 512, 6, 8), ("gpt2", 1024, 768, 12, 12)],
)
def test_presets(name: str, context_length: int, d_model: int, n_layers: int, n_heads: int) -> None:
    config = preset(name, **({} if "vocab_size" in PRESETS[name] else {"vocab_size": 4096}))
    assert (config.context_length, config.d_model, config.n_layers, config.n_heads) == (
        context_length,
        d_model,
        n_layers,
        n_heads,
    )
    assert config.vocab_size == (50257 if name == "gpt2" else 4096)


def test_a_preset_can_be_changed_but_must_exist() -> None:
    assert preset("tiny", vocab_size=7, n_layers=2).n_layers == 2
    with pytest.raises(ValueError, match="no preset 'tinny'; the presets are quick, nano, tiny, small, base, gpt2"):
        preset("tinny", vocab_size=7)
