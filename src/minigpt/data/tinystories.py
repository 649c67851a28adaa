"""TinyStories (Eldan & Li, 2023, arXiv:2305.07759): two million short stories in words a small child knows."""

from pathlib import Path

REPOSITORY = "roneneldan/TinyStories"
FILES = ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt")


class DownloadError(ValueError):
    """TinyStories cannot be had; the message says why, and how to go on without."""


def download() -> tuple[Path, Path]:
    """The files of training and of validation stories, fetched from the Hugging Face hub unless they are there already.

    The first time that is 2.2 GB, resumed when the connection breaks, checked for length and kept in the hub's cache;
    the library's settings, such as `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_HOME`, are honoured.
    Raises DownloadError, a ValueError, within seconds if the hub cannot be reached and the files are not in the cache.
    """
    trouble = _trouble()
    try:
        train, valid = (_fetch(file, only_from_cache=trouble is not None) for file in FILES)
    except Exception as error:  # the library's errors share no class, and what to do is the same for all
        reason = " ".join(str(trouble or error).split("\n")[0].split())
        raise DownloadError(
            f"TinyStories could not be downloaded ({reason}): "
            "try again later, or use --data storybook (built in) or --data FILE (your own text)"
        ) from error
    return train, valid


def _trouble() -> Exception | None:
    """What keeps us from the hub, if anything: asked once, where the library would try for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(REPOSITORY, FILES[0], repo_type="dataset"))
    except Exception as error:
        return error
    return None


def _fetch(file: str, only_from_cache: bool) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(REPOSITORY, file, repo_type="dataset", local_files_only=only_from_cache))
