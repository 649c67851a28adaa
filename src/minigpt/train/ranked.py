"""One training step on many machines: each rank takes its share of the batch, and keeps its share of the optimizer's state.

The flat vector of gradients is cut into buckets, and each bucket into as many parts as there are ranks. While backward is still
running, the buckets that are done go out: each rank sends to every other the part which that one owns, and adds up what it
receives for its own (a reduce-scatter). It then updates its parts alone, with moments that nobody else has, and the ranks give
each other the new parameters (an all-gather). This is stage 1 of ZeRO (Rajbhandari et al. 2020): the moments take 1/n of the
memory, and what goes over the network is what an all-reduce would send.

Sums are taken in the order of workers and ranks: the same seed and the same numbers of both give the same bits.
"""

import faulthandler
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np

from minigpt.np.head import count_targets
from minigpt.np.model import GPT
from minigpt.np.network import Ready
from minigpt.np.ops import NO_DROPOUT, Dropout
from minigpt.np.parameters import Parameters
from minigpt.np.workspace import Array
from minigpt.train.mpi import World
from minigpt.train.optimizer import AdamW, Moments, pieces
from minigpt.train.parallel import Team

BUCKET = 1 << 19  # numbers: 2 MiB in float32 ...
SMALLEST_PART = 1 << 13  # ... and more for many ranks, so that a message of 32 KiB is worth its own cost (docs/scaling.md)


@dataclass(frozen=True)
class Bucket:
    """A slice of the flat vector, and where the parts of the ranks in it begin and end."""

    where: slice
    bounds: list[int]  # relative to the slice

    def part(self, rank: int) -> slice:
        """What a rank owns, as a slice of the flat vector."""
        return slice(self.where.start + self.bounds[rank], self.where.start + self.bounds[rank + 1])


def buckets(size: int, ranks: int, largest: int | None = None) -> list[Bucket]:
    """Buckets of a flat vector, from its end to its beginning, as backward finishes them.

    >>> [(bucket.where.start, bucket.bounds) for bucket in buckets(10, ranks=2, largest=4)]
    [(6, [0, 2, 4]), (2, [0, 2, 4]), (0, [0, 1, 2])]
    """
    largest = largest or max(BUCKET, ranks * SMALLEST_PART)
    stops = range(size, 0, -largest)
    slices = [slice(max(0, stop - largest), stop) for stop in stops]
    return [Bucket(s, [(s.stop - s.start) * rank // ranks for rank in range(ranks + 1)]) for s in slices]


class RankTeam(Team):
    """A team in each rank, whose workers are threads (MPI and fork do not go together).

    `limit` is the number of seconds that a rank waits for the others before it ends the job (0: for ever).
    """

    def __init__(self, model: GPT, threads: int, micro_batch: int, ranks: World, limit: int = 0) -> None:
        super().__init__(model, threads, micro_batch, may_fork=False)
        self.ranks, self.limit = ranks, limit
        self.leads = ranks.rank == 0
        self._first_worker, self._workers = ranks.rank * threads, ranks.size * threads
        p = model.parameters
        self._buckets = buckets(p.flat.size, ranks.size)
        own = [bucket.part(ranks.rank) for bucket in self._buckets]
        self._pieces = list(chain.from_iterable(pieces(p, part) for part in own))
        stops = np.cumsum([0, *(where.stop - where.start for where, _ in self._pieces)]).tolist()
        self._places = [slice(start, stop) for start, stop in pairwise(stops)]
        self._m, self._v = (np.zeros(stops[-1], p.flat.dtype) for _ in "mv")
        self._received = [np.empty((ranks.size, part.stop - part.start), p.flat.dtype) for part in own]
        self._starts = dict(zip(p, np.cumsum([0, *(array.size for array in p.values())]).tolist(), strict=False))
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Give all ranks the parameters of rank 0, and each its part of the `moments` there, which are not needed any more."""
        with self._watched():
            self.ranks.copy(self.model.parameters.flat)
            for whole, own in zip(self.moments, (self._m, self._v), strict=True):
                for bucket, place in self._own_places():
                    self.ranks.deal(whole.flat[bucket.where], own[place], bucket.bounds)
        self.moments = Moments(*(Parameters({}, own.dtype) for own in (self._m, self._v)))

    def agree(self, flag: bool) -> bool:
        """Whether any rank says so."""
        with self._watched():
            return self.ranks.sum([flag])[0] > 0

    def score(self, tokens: Array, targets: Array) -> tuple[float, int]:
        """See `Team`."""
        with self._watched():
            loss, correct = self.ranks.sum(super().score(tokens, targets))
            return loss, int(correct)

    def loss_and_grads(self, tokens: Array, targets: Array, drop: Dropout = NO_DROPOUT) -> tuple[float, float]:
        """See `Team`. Of `grads` each rank has the sum in its own parts alone."""
        self._reached = [self.grads.flat.size] * self.threads
        self._sent: list[object] = []
        with self._watched():
            losses = self._crew.run("share_of_gradients", tokens, targets, count_targets(targets), drop)
            self.ranks.wait(self._sent)
            squares = chain.from_iterable(self._crew.run("share_of_sum"))
            loss, square = self.ranks.sum([sum(losses), math.fsum(squares)])
            return loss, math.sqrt(square)

    def progress(self, worker: int) -> Ready:
        """See `Team`."""
        return lambda prefix: self._passed(worker, next(s for name, s in self._starts.items() if name.startswith(prefix)))

    def done(self, worker: int) -> None:
        """See `Team`."""
        self._passed(worker, 0)

    def share_of_sum(self, worker: int) -> list[float]:
        """A worker's part of the sum over ranks: every n-th bucket; returns the sum of squares of each."""
        squares = []
        for bucket, received in list(zip(self._buckets, self._received, strict=True))[worker :: self.threads]:
            g = self.grads.flat[bucket.part(self.ranks.rank)]
            g[...] = received[0]
            for part in received[1:]:
                g += part
            squares.append(float(np.vdot(g, g)))
        return squares

    def not_finite(self) -> str | None:
        """See `Team`."""
        names = list(self.grads)
        own = super().not_finite()
        found = self.ranks.gather(str(names.index(own) if own else len(names)).encode())
        first = min(map(int, found), default=len(names))
        return names[first] if first < len(names) else None

    def update(self, optimizer: AdamW, lr: float, step: int, scale: float) -> None:
        """See `Team`: each rank updates its own parts."""
        with self._watched():
            super().update(optimizer, lr, step, scale)
            p = self.model.parameters.flat
            self.ranks.wait([self.ranks.spread(p[bucket.where], bucket.bounds) for bucket in self._buckets])

    def whole_moments(self) -> Moments:
        """See `Team`: on rank 0 those of all ranks, elsewhere nothing of use."""
        whole = Moments(*(self.model.parameters.like() for _ in "mv"))
        with self._watched():
            for p, own in zip(whole, (self._m, self._v), strict=True):
                for bucket, place in self._own_places():
                    self.ranks.collect(own[place], p.flat[bucket.where], bucket.bounds)
        return whole

    def _own_places(self) -> Iterator[tuple[Bucket, slice]]:
        """Each bucket, and where this rank keeps the moments of its part."""
        start = 0
        for bucket in self._buckets:
            part = bucket.part(self.ranks.rank)
            yield bucket, slice(start, start := start + part.stop - part.start)

    def _passed(self, worker: int, start: int) -> None:
        """A worker's gradients are final from `start` on: what no worker will touch any more is added up and sent."""
        with self._lock:
            self._reached[worker] = start
            waiting = self._buckets[len(self._sent) :]
            for i, bucket in enumerate(waiting, start=len(self._sent)):
                if bucket.where.start < max(self._reached):
                    break
                g = self.grads.flat[bucket.where]
                for partial in self._partial:
                    g += partial.flat[bucket.where]
                self._sent.append(self._send(i, bucket, g))
            self.ranks.test(self._sent)

    def _send(self, i: int, bucket: Bucket, g: Array) -> object:
        return self.ranks.exchange(g, self._received[i], bucket.bounds)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Inside the `with`, a rank that waits for too long for the others says where, and ends; and MPI ends the others."""
        if self.limit:
            faulthandler.dump_traceback_later(self.limit, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
