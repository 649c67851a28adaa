"""The functions that are checked, each as a `Case`, from single operations to the whole model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np import activations, attention, block, lm_head, loss, multi_head_attention, norms, ops, positions
from minigpt.np.config import LLAMA, ModelConfig
from minigpt.np.context import Context
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, shapes
from minigpt.np.workspace import DEFAULT_WORKSPACE, Arena, Array, Workspace
from minigpt.proof.configs import BLOCKS, MODELS, MULTI_HEAD_ATTENTION, B, D, F, H, T, V, config_with
from minigpt.proof.inputs import draw, draw_tokens

Arrays = dict[str, Array]
Forward = Callable[[Arrays], tuple[Any, Any]]
Backward = Callable[[Array, Any, Arrays], Arrays]
TorchForward = Callable[[Any, dict[str, Any]], Any]


@dataclass(frozen=True)
class Case:
    """One function, its backward pass, and the same function in PyTorch."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    "Shapes of the differentiable inputs, by name."
    forward: Forward
    "inputs -> (y, cache)."
    backward: Backward
    "(dy, cache, inputs) -> the gradients of the differentiable inputs, by name."
    torch_forward: TorchForward
    "(torch_primitives, inputs as tensors) -> y."
    mask: str = ""
    "Whether attention is causal."
    tokens: Mapping[str, tuple[int, ...]] | None = None
    "Shapes of the integer inputs, by name."

    def __str__(self) -> str:
        return f"{self.name} {self.mask}".strip()

    def inputs(self, seed: int, dtype: DTypeLike) -> Arrays:
        """Draw the inputs."""
        rng = np.random.default_rng(seed)
        arrays = {name: draw(rng, name, shape).astype(dtype) for name, shape in self.shapes.items()}
        return arrays | {name: draw_tokens(rng, name, shape, V) for name, shape in (self.tokens or {}).items()}


def _operation(module: Any, name: str, shapes: Mapping[str, tuple[int, ...]], label: str = "") -> Case:
    """Return the case of an operation whose arguments are the inputs and whose backward pass returns their gradients."""
    forward, backward = getattr(module, name), getattr(module, f"{name}_backward")

    def gradients(dy: Array, cache: Any, inputs: Arrays) -> Arrays:
        grads = backward(dy, cache)
        return dict(zip(shapes, grads if isinstance(grads, tuple) else (grads,), strict=False))

    return Case(label or name, shapes, lambda a: forward(**a), gradients, lambda torch, a: getattr(torch, name)(**a))


def operations() -> Iterator[Case]:
    """Yield the cases of single operations."""
    yield _operation(ops, "linear", {"x": (7, D), "weight": (D, F), "bias": (F,)})
    yield _operation(ops, "linear", {"x": (7, D), "weight": (D, F)}, label="linear, no bias")
    yield Case(
        "embedding",
        {"weight": (V, D)},
        lambda a: ops.embedding(a["tokens"], a["weight"]),
        lambda dy, cache, a: {"weight": ops.embedding_backward(dy, cache)},
        lambda torch, a: torch.embedding(a["tokens"], a["weight"]),
        tokens={"tokens": (9,)},
    )
    yield Case(
        "position embedding",
        {"x": (B, T, D), "weight": (T + 2, D)},
        lambda a: positions.position_embedding(a["x"].copy(), a["weight"], slice(1, T + 1)),
        lambda dy, cache, a: {"x": dy, "weight": positions.position_embedding_backward(dy, cache)},
        lambda torch, a: torch.position_embedding(a["x"], a["weight"], slice(1, T + 1)),
    )
    for pairing in ("half", "interleaved"):
        yield _rope_case(pairing)
    yield _operation(ops, "softmax", {"x": (7, V)})
    yield _operation(norms, "layer_norm", {"x": (7, D), "gamma": (D,), "beta": (D,)})
    yield _operation(norms, "rms_norm", {"x": (7, D), "gamma": (D,)})
    for name in ("relu", "relu_squared", "gelu", "gelu_exact"):
        yield _operation(activations, name, {"x": (7, F)})
    yield _operation(activations, "swiglu", {"gate": (7, F), "up": (7, F)})
    yield Case(
        "dropout",
        {"x": (B, T, D)},
        lambda a: ops.dropout(a["x"].copy(), _mask(a["x"])),
        lambda dy, cache, a: {"x": ops.dropout_backward(dy, cache)},
        lambda torch, a: torch.dropout(a["x"], a["x"].new_tensor(_mask(a["x"].detach().numpy()))),
    )
    yield Case(
        "cross_entropy",
        {"logits": (9, V)},
        lambda a: loss.cross_entropy(a["logits"], a["targets"]),
        lambda dy, cache, a: {"logits": loss.cross_entropy_backward(cache, float(dy))},
        lambda torch, a: torch.cross_entropy(a["logits"], a["targets"]),
        tokens={"targets": (9,)},
    )
    yield Case(
        "LM head and loss",
        {"x": (12, D), "weight": (V, D)},
        lambda a: (lm_head.lm_head_loss(a["x"], a["weight"], a["targets"], lm_head.count_targets(a["targets"]))[0], None),
        _lm_head_backward,
        lambda torch, a: torch.cross_entropy(torch.linear(a["x"], a["weight"].T), a["targets"]),
        tokens={"targets": (12,)},
    )


def _rope_case(pairing: str) -> Case:
    def rotate(a: Arrays) -> tuple[Array, Any]:
        cos, sin = positions.rope_table(T + 2, 6, 100.0, pairing, a["x"].dtype)
        return positions.rope(a["x"], cos[2:], sin[2:], pairing)

    return Case(
        f"rope, {pairing}",
        {"x": (B, H, T, 6)},
        rotate,
        lambda dy, cache, a: {"x": positions.rope_backward(dy, cache)},
        lambda torch, a: torch.rope(a["x"], 100.0, pairing, start=2),
    )


def _mask(x: Array) -> Array:
    mask = ops.Dropout(0.4, seed=3, step=5).mask(1, x.shape, x.dtype)
    assert mask is not None
    return mask


def _lm_head_backward(dy: Array, cache: Any, a: Arrays) -> Arrays:
    dx, dweight = np.full_like(a["x"], np.nan), np.full_like(a["weight"], np.nan)
    lm_head.lm_head_loss_and_backward(a["x"], a["weight"], a["targets"], lm_head.count_targets(a["targets"]), dx, dweight)
    return {"x": dx * dy, "weight": dweight * dy}


def attentions() -> Iterator[Case]:
    """Yield the cases of attention, some with earlier keys or shared keys, and of multi-head attention."""
    for causal in (False, True):
        for leading, kv_leading, earlier in (
            ((B,), (B,), 0),
            ((2, H), (2, H), 0),
            ((2, H), (2, H), 5),
            ((2, H, 2), (2, H, 1), 0),
            ((2, H), (1, H), 3),
        ):
            yield _attention_case(leading, kv_leading, earlier, causal)
        for label, changes in MULTI_HEAD_ATTENTION.items():
            yield _multi_head_attention_case(f"multi-head attention{label}", config_with(**changes), causal)


def _attention_case(leading: tuple[int, ...], kv_leading: tuple[int, ...], earlier: int, causal: bool) -> Case:
    q, kv = (*leading, T, 4), (*kv_leading, T + earlier, 4)
    name = f"attention {len(q)}-D"
    if earlier:
        name += f", {earlier} earlier keys"
    if leading != kv_leading:
        name += ", shared keys"
    return Case(
        name,
        {"q": q, "k": kv, "v": kv},
        lambda a: attention.attention(a["q"], a["k"], a["v"], causal),
        lambda dy, cache, a: dict(zip("qkv", attention.attention_backward(dy, cache), strict=True)),
        lambda torch, a: torch.attention(a["q"], *(a[name].expand(*leading, T + earlier, 4) for name in "kv"), causal),
        mask=_mask_name(causal),
    )


def _multi_head_attention_case(name: str, config: ModelConfig, causal: bool) -> Case:
    prefix = "attention."
    named = {key.removeprefix(prefix): shape for key, shape in _block_shapes(config).items() if key.startswith(prefix)}

    def forward(a: Arrays) -> tuple[Array, Any]:
        return multi_head_attention.multi_head_attention(a["x"], a, _context(config, a["x"], causal))

    return Case(
        name,
        {"x": (B, T, D)} | named,
        forward,
        _layer_backward(multi_head_attention.multi_head_attention_backward, config),
        lambda torch, a: torch.multi_head_attention(a["x"], a, config, causal),
        mask=_mask_name(causal),
    )


def _context(config: ModelConfig, x: Array, causal: bool = True, ws: Workspace = DEFAULT_WORKSPACE) -> Context:
    rope = None
    if config.positions == "rope":
        rope = positions.rope_table(T, config.d_head, config.rope_theta, config.rope_pairing, x.dtype)
    return Context(config, ws, causal=causal, rope=rope)


def _mask_name(causal: bool) -> str:
    return "causal" if causal else "unmasked"


def _layer_backward(backward: Callable[..., Array], config: ModelConfig) -> Backward:
    """Adapt a backward pass that writes the gradients of its parameters to g. Gradients that are not written remain NaN."""

    def gradients(dy: Array, cache: Any, inputs: Arrays) -> Arrays:
        named = {name: array.shape for name, array in inputs.items() if name != "x"}
        g = Parameters(named, dy.dtype)
        g.flat.fill(np.nan)
        return {"x": backward(dy, cache, g, Context(config)), **g}

    return gradients


def blocks() -> Iterator[Case]:
    """Yield the cases of the feed-forward network and of transformer blocks."""
    for activation in ("gelu", "gelu_exact", "relu", "relu_squared", "swiglu"):
        yield _feed_forward_case(activation)
    for label, changes in BLOCKS.items():
        for placement in ("pre", "post"):
            for causal in (False, True):
                yield _block_case(f"block, {placement}-norm{label}", config_with(**changes, norm_placement=placement), causal)


def _feed_forward_case(activation: str) -> Case:
    config = config_with(activation=activation)
    gate = {"gate.weight": (D, F), "gate.bias": (F,)} if activation == "swiglu" else {}
    return Case(
        f"feed-forward, {activation}",
        {"x": (B, T, D), **gate, "up.weight": (D, F), "up.bias": (F,), "down.weight": (F, D), "down.bias": (D,)},
        lambda a: block.feed_forward(a["x"], a, Context(config)),
        _layer_backward(block.feed_forward_backward, config),
        lambda torch, a: torch.feed_forward(a["x"], a, activation),
    )


def _block_case(name: str, config: ModelConfig, causal: bool) -> Case:
    return Case(
        name,
        {"x": (B, T, D)} | _block_shapes(config),
        lambda a: block.block(a["x"], _parameters(a, config), _context(config, a["x"], causal, Arena())),
        _layer_backward(block.block_backward, config),
        lambda torch, a: torch.block(a["x"], a, config, causal),
        mask=_mask_name(causal),
    )


def _block_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    prefix = "blocks.0."
    return {name.removeprefix(prefix): shape for name, shape in shapes(config).items() if name.startswith(prefix)}


def _parameters(a: Arrays, config: ModelConfig) -> Parameters:
    """Return the inputs of a block as `Parameters`."""
    named = _block_shapes(config)
    return Parameters(named, a["x"].dtype, np.concatenate([a[name].ravel() for name in named]))


def models() -> Iterator[Case]:
    """Yield the cases of the loss of the whole model."""
    for label, changes in MODELS.items():
        config = config_with(**changes)
        yield _model_case(f"model, {label}", config, micro_batch=B)
        if changes in ({}, LLAMA):
            yield _model_case(f"model, {label}, in micro-batches", config, micro_batch=1)


def _model_case(name: str, config: ModelConfig, micro_batch: int) -> Case:
    def model(a: Arrays) -> GPT:
        named = shapes(config)
        flat = np.concatenate([a[name].ravel() for name in named])
        return GPT(config, parameters=Parameters(named, flat.dtype, flat))

    def backward(dy: Array, cache: Any, a: Arrays) -> Arrays:
        """Accumulate the gradients of micro-batches, in an arena."""
        gpt, ws, count = model(a), Arena(), lm_head.count_targets(a["targets"])
        g = gpt.parameters.zeros_like()
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


RUNGS: dict[str, Callable[[], Iterator[Case]]] = {
    "operations": operations,
    "attention": attentions,
    "blocks": blocks,
    "model": models,
}
"The cases from the smallest to the largest, by the name of their rung of the ladder."


def all_cases() -> list[Case]:
    """Return the cases of all rungs."""
    return [case for cases in RUNGS.values() for case in cases()]
