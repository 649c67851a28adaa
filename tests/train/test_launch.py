"""What `minigpt launch` starts again; real jobs are in test_mpi.py."""

import itertools

import pytest

from minigpt.train import launch
from minigpt.train.ranked import BUCKET, SMALLEST_PART, buckets


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--out", "run", "--config", "a.toml", "--overwrite", "--lr", "1"],
        ["train", "--config=a.toml", "--out=run", "--lr", "1", "--resume"],
    ],
)
def test_a_run_that_has_begun_is_resumed_with_its_own_settings(command: list[str]) -> None:
    again = launch._resumed(command)
    assert again[-1] == "--resume" and again.count("--resume") == 1
    assert not {"--overwrite", "--config", "a.toml", "--config=a.toml"} & set(again)
    assert again[-3:-1] == ["--lr", "1"]
    assert str(launch._run_of(command)) == "run"


@pytest.mark.parametrize("codes, starts, end", [([0], 1, 0), ([2], 1, 2), ([143], 1, 143), ([1, 0], 2, 0), ([1, 9, 1, 0], 3, 1)])
def test_only_what_ended_badly_is_started_again(monkeypatch: pytest.MonkeyPatch, codes: list[int], starts: int, end: int) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(launch, "mpiexec", lambda: ["mpiexec"])
    monkeypatch.setattr(launch, "_run", lambda command: started.append(command) or codes[len(started) - 1])
    assert launch.launch(["train", "--out", "none"], ranks=2, restarts=2) == end
    assert len(started) == starts
    assert all(command[:3] == ["mpiexec", "-n", "2"] for command in started)


@pytest.mark.parametrize("size, ranks", [(1, 3), (10, 4), (BUCKET * 2 + 7, 3), (BUCKET * 40, 1000)])
def test_buckets_cover_everything_once_and_their_parts_too(size: int, ranks: int) -> None:
    places = []
    for bucket in buckets(size, ranks):
        parts = [bucket.part(rank) for rank in range(ranks)]
        assert (parts[0].start, parts[-1].stop) == (bucket.where.start, bucket.where.stop)
        assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
        places.append(bucket.where)
    assert places[0].stop == size and places[-1].start == 0
    assert all(later.stop == sooner.start for sooner, later in itertools.pairwise(places))
    assert max(where.stop - where.start for where in places) <= max(BUCKET, ranks * SMALLEST_PART)
