"""Memory for intermediate arrays: allocated by NumPy, or reused from one training step to the next.

The operations in this package allocate their results in a workspace. `DEFAULT_WORKSPACE`, which is used unless another workspace
is given, allocates a new array each time. Training uses an `Arena`, a stack of memory that is kept: the forward pass pushes its
caches onto the stack, the backward pass pops them in reverse order, and the next step uses the same addresses again, which the
operating system has already mapped and which may still be in the processor's cache.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Mark = tuple[int, int]

ALIGNMENT = 64  # bytes: one cache line, and one AVX-512 register
MIN_CHUNK = 1 << 24  # bytes: memory is allocated in chunks of at least this size

_NULL_CONTEXT = nullcontext()


class Workspace:
    """Allocates a new array for each request; Python frees the array when it is no longer referenced."""

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return an uninitialized array."""
        return np.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return an array filled with zeros."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def mark(self) -> Mark:
        """Return the current position in the stack, to pass to `release`."""
        return 0, 0

    def release(self, mark: Mark) -> None:
        """Free every array allocated since `mark`."""

    def scratch(self) -> AbstractContextManager[None]:
        """Return a context manager that frees, on exit, the arrays allocated inside it."""
        return _NULL_CONTEXT


class Arena(Workspace):
    """A stack of memory that is allocated once and reused. Only one thread may use it at a time.

    An array is valid until the stack is released to a mark made before the array was allocated. Its memory is then reused.

    >>> ws = Arena()
    >>> with ws.scratch():
    ...     first = ws.empty((2, 3), np.float32)
    >>> second = ws.empty((2, 3), np.float32)
    >>> np.shares_memory(first, second)
    True
    """

    def __init__(self) -> None:
        self._chunks: list[Array] = []
        self._top: Mark = (0, 0)  # index of the chunk, bytes used in it
        self._arrays: dict[Any, tuple[Array, Mark]] = {}  # every step requests the same arrays, so they are kept

    @property
    def nbytes(self) -> int:
        """Total memory held, in bytes."""
        return sum(chunk.nbytes for chunk in self._chunks)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return an uninitialized array on top of the stack."""
        key = self._top, shape, dtype
        if key not in self._arrays:
            self._arrays[key] = self._allocate(shape, np.dtype(dtype))
        array, self._top = self._arrays[key]
        return array

    def mark(self) -> Mark:
        """Return the current position in the stack, to pass to `release`."""
        return self._top

    def release(self, mark: Mark) -> None:
        """Free every array allocated since `mark`."""
        self._top = mark

    def scratch(self) -> AbstractContextManager[None]:
        """Return a context manager that frees, on exit, the arrays allocated inside it."""
        return _Scratch(self)

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, Mark]:
        """Return a new array and the top of the stack above it."""
        nbytes = math.prod(shape) * dtype.itemsize
        chunk, start = self._find_space(nbytes)
        array = self._chunks[chunk][start : start + nbytes].view(dtype).reshape(shape)
        return array, (chunk, start + -(-nbytes // ALIGNMENT) * ALIGNMENT)  # rounded up to a multiple of the cache line

    def _find_space(self, nbytes: int) -> Mark:
        chunk, start = self._top
        while chunk < len(self._chunks) and start + nbytes > self._chunks[chunk].nbytes:
            chunk, start = chunk + 1, 0
        if chunk == len(self._chunks):
            self._chunks.append(_aligned_bytes(max(MIN_CHUNK, nbytes)))
        return chunk, start


class _Scratch(AbstractContextManager[None]):
    """The context manager returned by `Arena.scratch`. A generator would take twice as long, which matters for single tokens."""

    __slots__ = ("_mark", "_ws")

    def __init__(self, ws: Workspace) -> None:
        self._ws, self._mark = ws, ws.mark()

    def __exit__(self, *error: object) -> None:
        self._ws.release(self._mark)


def _aligned_bytes(nbytes: int) -> Array:
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes]


DEFAULT_WORKSPACE = Workspace()
