"""Where a token stands: learned vectors by place, and rotations of which only differences show."""

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.np.positions import angles, pairs, positions, positions_backward, rope, rope_backward

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
PAIRINGS = pytest.mark.parametrize("pairing", ["half", "interleaved"])
T, D = 9, 8


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# ---------------------------------------------------------------- learned


def test_each_sequence_may_stand_at_places_of_its_own() -> None:
    weight, x = some(7, 4), some(2, 3, 4, seed=1)
    places = np.array([[0, 1, 2], [4, 5, 6]])
    y, _ = positions(x.copy(), weight, places)
    for b, start in enumerate((0, 4)):
        alone, _ = positions(x[b : b + 1].copy(), weight, slice(start, start + 3))
        np.testing.assert_array_equal(y[b : b + 1], alone)


def test_places_that_are_not_used_get_no_gradient() -> None:
    _, cache = positions(some(2, 3, 4), some(7, 4), slice(2, 5))
    dweight = positions_backward(np.ones((2, 3, 4)), cache, out=np.full((7, 4), np.nan))
    np.testing.assert_array_equal(dweight[:, 0], [0, 0, 2, 2, 2, 0, 0])


# ------------------------------------------------------------------- rope


@PAIRINGS
@DTYPES
def test_the_first_position_is_not_turned_and_all_keep_their_length(dtype: DTypeLike, pairing: str) -> None:
    x = some(2, 3, T, D).astype(dtype)
    y, _ = rope(x, *angles(T, D, 100.0, pairing, np.dtype(dtype)), pairing)
    np.testing.assert_array_equal(y[..., 0, :], x[..., 0, :])
    for before, after in zip(pairs(x, pairing), pairs(y, pairing), strict=True):
        assert (before[..., 1:, :] != after[..., 1:, :]).all()
    length = [np.hypot(*pairs(z, pairing)) for z in (x, y)]
    np.testing.assert_allclose(length[1], length[0], rtol=1e-6 if dtype is np.float32 else 1e-14)


@PAIRINGS
def test_scores_depend_on_the_distance_alone(pairing: str) -> None:
    q, k = some(2, D)
    cos, sin = angles(60, D, 1000.0, pairing, np.dtype(np.float64))

    def score(at: int, of: int) -> float:
        turned = [rope(x[None], cos[t : t + 1], sin[t : t + 1], pairing)[0][0] for x, t in ((q, at), (k, of))]
        return float(turned[0] @ turned[1])

    for distance in (-7, 0, 1, 20):
        scores = [score(start + distance, start) for start in (7, 8, 20, 39)]
        np.testing.assert_allclose(scores, scores[0], rtol=1e-12)
    assert len({round(score(20 + distance, 20), 9) for distance in range(-5, 6)}) == 11  # and on every distance


def test_the_two_pairings_are_one_up_to_the_order_of_columns() -> None:
    def turned(x: np.ndarray, pairing: str) -> np.ndarray:
        return rope(x, *angles(T, D, 50.0, pairing, np.dtype(np.float64)), pairing)[0]

    x, to_half = some(3, T, D), np.concatenate([np.arange(0, D, 2), np.arange(1, D, 2)])
    np.testing.assert_array_equal(turned(x[..., to_half], "half"), turned(x, "interleaved")[..., to_half])
    assert np.abs(turned(x, "half") - turned(x, "interleaved")).max() > 0.1


@PAIRINGS
def test_the_backward_turns_back(pairing: str) -> None:
    x, turn = some(2, T, D), angles(T, D, 100.0, pairing, np.dtype(np.float64))
    y, cache = rope(x, *turn, pairing)
    np.testing.assert_allclose(rope_backward(y, cache), x, rtol=1e-13)


@PAIRINGS
def test_sequences_may_be_turned_by_angles_of_their_own(pairing: str) -> None:
    x = some(3, 2, 1, D)  # heads, sequences
    cos, sin = angles(T, D, 100.0, pairing, np.dtype(np.float64))
    places = np.array([[2], [7]])
    y, _ = rope(x, cos[places], sin[places], pairing)
    for b, place in enumerate((2, 7)):
        np.testing.assert_array_equal(y[:, b], rope(x[:, b], cos[place : place + 1], sin[place : place + 1], pairing)[0])


@PAIRINGS
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-7), (np.float64, 1e-13)], ids=["float32", "float64"])
def test_turns_are_exact_however_far_the_position(dtype: DTypeLike, tolerance: float, pairing: str) -> None:
    """By theta^(-2 i / d) for each pair i of a head of d columns, times the position."""
    t, x = np.arange(5000.0), np.zeros((5000, 4), dtype)
    pairs(x, pairing)[0].fill(1)
    y, _ = rope(x, *angles(5000, 4, 10_000.0, pairing, np.dtype(dtype)), pairing)
    for pair, turn in enumerate((t, t / 100)):
        for found, exact in zip(pairs(y, pairing), (np.cos(turn), np.sin(turn)), strict=True):
            np.testing.assert_allclose(found[:, pair], exact, rtol=0, atol=tolerance)


@PAIRINGS
def test_rope_leaves_its_argument_alone_and_writes_where_it_is_told(pairing: str) -> None:
    x, turn = some(2, T, D), angles(T, D, 100.0, pairing, np.dtype(np.float64))
    copy, out = x.copy(), np.full((T, 2, D), np.nan).swapaxes(0, 1)
    y, _ = rope(x, *turn, pairing, out=out)
    np.testing.assert_array_equal(x, copy)
    assert y is out
    np.testing.assert_array_equal(out, rope(x, *turn, pairing)[0])
