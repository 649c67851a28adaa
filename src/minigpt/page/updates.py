"""What one step of training with a text would do to a parameter: its moments and its next update."""

from typing import Any

import numpy as np

from minigpt.np.parameters import Moments
from minigpt.np.workspace import Array
from minigpt.page.arrays import as_matrix, matrix_part
from minigpt.page.traced import Traced, Tracer
from minigpt.runs.checkpoint import checkpoints, load_optimizer, load_state, step_of
from minigpt.training.muon import Muon
from minigpt.training.optimizer import clip_scale, pieces
from minigpt.training.recipe import optimizer, rate
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings


def update(tracer: Tracer, traced: Traced, name: str) -> dict[str, Any]:
    """Return the moments of a parameter at the step of the trace, and its update if the text were the next batch.

    Raises `ValueError` if there is no such parameter, or no checkpoint of the step: snapshots do not keep the moments.
    """
    t, run, step = traced.trace, tracer.subject.trained, traced.question.step
    if name not in t.parameters:
        raise ValueError(f"name is {name!r}, but must be that of a parameter")
    there = [] if run is None else checkpoints(run)
    folder = next((path for path in there if step_of(path) == step), None)
    if run is None or step is None or folder is None:
        steps = ", ".join(f"{step_of(path):,}" for path in there) or "none"
        raise ValueError(
            f"the moments of the optimizer are kept in checkpoints, and there are checkpoints of these steps: {steps}"
        )
    assert t.parameter_grads is not None
    s, g = Settings(**read_settings(run.config)), t.parameter_grads
    moments, skipped = Moments(g.zeros_like(), g.zeros_like()), load_state(folder).skipped
    load_optimizer(folder, moments)
    group, scale = optimizer(s).group(name), clip_scale(float(np.linalg.norm(g.flat)), s.clip)
    share = rate(s, min(step + 1, s.steps))  # after the last step, the rate is the last one
    is_muon = isinstance(group.rule, Muon)
    return {
        "rule": "Muon" if is_muon else "AdamW",
        "lr": share * group.lr,
        "clip": scale,
        "m": _shown(moments.m[name]),
        "v": None if is_muon else _shown(moments.v[name]),
        "update": _shown(_update(traced, name, moments, s, share, scale, step + 1 - skipped)),
    }


def _update(traced: Traced, name: str, moments: Moments, settings: Settings, share: float, scale: float, step: int) -> Array:
    """Return the change of a parameter."""
    t = traced.trace
    assert t.parameter_grads is not None
    found = optimizer(settings)
    p = t.parameters[name].copy()
    arrays = [t.parameter_grads[name].copy(), moments.m[name].copy(), moments.v[name].copy()]
    for piece in pieces(found, t.config, {name: p.shape}):
        g, m, v = (piece.view(x.reshape(-1)) for x in arrays)
        piece.group.rule.update(piece.view(p.reshape(-1)), g, m, v, share * piece.group.lr, step, scale)
    return np.asarray(p - t.parameters[name])


def _shown(x: Array) -> dict[str, Any]:
    matrix = as_matrix(x, 0)
    return matrix_part(matrix, (0, matrix.shape[0]), (0, matrix.shape[1])) | {"norm": float(np.linalg.norm(x))}
