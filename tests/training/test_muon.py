"""Muon: the coefficients, what the iterations do to singular values, and updates of single matrices.

proof/ compares `orthogonalize` with singular value decompositions and the updates with PyTorch.
"""

import math

import numpy as np
import pytest

from minigpt.np.workspace import Arena, Array
from minigpt.training import muon
from minigpt.training.muon import COEFFICIENTS, Coefficients, Muon, Scale, orthogonalize, update_scale

EACH_NAME = pytest.mark.parametrize("name", list(COEFFICIENTS))


def singular_values(start: Array, name: Coefficients, iterations: int) -> Array:
    """Return what iterations make of singular values: the diagonal of an orthogonalized diagonal matrix."""
    values = np.array(start, dtype=np.float64)
    for i in range(iterations):
        a, b, c = COEFFICIENTS[name][min(i, len(COEFFICIENTS[name]) - 1)]
        values = a * values + b * values**3 + c * values**5
    return values


# ------------------------------------------------------------ coefficients


def best_quintic(low: float, high: float) -> tuple[float, float, float]:
    """Return (a, b, c) for which |a s + b s^3 + c s^5 - 1| has the smallest maximum for s from `low` to `high` (Remez)."""
    if low / high > 1 - 5e-6:
        return 15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5
    inner = np.array([(3 * low + high) / 4, (low + 3 * high) / 4])
    for _ in range(50):
        s = np.array([low, *inner, high])
        a, b, c, _ = np.linalg.solve(np.stack([s, s**3, s**5, [1, -1, 1, -1]], axis=1), np.ones(4))
        root = math.sqrt(9 * b * b - 20 * a * c)
        inner = np.sqrt((-3 * b + np.array([-root, root])) / (10 * c))
    return a, b, c


def polar_express(steps: int, smallest: float = 1e-3, cushion: float = 0.02407327424182761) -> list[tuple[float, float, float]]:
    """Return the coefficients as Amsel et al. compute them.

    The polynomial is the best one not from the smallest singular value on, but from `cushion` times the largest one on, and is
    scaled so that the errors at both ends are the same again. The safety factor keeps rounding errors within the interval.
    """
    low, high, coefficients = smallest, 1.0, []
    for _ in range(steps):
        a, b, c = best_quintic(max(low, cushion * high), high)
        at_low, at_high = (a * s + b * s**3 + c * s**5 for s in (low, high))
        k = 2 / (at_low + at_high)
        low, high = k * at_low, 2 - k * at_low
        coefficients.append((k * a / 1.01, k * b / 1.01**3, k * c / 1.01**5))
    return coefficients


def test_the_coefficients_of_polar_express_are_the_best_polynomials() -> None:
    *computed, last = COEFFICIENTS["polar_express"]
    np.testing.assert_allclose(computed, polar_express(len(computed)), atol=1e-6)
    assert last == (1.875, -1.25, 0.375)  # the limit, without a safety factor: 1 is a fixed point, with derivatives 0 and 0


def test_the_coefficients_of_jordan_are_those_of_pytorch() -> None:
    torch_muon = pytest.importorskip("torch.optim._muon")
    assert COEFFICIENTS["jordan"] == ((torch_muon.DEFAULT_A, torch_muon.DEFAULT_B, torch_muon.DEFAULT_C),)


@pytest.mark.parametrize(
    "name, iterations, smallest, low, high",
    [
        ("jordan", 5, 0.01, 0.68, 1.14),
        ("polar_express", 3, 0.01, 0.18, 1.87),
        ("polar_express", 5, 0.001, 0.84, 1.13),
        ("polar_express", 8, 0.001, 1 - 1e-9, 1 + 1e-9),
    ],
)
def test_singular_values_after_the_iterations(
    name: Coefficients, iterations: int, smallest: float, low: float, high: float
) -> None:
    """The bounds that docs/derivations.md gives."""
    values = singular_values(np.geomspace(smallest, 1, 100_001), name, iterations)
    assert low < values.min() < low + 0.03 and high - 0.03 < values.max() < high


@EACH_NAME
def test_no_iteration_diverges(name: Coefficients) -> None:
    """Not even with a singular value that rounding has made larger than 1."""
    for iterations in range(1, 15):
        assert 0 <= singular_values(np.linspace(0, 1.005, 10_001), name, iterations).max() < 2


# ----------------------------------------------------------- orthogonalize


@EACH_NAME
def test_orthogonalize_does_to_a_diagonal_matrix_what_the_polynomials_do(name: Coefficients) -> None:
    start = np.array([0.8, 0.5, 0.3, 0.1, 0.03, 0.001])
    for iterations in (0, 1, 4, 12):
        x = np.diag(start)
        expected = np.diag(singular_values(start / np.linalg.norm(start), name, iterations))
        np.testing.assert_allclose(orthogonalize(x, iterations, name), expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1)])
def test_many_iterations_give_the_nearest_orthogonal_matrix(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    U, _, Vt = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(orthogonalize(x, 12), U @ Vt, atol=1e-9)


@EACH_NAME
def test_orthogonalize_of_the_transpose_is_the_transpose(name: Coefficients) -> None:
    x = np.random.default_rng(1).standard_normal((4, 9))
    np.testing.assert_array_equal(orthogonalize(x.T, 5, name), orthogonalize(x, 5, name).T)


@pytest.mark.parametrize("size", [1e-5, 1e-3, 1.0, 1e3, 1e15])
def test_the_size_of_the_matrix_has_no_effect(size: float) -> None:
    x = np.random.default_rng(2).standard_normal((5, 8)).astype(np.float32)
    np.testing.assert_allclose(orthogonalize(x * np.float32(size), 5), orthogonalize(x, 5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1e-12, 4.5e-23, 1e-30, 1e-44, 0.0])
def test_a_matrix_that_is_almost_zero_stays_small(size: float) -> None:
    """The squares of these elements underflow: divided by such a norm, the singular values would exceed 1 and diverge."""
    x = np.full((16, 16), size, np.float32)
    assert np.abs(orthogonalize(x, 5)).max() <= 1000 * size / muon.EPSILON


def test_orthogonalize_does_not_change_its_argument() -> None:
    for shape in ((3, 5), (5, 3)):
        x = np.random.default_rng(3).standard_normal(shape)
        before = x.copy()
        orthogonalize(x, 5)
        np.testing.assert_array_equal(x, before)


# ------------------------------------------------------------------ update


def update(rule: Muon, p: Array, gradients: list[Array], lr: float, **more: float) -> tuple[Array, Array]:
    """Return the parameters and the momentum after updates."""
    p, m = p.copy(), np.zeros_like(p)
    for g in gradients:
        rule.update(p, g, m, np.full_like(p, np.nan), lr, step=1, **more)
    return p, m


def test_two_updates_by_hand() -> None:
    rng = np.random.default_rng(4)
    p, g1, g2 = rng.standard_normal((3, 6, 4))
    rule = Muon(momentum=0.75, iterations=12, scale="spectral", weight_decay=0.5)

    def polar(x: Array) -> Array:
        U, _, Vt = np.linalg.svd(x, full_matrices=False)
        return np.asarray(U @ Vt)

    m1 = 0.25 * g1
    p1 = p - 0.1 * (0.5 * p + polar(0.75 * m1 + 0.25 * g1))
    m2 = 0.75 * m1 + 0.25 * g2
    p2 = p1 - 0.1 * (0.5 * p1 + polar(0.75 * m2 + 0.25 * g2))
    for gradients, expected in (([g1], (p1, m1)), ([g1, g2], (p2, m2))):
        np.testing.assert_allclose(update(rule, p, gradients, lr=0.1), expected, atol=1e-9)


@pytest.mark.parametrize("scale, factor", [("spectral", 1.0), ("rms", 0.2 * math.sqrt(24))])
def test_the_norms_of_an_update_are_those_of_its_scale(scale: Scale, factor: float) -> None:
    """All singular values are lr times the scale. With "rms", the root mean square of the elements is 0.2 lr."""
    g = np.random.default_rng(5).standard_normal((24, 8))
    p, _ = update(Muon(iterations=12, scale=scale), np.zeros_like(g), [g], lr=0.5)
    np.testing.assert_allclose(np.linalg.svd(p, compute_uv=False), 0.5 * factor, rtol=1e-9)
    if scale == "rms":
        assert math.sqrt(np.mean(p * p)) == pytest.approx(0.2 * 0.5)


@pytest.mark.parametrize("inputs, outputs, spectral", [(16, 64, 2.0), (64, 16, 1.0), (16, 16, 1.0)])
def test_the_scale_depends_on_the_shape(inputs: int, outputs: int, spectral: float) -> None:
    assert update_scale(inputs, outputs, "spectral") == spectral
    assert update_scale(inputs, outputs, "rms") == pytest.approx(0.2 * math.sqrt(max(inputs, outputs)))


def test_the_columns_of_a_matrix_are_updated_in_place() -> None:
    """Queries, keys and values are columns of one matrix, which are not contiguous."""
    p, g = np.random.default_rng(6).standard_normal((2, 6, 10))
    whole, m = p.copy(), np.zeros_like(p)
    rule, columns = Muon(weight_decay=0.1), slice(2, 7)
    rule.update(whole[:, columns], g[:, columns], m[:, columns], m[:, columns], 0.1, 1, 0.5, Arena())
    expected, _ = update(rule, p[:, columns], [g[:, columns]], lr=0.1, scale=0.5)
    np.testing.assert_allclose(whole[:, columns], expected, rtol=1e-12)
    for untouched in (slice(0, 2), slice(7, 10)):
        np.testing.assert_array_equal(whole[:, untouched], p[:, untouched])
        assert not m[:, untouched].any()


def test_no_gradient_and_no_decay_leave_the_parameters_unchanged() -> None:
    """The first step with zero-initialized output projections: most gradients are zero."""
    p = np.random.default_rng(7).standard_normal((4, 6))
    np.testing.assert_array_equal(update(Muon(weight_decay=0.0), p, [np.zeros_like(p)] * 3, lr=0.1)[0], p)


def test_flops_are_the_same_for_the_transpose_and_proportional_to_the_iterations() -> None:
    assert Muon(iterations=3).flops(128, 512) == Muon(iterations=3).flops(512, 128)
    assert Muon(iterations=6).flops(128, 512) == 2 * Muon(iterations=3).flops(128, 512)
