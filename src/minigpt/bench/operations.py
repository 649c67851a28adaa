"""Where the time of a training step goes: the seconds spent in each operation of `minigpt.np`."""

import inspect
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from minigpt.bench.roofline import is_product
from minigpt.np import activations, attention, block, head, heads, model, network, norms, ops, positions
from minigpt.np.workspace import Array

MODULES = (ops, activations, norms, positions, attention, heads, block, head, network, model)
PRODUCTS, SUMS = "matrix products", "sums, as products with a vector"
Seconds = dict[str, float]


@contextmanager
def timed() -> Iterator[Seconds]:
    """Inside the `with`, the time that this process spends in each operation adds up in the dict.

    The time of an operation is without that of the operations it calls; matrix products are `PRODUCTS` wherever they stand.
    Enter it before a `Team`, whose workers then have the same overhead as their caller.
    """
    seconds: Seconds = defaultdict(float)
    inner: list[float] = [0.0]  # time in operations called by the one that runs, for each that runs

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            inner.append(0.0)
            start = time.perf_counter()
            result = function(*arguments, **named)
            elapsed = time.perf_counter() - start
            seconds[name] += elapsed - inner.pop()
            inner[-1] += elapsed
            return result

        return call

    product, total = clocked(PRODUCTS, np.matmul), clocked(SUMS, np.matmul)

    def matmul(left: Array, right: Array, out: Array | None = None) -> Array:
        return np.asarray((product if is_product(left, right) else total)(left, right, out=out))

    with ExitStack() as patches:
        for module, name, function in _operations():
            patches.enter_context(patch.object(module, name, clocked(name, function)))
        clocked_activations = {
            kind: (clocked(kind, f), clocked(f"{kind}_backward", b)) for kind, (f, b) in block.ACTIVATIONS.items()
        }
        patches.enter_context(patch.object(block, "ACTIVATIONS", clocked_activations))
        patches.enter_context(patch.object(np, "matmul", matmul))
        yield seconds


def _operations() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Every place where a module keeps an operation. What returns an iterator is left out: its time is its caller's."""
    for module in MODULES:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            iterates = inspect.isgeneratorfunction(inspect.unwrap(function)) or name in ("pieces", "row_chunks")
            if function.__module__.startswith("minigpt.np.") and not iterates:
                yield module, name, function
