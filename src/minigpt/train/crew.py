"""Workers that run the same method side by side, each on its share of the work.

Python runs one thread's code at a time. NumPy lets go of that lock inside its operations, but a training step is very many
short ones, and at the end of each a thread has to get the lock back from the others. Processes have a lock each, and are faster
(docs/performance.md says how much). They are forked, so that they begin with all that the caller has, and see each other's work
in vectors from `shared_zeros`. Where a process cannot be forked safely (macOS, Windows), the workers are threads.
"""

import atexit
import mmap
import multiprocessing
import signal
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from minigpt.np.workspace import Array

CAN_FORK = sys.platform == "linux"


class Crew(Protocol):
    """Workers 0 to n - 1; worker 0 is the caller itself."""

    def run(self, method: str, *arguments: Any) -> list[Any]:
        """target.method(worker, *arguments) on every worker; the results in their order.

        An error is raised here, and `ChildProcessError` for a worker that was killed.
        """
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


def are_processes(workers: int) -> bool:
    """Whether so many workers are processes."""
    return CAN_FORK and workers > 1


def crew(target: object, workers: int, may_fork: bool = True) -> Crew:
    """Workers on `target`: processes where they can and may be forked, else threads."""
    return Processes(target, workers) if may_fork and are_processes(workers) else Threads(target, workers)


def shared_zeros(size: int, dtype: DTypeLike) -> Array:
    """A vector of zeros that processes forked from here on share. Pages nobody touches take no memory."""
    return np.frombuffer(mmap.mmap(-1, size * np.dtype(dtype).itemsize), dtype)


def _work(target: object, method: str, worker: int, arguments: tuple[Any, ...]) -> Any:
    with np.errstate(all="ignore"):  # what is not finite is found, and named, in the loss and the gradients
        return getattr(target, method)(worker, *arguments)


class Threads:
    """Workers that are threads of this process."""

    def __init__(self, target: object, workers: int) -> None:
        self._target = target
        self._others = range(1, workers)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="minigpt")

    def run(self, method: str, *arguments: Any) -> list[Any]:
        """See `Crew`."""
        futures = [self._pool.submit(_work, self._target, method, worker, arguments) for worker in self._others]
        try:
            first = _work(self._target, method, 0, arguments)
        finally:
            rest = [future.result() for future in futures]
        return [first, *rest]

    def close(self) -> None:
        """See `Crew`."""
        self._pool.shutdown()


class Processes:
    """Workers that are processes forked from this one; they end with it, whatever ends it."""

    def __init__(self, target: object, workers: int) -> None:
        context = multiprocessing.get_context("fork")
        self._target = target
        self._pipes: list[Connection] = []
        self._processes = []
        for worker in range(1, workers):
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            process = context.Process(target=_serve, args=(target, worker, theirs, list(self._pipes)), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of threads that the child will miss: those of BLAS and of the tokenizer, which it does not use
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            self._processes.append(process)
        atexit.register(self.close)  # where nobody did, Python would wait for them for ever

    def run(self, method: str, *arguments: Any) -> list[Any]:
        """See `Crew`."""
        for worker, pipe in enumerate(self._pipes, 1):
            try:
                pipe.send((method, arguments))
            except OSError:
                self._mourn(worker)
        try:
            results = [_work(self._target, method, 0, arguments)]
        finally:  # after an error, too, the others' answers must be taken from their pipes
            answers = [self._answer(worker) for worker in range(1, 1 + len(self._pipes))]
        for result, error in answers:
            if error is not None:
                raise error
            results.append(result)
        return results

    def close(self) -> None:
        """See `Crew`."""
        atexit.unregister(self.close)
        for pipe in self._pipes:
            pipe.close()  # which is how a worker knows that it is over
        for process in self._processes:
            process.join(timeout=1)
            process.kill()  # one that was interrupted in the middle of something long
            process.join()

    def _answer(self, worker: int) -> tuple[Any, Exception | None]:
        try:
            answer: tuple[Any, Exception | None] = self._pipes[worker - 1].recv()
            return answer
        except (EOFError, OSError):
            self._mourn(worker)
            raise

    def _mourn(self, worker: int) -> None:
        process = self._processes[worker - 1]
        process.join(timeout=1)
        raise ChildProcessError(f"worker {worker} died (exit code {process.exitcode}); was there enough memory?") from None


def _serve(target: object, worker: int, pipe: Connection, not_ours: list[Connection]) -> None:
    """The life of a worker: do what is asked until nobody can ask any more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they concern the caller, which decides when to stop
    for other in not_ours:
        other.close()  # the caller's ends: with a copy open here, no worker would see them closed
    with suppress(EOFError, OSError):
        while True:
            method, arguments = pipe.recv()
            try:
                answer: tuple[Any, Exception | None] = _work(target, method, worker, arguments), None
            except Exception as error:
                answer = None, error
            pipe.send(answer)
