"""Operations of every shape against PyTorch in float64, with shapes drawn by hypothesis."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import GPT, ModelConfig
from minigpt.np import activations, attention, block, heads, norms, ops, positions
from minigpt.np.parameters import Parameters, shapes
from minigpt.np.workspace import FRESH, Array, Fresh, Workspace
from minigpt.proof.cases import draw
from minigpt.proof.checks import errors

torch_primitives = pytest.importorskip("minigpt.np.torch_primitives", exc_type=ImportError)

drawn = settings(max_examples=25, deadline=None, derandomize=True)
drawn_often = settings(drawn, max_examples=60)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)
workspaces = st.sampled_from([FRESH, "stack"]).map(lambda ws: Workspace() if ws == "stack" else ws)


def arrays(seed: int, **named: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: draw(rng, name, shape) for name, shape in named.items()}


def agree(y: Array | float, grads: Mapping[str, Any], theirs: Any, inputs: Mapping[str, Array], dy: Array) -> None:
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
@given(sizes, st.integers(2, 40), st.sampled_from([1e-6, 1e-5, 0.3]), workspaces, seeds)
def test_layer_norm(N: int, D: int, epsilon: float, ws: Fresh, seed: int) -> None:
    a = arrays(seed, x=(N, D), gamma=(D,), beta=(D,))
    y, cache = norms.layer_norm(**a, ws=ws, epsilon=epsilon)
    dy = upstream(y, seed)
    grads = dict(zip(a, norms.layer_norm_backward(dy, cache, ws), strict=True))
    agree(y, grads, lambda t: torch_primitives.layer_norm(**t, epsilon=epsilon), a, dy)


@drawn
@given(sizes, st.integers(1, 40), st.sampled_from([1e-6, 1e-5, 0.3]), workspaces, seeds)
def test_rms_norm(N: int, D: int, epsilon: float, ws: Fresh, seed: int) -> None:
    a = arrays(seed, x=(N, D), gamma=(D,))
    y, cache = norms.rms_norm(**a, ws=ws, epsilon=epsilon)
    dy = upstream(y, seed)
    grads = dict(zip(a, norms.rms_norm_backward(dy, cache, ws), strict=True))
    agree(y, grads, lambda t: torch_primitives.rms_norm(**t, epsilon=epsilon), a, dy)


ONE_ARGUMENT = {"softmax": ops, "relu": activations, "gelu": activations, "gelu_exact": activations}


@drawn
@given(st.sampled_from(list(ONE_ARGUMENT)), sizes, sizes, workspaces, seeds)
def test_row_by_row(name: str, N: int, D: int, ws: Fresh, seed: int) -> None:
    a, module = arrays(seed, x=(N, D)), ONE_ARGUMENT[name]
    y, cache = getattr(module, name)(a["x"], ws)
    dy = upstream(y, seed)
    dx = getattr(module, f"{name}_backward")(dy, cache, ws)
    agree(y, {"x": dx}, lambda t: getattr(torch_primitives, name)(t["x"]), a, dy)


@drawn
@given(sizes, sizes, st.sampled_from([0.1, 1, 8]), workspaces, seeds)
def test_swiglu(N: int, F: int, size: float, ws: Fresh, seed: int) -> None:
    a = arrays(seed, gate=(N, F), up=(N, F))
    a["gate"] *= size
    y, cache = activations.swiglu(a["gate"], a["up"], ws)
    dy = upstream(y, seed)
    grads = dict(zip(a, activations.swiglu_backward(dy, cache, ws), strict=True))
    agree(y, grads, lambda t: torch_primitives.swiglu(**t), a, dy)


PIECEWISE = {
    **{name: (activations, ("x",)) for name in ("relu", "gelu", "gelu_exact")},
    "swiglu": (activations, ("gate", "up")),
    "layer_norm": (norms, ("x", "gamma", "beta")),
    "rms_norm": (norms, ("x", "gamma")),
}


@pytest.mark.parametrize("name", PIECEWISE)
@pytest.mark.parametrize("rows", [1, 127, 128, 129, 257])
def test_across_real_pieces(name: str, rows: int) -> None:
    D = ops.PIECE // 128
    module, names = PIECEWISE[name]
    a = arrays(0, **{each: (D,) if each in ("gamma", "beta") else (rows, D) for each in names})
    y, cache = getattr(module, name)(**a)
    dy = upstream(y, 0)
    grads = getattr(module, f"{name}_backward")(dy, cache)
    found = dict(zip(a, grads if isinstance(grads, tuple) else (grads,), strict=True))
    agree(y, found, lambda t: getattr(torch_primitives, name)(**t), a, dy)


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
@given(sizes, sizes, sizes, sizes, st.integers(0, 5), seeds)
def test_embedding_and_positions(B: int, T: int, V: int, D: int, start: int, seed: int) -> None:
    tokens, places = np.random.default_rng(seed).integers(0, V, (B, T)), slice(start, start + T)
    a = arrays(seed, token_embedding=(V, D), position_embedding=(start + T + 1, D))
    x, token_cache = ops.embedding(tokens.reshape(-1), a["token_embedding"])
    y, position_cache = positions.positions(x.reshape(B, T, D), a["position_embedding"], places)
    dy = upstream(y, seed)
    grads = {
        "token_embedding": ops.embedding_backward(dy.reshape(-1, D), token_cache),
        "position_embedding": positions.positions_backward(dy, position_cache),
    }
    t = torch_primitives
    ids = t.torch.tensor(tokens)
    agree(y, grads, lambda p: t.positions(t.embedding(ids, p["token_embedding"]), p["position_embedding"], places), a, dy)


@drawn
@given(
    st.lists(st.integers(1, 4), max_size=3),
    sizes,
    st.integers(1, 5),
    st.sampled_from(["half", "interleaved"]),
    st.floats(2, 1e6),
    st.integers(0, 50),
    workspaces,
    seeds,
)
def test_rope(leading: list[int], T: int, half: int, pairing: str, theta: float, start: int, ws: Fresh, seed: int) -> None:
    a = arrays(seed, x=(*leading, T, 2 * half))
    cos, sin = positions.angles(start + T, 2 * half, theta, pairing, np.dtype(np.float64))
    y, cache = positions.rope(a["x"], cos[start:], sin[start:], pairing, ws)
    dy = upstream(y, seed)
    dx = positions.rope_backward(dy, cache, ws)
    agree(y, {"x": dx}, lambda t: torch_primitives.rope(t["x"], theta, pairing, start), a, dy)


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


@drawn
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=3), sizes, sizes, sizes, st.booleans(), seeds)
def test_attention_with_shared_keys(
    leading: list[tuple[int, bool]], T: int, earlier: int, d: int, causal: bool, seed: int
) -> None:
    """Where k and v have one entry in a leading dimension, all queries of that dimension share it."""
    kv = [1 if shared else n for n, shared in leading]
    S, whole = T + earlier - 1, [n for n, _ in leading]
    a = arrays(seed, q=(*whole, T, d), k=(*kv, S, d), v=(*kv, S, d))
    y, cache = attention.attention(a["q"], a["k"], a["v"], causal)
    dy = upstream(y, seed)
    grads = dict(zip("qkv", attention.attention_backward(dy, cache), strict=True))

    def theirs(t: Any) -> Any:
        k, v = (t[name].expand(*whole, S, d) for name in "kv")
        return torch_primitives.attention(t["q"], k, v, causal)

    agree(y, grads, theirs, a, dy)


@pytest.mark.parametrize("T", [63, 64, 65, 127, 128, 130])
@pytest.mark.parametrize("leading", [(2,), (2, 3)], ids=["3-D", "4-D"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "unmasked"])
def test_attention_across_its_real_blocks(T: int, leading: tuple[int, ...], causal: bool) -> None:
    assert attention.QUERY_BLOCK == 64
    check_attention(leading, T, T, 5, causal, FRESH, seed=T)
    check_attention(leading, T, T + 70, 5, causal, FRESH, seed=T)


def any_config(K: int, G: int, half: int, odd: int, positions: Any, **more: Any) -> ModelConfig:
    """Heads of any number and width that there may be."""
    return ModelConfig(n_heads=K * G, n_kv_heads=K, d_head=2 * half + odd * (positions == "learned"), positions=positions, **more)


configs = st.builds(
    any_config,
    K=st.integers(1, 3),
    G=st.integers(1, 3),
    half=st.integers(1, 3),
    odd=st.integers(0, 1),
    positions=st.sampled_from(["learned", "rope"]),
    rope_pairing=st.sampled_from(["half", "interleaved"]),
    rope_theta=st.sampled_from([10.0, 1e4]),
    d_model=st.integers(2, 12),
    vocab_size=st.integers(2, 20),
    context_length=st.integers(1, 12),
    n_layers=st.integers(1, 3),
    d_ff=st.integers(1, 20),
    activation=st.sampled_from(["gelu", "gelu_exact", "relu", "swiglu"]),
    norm=st.sampled_from(["layer", "rms"]),
    norm_placement=st.sampled_from(["pre", "post"]),
    norm_epsilon=st.sampled_from([1e-5, 1e-2]),
    qk_norm=st.booleans(),
    bias=st.booleans(),
    tied=st.booleans(),
)


def shapes_under(prefix: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(prefix): shape for name, shape in shapes(config).items() if name.startswith(prefix)}


def angles(config: ModelConfig, T: int) -> positions.Angles | None:
    """Those of the first T positions."""
    if config.positions == "learned":
        return None
    return positions.angles(T, config.d_head, config.rope_theta, config.rope_pairing, np.dtype(np.float64))


@drawn_often
@given(configs, sizes, sizes, st.booleans(), workspaces, seeds)
def test_multi_head_attention(config: ModelConfig, B: int, T: int, causal: bool, ws: Fresh, seed: int) -> None:
    named = shapes_under("blocks.0.attention.", config)
    a = arrays(seed, x=(B, T, config.d_model), **named)
    y, cache = heads.multi_head_attention(a["x"], a, config, causal, ws, angles(config, T))
    dy = upstream(y, seed)
    g = {name: np.full(shape, np.nan) for name, shape in named.items()}
    dx = heads.multi_head_attention_backward(dy, cache, g, ws)
    agree(y, {"x": dx, **g}, lambda t: torch_primitives.multi_head_attention(t["x"], t, config, causal), a, dy)


@drawn_often
@given(configs, sizes, sizes, st.booleans(), workspaces, seeds)
def test_block(config: ModelConfig, B: int, T: int, causal: bool, ws: Fresh, seed: int) -> None:
    named = shapes_under("blocks.0.", config)
    a = arrays(seed, x=(B, T, config.d_model), **named)
    p = Parameters(named, np.float64, np.concatenate([a[name].ravel() for name in named]))
    y, cache = block.block(a["x"], p, config, causal, ws, angles=angles(config, T))
    dy = upstream(y, seed)
    g = Parameters(named, np.float64, np.full(p.flat.size, np.nan))
    dx = block.block_backward(dy, cache, g, ws)
    agree(y, {"x": dx, **g}, lambda t: torch_primitives.block(t["x"], t, config, causal), a, dy)


@drawn_often
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
