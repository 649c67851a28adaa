"""Data-parallel training on many machines: each rank takes its part of the batch and holds its part of the optimizer state.

The flat gradient vector is cut into buckets, and each bucket into one part per rank. While backward is still running, finished
buckets are sent: each rank sends every other rank the part which that rank owns, and sums what it receives for its own part (a
reduce-scatter). It then updates the parameters of its own parts with moments that only it holds, and the ranks exchange the new
parameters (an all-gather). This is stage 1 of ZeRO (Rajbhandari et al. 2020): the moments take 1/n of the memory, and the
network carries as many bytes as in an all-reduce.

Sums are taken in the order of workers and ranks: the same seed and the same numbers of workers and ranks give the same bits.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, groupby, pairwise

import numpy as np

from minigpt.np.lm_head import count_targets
from minigpt.np.model import GPT
from minigpt.np.network import GradHook
from minigpt.np.ops import NO_DROPOUT, Dropout
from minigpt.np.parameters import Moments, Parameters
from minigpt.np.workspace import Array
from minigpt.training.layer_norms import LayerNorms
from minigpt.training.muon import Muon
from minigpt.training.optimizer import Optimizer, Piece, divide, pieces
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.parallel.mpi import MPIRanks

BUCKET_SIZE = 1 << 19  # elements: 2 MiB in float32 ...
MIN_PART_SIZE = 1 << 13  # ... and more for many ranks: below 32 KiB a message costs more than its bytes (docs/scaling.md)


@dataclass(frozen=True)
class Bucket:
    """A span of the flat vector, and the part of it that each rank owns."""

    span: slice
    parts: list[slice]  # relative to the start of the span

    def part(self, rank: int) -> slice:
        """Return the part that a rank owns, as a slice of the flat vector."""
        return slice(self.span.start + self.parts[rank].start, self.span.start + self.parts[rank].stop)


def buckets(work: list[Piece], ranks: int, smallest: int | None = None) -> list[Bucket]:
    """Return the buckets of a flat vector from its end to its start, the order in which backward finishes them.

    A bucket has at least `smallest` elements, except the last one. It is cut into one part for each rank, and the parts of all
    buckets are assigned to the ranks so that the update takes about the same time on each of them.
    """
    groups = list(_groups(work, smallest or max(BUCKET_SIZE, ranks * MIN_PART_SIZE)))
    parts, costs = zip(*(_cut(group, ranks) for group in groups), strict=True)
    found = []
    for group, own_parts, owned in zip(groups, parts, _assign(costs, ranks), strict=True):
        start = group[0].span.start
        relative = [slice(own_parts[k].start - start, own_parts[k].stop - start) for k in owned]
        found.append(Bucket(slice(start, group[-1].span.stop), relative))
    return found


def _groups(work: list[Piece], smallest: int) -> Iterator[list[Piece]]:
    """Yield the pieces of each bucket."""
    group: list[Piece] = []
    for _, same_span in groupby(reversed(work), key=lambda piece: piece.span.start):  # queries, keys and values have one span
        group = [*same_span, *group]
        if group[-1].span.stop - group[0].span.start >= smallest:
            yield group
            group = []
    if group:
        yield group


def _cut(group: list[Piece], ranks: int) -> tuple[list[slice], list[float]]:
    """Cut a bucket into consecutive parts of about the same cost, one for each rank; return them and their costs.

    Slices of AdamW can be cut anywhere. A cut inside a matrix of Muon moves to the border of the matrix that is nearer.
    """
    spans = {(piece.span.start, piece.span.stop): 0.0 for piece in group}
    for piece in group:
        spans[piece.span.start, piece.span.stop] += piece.cost
    borders = [group[0].span.start, *(stop for _, stop in spans)]
    costs = np.cumsum([0.0, *spans.values()])  # of everything before each border
    cuts = np.rint(np.interp(np.linspace(0, costs[-1], ranks + 1), costs, borders)).astype(int).tolist()
    for start, stop in {(piece.span.start, piece.span.stop) for piece in group if isinstance(piece.group.rule, Muon)}:
        cuts = [(start if cut - start < stop - cut else stop) if start < cut < stop else cut for cut in cuts]
    return [slice(*ends) for ends in pairwise(cuts)], np.diff(np.interp(cuts, borders, costs)).tolist()


def _assign(costs: Sequence[Sequence[float]], ranks: int) -> list[list[int]]:
    """Return for each bucket the number of the part that each rank owns, given the costs of the parts of each bucket.

    Buckets with the most expensive parts come first, and the most expensive part of each goes to the rank with the least work.
    """
    loads, owned = [0.0] * ranks, [[0] * ranks for _ in costs]
    for bucket in sorted(range(len(costs)), key=lambda bucket: -max(costs[bucket])):
        by_cost = sorted(range(ranks), key=lambda part: -costs[bucket][part])
        for rank, part in zip(sorted(range(ranks), key=loads.__getitem__), by_cost, strict=True):
            owned[bucket][rank] = part
            loads[rank] += costs[bucket][part]
    return owned


class MPIDataParallel(DataParallel):
    """`DataParallel` in every rank of an MPI job. The workers are threads, because an MPI process must not fork."""

    def __init__(self, model: GPT, threads: int, micro_batch: int, ranks: MPIRanks, optimizer: Optimizer | None = None) -> None:
        super().__init__(model, threads, micro_batch, optimizer)
        self.ranks, self.is_main = ranks, ranks.rank == 0
        self._first_worker, self._total_workers = ranks.rank * threads, ranks.size * threads
        p = model.parameters
        work = pieces(self.optimizer, model.config, p.shapes)
        self._buckets = buckets(work, ranks.size)
        own = [bucket.part(ranks.rank) for bucket in self._buckets]
        starts = np.cumsum([0, *(part.stop - part.start for part in own)]).tolist()
        self._m, self._v = (np.zeros(starts[-1], p.flat.dtype) for _ in "mv")
        owned = [within(work, part, part.start - start) for part, start in zip(own, starts, strict=False)]
        self._pieces = divide(list(chain.from_iterable(owned)), threads)
        self._received = [np.empty((ranks.size, part.stop - part.start), p.flat.dtype) for part in own]
        self._offsets = dict(zip(p, np.cumsum([0, *(array.size for array in p.values())]).tolist(), strict=False))
        self._lock = threading.Lock()

    def broadcast_initial_state(self) -> None:
        """Broadcast the parameters of rank 0, and scatter its `moments`, which are then freed."""
        with self.phase("loading the data and the model", long=True):
            self.ranks.bcast(self.model.parameters.flat)
            for moment, own in zip(self.moments, (self._m, self._v), strict=True):
                for bucket, span in self._own_moments():
                    self.ranks.scatterv(moment.flat[bucket.span], own[span], bucket.parts)
        self.moments = Moments(*(Parameters({}, own.dtype) for own in (self._m, self._v)))

    def any_rank(self, flag: bool) -> bool:
        """See `DataParallel`."""
        return self.ranks.allreduce_sum([flag])[0] > 0

    def phase(self, name: str, long: bool = False) -> AbstractContextManager[None]:
        """See `DataParallel`."""
        return self.ranks.phase(name, long)

    def score(self, tokens: Array, targets: Array) -> tuple[float, int]:
        """See `DataParallel`."""
        loss, correct = self.ranks.allreduce_sum(super().score(tokens, targets))
        return loss, int(correct)

    def loss_and_grads(self, tokens: Array, targets: Array, drop: Dropout = NO_DROPOUT) -> tuple[float, float]:
        """See `DataParallel`. Each rank has the summed gradient only in its own parts of `grads`."""
        self._final_from = [self.grads.flat.size] * self.threads
        self._requests: list[object] = []
        losses = self._workers.run("gradient_shard", tokens, targets, count_targets(targets), drop)
        self.ranks.wait_all(self._requests)
        squares = chain.from_iterable(self._workers.run("sum_shard"))
        loss, square = self.ranks.allreduce_sum([sum(losses), math.fsum(squares)])
        return loss, math.sqrt(square)

    def grad_hook(self, worker: int) -> GradHook:
        """See `DataParallel`."""
        return lambda prefix: self._mark_final(worker, next(s for name, s in self._offsets.items() if name.startswith(prefix)))

    def worker_finished(self, worker: int) -> None:
        """See `DataParallel`."""
        self._mark_final(worker, 0)

    def sum_shard(self, worker: int) -> list[float]:
        """Sum one worker's part of the received gradients, every n-th bucket; return the sum of squares of each bucket."""
        squares = []
        for bucket, received in list(zip(self._buckets, self._received, strict=True))[worker :: self.threads]:
            g = self.grads.flat[bucket.part(self.ranks.rank)]
            g[...] = received[0]
            for part in received[1:]:
                g += part
            squares.append(float(np.vdot(g, g)))
        return squares

    def first_nonfinite(self) -> str | None:
        """See `DataParallel`."""
        names = list(self.grads)
        own = super().first_nonfinite()
        found = self.ranks.gather_bytes(str(names.index(own) if own else len(names)).encode())
        first = min(map(int, found), default=len(names))
        return names[first] if first < len(names) else None

    def update(self, lr: float, step: int, scale: float, measure: bool = False) -> LayerNorms | None:
        """See `DataParallel`. Each rank updates its own parts, and the ranks then exchange the new parameters."""
        norms = super().update(lr, step, scale, measure)
        p = self.model.parameters.flat
        self.ranks.wait_all([self.ranks.iallgatherv(p[bucket.span], bucket.parts) for bucket in self._buckets])
        return norms

    def sum_over_ranks(self, values: Array) -> Array:
        """See `DataParallel`."""
        return np.reshape(self.ranks.allreduce_sum(values.ravel().tolist()), values.shape)

    def full_moments(self) -> Moments:
        """See `DataParallel`."""
        full = Moments(*(self.model.parameters.zeros_like() for _ in "mv"))
        for moment, own in zip(full, (self._m, self._v), strict=True):
            for bucket, span in self._own_moments():
                self.ranks.gatherv(own[span], moment.flat[bucket.span], bucket.parts)
        return full

    def _own_moments(self) -> Iterator[tuple[Bucket, slice]]:
        """Yield each bucket, and the span of its part in this rank's moments."""
        start = 0
        for bucket in self._buckets:
            part = bucket.part(self.ranks.rank)
            yield bucket, slice(start, start := start + part.stop - part.start)

    def _mark_final(self, worker: int, start: int) -> None:
        """Record that a worker's gradients are final from index `start` on; send the buckets that all workers finished."""
        with self._lock:
            self._final_from[worker] = start
            unsent = self._buckets[len(self._requests) :]
            for i, bucket in enumerate(unsent, start=len(self._requests)):
                if bucket.span.start < max(self._final_from):
                    break
                g = self.grads.flat[bucket.span]
                for partial in self._partial_grads:
                    g += partial.flat[bucket.span]
                self._requests.append(self._send(i, bucket, g))
            self.ranks.test_all(self._requests)

    def _send(self, i: int, bucket: Bucket, g: Array) -> object:
        return self.ranks.ialltoallv(g, self._received[i], bucket.parts)


def within(work: list[Piece], part: slice, offset: int) -> list[Piece]:
    """Return the pieces inside a part of the flat vector. A slice that is partly inside is cut; a matrix never is."""
    found = []
    for piece in work:
        start, stop = max(piece.span.start, part.start), min(piece.span.stop, part.stop)
        if start < stop:
            shape = piece.shape if len(piece.shape) == 2 else (stop - start,)
            found.append(replace(piece, span=slice(start, stop), shape=shape, offset=offset))
    return found
