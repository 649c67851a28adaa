"""Clipping, updates, a training step and a loss curve compared with PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.np.parameters import initialize
from minigpt.proof import training
from minigpt.training.muon import Muon
from minigpt.training.optimizer import GROUPS, group_of

pytest.importorskip("torch")

DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
TRAININGS = pytest.mark.parametrize("name", list(training.TRAININGS))


@DTYPES
def test_clip(dtype: DTypeLike) -> None:
    assert training.check_clip(dtype).passed


@DTYPES
@pytest.mark.parametrize("name", list(training.UPDATES))
def test_updates(name: str, dtype: DTypeLike) -> None:
    assert training.check_updates(name, dtype).passed


@pytest.mark.parametrize("name", ["Muon", "Muon, scale rms"])
def test_pytorchs_muon_as_it_is_differs_by_the_precision_of_bfloat16(name: str) -> None:
    """Elsewhere, PyTorch's iterations run in the precision of the parameters, so that the comparison is exact."""
    check = training.check_updates(name, np.float32, bfloat16=True)
    assert 1e-4 < check.relative_error < 0.03


@DTYPES
@TRAININGS
def test_training_step(name: str, dtype: DTypeLike) -> None:
    assert training.check_training(name, 1, dtype).passed


@DTYPES
@TRAININGS
def test_loss_curve(name: str, dtype: DTypeLike) -> None:
    assert training.check_training(name, 60, dtype).passed


def test_the_gradient_in_check_clip_exceeds_the_maximum_norm() -> None:
    grads = training._noise(training.CONFIG, np.float64, seed=1)
    assert np.linalg.norm(grads.flat) > 2 * training.MAX_NORM


@TRAININGS
def test_the_loss_curve_decreases(name: str) -> None:
    """A flat curve would be a weak test."""
    config, optimizer = training.TRAININGS[name]
    model = training.GPT(config, parameters=initialize(config, 1, zero_outputs=name == "default"))
    losses = training._train(model, optimizer(), [training._batch(step) for step in range(1, 61)], [1.0] * 60)
    assert losses[-1] < losses[0] - 0.5


def test_the_optimizers_of_the_checks_differ_in_everything_that_matters() -> None:
    """A rate, a width or a setting that is neutral would hide a fault."""
    config, optimizer = training.UPDATES["Muon"]
    groups = optimizer().groups
    assert len({group.lr for group in groups.values()}) == len(groups) == len(GROUPS)
    assert {group_of(name) for name in training.GPT(config).parameters} == set(GROUPS)
    assert config.n_kv_heads != config.n_heads and config.qk_norm and config.activation == "swiglu"
    rule = groups["matrices"].rule
    assert isinstance(rule, Muon) and rule.weight_decay > 0
    assert replace(rule, scale="rms") == training.UPDATES["Muon, scale rms"].optimizer().groups["matrices"].rule


def test_every_training_check_runs_in_both_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "check_clip", lambda dtype: ("clip", dtype))
    monkeypatch.setattr(training, "check_updates", lambda name, dtype: (name, dtype))
    monkeypatch.setattr(training, "check_training", lambda name, steps, dtype: ((name, steps), dtype))
    found = {rung: list(checks) for rung, checks in training.training_checks()}
    expected: dict[str, list[object]] = {
        "optimizer": ["clip", *training.UPDATES],
        "training step": [(name, 1) for name in training.TRAININGS],
        "loss curve": [(name, 100) for name in training.TRAININGS],
    }
    dtypes = (np.float64, np.float32)
    assert found == {rung: [(check, dtype) for dtype in dtypes for check in checks] for rung, checks in expected.items()}
