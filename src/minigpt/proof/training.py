"""The checks of training: clipping, updates, one training step and a loss curve, each compared with PyTorch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.config import QWEN3, ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, initialize
from minigpt.np.workspace import Array
from minigpt.proof.checks import CURVE_TOLERANCE, TOLERANCE, Check, errors
from minigpt.proof.inputs import draw
from minigpt.proof.orthogonalization import polynomials
from minigpt.training import recipe
from minigpt.training.adamw import AdamW
from minigpt.training.muon import Muon, Scale
from minigpt.training.optimizer import Group, Optimizer, clip_scale
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.schedule import learning_rate
from minigpt.training.settings import Settings

Named = Mapping[str, Any]


class Setup(NamedTuple):
    """The form of a model, and a function that returns its optimizer."""

    config: ModelConfig
    optimizer: Callable[[], Optimizer]


SIZES: dict[str, Any] = {"vocab_size": 29, "context_length": 16, "d_model": 24, "n_layers": 2, "n_heads": 3, "d_ff": 40}
CONFIG = ModelConfig(**SIZES)
DEFAULT_FORM = ModelConfig(**SIZES, **QWEN3, n_kv_heads=1)
ADAMW = AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1)
# AdamW divides a gradient by its own magnitude. Where the gradient is rounding noise (the bias of a key), both implementations
# would take full steps in random directions. A larger epsilon makes these steps small, and hardly changes the others.
LARGE_EPSILON = replace(ADAMW, epsilon=1e-5)


def adamw(lr: float, rule: AdamW = ADAMW) -> Optimizer:
    """Return AdamW for all parameters, as in the recipe of GPT-2."""
    return Optimizer.uniform(rule, lr)


def muon(scale: Scale) -> Optimizer:
    """Return Muon for the matrices and AdamW for the rest, with different learning rates."""
    rule = Muon(momentum=0.95, iterations=5, coefficients="jordan", scale=scale, weight_decay=0.1)
    rest = {name: adamw(lr).groups[name] for name, lr in (("embedding", 0.2), ("head", 0.05), ("vectors", 0.1))}
    return Optimizer({"matrices": Group(rule, 0.5), **rest})


def default() -> Optimizer:
    """Return the optimizer of the default recipe."""
    return recipe.optimizer(Settings())


UPDATES = {
    "AdamW": Setup(CONFIG, partial(adamw, 0.02)),
    "Muon": Setup(DEFAULT_FORM, partial(muon, "spectral")),
    "Muon, scale rms": Setup(DEFAULT_FORM, partial(muon, "rms")),
    "default optimizer": Setup(DEFAULT_FORM, default),
}
TRAININGS = {"GPT-2": Setup(CONFIG, partial(adamw, 3e-3, LARGE_EPSILON)), "default": Setup(DEFAULT_FORM, default)}
CURVE_STEPS = 100
MAX_NORM = 1.0


def training_checks() -> Iterator[tuple[str, Iterator[Check]]]:
    """Yield the checks of each rung of training, in float64 and float32."""
    dtypes = (np.float64, np.float32)
    yield "optimizer", (check for dtype in dtypes for check in _optimizer_checks(dtype))
    for rung, steps in (("training step", 1), ("loss curve", CURVE_STEPS)):
        yield rung, (check_training(name, steps, dtype) for dtype in dtypes for name in TRAININGS)


def _optimizer_checks(dtype: DTypeLike) -> Iterator[Check]:
    yield check_clip(dtype)
    yield from (check_updates(name, dtype) for name in UPDATES)


def check_clip(dtype: DTypeLike) -> Check:
    """Compare the norm of a gradient, and the gradient after clipping."""
    from minigpt.np import torch_primitives

    grads = _noise(CONFIG, dtype, seed=1)
    with DataParallel(GPT(CONFIG, parameters=_noise(CONFIG, dtype, seed=0)), threads=2) as workers:
        workers.grads.flat[...] = grads.flat
        norm = workers.sum_gradients()
    ours = {name: array * clip_scale(norm, MAX_NORM) for name, array in grads.items()}
    their_norm, theirs = torch_primitives.clip(grads, MAX_NORM)
    return _check("clip", dtype, ours | {"norm": norm}, theirs | {"norm": their_norm}, TOLERANCE)


def check_updates(name: str, dtype: DTypeLike, steps: int = 5, bfloat16: bool = False) -> Check:
    """Compare the parameters after updates with random gradients, each with a learning rate and a clip scale of its own.

    With jordan's coefficients, PyTorch's Muon runs its own iterations, in `bfloat16` or in the precision of the parameters.
    """
    from minigpt.np import torch_primitives

    config, make_optimizer = UPDATES[name]
    optimizer = make_optimizer()
    model = GPT(config, parameters=_noise(config, dtype, seed=0))
    initial = {parameter: array.copy() for parameter, array in model.parameters.items()}
    grads = [_noise(config, dtype, seed=i + 1) for i in range(steps)]
    scales, lrs = ([(1.0, 0.5, 2.0)[(i + shift) % 3] for i in range(steps)] for shift in (0, 1))
    with DataParallel(model, threads=2, optimizer=optimizer) as workers:
        for i, g in enumerate(grads):
            workers.grads.flat[...] = g.flat
            workers.update(lrs[i], i + 1, scales[i])
    scaled = [{parameter: array * scale for parameter, array in g.items()} for g, scale in zip(grads, scales, strict=True)]
    theirs = torch_primitives.update(initial, scaled, lrs, config=config, bfloat16=bfloat16, **_rules(optimizer))
    return _check(f"{name}, {steps} updates", dtype, model.parameters, theirs, TOLERANCE)


def check_training(name: str, steps: int, dtype: DTypeLike) -> Check:
    """Train from the same parameters on the same batches. Compare the loss of each step, and after one step the parameters."""
    from minigpt.np import torch_primitives

    config, make_optimizer = TRAININGS[name]
    optimizer = make_optimizer()
    model = GPT(config, parameters=initialize(config, 1, dtype, zero_outputs=name == "default"))
    rng = np.random.default_rng(2)
    if steps == 1:  # initial values of 0 and 1 would hide errors
        for parameter, array in model.parameters.items():
            array[...] = draw(rng, parameter, array.shape)
    initial = {parameter: array.copy() for parameter, array in model.parameters.items()}
    batches = [_batch(step) for step in range(1, steps + 1)]
    lrs = [learning_rate(step, steps, 1.0, warmup=min(20, steps)) for step in range(1, steps + 1)]
    ours = _train(model, optimizer, batches, lrs)
    theirs, their_parameters = torch_primitives.train(initial, batches, lrs, MAX_NORM, config, **_rules(optimizer))
    if steps == 1:
        all_ours, all_theirs = {**model.parameters, "loss": ours}, {**their_parameters, "loss": theirs}
        return _check(f"training step, {name}", dtype, all_ours, all_theirs, TOLERANCE)
    curve, their_curve = ({f"step {i + 1}": loss for i, loss in enumerate(losses)} for losses in (ours, theirs))
    return _check(f"loss curve, {steps} steps, {name}", dtype, curve, their_curve, CURVE_TOLERANCE)


def _rules(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer as PyTorch's reference takes it. Vectors do not decay.

    The coefficients of jordan are left to PyTorch, which has its own.
    """
    groups = {name: {"lr": group.lr, **asdict(group.rule)} for name, group in optimizer.groups.items()}
    groups["vectors"]["weight_decay"] = 0.0
    rule = optimizer.groups["matrices"].rule
    if not isinstance(rule, Muon) or rule.coefficients == "jordan":
        return {"groups": groups}
    return {"groups": groups, "coefficients": polynomials(rule.coefficients, rule.iterations)}


def _train(model: GPT, optimizer: Optimizer, batches: list[tuple[Array, Array]], lrs: list[float]) -> list[float]:
    losses = []
    with DataParallel(model, threads=2, micro_batch=2, optimizer=optimizer) as workers:
        for i, ((tokens, targets), lr) in enumerate(zip(batches, lrs, strict=True)):
            loss, norm = workers.loss_and_grads(tokens, targets)
            workers.update(lr, i + 1, clip_scale(norm, MAX_NORM))
            losses.append(loss)
    return losses


def _batch(step: int) -> tuple[Array, Array]:
    """Return sequences with a pattern that can be learned: each token is the one before it plus 1, 2 or 3."""
    rng = np.random.default_rng(step)
    rows = (rng.integers(1, 4, (6, CONFIG.context_length + 1)).cumsum(axis=1) + rng.integers(0, 29)) % CONFIG.vocab_size
    return rows[:, :-1], rows[:, 1:]


def _noise(config: ModelConfig, dtype: DTypeLike, seed: int) -> Parameters:
    p = GPT(config, dtype=dtype).parameters
    p.flat[...] = np.random.default_rng(seed).standard_normal(p.flat.size)
    return p


def _check(name: str, dtype: DTypeLike, ours: Named, theirs: Named, tolerance: dict[str, float]) -> Check:
    dtype_name, mask = np.dtype(dtype).name, "causal" if "step" in name else ""
    return Check(name, mask, dtype_name, "PyTorch", *errors(ours, theirs), tolerance[dtype_name])
