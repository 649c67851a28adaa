"""Checkpoints: weights and training state apart, as safetensors, each folder written whole or not at all."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, shapes
from minigpt.train.folder import RunFolder

MODEL = "model.safetensors"
FACTS = ("step", "elapsed_s", "val_loss", "best_val_loss", "tokens")  # of a State, in state.json


@dataclass
class State:
    """What training needs beside the weights to go on: the moments of AdamW, and how far it is."""

    m: Parameters
    v: Parameters
    step: int = 0
    elapsed_s: float = 0.0
    val_loss: float | None = None  # of these very weights, if it was measured
    best_val_loss: float | None = None
    tokens: int = 0  # seen so far


def save(run: RunFolder, model: GPT, state: State) -> Path:
    """Write checkpoints/step-000123: model.safetensors, optimizer.safetensors and state.json."""
    from safetensors.numpy import save_file

    final = run.checkpoints / f"step-{state.step:06d}"
    temporary = run.checkpoints / f".{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_model(model, temporary / MODEL)
    moments = {f"{kind}.{name}": array for kind, p in (("m", state.m), ("v", state.v)) for name, array in p.items()}
    save_file(moments, temporary / "optimizer.safetensors")
    facts = {name: getattr(state, name) for name in FACTS}
    (temporary / "state.json").write_text(json.dumps(facts), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    return final


def save_model(model: GPT, path: Path) -> None:
    """Write a model's weights, with its configuration, to the file `path`."""
    from safetensors.numpy import save_file

    save_file(dict(model.parameters), path, {"config": json.dumps(asdict(model.config))})


def checkpoints(run: RunFolder) -> list[Path]:
    """The folders of a run's checkpoints, oldest first."""
    return sorted(run.checkpoints.glob("step-*"), key=lambda path: (len(path.name), path.name))  # beyond 999,999, too


def thin_out(run: RunFolder, keep: int = 1) -> None:
    """Delete all checkpoints but the newest `keep` and the one with the best validation loss."""
    every = checkpoints(run)
    measured = {path: loss for path in every if (loss := _facts(path)["val_loss"]) is not None}
    best = min(measured, key=lambda path: measured[path], default=None)
    for path in every[:-keep]:
        if path != best:
            shutil.rmtree(path)


def load_state(checkpoint: Path, m: Parameters, v: Parameters) -> State:
    """The training state beside a model's weights; the moments are read into m and v."""
    facts = _facts(checkpoint)
    tensors = _tensors(checkpoint / "optimizer.safetensors")[0]
    for kind, p in (("m", m), ("v", v)):
        _fill(p, {name: tensors.get(f"{kind}.{name}") for name in p}, checkpoint / "optimizer.safetensors")
    return State(m, v, **facts)


def load_model(path: Path) -> GPT:
    """A model from a file model.safetensors, which carries its configuration."""
    tensors, metadata = _tensors(path)
    config = _config(metadata, path)
    p = Parameters(shapes(config), np.float32)
    _fill(p, tensors, path)
    return GPT(config, parameters=p)


def load_config(path: Path) -> ModelConfig:
    """The configuration in a file model.safetensors, without its weights."""
    return _config(_tensors(path, only=())[1], path)


def newest(path: Path) -> Path:
    """A run's newest checkpoint; a checkpoint's folder is taken as it is."""
    if (path / MODEL).exists():
        return path
    found = checkpoints(RunFolder(path))
    if not found:
        raise ValueError(f"{path} holds no checkpoint: expected a run's folder with checkpoints/step-*/model.safetensors")
    return found[-1]


def _facts(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "state.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: content[name] for name in FACTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _config(metadata: dict[str, str], path: Path) -> ModelConfig:
    try:
        return ModelConfig(**json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say which model it is: {error}") from None


def _tensors(path: Path, only: Sequence[str] | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys() if only is None else only
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _fill(p: Parameters, tensors: dict[str, Any], path: Path) -> None:
    for name, array in p.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != array.shape:
            found = "nothing" if tensor is None else f"shape {tensor.shape}"
            raise ValueError(f"{path}: {name} should have shape {array.shape}, found {found}")
        array[...] = tensor
