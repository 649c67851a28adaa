"""From logits to the next token."""

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


def drawn(logits: np.ndarray, n: int = N, seen: Sequence[int] = (), **how: Any) -> np.ndarray:
    """How often each token is chosen."""
    sampling, rng = Sampling(**how), np.random.default_rng(0)
    return np.bincount([sampling.choose(logits, seen, rng) for _ in range(n)], minlength=len(logits)) / n


def left(logits: Sequence[float] | np.ndarray, seen: Sequence[int] = (), **how: Any) -> list[int]:
    """The tokens that can be drawn."""
    ids: list[int] = Sampling(**{"temperature": 1.0, **how}).probabilities(np.asarray(logits), seen)[0].tolist()
    return ids


# ---------------------------------------------- against transformers


def some(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the settings, but not always all of them."""
    return st.fixed_dictionaries({}, optional=strategies)


@pytest.fixture(scope="module")
def filtered() -> Callable[..., np.ndarray]:
    """The scores of all tokens after the filters of the library transformers, in the order in which it applies them."""
    process = pytest.importorskip("transformers.generation.logits_process")
    import torch

    def scores(logits: np.ndarray, seen: Sequence[int], temperature: float, **how: Any) -> np.ndarray:
        filters = [process.TemperatureLogitsWarper(temperature)]
        if seen and "repetition_penalty" in how:
            filters.insert(0, process.RepetitionPenaltyLogitsProcessor(how["repetition_penalty"]))
        for name, kind in (("top_k", "TopK"), ("top_p", "TopP"), ("min_p", "MinP")):
            if name in how:
                filters.append(getattr(process, f"{kind}LogitsWarper")(how[name]))
        left, ids = torch.tensor(logits)[None], torch.tensor([list(seen)], dtype=torch.long)
        for each in filters:
            left = each(ids, left)
        return np.asarray(left[0])

    return scores


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.integers(2, 60),
    st.floats(0.3, 3),
    some(
        top_k=st.integers(1, 70),
        top_p=st.floats(0.001, 0.999),
        min_p=st.floats(0.001, 1),
        repetition_penalty=st.floats(0.5, 3),
    ),
    st.integers(0, 20),
    st.integers(0, 2**32 - 1),
)
def test_filters_are_those_of_transformers(
    filtered: Callable[..., np.ndarray], V: int, temperature: float, how: dict[str, Any], n_seen: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits, seen = 3 * rng.standard_normal(V), rng.integers(0, V, n_seen).tolist()
    theirs = filtered(logits, seen, temperature, **how)
    ids, probabilities = Sampling(temperature=temperature, **how).probabilities(logits, seen)
    np.testing.assert_array_equal(ids, np.flatnonzero(np.isfinite(theirs)))
    np.testing.assert_allclose(probabilities, softmax(theirs)[ids], rtol=1e-6)


# ----------------------------------------------------------- how often


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_softmax_says(temperature: float) -> None:
    p = softmax(LOGITS / temperature)
    assert np.abs(drawn(LOGITS, temperature=temperature) - p).max() < 5 * np.sqrt(0.25 / N)


@pytest.mark.parametrize(
    "how, kept",
    [
        ({"top_k": 2}, [1, 3]),
        ({"top_p": 0.75}, [1, 3]),
        ({"min_p": 0.2}, [0, 1, 3]),
        ({"top_k": 4, "top_p": 0.95, "min_p": 0.3}, [1, 3]),
    ],
    ids=str,
)
def test_only_what_is_left_is_drawn_as_often_as_it_should_be(how: dict[str, Any], kept: list[int]) -> None:
    found, p = drawn(LOGITS, temperature=1.0, **how), np.zeros(5)
    p[kept] = softmax(LOGITS[kept])
    assert not found[p == 0].any()
    assert np.abs(found - p).max() < 5 * np.sqrt(0.25 / N)


def test_a_seen_token_is_less_likely_whatever_its_sign() -> None:
    z = np.array([0.5 / 2, 2.0, -1.0 * 2, 1.0, -3.0])
    assert np.abs(drawn(LOGITS, seen=[0, 2, 2, 0], temperature=1.0, repetition_penalty=2.0) - softmax(z)).max() < 0.02
    np.testing.assert_allclose(Sampling(repetition_penalty=2.0).penalised(LOGITS, [2, 0, 0, 2]), z)
    assert Sampling(repetition_penalty=2.5).choose(LOGITS, [1], np.random.default_rng(0)) == 3  # no longer 1


# -------------------------------------------------------------- limits


def test_temperature_zero_is_the_likeliest() -> None:
    assert drawn(LOGITS, n=20)[1] == 1
    assert drawn(LOGITS, n=20, temperature=0, top_k=3, top_p=0.9, min_p=0.1)[1] == 1
    assert drawn(np.array([1.0, 3.0, 3.0]), n=20)[1] == 1  # the first of equals


@pytest.mark.parametrize("how", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}], ids=str)
def test_filters_that_leave_one_token_leave_the_likeliest_at_any_temperature(how: dict[str, Any]) -> None:
    assert left(LOGITS, temperature=5.0, **how) == [1]
    assert drawn(LOGITS, n=200, temperature=5.0, **how)[1] == 1


def test_filters_that_leave_all_change_nothing() -> None:
    free = drawn(LOGITS, n=500, temperature=1.0)
    for how in ({"top_k": 99}, {"top_k": 5}, {"top_p": 1.0}, {"min_p": 1e-6}, {"repetition_penalty": 1.0}):
        np.testing.assert_array_equal(drawn(LOGITS, n=500, seen=[1], temperature=1.0, **how), free)


def test_filters_follow_one_another() -> None:
    """top_p of what top_k has left: 0.5, 0.3 and 0.2 become 0.625 and 0.375."""
    logits = np.log([0.5, 0.3, 0.2])
    assert left(logits, top_p=0.6) == [0, 1]
    assert left(logits, top_k=2, top_p=0.6) == [0]
    assert left(logits, top_p=0.6, temperature=3.0) == [0, 1]  # the temperature comes first
    assert left(logits, top_p=0.4, temperature=3.0) == [0, 1]
    assert left(logits, top_p=0.4) == [0]


def test_what_is_as_likely_as_the_last_that_is_kept() -> None:
    """top_k and min_p keep all of them, top_p as many as it needs, the first ones."""
    logits = np.log([0.1, 0.3, 0.3, 0.3])
    assert left(logits, top_k=1) == left(logits, top_k=2) == left(logits, min_p=1.0) == [1, 2, 3]
    assert left(np.zeros(4), top_p=0.5) == [0, 1]
    assert left(np.zeros(4), top_p=0.51) == [0, 1, 2]


@pytest.mark.parametrize("temperature", [1e-4, 1.0, 1e4])
def test_huge_logits_and_extreme_temperatures_stay_in_the_vocabulary(temperature: float) -> None:
    logits = np.array([1e4, -1e4, 9.99e3], np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = drawn(logits, n=100, temperature=temperature, top_p=0.999, min_p=1e-9, repetition_penalty=1.5, seen=[1])
    assert found.sum() == pytest.approx(1)
    assert temperature > 1 or found[0] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_logits_are_left_alone(dtype: DTypeLike) -> None:
    logits = LOGITS.astype(dtype)
    how: list[dict[str, Any]] = [{}, {"temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1}]
    for each in how:
        Sampling(repetition_penalty=1.3, **each).choose(logits, [0, 2], np.random.default_rng(0))
    np.testing.assert_array_equal(logits, LOGITS.astype(dtype))


@pytest.mark.parametrize(
    "how, named",
    [
        ({"temperature": -0.1}, "temperature is -0.1, but must be 0 (the likeliest token) or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": 0}, "top_k is 0, but must be at least 1"),
        ({"top_k": -3}, "top_k is -3"),
        ({"top_p": 0.0}, "top_p is 0.0, but must be greater than 0 and at most 1"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"min_p": 0.0}, "min_p is 0.0, but must be greater than 0 and at most 1"),
        ({"min_p": 2.0}, "min_p is 2.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, but must be greater than 0 (1 is none)"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
    ],
)
def test_impossible_settings_are_named(how: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError) as caught:
        Sampling(**how)
    assert str(caught.value).startswith(named)
