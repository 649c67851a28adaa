"""Parameters: their names, the views into one flat vector, and the initial values."""

import math
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.np.config import GPT2, LLAMA, QWEN3
from minigpt.np.parameters import Parameters, initialize, shapes

BLOCK = [
    "attention_norm.gamma",
    "attention_norm.beta",
    "attention.qkv.weight",
    "attention.qkv.bias",
    "attention.out.weight",
    "attention.out.bias",
    "feed_forward_norm.gamma",
    "feed_forward_norm.beta",
    "feed_forward.up.weight",
    "feed_forward.up.bias",
    "feed_forward.down.weight",
    "feed_forward.down.bias",
]


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"vocab_size": 9, "context_length": 4, "d_model": 6, "n_layers": 1, "n_heads": 2, **changes})


def test_names_and_order_are_those_of_checkpoints() -> None:
    names = ["token_embedding", "position_embedding", *(f"blocks.0.{name}" for name in BLOCK)]
    assert list(shapes(config())) == [*names, "final_norm.gamma", "final_norm.beta"]
    assert list(shapes(config(norm_placement="post"))) == names
    assert list(shapes(config(tied=False)))[-1] == "head"
    names += ["final_norm.gamma", "final_norm.beta"]
    no_bias = list(shapes(config(attention_bias=False, feed_forward_bias=False)))
    assert no_bias == [name for name in names if not name.endswith(".bias")]


@pytest.mark.parametrize("layer", ["attention", "feed_forward"])
def test_biases_of_attention_and_feed_forward_are_separate_settings(layer: str) -> None:
    removed = set(shapes(config())) - set(shapes(config(**{f"{layer}_bias": False})))
    assert removed == {f"blocks.0.{name}" for name in BLOCK if name.endswith(".bias") and name.startswith(f"{layer}.")}


def test_blocks_are_in_order() -> None:
    names = [name for name in shapes(config(n_layers=3)) if name.startswith("blocks.")]
    assert names == [f"blocks.{i}.{name}" for i in range(3) for name in BLOCK]


def test_a_llama_has_no_position_embedding_no_beta_no_biases_and_a_gate() -> None:
    """Four query heads share two key and value heads, and n_heads * d_head is greater than d_model."""
    named = shapes(config(**{**LLAMA, "tied": False}, n_heads=4, n_kv_heads=2, d_head=8, d_ff=10))
    assert list(named.items()) == [
        ("token_embedding", (9, 6)),
        ("blocks.0.attention_norm.gamma", (6,)),
        ("blocks.0.attention.qkv.weight", (6, (4 + 2 + 2) * 8)),
        ("blocks.0.attention.out.weight", (4 * 8, 6)),
        ("blocks.0.feed_forward_norm.gamma", (6,)),
        ("blocks.0.feed_forward.gate.weight", (6, 10)),
        ("blocks.0.feed_forward.up.weight", (6, 10)),
        ("blocks.0.feed_forward.down.weight", (10, 6)),
        ("final_norm.gamma", (6,)),
        ("head", (9, 6)),
    ]


@pytest.mark.parametrize("norm, kinds", [("layer", ["gamma", "beta"]), ("rms", ["gamma"])])
def test_norms_of_queries_and_keys_have_the_width_of_a_head(norm: str, kinds: list[str]) -> None:
    named = shapes(config(qk_norm=True, norm=norm, d_head=5))
    prefix = "blocks.0.attention."
    inside = {name.removeprefix(prefix): shape for name, shape in named.items() if name.startswith(prefix) and "norm" in name}
    assert inside == {f"{which}_norm.{kind}": (5,) for which in "qk" for kind in kinds}


def test_the_gate_has_a_bias_if_the_feed_forward_network_has() -> None:
    named = shapes(config(activation="swiglu", d_ff=10))
    assert named["blocks.0.feed_forward.gate.bias"] == (10,)
    assert set(named) - set(shapes(config(d_ff=10))) == {f"blocks.0.feed_forward.gate.{kind}" for kind in ("weight", "bias")}


def test_the_small_gpt2_has_124_million_parameters() -> None:
    gpt2 = ModelConfig(vocab_size=50257, context_length=1024, d_model=768, n_layers=12, n_heads=12)
    assert sum(map(math.prod, shapes(gpt2).values())) == 124_439_808


def test_parameters_are_views_of_the_flat_vector_in_order() -> None:
    p = Parameters({"a": (2, 3), "b": (3,), "c": (1, 2)}, np.float64)
    p.flat[...] = np.arange(11)
    np.testing.assert_array_equal(p["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(p["c"], [[9, 10]])
    p["b"][...] = -1
    np.testing.assert_array_equal(p.flat, [0, 1, 2, 3, 4, 5, -1, -1, -1, 9, 10])


def test_under_shares_the_memory() -> None:
    p = GPT(config(n_layers=2), dtype=np.float64).parameters
    block = p.with_prefix("blocks.1.")
    assert list(block) == BLOCK
    block.flat[...] = np.arange(block.flat.size)
    for name in BLOCK:
        assert np.shares_memory(block[name], p[f"blocks.1.{name}"])
        np.testing.assert_array_equal(block[name], p[f"blocks.1.{name}"])
    inner = block.with_prefix("attention.")
    inner["out.weight"].fill(-5)
    assert (p["blocks.1.attention.out.weight"] == -5).all()
    assert not (p["blocks.0.attention.out.weight"] == -5).any()
    assert p.with_prefix("blocks.1.") is block


def test_zeros_like_has_its_own_memory() -> None:
    p = initialize(config(), seed=0, dtype=np.float64)
    zeros = p.zeros_like()
    assert (zeros.shapes, zeros.flat.dtype) == (p.shapes, p.flat.dtype)
    assert not zeros.flat.any()
    assert not np.shares_memory(zeros.flat, p.flat)


@pytest.mark.parametrize("n_layers", [2, 8])
def test_matrices_are_initialized_as_in_gpt2(n_layers: int) -> None:
    """Matrices that write to the residual stream have smaller values, because it sums the outputs of 2 n_layers of them."""
    p = initialize(config(vocab_size=300, context_length=128, d_model=96, n_layers=n_layers, tied=False), 1)
    for name, array in p.items():
        if array.ndim == 2:
            expected = 0.02 / math.sqrt(2 * n_layers) if name.endswith(("out.weight", "down.weight")) else 0.02
            assert array.std() == pytest.approx(expected, rel=0.05), name
            assert abs(array.mean()) < 5 * expected / math.sqrt(array.size), name


@pytest.mark.parametrize("form", [GPT2, QWEN3], ids=["GPT-2", "Qwen 3"])
def test_with_outputs_of_zero_each_block_starts_as_the_identity(form: dict[str, Any]) -> None:
    sizes = config(**form, vocab_size=30, context_length=8, d_model=16, n_layers=2)
    p, usual = (initialize(sizes, 1, zero_outputs=zero) for zero in (True, False))
    outputs = {name for name in p if name.endswith(("attention.out.weight", "feed_forward.down.weight"))}
    assert len(outputs) == 4
    for name, array in p.items():
        np.testing.assert_array_equal(array, 0 * usual[name] if name in outputs else usual[name])
    tokens = np.arange(8).reshape(1, 8)
    without_blocks = {name: array for name, array in p.items() if not name.startswith("blocks.")}
    other = initialize(sizes, 2, zero_outputs=True)
    for name, array in without_blocks.items():
        other[name][...] = array
    logits, expected = (GPT(sizes, parameters=q).logits(tokens) for q in (p, other))
    np.testing.assert_array_equal(logits, expected)  # the other matrices of the blocks have no effect
    assert not np.array_equal(logits, GPT(sizes, parameters=usual).logits(tokens))


def test_the_standard_deviation_of_the_embeddings_can_be_set() -> None:
    sizes = config(vocab_size=300, context_length=128, d_model=96, n_layers=2, tied=False)
    p, usual = initialize(sizes, 1, embedding_std=0.3), initialize(sizes, 1)
    for name, array in p.items():
        if name in ("token_embedding", "position_embedding"):
            assert array.std() == pytest.approx(0.3, rel=0.05)
        else:
            np.testing.assert_array_equal(array, usual[name])


@pytest.mark.parametrize(
    "changes", [{}, {**LLAMA, "qk_norm": True, "attention_bias": True, "feed_forward_bias": True}], ids=["GPT-2", "Llama"]
)
def test_vectors_are_initialized_to_zero_and_gamma_to_one(changes: dict[str, Any]) -> None:
    for name, array in initialize(config(**{"n_heads": 1, **changes}), seed=0).items():
        if array.ndim == 1:
            assert (array == (1 if name.endswith("gamma") else 0)).all(), name


def test_initial_values_depend_only_on_the_seed() -> None:
    first, again, other = (initialize(config(), seed).flat for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_all_matrices_have_different_initial_values() -> None:
    p = initialize(config(n_layers=2), seed=0)
    matrices = [array.ravel()[:6].tobytes() for array in p.values() if array.ndim == 2]
    assert len(set(matrices)) == len(matrices)


def test_the_initial_loss_is_that_of_a_uniform_distribution() -> None:
    model = GPT(ModelConfig(vocab_size=512, context_length=32, d_model=64, n_layers=2, n_heads=4))
    tokens, targets = np.random.default_rng(0).integers(0, 512, (2, 4, 32))
    assert model.loss(tokens, targets) == pytest.approx(math.log(512), abs=0.05)
