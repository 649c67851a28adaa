"""Texts from standard input, which are kept in the cache so that a run can be resumed."""

import gzip
import hashlib
import json
import os
import secrets
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from minigpt.data.atomic import filename_in_errors, fsync
from minigpt.data.cache import default_cache, make_writable
from minigpt.data.encodings import GZIP_MAGIC
from minigpt.data.ranks import in_mpi_job

STANDARD_INPUT = "-"
_BLOCK = 1 << 20  # bytes
_LONGEST_LINE = 1 << 24  # bytes that are read to find out whether the first line is a JSON object


def replace_standard_input(names: Sequence[str], cache: Path | None = None) -> tuple[str, ...]:
    """Return the names of texts with "-" replaced by the path of a file that contains standard input.

    The file is named after its content, so the same input gives the same file. Its suffix is that of its content: .jsonl if the
    first line is a JSON object, .gz if it is compressed. Raises ValueError if standard input is empty or a terminal, or if "-"
    is given more than once.
    """
    if STANDARD_INPUT not in names:
        return tuple(names)
    if list(names).count(STANDARD_INPUT) > 1:
        raise ValueError("data names standard input (-) more than once, but it can only be read once")
    file = str(_store(standard_input(), default_cache() if cache is None else cache))
    return tuple(file if name == STANDARD_INPUT else name for name in names)


def standard_input() -> BinaryIO:
    """Return standard input as a stream of bytes. Raises ValueError if it is a terminal, or not available.

    In an MPI job it is not available: mpiexec need not forward it, and Open MPI then leaves rank 0 waiting for it.
    """
    if in_mpi_job():
        raise ValueError("standard input (-) cannot be read in an MPI job: write the text to a file and use that")
    stream: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.isatty():
        what = "a terminal" if stream is not None else "not available"
        raise ValueError(f"standard input is {what}, but must be a pipe or a file, as in: minigpt train --data - < FILE")
    return stream


def _store(stream: BinaryIO, cache: Path) -> Path:
    """Copy a stream to a file in the cache atomically, and return its path."""
    folder = cache / "stdin"
    make_writable(folder)
    temporary = folder / f".stdin.{secrets.token_hex(4)}"
    try:
        digest = _copy(stream, temporary)
        path = folder / f"stdin-{digest[:16]}{_suffix(temporary)}"
        if not path.exists():  # an existing file keeps its modification time, so that what was prepared from it is found
            fsync(temporary)
            os.replace(temporary, path)
            fsync(folder)
        return path
    finally:
        temporary.unlink(missing_ok=True)


def _copy(stream: BinaryIO, path: Path) -> str:
    """Copy a stream to a file, and return the SHA-256 of its content. Raises ValueError if it is empty."""
    digest = hashlib.sha256()
    with filename_in_errors(path), path.open("wb") as file:
        while block := stream.read(_BLOCK):
            digest.update(block)
            file.write(block)
        if not file.tell():
            raise ValueError("standard input (-) is empty, but must contain a text")
    return digest.hexdigest()


def _suffix(file: Path) -> str:
    """Return the suffix for the content of a file."""
    with file.open("rb") as raw:
        compressed = raw.read(2) == GZIP_MAGIC
    return (".jsonl" if _begins_with_object(file, compressed) else ".txt") + (".gz" if compressed else "")


def _begins_with_object(file: Path, compressed: bool) -> bool:
    """Return whether the first line of a file is a JSON object. A damaged file is reported when it is read."""
    try:
        with gzip.open(file, "rb") if compressed else file.open("rb") as stream:
            return isinstance(json.loads(stream.readline(_LONGEST_LINE)), dict)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        return False
