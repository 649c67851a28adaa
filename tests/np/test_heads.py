"""Heads that share keys and values, and what queries and keys go through before they meet."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.np.heads import grouped, heads_of, multi_head_attention
from minigpt.np.parameters import Parameters
from minigpt.np.positions import angles
from minigpt.np.workspace import Array

MakeModel = Callable[..., GPT]
FORMS_OF_HEADS = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "rope", "bias": False, "d_head": 6},
        {"positions": "rope", "rope_pairing": "interleaved", "qk_norm": True, "norm": "rms", "tied": False, "d_head": 4},
    ],
    ids=["learned", "rope", "qk_norm"],
)


def repeated(array: Array, config: ModelConfig) -> Array:
    """A qkv weight or bias with shared heads, as one in which every head of queries has keys and values to itself."""
    q, *kv = np.split(array, np.cumsum([config.n_heads, config.n_kv_heads]) * config.d_head, axis=-1)
    each = [part.reshape(*part.shape[:-1], config.n_kv_heads, config.d_head) for part in kv]
    return np.concatenate([q, *(np.repeat(x, config.heads_per_kv, axis=-2).reshape(*q.shape) for x in each)], axis=-1)


def shared(array: Array, config: ModelConfig) -> Array:
    """The way back for gradients: the sum over the heads that share."""
    q, *kv = np.split(array, 3, axis=-1)
    each = [part.reshape(*part.shape[:-1], config.n_kv_heads, config.heads_per_kv, config.d_head) for part in kv]
    return np.concatenate([q, *(x.sum(-2).reshape(*q.shape[:-1], -1) for x in each)], axis=-1)


@FORMS_OF_HEADS
@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_shared_heads_are_repeated_heads(make_model: MakeModel, changes: dict[str, Any], n_kv_heads: int) -> None:
    """The same logits; and a shared head's gradient is the sum over its repetitions."""
    few = make_model(n_heads=4, n_kv_heads=n_kv_heads, **changes)
    many = make_model(n_heads=4, n_kv_heads=4, **changes)
    for name, array in few.parameters.items():
        many.parameters[name][...] = repeated(array, few.config) if "qkv" in name else array
    tokens, targets = np.random.default_rng(0).integers(0, 13, (2, 3, 16))
    np.testing.assert_allclose(few.logits(tokens), many.logits(tokens), rtol=1e-12, atol=1e-12)
    (_, g_few), (_, g_many) = (model.loss_and_grads(tokens, targets) for model in (few, many))
    for name, array in g_many.items():
        expected = shared(array, few.config) if "qkv" in name else array
        np.testing.assert_allclose(g_few[name], expected, rtol=1e-10, atol=1e-14, err_msg=name)


def test_heads_that_share_keys_stand_next_to_each_other() -> None:
    """Two tokens of one sequence, four heads of three columns, by twos; the other way is to write through the view."""
    rows = np.arange(24).reshape(2, 12)
    heads = grouped(heads_of(rows, 1, 3), 2)
    assert heads[:, :, 0, 0].tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert heads[1, 0, 0].tolist() == [[6, 7, 8], [18, 19, 20]]
    heads[0, 1] = -1
    assert (rows[:, 3:6] == -1).all() and (rows == -1).sum() == 6


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_with_qk_norm_the_size_of_queries_and_keys_does_not_matter(make_model: MakeModel, norm: str) -> None:
    tokens = np.random.default_rng(1).integers(0, 13, (2, 16))
    for qk_norm in (True, False):
        model = make_model(qk_norm=qk_norm, norm=norm, bias=False, norm_epsilon=1e-16)
        before = model.logits(tokens)
        for i in range(2):
            model.parameters[f"blocks.{i}.attention.qkv.weight"][:, :12] *= 3  # queries
            model.parameters[f"blocks.{i}.attention.qkv.weight"][:, 12:24] *= 5  # keys
        assert np.allclose(model.logits(tokens), before, rtol=1e-8, atol=1e-8) == qk_norm


def attend(p: Parameters, config: ModelConfig, x: Array, turned: bool) -> Array:
    """Unmasked attention in the first block."""
    turn = angles(x.shape[1], config.d_head, config.rope_theta, config.rope_pairing, x.dtype) if turned else None
    return multi_head_attention(x, p.under("blocks.0.attention."), config, causal=False, angles=turn)[0]


def test_without_angles_the_order_of_tokens_does_not_show_and_with_them_it_does(make_model: MakeModel) -> None:
    model = make_model(positions="rope", n_kv_heads=1)
    x = np.random.default_rng(2).standard_normal((1, 9, 12))
    order = np.array([0, 5, 2, 3, 4, 1, 6, 7, 8])
    for turned in (False, True):
        y, other = (attend(model.parameters, model.config, rows, turned) for rows in (x, x[:, order]))
        assert np.allclose(y[:, order], other, rtol=1e-12, atol=1e-12) != turned


def test_with_rope_only_the_distance_of_tokens_shows(make_model: MakeModel) -> None:
    model = make_model(positions="rope", n_kv_heads=1)
    p, x = model.parameters.under("blocks.0.attention."), np.random.default_rng(3).standard_normal((2, 9, 12))
    cos, sin = angles(40, 4, model.config.rope_theta, "half", x.dtype)
    first, later = (
        multi_head_attention(x, p, model.config, angles=(cos[start : start + 9], sin[start : start + 9]))[0] for start in (0, 31)
    )
    np.testing.assert_allclose(first, later, rtol=1e-11, atol=1e-13)
