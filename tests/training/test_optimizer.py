"""Groups of parameters, their division into pieces, AdamW, and clipping. tests/proof compares the updates with PyTorch."""

import math
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.np import ops
from minigpt.np.config import LLAMA, QWEN3
from minigpt.np.parameters import shapes
from minigpt.training.adamw import AdamW
from minigpt.training.muon import Muon
from minigpt.training.optimizer import GROUPS, Group, Optimizer, clip_scale, divide, group_of, pieces, update_seconds
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.presets import RECIPES
from minigpt.training.recipe import optimizer
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings

SIZES: dict[str, Any] = {"vocab_size": 11, "context_length": 6, "d_model": 12, "n_layers": 2, "n_heads": 6, "d_ff": 20}
FORMS: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "untied, post-norm": {"tied": False, "norm_placement": "post"},
    "Llama": LLAMA,
    "Qwen 3": QWEN3,
    "shared heads": {**QWEN3, "n_kv_heads": 2, "d_head": 4, "attention_bias": True},
    "query/key norm, no biases": {"qk_norm": True, "attention_bias": False, "feed_forward_bias": False},
}
EACH_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
EACH_RECIPE = pytest.mark.parametrize("recipe", RECIPES)


def numbered(recipe: str, form: dict[str, Any]) -> tuple[list[tuple[Any, list[int]]], GPT]:
    """Return each piece with the indices of its elements in the flat vector, and the model."""
    model = GPT(ModelConfig(**SIZES | form))
    p = model.parameters
    index = np.arange(p.flat.size)
    work = pieces(optimizer(Settings(**{**RECIPES[recipe], "weight_decay": 0.1})), model.config, p.shapes)
    return [(piece, piece.view(index).ravel().tolist()) for piece in work], model


@EACH_FORM
@EACH_RECIPE
def test_pieces_cover_every_parameter_exactly_once(recipe: str, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "ROW_BLOCK_ELEMENTS", 50)  # so that a parameter has several slices
    found, model = numbered(recipe, form)
    names = [name for name, array in model.parameters.items() for _ in range(array.size)]
    indices = [i for _, own in found for i in own]
    assert sorted(indices) == list(range(model.parameters.flat.size))
    assert all(names[i] == piece.parameter for piece, own in found for i in own)
    assert all(len(own) == math.prod(piece.view_shape) for piece, own in found)
    assert all(len(own) <= 50 for piece, own in found if isinstance(piece.group.rule, AdamW))
    assert [piece.span.start for piece, _ in found] == sorted(piece.span.start for piece, _ in found)


@EACH_FORM
def test_muon_updates_whole_matrices_with_queries_keys_and_values_apart(form: dict[str, Any]) -> None:
    found, model = numbered("default", form)
    c = model.config
    expected = set()
    for i in range(c.n_layers):
        block = {name.removeprefix(f"blocks.{i}."): shape for name, shape in shapes(c).items() if name.startswith(f"blocks.{i}.")}
        widths = {"q": c.n_heads * c.d_head, "k": c.n_kv_heads * c.d_head, "v": c.n_kv_heads * c.d_head}
        assert block.pop("attention.qkv.weight") == (c.d_model, sum(widths.values()))
        expected |= {(f"blocks.{i}.attention.qkv.weight", (c.d_model, width)) for width in widths.values()}
        expected |= {(f"blocks.{i}.{name}", shape) for name, shape in block.items() if name.endswith("weight")}
    muon = [piece for piece, _ in found if isinstance(piece.group.rule, Muon)]
    assert {(piece.parameter, piece.view_shape) for piece in muon} == expected
    assert len(muon) == (7 if c.activation == "swiglu" else 6) * c.n_layers


def test_a_piece_is_a_view_of_the_columns_of_a_projection() -> None:
    found, model = numbered("default", FORMS["shared heads"])
    weight = model.parameters["blocks.1.attention.qkv.weight"]
    q, k, v = (piece.view(model.parameters.flat) for piece, _ in found if piece.parameter == "blocks.1.attention.qkv.weight")
    for view, columns in ((q, slice(0, 24)), (k, slice(24, 32)), (v, slice(32, 40))):
        np.testing.assert_array_equal(view, weight[:, columns])
        assert np.shares_memory(view, weight)


@EACH_FORM
def test_every_parameter_has_the_group_of_its_kind(form: dict[str, Any]) -> None:
    for name, shape in shapes(ModelConfig(**SIZES | form)).items():
        group = group_of(name)
        assert group in GROUPS
        assert (group == "vectors") == (len(shape) == 1)
        assert (group == "matrices") == (len(shape) == 2 and name.startswith("blocks."))


@EACH_RECIPE
def test_only_matrices_decay(recipe: str) -> None:
    found, _ = numbered(recipe, FORMS["untied, post-norm"])
    for piece, _ in found:
        if isinstance(piece.group.rule, AdamW):
            assert piece.group.rule.weight_decay == (0 if group_of(piece.parameter) == "vectors" else 0.1)
        else:
            assert piece.group.rule.weight_decay == Settings.muon_weight_decay


def test_the_rates_and_rules_are_those_of_the_settings() -> None:
    changes: dict[str, Any] = {"lr": 0.1, "embedding_lr": 0.2, "head_lr": 0.0, "vector_lr": 0.4, "muon_weight_decay": 0.5}
    groups = optimizer(Settings(**changes, momentum=0.7, muon_iterations=4, muon_coefficients="jordan", beta1=0.6)).groups
    assert {name: group.lr for name, group in groups.items()} == {
        "matrices": 0.1,
        "embedding": 0.2,
        "head": 0.1,  # 0 means lr
        "vectors": 0.4,
    }
    muon = groups["matrices"].rule
    assert isinstance(muon, Muon)
    assert (muon.momentum, muon.iterations, muon.coefficients, muon.weight_decay) == (0.7, 4, "jordan", 0.5)
    others = [group.rule for name, group in groups.items() if name != "matrices"]
    assert all(isinstance(rule, AdamW) and rule.beta1 == 0.6 for rule in others)
    assert isinstance(optimizer(Settings(optimizer="adamw", lr=1e-3)).groups["matrices"].rule, AdamW)


def test_each_group_has_its_own_learning_rate() -> None:
    """The first step of AdamW has the size of the learning rate."""
    rates = {name: 10.0**-i for i, name in enumerate(GROUPS, start=2)}
    rule = AdamW(weight_decay=0)
    model = GPT(ModelConfig(**SIZES, tied=False), dtype=np.float64)
    before = {name: array.copy() for name, array in model.parameters.items()}
    with DataParallel(model, 1, 0, Optimizer({name: Group(rule, lr) for name, lr in rates.items()})) as data_parallel:
        data_parallel.grads.flat.fill(1)
        data_parallel.update(0.5, 1, 1.0)
    for name, array in model.parameters.items():
        np.testing.assert_allclose(before[name] - array, 0.5 * rates[group_of(name)], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("preset", ["quick", "small", "base", "llama-15m"])
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_the_work_of_an_update_is_balanced(preset: str, workers: int) -> None:
    settings = resolve({"preset": preset})
    config = settings.model(settings.vocab_size)
    for rule in (optimizer(settings), Optimizer.uniform(AdamW())):
        work = pieces(rule, config, shapes(config))
        shares = divide(work, workers)
        assert sorted(map(id, work)) == sorted(id(piece) for share in shares for piece in share)
        mean = sum(piece.cost for piece in work) / workers
        assert max(sum(piece.cost for piece in share) for share in shares) <= 1.05 * mean
        assert update_seconds(work, workers) == pytest.approx(1e-9 * mean, rel=0.05)


def test_more_workers_than_pieces() -> None:
    found, _ = numbered("default", {})
    shares = divide([piece for piece, _ in found], 100)
    assert len(shares) == 100 and sum(map(len, shares)) == len(found)


def test_the_first_step_has_the_size_of_the_learning_rate() -> None:
    p, g = np.array([1.0, 2.0, 3.0]), np.array([0.5, -4.0, 0.0])
    AdamW(weight_decay=0).update(p, g, np.zeros(3), np.zeros(3), lr=0.1, step=1)
    np.testing.assert_allclose(p, [0.9, 2.1, 3.0])


def test_two_steps_computed_by_hand() -> None:
    p, m, v = np.array([1.0]), np.zeros(1), np.zeros(1)
    adam = AdamW(beta1=0.5, beta2=0.75, epsilon=0.0, weight_decay=0.1)
    adam.update(p, np.array([2.0]), m, v, lr=0.1, step=1)
    assert (m[0], v[0]) == (1.0, 1.0)
    assert p[0] == pytest.approx(1 - 0.01 - 0.1)
    adam.update(p, np.array([4.0]), m, v, lr=0.1, step=2)
    assert (m[0], v[0]) == (2.5, 4.75)
    expected = 0.89 * 0.99 - 0.1 * (2.5 / 0.75) / math.sqrt(4.75 / (1 - 0.75**2))
    assert p[0] == pytest.approx(expected)


def test_weights_decay_and_the_gradient_is_not_changed() -> None:
    p, g = np.array([1.0]), np.array([0.0])
    AdamW(weight_decay=0).update(p, g, np.zeros(1), np.zeros(1), lr=0.1, step=1)
    assert p[0] == 1.0
    AdamW(weight_decay=0.5).update(p, g, np.zeros(1), np.zeros(1), lr=0.1, step=1)
    assert (p[0], g[0]) == (0.95, 0.0)


def test_float32_is_kept() -> None:
    p, m, v = (np.ones(3, np.float32) for _ in range(3))
    AdamW().update(p, np.ones(3, np.float32), m, v, lr=0.1, step=1)
    assert {a.dtype for a in (p, m, v)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("norm, max_norm, scale", [(10.0, 1.0, 0.1), (0.5, 1.0, 1.0), (10.0, 0.0, 1.0), (0.0, 1.0, 1.0)])
def test_only_norms_above_the_maximum_are_clipped(norm: float, max_norm: float, scale: float) -> None:
    assert clip_scale(norm, max_norm) == pytest.approx(scale, rel=1e-5)
