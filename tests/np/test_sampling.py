"""Sampling: the choice of the next token from its logits."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike

from minigpt.np.sampling import Sampling

LOGITS = np.array([0.5, 2.0, -1.0, 1.0, -3.0])
N = 20_000


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def frequencies(logits: np.ndarray, n: int = N, seen: Sequence[int] = (), **options: Any) -> np.ndarray:
    """Return the frequency with which each token is chosen in n draws."""
    sampling, rng = Sampling(**options), np.random.default_rng(0)
    return np.bincount([sampling.choose(logits, seen, rng) for _ in range(n)], minlength=len(logits)) / n


def candidates(logits: Sequence[float] | np.ndarray, seen: Sequence[int] = (), **options: Any) -> list[int]:
    """Return the tokens that can be drawn."""
    ids: list[int] = Sampling(**{"temperature": 1.0, **options}).probabilities(np.asarray(logits), seen)[0].tolist()
    return ids


# ------------------------------------- comparison with transformers


def optional(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy that draws dictionaries with any subset of the keys."""
    return st.fixed_dictionaries({}, optional=strategies)


@pytest.fixture(scope="module")
def filtered() -> Callable[..., np.ndarray]:
    """Return a function that applies the filters of transformers to logits, in the order of that library."""
    process = pytest.importorskip("transformers.generation.logits_process")
    import torch

    def scores(logits: np.ndarray, seen: Sequence[int], temperature: float, **options: Any) -> np.ndarray:
        filters = [process.TemperatureLogitsWarper(temperature)]
        if seen and "repetition_penalty" in options:
            filters.insert(0, process.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
        for name, kind in (("top_k", "TopK"), ("top_p", "TopP"), ("min_p", "MinP")):
            if name in options:
                filters.append(getattr(process, f"{kind}LogitsWarper")(options[name]))
        filtered_scores, ids = torch.tensor(logits)[None], torch.tensor([list(seen)], dtype=torch.long)
        for each in filters:
            filtered_scores = each(ids, filtered_scores)
        return np.asarray(filtered_scores[0])

    return scores


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.integers(2, 60),
    st.floats(0.3, 3),
    optional(
        top_k=st.integers(1, 70),
        top_p=st.floats(0.001, 0.999),
        min_p=st.floats(0.001, 1),
        repetition_penalty=st.floats(0.5, 3),
    ),
    st.integers(0, 20),
    st.integers(0, 2**32 - 1),
)
def test_filters_equal_those_of_transformers(
    filtered: Callable[..., np.ndarray], V: int, temperature: float, options: dict[str, Any], n_seen: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits, seen = 3 * rng.standard_normal(V), rng.integers(0, V, n_seen).tolist()
    theirs = filtered(logits, seen, temperature, **options)
    ids, probabilities = Sampling(temperature=temperature, **options).probabilities(logits, seen)
    np.testing.assert_array_equal(ids, np.flatnonzero(np.isfinite(theirs)))
    np.testing.assert_allclose(probabilities, softmax(theirs)[ids], rtol=1e-6)


# -------------------------------------------------------- frequencies


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax_of_the_logits(temperature: float) -> None:
    p = softmax(LOGITS / temperature)
    assert np.abs(frequencies(LOGITS, temperature=temperature) - p).max() < 5 * np.sqrt(0.25 / N)


@pytest.mark.parametrize(
    "options, kept",
    [
        ({"top_k": 2}, [1, 3]),
        ({"top_p": 0.75}, [1, 3]),
        ({"min_p": 0.2}, [0, 1, 3]),
        ({"top_k": 4, "top_p": 0.95, "min_p": 0.3}, [1, 3]),
    ],
    ids=str,
)
def test_filtered_frequencies_are_the_softmax_of_the_kept_logits(options: dict[str, Any], kept: list[int]) -> None:
    found, p = frequencies(LOGITS, temperature=1.0, **options), np.zeros(5)
    p[kept] = softmax(LOGITS[kept])
    assert not found[p == 0].any()
    assert np.abs(found - p).max() < 5 * np.sqrt(0.25 / N)


def test_the_repetition_penalty_lowers_positive_and_negative_logits() -> None:
    z = np.array([0.5 / 2, 2.0, -1.0 * 2, 1.0, -3.0])
    assert np.abs(frequencies(LOGITS, seen=[0, 2, 2, 0], temperature=1.0, repetition_penalty=2.0) - softmax(z)).max() < 0.02
    np.testing.assert_allclose(Sampling(repetition_penalty=2.0).penalize(LOGITS, [2, 0, 0, 2]), z)
    assert Sampling(repetition_penalty=2.5).choose(LOGITS, [1], np.random.default_rng(0)) == 3  # without penalty: 1


# ------------------------------------------------------- extreme values


def test_temperature_zero_chooses_the_most_likely_token() -> None:
    assert frequencies(LOGITS, n=20)[1] == 1
    assert frequencies(LOGITS, n=20, temperature=0, top_k=3, top_p=0.9, min_p=0.1)[1] == 1
    assert frequencies(np.array([1.0, 3.0, 3.0]), n=20)[1] == 1  # the first of equal ones


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}], ids=str)
def test_filters_that_keep_one_token_keep_the_most_likely_at_any_temperature(options: dict[str, Any]) -> None:
    assert candidates(LOGITS, temperature=5.0, **options) == [1]
    assert frequencies(LOGITS, n=200, temperature=5.0, **options)[1] == 1


def test_filters_that_keep_all_tokens_change_nothing() -> None:
    unfiltered = frequencies(LOGITS, n=500, temperature=1.0)
    for options in ({"top_k": 99}, {"top_k": 5}, {"top_p": 1.0}, {"min_p": 1e-6}, {"repetition_penalty": 1.0}):
        np.testing.assert_array_equal(frequencies(LOGITS, n=500, seen=[1], temperature=1.0, **options), unfiltered)


def test_each_filter_applies_to_what_the_previous_one_kept() -> None:
    """After top_k = 2, the probabilities 0.5, 0.3 and 0.2 are 0.625 and 0.375."""
    logits = np.log([0.5, 0.3, 0.2])
    assert candidates(logits, top_p=0.6) == [0, 1]
    assert candidates(logits, top_k=2, top_p=0.6) == [0]
    assert candidates(logits, top_p=0.6, temperature=3.0) == [0, 1]  # the temperature is applied first
    assert candidates(logits, top_p=0.4, temperature=3.0) == [0, 1]
    assert candidates(logits, top_p=0.4) == [0]


def test_ties_at_the_threshold_of_a_filter() -> None:
    """top_k and min_p keep all tokens that tie with the last one, and top_p keeps the first ones, as many as it needs."""
    logits = np.log([0.1, 0.3, 0.3, 0.3])
    assert candidates(logits, top_k=1) == candidates(logits, top_k=2) == candidates(logits, min_p=1.0) == [1, 2, 3]
    assert candidates(np.zeros(4), top_p=0.5) == [0, 1]
    assert candidates(np.zeros(4), top_p=0.51) == [0, 1, 2]


@pytest.mark.parametrize("temperature", [1e-4, 1.0, 1e4])
def test_huge_logits_and_extreme_temperatures_give_valid_tokens(temperature: float) -> None:
    logits = np.array([1e4, -1e4, 9.99e3], np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = frequencies(logits, n=100, temperature=temperature, top_p=0.999, min_p=1e-9, repetition_penalty=1.5, seen=[1])
    assert found.sum() == pytest.approx(1)
    assert temperature > 1 or found[0] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_logits_are_not_modified(dtype: DTypeLike) -> None:
    logits = LOGITS.astype(dtype)
    combinations: list[dict[str, Any]] = [{}, {"temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1}]
    for options in combinations:
        Sampling(repetition_penalty=1.3, **options).choose(logits, [0, 2], np.random.default_rng(0))
    np.testing.assert_array_equal(logits, LOGITS.astype(dtype))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": -0.1}, "temperature is -0.1, but must be finite and 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": 0}, "top_k is 0, but must be at least 1"),
        ({"top_k": -3}, "top_k is -3"),
        ({"top_p": 0.0}, "top_p is 0.0, but must be greater than 0 and at most 1"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"min_p": 0.0}, "min_p is 0.0, but must be greater than 0 and at most 1"),
        ({"min_p": 2.0}, "min_p is 2.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, but must be finite and greater than 0 (1 means no penalty)"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
    ],
)
def test_invalid_settings_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Sampling(**options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 2}, {"temperature": 1.0, "top_p": 0.5}]
)
def test_logits_that_are_not_finite_are_an_error(value: float, options: dict[str, float]) -> None:
    logits = np.array([0.0, value, 1.0, 2.0])
    with pytest.raises(FloatingPointError, match="the logits of the next token are not finite"):
        Sampling(**options).choose(logits, [], np.random.default_rng(0))
    with pytest.raises(FloatingPointError):
        Sampling(**options).choose(np.full(4, -np.inf), [], np.random.default_rng(0))


def test_a_token_with_a_logit_of_minus_infinity_is_never_chosen() -> None:
    logits, rng = np.array([0.0, -np.inf, 0.0]), np.random.default_rng(0)
    assert {Sampling(temperature=1.0).choose(logits, [], rng) for _ in range(100)} == {0, 2}
