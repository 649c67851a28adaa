"""Where arrays come from: fresh from NumPy, or the same memory again at every training step.

The operations ask a workspace for their activations. `FRESH` simply allocates, and is what everybody
gets who does not ask for more. Training uses a `Workspace`: a stack of memory. A forward pass piles its caches up, the backward
pass takes them off in reverse order, and the next step finds the very same addresses again, already mapped and warm in the
processor's cache.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Mark = tuple[int, int]

ALIGNMENT = 64  # bytes: one cache line, and one AVX-512 register
CHUNK = 1 << 24  # bytes: memory is asked for in pieces of at least this size


class Fresh:
    """The plain workspace: every array is a new one, and Python frees it when nobody needs it."""

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array with undefined content."""
        return np.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array of zeros."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def mark(self) -> Mark:
        """A place on the stack to `release` to later."""
        return 0, 0

    def release(self, mark: Mark) -> None:
        """Give back everything handed out since `mark`."""

    def scratch(self) -> AbstractContextManager[None]:
        """Arrays asked for inside the `with` are given back at its end."""
        return NOTHING_TO_GIVE_BACK


NOTHING_TO_GIVE_BACK = nullcontext()


class Workspace(Fresh):
    """A stack of memory that is kept. One thread uses it at a time.

    An array is valid until the stack is released to a mark made before it; after that its memory is handed out again.

    >>> ws = Workspace()
    >>> with ws.scratch():
    ...     first = ws.empty((2, 3), np.float32)
    >>> second = ws.empty((2, 3), np.float32)
    >>> np.shares_memory(first, second)
    True
    """

    def __init__(self) -> None:
        self._chunks: list[Array] = []
        self._top: Mark = (0, 0)  # chunk, bytes used in it
        self._arrays: dict[Any, tuple[Array, Mark]] = {}  # a step asks for the same arrays as the one before: they are kept, too

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return sum(chunk.nbytes for chunk in self._chunks)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array with undefined content on top of the stack."""
        key = self._top, shape, dtype
        if key not in self._arrays:
            self._arrays[key] = self._new(shape, np.dtype(dtype))
        array, self._top = self._arrays[key]
        return array

    def mark(self) -> Mark:
        """A place on the stack to `release` to later."""
        return self._top

    def release(self, mark: Mark) -> None:
        """Give back everything handed out since `mark`."""
        self._top = mark

    def scratch(self) -> AbstractContextManager[None]:
        """Arrays asked for inside the `with` are given back at its end."""
        return _Scratch(self)

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, Mark]:
        nbytes = math.prod(shape) * dtype.itemsize
        chunk, start = self._find_room(nbytes)
        array = self._chunks[chunk][start : start + nbytes].view(dtype).reshape(shape)
        return array, (chunk, start + -(-nbytes // ALIGNMENT) * ALIGNMENT)  # rounded up to whole cache lines

    def _find_room(self, nbytes: int) -> Mark:
        chunk, start = self._top
        while chunk < len(self._chunks) and start + nbytes > self._chunks[chunk].nbytes:
            chunk, start = chunk + 1, 0
        if chunk == len(self._chunks):
            self._chunks.append(_aligned_bytes(max(CHUNK, nbytes)))
        return chunk, start


class _Scratch(AbstractContextManager[None]):
    """What `Workspace.scratch` returns; a generator would take twice as long, which single tokens would notice."""

    __slots__ = ("_mark", "_ws")

    def __init__(self, ws: Workspace) -> None:
        self._ws, self._mark = ws, ws.mark()

    def __exit__(self, *error: object) -> None:
        self._ws.release(self._mark)


def _aligned_bytes(nbytes: int) -> Array:
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes]


FRESH = Fresh()
