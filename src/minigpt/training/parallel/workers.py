"""Workers that run a method in parallel, each on its part of the data.

Python runs the bytecode of one thread at a time. NumPy releases the interpreter lock inside its operations, but a training step
consists of very many short operations, and after each of them a thread has to reacquire the lock. Processes have an interpreter
lock each and are faster (docs/performance.md has measurements). They are forked, so that they start with the caller's objects,
and exchange results through vectors from `shared_zeros`. Where fork is not safe (macOS, Windows), the workers are threads.
"""

import atexit
import mmap
import multiprocessing
import os
import select
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import DTypeLike

from minigpt.data.ranks import in_mpi_job
from minigpt.np.workspace import Array
from minigpt.training.interrupt import SIGNALS

CAN_FORK = sys.platform == "linux"


class Workers(Protocol):
    """Workers 0 to n - 1. Worker 0 is the caller itself."""

    def run(self, method: str, *arguments: Any) -> list[Any]:
        """Call target.method(worker, *arguments) on every worker; return the results in the order of the workers.

        An exception in a worker is raised here; for a worker that was killed, `ChildProcessError`. An interrupt of the caller
        (`KeyboardInterrupt`, `SystemExit`) ends the calls of the other workers.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...


Answer = tuple[Any, Exception | None]
"The result of a call, or its exception."


def use_processes(workers: int) -> bool:
    """Return whether this number of workers run as processes.

    The processes of a `multiprocessing.Pool` are daemons, which must not have child processes, and MPI processes must not fork.
    """
    return CAN_FORK and workers > 1 and not multiprocessing.current_process().daemon and not in_mpi_job()


def start_workers(target: object, workers: int, interrupted: threading.Event | None = None) -> Workers:
    """Start workers that call methods of `target`: processes if possible, otherwise threads.

    Threads cannot be ended from outside: `interrupted` is set after an interrupt, and long methods should return if it is.
    """
    if use_processes(workers):
        return ProcessWorkers(target, workers)
    return ThreadWorkers(target, workers, interrupted)


def shared_zeros(size: int, dtype: DTypeLike) -> Array:
    """Return a vector of zeros in memory that is shared with processes forked later. Untouched pages take no memory."""
    return np.frombuffer(mmap.mmap(-1, size * np.dtype(dtype).itemsize), dtype)


def _call(target: object, method: str, worker: int, arguments: tuple[Any, ...]) -> Answer:
    try:
        with np.errstate(all="ignore"):  # non-finite values are found, and reported with a name, in the loss and the gradients
            return getattr(target, method)(worker, *arguments), None
    except Exception as error:
        return None, error


def _results(answers: list[Answer]) -> list[Any]:
    """Return the results. Raises the first exception among the answers."""
    for _, error in answers:
        if error is not None:
            raise error
    return [result for result, _ in answers]


class ThreadWorkers:
    """Workers that are threads of this process."""

    def __init__(self, target: object, workers: int, interrupted: threading.Event | None = None) -> None:
        self._target = target
        self._others = range(1, workers)
        self._interrupted = interrupted or threading.Event()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="minigpt")

    def run(self, method: str, *arguments: Any) -> list[Any]:
        """See `Workers`."""
        futures = [self._pool.submit(_call, self._target, method, worker, arguments) for worker in self._others]
        try:
            answers = [_call(self._target, method, 0, arguments), *(future.result() for future in futures)]
        except BaseException:
            self._interrupted.set()
            self._pool.shutdown()
            raise
        return _results(answers)

    def close(self) -> None:
        """See `Workers`."""
        self._pool.shutdown()


class ProcessWorkers:
    """Workers that are processes forked from this one. They end when this process ends, even if it is killed."""

    def __init__(self, target: object, workers: int) -> None:
        context = multiprocessing.get_context("fork")
        self._target = target
        self._pipes: list[Connection] = []
        self._processes = []
        for worker in range(1, workers):
            parent_end, worker_end = context.Pipe()
            self._pipes.append(parent_end)
            process = context.Process(target=_serve, args=(target, worker, worker_end, list(self._pipes)), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of threads that the child lacks: those of BLAS and of the tokenizer, which it does not use
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            worker_end.close()
            self._processes.append(process)
        atexit.register(self.close)  # without it, Python would wait forever at exit for workers that were not closed

    def run(self, method: str, *arguments: Any) -> list[Any]:
        """See `Workers`."""
        try:
            for worker, pipe in enumerate(self._pipes, 1):
                self._send(worker, pipe, (method, arguments))
            first = _call(self._target, method, 0, arguments)
            answers = [first, *(self._answer(worker) for worker in range(1, 1 + len(self._pipes)))]
        except Exception:
            raise
        except BaseException:
            self._kill()  # a call may last for minutes
            raise
        return _results(answers)

    def close(self) -> None:
        """See `Workers`."""
        atexit.unregister(self.close)
        for pipe in self._pipes:
            pipe.close()
        self._kill()

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()  # a worker has no files to close
        for process in self._processes:
            process.join()

    def _send(self, worker: int, pipe: Connection, call: tuple[str, tuple[Any, ...]]) -> None:
        try:
            pipe.send(call)
        except OSError:
            self._raise_worker_died(worker)

    def _answer(self, worker: int) -> Answer:
        try:
            answer: Answer = self._pipes[worker - 1].recv()
            return answer
        except (EOFError, OSError):
            self._raise_worker_died(worker)

    def _raise_worker_died(self, worker: int) -> NoReturn:
        process = self._processes[worker - 1]
        process.join(timeout=1)
        raise ChildProcessError(
            f"worker {worker} died (exit code {process.exitcode}); the system may have run out of memory"
        ) from None


def _serve(target: object, worker: int, pipe: Connection, parent_ends: list[Connection]) -> None:
    """Run in a worker process: answer calls from the pipe until the parent closes it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent handles them and decides when to stop
    for parent_end in parent_ends:
        parent_end.close()  # inherited by fork; an open copy would keep workers from seeing that their pipe was closed
    threading.Thread(target=_exit_when_closed, args=(pipe,), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            method, arguments = pipe.recv()
            pipe.send(_call(target, method, worker, arguments))


def _exit_when_closed(pipe: Connection) -> None:
    """End this process when the other end of the pipe is closed, even in the middle of a call.

    NumPy releases the interpreter lock inside its operations, so this thread can run at any time.
    """
    hangup = select.poll()
    hangup.register(pipe, 0)  # no event but a hangup, which is always reported
    hangup.poll()
    os._exit(1)
