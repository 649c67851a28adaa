"""Models by their name on the Hugging Face hub."""

import re
from pathlib import Path

FILES = [
    *("config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
]
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def could_be_on_the_hub(where: str) -> bool:
    """Is this a name (organisation/model, or one word), and not a path into a folder that exists here, or into runs/?"""
    first = where.split("/")[0]
    return bool(NAME.fullmatch(where)) and first != "runs" and not Path(first).exists()


def download(name: str) -> Path:
    """The folder with a model of the hub, fetched unless it is in the library's cache already.

    The library resumes broken downloads and checks them; its settings (`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME`) are
    honoured. Raises `ValueError` where the model cannot be had.
    """
    from huggingface_hub import HfApi, snapshot_download

    trouble: Exception | None = None
    try:  # asked once, where the library would try for half a minute
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # the library's errors share no class
        trouble = error
    try:
        return Path(snapshot_download(name, allow_patterns=FILES, local_files_only=trouble is not None))
    except Exception as error:
        reason = " ".join(str(trouble or error).split("\n")[0].split())
        raise ValueError(f"{name} is no folder here, and could not be fetched from the hub ({reason})") from None
