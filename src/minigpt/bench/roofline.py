"""The lower bound for the time of a training step: its matrix products alone.

`record` records the shapes and strides of all matrix products in a function, and `Replay` runs only these products, on the
same number of workers. Products with a vector are not counted, because they compute sums.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from minigpt.np.workspace import Array
from minigpt.training.parallel.workers import start_workers

Layout = tuple[tuple[int, ...], tuple[int, ...]]
"Shape, and strides in elements."
Operands = tuple[Array, Array, Array]


@dataclass(frozen=True)
class Product:
    """The layouts of the operands and the result of one matmul."""

    left: Layout
    right: Layout
    out: Layout
    symmetric: bool = False
    "Whether the right operand is the transpose of the left one, so that BLAS computes only half of the result."

    @property
    def flops(self) -> int:
        """The number of floating-point operations, two for each multiply-add."""
        return (1 if self.symmetric else 2) * int(np.prod(self.out[0])) * self.left[0][-1]


def is_matrix_product(left: Array, right: Array) -> bool:
    """Return whether a matmul multiplies two matrices, rather than a matrix and a vector or a single column."""
    return min(left.ndim, right.ndim) >= 2 and min(*left.shape[-2:], right.shape[-1]) > 1


def record(function: Callable[[], Any]) -> list[Product]:
    """Call a function, and return the matrix products that it computes in this thread."""
    products: list[Product] = []
    matmul = np.matmul

    def recording_matmul(left: Array, right: Array, out: Array | None = None) -> Array:
        result: Array = matmul(left, right, out=out)
        if is_matrix_product(left, right):
            products.append(Product(_layout(left), _layout(right), _layout(result), _is_transpose(left, right)))
        return result

    with patch.object(np, "matmul", recording_matmul):
        function()
    return products


class Replay:
    """Workers that each compute one list of products. Limit BLAS to one thread while they run, as in training."""

    def __init__(self, products: list[list[Product]]) -> None:
        self._products = products
        self._operands: dict[int, list[Operands]] = {}
        self._workers = start_workers(self, len(products))

    def __call__(self) -> float:
        """Compute all products, and return the seconds that they take."""
        start = time.perf_counter()
        self._workers.run("compute")
        return time.perf_counter() - start

    def compute(self, worker: int) -> None:
        """Compute the products of one worker."""
        if worker not in self._operands:
            self._operands[worker] = _operands(self._products[worker])
        for left, right, out in self._operands[worker]:
            np.matmul(left, right, out=out)

    def close(self) -> None:
        """Stop the workers."""
        self._workers.close()


def _is_transpose(left: Array, right: Array) -> bool:
    """Return whether one matrix is the transpose of the other, in the same memory."""
    return left.ctypes.data == right.ctypes.data and (left.shape, left.strides) == (right.T.shape, right.T.strides)


def _layout(array: Array) -> Layout:
    return array.shape, tuple(stride // array.itemsize for stride in array.strides)


def _operands(products: list[Product]) -> list[Operands]:
    """Return arrays with the layouts of the products. Equal layouts share memory, as arrays of a workspace do."""
    arrays: dict[tuple[str, Layout], Array] = {}

    def array(role: str, layout: Layout) -> Array:
        if (role, layout) not in arrays:
            shape, strides = layout
            size = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
            memory = np.full(size, 0.01, np.float32)
            arrays[role, layout] = np.lib.stride_tricks.as_strided(memory, shape, [4 * stride for stride in strides])
        return arrays[role, layout]

    def operands(p: Product) -> Operands:
        left = array("left", p.left)
        return left, left.T if p.symmetric else array("right", p.right), array("out", p.out)

    return [operands(product) for product in products]
