"""Time a training step in 1, 2 and 4 MPI ranks of one thread, with and without overlap and sharding.

    python benchmarks/ranks.py small --rounds 5

Each round runs one job after the other, because a waiting rank keeps its core busy and would slow down a second job. Within a
job, the variants alternate. Prints a table of medians over all rounds. `--mpiexec "..."` starts the jobs with another command,
for example on two hosts (docs/scaling.md).
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time

import numpy as np

from minigpt.bench.step import LR, SIZES, settings_of
from minigpt.np.model import GPT
from minigpt.np.network import GradHook, no_hook
from minigpt.np.workspace import Array
from minigpt.training.optimizer import Optimizer, clip_scale, divide, pieces
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.parallel.launch import mpiexec
from minigpt.training.parallel.mpi import MPIRanks
from minigpt.training.parallel.mpi_data_parallel import Bucket, MPIDataParallel
from minigpt.training.recipe import optimizer

STEPS = 4  # of each variant per job


class NoOverlap(MPIDataParallel):
    """Send all buckets after backward has finished."""

    def grad_hook(self, worker: int) -> GradHook:
        return no_hook


class NoSharding(MPIDataParallel):
    """Sum the gradient with MPI's own all-reduce; each rank holds all moments and updates all parameters."""

    def __init__(self, model: GPT, threads: int, micro_batch: int, ranks: MPIRanks, optimizer: Optimizer) -> None:
        super().__init__(model, threads, micro_batch, ranks, optimizer)
        self._pieces = divide(pieces(optimizer, model.config, model.parameters.shapes), threads)
        self._m, self._v = (p.flat for p in self.moments)

    def broadcast_initial_state(self) -> None:
        self.ranks.bcast(self.model.parameters.flat)

    def _send(self, i: int, bucket: Bucket, g: Array) -> object:
        return self.ranks._comm.Iallreduce(self.ranks._mpi.IN_PLACE, g)

    def sum_shard(self, worker: int) -> list[float]:
        return [float(np.vdot(self.grads.flat, self.grads.flat)) / self.ranks.size]

    def update(self, lr: float, step: int, scale: float, measure: bool = False) -> None:
        DataParallel.update(self, lr, step, scale)


class Neither(NoOverlap, NoSharding):
    """No overlap and no sharding."""


VARIANTS = {"both": MPIDataParallel, "without overlap": NoOverlap, "without sharding": NoSharding, "without either": Neither}


def train_step(data_parallel: DataParallel, tokens: Array, targets: Array, step: int) -> float:
    """Run one step and return its duration in seconds."""
    start = time.perf_counter()
    _, norm = data_parallel.loss_and_grads(tokens, targets)
    data_parallel.update(LR, step, clip_scale(norm, 1.0))
    return time.perf_counter() - start


def communicate(data_parallel: MPIDataParallel) -> float:
    """Exchange all gradients and all parameters without computing anything; return the duration in seconds."""
    start = time.perf_counter()
    data_parallel.any_rank(False)
    requests = [data_parallel._send(i, b, data_parallel.grads.flat[b.span]) for i, b in enumerate(data_parallel._buckets)]
    data_parallel.ranks.wait_all(requests)
    p = data_parallel.model.parameters.flat
    data_parallel.ranks.wait_all([data_parallel.ranks.iallgatherv(p[b.span], b.parts) for b in data_parallel._buckets])
    return time.perf_counter() - start


def run_as_rank(size: str, first: int) -> None:
    """Time all variants in one rank, starting with variant number `first`; rank 0 prints the seconds of each."""
    ranks = MPIRanks()
    s = settings_of(size)
    config, rule = s.model(s.vocab_size), optimizer(s)
    tokens, targets = np.random.default_rng(0).integers(0, config.vocab_size, (2, s.batch_size, config.context_length))
    seconds: dict[str, list[float]] = {}
    if ranks.size == 1:
        with DataParallel(GPT(config), 1, 0, rule) as data_parallel:
            seconds["alone"] = [train_step(data_parallel, tokens, targets, step) for step in range(1, 3 + STEPS)][2:]
    else:
        kinds = list(VARIANTS.items())
        for name, kind in [*kinds[first:], *kinds[:first]]:
            with kind(GPT(config), 1, 0, ranks, rule) as data_parallel:
                data_parallel.broadcast_initial_state()
                seconds[name] = [train_step(data_parallel, tokens, targets, step) for step in range(1, 3 + STEPS)][2:]
                if kind is MPIDataParallel:
                    seconds["communication alone"] = [communicate(data_parallel) for _ in range(2 * STEPS)][2:]
    if ranks.rank == 0:
        print(json.dumps(seconds), flush=True)


def run_job(size: str, ranks: int, first: int, launcher: list[str]) -> dict[str, list[float]]:
    """Run one job; return the seconds of each variant."""
    command = [*launcher, "-n", str(ranks), sys.executable, "-m", "mpi4py", __file__, size, "--run-as-rank", str(first)]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    overrides = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    env = {key: value for key, value in os.environ.items() if key not in overrides} | root
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=env, check=True)
    return dict(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", default="small", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--mpiexec", help="command that starts a job, in place of mpiexec on this machine")
    parser.add_argument("--run-as-rank", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run_as_rank is not None:
        return run_as_rank(given.size, given.run_as_rank)
    launcher = shlex.split(given.mpiexec) if given.mpiexec else mpiexec()
    seconds: dict[tuple[int, str], list[float]] = {}
    for i in range(given.rounds):
        for ranks in given.ranks:
            for name, times in run_job(given.size, ranks, i % len(VARIANTS), launcher).items():
                seconds.setdefault((ranks, name), []).append(statistics.median(times))
    print_table(given.size, seconds)


def print_table(size: str, seconds: dict[tuple[int, str], list[float]]) -> None:
    s, first = settings_of(size), seconds.get((1, "alone"))
    print(f"{size}, {s.batch_size} x {s.context_length} tokens per step, ranks of one thread\n")
    print("| ranks | | ms per step | tokens/s | speedup over one rank (median of rounds) |\n|---|---|---|---|---|")
    for (ranks, name), times in seconds.items():
        t = statistics.median(times)
        speed = f"{s.batch_size * s.context_length / t:,.0f}" if "communication" not in name else ""
        ratio = statistics.median(a / b for a, b in zip(first, times, strict=True)) if first and speed else None
        print(f"| {ranks} | {name} | {1e3 * t:,.1f} | {speed} | {f'{ratio:.2f}' if ratio else ''} |")


if __name__ == "__main__":
    main()
