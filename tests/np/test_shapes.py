"""Operations, layers and the model compared with PyTorch in float64, with shapes and configurations drawn by hypothesis."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import GPT, ModelConfig
from minigpt.np import activations, attention, block, multi_head_attention, norms, ops, positions
from minigpt.np.context import Context
from minigpt.np.loss import IGNORE_INDEX, cross_entropy, cross_entropy_backward
from minigpt.np.parameters import Parameters, shapes
from minigpt.np.workspace import DEFAULT_WORKSPACE, Arena, Array, Workspace
from minigpt.proof.checks import errors
from minigpt.proof.inputs import draw

torch_primitives = pytest.importorskip("minigpt.np.torch_primitives", exc_type=ImportError)

few_examples = settings(max_examples=25, deadline=None, derandomize=True)
many_examples = settings(few_examples, max_examples=60)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)
workspaces = st.sampled_from([Workspace, Arena]).map(lambda kind: kind())


def arrays(seed: int, **named: tuple[int, ...]) -> dict[str, Array]:
    """Return random arrays with the given names and shapes."""
    rng = np.random.default_rng(seed)
    return {name: draw(rng, name, shape) for name, shape in named.items()}


def assert_equals_torch(y: Array | float, grads: Mapping[str, Any], theirs: Any, inputs: Mapping[str, Array], dy: Array) -> None:
    """Assert that y and the gradients of sum(y * dy) equal PyTorch's up to a relative error of 1e-9."""
    their_y, their_grads = torch_primitives.gradients(theirs, inputs, dy)
    assert errors({"y": y, **grads}, {"y": their_y, **their_grads})[1] <= 1e-9


def random_dy(y: Any, seed: int) -> Array:
    return np.asarray(np.random.default_rng(seed + 1).standard_normal(np.shape(y)))


@few_examples
@given(sizes, sizes, sizes, st.booleans(), workspaces, seeds)
def test_linear(N: int, D: int, F: int, bias: bool, ws: Workspace, seed: int) -> None:
    a = arrays(seed, x=(N, D), weight=(D, F), **({"bias": (F,)} if bias else {}))
    y, cache = ops.linear(**a, ws=ws)
    dy = random_dy(y, seed)
    grads = dict(zip(("x", "weight", "bias"), ops.linear_backward(dy, cache, ws), strict=True))
    assert_equals_torch(y, {name: grads[name] for name in a}, lambda t: torch_primitives.linear(**t), a, dy)


@few_examples
@given(sizes, st.integers(2, 40), st.sampled_from([1e-6, 1e-5, 0.3]), workspaces, seeds)
def test_layer_norm(N: int, D: int, epsilon: float, ws: Workspace, seed: int) -> None:
    a = arrays(seed, x=(N, D), gamma=(D,), beta=(D,))
    y, cache = norms.layer_norm(**a, ws=ws, epsilon=epsilon)
    dy = random_dy(y, seed)
    grads = dict(zip(a, norms.layer_norm_backward(dy, cache, ws), strict=True))
    assert_equals_torch(y, grads, lambda t: torch_primitives.layer_norm(**t, epsilon=epsilon), a, dy)


@few_examples
@given(sizes, st.integers(1, 40), st.sampled_from([1e-6, 1e-5, 0.3]), workspaces, seeds)
def test_rms_norm(N: int, D: int, epsilon: float, ws: Workspace, seed: int) -> None:
    a = arrays(seed, x=(N, D), gamma=(D,))
    y, cache = norms.rms_norm(**a, ws=ws, epsilon=epsilon)
    dy = random_dy(y, seed)
    grads = dict(zip(a, norms.rms_norm_backward(dy, cache, ws), strict=True))
    assert_equals_torch(y, grads, lambda t: torch_primitives.rms_norm(**t, epsilon=epsilon), a, dy)


ONE_ARGUMENT = {"softmax": ops, "relu": activations, "gelu": activations, "gelu_exact": activations}


@few_examples
@given(st.sampled_from(list(ONE_ARGUMENT)), sizes, sizes, workspaces, seeds)
def test_operations_of_one_argument(name: str, N: int, D: int, ws: Workspace, seed: int) -> None:
    a, module = arrays(seed, x=(N, D)), ONE_ARGUMENT[name]
    y, cache = getattr(module, name)(a["x"], ws)
    dy = random_dy(y, seed)
    dx = getattr(module, f"{name}_backward")(dy, cache, ws)
    assert_equals_torch(y, {"x": dx}, lambda t: getattr(torch_primitives, name)(t["x"]), a, dy)


@few_examples
@given(sizes, sizes, st.sampled_from([0.1, 1, 8]), workspaces, seeds)
def test_swiglu(N: int, F: int, size: float, ws: Workspace, seed: int) -> None:
    a = arrays(seed, gate=(N, F), up=(N, F))
    a["gate"] *= size
    y, cache = activations.swiglu(a["gate"], a["up"], ws)
    dy = random_dy(y, seed)
    grads = dict(zip(a, activations.swiglu_backward(dy, cache, ws), strict=True))
    assert_equals_torch(y, grads, lambda t: torch_primitives.swiglu(**t), a, dy)


BLOCKWISE = {
    **{name: (activations, ("x",)) for name in ("relu", "gelu", "gelu_exact")},
    "swiglu": (activations, ("gate", "up")),
    "layer_norm": (norms, ("x", "gamma", "beta")),
    "rms_norm": (norms, ("x", "gamma")),
}


@pytest.mark.parametrize("name", BLOCKWISE)
@pytest.mark.parametrize("rows", [1, 127, 128, 129, 257])
def test_across_row_blocks_of_the_real_size(name: str, rows: int) -> None:
    D = ops.ROW_BLOCK_ELEMENTS // 128
    module, names = BLOCKWISE[name]
    a = arrays(0, **{each: (D,) if each in ("gamma", "beta") else (rows, D) for each in names})
    y, cache = getattr(module, name)(**a)
    dy = random_dy(y, 0)
    grads = getattr(module, f"{name}_backward")(dy, cache)
    found = dict(zip(a, grads if isinstance(grads, tuple) else (grads,), strict=True))
    assert_equals_torch(y, found, lambda t: getattr(torch_primitives, name)(**t), a, dy)


@few_examples
@given(sizes, st.integers(2, 30), seeds)
def test_cross_entropy(N: int, V: int, seed: int) -> None:
    a = arrays(seed, logits=(N, V))
    targets = np.random.default_rng(seed).integers(0, V, N)
    targets[1:][np.random.default_rng(seed).random(N - 1) < 0.3] = IGNORE_INDEX
    loss, cache = cross_entropy(a["logits"], targets)
    dy = random_dy(loss, seed)
    dlogits = cross_entropy_backward(cache, float(dy))
    theirs = torch_primitives.torch.tensor(targets)
    assert_equals_torch(loss, {"logits": dlogits}, lambda t: torch_primitives.cross_entropy(t["logits"], theirs), a, dy)


@few_examples
@given(sizes, sizes, sizes, sizes, st.integers(0, 5), seeds)
def test_embeddings(B: int, T: int, V: int, D: int, start: int, seed: int) -> None:
    tokens, where = np.random.default_rng(seed).integers(0, V, (B, T)), slice(start, start + T)
    a = arrays(seed, token_embedding=(V, D), position_embedding=(start + T + 1, D))
    x, token_cache = ops.embedding(tokens.reshape(-1), a["token_embedding"])
    y, position_cache = positions.position_embedding(x.reshape(B, T, D), a["position_embedding"], where)
    dy = random_dy(y, seed)
    grads = {
        "token_embedding": ops.embedding_backward(dy.reshape(-1, D), token_cache),
        "position_embedding": positions.position_embedding_backward(dy, position_cache),
    }
    t = torch_primitives
    ids = t.torch.tensor(tokens)

    def theirs(p: Any) -> Any:
        return t.position_embedding(t.embedding(ids, p["token_embedding"]), p["position_embedding"], where)

    assert_equals_torch(y, grads, theirs, a, dy)


@few_examples
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
def test_rope(leading: list[int], T: int, half: int, pairing: str, theta: float, start: int, ws: Workspace, seed: int) -> None:
    a = arrays(seed, x=(*leading, T, 2 * half))
    cos, sin = positions.rope_table(start + T, 2 * half, theta, pairing, np.dtype(np.float64))
    y, cache = positions.rope(a["x"], cos[start:], sin[start:], pairing, ws)
    dy = random_dy(y, seed)
    dx = positions.rope_backward(dy, cache, ws)
    assert_equals_torch(y, {"x": dx}, lambda t: torch_primitives.rope(t["x"], theta, pairing, start), a, dy)


def check_attention(leading: tuple[int, ...], T: int, S: int, d: int, causal: bool, ws: Workspace, seed: int) -> None:
    a = arrays(seed, q=(*leading, T, d), k=(*leading, S, d), v=(*leading, S, d))
    y, cache = attention.attention(a["q"], a["k"], a["v"], causal, ws)
    dy = random_dy(y, seed)
    grads = dict(zip("qkv", attention.attention_backward(dy, cache, ws), strict=True))
    assert_equals_torch(y, grads, lambda t: torch_primitives.attention(t["q"], t["k"], t["v"], causal), a, dy)


@few_examples
@given(st.lists(st.integers(1, 4), min_size=1, max_size=2), sizes, sizes, sizes, st.booleans(), workspaces, seeds)
def test_attention(leading: list[int], T: int, earlier: int, d: int, causal: bool, ws: Workspace, seed: int) -> None:
    check_attention(tuple(leading), T, T + earlier - 1, d, causal, ws, seed)


@few_examples
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=3), sizes, sizes, sizes, st.booleans(), seeds)
def test_attention_with_shared_keys(
    leading: list[tuple[int, bool]], T: int, earlier: int, d: int, causal: bool, seed: int
) -> None:
    """If a leading dimension of k and v is 1, all queries along that dimension share them."""
    kv = [1 if shared else n for n, shared in leading]
    S, full = T + earlier - 1, [n for n, _ in leading]
    a = arrays(seed, q=(*full, T, d), k=(*kv, S, d), v=(*kv, S, d))
    y, cache = attention.attention(a["q"], a["k"], a["v"], causal)
    dy = random_dy(y, seed)
    grads = dict(zip("qkv", attention.attention_backward(dy, cache), strict=True))

    def theirs(t: Any) -> Any:
        k, v = (t[name].expand(*full, S, d) for name in "kv")
        return torch_primitives.attention(t["q"], k, v, causal)

    assert_equals_torch(y, grads, theirs, a, dy)


@pytest.mark.parametrize("T", [63, 64, 65, 127, 128, 130])
@pytest.mark.parametrize("leading", [(2,), (2, 3)], ids=["3-D", "4-D"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "unmasked"])
def test_attention_across_query_blocks_of_the_real_size(T: int, leading: tuple[int, ...], causal: bool) -> None:
    assert attention.QUERY_BLOCK == 64
    check_attention(leading, T, T, 5, causal, DEFAULT_WORKSPACE, seed=T)
    check_attention(leading, T, T + 70, 5, causal, DEFAULT_WORKSPACE, seed=T)


def build_config(K: int, G: int, half: int, odd: int, positions: Any, **options: Any) -> ModelConfig:
    """Return a configuration with K key heads, K * G query heads, and an even d_head if the positions are rope."""
    d_head = 2 * half + (odd if positions == "learned" else 0)
    return ModelConfig(n_heads=K * G, n_kv_heads=K, d_head=d_head, positions=positions, **options)


configs = st.builds(
    build_config,
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
    attention_bias=st.booleans(),
    feed_forward_bias=st.booleans(),
    tied=st.booleans(),
)


def shapes_under(prefix: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters whose names start with `prefix`, named without it."""
    return {name.removeprefix(prefix): shape for name, shape in shapes(config).items() if name.startswith(prefix)}


def make_context(config: ModelConfig, T: int, causal: bool, ws: Workspace) -> Context:
    """Return the context of a layer for T tokens."""
    rope = None
    if config.positions == "rope":
        rope = positions.rope_table(T, config.d_head, config.rope_theta, config.rope_pairing, np.dtype(np.float64))
    return Context(config, ws, causal=causal, rope=rope)


@many_examples
@given(configs, sizes, sizes, st.booleans(), workspaces, seeds)
def test_multi_head_attention(config: ModelConfig, B: int, T: int, causal: bool, ws: Workspace, seed: int) -> None:
    named = shapes_under("blocks.0.attention.", config)
    a = arrays(seed, x=(B, T, config.d_model), **named)
    ctx = make_context(config, T, causal, ws)
    y, cache = multi_head_attention.multi_head_attention(a["x"], a, ctx)
    dy = random_dy(y, seed)
    g = {name: np.full(shape, np.nan) for name, shape in named.items()}
    dx = multi_head_attention.multi_head_attention_backward(dy, cache, g, ctx)
    assert_equals_torch(y, {"x": dx, **g}, lambda t: torch_primitives.multi_head_attention(t["x"], t, config, causal), a, dy)


@many_examples
@given(configs, sizes, sizes, st.booleans(), workspaces, seeds)
def test_block(config: ModelConfig, B: int, T: int, causal: bool, ws: Workspace, seed: int) -> None:
    named = shapes_under("blocks.0.", config)
    a = arrays(seed, x=(B, T, config.d_model), **named)
    p = Parameters(named, np.float64, np.concatenate([a[name].ravel() for name in named]))
    ctx = make_context(config, T, causal, ws)
    y, cache = block.block(a["x"], p, ctx)
    dy = random_dy(y, seed)
    g = Parameters(named, np.float64, np.full(p.flat.size, np.nan))
    dx = block.block_backward(dy, cache, g, ctx)
    assert_equals_torch(y, {"x": dx, **g}, lambda t: torch_primitives.block(t["x"], t, config, causal), a, dy)


@many_examples
@given(configs, sizes, st.data(), workspaces, seeds)
def test_model(config: ModelConfig, B: int, data: st.DataObject, ws: Workspace, seed: int) -> None:
    T = data.draw(st.integers(1, config.context_length))
    model = GPT(config, dtype=np.float64)
    for name, array in arrays(seed, **model.parameters.shapes).items():
        model.parameters[name][...] = array
    tokens, targets = np.random.default_rng(seed).integers(0, config.vocab_size, (2, B, T))
    loss, grads = model.loss_and_grads(tokens, targets, ws=ws)
    t = torch_primitives
    ids, labels = t.torch.tensor(tokens), t.torch.tensor(targets)
    assert_equals_torch(loss, grads, lambda p: t.loss(ids, labels, p, config), model.parameters, np.asarray(1.0))
    their_logits, _ = t.gradients(lambda p: t.logits(ids, p, config), model.parameters, np.zeros((B, T, config.vocab_size)))
    assert errors({"logits": model.logits(tokens)}, {"logits": their_logits})[1] <= 1e-9
    assert model.loss(tokens, targets, ws=ws) == pytest.approx(loss, rel=1e-12)
