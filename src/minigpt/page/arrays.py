"""Arrays for JSON, and parts of large ones."""

import base64
from typing import Any

import numpy as np

from minigpt.np.workspace import Array

MAX_ROWS, MAX_COLUMNS = 192, 384
"The largest picture of an array. Each of its pixels stands for several numbers if the array is larger."


def encoded(x: Array) -> dict[str, Any]:
    """Return an array for JSON: its shape, and its elements in float32 as base64.

    >>> encoded(np.array([[1.0, 2.0]]))
    {'shape': [1, 2], 'data': 'AACAPwAAAEA='}
    """
    return {"shape": list(x.shape), "data": base64.b64encode(np.ascontiguousarray(x, "<f4").tobytes()).decode()}


def encoded_bytes(x: Array) -> dict[str, Any]:
    """Return an array without negative elements for JSON in a quarter of the space: one byte for each, as a share of the largest.

    >>> encoded_bytes(np.array([[1.0, 2.0]]))
    {'shape': [1, 2], 'largest': 2.0, 'bytes': 'gP8='}
    """
    largest = float(x.max()) or 1.0
    shares = np.round(255 / largest * x).astype(np.uint8)
    return {"shape": list(x.shape), "largest": largest, "bytes": base64.b64encode(shares.tobytes()).decode()}


def matrix_part(x: Array, rows: tuple[int, int], columns: tuple[int, int]) -> dict[str, Any]:
    """Return a rectangle of a matrix for JSON.

    If it is larger than the largest picture, it is divided into rectangles of `pool` rows and columns, each represented by its
    element of the largest absolute value.

    >>> part = matrix_part(np.arange(12).reshape(3, 4), (1, 3), (0, 4))
    >>> part["rows"], part["columns"], part["pool"], part["values"]["shape"]
    ([1, 3], [0, 4], [1, 1], [2, 4])
    """
    rows, columns = _bounds("rows", rows, x.shape[0]), _bounds("columns", columns, x.shape[1])
    part = x[slice(*rows), slice(*columns)]
    pool = [-(-n // limit) for n, limit in zip(part.shape, (MAX_ROWS, MAX_COLUMNS), strict=True)]
    return {"rows": [*rows], "columns": [*columns], "pool": pool, "values": encoded(_pooled(part, *pool))}


def _bounds(name: str, bounds: tuple[int, int], size: int) -> tuple[int, int]:
    start, stop = bounds
    if not 0 <= start < stop <= size:
        raise ValueError(f"{name} is {list(bounds)}, but must be a range from 0 to {size}")
    return start, stop


def _pooled(x: Array, rows: int, columns: int) -> Array:
    """Return the elements of the largest absolute value in rectangles of this size."""
    if rows == columns == 1:
        return x
    padding = [(0, -x.shape[0] % rows), (0, -x.shape[1] % columns)]
    x = np.pad(x, padding).reshape(-(-x.shape[0] // rows), rows, -(-x.shape[1] // columns), columns)
    x = x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], rows * columns)
    return np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)[..., 0]


def as_matrix(x: Array, index: int) -> Array:
    """Return an array of a trace or of the parameters as a matrix: of a batch the first sequence, of heads one head.

    x (n,) -> (1, n), (n, m) -> (n, m), (1, T, n) -> (T, n), and (1, H, T, n) -> (T, n), the head with the given index.
    """
    if x.ndim == 4:
        if not 0 <= index < x.shape[1]:
            raise ValueError(f"index is {index}, but must be from 0 to {x.shape[1] - 1}")
        return np.asarray(x[0, index])
    return np.asarray(x[0]) if x.ndim == 3 else np.atleast_2d(x)
