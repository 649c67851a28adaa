"""What is remembered of the tokens so far: it has to be what would be computed again, and no more than one's own."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt import GPT
from minigpt.np.network import forward
from minigpt.np.past import Past
from minigpt.np.workspace import Array

MakeModel = Callable[..., GPT]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
TOLERANCES = pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-10)], ids=["float32", "float64"])


def continued(model: GPT, tokens: Array, past: Past) -> Array:
    """Logits of tokens (B, T) that go on where the past ends."""
    x, _ = forward(tokens, model.parameters, model.config, keep=False, past=past)
    return x @ model.head.T


def remembered(model: GPT, tokens: Array, lengths: Sequence[int], capacity: int) -> Past:
    """A past of as many of each row's tokens as `lengths` says."""
    past = Past(model.config, len(tokens), capacity, model.parameters.flat.dtype)
    continued(model, tokens[:, : max(lengths)], past)
    past.lengths[...] = lengths
    return past


@TOLERANCES
@pytest.mark.parametrize("pieces", [[16], [1] * 16, [5, 1, 1, 9], [15, 1]], ids=str)
def test_logits_with_a_past_equal_those_without(
    make_model: MakeModel, form: dict[str, Any], dtype: DTypeLike, tolerance: float, pieces: Sequence[int]
) -> None:
    model = make_model(dtype, **form)
    tokens = np.random.default_rng(0).integers(0, 13, (2, 16))
    past = Past(model.config, 2, 16, dtype)
    parts = [continued(model, part, past) for part in np.split(tokens, np.cumsum(pieces)[:-1], axis=1)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), model.logits(tokens), rtol=tolerance, atol=tolerance)
    assert past.lengths.tolist() == [16, 16]


@TOLERANCES
def test_sequences_of_unequal_length_go_on_each_at_its_own_place(
    make_model: MakeModel, form: dict[str, Any], dtype: DTypeLike, tolerance: float
) -> None:
    model = make_model(dtype, **form)
    tokens, lengths = np.random.default_rng(0).integers(0, 13, (3, 12)), np.array([1, 9, 4])
    past = remembered(model, tokens, [1, 9, 4], capacity=12)
    for step in range(3):
        newest = lengths + step
        found = continued(model, tokens[[0, 1, 2], newest][:, None], past)
        for b, place in enumerate(newest):
            alone = model.logits(tokens[b : b + 1, : place + 1])[:, -1]
            np.testing.assert_allclose(found[b], alone, rtol=tolerance, atol=tolerance)
    assert past.lengths.tolist() == [4, 12, 7]


@DTYPES
def test_what_is_not_a_sequences_own_cannot_leak_into_it(make_model: MakeModel, form: dict[str, Any], dtype: DTypeLike) -> None:
    """Every place that holds nothing of a sequence's own is filled with huge numbers, and not a bit changes."""
    model = make_model(dtype, **form)
    tokens, lengths = np.random.default_rng(0).integers(0, 13, (3, 12)), np.array([1, 9, 4])
    clean, poisoned = (remembered(model, tokens, [1, 9, 4], capacity=14) for _ in range(2))
    for step in range(3):
        for b, length in enumerate(lengths + step):
            poisoned._keys[:, :, b, length:], poisoned._values[:, :, b, length:] = 1e30, -1e30
        newest = tokens[[0, 1, 2], lengths + step][:, None]
        with np.errstate(over="raise", invalid="raise"):
            np.testing.assert_array_equal(continued(model, newest, poisoned), continued(model, newest, clean))


def test_a_new_token_sees_all_its_past_and_itself_and_nothing_else(make_model: MakeModel) -> None:
    """Six tokens of one sequence, two of another, and one more of each: 4 heads of queries on 2 of keys and values."""
    past, rng = Past(make_model(n_heads=4, n_kv_heads=2, d_head=5, n_layers=1).config, 2, 7, np.float64), np.random.default_rng(0)
    k, v = rng.standard_normal((2, 2, 2, 6, 5))
    past.begin(6)
    past.extend(0, k, v)
    past.lengths[...] = [6, 2]
    q, (new_k, new_v) = rng.standard_normal((2, 2, 2, 1, 5)), rng.standard_normal((2, 2, 2, 1, 5))
    places = past.begin(1)
    assert isinstance(places, np.ndarray) and places.tolist() == [[6], [2]]
    past.extend(0, new_k, new_v)
    y = np.full(q.shape, np.nan)
    past.attend(0, q, out=y)
    for b, length in enumerate((6, 2)):
        keys, values = (np.concatenate([old[:, b, :length], new[:, b]], axis=1)[:, None] for old, new in ((k, new_k), (v, new_v)))
        weights = np.exp(q[:, :, b] @ keys.mT / math.sqrt(5))
        np.testing.assert_allclose(y[:, :, b], weights / weights.sum(-1, keepdims=True) @ values, rtol=1e-12)


def test_more_tokens_than_there_is_room_for_are_refused(make_model: MakeModel) -> None:
    model = make_model()
    past = remembered(model, np.ones((2, 8), int), [5, 3], capacity=6)
    continued(model, np.ones((2, 1), int), past)
    with pytest.raises(ValueError, match="there is room for 6 tokens, but there would be 7"):
        continued(model, np.ones((2, 1), int), past)
    with pytest.raises(ValueError, match="there is room for 3 tokens, but there would be 4"):
        continued(model, np.ones((2, 4), int), Past(model.config, 2, 3, np.float64))


def test_unequal_sequences_take_one_token_at_a_time(make_model: MakeModel) -> None:
    model = make_model()
    past = remembered(model, np.ones((2, 8), int), [5, 3], capacity=8)
    with pytest.raises(ValueError, match="sequences of 3 to 5 tokens go on by one token at a time, not by 2"):
        continued(model, np.ones((2, 2), int), past)


@pytest.mark.parametrize("kept", [[True, False, True], [False, True, False], [True, True, True]], ids=str)
def test_those_who_stay_remember_what_they_did(make_model: MakeModel, form: dict[str, Any], kept: list[bool]) -> None:
    model, rows = make_model(**form), np.flatnonzero(kept)
    tokens = np.random.default_rng(0).integers(0, 13, (3, 12))
    past = remembered(model, tokens, [3, 9, 6], capacity=12)
    everyone = continued(model, tokens[[0, 1, 2], [3, 9, 6]][:, None], past)
    past = remembered(model, tokens, [3, 9, 6], capacity=12)
    past.select(np.array(kept))
    lengths = past.lengths.copy()
    assert lengths.tolist() == np.array([3, 9, 6])[rows].tolist()
    found = continued(model, tokens[rows, lengths][:, None], past)
    np.testing.assert_allclose(found, everyone[rows], rtol=1e-12, atol=1e-12)
