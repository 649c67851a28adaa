"""Causality: changing a token does not change a single bit of the output at earlier positions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt import GPT
from minigpt.np import attention
from minigpt.np.block import block
from minigpt.np.context import Context

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
PLACEMENTS = pytest.mark.parametrize("placement", ["pre", "post"])
T = 2 * attention.QUERY_BLOCK + 3
CHANGED = [1, 62, 63, 64, 65, 127, 128, T - 1]  # inside query blocks, and on both sides of their boundaries


@DTYPES
@PLACEMENTS
@pytest.mark.parametrize("t", CHANGED)
def test_logits_before_a_changed_token_do_not_change(
    make_model: Callable[..., GPT], form: dict[str, Any], dtype: DTypeLike, placement: str, t: int
) -> None:
    model = make_model(dtype, **{**form, "context_length": T, "norm_placement": placement})
    tokens = np.random.default_rng(0).integers(0, 13, (2, T))
    changed = tokens.copy()
    changed[:, t] = (changed[:, t] + 1) % 13
    before, after = model.logits(tokens), model.logits(changed)
    np.testing.assert_array_equal(after[:, :t], before[:, :t])
    assert (after[:, t:] != before[:, t:]).any(axis=-1).all()  # all later ones do


@DTYPES
@pytest.mark.parametrize("leading, kv", [((2,), (2,)), ((2, 3), (2, 3)), ((2, 3), (2, 1))], ids=["3-D", "4-D", "shared keys"])
@pytest.mark.parametrize("t", CHANGED)
def test_attention_on_separate_heads(dtype: DTypeLike, leading: tuple[int, ...], kv: tuple[int, ...], t: int) -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((*shape, T, 4)).astype(dtype) for shape in (leading, kv, kv))
    before, _ = attention.attention(q, k, v)
    for array in (q, k, v):
        array[..., t:, :] += 1
    after, _ = attention.attention(q, k, v)
    np.testing.assert_array_equal(after[..., :t, :], before[..., :t, :])
    assert (after[..., t:, :] != before[..., t:, :]).any(axis=-1).all()


@DTYPES
@PLACEMENTS
def test_a_block(make_model: Callable[..., GPT], form: dict[str, Any], dtype: DTypeLike, placement: str) -> None:
    model = make_model(dtype, **{**form, "norm_placement": placement})
    x = np.random.default_rng(2).standard_normal((2, 9, 12)).astype(dtype)
    p = model.parameters.with_prefix("blocks.0.")
    changed = x.copy()
    changed[:, 5] *= 3
    for causal in (True, False):
        before, after = (block(a, p, Context(model.config, causal=causal))[0] for a in (x, changed))
        assert np.array_equal(before[:, :5], after[:, :5]) == causal  # without the mask, earlier tokens change


@DTYPES
def test_keys_after_all_used_queries_get_no_gradient(dtype: DTypeLike) -> None:
    q, k, v = np.random.default_rng(3).standard_normal((3, 2, T, 4)).astype(dtype)
    _, cache = attention.attention(q, k, v)
    dy = np.zeros_like(q)
    dy[:, :65] = 1  # the loss depends on the first queries only
    dq, dk, dv = attention.attention_backward(dy, cache)
    assert not dk[:, 65:].any() and not dv[:, 65:].any() and not dq[:, 65:].any()
    assert dk[:, :65].any() and dv[:, :65].any()


@DTYPES
@pytest.mark.parametrize("huge", [1e30, -1e30])
def test_huge_later_keys_and_values_have_no_effect(dtype: DTypeLike, huge: float) -> None:
    """1e30 is finite, but its products and exponentials overflow, which a mask of zeros and ones would turn into NaN."""
    q, k, v = np.random.default_rng(4).standard_normal((3, 2, T, 4)).astype(dtype)
    before, _ = attention.attention(q, k, v)
    k[:, 70:], v[:, 70:] = huge, huge
    with np.errstate(over="ignore"):
        after, cache = attention.attention(q, k, v)
    np.testing.assert_array_equal(after[:, :70], before[:, :70])
    dy = np.zeros_like(q)
    dy[:, :70] = 1
    for gradient in attention.attention_backward(dy, cache):
        assert np.isfinite(gradient[:, :70]).all()


def test_keys_after_the_query_block_are_not_read() -> None:
    """Even NaN has no effect there, because these keys are not masked but skipped."""
    q, k, v = np.random.default_rng(5).standard_normal((3, 2, T, 4))
    before, _ = attention.attention(q, k, v)
    k[:, 64:], v[:, 64:] = np.nan, np.nan
    after, _ = attention.attention(q, k, v)
    np.testing.assert_array_equal(after[:, :64], before[:, :64])


def test_unmasked_attention_does_not_depend_on_the_order_of_the_keys() -> None:
    q, k, v = np.random.default_rng(6).standard_normal((3, 2, 70, 4))
    order = np.random.default_rng(7).permutation(70)
    np.testing.assert_allclose(
        attention.attention(q, k[:, order], v[:, order], causal=False)[0], attention.attention(q, k, v, causal=False)[0]
    )


def test_attention_with_equal_keys_is_the_mean_of_the_visible_values() -> None:
    v = np.arange(5.0).reshape(1, 5, 1)
    q = k = np.ones((1, 5, 1))
    np.testing.assert_allclose(attention.attention(q, k, v)[0].ravel(), [0, 0.5, 1, 1.5, 2])
    np.testing.assert_allclose(attention.attention(q, k, v, causal=False)[0].ravel(), [2] * 5)


@DTYPES
@pytest.mark.parametrize("size", [1, 30, 1e4])
def test_large_scores_in_some_rows_do_not_overflow(dtype: DTypeLike, size: float) -> None:
    q, k, v = np.random.default_rng(8).standard_normal((3, 2, 3, 70, 4)).astype(dtype)
    q[:, 1, ::2] *= size  # rows with large scores alternate with ordinary ones
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y, cache = attention.attention(q, k, v)
        gradients = attention.attention_backward(np.ones_like(q), cache)
    for t in (0, 1, 40, 64, 69):
        scores = np.einsum("bhd,bhsd->bhs", q[:, :, t].astype(np.float64), k[:, :, : t + 1].astype(np.float64)) / 2
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        expected = np.einsum("bhs,bhsd->bhd", weights, v[:, :, : t + 1])
        tolerance = 1e-9 if dtype is np.float64 else 1e-3 if size == 1e4 else 1e-4
        np.testing.assert_allclose(y[:, :, t], expected, rtol=tolerance, atol=tolerance)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
