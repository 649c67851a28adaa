"""How it is checked: against PyTorch, against finite differences, and step by step through a training."""

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.workspace import Array
from minigpt.proof.cases import Arrays, Case, ladder, small_pieces

TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
DIFFERENCES_TOLERANCE = 1e-6
CURVE_TOLERANCE = {"float64": 1e-9, "float32": 2e-3}
INSTALL_TORCH = 'PyTorch is not installed, so only finite differences were run; to compare with it: pip install -e ".[test]"'


@dataclass(frozen=True)
class Check:
    """The outcome of one comparison: the largest errors, and what they may be."""

    operation: str
    mask: str
    dtype: str
    against: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """An error that is not a number does not pass."""
        return self.relative <= self.tolerance


def has_torch() -> bool:
    """Is PyTorch installed?"""
    return importlib.util.find_spec("torch") is not None


def errors(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[float, float]:
    """Largest absolute and largest relative error between two sets of arrays with equal names and shapes.

    Relative to the largest entry of the array concerned, or to a hundredth of the largest of all arrays where that is more: the
    gradient of a key's bias is exactly zero, and both sides give rounding noise.
    """
    if set(ours) != set(theirs):
        raise ValueError(f"we have {sorted(ours)}, the other side {sorted(theirs)}")
    largest = max(float(np.abs(array).max()) for array in theirs.values())
    absolute = relative = 0.0
    for name, theirs_array in theirs.items():
        ours_array = np.asarray(ours[name])
        if ours_array.shape != np.shape(theirs_array):
            raise ValueError(f"{name} has shape {ours_array.shape}, on the other side {np.shape(theirs_array)}")
        error = float(np.abs(ours_array - theirs_array).max())
        scale = max(float(np.abs(theirs_array).max()), largest / 100, np.finfo(np.float64).tiny)
        absolute, relative = max(absolute, error), max(relative, error / scale, key=_nan_first)
        absolute = error if np.isnan(error) else absolute
    return absolute, relative


def _nan_first(number: float) -> float:
    return np.inf if np.isnan(number) else number


def run(case: Case, inputs: Arrays, seed: int) -> tuple[Array, Arrays, Array]:
    """Our forward and backward: y, the gradients of sum(y * dy), and the dy that was drawn. In small pieces."""
    with small_pieces():
        y, cache = case.forward(inputs)
        y = np.array(y, dtype=next(a.dtype for a in inputs.values() if a.dtype.kind == "f"))
        dy = np.asarray(np.random.default_rng(seed).standard_normal(y.shape), dtype=y.dtype)
        grads = case.backward(dy.copy(), cache, inputs)
    return y, grads, dy


def against_torch(case: Case, dtype: DTypeLike, seed: int = 0) -> Check:
    """Result and gradients compared with PyTorch's."""
    from minigpt.np import torch_primitives

    inputs = case.inputs(seed, dtype)
    y, grads, dy = run(case, inputs, seed + 1)
    their_y, their_grads = torch_primitives.gradients(lambda a: case.theirs(torch_primitives, a), inputs, dy)
    name = np.dtype(dtype).name
    return Check(
        case.name, case.mask, name, "PyTorch", *errors({"y": y, **grads}, {"y": their_y, **their_grads}), TOLERANCE[name]
    )


def against_differences(case: Case, seed: int = 0, step: float = 1e-6) -> Check:
    """Each gradient, in three random directions u, against (s(x + h u) - s(x - h u)) / 2h with s = sum(y * dy)."""
    inputs = case.inputs(seed, np.float64)
    _, grads, dy = run(case, inputs, seed + 1)
    rng = np.random.default_rng(seed + 2)
    slopes, differences = {}, {}
    for name in case.shapes:
        for direction in range(3):
            u = rng.standard_normal(inputs[name].shape)
            ahead, behind = (_total(case, inputs | {name: inputs[name] + h * u}, dy) for h in (step, -step))
            differences[f"{name} {direction}"] = (ahead - behind) / (2 * step)
            slopes[f"{name} {direction}"] = float(np.sum(grads[name] * u))
    absolute, relative = errors(slopes, differences)
    return Check(case.name, case.mask, "float64", "differences", absolute, relative, DIFFERENCES_TOLERANCE)


def _total(case: Case, inputs: Arrays, dy: Array) -> float:
    with small_pieces():
        return float(np.sum(case.forward(inputs)[0] * dy))


def gradient_checks() -> Iterator[Check]:
    """The ladder up to the whole model."""
    for case in ladder():
        if has_torch():
            yield against_torch(case, np.float64)
            yield against_torch(case, np.float32)
        yield against_differences(case)
