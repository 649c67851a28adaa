"""The shape of a model, and what cannot be one."""

import math
from typing import Any

import pytest

from minigpt import ModelConfig, preset
from minigpt.np.config import PRESETS
from minigpt.np.parameters import shapes

SIZES: dict[str, Any] = {"vocab_size": 10, "d_model": 8, "n_heads": 2}


@pytest.mark.parametrize("name", ["vocab_size", "context_length", "d_model", "n_layers", "n_heads"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "4", True])
def test_sizes_are_whole_numbers_of_at_least_one(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*, but must be a whole number of at least 1$"):
        ModelConfig(**{**SIZES, name: value})


@pytest.mark.parametrize("name", ["n_kv_heads", "d_head", "d_ff"])
@pytest.mark.parametrize("value", [-1, 1.5, "4", True])
def test_sizes_that_may_be_left_to_others_are_whole_numbers_too(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*, but must be a whole number of at least 1$"):
        ModelConfig(**{**SIZES, name: value})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_heads": 3}, "d_model is 8, which n_heads = 3 does not divide; give d_head"),
        ({"n_heads": 4, "n_kv_heads": 3}, "n_heads is 4, which n_kv_heads = 3 does not divide"),
        ({"n_kv_heads": 4}, "n_heads is 2, which n_kv_heads = 4 does not divide"),
        ({"d_head": 3, "positions": "rope"}, "d_head is 3, but rope rotates pairs of columns: it must be even"),
        ({"n_heads": 8, "positions": "rope"}, "d_head is 1, but rope rotates pairs"),
        ({"dropout": 1.0}, "dropout is 1.0, but must be at least 0 and less than 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"norm_epsilon": 0.0}, "norm_epsilon is 0.0, but must be greater than 0"),
        ({"norm_epsilon": math.nan}, "norm_epsilon is nan"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0, but must be greater than 0"),
        ({"rope_theta": -1e4}, "rope_theta is -10000.0"),
        ({"rope_theta": math.inf}, "rope_theta is inf"),
        ({"rope_theta": math.nan}, "rope_theta is nan"),
        ({"activation": "tanh"}, "activation is 'tanh', but must be one of: gelu, gelu_exact, relu, swiglu"),
        ({"positions": "alibi"}, "positions is 'alibi', but must be one of: learned, rope"),
        ({"rope_pairing": "quarter"}, "rope_pairing is 'quarter', but must be one of: half, interleaved"),
        ({"norm": "batch"}, "norm is 'batch', but must be one of: layer, rms"),
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


def test_heads_share_the_width_of_the_model_and_nothing_else_unless_told() -> None:
    usual = ModelConfig(**{**SIZES, "n_heads": 4})
    assert (usual.n_kv_heads, usual.d_head, usual.heads_per_kv) == (4, 2, 1)
    told = ModelConfig(**{**SIZES, "n_heads": 6}, n_kv_heads=2, d_head=3)  # 6 does not divide d_model, and need not
    assert (told.n_kv_heads, told.d_head, told.heads_per_kv) == (2, 3, 3)


def test_an_odd_head_is_no_trouble_where_positions_are_learned() -> None:
    assert ModelConfig(**SIZES, d_head=3).d_head == 3


@pytest.mark.parametrize(
    "name, context_length, d_model, n_layers, n_heads",
    [("tiny", 128, 128, 4, 4), ("small", 256, 256, 4, 8), ("base", 256, 512, 6, 8), ("gpt2", 1024, 768, 12, 12)],
)
def test_presets(name: str, context_length: int, d_model: int, n_layers: int, n_heads: int) -> None:
    config = preset(name, **({} if "vocab_size" in PRESETS[name] else {"vocab_size": 4096}))
    assert config == ModelConfig(
        vocab_size=50257 if name == "gpt2" else 4096,
        context_length=context_length,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
    )


LLAMA: dict[str, Any] = {
    "norm": "rms",
    "norm_placement": "pre",
    "qk_norm": False,
    "positions": "rope",
    "rope_pairing": "half",
    "rope_theta": 10_000.0,
    "activation": "swiglu",
    "bias": False,
    "tied": True,
}


def test_the_preset_llama_15m_is_the_model_of_that_name() -> None:
    """That of Karpathy's llama2.c (stories15M), with its 15,191,712 parameters."""
    sizes = {"vocab_size": 32000, "context_length": 256, "d_model": 288, "n_layers": 6, "n_heads": 6, "d_ff": 768}
    config = preset("llama-15m")
    assert config == ModelConfig(**LLAMA | sizes, n_kv_heads=6, d_head=48)
    assert sum(map(math.prod, shapes(config).values())) == 15_191_712


def test_the_preset_llama_tiny_shares_its_keys_and_values() -> None:
    sizes = {"vocab_size": 2048, "context_length": 128, "d_model": 128, "n_layers": 4, "n_heads": 4, "d_ff": 344}
    assert preset("llama-tiny", vocab_size=2048) == ModelConfig(**LLAMA | sizes, n_kv_heads=2, d_head=32)


def test_a_preset_can_be_changed_but_must_exist() -> None:
    assert preset("tiny", vocab_size=7, n_layers=2).n_layers == 2
    assert preset("llama-tiny", vocab_size=7, n_heads=8, d_model=64).d_head == 8
    with pytest.raises(ValueError, match=r"no preset 'tinny'; the presets are quick, nano, tiny, small, base, gpt2, llama-tiny"):
        preset("tinny", vocab_size=7)
