"""Activations: exact GELU measured against erfc, huge numbers, and forward with and without a backward to come.

(Their values against PyTorch: test_shapes.py, proof.)
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.np import activations
from minigpt.np.activations import FIT, gate_polynomial, gelu, gelu_backward, gelu_exact, gelu_exact_backward, swiglu
from minigpt.np.workspace import FRESH, Array, Workspace

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
ALL = pytest.mark.parametrize("name, n_inputs", [("relu", 1), ("gelu", 1), ("gelu_exact", 1), ("swiglu", 2)])


def probability_below(x: Array) -> Array:
    """That a normal variable is below x."""
    return np.array([math.erfc(-float(each) / math.sqrt(2)) / 2 for each in x.ravel()]).reshape(x.shape)


# ------------------------------------------------------------ exact GELU


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float64, 1e-11)], ids=["float32", "float64"])
def test_exact_gelu_and_its_slope_are_exact(dtype: DTypeLike, tolerance: float) -> None:
    places = [np.linspace(-12, 12, 24_001), np.linspace(-1e-3, 1e-3, 101), np.array([-8.0, -5.5, 0.0, 5.5, 8.0])]
    x = np.concatenate(places)[None].astype(dtype)
    y, cache = gelu_exact(x)
    slope = gelu_exact_backward(np.ones_like(x), cache)
    exact = x.astype(np.float64)
    gate = probability_below(exact)
    assert y.dtype == slope.dtype == x.dtype
    np.testing.assert_allclose(y, exact * gate, rtol=0, atol=tolerance)
    density = np.exp(-exact * exact / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(slope, gate + exact * density, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype, within", [(np.float32, 1.1e-8), (np.float64, 1e-12)], ids=["float32", "float64"])
def test_the_gates_polynomial_is_as_close_as_it_says(dtype: DTypeLike, within: float) -> None:
    largest, coefficients = gate_polynomial(np.dtype(dtype))
    x = np.linspace(-largest, largest, 5001)
    gate = (1 + np.tanh(x * np.polyval(coefficients, 2 * (x / largest) ** 2 - 1))) / 2
    assert np.abs(gate - probability_below(x)).max() < within
    assert len(coefficients) == FIT[np.dtype(dtype)][1] + 1


def test_the_two_forms_of_gelu_differ_by_less_than_a_thousandth() -> None:
    x = np.linspace(-6, 6, 1001)[None]
    difference = np.abs(gelu(x)[0] - gelu_exact(x)[0]).max()
    assert 1e-4 < difference < 1e-3


# ---------------------------------------------------------- huge numbers


@DTYPES
@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_exact"])
def test_huge_numbers_pass_or_vanish(name: str, dtype: DTypeLike) -> None:
    x = np.array([[-1e4, 1e4], [-50, 50]], dtype)
    with np.errstate(all="raise", under="ignore"):
        y, cache = getattr(activations, name)(x)
        slope = getattr(activations, f"{name}_backward")(np.ones_like(x), cache)
    np.testing.assert_array_equal(y, [[0, 1e4], [0, 50]])
    np.testing.assert_array_equal(slope, [[0, 1], [0, 1]])


@DTYPES
@pytest.mark.parametrize("size", [1e3, 1e4, 1e30])
def test_huge_gates_are_open_or_shut(dtype: DTypeLike, size: float) -> None:
    gate, up = np.array([[-size, size, -size, size]], dtype), np.array([[3, 3, -2, -2]], dtype)
    with np.errstate(all="raise", under="ignore"):
        y, cache = swiglu(gate, up)
        dgate, dup = activations.swiglu_backward(np.ones_like(gate), cache)
    np.testing.assert_allclose(y, [[0, 3 * size, 0, -2 * size]], rtol=1e-6)
    np.testing.assert_array_equal(dgate, [[0, 3, 0, -2]])
    np.testing.assert_allclose(dup, [[0, size, 0, size]], rtol=1e-6)


# ---------------------------------------------- what is kept, and where


def called(name: str, inputs: list[Array], **options: Any) -> Array:
    """y of an activation of copies of the inputs, computed a few rows at a time."""
    y: Array = getattr(activations, name)(*[x.copy() for x in inputs], **options)[0]
    return y


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> Callable[[DTypeLike, int], list[Array]]:
    monkeypatch.setattr("minigpt.np.ops.PIECE", 20)  # three rows of six
    return lambda dtype, n: list(4 * np.random.default_rng(0).standard_normal((n, 8, 6)).astype(dtype))


@DTYPES
@ALL
def test_y_is_the_same_bit_for_bit_whatever_is_kept(
    inputs: Callable[..., list[Array]], name: str, n_inputs: int, dtype: DTypeLike
) -> None:
    arrays = inputs(dtype, n_inputs)
    y = called(name, arrays)
    for keep_x in (True, False):
        for keep in (True, False):
            for ws in (FRESH, Workspace()):
                np.testing.assert_array_equal(called(name, arrays, ws=ws, keep_x=keep_x, keep=keep), y)


@DTYPES
@ALL
@pytest.mark.parametrize("keep", [True, False])
def test_arguments_are_left_alone_unless_given_away(
    inputs: Callable[..., list[Array]], name: str, n_inputs: int, dtype: DTypeLike, keep: bool
) -> None:
    arrays = inputs(dtype, n_inputs)
    before = [x.copy() for x in arrays]
    y, cache = getattr(activations, name)(*arrays, keep=keep)
    for part in (y, *(cache if isinstance(cache, tuple) else (cache,))):
        assert part is None or not any(np.shares_memory(part, x) for x in arrays)
    for x, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(x, copy)


@ALL
def test_the_backward_is_the_same_where_the_arguments_were_given_away(
    inputs: Callable[..., list[Array]], name: str, n_inputs: int
) -> None:
    arrays = inputs(np.float64, n_inputs)
    dy = np.random.default_rng(1).standard_normal((8, 6))
    function, backward = (getattr(activations, f"{name}{end}") for end in ("", "_backward"))
    kept, given = (function(*[x.copy() for x in arrays], keep_x=keep_x)[1] for keep_x in (True, False))
    np.testing.assert_array_equal(backward(dy, given), backward(dy, kept))


def test_the_backward_may_write_over_dy_and_over_the_cache() -> None:
    rng = np.random.default_rng(2)
    gate, up, dy = rng.standard_normal((3, 4, 5))
    _, cache = swiglu(gate, up)
    expected = activations.swiglu_backward(dy, cache)
    found = activations.swiglu_backward(dy, cache, out=(cache[0], dy))
    assert found[0] is cache[0] and found[1] is dy
    np.testing.assert_array_equal(found, expected)
    _, slope = gelu(gate)
    dx = gelu_backward(up, slope)
    np.testing.assert_array_equal(gelu_backward(up, slope, out=up), dx)
