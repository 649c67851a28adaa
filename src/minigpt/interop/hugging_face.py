"""Read and write Hugging Face directories: config.json, model.safetensors, tokenizer.json."""

import json
import os
import secrets
import shutil
from pathlib import Path

from minigpt.data.json_files import one_line, read_json_object
from minigpt.data.tokenizer import TOKENIZER_CONFIG, Tokenizer
from minigpt.interop.config import config_json, model_config
from minigpt.interop.weights import from_tensors, match_tensors, read_tensors, to_tensors
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.runs.checkpoint import write_tensors


def read_config(folder: Path) -> ModelConfig:
    """Return the configuration of the model in a directory. Raises `ValueError` if minigpt does not support it."""
    path = folder / "config.json"
    content = read_json_object(path)
    try:
        return model_config(content)
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def read_config_of_weights(folder: Path) -> ModelConfig:
    """Return the configuration of the model in a directory. Raises `ValueError` also if its weights are of another size.

    Only the headers of the weights are read.
    """
    config = read_config(folder)
    try:
        match_tensors(read_tensors(folder), config)
    except ValueError as error:
        raise ValueError(f"{folder}: {one_line(error)}") from None
    return config


def read_model(folder: Path) -> GPT:
    """Return the model in a directory, with its weights converted to float32."""
    config = read_config(folder)
    try:
        return GPT(config, parameters=from_tensors(read_tensors(folder), config))
    except ValueError as error:
        raise ValueError(f"{folder}: {one_line(error)}") from None


def has_tokenizer(folder: Path) -> bool:
    """Return whether a directory contains a tokenizer."""
    return (folder / "tokenizer.json").is_file() or (folder / "merges.txt").is_file()


def export(model: GPT, tokenizer: Tokenizer | None, folder: Path) -> None:
    """Write a directory that AutoModelForCausalLM and AutoTokenizer of transformers load.

    The directory appears only when it is complete. Raises `ValueError` if `folder` is not empty, and if the model
    is not one of `minigpt.interop.families`.
    """
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} already exists and is not an empty folder: choose another")
    begin, end = (tokenizer.begin_of_text, tokenizer.end_of_text) if tokenizer else (None, None)
    content, tensors = config_json(model.config, begin, end), to_tensors(model.parameters, model.config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        write_tensors(temporary / "model.safetensors", tensors, {"format": "pt"})
        _write_json(temporary / "config.json", content)
        _write_json(temporary / "generation_config.json", {"bos_token_id": begin, "eos_token_id": end})
        if tokenizer:
            tokenizer.save(temporary / "tokenizer.json")
            _write_json(temporary / TOKENIZER_CONFIG, tokenizer.config() | {"model_max_length": model.config.context_length})
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
