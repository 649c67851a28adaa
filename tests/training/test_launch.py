"""`minigpt launch`: which commands it restarts, and the buckets of ranks. Real MPI jobs are in test_mpi.py."""

import itertools
import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.processes import wait_until

from minigpt.np.parameters import shapes
from minigpt.training.adamw import AdamW
from minigpt.training.muon import Muon
from minigpt.training.optimizer import Piece, pieces
from minigpt.training.parallel import launch
from minigpt.training.parallel.mpi_data_parallel import BUCKET_SIZE, MIN_PART_SIZE, buckets, within
from minigpt.training.recipe import optimizer
from minigpt.training.resolve import resolve


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--out", "run", "--config", "a.toml", "--overwrite", "--lr", "1"],
        ["train", "--config=a.toml", "--out=run", "--lr", "1", "--resume"],
    ],
)
def test_an_existing_run_is_resumed_with_its_own_settings(command: list[str]) -> None:
    resumed = launch._resume_command(command)
    assert resumed[-1] == "--resume" and resumed.count("--resume") == 1
    assert not {"--overwrite", "--config", "a.toml", "--config=a.toml"} & set(resumed)
    assert resumed[-3:-1] == ["--lr", "1"]
    assert str(launch._run_folder(command)) == "run"


@pytest.mark.parametrize("codes, starts, code", [([0], 1, 0), ([2], 1, 2), ([143], 1, 143), ([1, 0], 2, 0), ([1, 9, 1, 0], 3, 1)])
def test_only_failed_commands_are_restarted(monkeypatch: pytest.MonkeyPatch, codes: list[int], starts: int, code: int) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(launch, "mpiexec", lambda: ["mpiexec"])
    monkeypatch.setattr(launch.Job, "run", lambda job, command: started.append(command) or codes[len(started) - 1])
    assert launch.launch(["train", "--out", "none"], ranks=2, restarts=2) == code
    assert len(started) == starts
    assert all(command[:3] == ["mpiexec", "-n", "2"] for command in started)


MPIEXEC = """
import pathlib, signal, sys, time
def handle(number, frame):
    with open({path!r}, "a") as file:
        print(signal.Signals(number).name, file=file)
    if number == signal.SIGTERM:
        sys.exit(1)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, handle)
pathlib.Path({path!r}).touch()
while True:
    time.sleep(0.05)
"""
SAVE, END = "SIGUSR1", "SIGTERM"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize(
    "sent, forwarded",
    [
        (["SIGINT", "SIGINT"], [SAVE, END]),
        (["SIGTERM", "SIGTERM"], [SAVE, END]),
        (["SIGHUP", "SIGHUP", "SIGTERM"], [SAVE, SAVE, END]),
        (["SIGUSR1", "SIGQUIT"], [SAVE, END]),
        (["SIGQUIT"], [END]),
    ],
    ids=" ".join,
)
def test_signals_are_forwarded(tmp_path: Path, sent: list[str], forwarded: list[str]) -> None:
    path = tmp_path / "received"

    def received() -> list[str]:
        return path.read_text(encoding="utf-8").split() if path.exists() else []

    def send() -> None:
        wait_until(path.exists, "mpiexec was not started")
        for count, name in enumerate(sent, 1):
            os.kill(os.getpid(), signal.Signals[name])
            wait_until(lambda n=count: len(received()) >= n, f"{name} was not forwarded")

    sender = threading.Thread(target=send)
    handlers = [signal.getsignal(number) for number in signal.Signals]
    with launch.Job() as job:
        sender.start()
        code = job.run([sys.executable, "-c", MPIEXEC.format(path=str(path))])
    sender.join()
    assert code == 128 + signal.Signals[sent[0]]
    assert received() == forwarded
    assert handlers == [signal.getsignal(number) for number in signal.Signals]


# -------------------------------------------------------------------- buckets


def work_of(**given: Any) -> list[Piece]:
    """Return the pieces of the update of a run with these settings."""
    settings = resolve(given)
    config = settings.model(settings.vocab_size)
    return pieces(optimizer(settings), config, shapes(config))


TINY: dict[str, Any] = {"d_model": 8, "n_layers": 2, "n_heads": 2, "context_length": 4, "vocab_size": 10}
WORK = {
    "tiny": work_of(**TINY),
    "tiny, shared heads": work_of(**TINY, n_kv_heads=1),
    "tiny, gpt2": work_of(**TINY, recipe="gpt2"),
    "quick": work_of(),
    "small": work_of(preset="small"),
    "base": work_of(preset="base"),
    "base, gpt2": work_of(preset="base", recipe="gpt2"),
}
EACH_WORK = pytest.mark.parametrize("work", WORK.values(), ids=WORK)
SMALL = [name for name in WORK if name.startswith("tiny")]
RANKS = [1, 2, 3, 4, 8]


def owned(work: list[Piece], ranks: int, smallest: int | None = None) -> list[list[Piece]]:
    """Return the pieces of each rank."""
    found = buckets(work, ranks, smallest)
    return [[piece for bucket in found for piece in within(work, bucket.part(rank), 0)] for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [*RANKS, 1000])
@pytest.mark.parametrize("name, smallest", [*((name, None) for name in WORK), *itertools.product(SMALL, [1, 100])])
def test_buckets_and_their_parts_cover_the_vector_exactly_once(name: str, ranks: int, smallest: int | None) -> None:
    work = WORK[name]
    size, found = work[-1].span.stop, buckets(work, ranks, smallest)
    assert found[0].span.stop == size and found[-1].span.start == 0
    assert all(second.span.stop == first.span.start for first, second in itertools.pairwise(found))
    limit = smallest or max(BUCKET_SIZE, ranks * MIN_PART_SIZE)
    assert all(bucket.span.stop - bucket.span.start >= limit for bucket in found[:-1])
    for bucket in found:
        parts = sorted((bucket.part(rank) for rank in range(ranks)), key=lambda part: (part.start, part.stop))
        assert (parts[0].start, parts[-1].stop) == (bucket.span.start, bucket.span.stop)
        assert all(a.stop == b.start for a, b in itertools.pairwise(parts))


@EACH_WORK
@pytest.mark.parametrize("ranks", RANKS)
def test_every_matrix_of_muon_belongs_to_one_rank(work: list[Piece], ranks: int) -> None:
    def key(piece: Piece) -> tuple[str, int, int]:
        return piece.parameter, piece.span.start, piece.columns.start or 0

    expected = sorted(key(piece) for piece in work if isinstance(piece.group.rule, Muon))
    found = [piece for own in owned(work, ranks) for piece in own if isinstance(piece.group.rule, Muon)]
    assert sorted(map(key, found)) == expected
    assert all(piece.span.stop - piece.span.start == math.prod(piece.shape) for piece in found)
    indices = sorted((p.span.start, p.span.stop) for own in owned(work, ranks) for p in own if isinstance(p.group.rule, AdamW))
    slices = [p for p in work if isinstance(p.group.rule, AdamW)]
    assert sum(stop - start for start, stop in indices) == sum(math.prod(p.shape) for p in slices)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(indices))


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["quick", "small", "base", "base, gpt2"])
def test_the_work_of_the_ranks_is_balanced(name: str, ranks: int) -> None:
    """With 8 ranks, each has only a few of the matrices, which cannot be cut."""
    loads = [sum(piece.cost for piece in own) for own in owned(WORK[name], ranks)]
    assert max(loads) <= (1.2 if ranks == 8 else 1.12) * sum(loads) / ranks


@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
def test_slices_of_adamw_are_cut_evenly(ranks: int) -> None:
    for bucket in buckets(WORK["base, gpt2"], ranks):
        sizes = [part.stop - part.start for part in bucket.parts]
        assert max(sizes) - min(sizes) <= 1


def test_the_moments_of_a_rank_are_those_of_its_parts() -> None:
    """`offset` is the difference between an index in the flat vector and one in the moments of the rank."""
    for ranks in (2, 3):
        for rank in range(ranks):
            start, covered = 0, []
            for bucket in buckets(WORK["tiny"], ranks, 100):
                part = bucket.part(rank)
                for piece in within(WORK["tiny"], part, part.start - start):
                    covered += piece.view(np.arange(1000), piece.offset).ravel().tolist()
                start += part.stop - part.start
            assert sorted(covered) == list(range(start))
