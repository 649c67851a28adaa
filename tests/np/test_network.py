"""The forward and backward pass of the network, with and without `needs_grad`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt import GPT
from minigpt.np.context import Context
from minigpt.np.network import backward, forward
from minigpt.np.workspace import DEFAULT_WORKSPACE, Arena

MakeModel = Callable[..., GPT]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
TOKENS = np.random.default_rng(0).integers(0, 13, (2, 16))


@DTYPES
def test_the_result_is_bit_identical_with_and_without_needs_grad(
    make_model: MakeModel, form: dict[str, Any], dtype: DTypeLike
) -> None:
    model = make_model(dtype, **form)
    expected, _ = forward(TOKENS, model.parameters, Context(model.config))
    for needs_grad in (True, False):
        for ws in (DEFAULT_WORKSPACE, Arena()):
            x, _ = forward(TOKENS, model.parameters, Context(model.config, ws, needs_grad=needs_grad))
            np.testing.assert_array_equal(x, expected)


def test_a_cache_can_be_used_for_one_backward_pass_only(make_model: MakeModel) -> None:
    model, g = make_model(), make_model().parameters.zeros_like()
    ctx = Context(model.config)
    x, cache = forward(TOKENS, model.parameters, ctx)
    backward(np.ones_like(x), cache, g, ctx)
    with pytest.raises(ValueError, match="the cache has already been used: run forward again before each backward pass"):
        backward(np.ones_like(x), cache, g, ctx)


def test_there_is_no_backward_pass_without_needs_grad(make_model: MakeModel) -> None:
    model = make_model()
    ctx = Context(model.config, needs_grad=False)
    x, cache = forward(TOKENS, model.parameters, ctx)
    with pytest.raises(ValueError, match="the cache has already been used"):
        backward(np.ones_like(x), cache, model.parameters.zeros_like(), ctx)


def test_the_order_of_tokens_matters(make_model: MakeModel, form: dict[str, Any]) -> None:
    """Swapping two tokens changes the output at all later positions."""
    model, swapped = make_model(**form), TOKENS.copy()
    swapped[:, [2, 7]] = TOKENS[:, [7, 2]]
    assert (TOKENS[:, 2] != TOKENS[:, 7]).all()
    before, after = (forward(tokens, model.parameters, Context(model.config))[0][:, 8:] for tokens in (TOKENS, swapped))
    assert (np.abs(before - after).max(-1) > 1e-6).all()


@pytest.mark.parametrize(
    "changes",
    [{"norm_epsilon": 0.1}, {"rope_theta": 5.0}, {"rope_pairing": "interleaved"}, {"qk_norm": True}, {"norm": "layer"}],
    ids=str,
)
def test_each_setting_changes_the_result(make_model: MakeModel, changes: dict[str, Any]) -> None:
    """The weights are the same."""
    base: dict[str, Any] = {"positions": "rope", "norm": "rms", "n_kv_heads": 1}
    model, changed = make_model(**base), make_model(**{**base, **changes})
    for name, array in changed.parameters.items():
        array[...] = model.parameters.get(name, 1.0 if name.endswith("gamma") else 0.0)
    assert np.abs(model.logits(TOKENS) - changed.logits(TOKENS)).max() > 1e-3
