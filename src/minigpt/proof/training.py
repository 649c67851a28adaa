"""The checks of training: clipping, AdamW, one training step and a loss curve, each compared with PyTorch."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters
from minigpt.np.workspace import Array
from minigpt.proof.checks import CURVE_TOLERANCE, TOLERANCE, Check, errors
from minigpt.proof.inputs import draw
from minigpt.training.optimizer import AdamW, clip_scale
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.schedule import learning_rate

Named = Mapping[str, Any]
CONFIG = ModelConfig(vocab_size=29, context_length=16, d_model=24, n_layers=2, n_heads=3, d_ff=40)
OPTIMIZER = AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1)
# AdamW divides a gradient by its own magnitude. Where the gradient is rounding noise (the bias of a key), both implementations
# would take full steps in random directions. A larger epsilon makes these steps small, and hardly changes the others.
LARGE_EPSILON = replace(OPTIMIZER, epsilon=1e-5)
MAX_NORM = 1.0


def training_checks() -> Iterator[tuple[str, Iterator[Check]]]:
    """Yield the checks of each rung of training, in float64 and float32."""
    dtypes = (np.float64, np.float32)
    yield "optimizer", (check(dtype) for dtype in dtypes for check in (check_clip, check_adamw))
    yield "training step", (check_training("training step", 1, dtype) for dtype in dtypes)
    yield "loss curve", (check_training("loss curve, 200 steps", 200, dtype) for dtype in dtypes)


def check_clip(dtype: DTypeLike) -> Check:
    """Compare the norm of a gradient, and the gradient after clipping."""
    from minigpt.np import torch_primitives

    grads = _noise(dtype, seed=1)
    with DataParallel(GPT(CONFIG, parameters=_noise(dtype, seed=0)), threads=2) as workers:
        workers.grads.flat[...] = grads.flat
        norm = workers.sum_gradients()
    ours = {name: array * clip_scale(norm, MAX_NORM) for name, array in grads.items()}
    their_norm, theirs = torch_primitives.clip(grads, MAX_NORM)
    return _check("clip", dtype, ours | {"norm": norm}, theirs | {"norm": their_norm}, TOLERANCE)


def check_adamw(dtype: DTypeLike, steps: int = 5) -> Check:
    """Compare the parameters after updates with random gradients."""
    from minigpt.np import torch_primitives

    model = GPT(CONFIG, parameters=_noise(dtype, seed=0))
    initial = {name: array.copy() for name, array in model.parameters.items()}
    grads = [_noise(dtype, seed=i + 1) for i in range(steps)]
    with DataParallel(model, threads=2) as workers:
        for i, g in enumerate(grads):
            workers.grads.flat[...] = g.flat
            workers.update(OPTIMIZER, 0.01, i + 1, 1.0)
    theirs = torch_primitives.adamw_steps(initial, grads, 0.01, asdict(OPTIMIZER))
    return _check(f"AdamW, {steps} updates", dtype, model.parameters, theirs, TOLERANCE)


def check_training(name: str, steps: int, dtype: DTypeLike) -> Check:
    """Train from the same parameters on the same batches. Compare the loss of each step, and after one step the parameters."""
    from minigpt.np import torch_primitives

    model = GPT(CONFIG, seed=1, dtype=dtype)
    rng = np.random.default_rng(2)
    if steps == 1:  # initial values of 0 and 1 would hide errors
        for parameter, array in model.parameters.items():
            array[...] = draw(rng, parameter, array.shape)
    initial = {parameter: array.copy() for parameter, array in model.parameters.items()}
    batches = [_batch(step) for step in range(1, steps + 1)]
    lrs = [learning_rate(step, steps, 3e-3, warmup=20) for step in range(1, steps + 1)]
    ours = _train(model, batches, lrs)
    theirs, their_parameters = torch_primitives.train(initial, CONFIG, batches, lrs, MAX_NORM, asdict(LARGE_EPSILON))
    if steps == 1:
        return _check(name, dtype, {**model.parameters, "loss": ours}, {**their_parameters, "loss": theirs}, TOLERANCE)
    curve, their_curve = ({f"step {i + 1}": loss for i, loss in enumerate(losses)} for losses in (ours, theirs))
    return _check(name, dtype, curve, their_curve, CURVE_TOLERANCE)


def _train(model: GPT, batches: list[tuple[Array, Array]], lrs: list[float]) -> list[float]:
    losses = []
    with DataParallel(model, threads=2, micro_batch=2) as workers:
        for i, ((tokens, targets), lr) in enumerate(zip(batches, lrs, strict=True)):
            loss, norm = workers.loss_and_grads(tokens, targets)
            workers.update(LARGE_EPSILON, lr, i + 1, clip_scale(norm, MAX_NORM))
            losses.append(loss)
    return losses


def _batch(step: int) -> tuple[Array, Array]:
    """Return sequences with a pattern that can be learned: each token is the one before it plus 1, 2 or 3."""
    rng = np.random.default_rng(step)
    rows = (rng.integers(1, 4, (6, CONFIG.context_length + 1)).cumsum(axis=1) + rng.integers(0, 29)) % CONFIG.vocab_size
    return rows[:, :-1], rows[:, 1:]


def _noise(dtype: DTypeLike, seed: int) -> Parameters:
    p = GPT(CONFIG, dtype=dtype).parameters
    p.flat[...] = np.random.default_rng(seed).standard_normal(p.flat.size)
    return p


def _check(name: str, dtype: DTypeLike, ours: Named, theirs: Named, tolerance: dict[str, float]) -> Check:
    dtype_name, mask = np.dtype(dtype).name, "causal" if "step" in name else ""
    return Check(name, mask, dtype_name, "PyTorch", *errors(ours, theirs), tolerance[dtype_name])
