"""AdamW on slices of the parameters, and clipping. tests/proof compares them with PyTorch."""

import math

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.np.ops import ROW_BLOCK_ELEMENTS
from minigpt.np.parameters import Parameters
from minigpt.training.optimizer import AdamW, clip_scale, update_slices


@pytest.mark.parametrize(
    "size", [1, ROW_BLOCK_ELEMENTS - 1, ROW_BLOCK_ELEMENTS, ROW_BLOCK_ELEMENTS + 1, 3 * ROW_BLOCK_ELEMENTS + 5]
)
def test_slices_cover_every_parameter_once_in_order(size: int) -> None:
    p = Parameters({"bias": (7,), "weight": (size, 1), "gamma": (size,), "head": (1, 2)}, np.float32)
    slices = update_slices(p)
    indices = np.concatenate([np.arange(p.flat.size)[block] for block, _ in slices])
    np.testing.assert_array_equal(indices, np.arange(p.flat.size))
    assert max(block.stop - block.start for block, _ in slices) <= ROW_BLOCK_ELEMENTS


def test_only_matrices_decay() -> None:
    p = GPT(ModelConfig(vocab_size=9, context_length=4, d_model=6, n_layers=1, n_heads=2)).parameters
    decays = np.zeros(p.flat.size, bool)
    for block, decaying in update_slices(p):
        for part in decaying:
            decays[block][part] = True
    mask = Parameters(p.shapes, np.bool_, decays)
    assert {name for name, array in mask.items() if array.all()} == {name for name, array in p.items() if array.ndim == 2}
    assert {name for name, array in mask.items() if not array.any()} == {name for name, array in p.items() if array.ndim == 1}


def test_the_first_step_has_the_size_of_the_learning_rate() -> None:
    p, g = np.array([1.0, 2.0, 3.0]), np.array([0.5, -4.0, 0.0])
    AdamW(weight_decay=0).update(p, g, np.zeros(3), np.zeros(3), lr=0.1, step=1)
    np.testing.assert_allclose(p, [0.9, 2.1, 3.0])


def test_two_steps_computed_by_hand() -> None:
    p, m, v = np.array([1.0]), np.zeros(1), np.zeros(1)
    adam = AdamW(beta1=0.5, beta2=0.75, epsilon=0.0, weight_decay=0.1)
    adam.update(p, np.array([2.0]), m, v, lr=0.1, step=1)
    assert (m[0], v[0]) == (1.0, 1.0)
    assert p[0] == pytest.approx(1 - 0.01 - 0.1)
    adam.update(p, np.array([4.0]), m, v, lr=0.1, step=2)
    assert (m[0], v[0]) == (2.5, 4.75)
    expected = 0.89 * 0.99 - 0.1 * (2.5 / 0.75) / math.sqrt(4.75 / (1 - 0.75**2))
    assert p[0] == pytest.approx(expected)


def test_decay_is_optional_and_the_gradient_is_not_changed() -> None:
    p, g = np.array([1.0]), np.array([0.0])
    adam = AdamW(weight_decay=0.5)
    adam.update(p, g, np.zeros(1), np.zeros(1), lr=0.1, step=1, decaying=())
    assert p[0] == 1.0
    adam.update(p, g, np.zeros(1), np.zeros(1), lr=0.1, step=1)
    assert (p[0], g[0]) == (0.95, 0.0)


def test_float32_is_kept() -> None:
    p, m, v = (np.ones(3, np.float32) for _ in range(3))
    AdamW().update(p, np.ones(3, np.float32), m, v, lr=0.1, step=1)
    assert {a.dtype for a in (p, m, v)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("norm, max_norm, scale", [(10.0, 1.0, 0.1), (0.5, 1.0, 1.0), (10.0, 0.0, 1.0), (0.0, 1.0, 1.0)])
def test_only_norms_above_the_maximum_are_clipped(norm: float, max_norm: float, scale: float) -> None:
    assert clip_scale(norm, max_norm) == pytest.approx(scale, rel=1e-5)
