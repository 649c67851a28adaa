"""Clipping, AdamW, a training step and a loss curve compared with PyTorch."""

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.proof import training

pytest.importorskip("torch")

DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


@DTYPES
def test_clip(dtype: DTypeLike) -> None:
    assert training.check_clip(dtype).passed


@DTYPES
def test_adamw(dtype: DTypeLike) -> None:
    assert training.check_adamw(dtype).passed


@DTYPES
def test_training_step(dtype: DTypeLike) -> None:
    assert training.check_training("training step", 1, dtype).passed


@DTYPES
def test_loss_curve(dtype: DTypeLike) -> None:
    assert training.check_training("loss curve", 200, dtype).passed


def test_the_gradient_in_check_clip_exceeds_the_maximum_norm() -> None:
    grads = training._noise(np.float64, seed=1)
    assert np.linalg.norm(grads.flat) > 2 * training.MAX_NORM


def test_the_loss_curve_decreases() -> None:
    """A flat curve would be a weak test."""
    model = training.GPT(training.CONFIG, seed=1, dtype=np.float32)
    losses = training._train(model, [training._batch(step) for step in range(1, 101)], [3e-3] * 100)
    assert losses[-1] < losses[0] - 0.5


def test_every_training_check_runs_in_both_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "check_clip", lambda dtype: ("clip", dtype))
    monkeypatch.setattr(training, "check_adamw", lambda dtype: ("AdamW", dtype))
    monkeypatch.setattr(training, "check_training", lambda name, steps, dtype: (steps, dtype))
    found = {rung: list(checks) for rung, checks in training.training_checks()}
    expected = {"optimizer": ("clip", "AdamW"), "training step": (1,), "loss curve": (200,)}
    dtypes = (np.float64, np.float32)
    assert found == {rung: [(check, dtype) for dtype in dtypes for check in checks] for rung, checks in expected.items()}
