"""The class GPT: losses, gradients and errors. test_generation.py tests generation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigpt import GPT
from minigpt.np.loss import IGNORE_INDEX
from minigpt.np.ops import Dropout

MakeModel = Callable[..., GPT]


def batch(B: int = 3, T: int = 16, seed: int = 0) -> Any:
    """Return random tokens and targets, (B, T) each."""
    return np.random.default_rng(seed).integers(0, 13, (2, B, T))


# ---------------------------------------------------------------- losses


def test_the_loss_is_the_cross_entropy_of_the_logits(make_model: MakeModel, form: dict[str, Any]) -> None:
    model, (tokens, targets) = make_model(**form), batch()
    targets[0, :5] = IGNORE_INDEX
    logits = model.logits(tokens)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    used = targets != IGNORE_INDEX
    expected = -np.mean(np.take_along_axis(log_p, np.where(used, targets, 0)[..., None], -1)[..., 0][used])
    assert model.loss(tokens, targets) == pytest.approx(expected, rel=1e-12)
    assert model.loss_and_grads(tokens, targets)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tied", [True, False])
def test_micro_batches_add_up_to_the_batch(make_model: MakeModel, form: dict[str, Any], tied: bool) -> None:
    model, (tokens, targets) = make_model(**{**form, "tied": tied}), batch()
    targets[1, 3:] = IGNORE_INDEX
    count = int((targets != IGNORE_INDEX).sum())
    loss, g = model.loss_and_grads(tokens, targets)
    parts = model.parameters.zeros_like()
    parts.flat.fill(np.nan)  # the first micro-batch overwrites them
    losses = [model.loss_and_grads(tokens[b : b + 1], targets[b : b + 1], out=parts, add=b > 0, count=count)[0] for b in range(3)]
    assert sum(losses) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(parts.flat, g.flat, rtol=1e-10, atol=1e-14)


def test_loss_and_gradient_are_zero_if_all_targets_are_ignored(make_model: MakeModel) -> None:
    model, (tokens, _) = make_model(), batch()
    loss, g = model.loss_and_grads(tokens, np.full_like(tokens, IGNORE_INDEX))
    assert loss == 0
    assert not g.flat.any()


def test_gradients_have_the_names_and_shapes_of_the_parameters(make_model: MakeModel, form: dict[str, Any]) -> None:
    model = make_model(np.float32, **form)
    _, g = model.loss_and_grads(*batch())
    assert {name: (a.shape, a.dtype) for name, a in g.items()} == {
        name: (a.shape, a.dtype) for name, a in model.parameters.items()
    }


def test_tokens_and_positions_that_do_not_occur_get_no_gradient(make_model: MakeModel) -> None:
    model = make_model(tied=False)
    _, g = model.loss_and_grads([[3, 4, 3]], [[4, 3, 5]])
    assert np.flatnonzero(g["token_embedding"].any(axis=1)).tolist() == [3, 4]
    assert np.flatnonzero(g["position_embedding"].any(axis=1)).tolist() == [0, 1, 2]


def test_a_tied_head_is_the_token_embedding(make_model: MakeModel) -> None:
    tied, untied = make_model(), make_model(tied=False)
    assert tied.head is tied.parameters["token_embedding"]
    assert untied.head is untied.parameters["head"]


def test_rows_of_a_batch_are_independent(make_model: MakeModel, form: dict[str, Any]) -> None:
    model, (tokens, _) = make_model(**form), batch()
    together = model.logits(tokens)
    for b in range(3):
        np.testing.assert_allclose(together[b : b + 1], model.logits(tokens[b : b + 1]), rtol=1e-12, atol=1e-13)


def test_tokens_and_targets_may_be_lists_or_arrays(make_model: MakeModel) -> None:
    model, (tokens, targets) = make_model(), batch()
    assert model.loss(tokens.tolist(), targets.tolist()) == model.loss(tokens.astype(np.uint16), targets.astype(np.int32))


def test_dropout_applies_to_training_only(make_model: MakeModel) -> None:
    model, (tokens, targets) = make_model(dropout=0.5), batch()
    evaluated = model.loss(tokens, targets)
    assert model.loss(tokens, targets) == evaluated
    trained, again, other = (model.loss_and_grads(tokens, targets, dropout=Dropout(0.5, 1, step))[0] for step in (1, 1, 2))
    assert trained == again
    assert len({evaluated, trained, other}) == 3


def test_gradients_with_dropout_equal_finite_differences(make_model: MakeModel) -> None:
    """The mask is fixed by the seed and the step."""
    model, (tokens, targets) = make_model(), batch()
    dropout = Dropout(0.3, seed=2, step=9)
    _, g = model.loss_and_grads(tokens, targets, dropout=dropout)
    u = np.random.default_rng(1).standard_normal(g.flat.shape)
    initial, losses = model.parameters.flat.copy(), []
    for h in (1e-5, -1e-5):
        model.parameters.flat[...] = initial + h * u
        losses.append(model.loss_and_grads(tokens, targets, dropout=dropout)[0])
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(float(g.flat @ u), rel=1e-6)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([1, 2, 3], "tokens has shape (3,) and dtype int64, but must be (B, T) integers"),
        (np.ones((2, 3)), "tokens has shape (2, 3) and dtype float64, but must be (B, T) integers"),
        (np.ones((2, 3, 4), int), "tokens has shape (2, 3, 4)"),
        (np.ones((0, 4), int), "tokens has shape (0, 4)"),
        (np.ones((2, 17), int), "tokens has shape (2, 17), but the model's context_length is 16"),
        ([[0, 13]], "tokens holds ids 0 to 13, but must hold ids from 0 to 12"),
        ([[-1, 3]], "tokens holds ids -1 to 3, but must hold ids from 0 to 12"),
    ],
)
def test_invalid_tokens_raise(make_model: MakeModel, tokens: Any, message: str) -> None:
    model = make_model()
    targets = np.zeros(np.shape(tokens), int)
    for call in (model.logits, lambda t: model.loss(t, targets), lambda t: model.loss_and_grads(t, targets)):
        with pytest.raises(ValueError) as caught:
            call(tokens)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "targets, message",
    [
        ([[1, 2]], "targets has shape (1, 2) and dtype int64, but must be integers of the shape of tokens, (1, 3)"),
        ([1, 2, 3], "targets has shape (3,)"),
        ([[1.0, 2.0, 3.0]], "targets has shape (1, 3) and dtype float64"),
        ([[1, 2, 13]], "targets holds ids 1 to 13, but must hold ids from 0 to 12 (or -100 for an ignored target)"),
        ([[1, -1, 2]], "targets holds ids -1 to 2"),
    ],
)
def test_invalid_targets_raise(make_model: MakeModel, targets: Any, message: str) -> None:
    model = make_model()
    for call in (model.loss, model.loss_and_grads):
        with pytest.raises(ValueError) as caught:
            call([[1, 2, 3]], targets)
        assert str(caught.value).startswith(message)
