"""Atomic replacement of files, synchronized to disk so that it survives a power failure; unused names; and file locks."""

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
def atomic_replace(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces `path` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with filename_in_errors(path):
            yield temporary
            fsync(temporary)
            os.replace(temporary, path)
            fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def filename_in_errors(path: Path) -> Iterator[None]:
    """Add `path` to every OSError raised in the block that has no file name. Errors of a full disk have none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8. If that fails, `path` is unchanged."""
    with atomic_replace(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def is_temporary(path: Path) -> bool:
    """Return whether `path` has a name as `atomic_replace` makes them. A killed process leaves such files behind."""
    return _TEMPORARY.fullmatch(path.name) is not None


def unused_path(parent: Path, name: str) -> Path:
    """Return the first of parent/name, parent/name-2, parent/name-3, ... that does not exist, not even as a broken link."""
    number = 1
    while os.path.lexists(path := parent / (name if number == 1 else f"{name}-{number}")):
        number += 1
    return path


def fsync(path: Path) -> None:
    """Flush the content of a file, or the entries of a folder, to disk."""
    if sys.platform == "win32" and path.is_dir():
        return  # Windows cannot flush folders
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        with filename_in_errors(path):
            os.fsync(file)
    finally:
        os.close(file)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def file_lock(path: Path, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock file `path` during the block.

    If another process holds the lock, call `wait` and then block until the lock is free; without `wait` raise TimeoutError.
    The operating system releases the lock when the process ends, even if it is killed.
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
        with suppress(OSError):  # Windows does not delete open files
            path.unlink()
        lock.release()
