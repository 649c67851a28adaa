"""Token files: the ids of a split, one after the other, with a JSON file of metadata next to them."""

import hashlib
import os
from dataclasses import dataclass, fields
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.json_files import read_json_object
from minigpt.data.tokenizer import Tokenizer

REMEDY = "delete its folder and prepare again"


@dataclass
class SplitMetadata:
    """The content of the JSON file next to a token file."""

    tokenizer: str  # the fingerprint
    dtype: str
    tokens: int = 0
    documents: int = 0
    bytes: int = 0
    sha256: str = ""  # of the token file


@dataclass(eq=False)
class Split:
    """A token file: the ids of documents, each followed by `Tokenizer.separator_ids`.

    If begin-of-text and end-of-text are different ids, the file starts with begin-of-text.
    """

    path: Path
    dtype: str
    n_tokens: int  # including special tokens
    documents: int
    bytes: int  # of UTF-8 text
    sha256: str  # of the token file
    _verified: tuple[int, ...] = ()  # the state of the file when its SHA-256 was last compared

    def __len__(self) -> int:
        return self.n_tokens

    @property
    def tokens(self) -> np.ndarray:
        """The ids (n_tokens,) uint16 or uint32, memory-mapped and read-only. Unlike `read`, this does not detect changes."""
        return np.memmap(self.path, dtype=self.dtype, mode="r")

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return `length` ids from each of B positions, (B, length).

        The file is read and not memory-mapped: if another process truncated it, access to a map would end this process with
        SIGBUS. Raises OSError if the file has changed since it was opened. A file with another modification time, but the same
        SHA-256, has not changed.
        """
        while True:
            rows, state = self._read(starts, length)
            if state == self._verified:  # compared after reading, so that a change while reading is noticed, too
                return rows
            self.verify()

    def verify(self) -> None:
        """Compare the SHA-256 of the file with that when it was opened. Raises OSError if it differs."""
        digest, state = _digest(self.path)
        if digest != self.sha256:
            raise self._changed("" if state != self._verified else ", but not its times, so what was read before may be wrong")
        self._verified = state

    def _read(self, starts: np.ndarray, length: int) -> tuple[np.ndarray, tuple[int, ...]]:
        size = np.dtype(self.dtype).itemsize
        rows = np.empty((len(starts), length * size), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            for row, start in zip(rows, starts.tolist(), strict=True):
                file.seek(start * size)
                if not _fill(row, file):
                    raise self._changed()
            return rows.view(self.dtype), _state(file)

    def _changed(self, detail: str = "") -> OSError:
        return OSError(f"{self.path} has changed since it was opened{detail}: {REMEDY}")


def open_split(path: Path, tokenizer: Tokenizer) -> Split:
    """Open the token file `path` and verify it.

    Raises ValueError if it is missing, was written with another tokenizer, or has changed since it was written.
    """
    metadata = _read_metadata(path)
    if metadata.tokenizer != tokenizer.fingerprint or metadata.dtype != token_dtype(tokenizer):
        raise ValueError(f"{path} was written with another tokenizer")
    size, expected = path.stat().st_size, metadata.tokens * np.dtype(metadata.dtype).itemsize
    if size != expected or not size:
        raise ValueError(f"{path} has {size:,} bytes, but must have {expected:,}: {REMEDY}")
    digest, state = _digest(path)
    if digest != metadata.sha256:
        raise ValueError(f"{path} has changed since it was written: {REMEDY}")
    return Split(path, metadata.dtype, metadata.tokens, metadata.documents, metadata.bytes, metadata.sha256, state)


def token_dtype(tokenizer: Tokenizer) -> str:
    """Return the dtype of a token file: 16 bits if all ids fit, else 32."""
    return "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"


def read_prepared_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a prepared folder. Raises ValueError if it is damaged."""
    try:
        return read_json_object(file)
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {REMEDY}") from error


def _read_metadata(path: Path) -> SplitMetadata:
    file = path.with_suffix(".json")
    if not (path.is_file() and file.is_file()):
        raise ValueError(f"there is no token file {path} with its metadata {file.name}")
    try:
        metadata = SplitMetadata(**read_prepared_json(file))
    except TypeError as error:
        raise ValueError(f"{file} is damaged: {REMEDY}") from error
    for field in fields(SplitMetadata):
        value = getattr(metadata, field.name)
        if type(value) is not field.type or (field.type is int and not 0 <= value < 1 << 63):
            raise ValueError(f"{file} is damaged, in the field {field.name}: {REMEDY}")
    return metadata


def _digest(path: Path) -> tuple[str, tuple[int, ...]]:
    """Return the SHA-256 of a file, and its state before it was read."""
    with path.open("rb") as file:
        state = _state(file)
        return hashlib.file_digest(file, "sha256").hexdigest(), state


def _state(file: FileIO | BufferedReader) -> tuple[int, ...]:
    """Return the size and the times of an open file, which change with its content, and when another file replaces it."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _fill(row: np.ndarray, file: FileIO) -> bool:
    """Read bytes into an array; return whether the file has enough of them."""
    missing = row.data
    while missing and (n := file.readinto(missing)):
        missing = missing[n:]
    return not missing
