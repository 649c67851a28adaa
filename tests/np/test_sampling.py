"""From logits to the next token."""

import numpy as np
import pytest

from minigpt.np.sampling import check_sampling, next_token

LOGITS = np.array([0.5, 2.0, -1.0, 1.0, -3.0])


def frequencies(temperature: float, top_k: int | None, n: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.bincount([next_token(LOGITS, temperature, top_k, rng) for _ in range(n)], minlength=5) / n


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_softmax_says(temperature: float) -> None:
    p = softmax(LOGITS / temperature)
    assert np.abs(frequencies(temperature, None) - p).max() < 5 * np.sqrt(0.25 / 20_000)


def test_top_k_draws_among_the_likeliest_only() -> None:
    p = np.where(LOGITS >= 1.0, LOGITS, -np.inf)  # the two likeliest
    drawn = frequencies(1.0, top_k=2)
    assert not drawn[[0, 2, 4]].any()
    assert np.abs(drawn - softmax(p)).max() < 5 * np.sqrt(0.25 / 20_000)


def test_temperature_zero_is_the_likeliest() -> None:
    rng = np.random.default_rng(0)
    assert {next_token(LOGITS, 0, None, rng) for _ in range(20)} == {1}


def test_top_k_of_one_is_the_likeliest_at_any_temperature() -> None:
    rng = np.random.default_rng(0)
    assert {next_token(LOGITS, 5.0, 1, rng) for _ in range(200)} == {1}


def test_top_k_larger_than_the_vocabulary_is_all_of_it() -> None:
    np.testing.assert_array_equal(frequencies(1.0, 99, n=500), frequencies(1.0, None, n=500))


@pytest.mark.parametrize("temperature", [1e-4, 1.0, 1e4])
def test_huge_logits_and_extreme_temperatures_stay_in_the_vocabulary(temperature: float) -> None:
    logits = np.array([1e4, -1e4, 9.99e3], np.float32)
    rng = np.random.default_rng(0)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        drawn = {next_token(logits, temperature, None, rng) for _ in range(100)}
    assert drawn <= {0, 1, 2}
    assert temperature > 1 or drawn == {0}


def test_logits_are_left_alone() -> None:
    logits = LOGITS.copy()
    next_token(logits, 0.5, 2, np.random.default_rng(0))
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize(
    "temperature, top_k, named", [(-0.1, None, "temperature is -0.1"), (float("nan"), None, "nan"), (1, 0, "top_k is 0")]
)
def test_impossible_settings_are_named(temperature: float, top_k: int | None, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check_sampling(temperature, top_k)
