"""Observe the intermediate arrays of a forward and a backward pass, and replace them on their way.

The network reports each of its intermediate arrays and their gradients, by name, to the watch of its context. In training this is
`NO_WATCH`, which does nothing. `GPT.trace` uses an `Observer`, which keeps them.
"""

from collections.abc import Callable, Mapping

import numpy as np

from minigpt.np.workspace import Array

Function = Callable[[Array], Array]
Patch = Function | tuple[Function, Function]
"A function that returns the array to use instead of its argument; or two functions, the second of which is its backward pass."


class Watch:
    """Does nothing. The methods of subclasses may modify the arrays that they are given, in place."""

    active = False
    "Whether anything is observed. If so, arrays that training does not store are computed as well."

    def value(self, name: str, x: Array) -> None:
        """Observe an array of the forward pass."""

    def recall(self, name: str, x: Array) -> None:
        """Fill x, which the backward pass computes again, with the value that the forward pass has used."""

    def grad(self, name: str, dx: Array) -> None:
        """Observe the gradient of the loss with respect to a value."""

    def with_prefix(self, prefix: str) -> "Watch":
        """Return a watch that adds a prefix to the names."""
        return self


NO_WATCH = Watch()


class Observer(Watch):
    """Keeps a copy of every value and of its gradient.

    The dimensions of an array are those that a reader expects, whatever the order in memory: the rows of a batch (B * T, n) are
    kept as (B, T, n), and arrays of heads (H, B, ...) or of grouped heads (K, G, B, ...) as (B, H, ...).

    >>> observer = Observer((2, 3), {"up": lambda x: 0 * x})
    >>> x = np.ones((6, 4))
    >>> observer.value("up", x)
    >>> x.sum(), observer.values["up"].shape
    (np.float64(0.0), (2, 3, 4))
    """

    active = True

    def __init__(self, shape: tuple[int, int], patch: Mapping[str, Patch], prefix: str = "") -> None:
        self._shape, self._patch, self._prefix = shape, patch, prefix
        self.values: dict[str, Array] = {}
        self.grads: dict[str, Array] = {}

    def with_prefix(self, prefix: str) -> "Observer":
        """Return an observer that keeps its arrays in the same place."""
        observer = Observer(self._shape, self._patch, self._prefix + prefix)
        observer.values, observer.grads = self.values, self.grads
        return observer

    def value(self, name: str, x: Array) -> None:
        """Replace x if there is a patch for it, and keep a copy."""
        name, view = self._prefix + name, self._view(x)
        if (patch := self._patch.get(name)) is not None:
            function = patch[0] if isinstance(patch, tuple) else patch
            view[...] = _apply(function, view, f"the patch of {name}")
        self.values[name] = view.copy()

    def recall(self, name: str, x: Array) -> None:
        """Fill x with the value that was kept."""
        self._view(x)[...] = self.values[self._prefix + name]

    def grad(self, name: str, dx: Array) -> None:
        """Keep a copy of dx. If the patch has a backward pass, replace dx by the gradient before the patch."""
        name, view = self._prefix + name, self._view(dx)
        self.grads[name] = view.copy()
        if isinstance(patch := self._patch.get(name), tuple):
            view[...] = _apply(patch[1], view, f"the backward pass of the patch of {name}")

    def _view(self, x: Array) -> Array:
        """Return a view of x with the dimensions of a reader. A copy would be an error, because x could not be replaced."""
        if x.ndim == 2:
            return np.reshape(x, (*self._shape, x.shape[1]), copy=False)
        return x if x.ndim == 3 else np.reshape(x, (-1, *x.shape[-3:]), copy=False).swapaxes(0, 1)


def check_patches(patches: Mapping[str, Patch]) -> None:
    """Raise `ValueError` if a patch is neither a function nor a tuple of two functions."""
    for name, patch in patches.items():
        functions = patch if isinstance(patch, tuple) and len(patch) == 2 else (patch,)
        if not all(map(callable, functions)):
            raise ValueError(f"the patch of {name} must be a function, or a tuple of two functions: itself and its backward pass")


def _apply(function: Function, x: Array, what: str) -> Array:
    """Return function(x), which gets a copy. Raises `ValueError` if the result does not have the shape of x."""
    found = function(x.copy())
    if found is None:
        raise ValueError(f"{what} has returned None, but must return the array, even if it has changed it in place")
    result = np.asarray(found)
    if result.shape != x.shape:
        raise ValueError(f"{what} has returned shape {result.shape}, but must return the shape of its argument, {x.shape}")
    return result
