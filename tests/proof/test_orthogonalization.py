"""`orthogonalize` compared with singular value decompositions."""

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.proof import orthogonalization
from minigpt.proof.orthogonalization import EPSILON, ITERATIONS, matrices
from minigpt.training import muon
from minigpt.training.muon import Coefficients

DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
EACH_NAME = pytest.mark.parametrize("name", list(ITERATIONS))


@DTYPES
@EACH_NAME
def test_equals_the_decomposition_of_numpy(name: Coefficients, dtype: DTypeLike) -> None:
    assert orthogonalization.check_with_numpy(name, dtype).passed


@DTYPES
@EACH_NAME
def test_equals_the_decomposition_of_pytorch(name: Coefficients, dtype: DTypeLike) -> None:
    pytest.importorskip("torch")
    assert orthogonalization.check_with_torch(name, dtype).passed


def test_the_checks_use_all_coefficients() -> None:
    assert set(ITERATIONS) == set(muon.COEFFICIENTS)
    assert EPSILON == muon.EPSILON


def test_the_matrices_are_what_their_names_say() -> None:
    named = matrices(np.float64)
    norms = {label: float(np.linalg.norm(x)) for label, x in named.items()}
    assert named["wide"].shape[0] < named["wide"].shape[1] and named["tall"].shape[0] > named["tall"].shape[1]
    assert np.linalg.matrix_rank(named["of rank 2"]) == 2 < min(named["of rank 2"].shape)
    np.testing.assert_allclose(named["orthogonal"] @ named["orthogonal"].T, np.eye(6), atol=1e-14)
    assert 0 == norms["zero"] < norms["smaller than epsilon"] < EPSILON < norms["tiny"] < 1e-4 < 1e12 < norms["huge"]


def test_one_check_for_each_reference_precision_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthogonalization, "check_with_torch", lambda name, dtype: ("PyTorch", name, dtype))
    monkeypatch.setattr(orthogonalization, "check_with_numpy", lambda name, dtype: ("NumPy", name, dtype))
    for has_torch, references in ((True, ("PyTorch", "NumPy")), (False, ("NumPy",))):
        monkeypatch.setattr(orthogonalization, "has_torch", lambda value=has_torch: value)
        expected = [(r, name, dtype) for dtype in (np.float64, np.float32) for name in ITERATIONS for r in references]
        assert list(orthogonalization.orthogonalize_checks()) == expected
