"""Operations: huge logits, ignored targets and dropout masks. test_shapes.py and proof/ compare their values with PyTorch."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.np import ops
from minigpt.np.loss import IGNORE_INDEX, cross_entropy, cross_entropy_backward
from minigpt.np.ops import Dropout

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


@DTYPES
def test_softmax_of_huge_logits(dtype: DTypeLike) -> None:
    with np.errstate(all="raise", under="ignore"):
        y, _ = ops.softmax(np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], dtype))
    np.testing.assert_allclose(y, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]], rtol=1e-6)


@DTYPES
def test_cross_entropy_of_huge_logits(dtype: DTypeLike) -> None:
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0]], dtype)
    with np.errstate(all="raise", under="ignore"):
        loss, cache = cross_entropy(logits, np.array([0, 1]))
        dlogits = cross_entropy_backward(cache)
    assert loss == pytest.approx(1e4)  # the losses of the rows are 0 and 20,000
    np.testing.assert_allclose(dlogits, [[0, 0, 0], [0.5, -0.5, 0]], atol=1e-7)


def test_ignored_rows_have_no_gradient_and_do_not_change_the_loss() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((5, 7)), np.array([3, IGNORE_INDEX, 0, IGNORE_INDEX, 6])
    loss, cache = cross_entropy(logits, targets)
    dlogits = cross_entropy_backward(cache)
    assert not dlogits[[1, 3]].any()
    kept = targets != IGNORE_INDEX
    alone, alone_cache = cross_entropy(logits[kept], targets[kept])
    assert loss == pytest.approx(alone, rel=1e-14)
    np.testing.assert_allclose(dlogits[kept], cross_entropy_backward(alone_cache), rtol=1e-14)


def test_the_loss_is_zero_if_all_rows_are_ignored() -> None:
    with np.errstate(all="raise"):
        loss, cache = cross_entropy(np.ones((3, 4)), np.full(3, IGNORE_INDEX))
        dlogits = cross_entropy_backward(cache)
    assert loss == 0
    assert not dlogits.any()


def test_ignore_index_can_be_chosen() -> None:
    loss, _ = cross_entropy(np.zeros((2, 4)), np.array([1, 3]), ignore_index=3)
    assert loss == pytest.approx(np.log(4))


def test_losses_of_parts_with_the_total_count_add_up() -> None:
    logits, targets = np.random.default_rng(1).standard_normal((6, 5)), np.array([0, 1, IGNORE_INDEX, 3, 4, 2])
    total, _ = cross_entropy(logits, targets)
    parts = [cross_entropy(logits[rows], targets[rows], count=5)[0] for rows in (slice(0, 2), slice(2, 6))]
    assert sum(parts) == pytest.approx(total, rel=1e-14)


def test_the_loss_of_equal_logits_is_the_logarithm_of_their_number() -> None:
    assert cross_entropy(np.zeros((4, 50)), np.arange(4))[0] == pytest.approx(np.log(50))


def test_inputs_are_not_modified() -> None:
    rng = np.random.default_rng(2)
    x, weight, bias = rng.standard_normal((4, 6)), rng.standard_normal((6, 6)), rng.standard_normal(6)
    before = [array.copy() for array in (x, weight, bias)]
    for y, _ in (ops.linear(x, weight, bias), ops.softmax(x)):
        y.fill(7)
    cross_entropy(x, np.arange(4))
    for array, copy in zip((x, weight, bias), before, strict=True):
        np.testing.assert_array_equal(array, copy)


# --------------------------------------------------------------- dropout


@DTYPES
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_mask_has_two_values_and_a_mean_of_one(rate: float, dtype: DTypeLike) -> None:
    mask = Dropout(rate, seed=1, step=2).mask(0, (8, 100, 50), dtype)
    assert mask is not None
    assert mask.dtype == dtype
    values = np.unique(mask)
    np.testing.assert_allclose(values, [0, 1 / (1 - rate)], rtol=1e-6)
    n, p = mask.size, rate
    assert np.mean(mask == 0) == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / n))  # five standard deviations
    assert mask.mean() == pytest.approx(1, abs=5 * np.sqrt(p / (1 - p) / n))


def test_masks_differ_by_seed_step_layer_and_sequence() -> None:
    masks = [
        Dropout(0.5, seed, step, first).mask(layer, (1, 8, 8), np.float32)
        for seed, step, first, layer in product((0, 1), repeat=4)
    ]
    assert len({mask.tobytes() for mask in masks}) == 16  # type: ignore[union-attr]


def test_the_mask_of_a_sequence_does_not_depend_on_how_the_batch_is_divided() -> None:
    mask = Dropout(0.5, seed=3, step=4).mask(1, (5, 6, 7), np.float64)
    assert mask is not None
    for start, stop in ((0, 2), (2, 5), (4, 5)):
        part = Dropout(0.5, 3, 4, first_sequence=start).mask(1, (stop - start, 6, 7), np.float64)
        np.testing.assert_array_equal(part, mask[start:stop])


def test_the_mask_is_the_same_in_both_precisions() -> None:
    single, double = (Dropout(0.25, 1, 1).mask(0, (2, 3, 4), dtype) for dtype in (np.float32, np.float64))
    np.testing.assert_array_equal(single == 0, double == 0)


def test_there_is_no_mask_at_rate_zero() -> None:
    assert ops.NO_DROPOUT.mask(0, (1, 2, 3), np.float32) is None
    x = np.ones((1, 2, 3))
    assert ops.dropout(x, None)[0] is x
    assert ops.dropout_backward(x, None) is x
