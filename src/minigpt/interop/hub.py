"""Download models from the Hugging Face hub by name."""

import re
from pathlib import Path

FILES = [
    *("config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
]
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def is_hub_name(where: str) -> bool:
    """Return whether `where` is a hub name (organization/model, or one word) and not a path in an existing folder or in runs/."""
    first = where.split("/")[0]
    return bool(NAME.fullmatch(where)) and first != "runs" and not Path(first).exists()


def download(name: str) -> Path:
    """Return the folder of a model from the hub, and download the model unless it is in the cache of `huggingface_hub`.

    The library resumes and verifies downloads, and reads its settings from the environment (`HF_ENDPOINT`, `HF_HUB_OFFLINE`,
    `HF_HOME`). Raises `ValueError` if the model is neither available nor cached.
    """
    from huggingface_hub import HfApi, snapshot_download

    unreachable: Exception | None = None
    try:  # a single request; snapshot_download would retry for half a minute
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # the errors of the library have no common class
        unreachable = error
    try:
        return Path(snapshot_download(name, allow_patterns=FILES, local_files_only=unreachable is not None))
    except Exception as error:
        reason = " ".join(str(unreachable or error).split("\n")[0].split())
        raise ValueError(f"{name} is not a local folder, and cannot be downloaded from the hub ({reason})") from None
