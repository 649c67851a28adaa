"""ModelConfig: its defaults, its errors and the presets."""

import math
from typing import Any, get_args

import pytest

from minigpt import ModelConfig, preset
from minigpt.np.config import PRESETS, Activation
from minigpt.np.parameters import shapes

SIZES: dict[str, Any] = {"vocab_size": 10, "d_model": 8, "n_heads": 2}


@pytest.mark.parametrize("name", ["vocab_size", "context_length", "d_model", "n_layers", "n_heads"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "4", True])
def test_sizes_must_be_positive_integers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*, but must be a positive integer$"):
        ModelConfig(**{**SIZES, name: value})


@pytest.mark.parametrize("name", ["n_kv_heads", "d_head", "d_ff"])
@pytest.mark.parametrize("value", [-1, 1.5, "4", True])
def test_sizes_that_may_be_zero_must_be_positive_integers_otherwise(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*, but must be a positive integer$"):
        ModelConfig(**{**SIZES, name: value})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_heads": 3}, "d_model is 8, but must be divisible by n_heads = 3; or give d_head"),
        ({"n_heads": 4, "n_kv_heads": 3}, "n_heads is 4, but must be divisible by n_kv_heads = 3"),
        ({"n_kv_heads": 4}, "n_heads is 2, but must be divisible by n_kv_heads = 4"),
        ({"d_head": 3, "positions": "rope"}, "d_head is 3, but must be even, because rope rotates pairs of columns"),
        ({"n_heads": 8, "positions": "rope"}, "d_head is 1, but must be even"),
        ({"dropout": 1.0}, "dropout is 1.0, but must be at least 0 and less than 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"norm_epsilon": 0.0}, "norm_epsilon is 0.0, but must be finite and greater than 0"),
        ({"norm_epsilon": math.nan}, "norm_epsilon is nan"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0, but must be finite and greater than 0"),
        ({"rope_theta": -1e4}, "rope_theta is -10000.0"),
        ({"rope_theta": math.inf}, "rope_theta is inf"),
        ({"rope_theta": math.nan}, "rope_theta is nan"),
        ({"tied": 1}, "tied is 1, but must be True or False"),
        ({"qk_norm": "yes"}, "qk_norm is 'yes', but must be True or False"),
        ({"attention_bias": 0}, "attention_bias is 0, but must be True or False"),
        ({"feed_forward_bias": None}, "feed_forward_bias is None, but must be True or False"),
        ({"activation": "tanh"}, "activation is 'tanh', but must be one of: gelu, gelu_exact, relu, relu_squared, swiglu"),
        ({"positions": "alibi"}, "positions is 'alibi', but must be one of: learned, rope"),
        ({"rope_pairing": "quarter"}, "rope_pairing is 'quarter', but must be one of: half, interleaved"),
        ({"norm": "batch"}, "norm is 'batch', but must be one of: layer, rms"),
        ({"norm_placement": "both"}, "norm_placement is 'both', but must be one of: pre, post"),
    ],
)
def test_invalid_fields_raise(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ModelConfig(**{**SIZES, **changes})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("activation", get_args(Activation))
def test_d_ff_is_four_times_d_model_by_default(activation: str) -> None:
    """SwiGLU has a third matrix, so that with 8/3 of d_model, the parameters are about as many."""
    expected = {8: 24, 16: 48, 128: 344, 256: 688, 512: 1368} if activation == "swiglu" else {8: 32, 128: 512}
    for d_model, d_ff in expected.items():
        assert ModelConfig(**{**SIZES, "d_model": d_model}, activation=activation).d_ff == d_ff  # type: ignore[arg-type]
    assert ModelConfig(**SIZES, activation=activation, d_ff=5).d_ff == 5  # type: ignore[arg-type]


def test_n_kv_heads_and_d_head_follow_from_n_heads_by_default() -> None:
    default = ModelConfig(**{**SIZES, "n_heads": 4})
    assert (default.n_kv_heads, default.d_head, default.heads_per_kv) == (4, 2, 1)
    given = ModelConfig(**{**SIZES, "n_heads": 6}, n_kv_heads=2, d_head=3)  # with d_head, 6 need not divide d_model
    assert (given.n_kv_heads, given.d_head, given.heads_per_kv) == (2, 3, 3)


def test_d_head_may_be_odd_with_learned_positions() -> None:
    assert ModelConfig(**SIZES, d_head=3).d_head == 3


FORM_OF_QWEN3: dict[str, Any] = {
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "positions": "rope",
    "activation": "swiglu",
    "qk_norm": True,
    "attention_bias": False,
    "feed_forward_bias": False,
    "tied": False,
}


@pytest.mark.parametrize(
    "name, context_length, d_model, n_layers, n_heads, d_ff",
    [
        ("tiny", 128, 128, 4, 4, 344),
        ("small", 256, 256, 4, 8, 688),
        ("base", 256, 512, 6, 8, 1368),
        ("gpt2", 1024, 768, 12, 12, 3072),
    ],
)
def test_presets(name: str, context_length: int, d_model: int, n_layers: int, n_heads: int, d_ff: int) -> None:
    config = preset(name, **({} if "vocab_size" in PRESETS[name] else {"vocab_size": 4096}))
    assert config == ModelConfig(
        vocab_size=50257 if name == "gpt2" else 4096,
        context_length=context_length,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        d_ff=d_ff,
        **({} if name == "gpt2" else FORM_OF_QWEN3),
    )


LLAMA: dict[str, Any] = {
    "norm": "rms",
    "norm_placement": "pre",
    "qk_norm": False,
    "positions": "rope",
    "rope_pairing": "half",
    "rope_theta": 10_000.0,
    "activation": "swiglu",
    "attention_bias": False,
    "feed_forward_bias": False,
    "tied": True,
}


def test_the_preset_llama_15m_is_stories15m() -> None:
    """stories15M of Karpathy's llama2.c has 15,191,712 parameters."""
    sizes = {"vocab_size": 32000, "context_length": 256, "d_model": 288, "n_layers": 6, "n_heads": 6, "d_ff": 768}
    config = preset("llama-15m")
    assert config == ModelConfig(**LLAMA | sizes, n_kv_heads=6, d_head=48)
    assert sum(map(math.prod, shapes(config).values())) == 15_191_712


def test_the_preset_llama_tiny_shares_key_and_value_heads() -> None:
    sizes = {"vocab_size": 2048, "context_length": 128, "d_model": 128, "n_layers": 4, "n_heads": 4, "d_ff": 344}
    assert preset("llama-tiny", vocab_size=2048) == ModelConfig(**LLAMA | sizes, n_kv_heads=2, d_head=32)


def test_fields_of_a_preset_can_be_changed() -> None:
    assert preset("tiny", vocab_size=7, n_layers=2).n_layers == 2
    assert preset("llama-tiny", vocab_size=7, n_heads=8, d_model=64).d_head == 8


def test_an_unknown_preset_raises() -> None:
    names = "quick, nano, tiny, small, base, gpt2, llama-tiny, llama-15m"
    with pytest.raises(ValueError, match=f"^preset is 'tinny', but must be one of: {names}$"):
        preset("tinny", vocab_size=7)
