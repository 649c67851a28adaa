"""A training step in 1, 2 and 4 MPI ranks of one thread: tokens/s, and what overlap and sharding bring.

    python benchmarks/ranks.py small --rounds 5

Each round runs one job after the other (a rank that waits keeps its core busy, so two jobs at once would slow each other down);
inside a job the variants take turns. Ends in a table of medians over all rounds. `--mpiexec "..."` starts the jobs another way,
such as over a network (docs/scaling.md).
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from minigpt.bench.step import SIZES
from minigpt.np.model import GPT
from minigpt.np.network import Ready, unheard
from minigpt.np.workspace import Array
from minigpt.train.launch import mpiexec
from minigpt.train.mpi import World
from minigpt.train.optimizer import AdamW, clip_scale, pieces
from minigpt.train.parallel import Team
from minigpt.train.ranked import Bucket, RankTeam

STEPS = 4  # of each variant in a job


class NoOverlap(RankTeam):
    """Everything is sent when backward has ended."""

    def progress(self, worker: int) -> Ready:
        return unheard


class NoSharding(RankTeam):
    """Every rank gets the whole gradient by MPI's own all-reduce, has all moments and updates everything."""

    def __init__(self, model: GPT, threads: int, micro_batch: int, ranks: World) -> None:
        super().__init__(model, threads, micro_batch, ranks)
        self._pieces = pieces(model.parameters)
        self._places = [where for where, _ in self._pieces]
        self._m, self._v = (p.flat for p in self.moments)

    def begin(self) -> None:
        self.ranks.copy(self.model.parameters.flat)

    def _send(self, i: int, bucket: Bucket, g: Array) -> object:
        return self.ranks._comm.Iallreduce(self.ranks._mpi.IN_PLACE, g)

    def share_of_sum(self, worker: int) -> list[float]:
        return [float(np.vdot(self.grads.flat, self.grads.flat)) / self.ranks.size]

    def update(self, optimizer: AdamW, lr: float, step: int, scale: float) -> None:
        Team.update(self, optimizer, lr, step, scale)


class Neither(NoOverlap, NoSharding):
    """Both."""


VARIANTS = {"both": RankTeam, "without overlap": NoOverlap, "without sharding": NoSharding, "without either": Neither}


def train(team: Team, tokens: Array, targets: Array, step: int) -> float:
    """One step; its seconds."""
    start = time.perf_counter()
    _, norm = team.loss_and_grads(tokens, targets)
    team.update(AdamW(), 1e-4, step, clip_scale(norm, 1.0))
    return time.perf_counter() - start


def communicate(team: RankTeam) -> float:
    """The seconds that exchanging all gradients and all parameters takes, with nothing beside it."""
    start = time.perf_counter()
    team.agree(False)
    begun = [team._send(i, b, team.grads.flat[b.where]) for i, b in enumerate(team._buckets)]
    team.ranks.wait(begun)
    p = team.model.parameters.flat
    team.ranks.wait([team.ranks.spread(p[b.where], b.bounds) for b in team._buckets])
    return time.perf_counter() - start


def work(size: str, first: int) -> None:
    """What each rank of a job does; rank 0 prints seconds by variant. They begin with another one in each round."""
    ranks = World()
    config, batch_size = SIZES[size]
    tokens, targets = np.random.default_rng(0).integers(0, config.vocab_size, (2, batch_size, config.context_length))
    found: dict[str, list[float]] = {}
    if ranks.size == 1:
        with Team(GPT(config), 1) as team:
            found["alone"] = [train(team, tokens, targets, step) for step in range(1, 3 + STEPS)][2:]
    else:
        kinds = list(VARIANTS.items())
        for name, kind in [*kinds[first:], *kinds[:first]]:
            with kind(GPT(config), 1, 0, ranks) as team:
                team.begin()
                found[name] = [train(team, tokens, targets, step) for step in range(1, 3 + STEPS)][2:]
                if kind is RankTeam:
                    found["communication alone"] = [communicate(team) for _ in range(2 * STEPS)][2:]
    if ranks.rank == 0:
        print(json.dumps(found), flush=True)


def run(size: str, ranks: int, first: int, start: list[str]) -> dict[str, list[float]]:
    """One job."""
    command = [*start, "-n", str(ranks), sys.executable, "-m", "mpi4py", __file__, size, "--work", str(first)]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    spoilers = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    env = {key: value for key, value in os.environ.items() if key not in spoilers} | root
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=env, check=True)
    return dict(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", default="small", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--mpiexec", help="how to start a job, in place of mpiexec on this machine")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        return work(given.size, given.work)
    start = shlex.split(given.mpiexec) if given.mpiexec else mpiexec()
    seconds: dict[tuple[int, str], list[float]] = {}
    for i in range(given.rounds):
        for ranks in given.ranks:
            for name, times in run(given.size, ranks, i % len(VARIANTS), start).items():
                seconds.setdefault((ranks, name), []).append(statistics.median(times))
    show(given.size, seconds)


def show(size: str, seconds: dict[tuple[int, str], list[float]]) -> None:
    config, batch_size = SIZES[size]
    first: Any = seconds.get((1, "alone"))
    print(f"{size}, {batch_size} x {config.context_length} tokens a step, ranks of one thread\n")
    print("| ranks | | ms a step | tokens/s | times one rank (median of rounds) |\n|---|---|---|---|---|")
    for (ranks, name), times in seconds.items():
        t = statistics.median(times)
        speed = f"{batch_size * config.context_length / t:,.0f}" if "communication" not in name else ""
        ratio = statistics.median(a / b for a, b in zip(first, times, strict=True)) if first and speed else None
        print(f"| {ranks} | {name} | {1e3 * t:,.1f} | {speed} | {f'{ratio:.2f}' if ratio else ''} |")


if __name__ == "__main__":
    main()
