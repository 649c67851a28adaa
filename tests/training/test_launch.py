"""`minigpt launch`: which commands it restarts, and the buckets of ranks. Real MPI jobs are in test_mpi.py."""

import itertools
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from helpers.processes import wait_until

from minigpt.training.parallel import launch
from minigpt.training.parallel.mpi_data_parallel import BUCKET_SIZE, MIN_PART_SIZE, buckets


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


@pytest.mark.parametrize("size, ranks", [(1, 3), (10, 4), (BUCKET_SIZE * 2 + 7, 3), (BUCKET_SIZE * 40, 1000)])
def test_buckets_and_their_parts_cover_the_vector_exactly_once(size: int, ranks: int) -> None:
    spans = []
    for bucket in buckets(size, ranks):
        parts = [bucket.part(rank) for rank in range(ranks)]
        assert (parts[0].start, parts[-1].stop) == (bucket.span.start, bucket.span.stop)
        assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
        spans.append(bucket.span)
    assert spans[0].stop == size and spans[-1].start == 0
    assert all(second.stop == first.start for first, second in itertools.pairwise(spans))
    assert max(span.stop - span.start for span in spans) <= max(BUCKET_SIZE, ranks * MIN_PART_SIZE)
