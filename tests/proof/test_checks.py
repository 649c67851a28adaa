"""The ladder against PyTorch and finite differences, a test for each rung, and the checker itself."""

import math

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.proof import checks
from minigpt.proof.cases import Case, ladder
from minigpt.proof.checks import Check, errors

CASES = pytest.mark.parametrize("case", ladder(), ids=str)
DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def passes(check: Check) -> None:
    assert check.passed, f"{check.operation} {check.mask} {check.dtype}: {check.relative:.2g} > {check.tolerance:g}"


@CASES
@DTYPES
def test_equals_pytorch(case: Case, dtype: DTypeLike) -> None:
    pytest.importorskip("torch")
    passes(checks.against_torch(case, dtype))


@CASES
def test_equals_finite_differences(case: Case) -> None:
    passes(checks.against_differences(case))


@CASES
@pytest.mark.parametrize("seed", [1, 20, 300])
def test_does_not_depend_on_a_lucky_seed(case: Case, seed: int) -> None:
    pytest.importorskip("torch")
    passes(checks.against_torch(case, np.float64, seed))
    passes(checks.against_torch(case, np.float32, seed))
    passes(checks.against_differences(case, seed))


def test_the_names_of_the_rungs_are_distinct() -> None:
    names = [str(case) for case in ladder()]
    assert len(set(names)) == len(names)


def test_checks_only_numbers_that_were_computed_in_the_dtype_asked_for() -> None:
    for case in ladder():
        y, grads, _ = checks.run(case, case.inputs(0, np.float32), seed=1)
        assert {y.dtype, *(g.dtype for g in grads.values())} == {np.dtype(np.float32)}, case


# ------------------------------------------------------------ the checker


def check(relative: float) -> Check:
    return Check("an operation", "", "float64", "PyTorch", 0.0, relative, tolerance=1e-9)


def test_a_check_passes_up_to_its_tolerance() -> None:
    assert check(0.0).passed
    assert check(1e-9).passed
    assert not check(1.1e-9).passed


@pytest.mark.parametrize("relative", [math.nan, math.inf])
def test_what_is_not_a_number_does_not_pass(relative: float) -> None:
    assert not check(relative).passed


def test_errors_are_the_largest_difference_and_its_share_of_the_array() -> None:
    ours = {"x": np.array([1.0, 2.0, 4.5])}
    theirs = {"x": np.array([1.0, 2.25, 4.0])}
    assert errors(ours, theirs) == (0.5, 0.125)


def test_the_relative_error_is_the_worst_of_any_array() -> None:
    ours = {"large": np.array([100.0]), "small": np.array([2.5])}
    theirs = {"large": np.array([101.0]), "small": np.array([2.0])}
    absolute, relative = errors(ours, theirs)
    assert (absolute, relative) == (1.0, 0.25)


def test_noise_around_zero_is_measured_by_the_largest_array() -> None:
    """As for the bias of a key, whose gradient is exactly zero."""
    ours = {"weight": np.array([10.0]), "key bias": np.array([1e-12])}
    theirs = {"weight": np.array([10.0]), "key bias": np.array([-1e-12])}
    assert errors(ours, theirs)[1] == pytest.approx(2e-12 / 0.1)


def test_all_zeros_agree() -> None:
    assert errors({"x": np.zeros(3)}, {"x": np.zeros(3)}) == (0.0, 0.0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("name", ["first", "second"])
def test_one_bad_entry_in_any_array_fails(wrong: float, side: str, name: str) -> None:
    arrays = {who: {"first": np.ones(4), "second": np.ones(4)} for who in ("ours", "theirs")}
    arrays[side][name][2] = wrong
    with np.errstate(invalid="ignore"):
        absolute, relative = errors(**arrays)
    assert not math.isfinite(absolute)
    assert not check(relative).passed


def test_arrays_of_other_names_or_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['dx'\].*\['dy'\]"):
        errors({"dx": np.ones(2)}, {"dy": np.ones(2)})
    with pytest.raises(ValueError, match=r"dx has shape \(2, 1\), on the other side \(2,\)"):
        errors({"dx": np.ones((2, 1))}, {"dx": np.ones(2)})


def test_a_gradient_that_was_never_written_fails() -> None:
    """Gradients are written over NaN in the checks, so that a forgotten one cannot pass as zero."""
    case = next(case for case in ladder() if case.name == "multi-head attention")
    whole = case.backward
    lazy = Case(
        case.name,
        case.shapes,
        case.forward,
        lambda dy, cache, a: whole(dy, cache, a) | {"out.bias": np.full(12, np.nan)},
        case.theirs,
    )
    assert not checks.against_differences(lazy).passed


def test_small_pieces_split_the_small_arrays_of_the_checks() -> None:
    from minigpt.np import attention, head, ops
    from minigpt.proof.cases import F, T, V, small_pieces

    before = attention.QUERY_BLOCK
    with small_pieces():
        assert len(list(ops.pieces(7, F))) > 1
        assert len(list(head.row_chunks(12, V))) > 1
        q = np.zeros((2, T, 4))
        found = list(attention.blocks(q, q, causal=True))
        assert len({(rows.start, end) for _, rows, end in found}) > 1
        assert len({box[0].start for box, *_ in found}) > 1
    assert before == attention.QUERY_BLOCK
