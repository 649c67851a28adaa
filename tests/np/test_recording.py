"""Recording the NumPy calls of one generation step, and replaying them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigpt import GPT
from minigpt.np import recording
from minigpt.np.context import Context
from minigpt.np.kv_cache import KVCache
from minigpt.np.network import forward
from minigpt.np.recording import RecordedStep, Recorder

MakeModel = Callable[..., GPT]


def test_replayed_steps_equal_a_forward_pass(
    make_model: MakeModel, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(**form)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 12))
    step = RecordedStep(model.parameters, model.config, 2, KVCache(model.config, 2, 12, np.float64))
    expected, _ = forward(tokens, model.parameters, Context(model.config, needs_grad=False))
    first = step(tokens[:, :1]).copy()
    np.testing.assert_allclose(first, expected[:, :1], rtol=1e-10, atol=1e-12)
    monkeypatch.setattr(recording, "block", None)  # later steps must not call it
    for t in range(1, 12):
        np.testing.assert_allclose(step(tokens[:, t : t + 1]), expected[:, t : t + 1], rtol=1e-10, atol=1e-12)


def test_arrays_derived_from_a_recording_array_record_as_well() -> None:
    recorder = Recorder()
    x = recording.recording(np.array([1.0, 2.0, 3.0, 4.0]), recorder)
    y = np.exp(x.reshape(2, 2)[1:]) + 1
    y *= x[:2]
    y[:, :1] = 7.0
    result = np.asarray(y.view(np.ndarray))
    np.testing.assert_allclose(result, [[7.0, (np.exp(4.0) + 1) * 2]])
    x.view(np.ndarray)[:] = [5.0, 6.0, 1.0, 0.0]
    for call in recorder.finish():
        call()
    np.testing.assert_allclose(result, [[7.0, 2.0 * 6.0]])


@pytest.mark.parametrize(
    "name, operation",
    [
        ("copy", lambda x: x.copy()),
        ("astype", lambda x: x.astype(np.float32)),
        ("a reshape that copies", lambda x: x.T.reshape(6)),
        ("where", lambda x: np.where(x > 0, x, 0)),
        ("concatenate", lambda x: np.concatenate([x, x])),
    ],
)
def test_operations_that_cannot_be_recorded_raise(name: str, operation: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=f"^{name} cannot be recorded"):
        operation(recording.recording(np.ones((2, 3)), Recorder()))
