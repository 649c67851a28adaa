"""The whole network, forward with and without a backward to come."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt import GPT
from minigpt.np.network import backward, forward
from minigpt.np.workspace import FRESH, Workspace

MakeModel = Callable[..., GPT]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
TOKENS = np.random.default_rng(0).integers(0, 13, (2, 16))


@DTYPES
def test_the_result_is_the_same_bit_for_bit_whether_or_not_anything_is_kept(
    make_model: MakeModel, form: dict[str, Any], dtype: DTypeLike
) -> None:
    model = make_model(dtype, **form)
    kept, _ = forward(TOKENS, model.parameters, model.config)
    for keep in (True, False):
        for ws in (FRESH, Workspace()):
            np.testing.assert_array_equal(forward(TOKENS, model.parameters, model.config, ws, keep=keep)[0], kept)


def test_a_cache_serves_for_one_backward(make_model: MakeModel) -> None:
    model, g = make_model(), make_model().parameters.like()
    x, cache = forward(TOKENS, model.parameters, model.config)
    backward(np.ones_like(x), cache, g)
    with pytest.raises(ValueError, match="this cache has been used: there is one backward for each forward"):
        backward(np.ones_like(x), cache, g)


def test_a_forward_that_kept_nothing_has_no_backward(make_model: MakeModel) -> None:
    model = make_model()
    x, cache = forward(TOKENS, model.parameters, model.config, keep=False)
    with pytest.raises(ValueError, match="this cache has been used"):
        backward(np.ones_like(x), cache, model.parameters.like())


def test_positions_matter_in_every_form(make_model: MakeModel, form: dict[str, Any]) -> None:
    """Two tokens that change places change what comes after them."""
    model, swapped = make_model(**form), TOKENS.copy()
    swapped[:, [2, 7]] = TOKENS[:, [7, 2]]
    assert (TOKENS[:, 2] != TOKENS[:, 7]).all()
    before, after = (forward(tokens, model.parameters, model.config)[0][:, 8:] for tokens in (TOKENS, swapped))
    assert (np.abs(before - after).max(-1) > 1e-6).all()


@pytest.mark.parametrize(
    "changes",
    [{"norm_epsilon": 0.1}, {"rope_theta": 5.0}, {"rope_pairing": "interleaved"}, {"qk_norm": True}, {"norm": "layer"}],
    ids=str,
)
def test_what_the_configuration_says_is_what_is_computed(make_model: MakeModel, changes: dict[str, Any]) -> None:
    """Each setting makes a difference with the same weights."""
    usual: dict[str, Any] = {"positions": "rope", "norm": "rms", "n_kv_heads": 1}
    model, changed = make_model(**usual), make_model(**{**usual, **changes})
    for name, array in changed.parameters.items():
        array[...] = model.parameters.get(name, 1.0 if name.endswith("gamma") else 0.0)
    assert np.abs(model.logits(TOKENS) - changed.logits(TOKENS)).max() > 1e-3
