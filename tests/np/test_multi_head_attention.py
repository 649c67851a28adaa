"""Multi-head attention: shared key and value heads, qk_norm and rope."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.np.context import Context
from minigpt.np.multi_head_attention import group_queries, multi_head_attention, split_heads
from minigpt.np.parameters import Parameters
from minigpt.np.positions import rope_table
from minigpt.np.workspace import Array

MakeModel = Callable[..., GPT]
HEADS = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "rope", "attention_bias": False, "feed_forward_bias": False, "d_head": 6},
        {"positions": "rope", "rope_pairing": "interleaved", "qk_norm": True, "norm": "rms", "tied": False, "d_head": 4},
    ],
    ids=["learned", "rope", "qk_norm"],
)


def repeat_heads(array: Array, config: ModelConfig) -> Array:
    """Repeat the shared heads of a qkv weight or bias, so that each query head has its own key and value head."""
    q, *kv = np.split(array, np.cumsum([config.n_heads, config.n_kv_heads]) * config.d_head, axis=-1)
    heads = [part.reshape(*part.shape[:-1], config.n_kv_heads, config.d_head) for part in kv]
    return np.concatenate([q, *(np.repeat(x, config.heads_per_kv, axis=-2).reshape(*q.shape) for x in heads)], axis=-1)


def sum_repeated_heads(array: Array, config: ModelConfig) -> Array:
    """Sum a gradient over the repetitions of each shared head."""
    q, *kv = np.split(array, 3, axis=-1)
    heads = [part.reshape(*part.shape[:-1], config.n_kv_heads, config.heads_per_kv, config.d_head) for part in kv]
    return np.concatenate([q, *(x.sum(-2).reshape(*q.shape[:-1], -1) for x in heads)], axis=-1)


@HEADS
@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_shared_heads_equal_repeated_heads(make_model: MakeModel, changes: dict[str, Any], n_kv_heads: int) -> None:
    """The logits are the same, and the gradient of a shared head is the sum over its repetitions."""
    shared = make_model(n_heads=4, n_kv_heads=n_kv_heads, **changes)
    repeated = make_model(n_heads=4, n_kv_heads=4, **changes)
    for name, array in shared.parameters.items():
        repeated.parameters[name][...] = repeat_heads(array, shared.config) if "qkv" in name else array
    tokens, targets = np.random.default_rng(0).integers(0, 13, (2, 3, 16))
    np.testing.assert_allclose(shared.logits(tokens), repeated.logits(tokens), rtol=1e-12, atol=1e-12)
    (_, g_shared), (_, g_repeated) = (model.loss_and_grads(tokens, targets) for model in (shared, repeated))
    for name, array in g_repeated.items():
        expected = sum_repeated_heads(array, shared.config) if "qkv" in name else array
        np.testing.assert_allclose(g_shared[name], expected, rtol=1e-10, atol=1e-14, err_msg=name)


def test_adjacent_query_heads_share_a_key_head() -> None:
    """Two tokens of one sequence, with four heads of three columns in two groups. The result is a view."""
    rows = np.arange(24).reshape(2, 12)
    heads = group_queries(split_heads(rows, 1, 3), 2)
    assert heads[:, :, 0, 0].tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert heads[1, 0, 0].tolist() == [[6, 7, 8], [18, 19, 20]]
    heads[0, 1] = -1
    assert (rows[:, 3:6] == -1).all() and (rows == -1).sum() == 6


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_qk_norm_makes_the_result_independent_of_the_scale_of_queries_and_keys(make_model: MakeModel, norm: str) -> None:
    tokens = np.random.default_rng(1).integers(0, 13, (2, 16))
    for qk_norm in (True, False):
        model = make_model(qk_norm=qk_norm, norm=norm, attention_bias=False, feed_forward_bias=False, norm_epsilon=1e-16)
        before = model.logits(tokens)
        for i in range(2):
            model.parameters[f"blocks.{i}.attention.qkv.weight"][:, :12] *= 3  # queries
            model.parameters[f"blocks.{i}.attention.qkv.weight"][:, 12:24] *= 5  # keys
        assert np.allclose(model.logits(tokens), before, rtol=1e-8, atol=1e-8) == qk_norm


def attend(p: Parameters, config: ModelConfig, x: Array, rotated: bool) -> Array:
    """Return unmasked attention in the first block, with or without rope."""
    rope = rope_table(x.shape[1], config.d_head, config.rope_theta, config.rope_pairing, x.dtype) if rotated else None
    return multi_head_attention(x, p.with_prefix("blocks.0.attention."), Context(config, causal=False, rope=rope))[0]


def test_unmasked_attention_depends_on_the_order_of_tokens_only_with_rope(make_model: MakeModel) -> None:
    model = make_model(positions="rope", n_kv_heads=1)
    x = np.random.default_rng(2).standard_normal((1, 9, 12))
    order = np.array([0, 5, 2, 3, 4, 1, 6, 7, 8])
    for rotated in (False, True):
        y, other = (attend(model.parameters, model.config, rows, rotated) for rows in (x, x[:, order]))
        assert np.allclose(y[:, order], other, rtol=1e-12, atol=1e-12) != rotated


def test_attention_with_rope_depends_only_on_the_distance_of_tokens(make_model: MakeModel) -> None:
    model = make_model(positions="rope", n_kv_heads=1)
    p, x = model.parameters.with_prefix("blocks.0.attention."), np.random.default_rng(3).standard_normal((2, 9, 12))
    cos, sin = rope_table(40, 4, model.config.rope_theta, "half", x.dtype)
    first, later = (
        multi_head_attention(x, p, Context(model.config, rope=(cos[start : start + 9], sin[start : start + 9])))[0]
        for start in (0, 31)
    )
    np.testing.assert_allclose(first, later, rtol=1e-11, atol=1e-13)
