import numpy as np
import pytest

from minigpt.data.batches import batch, windows

RAMP = np.arange(1000, dtype=np.uint16)


def test_targets_are_shifted_by_one_position() -> None:
    tokens, targets = batch(RAMP, seed=3, step=5, batch_size=7, context_length=20)
    assert tokens.shape == targets.shape == (7, 20)
    np.testing.assert_array_equal(tokens, tokens[:, :1] + np.arange(20))
    np.testing.assert_array_equal(targets, tokens + 1)
    assert tokens.dtype == targets.dtype == np.int64


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    def draw(seed: int, step: int) -> list[list[int]]:
        return batch(RAMP, seed, step, batch_size=16, context_length=4)[0].tolist()

    draws = {(seed, step): draw(seed, step) for seed in range(3) for step in range(3)}
    assert all(draw(*key) == value for key, value in reversed(draws.items()))
    assert len({str(value) for value in draws.values()}) == len(draws)


def test_every_start_is_equally_likely() -> None:
    starts = np.concatenate([batch(RAMP[:11], 0, step, 100, 1)[0][:, 0] for step in range(100)])
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 10  # the first token and the last target are both reached
    assert abs(counts - 1000).max() < 5 * np.sqrt(900)


def test_the_shortest_split_has_one_window() -> None:
    tokens, targets = batch(RAMP[:5], 0, 0, batch_size=2, context_length=4)
    assert tokens.tolist() == [[0, 1, 2, 3]] * 2 and targets.tolist() == [[1, 2, 3, 4]] * 2


def test_batches_are_copies() -> None:
    data = RAMP.copy()
    tokens, targets = batch(data, 0, 0, 2, 4)
    tokens[:] = targets[:] = 0
    np.testing.assert_array_equal(data, RAMP)
    assert tokens.flags.c_contiguous and targets.flags.c_contiguous


def test_a_split_shorter_than_a_window_is_refused_with_sizes() -> None:
    with pytest.raises(ValueError, match=r"has 8 tokens.*context_length 8 needs 9"):
        batch(RAMP[:8], 0, 0, 1, 8)


@pytest.mark.parametrize(("batch_size", "context_length"), [(0, 4), (4, 0), (-1, 4)])
def test_sizes_below_one_are_refused(batch_size: int, context_length: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        batch(RAMP, 0, 0, batch_size, context_length)
    with pytest.raises(ValueError, match="must be at least 1"):
        windows(RAMP, context_length, batch_size)


@pytest.mark.parametrize("length", [2, 5, 9, 10, 11, 41, 100])
@pytest.mark.parametrize(("context_length", "batch_size"), [(1, 1), (4, 2), (10, 3), (64, 5)])
@pytest.mark.parametrize("limit", [None, 1, 17, 40, 1000])
def test_windows_cover_each_target_once_in_order(length: int, context_length: int, batch_size: int, limit: int | None) -> None:
    expected = min(length - 1, limit or length)
    inputs, predicted = [], []
    for tokens, targets in windows(RAMP[:length], context_length, batch_size, limit):
        assert tokens.shape == targets.shape
        assert tokens.shape[0] <= batch_size and tokens.shape[1] <= context_length
        assert tokens.shape[1] == context_length or tokens.shape[0] == 1
        inputs += tokens.ravel().tolist()
        predicted += targets.ravel().tolist()
    assert predicted == list(range(1, expected + 1))
    assert inputs == list(range(expected))


def test_all_windows_but_the_last_are_full() -> None:
    shapes = [tokens.shape for tokens, _ in windows(RAMP[:100], context_length=8, batch_size=5)]
    assert shapes == [(5, 8), (5, 8), (2, 8), (1, 3)]


@pytest.mark.parametrize(("length", "limit"), [(0, None), (1, None), (10, 0), (10, -3)])
def test_nothing_to_predict_is_refused_at_once(length: int, limit: int | None) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        windows(RAMP[:length], 4, 2, limit)
