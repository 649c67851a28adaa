"""Files that are either the old ones or the new ones, never half of one, also after a power cut; and one writer at a time."""

import hashlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends, unless by an error."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give a system's error the path that it is about, where it does not know it: one of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def is_temporary(path: Path) -> bool:
    """Is it a file that `replacing` had not put in its place when its process was killed?"""
    return _TEMPORARY.fullmatch(path.name) is not None


def sync(path: Path) -> None:
    """Have the content of a file, or the names in a folder, written to the disk itself before going on."""
    if sys.platform == "win32" and path.is_dir():
        return  # Windows has no such call for folders
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        with naming(path):
            os.fsync(file)
    finally:
        os.close(file)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock file `path`. Where another process holds it: calls `wait` and waits, or without it raises `TimeoutError`.

    The system lets go of the lock when the process ends, whatever ends it.
    """
    from filelock import FileLock

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        if not wait:
            raise
        wait()
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes no open file
            path.unlink()
        lock.release()
