"""The floor under a training step: its own matrix products, run alone.

`record` notes the products of matrices in a piece of work, with shapes and layouts; a `Replay` runs the same products on as many
workers with nothing between them. Products with a vector are not counted: they stand for sums.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from minigpt.np.workspace import Array
from minigpt.train.crew import crew

Layout = tuple[tuple[int, ...], tuple[int, ...]]  # shape, strides in elements
Operands = tuple[Array, Array, Array]


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


def is_product(left: Array, right: Array) -> bool:
    """Whether a matmul of these is a product of matrices, and not of a matrix and a vector or column."""
    return min(left.ndim, right.ndim) >= 2 and min(*left.shape[-2:], right.shape[-1]) > 1


def record(work: Callable[[], Any]) -> list[Product]:
    """The products in a piece of work that this thread does."""
    products: list[Product] = []
    matmul = np.matmul

    def noted(left: Array, right: Array, out: Array | None = None) -> Array:
        result: Array = matmul(left, right, out=out)
        if is_product(left, right):
            products.append(Product(_layout(left), _layout(right), _layout(result)))
        return result

    with patch.object(np, "matmul", noted):
        work()
    return products


class Replay:
    """Workers that run lists of products, each its own. BLAS should be limited to one thread meanwhile, as in training."""

    def __init__(self, products: list[list[Product]]) -> None:
        self._products = products
        self._operands: dict[int, list[Operands]] = {}
        self._crew = crew(self, len(products))

    def __call__(self) -> float:
        """Seconds until all of them are done."""
        start = time.perf_counter()
        self._crew.run("share")
        return time.perf_counter() - start

    def share(self, worker: int) -> None:
        """A worker's products."""
        if worker not in self._operands:
            self._operands[worker] = _operands(self._products[worker])
        for left, right, out in self._operands[worker]:
            np.matmul(left, right, out=out)

    def close(self) -> None:
        """Let the workers go."""
        self._crew.close()


def _layout(array: Array) -> Layout:
    return array.shape, tuple(stride // array.itemsize for stride in array.strides)


def _operands(products: list[Product]) -> list[Operands]:
    """Arrays in the layouts of the products; equal layouts share their memory, as the arrays of a workspace do."""
    pool: dict[tuple[str, Layout], Array] = {}

    def array(role: str, layout: Layout) -> Array:
        if (role, layout) not in pool:
            shape, strides = layout
            size = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
            memory = np.full(size, 0.01, np.float32)
            pool[role, layout] = np.lib.stride_tricks.as_strided(memory, shape, [4 * stride for stride in strides])
        return pool[role, layout]

    return [(array("left", p.left), array("right", p.right), array("out", p.out)) for p in products]
