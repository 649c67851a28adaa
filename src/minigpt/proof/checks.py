"""Compare a case with PyTorch and with finite differences."""

import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np import attention, lm_head, loss, ops
from minigpt.np.workspace import Array
from minigpt.proof.cases import Arrays, Case
from minigpt.proof.configs import F, T, V

TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
DIFFERENCES_TOLERANCE = 1e-6
CURVE_TOLERANCE = {"float64": 1e-9, "float32": 2e-3}


@dataclass(frozen=True)
class Check:
    """The result of one comparison."""

    operation: str
    mask: str
    dtype: str
    reference: str
    "What minigpt is compared with: PyTorch or finite differences."
    absolute_error: float
    relative_error: float
    tolerance: float
    "The largest relative error with which the check passes."

    @property
    def passed(self) -> bool:
        """Whether the relative error is at most the tolerance. NaN does not pass."""
        return self.relative_error <= self.tolerance

    @property
    def share(self) -> float:
        """The relative error as a fraction of the tolerance; infinity for NaN."""
        return math.inf if math.isnan(self.relative_error) else self.relative_error / self.tolerance


def has_torch() -> bool:
    """Return whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def errors(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[float, float]:
    """Return the largest absolute and the largest relative error between two sets of arrays, ours and the reference.

    The error of an array is relative to its largest element, or to a hundredth of the largest element of all arrays if that is
    more: some gradients are exactly zero (the bias of a key), and both sides return rounding noise for them. If any element is
    NaN or infinite, the errors are not finite.

    Raises `ValueError` if the names or shapes differ.
    """
    if set(ours) != set(theirs):
        raise ValueError(f"the arrays are {sorted(ours)}, but must be those of the reference, {sorted(theirs)}")
    largest = max(float(np.abs(array).max()) for array in theirs.values())
    absolute, relative = [0.0], [0.0]
    for name, expected in theirs.items():
        array = np.asarray(ours[name])
        if array.shape != np.shape(expected):
            raise ValueError(f"{name} has shape {array.shape}, but must have that of the reference, {np.shape(expected)}")
        error = float(np.abs(array - expected).max())
        scale = max(float(np.abs(expected).max()), largest / 100, np.finfo(np.float64).tiny)
        absolute.append(error)
        relative.append(error / scale)
    return float(np.max(absolute)), float(np.max(relative))  # unlike Python's max, np.max returns NaN if there is one


@contextmanager
def small_blocks() -> Iterator[None]:
    """Make the blocks smaller, so that the small arrays of the cases are processed in several blocks, as large arrays are.

    The thresholds of attention and cross-entropy are lowered as well, so that some rows are shifted before `exp` and others not.
    """
    with (
        patch.object(ops, "ROW_BLOCK_ELEMENTS", 2 * F),
        patch.object(attention, "QUERY_BLOCK", 4),
        patch.object(attention, "BLOCK_ELEMENTS", 4 * T),
        patch.object(attention, "SAFE_SCORE", 2.0),
        patch.object(loss, "SAFE_LOGIT", 1.8),
        patch.object(lm_head, "CHUNK_ELEMENTS", 5 * V),
        patch.object(lm_head, "MIN_CHUNK_ROWS", 5),
    ):
        yield


def run(case: Case, inputs: Arrays, seed: int) -> tuple[Array, Arrays, Array]:
    """Run a case forward and backward. Return y, the gradients of sum(y * dy) by name, and dy, which is random."""
    with small_blocks():
        y, cache = case.forward(inputs)
        y = np.array(y, dtype=next(a.dtype for a in inputs.values() if a.dtype.kind == "f"))
        dy = np.asarray(np.random.default_rng(seed).standard_normal(y.shape), dtype=y.dtype)
        grads = case.backward(dy.copy(), cache, inputs)
    return y, grads, dy


def compare_with_torch(case: Case, dtype: DTypeLike, seed: int = 0) -> Check:
    """Compare the result and the gradients of a case with PyTorch's."""
    from minigpt.np import torch_primitives

    inputs = case.inputs(seed, dtype)
    y, grads, dy = run(case, inputs, seed + 1)
    their_y, their_grads = torch_primitives.gradients(lambda a: case.torch_forward(torch_primitives, a), inputs, dy)
    absolute, relative = errors({"y": y, **grads}, {"y": their_y, **their_grads})
    name = np.dtype(dtype).name
    return Check(case.name, case.mask, name, "PyTorch", absolute, relative, TOLERANCE[name])


def compare_with_differences(case: Case, seed: int = 0, step: float = 1e-6) -> Check:
    """Compare gradients with central differences, in three random directions u for each input.

    With s(x) = sum(y * dy), the derivative sum(dx * u) must equal (s(x + h u) - s(x - h u)) / 2 h.
    """
    inputs = case.inputs(seed, np.float64)
    _, grads, dy = run(case, inputs, seed + 1)
    rng = np.random.default_rng(seed + 2)
    derivatives, differences = {}, {}
    for name in case.shapes:
        for direction in range(3):
            u = rng.standard_normal(inputs[name].shape)
            above, below = (_weighted_sum(case, inputs | {name: inputs[name] + h * u}, dy) for h in (step, -step))
            differences[f"{name} {direction}"] = (above - below) / (2 * step)
            derivatives[f"{name} {direction}"] = float(np.sum(grads[name] * u))
    absolute, relative = errors(derivatives, differences)
    return Check(case.name, case.mask, "float64", "finite differences", absolute, relative, DIFFERENCES_TOLERANCE)


def _weighted_sum(case: Case, inputs: Arrays, dy: Array) -> float:
    with small_blocks():
        return float(np.sum(case.forward(inputs)[0] * dy))


def gradient_checks(cases: Iterable[Case]) -> Iterator[Check]:
    """Yield the checks of some cases."""
    for case in cases:
        if has_torch():
            yield compare_with_torch(case, np.float64)
            yield compare_with_torch(case, np.float32)
        yield compare_with_differences(case)
