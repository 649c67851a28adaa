"""Checkpoints: model weights and training state in one folder, which is written atomically and verified when it is read.

The folder holds model.safetensors (the weights and the model configuration), optimizer.safetensors (both moments of AdamW),
state.json, and SHA256SUMS, which `sha256sum --check` reads too.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_args

import numpy as np

from minigpt.data.atomic import filename_in_errors, fsync, sha256, unused_path
from minigpt.data.json_files import one_line, read_json_object
from minigpt.data.safetensors_files import StoredTensor, read_header
from minigpt.np.config import ModelConfig, upgrade_fields
from minigpt.np.model import GPT
from minigpt.np.parameters import Moments, Parameters, shapes
from minigpt.runs.folder import RunFolder

MODEL, OPTIMIZER, STATE, CHECKSUMS = "model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"
DAMAGED_PREFIX, REPLACED_PREFIX = "damaged-", "replaced-"
_NAME = re.compile("step-([0-9]{6}|[1-9][0-9]{6,})")


@dataclass
class TrainingState:
    """The progress of a training run. The batch and the dropout of a step follow from the seed and the step number."""

    step: int = 0
    elapsed_s: float = 0.0
    val_loss: float | None = None  # of exactly these weights, if it was measured
    best_val_loss: float | None = None
    tokens: int = 0  # seen so far
    skipped: int = 0  # steps without an update, because a gradient was not finite


def save(run: RunFolder, model: GPT, moments: Moments, state: TrainingState) -> Path:
    """Write the checkpoint of a step and return its path, checkpoints/step-000123. If the path exists, it is renamed.

    Raises `OSError` if it cannot be written, for example because the disk is full. Nothing is left behind then.
    """

    def write(folder: Path) -> None:
        save_model(model, folder / MODEL)
        tensors = {f"{kind}.{name}": array for kind, p in zip("mv", moments, strict=True) for name, array in p.items()}
        write_tensors(folder / OPTIMIZER, tensors)
        (folder / STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
        run.fsync_records()  # the lines of its steps must be on disk before the checkpoint

    return write_folder(run.checkpoints / folder_name(state.step), write)


def write_folder(final: Path, write: Callable[[Path], None]) -> Path:
    """Write a folder with checksums atomically, and return its path. If the path exists, it is renamed.

    `write` writes the files into an empty folder. Raises `OSError` if they cannot be written. Nothing is left behind then.
    """
    from safetensors import SafetensorError

    temporary = final.with_name(f".{final.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with filename_in_errors(final):
            temporary.mkdir(parents=True)
            write(temporary)
            _write_checksums(temporary)
            _set_aside(final, REPLACED_PREFIX)
            os.replace(temporary, final)
            fsync(final.parent)
    except SafetensorError as error:
        raise OSError(f"{final} cannot be written: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def folder_name(step: int) -> str:
    """Return the name of the folder of a step.

    >>> folder_name(123)
    'step-000123'
    """
    return f"step-{step:06d}"


def save_model(model: GPT, path: Path) -> None:
    """Write a model's weights and configuration to a safetensors file."""
    write_tensors(path, dict(model.parameters), {"config": json.dumps(asdict(model.config))})


def write_tensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Its permissions are those of any new file; the library itself would use 0600."""
    from safetensors.numpy import save_file

    with path.open("wb"):
        mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    path.chmod(mode)


def checkpoints(run: RunFolder) -> list[Path]:
    """Return the checkpoints of a run, oldest first: everything in checkpoints/ with a name such as step-000123."""
    return folders_of_steps(run.checkpoints)


def folders_of_steps(parent: Path) -> list[Path]:
    """Return everything in a folder with a name such as step-000123, in the order of the steps."""
    return sorted((path for path in parent.glob("step-*") if _NAME.fullmatch(path.name)), key=step_of)


def verify(checkpoint: Path, names: Iterable[str] = (MODEL, OPTIMIZER, STATE)) -> None:
    """Verify files of a checkpoint against SHA256SUMS.

    A model.safetensors without SHA256SUMS is not verified. Raises `ValueError` for a file that is missing or damaged.
    """
    names = list(names)
    try:
        lines = (checkpoint / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        expected = dict(line.split("  ", 1)[::-1] for line in lines)
    except FileNotFoundError:
        if names == [MODEL]:
            return
        raise ValueError(f"{checkpoint / CHECKSUMS} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint / CHECKSUMS} is damaged: {error}") from None
    for name in names:
        try:
            found = sha256(checkpoint / name)
        except OSError as error:
            raise ValueError(f"{checkpoint / name} cannot be read: {error.strerror}") from None
        if expected.get(name) != found:
            raise ValueError(f"{checkpoint / name} is damaged: its checksum does not match {CHECKSUMS}")


def newest_intact(run: RunFolder, names: Iterable[str] = (MODEL, OPTIMIZER, STATE)) -> Path | None:
    """Return the newest checkpoint whose files are intact, or None if there is no checkpoint.

    Warn of newer checkpoints that are damaged, and of names that are not those of a checkpoint. Raises `ValueError` if there
    are checkpoints but none is intact.
    """
    found, names = checkpoints(run), list(names)
    if others := sorted(path.name for path in run.checkpoints.glob("step-*") if path not in found):
        warnings.warn(
            f"{run.checkpoints}: ignored {', '.join(others)}, because the name of a checkpoint is step- and six digits",
            stacklevel=2,
        )
    for path in reversed(found):
        try:
            verify(path, names)
            _check_step(path, STATE in names)
        except ValueError as error:
            warnings.warn(f"{error}; trying the checkpoint before it", stacklevel=2)
        else:
            return path
    if found:
        raise ValueError(f"none of the checkpoints in {run.checkpoints} is intact")
    return None


def set_aside_damaged(run: RunFolder, step: int) -> None:
    """Rename the checkpoints of later steps, which are damaged: a resumed run will write these steps again."""
    for path in checkpoints(run):
        if step_of(path) > step:
            _set_aside(path, DAMAGED_PREFIX)


def prune_checkpoints(run: RunFolder, keep: int) -> None:
    """Delete all checkpoints except the newest `keep` and the intact one with the best validation loss.

    Links and files that somebody put in the place of a checkpoint are not deleted.
    """
    paths = checkpoints(run)
    val_losses = {path: loss for path in paths if (loss := _val_loss(path)) is not None}
    ranking = sorted(val_losses, key=lambda path: val_losses[path])
    best = next((path for path in ranking if path in paths[-keep:] or is_intact(path)), None)
    for path in paths[:-keep]:
        if path != best and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def load_state(checkpoint: Path) -> TrainingState:
    """Return the training state of a checkpoint. Raises `ValueError` if state.json cannot be read."""
    path = checkpoint / STATE
    try:
        state = TrainingState(**read_json_object(path))
    except TypeError as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    for field in fields(TrainingState):
        types = get_args(field.type) or (field.type,)
        if type(value := getattr(state, field.name)) not in types:
            raise ValueError(f"{path} cannot be read: {field.name} is {value!r}")
    return state


def load_optimizer(checkpoint: Path, moments: Moments) -> None:
    """Read the optimizer state of a checkpoint into `moments`. Raises `ValueError` if it is missing or does not fit."""
    path = checkpoint / OPTIMIZER
    tensors, _ = read_header(path)
    for kind, p in zip("mv", moments, strict=True):
        _fill(p, {name: tensors.get(f"{kind}.{name}") for name in p}, path)


def load_model(path: Path) -> GPT:
    """Return the model in a file model.safetensors, which holds its configuration too.

    Raises `ValueError` if the file cannot be read or its tensors do not fit the configuration.
    """
    tensors, config = _read_model_header(path)
    p = Parameters(shapes(config), np.float32)
    _fill(p, tensors, path)
    return GPT(config, parameters=p)


def load_config(path: Path) -> ModelConfig:
    """Return the configuration in a file model.safetensors, without reading its weights.

    Raises `ValueError` if the file cannot be read or its tensors do not fit the configuration.
    """
    return _read_model_header(path)[1]


def newest_checkpoint(path: Path) -> Path:
    """Return the newest checkpoint of a run that has intact weights; or `path` itself, if it is the folder of a checkpoint.

    Raises `ValueError` if there is none, or if the weights of the given checkpoint are damaged.
    """
    if (path / MODEL).exists():
        verify(path, [MODEL])
        return path
    found = newest_intact(RunFolder(path), [MODEL])
    if found is None:
        raise ValueError(f"{path} holds no checkpoint: expected the folder of a run, with checkpoints/step-*/{MODEL}")
    return found


def _write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of all files, and flush everything in the folder to disk."""
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
    (folder / CHECKSUMS).write_text(sums, encoding="utf-8", newline="\n")
    for path in (*folder.iterdir(), folder):
        fsync(path)


def _set_aside(path: Path, prefix: str) -> None:
    """Rename a checkpoint, if there is one, to an unused name that begins with `prefix`."""
    if os.path.lexists(path):
        path.rename(unused_path(path.parent, prefix + path.name))


def is_intact(checkpoint: Path, names: Iterable[str] = (MODEL, OPTIMIZER, STATE)) -> bool:
    """Return whether the files of a checkpoint or a snapshot are there and undamaged."""
    try:
        verify(checkpoint, names)
    except ValueError:
        return False
    return True


def step_of(folder: Path) -> int:
    """Return the step of a folder from its name."""
    return int(folder.name.removeprefix("step-"))


def _check_step(checkpoint: Path, needs_state: bool) -> None:
    """Raise `ValueError` if the training state of a checkpoint is of another step than its name, or is needed and invalid."""
    try:
        step = load_state(checkpoint).step
    except ValueError:
        if needs_state:
            raise
        return  # the weights can be used without it
    if step != step_of(checkpoint):
        raise ValueError(f"{checkpoint} is of step {step:,}, but its name is that of step {step_of(checkpoint):,}")


def _val_loss(checkpoint: Path) -> float | None:
    try:
        return load_state(checkpoint).val_loss
    except ValueError:
        return None  # a damaged checkpoint is never the best


def _config(metadata: dict[str, str], path: Path) -> ModelConfig:
    try:
        return ModelConfig(**upgrade_fields(json.loads(metadata["config"])))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} has no valid model configuration in its metadata: {one_line(error)}") from None


def _read_model_header(path: Path) -> tuple[dict[str, StoredTensor], ModelConfig]:
    """Return the tensors and the configuration in a file model.safetensors, after comparing them."""
    tensors, metadata = read_header(path)
    config = _config(metadata, path)
    # A model of any size can be claimed. One block more than there are tensors is enough to find a missing one.
    _check_shapes(shapes(replace(config, n_layers=min(config.n_layers, len(tensors) + 1))), tensors, path)
    return tensors, config


def _fill(p: Parameters, tensors: Mapping[str, StoredTensor | None], path: Path) -> None:
    _check_shapes(p.shapes, tensors, path)
    for name, array in p.items():
        if tensor := tensors[name]:
            tensor.read_into(array)


def _check_shapes(expected: dict[str, tuple[int, ...]], tensors: Mapping[str, StoredTensor | None], path: Path) -> None:
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise ValueError(f"{path}: {name} is missing, but must have shape {shape}")
        if tensor.shape != shape:
            raise ValueError(f"{path}: {name} has shape {tensor.shape}, but must have shape {shape}")
