"""TinyStories (Eldan & Li, 2023, arXiv:2305.07759): two million short stories with the vocabulary of small children."""

from pathlib import Path

from minigpt.data.hub import UntrustedAnswerError, check_sha256, checked_answers

REPOSITORY = "roneneldan/TinyStories"
FILES = ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt")


class DownloadError(ValueError):
    """TinyStories could not be downloaded. The message gives the reason and the alternatives."""


def download() -> tuple[Path, Path]:
    """Return the paths of the training and the validation file, downloaded from the Hugging Face hub unless they are cached.

    The first download is 2.2 GB. It resumes after a broken connection, and the SHA-256 of the files is checked. Settings of
    the library, such as `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_HOME`, apply. Raises DownloadError, a ValueError, within
    seconds if the hub cannot be reached and the files are not cached.
    """
    connection_error: Exception | None = None
    try:
        with checked_answers():
            connection_error = _connection_error()
            train, valid = (_fetch(file, only_from_cache=connection_error is not None) for file in FILES)
    except Exception as error:  # the errors of the library have no common base class, and all are handled alike
        cause = error if isinstance(error, UntrustedAnswerError) else connection_error or error
        reason = " ".join(str(cause).split("\n")[0].split())
        raise DownloadError(
            f"TinyStories could not be downloaded ({reason}): "
            "try again later, or use --data storybook (built in) or --data FILE (your own text)"
        ) from error
    return train, valid


def _connection_error() -> Exception | None:
    """Return the error of one request to the hub, or None. The library itself would retry for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(REPOSITORY, FILES[0], repo_type="dataset"))
    except Exception as error:
        return error
    return None


def _fetch(file: str, only_from_cache: bool) -> Path:
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(REPOSITORY, file, repo_type="dataset", local_files_only=only_from_cache))
    check_sha256(path)
    return path
