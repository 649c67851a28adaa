"""The key/value cache gives the results of a forward pass without it, and keeps the sequences separate."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt import GPT
from minigpt.np.context import Context
from minigpt.np.kv_cache import KVCache
from minigpt.np.network import forward
from minigpt.np.workspace import Array

MakeModel = Callable[..., GPT]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
TOLERANCES = pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-10)], ids=["float32", "float64"])


def next_logits(model: GPT, tokens: Array, kv_cache: KVCache) -> Array:
    """Return the logits of tokens (B, T) that follow those in the cache, and add them to it."""
    x, _ = forward(tokens, model.parameters, Context(model.config, kv_cache=kv_cache, needs_grad=False))
    return x @ model.head.T


def fill_cache(model: GPT, tokens: Array, lengths: Sequence[int], capacity: int) -> KVCache:
    """Return a cache that holds the first lengths[b] tokens of each row b."""
    kv_cache = KVCache(model.config, len(tokens), capacity, model.parameters.flat.dtype)
    next_logits(model, tokens[:, : max(lengths)], kv_cache)
    kv_cache.lengths[...] = lengths
    return kv_cache


@TOLERANCES
@pytest.mark.parametrize("sizes", [[16], [1] * 16, [5, 1, 1, 9], [15, 1]], ids=str)
def test_logits_with_a_cache_equal_those_without(
    make_model: MakeModel, form: dict[str, Any], dtype: DTypeLike, tolerance: float, sizes: Sequence[int]
) -> None:
    model = make_model(dtype, **form)
    tokens = np.random.default_rng(0).integers(0, 13, (2, 16))
    kv_cache = KVCache(model.config, 2, 16, dtype)
    parts = [next_logits(model, part, kv_cache) for part in np.split(tokens, np.cumsum(sizes)[:-1], axis=1)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), model.logits(tokens), rtol=tolerance, atol=tolerance)
    assert kv_cache.lengths.tolist() == [16, 16]


@TOLERANCES
def test_sequences_of_different_lengths_continue_at_their_own_positions(
    make_model: MakeModel, form: dict[str, Any], dtype: DTypeLike, tolerance: float
) -> None:
    model = make_model(dtype, **form)
    tokens, lengths = np.random.default_rng(0).integers(0, 13, (3, 12)), np.array([1, 9, 4])
    kv_cache = fill_cache(model, tokens, [1, 9, 4], capacity=12)
    for step in range(3):
        newest = lengths + step
        found = next_logits(model, tokens[[0, 1, 2], newest][:, None], kv_cache)
        for b, position in enumerate(newest):
            alone = model.logits(tokens[b : b + 1, : position + 1])[:, -1]
            np.testing.assert_allclose(found[b], alone, rtol=tolerance, atol=tolerance)
    assert kv_cache.lengths.tolist() == [4, 12, 7]


@DTYPES
def test_unused_slots_have_no_effect(make_model: MakeModel, form: dict[str, Any], dtype: DTypeLike) -> None:
    """If the unused slots of each sequence are filled with huge numbers, the result is still bit-identical."""
    model = make_model(dtype, **form)
    tokens, lengths = np.random.default_rng(0).integers(0, 13, (3, 12)), np.array([1, 9, 4])
    clean, filled = (fill_cache(model, tokens, [1, 9, 4], capacity=14) for _ in range(2))
    for step in range(3):
        for b, length in enumerate(lengths + step):
            filled._keys[:, :, b, length:], filled._values[:, :, b, length:] = 1e30, -1e30
        newest = tokens[[0, 1, 2], lengths + step][:, None]
        with np.errstate(over="raise", invalid="raise"):
            np.testing.assert_array_equal(next_logits(model, newest, filled), next_logits(model, newest, clean))


def test_a_new_token_attends_to_all_earlier_tokens_and_itself(make_model: MakeModel) -> None:
    """Two sequences of six and two tokens get one more token each, with 4 query heads and 2 key and value heads."""
    config, rng = make_model(n_heads=4, n_kv_heads=2, d_head=5, n_layers=1).config, np.random.default_rng(0)
    kv_cache = KVCache(config, 2, 7, np.float64)
    k, v = rng.standard_normal((2, 2, 2, 6, 5))
    kv_cache.reserve(6)
    kv_cache.append(0, k, v)
    kv_cache.lengths[...] = [6, 2]
    q, (new_k, new_v) = rng.standard_normal((2, 2, 2, 1, 5)), rng.standard_normal((2, 2, 2, 1, 5))
    positions = kv_cache.reserve(1)
    assert isinstance(positions, np.ndarray) and positions.tolist() == [[6], [2]]
    kv_cache.append(0, new_k, new_v)
    y = np.full(q.shape, np.nan)
    kv_cache.attend(0, q, out=y)
    for b, length in enumerate((6, 2)):
        keys, values = (np.concatenate([old[:, b, :length], new[:, b]], axis=1)[:, None] for old, new in ((k, new_k), (v, new_v)))
        weights = np.exp(q[:, :, b] @ keys.mT / math.sqrt(5))
        np.testing.assert_allclose(y[:, :, b], weights / weights.sum(-1, keepdims=True) @ values, rtol=1e-12)


def test_more_tokens_than_the_capacity_raise(make_model: MakeModel) -> None:
    model = make_model()
    kv_cache = fill_cache(model, np.ones((2, 8), int), [5, 3], capacity=6)
    next_logits(model, np.ones((2, 1), int), kv_cache)
    with pytest.raises(ValueError, match="the key/value cache has a capacity of 6 tokens, but 7 are needed"):
        next_logits(model, np.ones((2, 1), int), kv_cache)
    with pytest.raises(ValueError, match="the key/value cache has a capacity of 3 tokens, but 4 are needed"):
        next_logits(model, np.ones((2, 4), int), KVCache(model.config, 2, 3, np.float64))


def test_sequences_of_different_lengths_accept_one_token_at_a_time(make_model: MakeModel) -> None:
    model = make_model()
    kv_cache = fill_cache(model, np.ones((2, 8), int), [5, 3], capacity=8)
    with pytest.raises(ValueError, match=r"T is 2, but must be 1 for sequences of different lengths \(3 to 5 tokens\)"):
        next_logits(model, np.ones((2, 2), int), kv_cache)


@pytest.mark.parametrize("kept", [[True, False, True], [False, True, False], [True, True, True]], ids=str)
def test_select_keeps_the_state_of_the_selected_sequences(make_model: MakeModel, form: dict[str, Any], kept: list[bool]) -> None:
    model, rows = make_model(**form), np.flatnonzero(kept)
    tokens = np.random.default_rng(0).integers(0, 13, (3, 12))
    kv_cache = fill_cache(model, tokens, [3, 9, 6], capacity=12)
    all_logits = next_logits(model, tokens[[0, 1, 2], [3, 9, 6]][:, None], kv_cache)
    kv_cache = fill_cache(model, tokens, [3, 9, 6], capacity=12)
    kv_cache.select(np.array(kept))
    lengths = kv_cache.lengths.copy()
    assert lengths.tolist() == np.array([3, 9, 6])[rows].tolist()
    found = next_logits(model, tokens[rows, lengths][:, None], kv_cache)
    np.testing.assert_allclose(found, all_logits[rows], rtol=1e-12, atol=1e-12)
