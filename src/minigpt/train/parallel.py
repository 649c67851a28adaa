"""One training step on all cores: each thread takes some of the sequences.

NumPy releases Python's lock inside its array operations, so threads run side by side, each with one BLAS thread. A thread works
through its sequences a few at a time and adds up the gradients; memory does not grow with the batch. Shares and the order of
every sum depend on the number of threads alone: the same seed and thread count give the same bits.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from minigpt.np.head import count_targets
from minigpt.np.model import GPT
from minigpt.np.ops import NO_DROPOUT, Dropout
from minigpt.np.parameters import Parameters
from minigpt.np.workspace import Array, Workspace
from minigpt.train.optimizer import AdamW, pieces

Result = TypeVar("Result")

TOKENS_AT_A_TIME = 1024  # few enough that activations stay close to the core, enough that products are large


class Team:
    """Threads that train a model together. A context manager: inside it BLAS is limited to one thread a caller.

    `micro_batch` is the number of sequences a thread works on at a time (0: about 1,024 tokens).
    """

    def __init__(self, model: GPT, threads: int, micro_batch: int = 0) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}, but must be at least 1")
        self.model = model
        self.threads = threads
        self.micro_batch = micro_batch
        self.grads = model.parameters.like()
        self._partial = [model.parameters.like() for _ in range(threads - 1)]
        self._workspaces = [Workspace() for _ in range(threads)]
        self._pieces = list(pieces(model.parameters))

    def __enter__(self) -> "Team":
        self._limits = threadpool_limits(limits=1, user_api="blas")
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="minigpt")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown()
        self._limits.restore_original_limits()

    def loss(self, tokens: Array, targets: Array) -> float:
        """Mean loss of a batch (B, T), in nats per token."""
        count = count_targets(targets)

        def share(worker: int) -> float:
            ws = self._workspaces[worker]
            parts = self._parts(worker, *tokens.shape)
            return sum(self.model.loss(tokens[rows], targets[rows], count=count, ws=ws) for rows in parts)

        return sum(self._each(share))

    def loss_and_grads(self, tokens: Array, targets: Array, drop: Dropout = NO_DROPOUT) -> tuple[float, float]:
        """Mean loss of a batch (B, T) and the global norm of its gradient, which is left in `grads`."""
        count = count_targets(targets)

        def share(worker: int) -> float:
            out, loss = self._outs[worker], 0.0
            parts = self._parts(worker, *tokens.shape)
            if not parts:
                out.flat.fill(0)
            for i, rows in enumerate(parts):
                masks = replace(drop, first_sequence=drop.first_sequence + rows.start)
                part_loss, _ = self.model.loss_and_grads(
                    tokens[rows], targets[rows], out=out, add=i > 0, count=count, drop=masks, ws=self._workspaces[worker]
                )
                loss += part_loss
            return loss

        return sum(self._each(share)), self.sum_gradients()

    def update(self, optimizer: AdamW, m: Parameters, v: Parameters, lr: float, step: int, scale: float) -> None:
        """Change the parameters by the gradients times `scale`; m and v are the optimizer's moments."""
        p, g = self.model.parameters.flat, self.grads.flat

        def share(worker: int) -> None:
            for where, decays in self._pieces[worker :: self.threads]:
                optimizer.update(p[where], g[where] * scale, m.flat[where], v.flat[where], lr, step, decays)

        self._each(share)

    def sum_gradients(self) -> float:
        """Add the threads' gradients up in `grads`; returns their global norm."""

        def share(worker: int) -> list[float]:
            squares = []
            for where, _ in self._pieces[worker :: self.threads]:
                g = self.grads.flat[where]
                for partial in self._partial:
                    g += partial.flat[where]
                squares.append(float(np.vdot(g, g)))
            return squares

        return math.sqrt(math.fsum(square for squares in self._each(share) for square in squares))

    @property
    def _outs(self) -> list[Parameters]:
        return [self.grads, *self._partial]

    def _parts(self, worker: int, B: int, T: int) -> list[slice]:
        """This worker's sequences, a few at a time."""
        start, stop = worker * B // self.threads, (worker + 1) * B // self.threads
        step = self.micro_batch or max(1, TOKENS_AT_A_TIME // T)
        return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]

    def _each(self, share: Callable[[int], Result]) -> list[Result]:
        """Run share(worker) on every thread; results in the order of the workers, an error is raised here."""

        def quietly(worker: int) -> Result:
            with np.errstate(all="ignore"):  # what is not finite is found, and named, in the loss and the gradients
                return share(worker)

        return [future.result() for future in [self._pool.submit(quietly, worker) for worker in range(self.threads)]]
