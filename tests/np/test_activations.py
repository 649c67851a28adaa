"""Activations: the accuracy of exact GELU, huge inputs, and the options `inplace` and `needs_grad`.

test_shapes.py and proof/ compare their values with PyTorch.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.np import activations
from minigpt.np.activations import GATE_FIT, gate_polynomial, gelu, gelu_backward, gelu_exact, gelu_exact_backward, swiglu
from minigpt.np.workspace import DEFAULT_WORKSPACE, Arena, Array

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
ALL = pytest.mark.parametrize("name, n_inputs", [("relu", 1), ("relu_squared", 1), ("gelu", 1), ("gelu_exact", 1), ("swiglu", 2)])


def probability_below(x: Array) -> Array:
    """Return P(Z <= x) for a standard normal variable Z."""
    return np.array([math.erfc(-float(each) / math.sqrt(2)) / 2 for each in x.ravel()]).reshape(x.shape)


# ------------------------------------------------------------ exact GELU


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float64, 1e-11)], ids=["float32", "float64"])
def test_exact_gelu_and_its_derivative_are_accurate(dtype: DTypeLike, tolerance: float) -> None:
    ranges = [np.linspace(-12, 12, 24_001), np.linspace(-1e-3, 1e-3, 101), np.array([-8.0, -5.5, 0.0, 5.5, 8.0])]
    x = np.concatenate(ranges)[None].astype(dtype)
    y, cache = gelu_exact(x)
    dydx = gelu_exact_backward(np.ones_like(x), cache)
    exact = x.astype(np.float64)
    gate = probability_below(exact)
    assert y.dtype == dydx.dtype == x.dtype
    np.testing.assert_allclose(y, exact * gate, rtol=0, atol=tolerance)
    density = np.exp(-exact * exact / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(dydx, gate + exact * density, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1.1e-8), (np.float64, 1e-12)], ids=["float32", "float64"])
def test_the_gate_polynomial_is_as_accurate_as_documented(dtype: DTypeLike, tolerance: float) -> None:
    largest, coefficients = gate_polynomial(np.dtype(dtype))
    x = np.linspace(-largest, largest, 5001)
    gate = (1 + np.tanh(x * np.polyval(coefficients, 2 * (x / largest) ** 2 - 1))) / 2
    assert np.abs(gate - probability_below(x)).max() < tolerance
    assert len(coefficients) == GATE_FIT[np.dtype(dtype)][1] + 1


def test_the_two_forms_of_gelu_differ_by_less_than_0_001() -> None:
    x = np.linspace(-6, 6, 1001)[None]
    difference = np.abs(gelu(x)[0] - gelu_exact(x)[0]).max()
    assert 1e-4 < difference < 1e-3


# ----------------------------------------------------------- huge inputs


@DTYPES
@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_exact"])
def test_huge_inputs_give_x_or_zero(name: str, dtype: DTypeLike) -> None:
    x = np.array([[-1e4, 1e4], [-50, 50]], dtype)
    with np.errstate(all="raise", under="ignore"):
        y, cache = getattr(activations, name)(x)
        dx = getattr(activations, f"{name}_backward")(np.ones_like(x), cache)
    np.testing.assert_array_equal(y, [[0, 1e4], [0, 50]])
    np.testing.assert_array_equal(dx, [[0, 1], [0, 1]])


@DTYPES
@pytest.mark.parametrize("size", [1e3, 1e4, 1e30])
def test_huge_gates_give_silu_of_gate_or_zero(dtype: DTypeLike, size: float) -> None:
    gate, up = np.array([[-size, size, -size, size]], dtype), np.array([[3, 3, -2, -2]], dtype)
    with np.errstate(all="raise", under="ignore"):
        y, cache = swiglu(gate, up)
        dgate, dup = activations.swiglu_backward(np.ones_like(gate), cache)
    np.testing.assert_allclose(y, [[0, 3 * size, 0, -2 * size]], rtol=1e-6)
    np.testing.assert_array_equal(dgate, [[0, 3, 0, -2]])
    np.testing.assert_allclose(dup, [[0, size, 0, size]], rtol=1e-6)


@DTYPES
@pytest.mark.parametrize("size", [1e3, 1e15])
def test_huge_inputs_of_relu_squared_give_their_square(dtype: DTypeLike, size: float) -> None:
    x = np.array([[-size, size, -0.5, 0.5, 0.0]], dtype)
    with np.errstate(all="raise"):
        y, cache = activations.relu_squared(x)
        dx = activations.relu_squared_backward(np.full_like(x, 3), cache)
    np.testing.assert_array_equal(y, (np.array([[0, size, 0, 0.5, 0]], dtype)) ** 2)
    np.testing.assert_array_equal(dx, 6 * np.array([[0, size, 0, 0.5, 0]], dtype))


# --------------------------------------------- inplace and needs_grad


def run(name: str, inputs: list[Array], **options: Any) -> Array:
    """Return y of an activation, called with copies of the inputs."""
    y: Array = getattr(activations, name)(*[x.copy() for x in inputs], **options)[0]
    return y


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> Callable[[DTypeLike, int], list[Array]]:
    """Return a function that draws inputs, which the activations process in blocks of three rows."""
    monkeypatch.setattr("minigpt.np.ops.ROW_BLOCK_ELEMENTS", 20)  # three rows of six
    return lambda dtype, n: list(4 * np.random.default_rng(0).standard_normal((n, 8, 6)).astype(dtype))


@DTYPES
@ALL
def test_y_is_bit_identical_with_all_options(
    inputs: Callable[..., list[Array]], name: str, n_inputs: int, dtype: DTypeLike
) -> None:
    arrays = inputs(dtype, n_inputs)
    y = run(name, arrays)
    for inplace in (True, False):
        for needs_grad in (True, False):
            for ws in (DEFAULT_WORKSPACE, Arena()):
                np.testing.assert_array_equal(run(name, arrays, ws=ws, inplace=inplace, needs_grad=needs_grad), y)


@DTYPES
@ALL
@pytest.mark.parametrize("needs_grad", [True, False])
def test_arguments_are_not_modified_without_inplace(
    inputs: Callable[..., list[Array]], name: str, n_inputs: int, dtype: DTypeLike, needs_grad: bool
) -> None:
    arrays = inputs(dtype, n_inputs)
    before = [x.copy() for x in arrays]
    y, cache = getattr(activations, name)(*arrays, needs_grad=needs_grad)
    for part in (y, *(cache if isinstance(cache, tuple) else (cache,))):
        assert part is None or not any(np.shares_memory(part, x) for x in arrays)
    for x, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(x, copy)


@ALL
def test_the_backward_pass_is_the_same_with_inplace(inputs: Callable[..., list[Array]], name: str, n_inputs: int) -> None:
    arrays = inputs(np.float64, n_inputs)
    dy = np.random.default_rng(1).standard_normal((8, 6))
    function, backward = getattr(activations, name), getattr(activations, f"{name}_backward")
    separate, overwritten = (function(*[x.copy() for x in arrays], inplace=inplace)[1] for inplace in (False, True))
    np.testing.assert_array_equal(backward(dy, overwritten), backward(dy, separate))


def test_out_may_be_dy_or_an_array_of_the_cache() -> None:
    rng = np.random.default_rng(2)
    gate, up, dy = rng.standard_normal((3, 4, 5))
    _, cache = swiglu(gate, up)
    expected = activations.swiglu_backward(dy, cache)
    found = activations.swiglu_backward(dy, cache, out=(cache[0], dy))
    assert found[0] is cache[0] and found[1] is dy
    np.testing.assert_array_equal(found, expected)
    _, cache = gelu(gate)
    dx = gelu_backward(up, cache)
    np.testing.assert_array_equal(gelu_backward(up, cache, out=up), dx)


def test_out_of_relu_squared_may_be_dy() -> None:
    x, dy = np.random.default_rng(2).standard_normal((2, 4, 5))
    _, cache = activations.relu_squared(x)
    dx = activations.relu_squared_backward(dy, cache)
    assert activations.relu_squared_backward(dy, cache, out=dy) is dy
    np.testing.assert_array_equal(dy, dx)
