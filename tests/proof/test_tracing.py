"""`GPT.trace` compared with PyTorch's `retain_grad` and with finite differences."""

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt.proof import tracing
from minigpt.proof.tracing import MODELS

EACH_MODEL = pytest.mark.parametrize("label", list(MODELS))


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@EACH_MODEL
def test_equals_pytorch(label: str, dtype: DTypeLike) -> None:
    pytest.importorskip("torch")
    assert tracing.compare_with_torch(label, dtype).passed


@EACH_MODEL
def test_gradients_are_the_differences_of_the_loss(label: str) -> None:
    assert tracing.compare_with_differences(label).passed


@EACH_MODEL
def test_gradients_are_the_differences_of_the_loss_of_a_patched_model(label: str) -> None:
    assert tracing.compare_patched_with_differences(label).passed


@EACH_MODEL
def test_what_is_computed_from_a_trace(label: str) -> None:
    assert tracing.check_sums(label).passed


def test_the_models_have_every_array_that_there_is() -> None:
    names = {name.split(".", 2)[-1] for label in MODELS for name in tracing._trace(*tracing._setup(label, np.float64)).names}
    assert names >= {
        *("attention.q_norm", "attention.rotated_keys", "attention.scores", "attention.weights", "attention.heads"),
        *("feed_forward.gate", "feed_forward.active", "residual_mid", "residual_post", "final_norm", "logits"),
    }


def test_without_pytorch_only_differences_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_torch, expected in ((True, 5), (False, 3)):
        monkeypatch.setattr(tracing, "has_torch", lambda value=has_torch: value)
        for name in ("compare_with_torch", "compare_with_differences", "compare_patched_with_differences", "check_sums"):
            monkeypatch.setattr(tracing, name, lambda *arguments: arguments)
        assert len(list(tracing.trace_checks())) == expected * len(MODELS)
