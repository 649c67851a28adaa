"""Position encodings: learned position embeddings and rope."""

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.np.positions import (
    pairs,
    position_embedding,
    position_embedding_backward,
    rope,
    rope_backward,
    rope_table,
)

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
PAIRINGS = pytest.mark.parametrize("pairing", ["half", "interleaved"])
T, D = 9, 8


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# ---------------------------------------------------------------- learned


def test_sequences_may_have_different_positions() -> None:
    weight, x = normal(7, 4), normal(2, 3, 4, seed=1)
    positions = np.array([[0, 1, 2], [4, 5, 6]])
    y, _ = position_embedding(x.copy(), weight, positions)
    for b, start in enumerate((0, 4)):
        alone, _ = position_embedding(x[b : b + 1].copy(), weight, slice(start, start + 3))
        np.testing.assert_array_equal(y[b : b + 1], alone)


def test_unused_positions_get_no_gradient() -> None:
    _, cache = position_embedding(normal(2, 3, 4), normal(7, 4), slice(2, 5))
    dweight = position_embedding_backward(np.ones((2, 3, 4)), cache, out=np.full((7, 4), np.nan))
    np.testing.assert_array_equal(dweight[:, 0], [0, 0, 2, 2, 2, 0, 0])


# ------------------------------------------------------------------- rope


@PAIRINGS
@DTYPES
def test_the_first_position_is_not_rotated_and_all_keep_their_length(dtype: DTypeLike, pairing: str) -> None:
    x = normal(2, 3, T, D).astype(dtype)
    y, _ = rope(x, *rope_table(T, D, 100.0, pairing, np.dtype(dtype)), pairing)
    np.testing.assert_array_equal(y[..., 0, :], x[..., 0, :])
    for before, after in zip(pairs(x, pairing), pairs(y, pairing), strict=True):
        assert (before[..., 1:, :] != after[..., 1:, :]).all()
    lengths = [np.hypot(*pairs(z, pairing)) for z in (x, y)]
    np.testing.assert_allclose(lengths[1], lengths[0], rtol=1e-6 if dtype is np.float32 else 1e-14)


@PAIRINGS
def test_scores_depend_only_on_the_distance(pairing: str) -> None:
    q, k = normal(2, D)
    cos, sin = rope_table(60, D, 1000.0, pairing, np.dtype(np.float64))

    def score(query_position: int, key_position: int) -> float:
        pair = ((q, query_position), (k, key_position))
        rotated_q, rotated_k = (rope(x[None], cos[t : t + 1], sin[t : t + 1], pairing)[0][0] for x, t in pair)
        return float(rotated_q @ rotated_k)

    for distance in (-7, 0, 1, 20):
        scores = [score(start + distance, start) for start in (7, 8, 20, 39)]
        np.testing.assert_allclose(scores, scores[0], rtol=1e-12)
    assert len({round(score(20 + distance, 20), 9) for distance in range(-5, 6)}) == 11  # all distances differ


def test_the_two_pairings_differ_only_in_the_order_of_columns() -> None:
    def rotate(x: np.ndarray, pairing: str) -> np.ndarray:
        return rope(x, *rope_table(T, D, 50.0, pairing, np.dtype(np.float64)), pairing)[0]

    x, to_half = normal(3, T, D), np.concatenate([np.arange(0, D, 2), np.arange(1, D, 2)])
    np.testing.assert_array_equal(rotate(x[..., to_half], "half"), rotate(x, "interleaved")[..., to_half])
    assert np.abs(rotate(x, "half") - rotate(x, "interleaved")).max() > 0.1


@PAIRINGS
def test_the_backward_pass_is_the_inverse_rotation(pairing: str) -> None:
    x, table = normal(2, T, D), rope_table(T, D, 100.0, pairing, np.dtype(np.float64))
    y, cache = rope(x, *table, pairing)
    np.testing.assert_allclose(rope_backward(y, cache), x, rtol=1e-13)


@PAIRINGS
def test_rope_accepts_different_positions_for_each_sequence(pairing: str) -> None:
    x = normal(3, 2, 1, D)  # heads, sequences
    cos, sin = rope_table(T, D, 100.0, pairing, np.dtype(np.float64))
    positions = np.array([[2], [7]])
    y, _ = rope(x, cos[positions], sin[positions], pairing)
    for b, t in enumerate((2, 7)):
        np.testing.assert_array_equal(y[:, b], rope(x[:, b], cos[t : t + 1], sin[t : t + 1], pairing)[0])


@PAIRINGS
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-7), (np.float64, 1e-13)], ids=["float32", "float64"])
def test_rotations_are_accurate_at_distant_positions(dtype: DTypeLike, tolerance: float, pairing: str) -> None:
    """The angle of pair i at position t is t * theta^(-2 i / d)."""
    t, x = np.arange(5000.0), np.zeros((5000, 4), dtype)
    pairs(x, pairing)[0].fill(1)
    y, _ = rope(x, *rope_table(5000, 4, 10_000.0, pairing, np.dtype(dtype)), pairing)
    for pair, angle in enumerate((t, t / 100)):
        for found, exact in zip(pairs(y, pairing), (np.cos(angle), np.sin(angle)), strict=True):
            np.testing.assert_allclose(found[:, pair], exact, rtol=0, atol=tolerance)


@PAIRINGS
def test_rope_does_not_modify_its_input_and_writes_to_out(pairing: str) -> None:
    x, table = normal(2, T, D), rope_table(T, D, 100.0, pairing, np.dtype(np.float64))
    copy, out = x.copy(), np.full((T, 2, D), np.nan).swapaxes(0, 1)
    y, _ = rope(x, *table, pairing, out=out)
    np.testing.assert_array_equal(x, copy)
    assert y is out
    np.testing.assert_array_equal(out, rope(x, *table, pairing)[0])
