"""Predict the duration of a training step on many machines, from a model of compute and network and a simulation of the buckets.

    python benchmarks/scaling.py            # prints the tables of docs/scaling.md

A step on n machines consists of forward; backward, which finishes the gradients from the last block to the embeddings, while
the network sends each bucket as soon as it is finished and the link is free; a sum of one number (the norm) over all machines;
the update of 1/n of the parameters; and the exchange of the new parameters, bucket by bucket. A bucket of s bytes takes
(n - 1) alpha + (n - 1)/n s / bandwidth seconds.
"""

import argparse
import math
from dataclasses import dataclass, replace

from minigpt.np.config import ModelConfig, preset
from minigpt.np.parameters import shapes
from minigpt.training.parallel.mpi_data_parallel import BUCKET_SIZE, MIN_PART_SIZE

FORWARD = 1 / 3  # part of a step's compute; backward has twice as many matrix products


@dataclass(frozen=True)
class Cluster:
    """Machines and their network."""

    flops: float  # FLOP/s of one machine, over a whole training step
    bandwidth: float  # of one machine, in bytes per second in each direction
    alpha: float  # latency of a message, in seconds
    update: float = 2.5e-9  # seconds to update one parameter


@dataclass(frozen=True)
class Job:
    """A training step on `tokens` tokens, over all machines together."""

    config: ModelConfig
    tokens: int
    overlap: bool = True
    bucket: int = 0  # elements in a bucket; 0 is the size that minigpt uses

    @property
    def sizes(self) -> list[int]:
        """The number of parameters whose gradients backward finishes together: the last block first, the embeddings last."""
        named = shapes(self.config)
        blocks = [
            sum(math.prod(s) for name, s in named.items() if name.startswith(f"blocks.{i}.")) for i in range(self.config.n_layers)
        ]
        return [*reversed(blocks), sum(map(math.prod, named.values())) - sum(blocks)]


def step_time(job: Job, cluster: Cluster, n: int) -> float:
    """Return the duration of a step on n machines, in seconds."""
    P, bucket = sum(job.sizes), job.bucket or max(BUCKET_SIZE, n * MIN_PART_SIZE)
    compute = 6 * P * job.tokens / n / cluster.flops
    if n == 1:
        return compute + P * cluster.update
    time, link, finished, sent = FORWARD * compute, 0.0, 0, 0
    for size in job.sizes:
        time += (1 - FORWARD) * compute * size / P
        finished += size
        while P - sent and (finished - sent >= bucket or finished == P):
            s = min(bucket, P - sent)
            link = max(link, time if job.overlap else FORWARD * compute + (1 - FORWARD) * compute) + transfer(4 * s, cluster, n)
            sent += s
    norm = 2 * math.ceil(math.log2(n)) * cluster.alpha
    gather = math.ceil(P / bucket) * transfer(0, cluster, n) + (n - 1) / n * 4 * P / cluster.bandwidth
    return max(time, link) + norm + P / n * cluster.update + gather


def transfer(size: float, cluster: Cluster, n: int) -> float:
    """Return how long the link is busy with a bucket of `size` bytes, in seconds."""
    return (n - 1) * cluster.alpha + (n - 1) / n * size / cluster.bandwidth


def efficiency(job: Job, cluster: Cluster, n: int) -> float:
    """Return the tokens per second on n machines, divided by n times those on one machine."""
    return step_time(job, cluster, 1) / n / step_time(job, cluster, n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gflops", type=float, default=150.0, help="speed of one machine of two cores in training, in GFLOP/s")
    parser.add_argument("--alpha", type=float, default=30e-6, help="latency of a message, in seconds")
    given = parser.parse_args()
    config = preset("gpt2")
    nodes = (8, 16, 32, 64, 128, 256, 512, 1024)
    batches = {
        "65,536 tokens per machine": 1,
        "four times the batch": 4,
        "sixteen times the batch (accumulation)": 16,
    }
    for machine, speed in (("2 cores, as measured", 1), ("64 cores: 32 times as fast", 32)):
        for gbit in (10, 25, 100):
            cluster = Cluster(given.gflops * 1e9 * speed, gbit / 8 * 1e9 * 0.9, given.alpha, 2.5e-9 / speed)
            print(f"\n{machine}, {gbit} Gbit/s\n\n| | " + " | ".join(map(str, nodes)) + " |\n|---|" + "---|" * len(nodes))
            rows = [(name, 65_536 * times, {}) for name, times in batches.items()]
            rows += [("without overlap", 65_536, {"overlap": False}), ("buckets of 2 MiB", 65_536, {"bucket": BUCKET_SIZE})]
            rows += [("524,288 tokens over all machines", 0, {})]
            for name, tokens, changes in rows:
                cells = []
                for n in nodes:
                    job = replace(Job(config, tokens * n or 524_288), **changes)
                    cells.append(f"{efficiency(job, cluster, n):.0%}")
                print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
