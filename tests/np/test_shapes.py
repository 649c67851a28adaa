"""Operations of every shape against PyTorch in float64, with shapes drawn by hypothesis."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import GPT, ModelConfig
from minigpt.np import attention, block, ops
from minigpt.np.parameters import Parameters, shapes
from minigpt.np.workspace import FRESH, Array, Fresh, Workspace
from minigpt.proof.cases import draw
from minigpt.proof.checks import errors

torch_primitives = pytest.importorskip("minigpt.np.torch_primitives", exc_type=ImportError)

drawn = settings(max_examples=25, deadline=None, derandomize=True)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)
workspaces = st.sampled_from([FRESH, "stack"]).map(lambda ws: Workspace() if ws == "stack" else ws)


def arrays(seed: int, **named: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: draw(rng, name, shape) for name, shape in named.items()}


def agree(y: Array, grads: Mapping[str, Any], theirs: Any, inputs: Mapping[str, Array], dy: Array) -> None:
    """y and the gradients of sum(y * dy) are PyTorch's to 1e-9."""
    their_y, their_grads = torch_primitives.gradients(theirs, inputs, dy)
    assert errors({"y": y, **grads}, {"y": their_y, **their_grads})[1] <= 1e-9


def upstream(y: Any, seed: int) -> Array:
    return np.asarray(np.random.default_rng(seed + 1).standard_normal(np.shape(y)))


@drawn
@given(sizes, sizes, sizes, st.booleans(), workspaces, seeds)
def test_linear(N: int, D: int, F: int, bias: bool, ws: Fresh, seed: int) -> None:
    a = arrays(seed, x=(N, D), weight=(D, F), **({"bias": (F,)} if bias else {}))
    y, cache = ops.linear(**a, ws=ws)
    dy = upstream(y, seed)
    grads = dict(zip(("x", "weight", "bias"), ops.linear_backward(dy, cache, ws), strict=True))
    agree(y, {name: grads[name] for name in a}, lambda t: torch_primitives.linear(**t), a, dy)


@drawn
@given(sizes, st.integers(2, 40), workspaces, seeds)
def test_layer_norm(N: int, D: int, ws: Fresh, seed: int) -> None:
    a = arrays(seed, x=(N, D), gamma=(D,), beta=(D,))
    y, cache = ops.layer_norm(**a, ws=ws)
    dy = upstream(y, seed)
    grads = dict(zip(a, ops.layer_norm_backward(dy, cache, ws), strict=True))
    agree(y, grads, lambda t: torch_primitives.layer_norm(**t), a, dy)


@drawn
@given(st.sampled_from(["gelu", "relu", "softmax"]), sizes, sizes, workspaces, seeds)
def test_row_by_row(name: str, N: int, D: int, ws: Fresh, seed: int) -> None:
    a = arrays(seed, x=(N, D))
    y, cache = getattr(ops, name)(a["x"], ws)
    dy = upstream(y, seed)
    dx = getattr(ops, f"{name}_backward")(dy, cache, ws)
    agree(y, {"x": dx}, lambda t: getattr(torch_primitives, name)(t["x"]), a, dy)


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 257])
def test_gelu_across_its_real_pieces(rows: int) -> None:
    a = arrays(0, x=(rows, ops.PIECE // 128))
    y, cache = ops.gelu(a["x"])
    dy = upstream(y, 0)
    agree(y, {"x": ops.gelu_backward(dy, cache)}, lambda t: torch_primitives.gelu(t["x"]), a, dy)


@drawn
@given(sizes, st.integers(2, 30), seeds)
def test_cross_entropy(N: int, V: int, seed: int) -> None:
    a = arrays(seed, logits=(N, V))
    targets = np.random.default_rng(seed).integers(0, V, N)
    targets[1:][np.random.default_rng(seed).random(N - 1) < 0.3] = ops.IGNORE
    loss, cache = ops.cross_entropy(a["logits"], targets)
    dy = upstream(loss, seed)
    dlogits = ops.cross_entropy_backward(cache, float(dy))
    theirs = torch_primitives.torch.tensor(targets)
    agree(loss, {"logits": dlogits}, lambda t: torch_primitives.cross_entropy(t["logits"], theirs), a, dy)


@drawn
@given(sizes, sizes, sizes, sizes, seeds)
def test_embedding_and_positions(B: int, T: int, V: int, D: int, seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, V, (B, T))
    a = arrays(seed, token_embedding=(V, D), position_embedding=(T + 1, D))
    x, token_cache = ops.embedding(tokens.reshape(-1), a["token_embedding"])
    y, position_cache = ops.positions(x.reshape(B, T, D), a["position_embedding"])
    dy = upstream(y, seed)
    grads = {
        "token_embedding": ops.embedding_backward(dy.reshape(-1, D), token_cache),
        "position_embedding": ops.positions_backward(dy, position_cache),
    }
    t = torch_primitives
    ids = t.torch.tensor(tokens)
    agree(y, grads, lambda p: t.positions(t.embedding(ids, p["token_embedding"]), p["position_embedding"]), a, dy)


def check_attention(leading: tuple[int, ...], T: int, S: int, d: int, causal: bool, ws: Fresh, seed: int) -> None:
    a = arrays(seed, q=(*leading, T, d), k=(*leading, S, d), v=(*leading, S, d))
    y, cache = attention.attention(a["q"], a["k"], a["v"], causal, ws)
    dy = upstream(y, seed)
    grads = dict(zip("qkv", attention.attention_backward(dy, cache, ws), strict=True))
    agree(y, grads, lambda t: torch_primitives.attention(t["q"], t["k"], t["v"], causal), a, dy)


@drawn
@given(st.lists(st.integers(1, 4), min_size=1, max_size=2), sizes, sizes, sizes, st.booleans(), workspaces, seeds)
def test_attention(leading: list[int], T: int, earlier: int, d: int, causal: bool, ws: Fresh, seed: int) -> None:
    check_attention(tuple(leading), T, T + earlier - 1, d, causal, ws, seed)


@pytest.mark.parametrize("T", [63, 64, 65, 127, 128, 130])
@pytest.mark.parametrize("leading", [(2,), (2, 3)], ids=["3-D", "4-D"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "unmasked"])
def test_attention_across_its_real_blocks(T: int, leading: tuple[int, ...], causal: bool) -> None:
    assert attention.QUERY_BLOCK == 64
    check_attention(leading, T, T, 5, causal, FRESH, seed=T)
    check_attention(leading, T, T + 70, 5, causal, FRESH, seed=T)


@drawn
@given(sizes, sizes, st.integers(1, 4), sizes, st.booleans(), st.booleans(), workspaces, seeds)
def test_multi_head_attention(B: int, T: int, H: int, d: int, causal: bool, bias: bool, ws: Fresh, seed: int) -> None:
    D = H * d
    named = {"qkv.weight": (D, 3 * D), "qkv.bias": (3 * D,), "out.weight": (D, D), "out.bias": (D,)}
    a = arrays(seed, x=(B, T, D), **{name: shape for name, shape in named.items() if bias or "bias" not in name})
    y, cache = attention.multi_head_attention(a["x"], a, H, causal, ws)
    dy = upstream(y, seed)
    g = {name: np.full(array.shape, np.nan) for name, array in a.items() if name != "x"}
    dx = attention.multi_head_attention_backward(dy, cache, g, ws)
    agree(y, {"x": dx, **g}, lambda t: torch_primitives.multi_head_attention(t["x"], t, H, causal), a, dy)


configs = st.builds(
    lambda H, d, **rest: ModelConfig(d_model=H * d, n_heads=H, **rest),
    H=st.integers(1, 3),
    d=st.integers(2, 5),
    vocab_size=st.integers(2, 20),
    context_length=st.integers(1, 12),
    n_layers=st.integers(1, 3),
    d_ff=st.integers(1, 20),
    activation=st.sampled_from(["gelu", "relu"]),
    norm_placement=st.sampled_from(["pre", "post"]),
    bias=st.booleans(),
    tied=st.booleans(),
)


@drawn
@given(configs, sizes, sizes, st.booleans(), workspaces, seeds)
def test_block(config: ModelConfig, B: int, T: int, causal: bool, ws: Fresh, seed: int) -> None:
    named = {name.removeprefix("blocks.0."): shape for name, shape in shapes(config).items() if "blocks.0." in name}
    a = arrays(seed, x=(B, T, config.d_model), **named)
    p = Parameters(named, np.float64, np.concatenate([a[name].ravel() for name in named]))
    y, cache = block.block(a["x"], p, config, causal, ws)
    dy = upstream(y, seed)
    g = Parameters(named, np.float64, np.full(p.flat.size, np.nan))
    dx = block.block_backward(dy, cache, g, ws)
    agree(y, {"x": dx, **g}, lambda t: torch_primitives.block(t["x"], t, config, causal), a, dy)


@drawn
@given(configs, sizes, st.data(), workspaces, seeds)
def test_model(config: ModelConfig, B: int, data: st.DataObject, ws: Fresh, seed: int) -> None:
    T = data.draw(st.integers(1, config.context_length))
    model = GPT(config, dtype=np.float64)
    for name, array in arrays(seed, **model.parameters.shapes).items():
        model.parameters[name][...] = array
    tokens, targets = np.random.default_rng(seed).integers(0, config.vocab_size, (2, B, T))
    loss, grads = model.loss_and_grads(tokens, targets, ws=ws)
    t = torch_primitives
    ids, labels = t.torch.tensor(tokens), t.torch.tensor(targets)
    agree(loss, grads, lambda p: t.loss(ids, labels, p, config), model.parameters, np.asarray(1.0))
    their_logits, _ = t.gradients(lambda p: t.logits(ids, p, config), model.parameters, np.zeros((B, T, config.vocab_size)))
    assert errors({"logits": model.logits(tokens)}, {"logits": their_logits})[1] <= 1e-9
    assert model.loss(tokens, targets, ws=ws) == pytest.approx(loss, rel=1e-12)
