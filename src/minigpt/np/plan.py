"""A single token goes through always the same list of NumPy calls, on the same memory: noted down once, then repeated.

For one token the arithmetic is so little that Python, asking its way through blocks, branches and heads, would take a fifth
of the time. So the first token goes through the code of block.py as any other, with arrays that note what is done with them;
later ones repeat the notes. Only what depends on the number of tokens so far, `Past`, is called anew each time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.block import block
from minigpt.np.config import ModelConfig
from minigpt.np.network import enter, leave, rope_angles
from minigpt.np.ops import NO_DROPOUT
from minigpt.np.parameters import Parameters
from minigpt.np.past import Past
from minigpt.np.workspace import Array, Workspace

Call = Callable[[], object]


class Noted(np.ndarray[Any, Any]):
    """An array that notes the calls in which it takes part. What is made of it, notes too."""

    calls: list[Call]

    def __array_finalize__(self, source: object) -> None:
        self.calls = getattr(source, "calls", [])

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **more: Any) -> Any:
        """Every operation of NumPy that works element by element, and matmul: here."""
        call = ufunc if method == "__call__" else getattr(ufunc, method)
        arguments = tuple(map(_plain, inputs))
        result = call(*arguments, out=tuple(map(_plain, out)), **more) if out else call(*arguments, **more)
        self.calls.append(partial(call, *arguments, **more, out=result))
        return noted(result, self.calls)

    def __setitem__(self, where: Any, value: Any) -> None:
        to = _plain(self)[where]
        np.copyto(to, _plain(value))
        self.calls.append(partial(np.copyto, to, _plain(value)))

    def fill(self, value: Any) -> None:
        """As of any array."""
        self[...] = value

    def reshape(self, *shape: Any, **more: Any) -> Any:
        """As of any array, as long as it is another view of the same memory."""
        view = super().reshape(*shape, **more)
        return view if np.shares_memory(_plain(view), _plain(self)) else _cannot_be_noted("a reshape that copies")

    def copy(self, *arguments: Any) -> Any:
        """Would be forgotten."""
        _cannot_be_noted("copy")

    def astype(self, *arguments: Any, **more: Any) -> Any:
        """Would be forgotten."""
        _cannot_be_noted("astype")

    def __array_function__(self, function: Any, *arguments: Any) -> Any:
        """What is no ufunc would be forgotten."""
        _cannot_be_noted(function.__name__)


def _cannot_be_noted(what: str) -> NoReturn:
    raise TypeError(f"{what} cannot be noted: only ufuncs, and setting and filling arrays, can")


def noted(array: Array, calls: list[Call]) -> Noted:
    """A view of an array that notes its calls in the list."""
    view = array.view(Noted)
    view.calls = calls
    return view


def _plain(array: Any) -> Any:
    return array.view(np.ndarray) if isinstance(array, Noted) else array


class NotingWorkspace(Workspace):
    """A workspace whose arrays note their calls."""

    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self._calls = calls

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array with undefined content on top of the stack."""
        return noted(super().empty(shape, dtype), self._calls)


class NotingPast:
    """Stands for a `Past`, and notes that it is to be called."""

    def __init__(self, past: Past, calls: list[Call]) -> None:
        self._past, self._calls = past, calls

    def extend(self, *arguments: Any) -> None:
        """As `Past.extend`."""
        self._call(self._past.extend, arguments)

    def attend(self, *arguments: Any, out: Array) -> None:
        """As `Past.attend`."""
        self._call(self._past.attend, (*arguments, out))

    def _call(self, method: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        call = partial(method, *map(_plain, arguments))
        call()
        self._calls.append(call)


class Plan:
    """The calls for one more token of each of B sequences. `past` must not be exchanged meanwhile."""

    def __init__(self, p: Parameters, config: ModelConfig, B: int, past: Past) -> None:
        self._p, self._config, self._past = p, config, past
        self._calls: list[Call] = []
        dtype = p.flat.dtype
        self._x = np.empty((B, 1, config.d_model), dtype)
        self._cos, self._sin = np.empty((2, B, 1, config.d_head), dtype)

    def __call__(self, tokens: Array) -> Array:
        """What the head reads after these tokens: (B, 1) -> (B, 1, D), to be used before the next call."""
        places = self._past.begin(1)
        self._x[...], _ = enter(tokens, self._p, self._config, places)
        if self._config.positions == "rope":
            self._cos[...], self._sin[...] = rope_angles(places, self._config, self._x.dtype)
        if not self._calls:
            self._y = self._note()
        else:
            for call in self._calls:
                call()
        self._past.lengths += 1
        return self._y

    def _note(self) -> Array:
        """Go through the blocks once, noting; returns where the result stands, now and after each repetition."""
        ws = NotingWorkspace(self._calls)
        x: Array = noted(self._x, self._calls)
        angles = (self._cos, self._sin) if self._config.positions == "rope" else None
        past: Any = NotingPast(self._past, self._calls)
        for i in range(self._config.n_layers):
            with ws.scratch():
                y, _ = block(x, self._p.under(f"blocks.{i}."), self._config, True, ws, NO_DROPOUT, i, angles, past, keep=False)
                x[...] = y
        y, _ = leave(x, self._p, self._config, ws)
        return np.asarray(_plain(y))
