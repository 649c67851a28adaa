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
from minigpt.np import attention, block, head, model, ops

MODULES = (ops, attention, block, head, model)
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
        return clocked_as(lambda *arguments: name, function)

    def clocked_as(name_of: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            inner.append(0.0)
            start = time.perf_counter()
            result = function(*arguments, **named)
            elapsed = time.perf_counter() - start
            seconds[name_of(*arguments)] += elapsed - inner.pop()
            inner[-1] += elapsed
            return result

        return call

    with ExitStack() as patches:
        for name, functions in _operations().items():
            for module, attribute, function in functions:
                patches.enter_context(patch.object(module, attribute, clocked(name, function)))
        activations = {kind: (clocked(kind, f), clocked(f"{kind}_backward", b)) for kind, (f, b) in block.ACTIVATIONS.items()}
        patches.enter_context(patch.object(block, "ACTIVATIONS", activations))
        name_of_product = lambda a, b: PRODUCTS if is_product(a, b) else SUMS  # noqa: E731
        patches.enter_context(patch.object(np, "matmul", clocked_as(name_of_product, np.matmul)))
        yield seconds


def _operations() -> dict[str, list[tuple[Any, str, Callable[..., Any]]]]:
    """Name -> every place where modules keep the function of that name. Generators are left out: their time is their caller's."""
    found: dict[str, list[tuple[Any, str, Callable[..., Any]]]] = defaultdict(list)
    for module in MODULES:
        for attribute, function in inspect.getmembers(module, inspect.isfunction):
            ours = function.__module__.startswith("minigpt.np.") and not inspect.isgeneratorfunction(inspect.unwrap(function))
            if ours and attribute != "pieces" and attribute != "row_chunks":
                found[attribute].append((module, attribute, function))
    return found
