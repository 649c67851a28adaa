"""Checkpoints: weights and training state apart, each folder written whole or not at all, and checked when it is read.

A folder holds model.safetensors (weights, with their configuration), optimizer.safetensors (both moments of AdamW), state.json,
and SHA256SUMS, which `sha256sum --check` reads, too.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from minigpt.data.atomic import naming, sha256, sync
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, shapes
from minigpt.train.folder import RunFolder
from minigpt.train.optimizer import Moments

MODEL, OPTIMIZER, STATE, SUMS = "model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"
DAMAGED = "damaged-"


@dataclass
class State:
    """How far a training is. The data and dropout of a step follow from the seed and its number: there is no more to know."""

    step: int = 0
    elapsed_s: float = 0.0
    val_loss: float | None = None  # of these very weights, if it was measured
    best_val_loss: float | None = None
    tokens: int = 0  # seen so far
    skipped: int = 0  # steps without an update, because a gradient was not finite


def save(run: RunFolder, model: GPT, moments: Moments, state: State) -> Path:
    """Write checkpoints/step-000123. Raises `OSError`, leaving nothing behind, where there is no room."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    final = run.checkpoints / f"step-{state.step:06d}"
    temporary = run.checkpoints / f".{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming(final):
            temporary.mkdir(parents=True)
            save_model(model, temporary / MODEL)
            tensors = {f"{kind}.{name}": array for kind, p in zip("mv", moments, strict=True) for name, array in p.items()}
            save_file(tensors, temporary / OPTIMIZER)
            (temporary / STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
            _write_sums(temporary)
            run.sync_records()  # no checkpoint may be younger than the lines of its steps
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
            sync(run.checkpoints)
    except SafetensorError as error:
        raise OSError(f"{final} cannot be written: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def save_model(model: GPT, path: Path) -> None:
    """Write a model's weights, with its configuration, to the file `path`."""
    from safetensors.numpy import save_file

    save_file(dict(model.parameters), path, {"config": json.dumps(asdict(model.config))})


def checkpoints(run: RunFolder) -> list[Path]:
    """The folders of a run's checkpoints, oldest first."""
    return sorted(run.checkpoints.glob("step-*"), key=lambda path: (len(path.name), path.name))  # beyond 999,999, too


def check(checkpoint: Path, names: Iterable[str] = (MODEL, OPTIMIZER, STATE)) -> None:
    """Raises `ValueError` for files that are missing or not what was written.

    Weights alone may be without SHA256SUMS, and are not checked then.
    """
    names = list(names)
    try:
        lines = (checkpoint / SUMS).read_text(encoding="utf-8").splitlines()
        sums = dict(line.split("  ", 1)[::-1] for line in lines)
    except FileNotFoundError:
        if names == [MODEL]:
            return
        raise ValueError(f"{checkpoint / SUMS} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint / SUMS} is damaged: {error}") from None
    for name in names:
        try:
            found = sha256(checkpoint / name)
        except OSError as error:
            raise ValueError(f"{checkpoint / name} cannot be read: {error.strerror}") from None
        if sums.get(name) != found:
            raise ValueError(f"{checkpoint / name} is damaged: it has not the checksum in {SUMS}")


def newest_whole(run: RunFolder, names: Iterable[str] = (MODEL, OPTIMIZER, STATE)) -> Path | None:
    """The newest checkpoint whose files are whole, with a warning for each newer one; None where there is no checkpoint.

    Raises `ValueError` if there are some, but none is whole.
    """
    found = checkpoints(run)
    for path in reversed(found):
        try:
            check(path, names)
        except ValueError as error:
            warnings.warn(f"{error}; trying the checkpoint before it", stacklevel=2)
        else:
            return path
    if found:
        raise ValueError(f"none of the checkpoints in {run.checkpoints} is whole")
    return None


def set_aside_after(run: RunFolder, step: int) -> None:
    """Rename checkpoints of later steps, which were found damaged: a resumed run will write these steps again."""
    for path in checkpoints(run):
        if _step_of(path) > step:
            shutil.rmtree(path.with_name(DAMAGED + path.name), ignore_errors=True)
            path.rename(path.with_name(DAMAGED + path.name))


def thin_out(run: RunFolder, keep: int) -> None:
    """Delete all checkpoints but the newest `keep` and, of those that are whole, the one with the best validation loss."""
    every = checkpoints(run)
    measured = {path: loss for path in every if (loss := _val_loss(path)) is not None}
    ranking = sorted(measured, key=lambda path: measured[path])
    best = next((path for path in ranking if path in every[-keep:] or _whole(path)), None)
    for path in every[:-keep]:
        if path != best:
            shutil.rmtree(path)


def _whole(checkpoint: Path) -> bool:
    try:
        check(checkpoint)
    except ValueError:
        return False
    return True


def load_state(checkpoint: Path) -> State:
    """How far a checkpoint's training was."""
    path = checkpoint / STATE
    try:
        state = State(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {_one_line(error)}") from None
    for field in fields(State):
        kinds = get_args(field.type) or (field.type,)
        if type(value := getattr(state, field.name)) not in kinds:
            raise ValueError(f"{path} cannot be read: {field.name} is {value!r}")
    return state


def load_moments(checkpoint: Path, moments: Moments) -> None:
    """Read the moments of AdamW into `moments`."""
    path = checkpoint / OPTIMIZER
    tensors = _tensors(path)[0]
    for kind, p in zip("mv", moments, strict=True):
        _fill(p, {name: tensors.get(f"{kind}.{name}") for name in p}, path)


def load_model(path: Path) -> GPT:
    """A model from a file model.safetensors, which carries its configuration."""
    tensors, metadata = _tensors(path)
    config = _config(metadata, path)
    # Before there is memory for a model of any size; of one with more blocks than there are tensors, a block is missing.
    _check_shapes(shapes(replace(config, n_layers=min(config.n_layers, len(tensors) + 1))), tensors, path)
    p = Parameters(shapes(config), np.float32)
    _fill(p, tensors, path)
    return GPT(config, parameters=p)


def load_config(path: Path) -> ModelConfig:
    """The configuration in a file model.safetensors, without its weights."""
    return _config(_tensors(path, only=())[1], path)


def newest(path: Path) -> Path:
    """A run's newest checkpoint with whole weights; a checkpoint's folder is taken as it is, if its weights are whole."""
    if (path / MODEL).exists():
        check(path, [MODEL])
        return path
    found = newest_whole(RunFolder(path), [MODEL])
    if found is None:
        raise ValueError(f"{path} holds no checkpoint: expected a run's folder with checkpoints/step-*/{MODEL}")
    return found


def _write_sums(folder: Path) -> None:
    """Write SHA256SUMS, and have everything in the folder on the disk."""
    sums = "".join(f"{sha256(folder / name)}  {name}\n" for name in (MODEL, OPTIMIZER, STATE))
    (folder / SUMS).write_text(sums, encoding="utf-8", newline="\n")
    for path in (*folder.iterdir(), folder):
        sync(path)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _val_loss(checkpoint: Path) -> float | None:
    try:
        return load_state(checkpoint).val_loss
    except ValueError:
        return None  # one that is damaged is not the best


def _config(metadata: dict[str, str], path: Path) -> ModelConfig:
    try:
        return ModelConfig(**json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not say which model it is: {_one_line(error)}") from None


def _tensors(path: Path, only: Sequence[str] | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys() if only is None else only
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:  # the last three: NumPy lacks it
        raise ValueError(f"{path} cannot be read: {_one_line(error)}") from None


def _fill(p: Parameters, tensors: dict[str, Any], path: Path) -> None:
    _check_shapes(p.shapes, tensors, path)
    for name, array in p.items():
        array[...] = tensors[name]


def _check_shapes(expected: dict[str, tuple[int, ...]], tensors: dict[str, Any], path: Path) -> None:
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != shape:
            found = "nothing" if tensor is None else f"shape {tensor.shape}"
            raise ValueError(f"{path}: {name} should have shape {shape}, found {found}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).splitlines())
