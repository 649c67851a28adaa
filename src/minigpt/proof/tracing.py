"""The checks of `GPT.trace`: every intermediate array and its gradient, patches, and what is computed from them.

The arrays and gradients are compared with those of PyTorch, which keeps the gradients with `retain_grad`, and the gradients with
differences of the loss that patches cause.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.config import LLAMA, QWEN3
from minigpt.np.loss import IGNORE_INDEX
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, shapes
from minigpt.np.trace import Trace
from minigpt.np.watch import Function, Patch
from minigpt.np.workspace import Array
from minigpt.proof.checks import DIFFERENCES_TOLERANCE, TOLERANCE, Check, errors, has_torch, small_blocks
from minigpt.proof.configs import B, T, V, config_with
from minigpt.proof.inputs import draw, draw_tokens

MODELS: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "Llama, 2 kv heads": {**LLAMA, "n_heads": 4, "n_kv_heads": 2, "d_head": 4},
    "Qwen 3, 1 kv head, interleaved": {**QWEN3, "n_kv_heads": 1, "rope_pairing": "interleaved"},
    "relu, untied": {"activation": "relu", "tied": False},
    "post-norm": {"norm_placement": "post"},
}
"The fields of each model that differ from GPT-2, by label."
STEP = 1e-4
PARAMETER_STEP = 1e-5  # smaller, because a change of all parameters would take some units of relu across zero


def trace_checks() -> Iterator[Check]:
    """Yield the checks of all models."""
    for label in MODELS:
        if has_torch():
            yield compare_with_torch(label, np.float64)
            yield compare_with_torch(label, np.float32)
        yield compare_with_differences(label)
        yield compare_patched_with_differences(label)
        yield check_sums(label)


def compare_with_torch(label: str, dtype: DTypeLike) -> Check:
    """Compare every array, and its gradient, with that of PyTorch."""
    from minigpt.np import torch_primitives

    model, tokens, targets = _setup(label, dtype)
    t = _trace(model, tokens, targets)
    loss, values, grads = torch_primitives.trace(tokens, targets, model.parameters, model.config)
    name = np.dtype(dtype).name
    of_values = errors({**t.values, "loss": t.loss}, {**values, "loss": loss})
    of_grads = errors(t.grad, grads)  # apart, because errors are also relative to the largest element of all arrays
    absolute, relative = np.max([of_values, of_grads], axis=0).tolist()  # unlike Python's max, NaN if there is one
    return Check(f"trace, {label}", "causal", name, "PyTorch", absolute, relative, TOLERANCE[name])


def compare_with_differences(label: str) -> Check:
    """Compare every gradient with the central difference of the loss when a patch adds a small array, in a random direction."""
    model, tokens, targets = _setup(label, np.float64)
    rng = np.random.default_rng(1)
    t = _trace(model, tokens, targets)
    derivatives, differences = {}, {}
    for name in t.names:
        u = _direction(rng, t[name].shape)
        above, below = (_trace(model, tokens, targets, {name: _then_add(None, h * u)}, False).loss for h in (STEP, -STEP))
        differences[name] = (above - below) / (2 * STEP)
        derivatives[name] = float(np.sum(t.grad[name] * u))
    return _differences_check(f"trace, {label}", derivatives, differences)


def compare_patched_with_differences(label: str) -> Check:
    """Compare gradients with central differences while a patch scales the elements of one array.

    These are the gradients with respect to the scaled array and to the parameters.
    """
    model, tokens, targets = _setup(label, np.float64)
    rng = np.random.default_rng(2)
    derivatives, differences = {}, {}
    flat = model.parameters.flat.copy()
    for name in _trace(model, tokens, targets, gradients=False).names:
        scale = _scale(rng)
        patch: dict[str, Patch] = {name: (scale, scale)}
        t = _trace(model, tokens, targets, patch)
        v = _direction(rng, t[name].shape)
        above, below = (_trace(model, tokens, targets, {name: _then_add(scale, h * v)}, False).loss for h in (STEP, -STEP))
        differences[f"{name} itself"] = (above - below) / (2 * STEP)
        derivatives[f"{name} itself"] = float(np.sum(t.grad[name] * v))
        grads, u = t.parameter_grads, _direction(rng, flat.shape)
        assert grads is not None
        losses = []
        for h in (PARAMETER_STEP, -PARAMETER_STEP):
            model.parameters.flat[...] = flat + h * u
            losses.append(_trace(model, tokens, targets, patch, False).loss)
        model.parameters.flat[...] = flat
        differences[name] = (losses[0] - losses[1]) / (2 * PARAMETER_STEP)
        derivatives[name] = float(grads.flat @ u)
    return _differences_check(f"patched, {label}", derivatives, differences)


def check_sums(label: str) -> Check:
    """Compare what is computed from a trace: the mean of the losses, the last logit lens, and the sum of an attribution."""
    model, tokens, targets = _setup(label, np.float64)
    t = _trace(model, tokens, targets)
    ours = {"losses": np.nanmean(t.losses), "logit lens": t.logit_lens()[-1], "at a position": t.logit_lens(3)[-1]}
    theirs = {"losses": t.loss, "logit lens": t["logits"], "at a position": t["logits"][:, 3]}
    if model.config.norm_placement == "pre":
        ours["attribution"] = np.array([sum(t.attribution(i, i, row=1).values()) for i in range(T)])
        theirs["attribution"] = t["logits"][1, range(T), range(T)]
    return Check(f"sums, {label}", "causal", "float64", "logits", *errors(ours, theirs), TOLERANCE["float64"])


def _setup(label: str, dtype: DTypeLike) -> tuple[GPT, Array, Array]:
    """Return a model with random parameters, tokens, and targets of which one is ignored."""
    config, rng = config_with(**MODELS[label]), np.random.default_rng(0)
    named = shapes(config)
    flat = np.concatenate([draw(rng, name, shape).ravel() for name, shape in named.items()]).astype(dtype)
    tokens, targets = (draw_tokens(rng, name, (B, T), V) for name in ("tokens", "targets"))
    targets[0, 0] = IGNORE_INDEX
    return GPT(config, parameters=Parameters(named, dtype, flat)), tokens, targets


def _trace(model: GPT, tokens: Array, targets: Array, patch: dict[str, Patch] | None = None, gradients: bool = True) -> Trace:
    with small_blocks():
        return model.trace(tokens, targets, patch=patch, gradients=gradients)


def _then_add(function: Function | None, u: Array) -> Function:
    """Return the function, followed by the addition of u."""
    return lambda x: (x if function is None else function(x)) + u


def _scale(rng: np.random.Generator) -> Function:
    """Return a function that multiplies each element of the last axis by a factor. It is its own backward pass."""
    seed = int(rng.integers(1 << 30))
    return lambda x: np.asarray(x * np.random.default_rng(seed).uniform(-1.5, 1.5, x.shape[-1]))


def _direction(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return a random array of norm 1."""
    u = rng.standard_normal(shape)
    return np.asarray(u / np.linalg.norm(u))


def _differences_check(name: str, derivatives: dict[str, float], differences: dict[str, float]) -> Check:
    return Check(name, "causal", "float64", "finite differences", *errors(derivatives, differences), DIFFERENCES_TOLERANCE)
