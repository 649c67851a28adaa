"""The check of `orthogonalize` against the singular value decomposition that defines its result.

If x = U S V^T, Newton-Schulz iterations give exactly U p(S / norm) V^T, where p is the composition of their polynomials. The
decomposition is computed in float64, by PyTorch and by NumPy.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.workspace import Array
from minigpt.proof.checks import Check, errors, has_torch
from minigpt.training.muon import COEFFICIENTS, Coefficients, orthogonalize

# The iterations multiply the smallest singular values, and with them rounding errors, by up to 485 (jordan).
ORTHOGONALIZE_TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
ITERATIONS: dict[Coefficients, int] = {"jordan": 5, "polar_express": 3}
EPSILON = 1e-7


def orthogonalize_checks() -> Iterator[Check]:
    """Yield the checks of both sets of coefficients, in float64 and float32."""
    for dtype in (np.float64, np.float32):
        for name in ITERATIONS:
            yield from ([check_with_torch(name, dtype)] if has_torch() else [])
            yield check_with_numpy(name, dtype)


def check_with_torch(name: Coefficients, dtype: DTypeLike) -> Check:
    """Compare with the decomposition that PyTorch computes."""
    import torch

    from minigpt.np import torch_primitives

    theirs = {
        label: torch_primitives.orthogonalize(torch.tensor(x).double(), polynomials(name, ITERATIONS[name])).numpy()
        for label, x in matrices(dtype).items()
    }
    return _check(name, dtype, theirs, "PyTorch")


def check_with_numpy(name: Coefficients, dtype: DTypeLike) -> Check:
    """Compare with the decomposition that NumPy computes."""
    theirs = {}
    for label, x in matrices(dtype).items():
        U, s, Vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
        s /= max(float(np.linalg.norm(s)), EPSILON)
        for a, b, c in polynomials(name, ITERATIONS[name]):
            s = a * s + b * s**3 + c * s**5
        theirs[label] = (U * s) @ Vt
    return _check(name, dtype, theirs, "NumPy's SVD")


def polynomials(name: Coefficients, iterations: int) -> list[tuple[float, float, float]]:
    """Return the coefficients of each iteration."""
    values = COEFFICIENTS[name]
    return [values[min(i, len(values) - 1)] for i in range(iterations)]


def matrices(dtype: DTypeLike) -> dict[str, Array]:
    """Return matrices of all kinds: wide, tall, square, of low rank, of one row, tiny, huge and zero."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape)

    arrays = {
        "wide": draw(5, 12),
        "tall": draw(12, 5),
        "square": draw(8, 8),
        "of rank 2": draw(9, 2) @ draw(2, 7),
        "of one row": draw(1, 6),
        "orthogonal": np.linalg.qr(draw(6, 6))[0],
        "tiny": draw(6, 4) * 1e-6,
        "smaller than epsilon": draw(4, 6) * 1e-10,
        "huge": draw(6, 4) * 1e12,
        "zero": np.zeros((3, 4)),
    }
    return {label: x.astype(dtype) for label, x in arrays.items()}


def _check(name: Coefficients, dtype: DTypeLike, theirs: dict[str, Array], reference: str) -> Check:
    ours = {label: orthogonalize(x, ITERATIONS[name], name) for label, x in matrices(dtype).items()}
    dtype_name = np.dtype(dtype).name
    absolute, relative = errors(ours, theirs)
    return Check(f"orthogonalize, {name}", "", dtype_name, reference, absolute, relative, ORTHOGONALIZE_TOLERANCE[dtype_name])
