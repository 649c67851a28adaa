"""Workers that share a batch: the same result however it is split, whether they are processes or threads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from minigpt import GPT, ModelConfig
from minigpt.np.ops import IGNORE, NO_DROPOUT, Dropout
from minigpt.train import crew
from minigpt.train.optimizer import AdamW
from minigpt.train.parallel import TOKENS_AT_A_TIME, Team

KINDS = [False] + [True] * crew.CAN_FORK
CONFIG = ModelConfig(vocab_size=19, context_length=8, d_model=12, n_layers=2, n_heads=3)


@pytest.fixture(params=KINDS, ids=lambda can_fork: "processes" if can_fork else "threads", autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "CAN_FORK", request.param)


def model(seed: int = 0) -> GPT:
    gpt = GPT(CONFIG, dtype=np.float64)
    gpt.parameters.flat[...] += np.random.default_rng(seed).standard_normal(gpt.parameters.flat.size) / 10
    return gpt


def batch(B: int = 6) -> Any:
    tokens, targets = np.random.default_rng(1).integers(0, 19, (2, B, 8))
    targets[0, :5] = IGNORE  # parts with different numbers of targets that count
    return tokens, targets


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [0, 1, 2, 3])
@pytest.mark.parametrize("drop", [NO_DROPOUT, Dropout(0.3, seed=1, step=4)], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("B", [1, 2, 6, 7])
def test_loss_and_gradient_are_those_of_the_whole_batch(threads: int, micro_batch: int, drop: Dropout, B: int) -> None:
    gpt, (tokens, targets) = model(), batch(B)
    loss, g = gpt.loss_and_grads(tokens, targets, drop=drop)
    with Team(gpt, threads, micro_batch) as team:
        for _ in range(2):  # the second time over the gradients of the first
            team_loss, norm = team.loss_and_grads(tokens, targets, drop)
            assert team_loss == pytest.approx(loss, rel=1e-12)
            assert norm == pytest.approx(np.linalg.norm(g.flat), rel=1e-12)
            np.testing.assert_allclose(team.grads.flat, g.flat, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_score_is_that_of_the_whole_batch(threads: int) -> None:
    gpt, (tokens, targets) = model(), batch()
    targets[1:3, ::2] = gpt.logits(tokens).argmax(-1)[1:3, ::2]  # so that some are right
    right = int((gpt.logits(tokens).argmax(-1) == targets).sum())
    with Team(gpt, threads, micro_batch=2) as team:
        loss, correct = team.score(tokens, targets)
    assert loss == pytest.approx(gpt.loss(tokens, targets), rel=1e-12)
    assert correct == right >= 8


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_sequence_is_some_threads_share_once(threads: int) -> None:
    team = Team(model(), threads)
    for B in range(1, 12):
        rows = [row for worker in range(threads) for part in team._parts(worker, B, 8) for row in range(B)[part]]
        assert rows == list(range(B))
    assert max(len(range(10**4)[part]) for part in team._parts(0, 10**4, 8)) == TOKENS_AT_A_TIME // 8


def after_steps(threads: int, steps: int = 4) -> tuple[list[float], np.ndarray]:
    gpt = GPT(CONFIG, seed=3)
    losses = []
    with Team(gpt, threads, micro_batch=1) as team:
        for step in range(1, steps + 1):
            loss, _ = team.loss_and_grads(*batch(), Dropout(0.1, 0, step))
            team.update(AdamW(), 1e-2, step, scale=0.5)
            losses.append(loss)
    return losses, gpt.parameters.flat


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_number_of_threads_gives_the_same_bits(threads: int) -> None:
    (losses, flat), (again, flat_again) = after_steps(threads), after_steps(threads)
    assert losses == again
    np.testing.assert_array_equal(flat, flat_again)


def test_an_update_by_many_threads_is_that_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minigpt.np.ops.PIECE", 100)  # so that each thread has many pieces
    results = []
    for threads in (1, 3):
        gpt = model()
        with Team(gpt, threads) as team:
            for step in (1, 2):
                team.grads.flat[...] = np.random.default_rng(step).standard_normal(gpt.parameters.flat.size)
                team.update(AdamW(), 1e-2, step, scale=0.5)
        results.append((gpt.parameters.flat, *(p.flat for p in team.moments)))
    for one, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, three)


def test_an_update_scales_the_gradients() -> None:
    gpt = model()
    with Team(gpt, 2) as team:
        team.grads.flat.fill(4)
        team.update(AdamW(beta1=0.5), 1e-2, 1, scale=0.25)
    assert (team.moments.m.flat == 0.5).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_thread_is_raised_here(threads: int) -> None:
    with Team(model(), threads) as team, pytest.raises(ValueError, match="holds ids 99 to 99"):
        team.loss_and_grads(np.full((4, 8), 99), np.zeros((4, 8), int))


def page_faults(team: Team, worker: int) -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.skipif(not crew.CAN_FORK, reason="counts page faults as Linux does")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_steady_step_takes_no_memory_from_the_system(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each array of a step, 64 KiB to 1 MiB, would be 16 to 256 new pages; what Python itself moves is a few."""
    monkeypatch.setattr(Team, "page_faults", page_faults, raising=False)
    gpt = GPT(ModelConfig(vocab_size=64, context_length=64, d_model=64, n_layers=2, n_heads=4))
    tokens, targets = np.random.default_rng(0).integers(0, 64, (2, 8, 64))
    with Team(gpt, threads) as team:

        def step() -> None:
            team.loss_and_grads(tokens, targets)
            team.update(AdamW(), 1e-3, 1, 1.0)

        for _ in range(5):
            step()
        before = team._crew.run("page_faults")
        for _ in range(10):
            step()
        faults = [b - a for a, b in zip(before, team._crew.run("page_faults"), strict=True)]
    assert max(faults) < 200, f"{faults} page faults in 10 steps"


def test_at_least_one_thread() -> None:
    with pytest.raises(ValueError, match="threads is 0, but must be at least 1"):
        Team(model(), 0)


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.parametrize("leave", [lambda: None, lambda: 1 / 0], ids=["well", "by an error"])
def test_blas_has_one_thread_inside_and_its_own_again_after(leave: Callable[[], object]) -> None:
    if not blas_threads():
        pytest.skip("threadpoolctl does not know this BLAS")
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        try:
            with Team(model(), 2):
                assert set(blas_threads()) == {1}
                leave()
        except ZeroDivisionError:
            pass
        assert blas_threads() == before
