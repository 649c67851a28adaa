"""What a training step would take on many machines: a small model of compute and network, and a simulation of the buckets.

    python benchmarks/scaling.py            # the tables of docs/scaling.md

A step on n machines is: forward; backward, which finishes gradients from the last block to the embeddings; meanwhile the link
takes one bucket after the other, as soon as it is finished; a sum over all machines of one number (the norm); the update of 1/n
of the parameters; and the new parameters, bucket by bucket. A bucket of s bytes takes (n - 1) alpha + (n - 1)/n s / bandwidth.
"""

import argparse
import math
from dataclasses import dataclass, replace

from minigpt.np.config import ModelConfig, preset
from minigpt.np.parameters import shapes
from minigpt.train.ranked import BUCKET, SMALLEST_PART

FORWARD = 1 / 3  # of the compute of a step; backward has twice its products


@dataclass(frozen=True)
class Cluster:
    """Machines and their network."""

    flops: float  # that one machine reaches in training, over the whole step
    bandwidth: float  # bytes a second, each way, of one machine
    alpha: float  # seconds that a message costs beside its bytes
    update: float = 2.5e-9  # seconds to update one parameter


@dataclass(frozen=True)
class Job:
    """What is trained: all machines take `tokens` together in a step, in so many turns (accumulation)."""

    config: ModelConfig
    tokens: int
    overlap: bool = True
    bucket: int = 0  # numbers in a bucket; 0 is what minigpt takes

    @property
    def sizes(self) -> list[int]:
        """Numbers of parameters that backward finishes together: first the last block, last of all the embeddings."""
        named = shapes(self.config)
        blocks = [
            sum(math.prod(s) for name, s in named.items() if name.startswith(f"blocks.{i}.")) for i in range(self.config.n_layers)
        ]
        return [*reversed(blocks), sum(map(math.prod, named.values())) - sum(blocks)]


def step_time(job: Job, cluster: Cluster, n: int) -> float:
    """Seconds of a step on n machines."""
    P, bucket = sum(job.sizes), job.bucket or max(BUCKET, n * SMALLEST_PART)
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
    """Seconds that the link is busy with a bucket of so many bytes."""
    return (n - 1) * cluster.alpha + (n - 1) / n * size / cluster.bandwidth


def efficiency(job: Job, cluster: Cluster, n: int) -> float:
    """Tokens a second on n machines, by n times those on one."""
    return step_time(job, cluster, 1) / n / step_time(job, cluster, n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gflops", type=float, default=150.0, help="that one machine of two cores reaches in training")
    parser.add_argument("--alpha", type=float, default=30e-6, help="seconds a message costs")
    given = parser.parse_args()
    config = preset("gpt2")
    nodes = (8, 16, 32, 64, 128, 256, 512, 1024)
    levers = {
        "64 x 1,024 tokens a machine": 1,
        "four times the batch": 4,
        "sixteen times (accumulation)": 16,
    }
    for machine, speed in (("2 cores, as here", 1), ("64 cores: 32 times as fast", 32)):
        for gbit in (10, 25, 100):
            cluster = Cluster(given.gflops * 1e9 * speed, gbit / 8 * 1e9 * 0.9, given.alpha, 2.5e-9 / speed)
            print(f"\n{machine}, {gbit} Gbit/s\n\n| | " + " | ".join(map(str, nodes)) + " |\n|---|" + "---|" * len(nodes))
            rows = [(name, 65_536 * times, {}) for name, times in levers.items()]
            rows += [("no overlap", 65_536, {"overlap": False}), ("buckets of 2 MiB always", 65_536, {"bucket": BUCKET})]
            rows += [("524,288 tokens over all machines", 0, {})]
            for name, tokens, changes in rows:
                shares = []
                for n in nodes:
                    job = replace(Job(config, tokens * n or 524_288), **changes)
                    shares.append(f"{efficiency(job, cluster, n):.0%}")
                print(f"| {name} | " + " | ".join(shares) + " |")


if __name__ == "__main__":
    main()
