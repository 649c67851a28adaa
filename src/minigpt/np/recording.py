"""Record the NumPy calls of one generation step, and replay them for the steps that follow.

Every new token requires the same sequence of NumPy calls on the same arrays. A single token needs so little arithmetic that the
Python overhead (parameter lookups, branches, allocation) would take a fifth of the time. Therefore the first token runs the code
of block.py on arrays that record each call, and later tokens replay the recorded calls. The key/value cache grows with each
token, so its methods are recorded as calls and run again in each step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.block import block
from minigpt.np.config import ModelConfig
from minigpt.np.context import Context
from minigpt.np.kv_cache import KVCache
from minigpt.np.network import embed, final_norm, rope_angles
from minigpt.np.parameters import Parameters
from minigpt.np.workspace import Arena, Array

Call = Callable[[], object]


class Recorder:
    """The list of calls recorded so far."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def finish(self) -> list[Call]:
        """Return the recorded calls and clear the list.

        The recorded arrays are views of arrays that refer to this recorder. If the recorder still referred to the calls, this
        reference cycle would never be freed, because Python's garbage collector does not track references inside arrays.
        """
        calls, self.calls = self.calls, []
        return calls


class RecordingArray(np.ndarray[Any, Any]):
    """An array that records the NumPy calls it takes part in. Arrays derived from it record as well."""

    recorder: Recorder

    def __array_finalize__(self, source: object) -> None:
        self.recorder = getattr(source, "recorder", None) or Recorder()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        """Run and record a ufunc: all element-wise operations, and matmul."""
        call = ufunc if method == "__call__" else getattr(ufunc, method)
        arguments = tuple(map(_as_ndarray, inputs))
        result = call(*arguments, out=tuple(map(_as_ndarray, out)), **options) if out else call(*arguments, **options)
        self.recorder.calls.append(partial(call, *arguments, **options, out=result))
        return recording(result, self.recorder)

    def __setitem__(self, index: Any, value: Any) -> None:
        destination = _as_ndarray(self)[index]
        np.copyto(destination, _as_ndarray(value))
        self.recorder.calls.append(partial(np.copyto, destination, _as_ndarray(value)))

    def fill(self, value: Any) -> None:
        """Fill the array with a value."""
        self[...] = value

    def reshape(self, *shape: Any, **options: Any) -> Any:
        """Reshape the array, which must be possible without a copy."""
        view = super().reshape(*shape, **options)
        return view if np.shares_memory(_as_ndarray(view), _as_ndarray(self)) else _refuse("a reshape that copies")

    def copy(self, *arguments: Any) -> Any:
        """Refuse: a copy would not be recorded."""
        _refuse("copy")

    def astype(self, *arguments: Any, **options: Any) -> Any:
        """Refuse: a conversion would not be recorded."""
        _refuse("astype")

    def __array_function__(self, function: Any, *arguments: Any) -> Any:
        """Refuse: a function that is not a ufunc would not be recorded."""
        _refuse(function.__name__)


def _refuse(name: str) -> NoReturn:
    raise TypeError(f"{name} cannot be recorded: only ufuncs, assignment to items and fill can")


def recording(array: Array, recorder: Recorder) -> RecordingArray:
    """Return a view of an array that records its calls."""
    view = array.view(RecordingArray)
    view.recorder = recorder
    return view


def _as_ndarray(array: Any) -> Any:
    return array.view(np.ndarray) if isinstance(array, RecordingArray) else array


class RecordingArena(Arena):
    """An arena whose arrays record their calls."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return an uninitialized array on top of the stack."""
        return recording(super().empty(shape, dtype), self._recorder)


class RecordingKVCache:
    """Calls the methods of a `KVCache` and records the calls."""

    def __init__(self, kv_cache: KVCache, recorder: Recorder) -> None:
        self._kv_cache, self._recorder = kv_cache, recorder

    def append(self, *arguments: Any) -> None:
        """See `KVCache.append`."""
        self._call(self._kv_cache.append, arguments)

    def attend(self, *arguments: Any, out: Array) -> None:
        """See `KVCache.attend`."""
        self._call(self._kv_cache.attend, (*arguments, out))

    def _call(self, method: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        call = partial(method, *map(_as_ndarray, arguments))
        call()
        self._recorder.calls.append(call)


class RecordedStep:
    """One generation step for B sequences: recorded when first called, replayed afterwards.

    Every call uses the same `kv_cache`.
    """

    def __init__(self, p: Parameters, config: ModelConfig, B: int, kv_cache: KVCache) -> None:
        self._p, self._config, self._kv_cache = p, config, kv_cache
        self._calls: list[Call] = []
        dtype = p.flat.dtype
        self._x = np.empty((B, 1, config.d_model), dtype)
        self._cos, self._sin = np.empty((2, B, 1, config.d_head), dtype)

    def __call__(self, tokens: Array) -> Array:
        """tokens (B, 1) -> the input of the LM head, (B, 1, D). The result is overwritten by the next call."""
        positions = self._kv_cache.reserve(1)
        self._x[...], _ = embed(tokens, self._p, positions, Context(self._config))
        if self._config.positions == "rope":
            self._cos[...], self._sin[...] = rope_angles(positions, self._config, self._x.dtype)
        if not self._calls:
            self._record()
        else:
            for call in self._calls:
                call()
        self._kv_cache.lengths += 1
        return self._y

    def _record(self) -> None:
        """Run the blocks once, and keep the recorded calls and the array that they write the result to."""
        recorder = Recorder()
        try:
            kv_cache: Any = RecordingKVCache(self._kv_cache, recorder)
            rope = (self._cos, self._sin) if self._config.positions == "rope" else None
            ws = RecordingArena(recorder)
            ctx = Context(self._config, ws, rope=rope, kv_cache=kv_cache, needs_grad=False)
            x: Array = recording(self._x, recorder)
            for i in range(self._config.n_layers):
                with ws.scratch():
                    x[...], _ = block(x, self._p.with_prefix(f"blocks.{i}."), ctx.for_layer(i))
            y, _ = final_norm(x, self._p, ctx)
            self._y = np.asarray(_as_ndarray(y))
        finally:
            self._calls = recorder.finish()
