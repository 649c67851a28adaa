"""What is checked: each operation of minigpt as a `Case`, from the smallest to the whole model.

A case draws its inputs, knows our forward and backward, and the name under which the same function stands in
torch_primitives.py. Shapes are uneven, tokens repeat, gamma and beta are away from 1 and 0, weights have the size 1/sqrt(inputs).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np import activations, attention, block, head, heads, norms, ops, positions
from minigpt.np.config import LLAMA, ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, shapes
from minigpt.np.workspace import Array, Workspace

Arrays = dict[str, Array]
Ours = Callable[[Arrays], tuple[Any, Any]]
OursBackward = Callable[[Array, Any, Arrays], Arrays]
Theirs = Callable[[Any, dict[str, Any]], Any]

B, T, D, H, F, V = 3, 11, 12, 3, 20, 17


@dataclass(frozen=True)
class Case:
    """One function with its backward: `forward(inputs) -> y, cache`, `backward(dy, cache, inputs) -> gradients by input name`.

    `theirs(torch_primitives, tensors) -> y` is the same function in PyTorch.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    forward: Ours
    backward: OursBackward
    theirs: Theirs
    mask: str = ""
    tokens: Mapping[str, tuple[int, ...]] | None = None  # whole-number inputs

    def __str__(self) -> str:
        return f"{self.name} {self.mask}".strip()

    def inputs(self, seed: int, dtype: DTypeLike) -> Arrays:
        """Inputs drawn for this case."""
        rng = np.random.default_rng(seed)
        drawn = {name: draw(rng, name, shape).astype(dtype) for name, shape in self.shapes.items()}
        return drawn | {name: _tokens(rng, name, shape) for name, shape in (self.tokens or {}).items()}


def draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    """Random values of a size that suits the name: weights 1 / sqrt(inputs), gamma around 1, masks 0 or 2, the rest around 0."""
    values = rng.standard_normal(shape)
    if name.endswith("gamma"):
        return 1 + values / 2
    if "mask" in name:
        return (values > 0) * 2.0
    if name.endswith("weight") or name == "head" or "embedding" in name:
        return values / np.sqrt(shape[0] if name.endswith("weight") else shape[-1])
    return np.asarray(values + np.sign(values) / 100)  # away from 0, where ReLU has no derivative


def _tokens(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    ids = rng.integers(0, V, shape)
    ids.flat[1 : min(4, ids.size)] = ids.flat[0]  # repeated ids, next to each other
    if name == "targets":
        ids.flat[-2] = ops.IGNORE
    return ids


@contextmanager
def small_pieces() -> Iterator[None]:
    """Make the blocks, chunks and pieces that fast code works in so small that the small arrays of a check need several.

    And let attention and cross-entropy guard against overflow in some rows, not in others.
    """
    with (
        patch.object(ops, "PIECE", 2 * F),
        patch.object(attention, "QUERY_BLOCK", 4),
        patch.object(attention, "BLOCK_ELEMENTS", 4 * T),
        patch.object(attention, "SAFE_SCORE", 2.0),
        patch.object(ops, "SAFE_LOGIT", 1.8),
        patch.object(head, "CHUNK_ELEMENTS", 5 * V),
        patch.object(head, "MIN_CHUNK_ROWS", 5),
    ):
        yield


def _simple(module: Any, name: str, shapes: Mapping[str, tuple[int, ...]], **more: Any) -> Case:
    """An operation whose arguments are its inputs, and whose backward returns one gradient for each."""
    forward, backward = getattr(module, name), getattr(module, f"{name}_backward")

    def gradients(dy: Array, cache: Any, inputs: Arrays) -> Arrays:
        grads = backward(dy, cache)
        return dict(zip(shapes, grads if isinstance(grads, tuple) else (grads,), strict=False))

    return Case(name, shapes, lambda a: forward(**a), gradients, lambda torch, a: getattr(torch, name)(**a), **more)


def operations() -> Iterator[Case]:
    """Floor one: single operations."""
    yield _simple(ops, "linear", {"x": (7, D), "weight": (D, F), "bias": (F,)})
    yield _simple(ops, "linear", {"x": (7, D), "weight": (D, F)}, mask="no bias")
    yield Case(
        "embedding",
        {"weight": (V, D)},
        lambda a: ops.embedding(a["tokens"], a["weight"]),
        lambda dy, cache, a: {"weight": ops.embedding_backward(dy, cache)},
        lambda torch, a: torch.embedding(a["tokens"], a["weight"]),
        tokens={"tokens": (9,)},
    )
    yield Case(
        "positions",
        {"x": (B, T, D), "weight": (T + 2, D)},
        lambda a: positions.positions(a["x"].copy(), a["weight"], slice(1, T + 1)),
        lambda dy, cache, a: {"x": dy, "weight": positions.positions_backward(dy, cache)},
        lambda torch, a: torch.positions(a["x"], a["weight"], slice(1, T + 1)),
    )
    for pairing in ("half", "interleaved"):
        yield _rope_case(pairing)
    yield _simple(ops, "softmax", {"x": (7, V)})
    yield _simple(norms, "layer_norm", {"x": (7, D), "gamma": (D,), "beta": (D,)})
    yield _simple(norms, "rms_norm", {"x": (7, D), "gamma": (D,)})
    for name in ("relu", "gelu", "gelu_exact"):
        yield _simple(activations, name, {"x": (7, F)})
    yield _simple(activations, "swiglu", {"gate": (7, F), "up": (7, F)})
    yield Case(
        "dropout",
        {"x": (B, T, D)},
        lambda a: ops.dropout(a["x"].copy(), _mask(a["x"])),
        lambda dy, cache, a: {"x": ops.dropout_backward(dy, cache)},
        lambda torch, a: torch.dropout(a["x"], torch.torch.tensor(_mask(a["x"].detach().numpy()))),
    )
    yield Case(
        "cross_entropy",
        {"logits": (9, V)},
        lambda a: ops.cross_entropy(a["logits"], a["targets"]),
        lambda dy, cache, a: {"logits": ops.cross_entropy_backward(cache, float(dy))},
        lambda torch, a: torch.cross_entropy(a["logits"], a["targets"]),
        tokens={"targets": (9,)},
    )
    yield Case(
        "head and loss",
        {"x": (12, D), "weight": (V, D)},
        lambda a: (head.head_loss(a["x"], a["weight"], a["targets"], head.count_targets(a["targets"]))[0], None),
        _head_backward,
        lambda torch, a: torch.cross_entropy(torch.linear(a["x"], a["weight"].T), a["targets"]),
        tokens={"targets": (12,)},
    )


def _rope_case(pairing: str) -> Case:
    def turned(a: Arrays) -> tuple[Array, Any]:
        cos, sin = positions.angles(T + 2, 6, 100.0, pairing, a["x"].dtype)
        return positions.rope(a["x"], cos[2:], sin[2:], pairing)

    return Case(
        f"rope, {pairing}",
        {"x": (B, H, T, 6)},
        turned,
        lambda dy, cache, a: {"x": positions.rope_backward(dy, cache)},
        lambda torch, a: torch.rope(a["x"], 100.0, pairing, start=2),
    )


def _mask(x: Array) -> Array:
    mask = ops.Dropout(0.4, seed=3, step=5).mask(1, x.shape, x.dtype)
    assert mask is not None
    return mask


def _head_backward(dy: Array, cache: Any, a: Arrays) -> Arrays:
    dx, dweight = np.full_like(a["x"], np.nan), np.full_like(a["weight"], np.nan)
    head.head_loss_and_backward(a["x"], a["weight"], a["targets"], head.count_targets(a["targets"]), dx, dweight)
    return {"x": dx * dy, "weight": dweight * dy}


def attentions() -> Iterator[Case]:
    """Floor two: attention on heads that are given, with earlier keys, with shared keys; and with its projections."""
    for causal in (False, True):
        for leading, kv_leading, earlier in (
            ((B,), (B,), 0),
            ((2, H), (2, H), 0),
            ((2, H), (2, H), 5),
            ((2, H, 2), (2, H, 1), 0),
            ((2, H), (1, H), 3),
        ):
            yield _attention_case(leading, kv_leading, earlier, causal)
        for changes in (
            {},
            {"bias": False},
            {"n_kv_heads": 1},
            {"n_kv_heads": 2, "n_heads": 4, "d_head": 5},
            {"positions": "rope"},
            {"positions": "rope", "n_kv_heads": 1, "rope_pairing": "interleaved", "rope_theta": 50.0},
            {"qk_norm": True, "positions": "rope"},
            {**LLAMA, "qk_norm": True, "n_heads": 4, "n_kv_heads": 2, "d_head": 6},
        ):
            yield _multi_head_attention_case(changes, causal)


def _attention_case(leading: tuple[int, ...], kv_leading: tuple[int, ...], earlier: int, causal: bool) -> Case:
    q, kv = (*leading, T, 4), (*kv_leading, T + earlier, 4)
    more = f", {earlier} earlier keys" * bool(earlier) + ", shared keys" * (leading != kv_leading)
    return Case(
        f"attention {len(q)}-D" + more,
        {"q": q, "k": kv, "v": kv},
        lambda a: attention.attention(a["q"], a["k"], a["v"], causal),
        lambda dy, cache, a: dict(zip("qkv", attention.attention_backward(dy, cache), strict=True)),
        lambda torch, a: torch.attention(a["q"], *(a[name].expand(*leading, T + earlier, 4) for name in "kv"), causal),
        mask=_mask_name(causal),
    )


def _multi_head_attention_case(changes: dict[str, Any], causal: bool) -> Case:
    config = _config(**changes)
    prefix = "attention."
    named = {name.removeprefix(prefix): shape for name, shape in _block_shapes(config).items() if name.startswith(prefix)}

    def forward(a: Arrays) -> tuple[Array, Any]:
        return heads.multi_head_attention(a["x"], a, config, causal, angles=_angles(config, a["x"]))

    return Case(
        f"multi-head attention{_described(changes)}",
        {"x": (B, T, D)} | named,
        forward,
        _layer_backward(heads.multi_head_attention_backward),
        lambda torch, a: torch.multi_head_attention(a["x"], a, config, causal),
        mask=_mask_name(causal),
    )


def _angles(config: ModelConfig, x: Array) -> positions.Angles | None:
    if config.positions == "learned":
        return None
    return positions.angles(T, config.d_head, config.rope_theta, config.rope_pairing, x.dtype)


def _described(changes: Mapping[str, Any]) -> str:
    """What is not as in GPT-2, in few words."""
    llama = LLAMA.items() <= changes.items()
    rest = {name: value for name, value in changes.items() if not (llama and name in LLAMA)}
    return ", Llama" * llama + "".join(f", {name} {value}".lower() for name, value in rest.items())


def _mask_name(causal: bool) -> str:
    return "causal" if causal else "unmasked"


def _layer_backward(backward: Callable[..., Array]) -> OursBackward:
    """The backward of a layer, which writes the gradients of its parameters where it is told; NaN shows what it leaves out."""

    def gradients(dy: Array, cache: Any, inputs: Arrays) -> Arrays:
        p = {name: array.shape for name, array in inputs.items() if name != "x"}
        g = Parameters(p, dy.dtype, np.full(sum(int(np.prod(shape)) for shape in p.values()), np.nan, dy.dtype))
        return {"x": backward(dy, cache, g), **g}

    return gradients


def blocks() -> Iterator[Case]:
    """Floor three: the feed-forward network, and whole blocks."""
    for activation in ("gelu", "gelu_exact", "relu", "swiglu"):
        yield _feed_forward_case(activation)
    for changes in ({}, LLAMA | {"n_kv_heads": 1}, {"activation": "swiglu", "norm": "rms", "qk_norm": True}):
        for placement in ("pre", "post"):
            for causal in (False, True):
                yield _block_case({**changes, "norm_placement": placement}, causal)


def _feed_forward_case(activation: str) -> Case:
    gate = {"gate.weight": (D, F), "gate.bias": (F,)} if activation == "swiglu" else {}
    return Case(
        f"feed-forward, {activation}",
        {"x": (B, T, D), **gate, "up.weight": (D, F), "up.bias": (F,), "down.weight": (F, D), "down.bias": (D,)},
        lambda a: block.feed_forward(a["x"], a, activation),
        _layer_backward(block.feed_forward_backward),
        lambda torch, a: torch.feed_forward(a["x"], a, activation),
    )


def _block_case(changes: dict[str, Any], causal: bool) -> Case:
    config = _config(**changes)
    return Case(
        f"block{_described(changes)}",
        {"x": (B, T, D)} | _block_shapes(config),
        lambda a: block.block(a["x"], _parameters(a, config), config, causal, Workspace(), angles=_angles(config, a["x"])),
        _layer_backward(block.block_backward),
        lambda torch, a: torch.block(a["x"], a, config, causal),
        mask=_mask_name(causal),
    )


def _config(**changes: Any) -> ModelConfig:
    sizes = {"vocab_size": V, "context_length": T + 1, "d_model": D, "n_layers": 2, "n_heads": H, "d_ff": F}
    return ModelConfig(**{**sizes, **changes})


def _block_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    prefix = "blocks.0."
    return {name.removeprefix(prefix): shape for name, shape in shapes(config).items() if name.startswith(prefix)}


def _parameters(a: Arrays, config: ModelConfig) -> Parameters:
    """The inputs of a block as Parameters."""
    named = _block_shapes(config)
    return Parameters(named, a["x"].dtype, np.concatenate([a[name].ravel() for name in named]))


def models() -> Iterator[Case]:
    """Floor four: the loss of the whole model."""
    for changes in (
        {},
        {"norm_placement": "post"},
        {"tied": False, "bias": False, "activation": "relu"},
        {"norm_placement": "post", "tied": False},
        LLAMA,
        {**LLAMA, "n_heads": 4, "n_kv_heads": 2, "d_head": 10, "rope_pairing": "interleaved", "tied": False},
        {**LLAMA, "qk_norm": True, "bias": True, "norm_placement": "post"},
        {"activation": "gelu_exact", "n_kv_heads": 1, "qk_norm": True},
    ):
        config, described = _config(**changes), _described(changes) or ", as GPT-2"
        yield _model_case(f"model{described}", config, micro_batch=B)
        if changes in ({}, LLAMA):
            yield _model_case(f"model{described}, one sequence at a time", config, micro_batch=1)


def _model_case(name: str, config: ModelConfig, micro_batch: int) -> Case:
    def model(a: Arrays) -> GPT:
        named = shapes(config)
        flat = np.concatenate([a[name].ravel() for name in named])
        return GPT(config, parameters=Parameters(named, flat.dtype, flat))

    def backward(dy: Array, cache: Any, a: Arrays) -> Arrays:
        """Micro-batches that add up, in memory that is used again."""
        gpt, ws, count = model(a), Workspace(), head.count_targets(a["targets"])
        g = gpt.parameters.like()
        g.flat.fill(np.nan)
        for start in range(0, B, micro_batch):
            rows = slice(start, start + micro_batch)
            gpt.loss_and_grads(a["tokens"][rows], a["targets"][rows], out=g, add=start > 0, count=count, ws=ws)
        return {name: array * dy for name, array in g.items()}

    return Case(
        name,
        shapes(config),
        lambda a: (model(a).loss(a["tokens"], a["targets"]), None),
        backward,
        lambda torch, a: torch.loss(a["tokens"], a["targets"], a, config),
        mask="causal",
        tokens={"tokens": (B, T), "targets": (B, T)},
    )


def ladder() -> list[Case]:
    """Every case, from the smallest to the largest."""
    return [*operations(), *attentions(), *blocks(), *models()]
