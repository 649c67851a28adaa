"""The model as its users see it: losses, gradients, and clear errors. (Generation: test_generation.py.)"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigpt import GPT
from minigpt.np.ops import IGNORE, Dropout

MakeModel = Callable[..., GPT]


def batch(B: int = 3, T: int = 16, seed: int = 0) -> Any:
    """tokens and targets, (B, T) each."""
    return np.random.default_rng(seed).integers(0, 13, (2, B, T))


# ---------------------------------------------------------------- losses


def test_the_loss_is_the_cross_entropy_of_the_logits(make_model: MakeModel, form: dict[str, Any]) -> None:
    model, (tokens, targets) = make_model(**form), batch()
    targets[0, :5] = IGNORE
    logits = model.logits(tokens)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = targets != IGNORE
    expected = -np.mean(np.take_along_axis(log_p, np.where(counted, targets, 0)[..., None], -1)[..., 0][counted])
    assert model.loss(tokens, targets) == pytest.approx(expected, rel=1e-12)
    assert model.loss_and_grads(tokens, targets)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tied", [True, False])
def test_micro_batches_add_up_to_the_batch(make_model: MakeModel, form: dict[str, Any], tied: bool) -> None:
    model, (tokens, targets) = make_model(**{**form, "tied": tied}), batch()
    targets[1, 3:] = IGNORE
    count = int((targets != IGNORE).sum())
    loss, g = model.loss_and_grads(tokens, targets)
    parts = model.parameters.like()
    parts.flat.fill(np.nan)  # the first part overwrites what was there before
    losses = [model.loss_and_grads(tokens[b : b + 1], targets[b : b + 1], out=parts, add=b > 0, count=count)[0] for b in range(3)]
    assert sum(losses) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(parts.flat, g.flat, rtol=1e-10, atol=1e-14)


def test_all_targets_ignored_is_no_loss_and_no_gradient(make_model: MakeModel) -> None:
    model, (tokens, _) = make_model(), batch()
    loss, g = model.loss_and_grads(tokens, np.full_like(tokens, IGNORE))
    assert loss == 0
    assert not g.flat.any()


def test_gradients_have_the_names_and_shapes_of_the_parameters(make_model: MakeModel, form: dict[str, Any]) -> None:
    model = make_model(np.float32, **form)
    _, g = model.loss_and_grads(*batch())
    assert {name: (a.shape, a.dtype) for name, a in g.items()} == {
        name: (a.shape, a.dtype) for name, a in model.parameters.items()
    }


def test_words_and_positions_that_do_not_occur_get_no_gradient(make_model: MakeModel) -> None:
    model = make_model(tied=False)
    _, g = model.loss_and_grads([[3, 4, 3]], [[4, 3, 5]])
    assert np.flatnonzero(g["token_embedding"].any(axis=1)).tolist() == [3, 4]
    assert np.flatnonzero(g["position_embedding"].any(axis=1)).tolist() == [0, 1, 2]


def test_the_head_is_the_embedding_where_they_are_tied(make_model: MakeModel) -> None:
    tied, untied = make_model(), make_model(tied=False)
    assert tied.head is tied.parameters["token_embedding"]
    assert untied.head is untied.parameters["head"]


def test_rows_of_a_batch_do_not_see_each_other(make_model: MakeModel, form: dict[str, Any]) -> None:
    model, (tokens, _) = make_model(**form), batch()
    together = model.logits(tokens)
    for b in range(3):
        np.testing.assert_allclose(together[b : b + 1], model.logits(tokens[b : b + 1]), rtol=1e-12, atol=1e-13)


def test_lists_do_as_well_as_arrays(make_model: MakeModel) -> None:
    model, (tokens, targets) = make_model(), batch()
    assert model.loss(tokens.tolist(), targets.tolist()) == model.loss(tokens.astype(np.uint16), targets.astype(np.int32))


def test_dropout_acts_in_training_only(make_model: MakeModel) -> None:
    model, (tokens, targets) = make_model(dropout=0.5), batch()
    evaluated = model.loss(tokens, targets)
    assert model.loss(tokens, targets) == evaluated
    trained, again, other = (model.loss_and_grads(tokens, targets, drop=Dropout(0.5, 1, step))[0] for step in (1, 1, 2))
    assert trained == again
    assert len({evaluated, trained, other}) == 3


def test_dropout_gradient_is_that_of_the_thinned_network(make_model: MakeModel) -> None:
    """Finite differences through a fixed mask."""
    model, (tokens, targets) = make_model(), batch()
    drop = Dropout(0.3, seed=2, step=9)
    _, g = model.loss_and_grads(tokens, targets, drop=drop)
    u = np.random.default_rng(1).standard_normal(g.flat.shape)
    start, losses = model.parameters.flat.copy(), []
    for h in (1e-5, -1e-5):
        model.parameters.flat[...] = start + h * u
        losses.append(model.loss_and_grads(tokens, targets, drop=drop)[0])
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(float(g.flat @ u), rel=1e-6)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([1, 2, 3], "tokens has shape (3,) and dtype int64, but must be (B, T) whole numbers"),
        (np.ones((2, 3)), "tokens has shape (2, 3) and dtype float64, but must be (B, T) whole numbers"),
        (np.ones((2, 3, 4), int), "tokens has shape (2, 3, 4)"),
        (np.ones((0, 4), int), "tokens has shape (0, 4)"),
        (np.ones((2, 17), int), "tokens has shape (2, 17), but the model's context_length is 16"),
        ([[0, 13]], "tokens holds ids 0 to 13, but the model's are 0 to 12"),
        ([[-1, 3]], "tokens holds ids -1 to 3, but the model's are 0 to 12"),
    ],
)
def test_wrong_tokens_are_refused(make_model: MakeModel, tokens: Any, message: str) -> None:
    model = make_model()
    targets = np.zeros(np.shape(tokens), int)
    for call in (model.logits, lambda t: model.loss(t, targets), lambda t: model.loss_and_grads(t, targets)):
        with pytest.raises(ValueError) as caught:
            call(tokens)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "targets, message",
    [
        ([[1, 2]], "targets has shape (1, 2) and dtype int64, but tokens has shape (1, 3)"),
        ([1, 2, 3], "targets has shape (3,)"),
        ([[1.0, 2.0, 3.0]], "targets has shape (1, 3) and dtype float64"),
        ([[1, 2, 13]], "targets holds ids 1 to 13, but the model's are 0 to 12 (or -100: does not count)"),
        ([[1, -1, 2]], "targets holds ids -1 to 2"),
    ],
)
def test_wrong_targets_are_refused(make_model: MakeModel, targets: Any, message: str) -> None:
    model = make_model()
    for call in (model.loss, model.loss_and_grads):
        with pytest.raises(ValueError) as caught:
            call([[1, 2, 3]], targets)
        assert str(caught.value).startswith(message)
