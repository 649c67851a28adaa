"""Read safetensors files a part of a tensor at a time, so that a model is in memory only once while it is loaded."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigpt.data.json_files import one_line

DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "<u2"}
"The supported dtypes of safetensors, as NumPy dtypes. NumPy has no bfloat16, which is the upper half of a float32."
CHUNK_SIZE = 1 << 21  # numbers


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, of which only the description has been read."""

    path: Path
    dtype: str
    "The name of its dtype in the file."
    shape: tuple[int, ...]
    offset: int
    "The position of its first byte in the file."

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield slices of the first axis with their rows in float32, about 8 MB at a time. A scalar has one row.

        Raises `ValueError` if the dtype is not one of `DTYPES`, if the file has become shorter, and if it cannot be read.
        """
        if self.dtype not in DTYPES:
            raise ValueError(f"{self.path}: the dtype is {self.dtype}, but must be one of {', '.join(DTYPES)}")
        try:
            yield from self._chunks()
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read: {one_line(error)}") from None

    def _chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        rows, *row = self.shape or (1,)
        row_bytes = np.dtype(DTYPES[self.dtype]).itemsize * math.prod(row)
        step = max(1, CHUNK_SIZE // max(1, math.prod(row)))
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for start in range(0, rows, step):
                chunk = slice(start, min(start + step, rows))
                content = file.read((chunk.stop - start) * row_bytes)
                if len(content) < (chunk.stop - start) * row_bytes:
                    raise ValueError(f"{self.path} was truncated while it was read")
                yield chunk, _to_float32(content, self.dtype).reshape(chunk.stop - start, *row)

    def read_into(self, out: np.ndarray) -> None:
        """Write the tensor, converted to float32, to an array of its shape."""
        for rows, values in self.chunks():
            out[rows] = values


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    The library checks that the header is valid and that the tensors fill the file exactly. Raises `ValueError` otherwise, and if
    the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as checked:
            metadata = checked.metadata() or {}
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }, metadata


def _to_float32(content: bytes, dtype: str) -> np.ndarray:
    array = np.frombuffer(content, DTYPES[dtype])
    if dtype == "BF16":
        bits = array.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return array.astype(np.float32, copy=False)
