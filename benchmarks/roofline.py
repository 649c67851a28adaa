"""The floor under a training step: its own matrix products, run alone.

`record` notes every product of matrices in a step, with shapes and layouts, thread by thread; `replay` runs the same products on
the same number of threads with nothing between them. Products with a vector are not counted: they stand for sums.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

Layout = tuple[tuple[int, ...], tuple[int, ...]]  # shape, strides in elements


@dataclass(frozen=True)
class Product:
    """One call of matmul: left, right and result."""

    left: Layout
    right: Layout
    out: Layout

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add."""
        return 2 * int(np.prod(self.out[0])) * self.left[0][-1]


def record(step: Callable[[], Any]) -> list[list[Product]]:
    """The products of one step, a list for each thread."""
    products: dict[int, list[Product]] = defaultdict(list)
    matmul = np.matmul

    def noted(left: np.ndarray, right: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        result = matmul(left, right, out=out)
        if min(left.ndim, right.ndim) >= 2 and min(*left.shape[-2:], right.shape[-1]) > 1:
            products[threading.get_ident()].append(Product(_layout(left), _layout(right), _layout(result)))
        return result

    with patch.object(np, "matmul", noted):
        step()
    return list(products.values())


def replay(products: list[list[Product]]) -> float:
    """Seconds that the products take by themselves, each thread's list on a thread of its own."""
    prepared = [_arrays(list_) for list_ in products]
    with ThreadPoolExecutor(len(prepared)) as pool:
        start = time.perf_counter()
        list(pool.map(_run, prepared))
        return time.perf_counter() - start


def _layout(array: np.ndarray) -> Layout:
    return array.shape, tuple(stride // array.itemsize for stride in array.strides)


def _arrays(products: list[Product]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Arrays in the layouts of the products; equal layouts share their memory, as the arrays of a workspace do."""
    pool: dict[tuple[str, Layout], np.ndarray] = {}

    def array(role: str, layout: Layout) -> np.ndarray:
        if (role, layout) not in pool:
            shape, strides = layout
            size = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
            memory = np.full(size, 0.01, np.float32)
            pool[role, layout] = np.lib.stride_tricks.as_strided(memory, shape, [4 * stride for stride in strides])
        return pool[role, layout]

    return [(array("left", p.left), array("right", p.right), array("out", p.out)) for p in products]


def _run(arrays: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    for left, right, out in arrays:
        np.matmul(left, right, out=out)
