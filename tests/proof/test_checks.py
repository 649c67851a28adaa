"""Each case compared with PyTorch and with finite differences, and tests of the comparison itself."""

import math

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.np import attention, lm_head, ops
from minigpt.proof import checks
from minigpt.proof.cases import Case, all_cases
from minigpt.proof.checks import Check, errors
from minigpt.proof.configs import F, T, V

CASES = pytest.mark.parametrize("case", all_cases(), ids=str)
DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def assert_passed(check: Check) -> None:
    assert check.passed, f"{check.operation} {check.mask} {check.dtype}: {check.relative_error:.2g} > {check.tolerance:g}"


@CASES
@DTYPES
def test_equals_pytorch(case: Case, dtype: DTypeLike) -> None:
    pytest.importorskip("torch")
    assert_passed(checks.compare_with_torch(case, dtype))


@CASES
def test_equals_finite_differences(case: Case) -> None:
    assert_passed(checks.compare_with_differences(case))


@CASES
@pytest.mark.parametrize("seed", [1, 20, 300])
def test_passes_with_other_seeds(case: Case, seed: int) -> None:
    pytest.importorskip("torch")
    assert_passed(checks.compare_with_torch(case, np.float64, seed))
    assert_passed(checks.compare_with_torch(case, np.float32, seed))
    assert_passed(checks.compare_with_differences(case, seed))


def test_case_names_are_unique() -> None:
    names = [str(case) for case in all_cases()]
    assert len(set(names)) == len(names)


def test_results_have_the_dtype_of_the_inputs() -> None:
    for case in all_cases():
        y, grads, _ = checks.run(case, case.inputs(0, np.float32), seed=1)
        assert {y.dtype, *(g.dtype for g in grads.values())} == {np.dtype(np.float32)}, case


# ---------------------------------------------------------- the comparison


def check(relative: float) -> Check:
    return Check("an operation", "", "float64", "PyTorch", 0.0, relative, tolerance=1e-9)


def test_a_check_passes_up_to_its_tolerance() -> None:
    assert check(0.0).passed
    assert check(1e-9).passed
    assert not check(1.1e-9).passed


@pytest.mark.parametrize("relative", [math.nan, math.inf])
def test_a_check_with_an_error_of_nan_or_inf_fails(relative: float) -> None:
    assert not check(relative).passed


def test_errors_are_the_largest_difference_and_its_ratio_to_the_largest_element() -> None:
    ours = {"x": np.array([1.0, 2.0, 4.5])}
    theirs = {"x": np.array([1.0, 2.25, 4.0])}
    assert errors(ours, theirs) == (0.5, 0.125)


def test_the_relative_error_is_the_largest_of_all_arrays() -> None:
    ours = {"large": np.array([100.0]), "small": np.array([2.5])}
    theirs = {"large": np.array([101.0]), "small": np.array([2.0])}
    absolute, relative = errors(ours, theirs)
    assert (absolute, relative) == (1.0, 0.25)


def test_errors_of_an_array_near_zero_are_relative_to_the_largest_array() -> None:
    """One example is the bias of a key, whose exact gradient is zero."""
    ours = {"weight": np.array([10.0]), "key bias": np.array([1e-12])}
    theirs = {"weight": np.array([10.0]), "key bias": np.array([-1e-12])}
    assert errors(ours, theirs)[1] == pytest.approx(2e-12 / 0.1)


def test_arrays_of_zeros_have_no_error() -> None:
    assert errors({"x": np.zeros(3)}, {"x": np.zeros(3)}) == (0.0, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("name", ["first", "second"])
def test_one_nonfinite_element_in_any_array_fails(value: float, side: str, name: str) -> None:
    arrays = {each: {"first": np.ones(4), "second": np.ones(4)} for each in ("ours", "theirs")}
    arrays[side][name][2] = value
    with np.errstate(invalid="ignore"):
        absolute, relative = errors(**arrays)
    assert not math.isfinite(absolute)
    assert not check(relative).passed


def test_arrays_with_different_names_or_shapes_raise() -> None:
    with pytest.raises(ValueError, match=r"the arrays are \['dx'\], but must be those of the reference, \['dy'\]"):
        errors({"dx": np.ones(2)}, {"dy": np.ones(2)})
    with pytest.raises(ValueError, match=r"dx has shape \(2, 1\), but must have that of the reference, \(2,\)"):
        errors({"dx": np.ones((2, 1))}, {"dx": np.ones(2)})


def test_a_gradient_that_is_not_written_fails() -> None:
    """The checks fill the arrays of gradients with NaN, so that a missing gradient cannot pass as zero."""
    case = next(case for case in all_cases() if case.name == "multi-head attention")
    incomplete = Case(
        case.name,
        case.shapes,
        case.forward,
        lambda dy, cache, a: case.backward(dy, cache, a) | {"out.bias": np.full(12, np.nan)},
        case.torch_forward,
    )
    assert not checks.compare_with_differences(incomplete).passed


def test_small_blocks_divide_the_arrays_of_the_cases() -> None:
    before = attention.QUERY_BLOCK
    with checks.small_blocks():
        assert len(list(ops.row_blocks(7, F))) > 1
        assert len(list(lm_head.row_chunks(12, V))) > 1
        q = np.zeros((2, T, 4))
        found = list(attention.query_blocks(q, q, causal=True))
        assert len({(rows.start, end) for _, rows, end in found}) > 1
        assert len({heads[0].start for heads, *_ in found}) > 1
    assert before == attention.QUERY_BLOCK
