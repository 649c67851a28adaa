"""Load a model from a run, one of its checkpoints, a Hugging Face directory, or the Hugging Face hub."""

from pathlib import Path

from minigpt.data.tokenizer import Tokenizer
from minigpt.interop import hub, hugging_face
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import first_nonfinite
from minigpt.runs.checkpoint import MODEL, load_config, load_model, newest_checkpoint, save_model
from minigpt.runs.folder import RunFolder, find_run, nearest_run, split_step
from minigpt.runs.snapshots import folder_of_step


def load(where: str | Path, step: int | None = None) -> tuple[GPT, Tokenizer | None]:
    """Return the model and the tokenizer of a run (its newest checkpoint), a checkpoint, a Hugging Face directory or a hub name.

    With a step, the weights of a run are those of a snapshot or a checkpoint of this step: `load("runs/first", step=64)`, or
    `load("runs/first@64")`. The tokenizer is None if a directory contains none. Raises `ValueError` if there is no model, no
    snapshot of the step, or if minigpt does not support the model.
    """
    if step is not None and (step < 0 or split_step(where)[1] is not None):
        expected = "0 or more, and given once: load('runs/first', step=64), or load('runs/first@64')"
        raise ValueError(f"step is {step}, but must be {expected}")
    path = find_model(where if step is None else f"{where}@{step}")
    tokenizer = tokenizer_path(path)
    model = hugging_face.read_model(path) if has_config_json(path) else load_model(path / MODEL)
    return model, Tokenizer.load(tokenizer) if tokenizer else None


def load_finite(where: str | Path) -> tuple[GPT, Tokenizer | None]:
    """Return the same as `load`. Raises `FloatingPointError` if a weight is NaN or infinite; the message names the tensor."""
    model, tokenizer = load(where)
    if name := first_nonfinite(model.parameters):
        raise FloatingPointError(f"{where}: {name} has weights that are not finite (NaN or infinite)")
    return model, tokenizer


def find_model(where: str | Path) -> Path:
    """Return the folder of a checkpoint, a snapshot or a Hugging Face directory, after a download from the hub if necessary."""
    where, step = split_step(where)
    path = find_run(where)
    if step is not None and path.exists():
        return folder_of_step(RunFolder(path.resolve()), step)
    if not path.exists():
        path = _download(where)
    path = path.resolve()
    return path if has_config_json(path) else newest_checkpoint(path)


def _download(where: str | Path) -> Path:
    """Download a model from the hub. The error, if there is none, suggests a run, because the name may be that of a run."""
    if not hub.is_hub_name(str(where)):
        expected = f"expected the folder of a run, with checkpoints/step-*/{MODEL}"
        raise ValueError(f"{where} holds no checkpoint: {expected}, but it does not exist{nearest_run(where)}")
    try:
        return hub.download(str(where))
    except ValueError as error:
        raise ValueError(f"{error}{'' if '/' in str(where) else nearest_run(where)}") from None


def tokenizer_path(where: str | Path) -> Path | None:
    """Return the file or folder from which `Tokenizer.load` reads the tokenizer of a model, or None if it has none."""
    path = find_model(where)
    if has_config_json(path):
        return path if hugging_face.has_tokenizer(path) else None
    tokenizer = RunFolder(path.parent.parent).tokenizer
    return tokenizer if tokenizer.exists() else None


def has_config_json(path: Path) -> bool:
    """Return whether a folder contains a config.json, as every Hugging Face directory does."""
    return (path / "config.json").is_file()


def read_config(where: str | Path) -> ModelConfig:
    """Return the configuration of a model without reading its weights.

    Raises `ValueError` if the weights are missing or have other sizes, so that a configuration from a file cannot ask for more
    memory than the file has.
    """
    path = find_model(where)
    return hugging_face.read_config_of_weights(path) if has_config_json(path) else load_config(path / MODEL)


def import_directory(where: str | Path, run: RunFolder, version: str) -> GPT:
    """Create a run from a Hugging Face directory, and return the model.

    The run has one checkpoint, of step 0, and the tokenizer if there is one.
    """
    run.check_available()
    path = find_model(where)
    if not has_config_json(path):
        raise ValueError(f"{path} is not a Hugging Face directory: it has no config.json")
    model, tokenizer = load(path)
    checkpoint = run.checkpoints / "step-000000"
    checkpoint.mkdir(parents=True)
    if tokenizer is not None:
        tokenizer.save(run.tokenizer)
    run.write_json("run.json", {"imported_from": Path(where).name, "version": version, "parameters": model.parameters.flat.size})
    save_model(model, checkpoint / MODEL)
    return model
