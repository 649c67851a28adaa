"""Download models from the Hugging Face hub by name."""

import re
from fnmatch import fnmatch
from pathlib import Path

from minigpt.data.hub import COMMIT, FILE_NAME, check_name, check_sha256, checked_answers
from minigpt.data.json_files import one_line

FILES = [
    *("config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
]
NESTED = ["*/*"]
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def is_hub_name(where: str) -> bool:
    """Return whether `where` is a hub name (organization/model, or one word) and not a path in an existing folder or in runs/."""
    first = where.split("/")[0]
    return bool(NAME.fullmatch(where)) and first != "runs" and not Path(first).exists()


def download(name: str) -> Path:
    """Return the folder of a model from the hub, and download the model unless it is in the cache of `huggingface_hub`.

    The library resumes downloads, and reads its settings from the environment (`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME`).
    Raises `ValueError` if the model is neither available nor cached, if the hub answers with an unsafe name, and if the weights
    do not have the SHA-256 that the hub names.
    """
    with checked_answers():
        folder, checksums = _download(name)
    try:
        for path in filter(lambda path: _is_wanted(path.name), sorted(folder.iterdir())):
            check_sha256(path, checksums)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be loaded from the hub: {one_line(error)}") from None
    return folder


def _download(name: str) -> tuple[Path, dict[str, str | None]]:
    """Return the folder of a model, and the SHA-256 of its large files if the hub can be reached."""
    from huggingface_hub import HfApi, snapshot_download

    unreachable: Exception | None = None
    try:  # a single request; snapshot_download would retry for half a minute
        info = HfApi().model_info(name, timeout=10, files_metadata=True)
    except Exception as error:  # the errors of the library have no common class
        unreachable = error
    try:
        if unreachable is not None:
            return Path(snapshot_download(name, allow_patterns=FILES, ignore_patterns=NESTED, local_files_only=True)), {}
        check_name("commit", info.sha, COMMIT)
        wanted = [file for file in info.siblings or [] if _is_wanted(file.rfilename)]
        files = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in wanted}
        for file in files:
            check_name("file", file, FILE_NAME)
        folder = snapshot_download(name, revision=info.sha, allow_patterns=sorted(files), ignore_patterns=NESTED)
        _remember_commit(name, Path(folder))
        return Path(folder), files
    except Exception as error:
        reason = " ".join(str(unreachable or error).split("\n")[0].split())
        raise ValueError(f"{name} is not a local folder, and cannot be downloaded from the hub ({reason})") from None


def _is_wanted(file: str) -> bool:
    return "/" not in file and any(fnmatch(file, pattern) for pattern in FILES)


def _remember_commit(name: str, folder: Path) -> None:
    """Let the cache record that this folder is the newest one, which it does only if no commit is given."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    config = folder / "config.json"
    if config.exists() and try_to_load_from_cache(name, config.name) != str(config):
        hf_hub_download(name, config.name)
