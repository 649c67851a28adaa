"""The calls of one token, noted once and repeated."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigpt import GPT
from minigpt.np import plan as plans
from minigpt.np.network import forward
from minigpt.np.past import Past
from minigpt.np.plan import Plan, noted

MakeModel = Callable[..., GPT]


def test_repeated_calls_give_what_the_code_of_the_blocks_gives(
    make_model: MakeModel, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(**form)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 12))
    past = Past(model.config, 2, 12, np.float64)
    plan = Plan(model.parameters, model.config, 2, past)
    expected, _ = forward(tokens, model.parameters, model.config, keep=False)
    first = plan(tokens[:, :1]).copy()
    np.testing.assert_allclose(first, expected[:, :1], rtol=1e-10, atol=1e-12)
    monkeypatch.setattr(plans, "block", None)  # from here on nobody asks it
    for t in range(1, 12):
        np.testing.assert_allclose(plan(tokens[:, t : t + 1]), expected[:, t : t + 1], rtol=1e-10, atol=1e-12)


def test_what_is_made_of_an_array_notes_too() -> None:
    calls: list[Any] = []
    x = noted(np.array([1.0, 2.0, 3.0, 4.0]), calls)
    y = np.exp(x.reshape(2, 2)[1:]) + 1
    y *= x[:2]
    y[:, :1] = 7.0
    result = np.asarray(y.view(np.ndarray))
    np.testing.assert_allclose(result, [[7.0, (np.exp(4.0) + 1) * 2]])
    x.view(np.ndarray)[:] = [5.0, 6.0, 1.0, 0.0]
    for call in calls:
        call()
    np.testing.assert_allclose(result, [[7.0, 2.0 * 6.0]])


@pytest.mark.parametrize(
    "what, do",
    [
        ("copy", lambda x: x.copy()),
        ("astype", lambda x: x.astype(np.float32)),
        ("a reshape that copies", lambda x: x.T.reshape(6)),
        ("where", lambda x: np.where(x > 0, x, 0)),
        ("concatenate", lambda x: np.concatenate([x, x])),
    ],
)
def test_what_would_be_forgotten_is_an_error(what: str, do: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=f"^{what} cannot be noted"):
        do(noted(np.ones((2, 3)), []))
