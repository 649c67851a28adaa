"""The view "Follow the gradient": the edges add up to the gradients, and a nudge proves a number."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.page import decoded

from minigpt import GPT, ModelConfig, open_run, preset
from minigpt.np.config import GPT2, LLAMA
from minigpt.np.parameters import Moments
from minigpt.page.gradient import Element, array, edges, full_index, gradient, nudge, value_and_gradient
from minigpt.page.nodes import KINDS, explanation, nodes
from minigpt.page.traced import Traced, Tracer
from minigpt.page.updates import update
from minigpt.runs.checkpoint import checkpoints, load_optimizer
from minigpt.runs.folder import RunFolder
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.recipe import optimizer

Trace = Callable[..., Traced]
SMALL = {"vocab_size": 11, "context_length": 8, "d_model": 8, "n_layers": 2, "n_heads": 4}
CONFIGS = {
    "default": ModelConfig(**SMALL),
    "gpt2": ModelConfig(**{**GPT2, **SMALL}),
    "llama": ModelConfig(**{**LLAMA, **SMALL, "n_kv_heads": 2}),
    "post-norm": ModelConfig(**{**GPT2, **SMALL, "norm_placement": "post", "activation": "relu"}),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_node_of_the_diagram_is_an_array_of_the_trace(config: ModelConfig) -> None:
    t = GPT(config, seed=1).trace([[1, 2, 3, 4]])
    found = nodes(config)
    names = {node["name"].replace("{i}", str(i)) for node in found for i in range(config.n_layers)}
    assert names == set(t.names)
    parameters = {name.replace("{i}", str(i)) for node in found for name in node["parameters"] for i in range(config.n_layers)}
    assert parameters == set(t.parameters)
    known = {node["name"] for node in found} | {"stream"}
    for i, node in enumerate(found):
        assert set(node["inputs"]) <= known
        assert all(source == "stream" or source in [n["name"] for n in found[:i]] for source in node["inputs"])
    for part in ("before", "block", "after"):
        places = [tuple(node["place"]) for node in found if node["part"] == part]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_edge_has_a_gradient(config: ModelConfig) -> None:
    t = GPT(config, seed=1, dtype=np.float64).trace([[1, 2, 3, 4]])
    found = edges(t)
    expected = {"stream.after final_norm"}
    for node in nodes(config):
        for source in node["inputs"]:
            for i in range(config.n_layers) if node["part"] == "block" else [None]:
                stream = "stream.after" if i is None else f"stream.{i}"
                name = stream if source == "stream" else source.replace("{i}", str(i))
                expected.add(f"{name} {node['name'].replace('{i}', str(i))}")
    assert set(found) == expected
    assert all(np.isfinite(norm) and norm > 0 for norm in found.values())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_gradient_on_an_edge_is_what_remains_if_the_other_edges_are_cut(config: ModelConfig) -> None:
    """Cut the paths through a branch in the backward pass. The gradient of the stream changes by the gradient on that edge."""
    model = GPT(config, seed=1, dtype=np.float64)
    tokens = [[1, 2, 3, 4]]
    t, found = model.trace(tokens), edges(model.trace(tokens))
    pre = config.norm_placement == "pre"
    cut = (lambda x: x, np.zeros_like)
    for i in range(config.n_layers):
        before = "embedding" if i == 0 else f"blocks.{i - 1}.residual_post"
        for name, stream, branch in ((f"stream.{i}", before, "attention"), (f"blocks.{i}.residual_mid",) * 2 + ("feed_forward",)):
            if pre:
                direct = model.trace(tokens, patch={f"blocks.{i}.{branch}_norm": cut}).grad[stream]
                through = np.linalg.norm(t.grad[stream] - direct)
                assert found[f"{name} blocks.{i}.{branch}_norm"] == pytest.approx(through)
            else:
                direct = model.trace(tokens, patch={f"blocks.{i}.{branch}": cut}).grad[stream]
            total = "residual_mid" if branch == "attention" else "residual_post"
            assert found[f"{name} blocks.{i}.{total}"] == pytest.approx(np.linalg.norm(direct))
        source = f"blocks.{i}.attention_norm" if pre else before
        for part in ("queries", "keys", "values"):
            without = model.trace(tokens, patch={f"blocks.{i}.attention.{part}": cut}).grad[source]
            key = f"{source if pre else f'stream.{i}'} blocks.{i}.attention.{part}"
            assert found[key] == pytest.approx(np.linalg.norm(t.grad[source] - without))


def test_the_view(traced: Trace) -> None:
    found = gradient(traced(target=5))
    t = traced(target=5).trace
    assert found["loss"] == t.loss and found["layers"] == 2
    assert found["tokens"] == traced().pieces and found["surprise"] == traced().surprise
    assert set(found["norms"]) == set(t.grad) and found["parameters"] == list(t.parameters)
    assert found["norms"]["logits"] == pytest.approx(np.linalg.norm(t.grad["logits"]))


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("blocks.1.attention.weights", (1, 6, 2)),
        ("blocks.0.attention.queries", (0, 3, 1)),
        ("embedding", (2, 5)),
        ("blocks.1.residual_mid", (4, 0)),
        ("blocks.0.feed_forward.active", (6, 3)),
        ("final_norm", (7, 7)),
        ("logits", (5, 97)),
        ("blocks.1.attention.qkv.weight", (3, 40)),
        ("blocks.0.feed_forward_norm.gamma", (0, 2)),
        ("token_embedding", (5, 1)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"target": 9}, {"off": ("blocks.1.attention.heads.0", "blocks.0.attention")}], ids=str)
def test_a_nudge_proves_the_gradient(tracer: Tracer, traced: Trace, name: str, index: tuple[int, ...], options: dict) -> None:
    found = nudge(tracer, traced(**options), Element(name, index), 1e-4)
    assert found["predicted"] == 1e-4 * found["gradient"]
    assert found["change"] == found["after"] - found["loss"]
    assert found["change"] == pytest.approx(found["predicted"], rel=0.02, abs=1e-11)
    t = traced(**options).trace
    value, grad = (x if name in t.parameters else x[0] for x in value_and_gradient(t, name))
    where = index[1:] if value.ndim == 1 else index
    assert found["value"] == pytest.approx(value[where], rel=1e-4, abs=1e-6)
    assert found["gradient"] == pytest.approx(grad[where], rel=1e-3, abs=1e-7)
    assert found["loss"] == pytest.approx(t.loss, rel=1e-5)


def test_a_nudge_changes_nothing_that_is_kept(tracer: Tracer, traced: Trace) -> None:
    before = tracer.subject.model(60, np.float64).parameters.flat.copy()
    nudge(tracer, traced(), Element("blocks.1.attention.qkv.weight", (3, 40)), 0.5)
    np.testing.assert_array_equal(tracer.subject.model(60, np.float64).parameters.flat, before)


def test_what_cannot_be_nudged(tracer: Tracer, traced: Trace) -> None:
    with pytest.raises(ValueError, match="name is 'x', but must be that of an array of the trace, or of a parameter"):
        nudge(tracer, traced(), Element("x", (0,)), 0.1)
    for amount in (0.0, 2.0):
        with pytest.raises(ValueError, match=f"amount is {amount}, but must be between -1 and 1, and not 0"):
            nudge(tracer, traced(), Element("embedding", (0, 0)), amount)
    x = np.zeros((1, 2, 3, 3))
    for index in ((0, 0), (2, 0, 0), (0, 3, 0), ()):
        with pytest.raises(ValueError, match=r"index is .*, but heads has the shape \[2, 3, 3\]"):
            full_index(Element("heads", index), x, is_parameter=False)


def test_arrays_and_their_gradients(traced: Trace) -> None:
    t = traced().trace
    found = array(t, "blocks.0.attention.heads", 1, None, (2, 5))
    assert found["shape"] == [2, 15, 8] and found["size"] == [15, 8]
    np.testing.assert_array_equal(decoded(found["value"]["values"]), t["blocks.0.attention.heads"][0, 1, :, 2:5])
    np.testing.assert_array_equal(decoded(found["gradient"]["values"]), t.grad["blocks.0.attention.heads"][0, 1, :, 2:5])
    found = array(t, "final_norm.gamma", 0, None, None)
    assert found["shape"] == [16] and found["size"] == [1, 16]
    with pytest.raises(ValueError, match="index is 2, but must be from 0 to 1"):
        array(t, "blocks.0.attention.heads", 2, None, None)


@pytest.mark.parametrize("name", ["blocks.1.attention.qkv.weight", "head", "blocks.0.attention_norm.gamma"])
def test_the_next_update_is_that_of_the_training(tracer: Tracer, traced: Trace, tiny_run: Path, name: str) -> None:
    """Update a copy of the model with the trainer's own code, and compare."""
    found = update(tracer, traced(), name)
    t, run = traced().trace, open_run(tiny_run)
    assert t.parameter_grads is not None
    s = run.settings
    model = GPT(t.config, parameters=tracer.subject.model(60).parameters.zeros_like())
    model.parameters.flat = tracer.subject.model(60).parameters.flat
    workers = DataParallel(model, 1, 0, optimizer(s))
    load_optimizer(checkpoints(RunFolder(tiny_run))[-1], Moments(*workers.moments))
    workers.grads.flat = t.parameter_grads.flat
    before = model.parameters[name].copy()
    rate = found["lr"] / optimizer(s).group(name).lr
    with workers:
        workers.update(rate, 61, found["clip"])
    change = np.atleast_2d(model.parameters[name] - before)
    assert found["update"]["norm"] == pytest.approx(np.linalg.norm(change))
    if found["update"]["pool"] == [1, 1]:
        np.testing.assert_allclose(decoded(found["update"]["values"]), change, rtol=1e-5, atol=1e-9)
    assert (found["v"] is None) == (found["rule"] == "Muon") == name.endswith("qkv.weight")


def test_updates_need_a_checkpoint(tracer: Tracer, traced: Trace) -> None:
    with pytest.raises(ValueError, match="there are checkpoints of these steps: 40, 60"):
        update(tracer, traced(step=8), "head")
    with pytest.raises(ValueError, match="name is 'x', but must be that of a parameter"):
        update(tracer, traced(), "x")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_node_is_explained(kind: str) -> None:
    found = explanation(kind)
    for formula in (found["forward"], found["backward"]):
        assert formula.startswith("<math") and "\\" not in formula
    names = [code["name"] for code in found["code"]]
    first = names[0].removesuffix("_exact")  # both forms of GELU have one backward pass
    assert names[1] in (f"{first}_backward", f"{first}_and_backward")
    assert all(code["text"].startswith("def ") for code in found["code"])
    derivations = (Path(__file__).parents[2] / "docs" / "derivations.md").read_text(encoding="utf-8")
    anchors = [line.removeprefix("## ").lower().replace(" ", "-") for line in derivations.splitlines() if line.startswith("## ")]
    assert found["derivation"] in anchors


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'x', but must be one of: token_embedding, "):
        explanation("x")


def test_the_presets_have_diagrams() -> None:
    for name in ("quick", "gpt2", "llama-tiny"):
        assert all(node["kind"] in KINDS for node in nodes(preset(name, vocab_size=100)))
