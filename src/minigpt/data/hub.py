"""Downloads from the Hugging Face hub, with checks that `huggingface_hub` leaves out.

The library names files of its cache after what the server answers: the ETag of a file, and the commit. An ETag of `../../..`
makes it create a file outside the cache. Here each response is checked before the library receives it.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minigpt.data.atomic import sha256

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
FILE_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
ETAG = re.compile(r"[0-9A-Za-z_-]{1,128}")
"An ETag that can be the name of a file. The hub's are the SHA-256 of a large file, and the git hash of a small one."

_LOCK = threading.Lock()


class UntrustedAnswerError(ValueError):
    """A server answered with a name that is not safe, or with a file that is not the one it named."""


@contextmanager
def checked_answers() -> Iterator[None]:
    """Check every response that `huggingface_hub` receives during the block. Raises `UntrustedAnswerError` for an unsafe one."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http  # the library can set a client factory, but has no public name for the current one

    def client() -> Any:
        made = original()
        hooks = made.event_hooks
        made.event_hooks = {**hooks, "response": [*hooks.get("response", []), check_response]}
        return made

    with _LOCK:  # the factory is global
        original = _http._GLOBAL_CLIENT_FACTORY
        set_client_factory(client)
        try:
            yield
        finally:
            set_client_factory(original)


def check_response(response: Any) -> None:
    """Raise `UntrustedAnswerError` if a response names a commit or an ETag that could be a path."""
    commit = response.headers.get("X-Repo-Commit")
    if commit is not None:
        check_name("X-Repo-Commit", commit, COMMIT)
    etag = response.headers.get("X-Linked-Etag") or response.headers.get("ETag")
    if response.request.method == "HEAD" and etag is not None:  # only those become names
        check_name("ETag", etag.removeprefix("W/").strip('"'), ETAG)


def check_name(what: str, name: object, pattern: re.Pattern[str]) -> None:
    """Raise `UntrustedAnswerError` unless `name` is a string that matches the pattern."""
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise UntrustedAnswerError(f"the server's {what} is {name!r}, which is not a safe name")


def check_sha256(path: Path, named: Mapping[str, str | None] = {}) -> None:
    """Raise `UntrustedAnswerError` if a downloaded file does not have the SHA-256 that the hub names.

    `named` has the checksums by file name. In the library's cache, a file is a link to one that is named after its ETag, which is
    the checksum of a large file, so that it can be checked without the hub. A small file, which has no SHA-256 there, is not.
    """
    etag = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    expected = {value for value in (named.get(path.name), etag) if value and SHA256.fullmatch(value)}
    if expected and expected != {found := sha256(path)}:
        other = min(expected - {found})
        raise UntrustedAnswerError(
            f"{path.name} has the SHA-256 {found}, but the hub names {other}; delete {path.resolve()} to download it again"
        )
