"""Measure the time that each operation of `minigpt.np` takes in a training step."""

import inspect
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from minigpt.bench.roofline import is_matrix_product
from minigpt.np import activations, attention, block, lm_head, loss, model, multi_head_attention, network, norms, ops, positions
from minigpt.np.workspace import Array

MODULES = (ops, loss, activations, norms, positions, attention, multi_head_attention, block, lm_head, network, model)
PRODUCTS, SUMS = "matrix products", "sums, as products with a vector"
Seconds = dict[str, float]


@contextmanager
def timed() -> Iterator[Seconds]:
    """Yield a dict that accumulates the time that this process spends in each operation inside the `with` block.

    The time of an operation excludes the operations that it calls. Matrix products are counted under `PRODUCTS`, wherever they
    are called. Enter this before a `DataParallel`, so that its worker processes have the same overhead.
    """
    seconds: Seconds = defaultdict(float)
    nested: list[float] = [0.0]  # for each running operation, the time in the operations that it called

    def timed_function(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nested.append(0.0)
            start = time.perf_counter()
            result = function(*arguments, **named)
            elapsed = time.perf_counter() - start
            seconds[name] += elapsed - nested.pop()
            nested[-1] += elapsed
            return result

        return call

    matrix_product, vector_product = timed_function(PRODUCTS, np.matmul), timed_function(SUMS, np.matmul)

    def matmul(left: Array, right: Array, out: Array | None = None) -> Array:
        multiply = matrix_product if is_matrix_product(left, right) else vector_product
        return np.asarray(multiply(left, right, out=out))

    with ExitStack() as patches:
        for module, name, function in _operations():
            patches.enter_context(patch.object(module, name, timed_function(name, function)))
        timed_activations = {
            kind: (timed_function(kind, forward), timed_function(f"{kind}_backward", backward))
            for kind, (forward, backward) in block.ACTIVATIONS.items()
        }
        patches.enter_context(patch.object(block, "ACTIVATIONS", timed_activations))
        patches.enter_context(patch.object(np, "matmul", matmul))
        yield seconds


def _operations() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Yield (module, name, function) for every name of an operation. The time of iterators is counted for the caller."""
    for module in MODULES:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            is_iterator = inspect.isgeneratorfunction(inspect.unwrap(function)) or name in ("row_blocks", "row_chunks")
            if function.__module__.startswith("minigpt.np.") and not is_iterator:
                yield module, name, function
