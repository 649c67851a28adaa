"""`GPT.trace`: the arrays of a forward and a backward pass, patches, and what is computed from them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.np import attention
from minigpt.np.config import QWEN3
from minigpt.np.loss import IGNORE_INDEX
from minigpt.np.trace import Trace
from minigpt.np.watch import NO_WATCH, Observer
from minigpt.np.workspace import Arena, Array

MakeModel = Callable[..., GPT]
Form = dict[str, Any]


def batch(B: int = 2, T: int = 9) -> Any:
    """Return random tokens and targets, (B, T) each."""
    return np.random.default_rng(1).integers(0, 13, (2, B, T))


@pytest.fixture
def t(make_model: MakeModel, form: Form) -> Trace:
    return make_model(**form).trace(*batch())


# ------------------------------------------------------------ arrays and gradients


def test_has_the_loss_and_the_parameter_gradients_of_training(make_model: MakeModel, form: Form, t: Trace) -> None:
    loss, g = make_model(**form).loss_and_grads(*batch())
    assert t.loss == pytest.approx(loss, rel=1e-14)
    assert t.parameter_grads is not None
    np.testing.assert_allclose(t.parameter_grads.flat, g.flat, rtol=1e-9, atol=1e-15)


def test_long_sequences_have_the_same_loss_although_attention_is_not_divided_into_blocks() -> None:
    T = 2 * attention.QUERY_BLOCK + 7
    model = GPT(ModelConfig(vocab_size=13, context_length=T, d_model=12, n_layers=2, n_heads=3), dtype=np.float64, seed=2)
    tokens, targets = batch(T=T)
    loss, g = model.loss_and_grads(tokens, targets)
    t = model.trace(tokens, targets)
    assert t.loss == pytest.approx(loss, rel=1e-14)
    assert t.parameter_grads is not None
    np.testing.assert_allclose(t.parameter_grads.flat, g.flat, rtol=1e-8, atol=1e-14)


def test_every_array_has_a_gradient_of_the_same_shape(t: Trace) -> None:
    assert t.names == list(t.values)
    assert {name: a.shape for name, a in t.values.items()} == {name: a.shape for name, a in t.grad.items()}
    assert all(a.flags.c_contiguous and a.flags.owndata for arrays in (t.values, t.grad) for a in arrays.values())


def test_shapes_and_names(make_model: MakeModel) -> None:
    """Those of the table in docs/trace.md, for Qwen 3's form."""
    t = make_model(**QWEN3, n_kv_heads=1).trace(*batch())
    B, T, D, H, K, d, F, V = 2, 9, 12, 3, 1, 4, 20, 13
    heads = {"queries": H, "keys": K, "values": K, "q_norm": H, "k_norm": K, "rotated_queries": H, "rotated_keys": K}
    block: dict[str, tuple[int, ...]] = {
        "attention_norm": (B, T, D),
        **{f"attention.{name}": (B, n, T, d) for name, n in heads.items()},
        **{f"attention.{name}": (B, H, T, T) for name in ("scores", "weights")},
        "attention.heads": (B, H, T, d),
        "attention": (B, T, D),
        "residual_mid": (B, T, D),
        "feed_forward_norm": (B, T, D),
        **{f"feed_forward.{name}": (B, T, F) for name in ("up", "gate", "active")},
        "feed_forward": (B, T, D),
        "residual_post": (B, T, D),
    }
    blocks = {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    ends = {"final_norm": (B, T, D), "logits": (B, T, V)}
    expected = {"token_embedding": (B, T, D), "embedding": (B, T, D)} | blocks | ends
    assert {name: array.shape for name, array in t.values.items()} == expected
    assert t.names == list(expected)


def test_arrays_are_connected_by_their_formulas(make_model: MakeModel) -> None:
    model = make_model()
    t, p = model.trace(*batch()), model.parameters
    np.testing.assert_allclose(t["embedding"], t["token_embedding"] + p["position_embedding"][:9])
    before = "embedding"
    for i in range(2):
        name = f"blocks.{i}"
        a = f"{name}.attention"
        scores = t[f"{a}.queries"] @ t[f"{a}.keys"].mT / 2
        np.testing.assert_allclose(t[f"{a}.scores"], scores, atol=1e-14)
        exps = np.where(np.tri(9, dtype=bool), np.exp(scores), 0)
        np.testing.assert_allclose(t[f"{a}.weights"], exps / exps.sum(-1, keepdims=True), atol=1e-14)
        np.testing.assert_allclose(t[f"{a}.heads"], t[f"{a}.weights"] @ t[f"{a}.values"], atol=1e-14)
        merged = t[f"{a}.heads"].swapaxes(1, 2).reshape(2, 9, 12)
        np.testing.assert_allclose(t[a], merged @ p[f"{a}.out.weight"] + p[f"{a}.out.bias"], atol=1e-13)
        np.testing.assert_allclose(t[f"{name}.residual_mid"], t[before] + t[a], atol=1e-14)
        np.testing.assert_allclose(t[f"{name}.residual_post"], t[f"{name}.residual_mid"] + t[f"{name}.feed_forward"], atol=1e-14)
        before = f"{name}.residual_post"
    np.testing.assert_allclose(t["logits"], t["final_norm"] @ model.head.T, atol=1e-14)
    np.testing.assert_allclose(t["logits"], model.logits(batch()[0]), atol=1e-13)


def test_the_losses_are_those_of_the_targets(make_model: MakeModel) -> None:
    model, (tokens, targets) = make_model(), batch()
    targets[0, :3] = IGNORE_INDEX
    t = model.trace(tokens, targets)
    assert np.isnan(t.losses[0, :3]).all() and np.isfinite(t.losses).sum() == targets.size - 3
    assert np.nanmean(t.losses) == pytest.approx(t.loss, rel=1e-14)
    p = t.probabilities()
    np.testing.assert_allclose(p.sum(-1), 1)
    assert t.surprise()[1, 4] == pytest.approx(-np.log2(p[1, 4, targets[1, 4]]))


def test_targets_are_by_default_the_following_tokens(make_model: MakeModel) -> None:
    model, (tokens, _) = make_model(), batch()
    t = model.trace(tokens)
    np.testing.assert_array_equal(t.targets[:, :-1], tokens[:, 1:])
    assert (t.targets[:, -1] == IGNORE_INDEX).all()
    assert t.loss == model.trace(tokens, t.targets).loss


def test_without_gradients(make_model: MakeModel, form: Form, t: Trace) -> None:
    forward = make_model(**form).trace(*batch(), gradients=False)
    assert forward.parameter_grads is None and not forward.grad
    assert forward.names == t.names
    for name in t.names:
        np.testing.assert_allclose(forward[name], t[name], atol=1e-14)


def test_an_unknown_name_suggests_the_nearest(t: Trace) -> None:
    with pytest.raises(KeyError, match=r"there is no 'blocks\.1\.attention\.weight' in the trace; did you mean 'blocks\.1\.att"):
        t["blocks.1.attention.weight"]
    with pytest.raises(KeyError, match="there is no 'xyz' in the trace"):
        t.grad["xyz"]


def test_repr_and_memory(t: Trace) -> None:
    assert t.nbytes == sum(a.nbytes for arrays in (t.values, t.grad) for a in arrays.values())
    assert repr(t).startswith(f"Trace({len(t.names)} arrays of (2, 9) tokens, 0.") and "MiB, loss " in repr(t)


def test_one_token_without_a_target(make_model: MakeModel) -> None:
    t = make_model().trace([[3]])
    assert t.loss == 0 and not t.grad["embedding"].any()
    assert t["blocks.0.attention.weights"].tolist() == [[[[1.0]]] * 3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([1, 2],), "tokens has shape"),
        (([[1, 99]],), "tokens holds ids 1 to 99"),
        (([[1, 2]], [[1, 2, 3]]), "targets has shape"),
    ],
)
def test_invalid_tokens_and_targets_are_refused(make_model: MakeModel, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model().trace(*arguments)


# ------------------------------------------------------------------------ patches


def test_a_patch_sees_and_replaces_the_array(make_model: MakeModel, form: Form, t: Trace) -> None:
    """Everything before the patched array stays, and everything after it changes."""
    for name in t.names:
        seen: list[Array] = []

        def replace(x: Array, seen: list[Array] = seen) -> Array:
            seen.append(x)
            return x * 1.5 + 0.1 * np.arange(x.shape[-1])

        patched = make_model(**form).trace(*batch(), patch={name: replace})
        np.testing.assert_allclose(seen, [t[name]], atol=1e-14)
        np.testing.assert_allclose(patched[name], replace(t[name]), atol=1e-13)
        for other in t.names[: t.names.index(name)]:
            if name not in ("blocks.0.attention.queries", "blocks.0.attention.keys"):  # computed together
                np.testing.assert_allclose(patched[other], t[other], atol=1e-14, err_msg=f"{name}: {other}")
        assert patched.loss != t.loss, name


def test_an_ablated_head_adds_nothing(make_model: MakeModel) -> None:
    model = make_model()
    model.parameters["blocks.1.attention.out.weight"].reshape(3, 4, 12)[2] = 0  # as if head 2 had no output

    def without_head_2(heads: Array) -> Array:
        heads[:, 2] = 0
        return heads

    expected = model.loss(*batch())
    assert make_model().trace(*batch(), patch={"blocks.1.attention.heads": without_head_2}).loss == pytest.approx(expected)


def test_activations_of_another_text_give_its_predictions(make_model: MakeModel, form: Form) -> None:
    """Activation patching: with the last residual stream of another text, the logits are those of the other text."""
    model, (tokens, others) = make_model(**form), batch()
    other = model.trace(others)
    patched = model.trace(tokens, patch={"blocks.1.residual_post": lambda x: other["blocks.1.residual_post"]})
    np.testing.assert_allclose(patched["logits"], other["logits"], atol=1e-13)


def test_large_patched_scores_do_not_overflow(make_model: MakeModel) -> None:
    def attend_to_the_first(scores: Array) -> Array:
        scores[..., 0] += 5000
        return scores

    t = make_model().trace(*batch(), patch={"blocks.0.attention.scores": attend_to_the_first})
    np.testing.assert_allclose(t["blocks.0.attention.weights"][..., 0], 1)
    assert np.isfinite(t.grad["embedding"]).all()


@pytest.mark.parametrize("name", ["blocks.0.attention.heads", "blocks.0.attention", "blocks.1.feed_forward.active"])
def test_without_a_backward_function_the_difference_is_a_constant(make_model: MakeModel, name: str) -> None:
    """With it, the gradient before the patch is that of the function: here, it is zero."""
    model = make_model()
    stopped = model.trace(*batch(), patch={name: (np.zeros_like, np.zeros_like)})
    passed = model.trace(*batch(), patch={name: np.zeros_like})
    weight = f"{name}.out.weight" if name.endswith("attention") else "blocks.0.attention.qkv.weight"
    if name == "blocks.1.feed_forward.active":
        weight = "blocks.1.feed_forward.up.weight"
    assert stopped.loss == passed.loss
    assert stopped.parameter_grads is not None and passed.parameter_grads is not None
    assert not stopped.parameter_grads[weight].any() and passed.parameter_grads[weight].any()
    np.testing.assert_allclose(stopped.grad[name], passed.grad[name])


def test_a_patch_that_is_not_applied_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"patch: there is no 'blocks\.0\.heads' in the trace; did you mean 'blocks\.0\.att"):
        make_model().trace(*batch(), patch={"blocks.0.heads": np.zeros_like})
    with pytest.raises(ValueError, match=r"patch: there is no 'blocks\.0\.attention\.rotated_keys' in the trace"):
        make_model().trace(*batch(), patch={"blocks.0.attention.rotated_keys": np.zeros_like})  # the model has no rope


def test_a_patch_of_another_shape_is_refused(make_model: MakeModel) -> None:
    message = r"the patch of blocks\.0\.attention has returned shape \(9, 12\), but must return the shape of its argument, \(2, 9"
    with pytest.raises(ValueError, match=message):
        make_model().trace(*batch(), patch={"blocks.0.attention": lambda x: x[0]})
    with pytest.raises(ValueError, match=r"the backward pass of the patch of blocks\.0\.attention has returned shape"):
        make_model().trace(*batch(), patch={"blocks.0.attention": (lambda x: x, lambda dy: dy[0])})


def test_a_patch_gets_a_copy(make_model: MakeModel, t: Trace, form: Form) -> None:
    def spoil(x: Array) -> Array:
        result = x.copy()
        x.fill(np.nan)
        return result

    patch: Any = dict.fromkeys(t.names, (spoil, spoil))
    assert make_model(**form).trace(*batch(), patch=patch).loss == pytest.approx(t.loss, rel=1e-14)


# ------------------------------------------------------------------------- readings


def test_logit_lens(make_model: MakeModel, form: Form, t: Trace) -> None:
    lens = t.logit_lens()
    assert lens.shape == (3, 2, 9, 13)
    np.testing.assert_allclose(lens[-1], t["logits"], atol=1e-13)
    np.testing.assert_allclose(t.logit_lens(-2), lens[:, :, 7], atol=1e-14)
    if form == {}:
        x, p = t["blocks.0.residual_post"], make_model().parameters
        normalized = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        expected = (normalized * p["final_norm.gamma"] + p["final_norm.beta"]) @ make_model().head.T
        np.testing.assert_allclose(lens[1], expected, atol=1e-13)
    for position in (9, -10):
        with pytest.raises(ValueError, match=f"position is {position}, but the trace has 9 tokens"):
            t.logit_lens(position)


def test_gradient_flow(t: Trace) -> None:
    flow = t.gradient_flow()
    assert flow.shape == (3, 2, 9)
    np.testing.assert_allclose(flow[1, 1, 3], np.linalg.norm(t.grad["blocks.0.residual_post"][1, 3]))


@pytest.mark.parametrize("changes", [{}, {**QWEN3, "n_kv_heads": 1, "attention_bias": True}], ids=["GPT-2", "Qwen 3"])
def test_attribution_adds_up_to_the_logit(make_model: MakeModel, changes: Form) -> None:
    t = make_model(**changes).trace(*batch())
    for row, position, token in ((0, 0, 0), (1, 5, 12), (-1, -1, 3)):
        shares = t.attribution(position, token, row)
        assert sum(shares.values()) == pytest.approx(t["logits"][row, position, token], rel=1e-12)
        assert len(shares) == 1 + 2 * (3 + 2) + (changes == {})


def test_attribution_is_the_change_of_the_logit_if_the_norm_is_held(make_model: MakeModel) -> None:
    """Without head 1, and with the scale of the final norm that the whole stream has, the logit is smaller by its share."""
    model = make_model(**QWEN3)
    t = model.trace(*batch())
    share = t.attribution(4, 7)["blocks.1.attention.heads.1"]
    x = t["blocks.1.residual_post"][0, 4]
    rstd = 1 / np.sqrt(np.mean(x * x) + model.config.norm_epsilon)
    head = t["blocks.1.attention.heads"][0, 1, 4] @ model.parameters["blocks.1.attention.out.weight"][4:8]
    without = (x - head) * rstd * model.parameters["final_norm.gamma"] @ model.head[7]
    assert t["logits"][0, 4, 7] - share == pytest.approx(without, rel=1e-10)


@pytest.mark.parametrize(
    "name",
    ["embedding", *(f"blocks.1.{x}" for x in ("attention.heads", "attention", "residual_mid", "feed_forward", "residual_post"))],
)
def test_attribution_under_a_patch_adds_up_to_the_logit(make_model: MakeModel, name: str) -> None:
    model = make_model()
    t = model.trace(*batch(), patch={name: lambda x: 0.5 * x + 0.1})
    shares = t.attribution(3)
    token = int(t.targets[0, 3])
    assert sum(shares.values()) == pytest.approx(float(t["logits"][0, 3, token]), rel=1e-5, abs=1e-6)
    has_share = name in ("blocks.1.attention", "blocks.1.residual_mid", "blocks.1.residual_post")
    assert [part for part in shares if part.endswith(".patch")] == ([f"{name}.patch"] if has_share else [])


@pytest.mark.parametrize("name", ["final_norm", "logits"])
def test_attribution_needs_the_final_norm(make_model: MakeModel, name: str) -> None:
    with pytest.raises(ValueError, match="the final norm or the logits are patched"):
        make_model().trace(*batch(), patch={name: np.zeros_like}).attribution(3)


@pytest.mark.parametrize(
    "patch", [None, 3, [np.zeros_like, np.zeros_like], (np.zeros_like,), (np.zeros_like, 1), (), np.zeros(3)], ids=str
)
def test_a_patch_that_is_no_function_is_refused(make_model: MakeModel, patch: Any) -> None:
    with pytest.raises(ValueError, match="the patch of embedding must be a function, or a tuple of two functions"):
        make_model().trace(*batch(), patch={"embedding": patch})


def test_a_patch_without_a_result_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="the patch of embedding has returned None, but must return the array"):
        make_model().trace(*batch(), patch={"embedding": lambda x: x.sort()})


def test_a_trace_is_a_collection_of_names(t: Trace) -> None:
    assert "embedding" in t and "embeding" not in t
    assert list(t) == t.names and len(t) == len(t.names)


def test_a_trace_without_gradients_says_so(make_model: MakeModel) -> None:
    t = make_model().trace(*batch(), gradients=False)
    with pytest.raises(KeyError, match="the trace has no gradients"):
        t.gradient_flow()


def test_attribution_explains_the_target_or_the_likeliest_token(make_model: MakeModel) -> None:
    t = make_model().trace(batch()[0])
    assert t.attribution(2) == t.attribution(2, int(batch()[0][0, 3]))
    assert t.attribution(8) == t.attribution(-1, int(t["logits"][0, 8].argmax()))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((9,), "position is 9, but the trace has 9 tokens"),
        ((0, 13), "token is 13, but must be from 0 to 12"),
        ((0, -1), "token is -1, but must be from 0 to 12"),
        ((0, 1, 2), "row is 2, but the trace has 2 sequences"),
    ],
)
def test_invalid_arguments_of_attribution(make_model: MakeModel, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model().trace(*batch()).attribution(*arguments)


def test_attribution_needs_a_pre_norm_model(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="the model is post-norm, but attribution needs a pre-norm model"):
        make_model(norm_placement="post").trace(*batch()).attribution(0)


# ----------------------------------------------------------------- without a watch


def test_training_stores_no_more_arrays_than_before(make_model: MakeModel, form: Form) -> None:
    """The workspace of a step does not grow after a trace, and nothing is kept by `NO_WATCH`."""
    model, ws = make_model(**form), Arena()
    first, _ = model.loss_and_grads(*batch(), ws=ws)
    size = ws.nbytes
    model.trace(*batch())
    assert model.loss_and_grads(*batch(), ws=ws)[0] == first
    assert ws.nbytes == size and not vars(NO_WATCH)


def test_an_observer_refuses_arrays_that_it_cannot_see_as_a_view() -> None:
    observer = Observer((1, 2), {})
    with pytest.raises(ValueError, match="copy"):
        observer.value("scores", np.zeros((2, 3, 4, 2, 2)).swapaxes(0, 2))
