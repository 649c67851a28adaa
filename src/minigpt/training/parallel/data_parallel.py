"""Data-parallel training on all cores: each worker computes the gradients of its part of the batch.

The workers are processes or threads (minigpt.training.parallel.workers) with one BLAS thread each. A worker processes its
sequences in micro-batches and accumulates the gradients, so memory does not grow with the batch. The division of the batch and
the order of every sum depend only on the number of workers: the same seed and number of workers give the same bits.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType

import numpy as np
from threadpoolctl import threadpool_limits

from minigpt.np import ops
from minigpt.np.lm_head import count_targets
from minigpt.np.model import GPT
from minigpt.np.network import GradHook, no_hook
from minigpt.np.ops import NO_DROPOUT, Dropout
from minigpt.np.parameters import Moments, Parameters, first_nonfinite
from minigpt.np.workspace import Arena, Array
from minigpt.training.adamw import AdamW
from minigpt.training.layer_norms import KINDS, LayerNorms, layer_name, layer_names, norms
from minigpt.training.optimizer import Optimizer, divide, pieces
from minigpt.training.parallel.workers import shared_zeros, start_workers, use_processes

TOKENS_PER_MICRO_BATCH = 1024  # large enough for efficient products and few gradient sums, small enough to bound memory


class DataParallel:
    """A model and the workers that train it. A context manager; inside it, BLAS is limited to one thread per worker.

    Owns the memory that the workers share: the parameters of the model (moved there), their gradients `grads`, and the
    `moments` of the optimizer.

    Parameters
    ----------
    model
        The model to train.
    threads
        Number of workers, one per core.
    micro_batch
        Number of sequences that a worker processes at a time; 0 means about 1,024 tokens.
    optimizer
        The update rule of each parameter; by default AdamW for all, with a learning rate of 1.
    """

    is_main = True
    "Whether this process writes files and prints. In an MPI job only rank 0 does."

    def __init__(self, model: GPT, threads: int, micro_batch: int = 0, optimizer: Optimizer | None = None) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}, but must be at least 1")
        self.model = model
        self.threads = threads
        self.micro_batch = micro_batch
        self._fork = use_processes(threads)
        self._first_worker, self._total_workers = 0, threads
        if self._fork:
            parameters = self._zeros()
            parameters.flat[...] = model.parameters.flat
            model.parameters = parameters
        self.grads, self.moments = self._zeros(), Moments(self._zeros(), self._zeros())
        self._partial_grads = [self._zeros() for _ in range(threads - 1)]
        self._workspaces = [Arena() for _ in range(threads)]
        self.optimizer = optimizer or Optimizer.uniform(AdamW())
        self._sum_slices = list(ops.row_blocks(model.parameters.flat.size, 1))
        self._pieces = divide(pieces(self.optimizer, model.config, model.parameters.shapes), threads)
        self._m, self._v = (p.flat for p in self.moments)
        self._interrupted = threading.Event()
        self.on_micro_batch: Callable[[int, int], object] = lambda done, total: None
        "Called during the training step with the number of micro-batches that worker 0 has processed, and their number."

    def __enter__(self) -> "DataParallel":
        self._limits = threadpool_limits(limits=1, user_api="blas")
        self._workers = start_workers(self, self.threads, self._interrupted)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._workers.close()
        self._limits.restore_original_limits()

    def score(self, tokens: Array, targets: Array) -> tuple[float, int]:
        """Return the mean loss of a batch (B, T), in nats per token, and the number of targets that were the likeliest token."""
        scores = self._workers.run("score_shard", tokens, targets, count_targets(targets))
        return sum(loss for loss, _ in scores), sum(correct for _, correct in scores)

    def score_shard(self, worker: int, tokens: Array, targets: Array, count: int) -> tuple[float, int]:
        """Compute one worker's part of `score`."""
        ws = self._workspaces[worker]
        micro_batches = self._micro_batches(worker, *tokens.shape)
        own = self._until_interrupted(micro_batches)
        scores = [self.model.score(tokens[rows], targets[rows], count=count, ws=ws) for rows in own]
        return sum(loss for loss, _ in scores), sum(correct for _, correct in scores)

    def loss_and_grads(self, tokens: Array, targets: Array, drop: Dropout = NO_DROPOUT) -> tuple[float, float]:
        """Return the mean loss of a batch (B, T) and the global norm of its gradient. The gradient is left in `grads`."""
        losses = self._workers.run("gradient_shard", tokens, targets, count_targets(targets), drop)
        return sum(losses), self.sum_gradients()

    def gradient_shard(self, worker: int, tokens: Array, targets: Array, count: int, drop: Dropout) -> float:
        """Compute one worker's part of `loss_and_grads`. Its gradients are left in the worker's own vector."""
        out, loss = [self.grads, *self._partial_grads][worker], 0.0
        micro_batches = self._micro_batches(worker, *tokens.shape)
        if not micro_batches:
            out.flat.fill(0)
        self._report(worker, 0, len(micro_batches))
        for i, rows in enumerate(self._until_interrupted(micro_batches)):
            masks = replace(drop, first_sequence=drop.first_sequence + rows.start)
            hook = self.grad_hook(worker) if rows is micro_batches[-1] else no_hook
            part_loss, _ = self.model.loss_and_grads(
                tokens[rows],
                targets[rows],
                out=out,
                add=i > 0,
                count=count,
                dropout=masks,
                ws=self._workspaces[worker],
                grad_hook=hook,
            )
            loss += part_loss
            self._report(worker, i + 1, len(micro_batches))
        self.worker_finished(worker)
        return loss

    def _report(self, worker: int, done: int, total: int) -> None:
        """Report the micro-batches of worker 0, the caller itself. The other workers have about as many."""
        if worker == 0:
            self.on_micro_batch(done, total)

    def grad_hook(self, worker: int) -> GradHook:
        """Return the hook that backward calls as a worker's gradients become final, in its last micro-batch."""
        return no_hook

    def worker_finished(self, worker: int) -> None:
        """Called when all gradients of a worker are final."""

    def sum_gradients(self) -> float:
        """Sum the gradients of the workers into `grads`; return their global norm."""
        return math.sqrt(math.fsum(square for squares in self._workers.run("sum_shard") for square in squares))

    def sum_shard(self, worker: int) -> list[float]:
        """Compute one worker's part of `sum_gradients`, every n-th slice; return the sum of squares of each slice."""
        squares = []
        for span in self._sum_slices[worker :: self.threads]:
            g = self.grads.flat[span]
            for partial in self._partial_grads:
                g += partial.flat[span]
            squares.append(float(np.vdot(g, g)))
        return squares

    def first_nonfinite(self) -> str | None:
        """Return the name of the first parameter whose gradient is not finite, or None."""
        return first_nonfinite(self.grads)

    def update(self, lr: float, step: int, scale: float, measure: bool = False) -> LayerNorms | None:
        """Update the parameters with the gradients times `scale`. With `measure`, return the norms of each layer.

        The learning rate of each parameter is `lr` times that of its group in the optimizer.
        """
        sums = self._workers.run("update_shard", lr, step, scale, measure)
        return norms(layer_names(self.model.parameters), self.sum_over_ranks(sum(sums))) if measure else None

    def update_shard(self, worker: int, lr: float, step: int, scale: float, measure: bool) -> Array | None:
        """Compute one worker's part of `update`; return its sums of squares (layers, 3) if they are measured."""
        ws, layers = self._workspaces[worker], layer_names(self.model.parameters) if measure else []
        sums = np.zeros((len(layers), len(KINDS)))
        for piece in self._pieces[worker]:
            p, g = piece.view(self.model.parameters.flat), piece.view(self.grads.flat)
            before = p.copy() if measure else None
            m, v = piece.view(self._m, piece.offset), piece.view(self._v, piece.offset)
            piece.group.rule.update(p, g, m, v, lr * piece.group.lr, step, scale, ws)
            if before is not None:
                change = np.subtract(p, before, out=before)
                sums[layers.index(layer_name(piece.parameter))] += [float(np.vdot(x, x)) for x in (g, p, change)]
        return sums if measure else None

    def sum_over_ranks(self, values: Array) -> Array:
        """Return the sum of an array over all ranks."""
        return values

    def full_moments(self) -> Moments:
        """Return the moments of all parameters. In an MPI job only the result on the main rank is complete."""
        return self.moments

    def broadcast_initial_state(self) -> None:
        """Called once before the first step, when the parameters and moments have their initial values."""

    def any_rank(self, flag: bool) -> bool:
        """Return whether the flag is true on any rank."""
        return flag

    def phase(self, name: str, long: bool = False) -> AbstractContextManager[None]:
        """Return the context of a phase of the training, for the watchdog of an MPI job.

        In a long phase, one rank may work for long while the others wait.
        """
        return nullcontext()

    def _until_interrupted(self, micro_batches: list[slice]) -> Iterator[slice]:
        """Yield the micro-batches; raise `InterruptedError` between two of them if worker 0, the caller, was interrupted."""
        for rows in micro_batches:
            if self._interrupted.is_set():
                raise InterruptedError("the training was interrupted")
            yield rows

    def _zeros(self) -> Parameters:
        """Return zeros with the names and shapes of the parameters, in memory that all workers share."""
        p = self.model.parameters
        return Parameters(p.shapes, p.flat.dtype, shared_zeros(p.flat.size, p.flat.dtype)) if self._fork else p.zeros_like()

    def _micro_batches(self, worker: int, B: int, T: int) -> list[slice]:
        """Return the micro-batches of a worker, as slices of the B sequences."""
        number = self._first_worker + worker
        start, stop = number * B // self._total_workers, (number + 1) * B // self._total_workers
        step = self.micro_batch or max(1, TOKENS_PER_MICRO_BATCH // T)
        return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]
