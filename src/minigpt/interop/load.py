"""Every way to name a model: a run, one of its checkpoints, a Hugging Face directory, a name on the hub."""

from pathlib import Path

from minigpt.data.tokenizer import Tokenizer
from minigpt.interop import hub, hugging_face
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.train.checkpoint import MODEL, load_config, load_model, newest, save_model
from minigpt.train.folder import RunFolder


def load(where: str | Path) -> tuple[GPT, Tokenizer | None]:
    """The model and tokenizer of a run (its newest checkpoint), a checkpoint, a Hugging Face directory or a name on the hub.

    A directory without a tokenizer gives None in its place. Raises `ValueError` where there is no model, or one that minigpt
    does not compute.
    """
    path = find(where)
    tokenizer = tokenizer_path(path)
    model = hugging_face.read_model(path) if is_directory(path) else load_model(path / MODEL)
    return model, Tokenizer.load(tokenizer) if tokenizer else None


def load_with_tokenizer(where: str | Path) -> tuple[GPT, Tokenizer]:
    """The same for those who need text."""
    model, tokenizer = load(where)
    if tokenizer is None:
        raise ValueError(f"{where} has no tokenizer (tokenizer.json)")
    return model, tokenizer


def find(where: str | Path) -> Path:
    """The folder of a checkpoint or of a Hugging Face directory, fetched from the hub if need be."""
    path = Path(where)
    if not path.exists() and hub.could_be_on_the_hub(str(where)):
        path = hub.download(str(where))
    path = path.resolve()
    return path if is_directory(path) else newest(path)


def tokenizer_path(where: str | Path) -> Path | None:
    """What `Tokenizer.load` reads the tokenizer of a model from, or None where it has none."""
    path = find(where)
    if is_directory(path):
        return path if hugging_face.has_tokenizer(path) else None
    own = RunFolder(path.parent.parent).tokenizer
    return own if own.exists() else None


def is_directory(path: Path) -> bool:
    """Is it a Hugging Face directory?"""
    return (path / "config.json").is_file()


def read_config(where: str | Path) -> ModelConfig:
    """The shape of a model, without its weights."""
    path = find(where)
    return hugging_face.read_config(path) if is_directory(path) else load_config(path / MODEL)


def import_directory(where: str | Path, run: RunFolder, version: str) -> GPT:
    """Make a run of a Hugging Face directory: one checkpoint, of step 0, and the tokenizer if there is one; returns the model."""
    run.check_free()
    path = find(where)
    if not is_directory(path):
        raise ValueError(f"{path} is no Hugging Face directory: it has no config.json")
    model, tokenizer = load(path)
    checkpoint = run.checkpoints / "step-000000"
    checkpoint.mkdir(parents=True)
    if tokenizer is not None:
        tokenizer.save(run.tokenizer)
    run.write_json("run.json", {"imported_from": Path(where).name, "version": version, "parameters": model.parameters.flat.size})
    save_model(model, checkpoint / MODEL)
    return model
