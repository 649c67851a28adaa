"""Norms: extreme inputs and invariances. test_shapes.py and proof/ compare their values with PyTorch."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt import ModelConfig
from minigpt.np.context import Context
from minigpt.np.norms import layer_norm, layer_norm_backward, norm, norm_backward, rms_norm, rms_norm_backward

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
SIZES: dict[str, Any] = {"vocab_size": 10, "d_model": 8, "n_heads": 2}


@DTYPES
def test_huge_inputs(dtype: DTypeLike) -> None:
    x, gamma = np.array([[-1e15, 1e15]], dtype), np.ones(2, dtype)
    with np.errstate(all="raise", under="ignore"):
        centered, layer_cache = layer_norm(x, gamma, np.zeros(2, dtype))
        scaled, rms_cache = rms_norm(x, gamma)
        gradients = [*layer_norm_backward(gamma[None], layer_cache), *rms_norm_backward(gamma[None], rms_cache)]
    np.testing.assert_allclose(centered, [[-1, 1]], rtol=1e-6)
    np.testing.assert_allclose(scaled, [[-1, 1]], rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_layer_norm_of_a_constant_row_is_beta() -> None:
    y, cache = layer_norm(np.full((1, 4), 7.0), np.ones(4), np.full(4, 0.5))
    np.testing.assert_array_equal(y, np.full((1, 4), 0.5))
    assert np.isfinite(layer_norm_backward(np.ones((1, 4)), cache)[0]).all()


def test_rms_norm_does_not_subtract_the_mean() -> None:
    np.testing.assert_allclose(rms_norm(np.full((1, 4), 7.0), np.array([1.0, 2, 3, 4]))[0], [[1, 2, 3, 4]], rtol=1e-6)


@DTYPES
def test_rms_norm_of_zeros_is_zero(dtype: DTypeLike) -> None:
    x = np.zeros((2, 4), dtype)
    with np.errstate(all="raise"):
        y, cache = rms_norm(x, np.full(4, 3, dtype))
        dx, dgamma = rms_norm_backward(np.ones((2, 4), dtype), cache)
    assert not y.any() and not dgamma.any()
    np.testing.assert_allclose(dx, np.full((2, 4), 3 / np.sqrt(1e-5)), rtol=1e-6)


def test_norms_are_invariant_to_scale_and_layer_norm_to_shift() -> None:
    x, gamma, beta = np.random.default_rng(0).standard_normal((3, 6, 6))
    expected = {"layer": layer_norm(x, gamma[0], beta[0], epsilon=1e-14)[0], "rms": rms_norm(x, gamma[0], epsilon=1e-14)[0]}
    np.testing.assert_allclose(layer_norm(5 * x + 3, gamma[0], beta[0], epsilon=1e-14)[0], expected["layer"], rtol=1e-11)
    np.testing.assert_allclose(rms_norm(5 * x, gamma[0], epsilon=1e-14)[0], expected["rms"], rtol=1e-11)
    assert np.abs(rms_norm(x + 3, gamma[0], epsilon=1e-14)[0] - expected["rms"]).max() > 0.1


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_uses_the_kind_and_epsilon_of_the_configuration(kind: Any) -> None:
    config = ModelConfig(**SIZES, norm=kind, norm_epsilon=3.0)
    x = np.array([[1.0, -1.0, 1.0, -1.0], [4.0, 2.0, 4.0, 2.0]])
    p = {"some_norm.gamma": np.full(4, 6.0), "some_norm.beta": np.full(4, 100.0)}
    y, _ = norm(x, p, "some_norm.", Context(config))
    if kind == "rms":
        np.testing.assert_allclose(y, 6 * x / np.sqrt([[1 + 3], [10 + 3]]), rtol=1e-14)
    else:
        np.testing.assert_allclose(y, 6 * (x - [[0], [3]]) / 2 + 100, rtol=1e-14)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_normalizes_the_last_axis_of_any_array(kind: Any) -> None:
    """Leading dimensions are flattened, forward and backward, even if the array is not contiguous."""
    ctx = Context(ModelConfig(**SIZES, norm=kind))
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 2, 3, 5, 4)).swapaxes(2, 3)
    p, g, g_rows = ({name: rng.standard_normal(4) for name in ("gamma", "beta")} for _ in range(3))
    y, cache = norm(x, p, "", ctx)
    dx = norm_backward(dy, cache, g, "", ctx)
    y_rows, rows_cache = norm(x.reshape(-1, 4), p, "", ctx)
    dx_rows = norm_backward(dy.reshape(-1, 4), rows_cache, g_rows, "", ctx)
    np.testing.assert_array_equal(y.reshape(-1, 4), y_rows)
    np.testing.assert_array_equal(dx.reshape(-1, 4), dx_rows)
    np.testing.assert_array_equal(g["gamma"], g_rows["gamma"])


def test_inputs_are_not_modified() -> None:
    x, gamma, beta, dy = np.random.default_rng(2).standard_normal((4, 6, 6))
    gamma, beta = gamma[0], beta[0]
    before = [array.copy() for array in (x, gamma, beta, dy)]
    for (y, cache), backward in (
        (layer_norm(x, gamma, beta), layer_norm_backward),
        (rms_norm(x, gamma), rms_norm_backward),
    ):
        backward(dy, cache)[0].fill(7)
        y.fill(7)
    for array, copy in zip((x, gamma, beta, dy), before, strict=True):
        np.testing.assert_array_equal(array, copy)
