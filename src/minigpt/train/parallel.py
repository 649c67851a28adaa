"""One training step on all cores: each worker takes some of the sequences.

The workers are processes or threads (minigpt.train.crew), each with one BLAS thread. A worker goes through its sequences a few
at a time and adds up the gradients; memory does not grow with the batch. Shares and the order of every sum depend on the number
of workers alone: the same seed and number give the same bits.
"""

import math
from dataclasses import replace
from types import TracebackType

import numpy as np
from threadpoolctl import threadpool_limits

from minigpt.np.head import count_targets
from minigpt.np.model import GPT
from minigpt.np.network import Ready, unheard
from minigpt.np.ops import NO_DROPOUT, Dropout
from minigpt.np.parameters import Parameters
from minigpt.np.workspace import Array, Workspace
from minigpt.train.crew import are_processes, crew, shared_zeros
from minigpt.train.optimizer import AdamW, Moments, pieces

TOKENS_AT_A_TIME = 1024  # enough that products are large and gradients seldom added up, few enough to bound memory


class Team:
    """Workers that train a model together. A context manager: inside it BLAS is limited to one thread a worker.

    `threads` is their number, one for each core. `micro_batch` is the number of sequences a worker takes at a time (0: about
    1,024 tokens). The team owns what the workers share: the model's parameters (moved), their
    gradients `grads`, and the `moments` of the optimizer.
    """

    leads = True
    "Whether it is the caller that writes and prints: of several ranks, one does."

    def __init__(self, model: GPT, threads: int, micro_batch: int = 0, may_fork: bool = True) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}, but must be at least 1")
        self.model = model
        self.threads = threads
        self.micro_batch = micro_batch
        self._forks = may_fork and are_processes(threads)
        self._first_worker, self._workers = 0, threads
        if self._forks:
            parameters = self._zeros()
            parameters.flat[...] = model.parameters.flat
            model.parameters = parameters
        self.grads, self.moments = self._zeros(), Moments(self._zeros(), self._zeros())
        self._partial = [self._zeros() for _ in range(threads - 1)]
        self._workspaces = [Workspace() for _ in range(threads)]
        self._pieces = pieces(model.parameters)
        self._places = [where for where, _ in self._pieces]  # of the moments
        self._m, self._v = (p.flat for p in self.moments)

    def __enter__(self) -> "Team":
        self._limits = threadpool_limits(limits=1, user_api="blas")
        self._crew = crew(self, self.threads, self._forks)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._crew.close()
        self._limits.restore_original_limits()

    def score(self, tokens: Array, targets: Array) -> tuple[float, int]:
        """Mean loss of a batch (B, T), in nats per token, and how many targets were the likeliest token."""
        shares = self._crew.run("share_of_score", tokens, targets, count_targets(targets))
        return sum(loss for loss, _ in shares), sum(correct for _, correct in shares)

    def share_of_score(self, worker: int, tokens: Array, targets: Array, count: int) -> tuple[float, int]:
        """A worker's part of `score`."""
        ws = self._workspaces[worker]
        parts = self._parts(worker, *tokens.shape)
        scores = [self.model.score(tokens[rows], targets[rows], count=count, ws=ws) for rows in parts]
        return sum(loss for loss, _ in scores), sum(correct for _, correct in scores)

    def loss_and_grads(self, tokens: Array, targets: Array, drop: Dropout = NO_DROPOUT) -> tuple[float, float]:
        """Mean loss of a batch (B, T) and the global norm of its gradient, which is left in `grads`."""
        losses = self._crew.run("share_of_gradients", tokens, targets, count_targets(targets), drop)
        return sum(losses), self.sum_gradients()

    def share_of_gradients(self, worker: int, tokens: Array, targets: Array, count: int, drop: Dropout) -> float:
        """A worker's part of `loss_and_grads`: its gradients are left in a vector of its own."""
        out, loss = [self.grads, *self._partial][worker], 0.0
        parts = self._parts(worker, *tokens.shape)
        if not parts:
            out.flat.fill(0)
        for i, rows in enumerate(parts):
            masks = replace(drop, first_sequence=drop.first_sequence + rows.start)
            ready = self.progress(worker) if rows is parts[-1] else unheard
            part_loss, _ = self.model.loss_and_grads(
                tokens[rows],
                targets[rows],
                out=out,
                add=i > 0,
                count=count,
                drop=masks,
                ws=self._workspaces[worker],
                ready=ready,
            )
            loss += part_loss
        self.done(worker)
        return loss

    def progress(self, worker: int) -> Ready:
        """Whom backward tells how far a worker's gradients are final."""
        return unheard

    def done(self, worker: int) -> None:
        """Called when all of a worker's gradients are final."""

    def sum_gradients(self) -> float:
        """Add the workers' gradients up in `grads`; returns their global norm."""
        return math.sqrt(math.fsum(square for squares in self._crew.run("share_of_sum") for square in squares))

    def share_of_sum(self, worker: int) -> list[float]:
        """A worker's part of `sum_gradients`, which is every n-th piece; returns the sum of squares of each."""
        squares = []
        for where, _ in self._pieces[worker :: self.threads]:
            g = self.grads.flat[where]
            for partial in self._partial:
                g += partial.flat[where]
            squares.append(float(np.vdot(g, g)))
        return squares

    def not_finite(self) -> str | None:
        """The first parameter whose gradient is not finite, if there is one."""
        return next((name for name, g in self.grads.items() if not np.isfinite(g).all()), None)

    def update(self, optimizer: AdamW, lr: float, step: int, scale: float) -> None:
        """Change the parameters by the gradients times `scale`."""
        self._crew.run("share_of_update", optimizer, lr, step, scale)

    def share_of_update(self, worker: int, optimizer: AdamW, lr: float, step: int, scale: float) -> None:
        """A worker's part of `update`, the same pieces again."""
        p, g, ws = self.model.parameters.flat, self.grads.flat, self._workspaces[worker]
        own = slice(worker, None, self.threads)
        for (where, decaying), place in zip(self._pieces[own], self._places[own], strict=True):
            optimizer.update(p[where], g[where], self._m[place], self._v[place], lr, step, decaying, scale, ws)

    def whole_moments(self) -> Moments:
        """The moments of all parameters, where this team leads."""
        return self.moments

    def begin(self) -> None:
        """Called once when the parameters and the moments are what the training begins with."""

    def agree(self, flag: bool) -> bool:
        """Whether anybody says so."""
        return flag

    def _zeros(self) -> Parameters:
        """Zeros under the names of the parameters, in memory that all workers see."""
        p = self.model.parameters
        return Parameters(p.shapes, p.flat.dtype, shared_zeros(p.flat.size, p.flat.dtype)) if self._forks else p.like()

    def _parts(self, worker: int, B: int, T: int) -> list[slice]:
        """This worker's sequences, a few at a time."""
        number = self._first_worker + worker
        start, stop = number * B // self._workers, (number + 1) * B // self._workers
        step = self.micro_batch or max(1, TOKENS_AT_A_TIME // T)
        return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]
