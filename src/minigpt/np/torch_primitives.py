"""The same operations in PyTorch, with its kernels and autograd, as a reference for minigpt.

Each function has the name, the arguments and the shapes of its NumPy counterpart. This module is used by proof/ and the tests
only.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import _muon

from minigpt.np.config import ModelConfig
from minigpt.np.workspace import Array

Tensors = Mapping[str, Tensor]
Coefficients = Sequence[tuple[float, float, float]]
Watch = Callable[[str, Tensor], None]
"Called with the name and the value of each intermediate tensor."


def unwatched(name: str, x: Tensor) -> None:
    """Do nothing."""


def with_name_prefix(watch: Watch, prefix: str) -> Watch:
    """Return a watch that adds a prefix to the names."""
    return lambda name, x: watch(prefix + name, x)


def gradients(
    function: Callable[[dict[str, Tensor]], Tensor], inputs: Mapping[str, Array], dy: Array
) -> tuple[Array, dict[str, Array]]:
    """Return y = function(inputs) and the gradient of sum(y * dy) with respect to each floating-point input, as arrays."""
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    leaves = {name: t.requires_grad_() for name, t in tensors.items() if t.is_floating_point()}
    y = function(tensors)
    y.backward(torch.tensor(dy, dtype=y.dtype))
    return y.detach().numpy(), {name: _grad(leaf) for name, leaf in leaves.items()}


def _grad(leaf: Tensor) -> Array:
    return np.zeros(leaf.shape, leaf.detach().numpy().dtype) if leaf.grad is None else leaf.grad.numpy()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W + b.  PyTorch's weights are transposed: (outputs, inputs)."""
    return F.linear(x, weight.T, bias)


def embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """See `ops.embedding`."""
    return F.embedding(tokens, weight)


def position_embedding(x: Tensor, weight: Tensor, positions: slice) -> Tensor:
    """See `positions.position_embedding`."""
    return x + weight[positions]


def rope(x: Tensor, theta: float, pairing: str, start: int = 0) -> Tensor:
    """Rotate each pair of columns, as a complex number, by multiplying it with exp(i * angle).

    `start` is the position of the first row.
    """
    T, d = x.shape[-2:]
    angle = torch.outer(torch.arange(start, start + T), theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d))
    rotation = torch.polar(torch.ones_like(angle), angle).to(torch.complex64 if x.dtype == torch.float32 else torch.complex128)
    a, b = (x[..., : d // 2], x[..., d // 2 :]) if pairing == "half" else (x[..., ::2], x[..., 1::2])
    rotated = torch.complex(a, b) * rotation
    parts = (rotated.real, rotated.imag)
    return torch.cat(parts, -1) if pairing == "half" else torch.stack(parts, -1).flatten(-2)


def softmax(x: Tensor) -> Tensor:
    """See `ops.softmax`."""
    return F.softmax(x, dim=-1)


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float = 1e-5) -> Tensor:
    """See `norms.layer_norm`."""
    return F.layer_norm(x, (x.shape[-1],), gamma, beta, epsilon)


def rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-5) -> Tensor:
    """See `norms.rms_norm`."""
    return F.rms_norm(x, (x.shape[-1],), gamma, epsilon)


def norm(x: Tensor, p: Tensors, prefix: str, config: ModelConfig) -> Tensor:
    """See `norms.norm`."""
    if config.norm == "rms":
        return rms_norm(x, p[prefix + "gamma"], config.norm_epsilon)
    return layer_norm(x, p[prefix + "gamma"], p[prefix + "beta"], config.norm_epsilon)


def relu(x: Tensor) -> Tensor:
    """See `activations.relu`."""
    return F.relu(x)


def relu_squared(x: Tensor) -> Tensor:
    """See `activations.relu_squared`."""
    return F.relu(x) ** 2


def gelu(x: Tensor) -> Tensor:
    """See `activations.gelu`."""
    return F.gelu(x, approximate="tanh")


def gelu_exact(x: Tensor) -> Tensor:
    """See `activations.gelu_exact`."""
    return F.gelu(x)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """See `activations.swiglu`."""
    return F.silu(gate) * up


def dropout(x: Tensor, mask: Tensor) -> Tensor:
    """See `ops.dropout`. The mask is an argument, because PyTorch's random generator would draw a different one."""
    return x * mask


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """See `loss.cross_entropy`."""
    return F.cross_entropy(logits, targets)


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, watch: Watch = unwatched) -> Tensor:
    """See `attention.attention`. If there are more keys than queries, the last query is aligned with the last key."""
    T, S = q.shape[-2], k.shape[-2]
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T) if causal else None
    if watch is not unwatched:
        scores = q @ k.mT / q.shape[-1] ** 0.5
        watch("scores", scores)
        weights = softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf))
        watch("weights", weights)
        return weights @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def multi_head_attention(x: Tensor, p: Tensors, config: ModelConfig, causal: bool = True, watch: Watch = unwatched) -> Tensor:
    """See `multi_head_attention.multi_head_attention`."""
    B, T, _ = x.shape
    H, K, d = config.n_heads, config.n_kv_heads, config.d_head
    qkv = linear(x, p["qkv.weight"], p.get("qkv.bias"))
    q, k, v = (z.view(B, T, -1, d).transpose(1, 2) for z in qkv.split([H * d, K * d, K * d], dim=2))
    _watch_all(watch, queries=q, keys=k, values=v)
    if config.qk_norm:
        q, k = norm(q, p, "q_norm.", config), norm(k, p, "k_norm.", config)
        _watch_all(watch, q_norm=q, k_norm=k)
    if config.positions == "rope":
        q, k = (rope(z, config.rope_theta, config.rope_pairing) for z in (q, k))
        _watch_all(watch, rotated_queries=q, rotated_keys=k)
    k, v = (z.repeat_interleave(H // K, dim=1) for z in (k, v))
    y = attention(q, k, v, causal, watch)
    watch("heads", y)
    return linear(y.transpose(1, 2).reshape(B, T, H * d), p["out.weight"], p.get("out.bias"))


def _watch_all(watch: Watch, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        watch(name, tensor)


def feed_forward(x: Tensor, p: Tensors, activation: str, watch: Watch = unwatched) -> Tensor:
    """See `block.feed_forward`."""
    hidden = linear(x, p["up.weight"], p.get("up.bias"))
    watch("up", hidden)
    if activation == "swiglu":
        gate = linear(x, p["gate.weight"], p.get("gate.bias"))
        watch("gate", gate)
        hidden = swiglu(gate, hidden)
    else:
        hidden = {"gelu": gelu, "gelu_exact": gelu_exact, "relu": relu, "relu_squared": relu_squared}[activation](hidden)
    watch("active", hidden)
    return linear(hidden, p["down.weight"], p.get("down.bias"))


def block(x: Tensor, p: Tensors, config: ModelConfig, causal: bool = True, watch: Watch = unwatched) -> Tensor:
    """See `block.block`."""

    def inner(name: str) -> Watch:
        return watch if watch is unwatched else with_name_prefix(watch, name + ".")

    def attention_branch(x: Tensor) -> Tensor:
        return multi_head_attention(x, with_prefix(p, "attention."), config, causal, inner("attention"))

    def feed_forward_branch(x: Tensor) -> Tensor:
        return feed_forward(x, with_prefix(p, "feed_forward."), config.activation, inner("feed_forward"))

    def residual(x: Tensor, name: str, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if config.norm_placement == "post":
            y = branch(x)
            watch(name, y)
            return norm(x + y, p, f"{name}_norm.", config)
        h = norm(x, p, f"{name}_norm.", config)
        watch(f"{name}_norm", h)
        y = branch(h)
        watch(name, y)
        return x + y

    x = residual(x, "attention", attention_branch)
    watch("residual_mid", x)
    x = residual(x, "feed_forward", feed_forward_branch)
    watch("residual_post", x)
    return x


def with_prefix(p: Tensors, prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, with the prefix removed."""
    return {name.removeprefix(prefix): tensor for name, tensor in p.items() if name.startswith(prefix)}


def logits(tokens: Tensor, p: Tensors, config: ModelConfig, watch: Watch = unwatched) -> Tensor:
    """Return the logits of the next token at each position.  tokens (B, T) -> (B, T, V)."""
    x = embedding(tokens, p["token_embedding"])
    watch("token_embedding", x)
    if config.positions == "learned":
        x = position_embedding(x, p["position_embedding"], slice(0, tokens.shape[1]))
    watch("embedding", x)
    for i in range(config.n_layers):
        inner = watch if watch is unwatched else with_name_prefix(watch, f"blocks.{i}.")
        x = block(x, with_prefix(p, f"blocks.{i}."), config, watch=inner)
    if config.norm_placement == "pre":
        x = norm(x, p, "final_norm.", config)
    watch("final_norm", x)
    y = x @ p["token_embedding" if config.tied else "head"].T
    watch("logits", y)
    return y


def loss(tokens: Tensor, targets: Tensor, p: Tensors, config: ModelConfig, watch: Watch = unwatched) -> Tensor:
    """Return the mean cross-entropy of the model, in nats per token."""
    return cross_entropy(logits(tokens, p, config, watch).flatten(0, 1), targets.flatten())


def trace(
    tokens: Array, targets: Array, p: Mapping[str, Array], config: ModelConfig
) -> tuple[float, dict[str, Array], dict[str, Array]]:
    """Return the loss, every intermediate tensor, and its gradient, which PyTorch keeps with `retain_grad`. See `GPT.trace`."""
    watched: dict[str, Tensor] = {}

    def watch(name: str, x: Tensor) -> None:
        x.retain_grad()
        watched[name] = x

    parameters = {name: torch.tensor(array).requires_grad_() for name, array in p.items()}
    value = loss(torch.tensor(tokens), torch.tensor(targets), parameters, config, watch)
    value.backward()
    return value.item(), {name: x.detach().numpy() for name, x in watched.items()}, {n: _grad(x) for n, x in watched.items()}


def clip(grads: Mapping[str, Array], max_norm: float) -> tuple[float, dict[str, Array]]:
    """Return the global norm of the gradients, and the clipped gradients."""
    tensors = {name: torch.zeros(array.shape, dtype=torch.tensor(array).dtype) for name, array in grads.items()}
    for name, tensor in tensors.items():
        tensor.grad = torch.tensor(grads[name])
    norm = torch.nn.utils.clip_grad_norm_(tensors.values(), max_norm)
    return float(norm), {name: _grad(tensor) for name, tensor in tensors.items()}


class Optimizer:
    """PyTorch's Muon or AdamW for each group of parameters.

    Muon receives the matrices as PyTorch stores them, (outputs, inputs), and those of queries, keys and values one by one.

    Parameters
    ----------
    p, config
        The parameters, which are updated in place with their gradients, and the configuration of their model.
    groups
        The peak learning rate and the arguments of minigpt's `Muon` or `AdamW`, by the name of the group.
    coefficients
        Those of each Newton-Schulz iteration. Without them, Muon runs PyTorch's own iterations.
    bfloat16
        Whether these run in bfloat16, as PyTorch's do, or in the precision of the gradient.
    """

    def __init__(
        self,
        p: Tensors,
        config: ModelConfig,
        groups: Mapping[str, Mapping[str, Any]],
        coefficients: Coefficients | None = None,
        bfloat16: bool = False,
    ) -> None:
        self._p, self._config, self._coefficients, self._bfloat16 = p, config, coefficients, bfloat16
        self._parts = {name: [torch.nn.Parameter(part) for part in self._split(name, t.detach())] for name, t in p.items()}
        leaves: dict[str, list[Tensor]] = {name: [] for name in groups}
        for name, parts in self._parts.items():
            leaves[_group_of(name, p[name])] += parts
        self._optimizers = [_rule(leaves[name], **groups[name]) for name in groups if leaves[name]]

    def step(self, lr: float) -> None:
        """Update all parameters. The learning rate of each group is `lr` times its peak."""
        for name, tensor in self._p.items():
            assert tensor.grad is not None, name
            for part, grad in zip(self._parts[name], self._split(name, tensor.grad), strict=True):
                part.grad = grad
        with self._newton_schulz():
            for optimizer in self._optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["peak_lr"]
                optimizer.step()

    def _split(self, name: str, x: Tensor) -> Sequence[Tensor]:
        """Return views of the matrices in a parameter or its gradient, (outputs, inputs). A vector remains."""
        queries, keys = self._config.n_heads * self._config.d_head, self._config.n_kv_heads * self._config.d_head
        return x.T.split([queries, keys, keys]) if name.endswith("qkv.weight") else [x.mT if x.ndim == 2 else x]

    def _newton_schulz(self) -> AbstractContextManager[Any]:
        """Return the context in which Muon orthogonalizes with the coefficients, or in the precision of the gradient."""
        coefficients = self._coefficients
        if coefficients:
            return patch.object(_muon, "_zeropower_via_newtonschulz", lambda x, *_: orthogonalize(x, coefficients))
        return nullcontext() if self._bfloat16 else patch.object(Tensor, "bfloat16", Tensor.clone)


def _group_of(name: str, tensor: Tensor) -> str:
    if name in ("token_embedding", "position_embedding"):
        return "embedding"
    return "head" if name == "head" else "vectors" if tensor.ndim == 1 else "matrices"


def _rule(leaves: list[Tensor], lr: float, weight_decay: float, **more: Any) -> torch.optim.Optimizer:
    """Return PyTorch's optimizer of a group for the arguments of minigpt's."""
    groups = [{"params": leaves, "peak_lr": lr, "weight_decay": weight_decay}]
    if "momentum" not in more:
        return torch.optim.AdamW(groups, betas=(more["beta1"], more["beta2"]), eps=more["epsilon"])
    scale = {"spectral": "original", "rms": "match_rms_adamw"}[more["scale"]]
    return torch.optim.Muon(groups, momentum=more["momentum"], ns_steps=more["iterations"], adjust_lr_fn=scale)


def orthogonalize(x: Tensor, coefficients: Coefficients, epsilon: float = 1e-7) -> Tensor:
    """Return what Newton-Schulz iterations with these coefficients compute: U p(S / norm) V^T, with x = U S V^T in float64.

    p is the composition of the polynomials a s + b s^3 + c s^5. See `muon.orthogonalize`.
    """
    U, s, Vt = torch.linalg.svd(x.double(), full_matrices=False)
    s = s / s.norm().clamp(min=epsilon)
    for a, b, c in coefficients:
        s = a * s + b * s**3 + c * s**5
    return ((U * s) @ Vt).to(x.dtype)


def update(p: Mapping[str, Array], grads: Sequence[Mapping[str, Array]], lrs: Sequence[float], **rules: Any) -> dict[str, Array]:
    """Return the parameters after one step of `Optimizer(p, **rules)` with each of the given gradients."""
    tensors = {name: torch.tensor(array) for name, array in p.items()}
    optimizer = Optimizer(tensors, **rules)
    for g, lr in zip(grads, lrs, strict=True):
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(g[name])
        optimizer.step(lr)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def train(
    p: Mapping[str, Array],
    batches: Sequence[tuple[Array, Array]],
    lrs: Sequence[float],
    max_norm: float,
    config: ModelConfig,
    **rules: Any,
) -> tuple[list[float], dict[str, Any]]:
    """Train on the given batches with `Optimizer(p, config, **rules)`. Return the loss of each step and the final parameters."""
    tensors = {name: torch.tensor(array).requires_grad_() for name, array in p.items()}
    optimizer = Optimizer(tensors, config, **rules)
    losses = []
    for (tokens, targets), lr in zip(batches, lrs, strict=True):
        step_loss = loss(torch.tensor(tokens), torch.tensor(targets), tensors, config)
        step_loss.backward()
        torch.nn.utils.clip_grad_norm_(tensors.values(), max_norm)
        optimizer.step(lr)
        for tensor in tensors.values():
            tensor.grad = None
        losses.append(step_loss.item())
    return losses, {name: tensor.detach().numpy() for name, tensor in tensors.items()}
