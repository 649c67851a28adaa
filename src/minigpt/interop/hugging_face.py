"""Hugging Face directories in and out: config.json, model.safetensors, tokenizer.json."""

import json
import os
import re
import secrets
import shutil
from pathlib import Path

from minigpt.data.tokenizer import TOKENIZER_CONFIG, Tokenizer
from minigpt.interop.config import config_json, model_config, one_line, read_json
from minigpt.interop.weights import parameters, read, tensors
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in a directory; raises `ValueError` for one that minigpt does not compute."""
    path = folder / "config.json"
    content = read_json(path)
    try:
        return model_config(content)
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def read_model(folder: Path) -> GPT:
    """The model in a directory, its weights widened to float32."""
    config, content = read_config(folder), read_json(folder / "config.json")
    without = [part for part, flag in (("self_attn", "attention_bias"), ("mlp", "mlp_bias")) if not content.get(flag)]
    absent = re.compile(rf"\.({'|'.join(without)})\..*bias$") if content["model_type"] == "llama" and without else None
    try:
        return GPT(config, parameters=parameters(read(folder), config, absent))
    except ValueError as error:
        raise ValueError(f"{folder}: {one_line(error)}") from None


def has_tokenizer(folder: Path) -> bool:
    """Is there a tokenizer in a directory?"""
    return (folder / "tokenizer.json").is_file() or (folder / "merges.txt").is_file()


def export(model: GPT, tokenizer: Tokenizer | None, folder: Path) -> None:
    """Write a directory that transformers' AutoModelForCausalLM and AutoTokenizer load, whole or not at all.

    Raises `ValueError` for a folder that holds something already, and for a model that is neither GPT-2 nor Llama in form.
    """
    from safetensors.numpy import save_file

    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists already and is not an empty folder: choose another")
    begin, end = (tokenizer.begin_of_text, tokenizer.end_of_text) if tokenizer else (None, None)
    content, named = config_json(model.config, begin, end), tensors(model.parameters, model.config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        save_file(named, temporary / "model.safetensors", {"format": "pt"})
        _write(temporary / "config.json", content)
        _write(temporary / "generation_config.json", {"bos_token_id": begin, "eos_token_id": end})
        if tokenizer:
            tokenizer.save(temporary / "tokenizer.json")
            _write(temporary / TOKENIZER_CONFIG, tokenizer.config() | {"model_max_length": model.config.context_length})
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
