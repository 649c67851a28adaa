"""Memory that is used again: same addresses, no overlap, nothing new in a steady step."""

import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import GPT
from minigpt.np.ops import Dropout
from minigpt.np.workspace import ALIGNMENT, CHUNK, FRESH, Array, Workspace


def address(array: Array) -> int:
    return int(array.ctypes.data)


def test_the_second_round_finds_the_same_addresses() -> None:
    ws = Workspace()
    shapes = [(3, 5), (1,), (1000, 1000), (7,)]
    rounds = []
    for _ in range(3):
        with ws.scratch():
            rounds.append([address(ws.empty(shape, np.float32)) for shape in shapes])
    assert rounds[0] == rounds[1] == rounds[2]
    assert len(set(rounds[0])) == len(shapes)


def test_what_is_released_is_handed_out_again_in_reverse_order() -> None:
    ws = Workspace()
    ws.empty((10,), np.float64)
    mark = ws.mark()
    first = ws.empty((20,), np.float64)
    inner = ws.mark()
    second = ws.empty((30,), np.float64)
    ws.release(inner)
    assert address(ws.empty((5,), np.float64)) == address(second)
    ws.release(mark)
    assert address(ws.empty((5,), np.float64)) == address(first)


def test_memory_is_given_back_after_an_error_too() -> None:
    ws = Workspace()
    before = ws.mark()
    with pytest.raises(RuntimeError), ws.scratch():
        ws.empty((100,), np.float64)
        raise RuntimeError
    assert ws.mark() == before


def test_it_grows_beyond_a_piece_and_takes_arrays_larger_than_one() -> None:
    ws = Workspace()
    small = ws.empty((CHUNK - 100,), np.uint8)
    next_piece = ws.empty((200,), np.uint8)
    large = ws.empty((2 * CHUNK + 1,), np.uint8)
    assert ws.nbytes == CHUNK + CHUNK + 2 * CHUNK + 1
    assert not any(np.shares_memory(a, b) for a, b in ((small, next_piece), (next_piece, large), (small, large)))
    ws.release((0, 0))
    assert address(ws.empty((1,), np.uint8)) == address(small)


def test_arrays_have_the_shape_and_dtype_asked_for() -> None:
    ws = Workspace()
    for dtype in (np.float32, np.float64, np.bool_, np.int64):
        for shape in ((), (0,), (3,), (2, 3, 4), (5, 0)):
            array = ws.empty(shape, dtype)
            assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
            assert array.flags.c_contiguous and array.flags.writeable
    assert not ws.zeros((3, 3), np.float32).any()


def test_fresh_arrays_are_their_own() -> None:
    with FRESH.scratch():
        first = FRESH.empty((4,), np.float64)
    assert not np.shares_memory(first, FRESH.empty((4,), np.float64))


sizes = st.integers(0, 3 * CHUNK // 8)
steps = st.lists(st.one_of(sizes, st.integers(0, 50), st.sampled_from(["mark", "release"])), max_size=40)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(steps)
def test_live_arrays_never_overlap(steps: list[int | str]) -> None:
    ws = Workspace()
    live: list[Array] = []
    marks = []
    for step in steps:
        if step == "mark":
            marks.append((ws.mark(), len(live)))
        elif step == "release" and marks:
            mark, kept = marks.pop()
            ws.release(mark)
            del live[kept:]
        elif isinstance(step, int):
            array = ws.empty((step,), np.float64)
            assert address(array) % ALIGNMENT == 0
            array[:1], array[-1:] = len(live), len(live)  # the ends show any overlap, and are quick to write
            live.append(array)
    spans = sorted((address(a), address(a) + a.nbytes) for a in live if a.size)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all((a[[0, -1]] == i).all() for i, a in enumerate(live) if a.size)


def test_a_step_leaves_the_stack_as_it_found_it(make_model: Callable[..., GPT], form: dict[str, Any]) -> None:
    model, ws = make_model(**form), Workspace()
    tokens = np.ones((2, 8), int)
    before = ws.mark()
    model.loss_and_grads(tokens, tokens, ws=ws)
    model.loss(tokens, tokens, ws=ws)
    assert ws.mark() == before


@pytest.mark.parametrize("drop", [Dropout(), Dropout(0.1)], ids=["no dropout", "dropout"])
def test_a_steady_training_step_allocates_nothing_large(
    make_model: Callable[..., GPT], form: dict[str, Any], drop: Dropout
) -> None:
    """After the first step everything as large as an activation comes from the workspace; the rest are small vectors."""
    model = make_model(np.float32, **{**form, "d_head": 32, "d_model": 96, "context_length": 64, "d_ff": 384, "vocab_size": 200})
    tokens = np.random.default_rng(0).integers(0, 200, (16, 64))
    g, ws = model.parameters.like(), Workspace()
    activation = tokens.size * model.config.d_model * 4  # bytes of one array (B, T, D)
    model.loss_and_grads(tokens, tokens, out=g, drop=drop, ws=ws)
    held = ws.nbytes
    for _ in range(2):
        tracemalloc.start()
        model.loss_and_grads(tokens, tokens, out=g, add=True, drop=drop, ws=ws)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < activation / 2, f"{peak:,} bytes at the peak, beside {activation:,} of one activation"
    assert ws.nbytes == held


def test_the_result_is_the_same_wherever_memory_comes_from(make_model: Callable[..., GPT], form: dict[str, Any]) -> None:
    model, ws = make_model(**form), Workspace()
    tokens, targets = np.random.default_rng(1).integers(0, 13, (2, 3, 16))
    loss, g = model.loss_and_grads(tokens, targets)
    for _ in range(2):  # the second time in memory that holds the first step's numbers
        again, g_again = model.loss_and_grads(tokens, targets, ws=ws)
        assert again == loss
        np.testing.assert_array_equal(g_again.flat, g.flat)
