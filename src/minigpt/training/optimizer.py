"""The optimizer: which parameter follows which update rule, with which learning rate, and how the work is divided.

The flat parameter vector is divided into pieces, which workers update independently of each other. A piece of AdamW is a slice
that fits in the cache. A piece of Muon is a whole matrix: the projections of queries, keys and values are three of them.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from minigpt.np import ops
from minigpt.np.config import ModelConfig
from minigpt.np.parameters import qkv_columns
from minigpt.np.workspace import Array
from minigpt.training.adamw import AdamW
from minigpt.training.muon import Muon

GROUPS = {
    "matrices": "the weights of the linear layers in the blocks",
    "embedding": "the token embedding, which is also a tied LM head, and learned positions",
    "head": "an untied LM head",
    "vectors": "gamma, beta and biases",
}
"The groups of parameters, each with an update rule and a learning rate of its own."
NS_PER_ELEMENT, FLOPS_PER_NS = 2, 75
"""The speed of an update on one core: of the passes over the elements, and of the matrix products of Muon.

On an AMD EPYC, AdamW took 2.1 ns per element, and the products of Muon ran at 60 to 85 operations per ns with a d_model of 128,
and at 80 to 95 with 256 and 512.
"""


def group_of(name: str) -> str:
    """Return the group of a parameter.

    >>> [group_of(name) for name in ("token_embedding", "blocks.0.attention.qkv.weight", "blocks.0.attention.qkv.bias", "head")]
    ['embedding', 'matrices', 'vectors', 'head']
    """
    if name.endswith("_embedding"):
        return "embedding"
    if name == "head":
        return "head"
    return "matrices" if name.endswith(".weight") else "vectors"


@dataclass(frozen=True)
class Group:
    """The update rule of a group of parameters, and its peak learning rate."""

    rule: AdamW | Muon
    lr: float


@dataclass(frozen=True)
class Optimizer:
    """The update rule and the learning rate of each group of parameters, by the names in `GROUPS`."""

    groups: Mapping[str, Group]

    @classmethod
    def uniform(cls, rule: AdamW, lr: float = 1.0) -> "Optimizer":
        """Return an optimizer with one rule and one learning rate for all parameters. Vectors do not decay."""
        vectors = replace(rule, weight_decay=0.0)
        return cls({name: Group(vectors if name == "vectors" else rule, lr) for name in GROUPS})

    def group(self, parameter: str) -> Group:
        """Return the group of a parameter."""
        return self.groups[group_of(parameter)]


@dataclass(frozen=True)
class Piece:
    """A part of the flat parameter vector that is updated at once."""

    parameter: str
    group: Group
    span: slice
    "The part, or for Muon the whole parameter, as a slice of the flat vector."
    shape: tuple[int, ...]
    "The shape of that slice: (n,), or for Muon (inputs, outputs)."
    columns: slice
    "The columns of the matrix, for Muon."
    offset: int = 0
    "The index in the flat vector of the first element of the vectors of moments, which hold only one rank's parts in an MPI job."

    def view(self, vector: Array, offset: int = 0) -> Array:
        """Return this part of a vector whose first element has the index `offset` in the flat vector."""
        array = vector[self.span.start - offset : self.span.stop - offset].reshape(self.shape)
        return array[:, self.columns] if array.ndim == 2 else array

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of `view`."""
        if len(self.shape) == 1:
            return self.shape
        start, stop, _ = self.columns.indices(self.shape[1])
        return self.shape[0], stop - start

    @property
    def flops(self) -> int:
        """The floating-point operations of the matrix products of the update."""
        return self.group.rule.flops(*self.view_shape) if isinstance(self.group.rule, Muon) else 0

    @cached_property
    def cost(self) -> float:
        """The approximate time of the update, in nanoseconds."""
        return NS_PER_ELEMENT * prod(self.view_shape) + self.flops / FLOPS_PER_NS


def pieces(optimizer: Optimizer, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> list[Piece]:
    """Divide the parameters, which have these shapes, into pieces in the order of the flat vector.

    >>> config = ModelConfig(vocab_size=10, context_length=8, d_model=16, n_layers=1, n_heads=2)
    >>> groups = {**Optimizer.uniform(AdamW()).groups, "matrices": Group(Muon(), 0.02)}
    >>> for piece in pieces(Optimizer(groups), config, {"blocks.0.attention.qkv.weight": (16, 48), "head": (10, 16)}):
    ...     print(piece.parameter, piece.span, piece.columns)
    blocks.0.attention.qkv.weight slice(0, 768, None) slice(0, 16, None)
    blocks.0.attention.qkv.weight slice(0, 768, None) slice(16, 32, None)
    blocks.0.attention.qkv.weight slice(0, 768, None) slice(32, 48, None)
    head slice(768, 928, None) slice(None, None, None)
    """
    found, start = [], 0
    for name, shape in shapes.items():
        found += list(_pieces_of(name, shape, start, optimizer.group(name), config))
        start += prod(shape)
    return found


def _pieces_of(name: str, shape: tuple[int, ...], start: int, group: Group, config: ModelConfig) -> Iterator[Piece]:
    size = prod(shape)
    if isinstance(group.rule, Muon):
        for columns in qkv_columns(config) if name.endswith("qkv.weight") else [slice(None)]:
            yield Piece(name, group, slice(start, start + size), shape, columns)
        return
    for block in ops.row_blocks(size, 1):
        span = slice(start + block.start, start + block.stop)
        yield Piece(name, group, span, (span.stop - span.start,), slice(None))


def divide(work: list[Piece], workers: int) -> list[list[Piece]]:
    """Divide pieces among workers, so that all of them take about the same time: the largest first, each to who has the least.

    The result of an update does not depend on this division.
    """
    shares: list[list[Piece]] = [[] for _ in range(workers)]
    load = [(0.0, worker) for worker in range(workers)]
    for piece in sorted(work, key=lambda piece: -piece.cost):
        cost, worker = heapq.heappop(load)
        shares[worker].append(piece)
        heapq.heappush(load, (cost + piece.cost, worker))
    return shares


def update_seconds(work: list[Piece], workers: int) -> float:
    """Return the approximate time of an update by this number of workers."""
    return max(sum(piece.cost for piece in share) for share in divide(work, workers)) / 1e9


def clip_scale(norm: float, max_norm: float) -> float:
    """Return the factor that scales gradients of this global norm to at most `max_norm`, as in PyTorch. 0 disables clipping.

    >>> round(clip_scale(4.0, max_norm=1.0), 6), clip_scale(0.5, max_norm=1.0)
    (0.25, 1.0)
    """
    return min(1.0, max_norm / (norm + 1e-6)) if max_norm > 0 else 1.0
