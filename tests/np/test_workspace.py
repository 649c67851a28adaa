"""The arena reuses the same addresses, its arrays do not overlap, and training steps after the first allocate little."""

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
from minigpt.np.workspace import ALIGNMENT, DEFAULT_WORKSPACE, MIN_CHUNK, Arena, Array


def address(array: Array) -> int:
    return int(array.ctypes.data)


def test_the_same_requests_get_the_same_addresses() -> None:
    ws = Arena()
    shapes = [(3, 5), (1,), (1000, 1000), (7,)]
    rounds = []
    for _ in range(3):
        with ws.scratch():
            rounds.append([address(ws.empty(shape, np.float32)) for shape in shapes])
    assert rounds[0] == rounds[1] == rounds[2]
    assert len(set(rounds[0])) == len(shapes)


def test_released_memory_is_reused_in_reverse_order() -> None:
    ws = Arena()
    ws.empty((10,), np.float64)
    mark = ws.mark()
    first = ws.empty((20,), np.float64)
    inner = ws.mark()
    second = ws.empty((30,), np.float64)
    ws.release(inner)
    assert address(ws.empty((5,), np.float64)) == address(second)
    ws.release(mark)
    assert address(ws.empty((5,), np.float64)) == address(first)


def test_memory_is_released_after_an_error() -> None:
    ws = Arena()
    before = ws.mark()
    with pytest.raises(RuntimeError), ws.scratch():
        ws.empty((100,), np.float64)
        raise RuntimeError
    assert ws.mark() == before


def test_an_arena_grows_by_chunks_and_allocates_arrays_larger_than_one() -> None:
    ws = Arena()
    small = ws.empty((MIN_CHUNK - 100,), np.uint8)
    in_second_chunk = ws.empty((200,), np.uint8)
    large = ws.empty((2 * MIN_CHUNK + 1,), np.uint8)
    assert ws.nbytes == MIN_CHUNK + MIN_CHUNK + 2 * MIN_CHUNK + 1
    assert not any(np.shares_memory(a, b) for a, b in ((small, in_second_chunk), (in_second_chunk, large), (small, large)))
    ws.release((0, 0))
    assert address(ws.empty((1,), np.uint8)) == address(small)


def test_arrays_have_the_requested_shape_and_dtype() -> None:
    ws = Arena()
    for dtype in (np.float32, np.float64, np.bool_, np.int64):
        for shape in ((), (0,), (3,), (2, 3, 4), (5, 0)):
            array = ws.empty(shape, dtype)
            assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
            assert array.flags.c_contiguous and array.flags.writeable
    assert not ws.zeros((3, 3), np.float32).any()


def test_arrays_of_the_default_workspace_do_not_share_memory() -> None:
    with DEFAULT_WORKSPACE.scratch():
        first = DEFAULT_WORKSPACE.empty((4,), np.float64)
    assert not np.shares_memory(first, DEFAULT_WORKSPACE.empty((4,), np.float64))


sizes = st.integers(0, 3 * MIN_CHUNK // 8)
steps = st.lists(st.one_of(sizes, st.integers(0, 50), st.sampled_from(["mark", "release"])), max_size=40)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(steps)
def test_live_arrays_never_overlap(steps: list[int | str]) -> None:
    ws = Arena()
    live: list[Array] = []
    marks = []
    for step in steps:
        if step == "mark":
            marks.append((ws.mark(), len(live)))
        elif step == "release" and marks:
            mark, n_live = marks.pop()
            ws.release(mark)
            del live[n_live:]
        elif isinstance(step, int):
            array = ws.empty((step,), np.float64)
            assert address(array) % ALIGNMENT == 0
            array[:1], array[-1:] = len(live), len(live)  # writing the ends is enough to detect an overlap
            live.append(array)
    spans = sorted((address(a), address(a) + a.nbytes) for a in live if a.size)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all((a[[0, -1]] == i).all() for i, a in enumerate(live) if a.size)


def test_a_step_releases_all_its_memory(make_model: Callable[..., GPT], form: dict[str, Any]) -> None:
    model, ws = make_model(**form), Arena()
    tokens = np.ones((2, 8), int)
    before = ws.mark()
    model.loss_and_grads(tokens, tokens, ws=ws)
    model.loss(tokens, tokens, ws=ws)
    assert ws.mark() == before


@pytest.mark.parametrize("dropout", [Dropout(), Dropout(0.1)], ids=["no dropout", "dropout"])
def test_training_steps_after_the_first_allocate_no_large_arrays(
    make_model: Callable[..., GPT], form: dict[str, Any], dropout: Dropout
) -> None:
    """After the first step, arrays as large as an activation are in the arena, and only small ones are allocated."""
    model = make_model(np.float32, **{**form, "d_head": 32, "d_model": 96, "context_length": 64, "d_ff": 384, "vocab_size": 200})
    tokens = np.random.default_rng(0).integers(0, 200, (16, 64))
    g, ws = model.parameters.zeros_like(), Arena()
    activation = tokens.size * model.config.d_model * 4  # bytes of one array (B, T, D)
    model.loss_and_grads(tokens, tokens, out=g, dropout=dropout, ws=ws)
    nbytes = ws.nbytes
    for _ in range(2):
        tracemalloc.start()
        model.loss_and_grads(tokens, tokens, out=g, add=True, dropout=dropout, ws=ws)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < activation / 2, f"the step allocated {peak:,} bytes, but one activation has {activation:,}"
    assert ws.nbytes == nbytes


def test_the_result_is_the_same_with_and_without_an_arena(make_model: Callable[..., GPT], form: dict[str, Any]) -> None:
    model, ws = make_model(**form), Arena()
    tokens, targets = np.random.default_rng(1).integers(0, 13, (2, 3, 16))
    loss, g = model.loss_and_grads(tokens, targets)
    for _ in range(2):  # the second step finds the values of the first in its memory
        again, g_again = model.loss_and_grads(tokens, targets, ws=ws)
        assert again == loss
        np.testing.assert_array_equal(g_again.flat, g.flat)
