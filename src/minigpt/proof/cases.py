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

from minigpt.np import attention, block, head, ops
from minigpt.np.config import ModelConfig
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


def _simple(name: str, shapes: Mapping[str, tuple[int, ...]], **more: Any) -> Case:
    """An operation whose arguments are its inputs, and whose backward returns one gradient for each."""
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")

    def gradients(dy: Array, cache: Any, inputs: Arrays) -> Arrays:
        grads = backward(dy, cache)
        return dict(zip(shapes, grads if isinstance(grads, tuple) else (grads,), strict=False))

    return Case(name, shapes, lambda a: forward(**a), gradients, lambda torch, a: getattr(torch, name)(**a), **more)


def operations() -> Iterator[Case]:
    """Floor one: single operations."""
    yield _simple("linear", {"x": (7, D), "weight": (D, F), "bias": (F,)})
    yield _simple("linear", {"x": (7, D), "weight": (D, F)}, mask="no bias")
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
        lambda a: ops.positions(a["x"].copy(), a["weight"], start=1),
        lambda dy, cache, a: {"x": dy, "weight": ops.positions_backward(dy, cache)},
        lambda torch, a: torch.positions(a["x"], a["weight"], start=1),
    )
    yield _simple("softmax", {"x": (7, V)})
    yield _simple("layer_norm", {"x": (7, D), "gamma": (D,), "beta": (D,)})
    yield _simple("relu", {"x": (7, F)})
    yield _simple("gelu", {"x": (7, F)})
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
        lambda a: (head.head_loss(a["x"], a["weight"], a["targets"], head.count_targets(a["targets"])), None),
        _head_backward,
        lambda torch, a: torch.cross_entropy(torch.linear(a["x"], a["weight"].T), a["targets"]),
        tokens={"targets": (12,)},
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
    """Floor two: attention on heads that are given, with 3 and 4 dimensions and with earlier keys; and with its projections."""
    for causal in (False, True):
        for leading, earlier in (((B,), 0), ((2, H), 0), ((2, H), 5)):
            yield _attention_case(leading, earlier, causal)
        for bias in (True, False):
            yield _multi_head_attention_case(bias, causal)


def _attention_case(leading: tuple[int, ...], earlier: int, causal: bool) -> Case:
    q, kv = (*leading, T, 4), (*leading, T + earlier, 4)
    return Case(
        f"attention {len(q)}-D" + f", {earlier} earlier keys" * bool(earlier),
        {"q": q, "k": kv, "v": kv},
        lambda a: attention.attention(a["q"], a["k"], a["v"], causal),
        lambda dy, cache, a: dict(zip("qkv", attention.attention_backward(dy, cache), strict=True)),
        lambda torch, a: torch.attention(a["q"], a["k"], a["v"], causal),
        mask=_mask_name(causal),
    )


def _multi_head_attention_case(bias: bool, causal: bool) -> Case:
    names = {"qkv.weight": (D, 3 * D), "qkv.bias": (3 * D,), "out.weight": (D, D), "out.bias": (D,)}
    return Case(
        "multi-head attention" + ", no bias" * (not bias),
        {"x": (B, T, D)} | {name: shape for name, shape in names.items() if bias or "bias" not in name},
        lambda a: attention.multi_head_attention(a["x"], a, H, causal),
        _layer_backward(attention.multi_head_attention_backward),
        lambda torch, a: torch.multi_head_attention(a["x"], a, H, causal),
        mask=_mask_name(causal),
    )


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
    for activation in ("gelu", "relu"):
        yield _feed_forward_case(activation)
    for placement in ("pre", "post"):
        for causal in (False, True):
            yield _block_case(_config(norm_placement=placement), causal)


def _feed_forward_case(activation: str) -> Case:
    return Case(
        f"feed-forward, {activation}",
        {"x": (B, T, D), "up.weight": (D, F), "up.bias": (F,), "down.weight": (F, D), "down.bias": (D,)},
        lambda a: block.feed_forward(a["x"], a, activation),
        _layer_backward(block.feed_forward_backward),
        lambda torch, a: torch.feed_forward(a["x"], a, activation),
    )


def _block_case(config: ModelConfig, causal: bool) -> Case:
    return Case(
        f"block, {config.norm_placement}-norm",
        {"x": (B, T, D)} | _block_shapes(config),
        lambda a: block.block(a["x"], _parameters(a, config), config, causal, Workspace()),
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
    ):
        config = _config(**changes)
        described = ", ".join(f"{name} {value}".lower() for name, value in changes.items()) or "as GPT-2"
        yield _model_case(f"model, {described}", config, micro_batch=B)
        if not changes:
            yield _model_case("model, one sequence at a time", config, micro_batch=1)


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
