"""Data-parallel workers give the same result however the batch is divided, whether they are processes or threads."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from minigpt import GPT, ModelConfig
from minigpt.np.loss import IGNORE_INDEX
from minigpt.np.ops import NO_DROPOUT, Dropout
from minigpt.training.adamw import AdamW
from minigpt.training.optimizer import Optimizer
from minigpt.training.parallel import workers
from minigpt.training.parallel.data_parallel import TOKENS_PER_MICRO_BATCH, DataParallel
from minigpt.training.presets import RECIPES
from minigpt.training.recipe import optimizer
from minigpt.training.settings import Settings

KINDS = [False, True] if workers.CAN_FORK else [False]
CONFIG = ModelConfig(vocab_size=19, context_length=8, d_model=12, n_layers=2, n_heads=3)
OPTIMIZERS = {name: optimizer(Settings(**RECIPES[name])) for name in RECIPES}
EACH_OPTIMIZER = pytest.mark.parametrize("rule", OPTIMIZERS.values(), ids=OPTIMIZERS)


@pytest.fixture(params=KINDS, ids=lambda can_fork: "processes" if can_fork else "threads", autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CAN_FORK", request.param)


def model(seed: int = 0) -> GPT:
    gpt = GPT(CONFIG, dtype=np.float64)
    gpt.parameters.flat[...] += np.random.default_rng(seed).standard_normal(gpt.parameters.flat.size) / 10
    return gpt


def batch(B: int = 6) -> Any:
    tokens, targets = np.random.default_rng(1).integers(0, 19, (2, B, 8))
    targets[0, :5] = IGNORE_INDEX  # so that micro-batches have different numbers of counted targets
    return tokens, targets


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [0, 1, 2, 3])
@pytest.mark.parametrize("drop", [NO_DROPOUT, Dropout(0.3, seed=1, step=4)], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("B", [1, 2, 6, 7])
def test_loss_and_gradient_are_those_of_the_whole_batch(threads: int, micro_batch: int, drop: Dropout, B: int) -> None:
    gpt, (tokens, targets) = model(), batch(B)
    loss, g = gpt.loss_and_grads(tokens, targets, dropout=drop)
    with DataParallel(gpt, threads, micro_batch) as data_parallel:
        for _ in range(2):  # the second call overwrites the gradients of the first
            parallel_loss, norm = data_parallel.loss_and_grads(tokens, targets, drop)
            assert parallel_loss == pytest.approx(loss, rel=1e-12)
            assert norm == pytest.approx(np.linalg.norm(g.flat), rel=1e-12)
            np.testing.assert_allclose(data_parallel.grads.flat, g.flat, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_score_is_that_of_the_whole_batch(threads: int) -> None:
    gpt, (tokens, targets) = model(), batch()
    targets[1:3, ::2] = gpt.logits(tokens).argmax(-1)[1:3, ::2]  # so that some predictions are correct
    expected = int((gpt.logits(tokens).argmax(-1) == targets).sum())
    with DataParallel(gpt, threads, micro_batch=2) as data_parallel:
        loss, correct = data_parallel.score(tokens, targets)
    assert loss == pytest.approx(gpt.loss(tokens, targets), rel=1e-12)
    assert correct == expected >= 8


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_sequence_belongs_to_exactly_one_worker(threads: int) -> None:
    data_parallel = DataParallel(model(), threads)
    for B in range(1, 12):
        rows = [row for worker in range(threads) for part in data_parallel._micro_batches(worker, B, 8) for row in range(B)[part]]
        assert rows == list(range(B))
    assert max(len(range(10**4)[part]) for part in data_parallel._micro_batches(0, 10**4, 8)) == TOKENS_PER_MICRO_BATCH // 8


def after_steps(threads: int, rule: Optimizer, steps: int = 4) -> tuple[list[float], np.ndarray]:
    gpt = GPT(CONFIG, seed=3)
    losses = []
    with DataParallel(gpt, threads, 1, rule) as data_parallel:
        for step in range(1, steps + 1):
            loss, _ = data_parallel.loss_and_grads(*batch(), Dropout(0.1, 0, step))
            data_parallel.update(0.5, step, scale=0.5)
            losses.append(loss)
    return losses, gpt.parameters.flat


@pytest.mark.parametrize("threads", [1, 2, 3])
@EACH_OPTIMIZER
def test_the_same_number_of_threads_gives_the_same_bits(threads: int, rule: Optimizer) -> None:
    (losses, flat), (again, flat_again) = after_steps(threads, rule), after_steps(threads, rule)
    assert losses == again
    np.testing.assert_array_equal(flat, flat_again)


@EACH_OPTIMIZER
def test_an_update_by_three_threads_equals_that_by_one(monkeypatch: pytest.MonkeyPatch, rule: Optimizer) -> None:
    monkeypatch.setattr("minigpt.np.ops.ROW_BLOCK_ELEMENTS", 100)  # so that each thread has many slices
    results = []
    for threads in (1, 3):
        gpt = model()
        with DataParallel(gpt, threads, 0, rule) as data_parallel:
            assert all(data_parallel._pieces)  # every thread has some
            for step in (1, 2):
                data_parallel.grads.flat[...] = np.random.default_rng(step).standard_normal(gpt.parameters.flat.size)
                data_parallel.update(0.5, step, scale=0.5)
        results.append((gpt.parameters.flat, *(p.flat for p in data_parallel.moments)))
    for one, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, three)


def test_an_update_scales_the_gradients() -> None:
    gpt = model()
    with DataParallel(gpt, 2, 0, Optimizer.uniform(AdamW(beta1=0.5))) as data_parallel:
        data_parallel.grads.flat.fill(4)
        data_parallel.update(1e-2, 1, scale=0.25)
    assert (data_parallel.moments.m.flat == 0.5).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_worker_is_raised_in_the_caller(threads: int) -> None:
    with DataParallel(model(), threads) as data_parallel, pytest.raises(ValueError, match="holds ids 99 to 99"):
        data_parallel.loss_and_grads(np.full((4, 8), 99), np.zeros((4, 8), int))


@pytest.mark.parametrize("method", ["loss_and_grads", "score"])
def test_an_interrupt_ends_the_other_workers_after_their_micro_batch(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, calls, started = (os.getpid(), threading.get_ident()), [], threading.Event()

    def compute(model: GPT, *arguments: object, **options: object) -> tuple[float, float]:
        if (os.getpid(), threading.get_ident()) == caller:
            started.wait(0.2)
            raise KeyboardInterrupt
        started.set()
        calls.append(time.sleep(0.05))
        return 0.0, 0.0

    monkeypatch.setattr(GPT, method, compute)
    with DataParallel(model(), 2, micro_batch=1) as data_parallel, pytest.raises(KeyboardInterrupt):
        getattr(data_parallel, method)(*batch(B=2000))
    assert len(calls) < 1000


def page_faults(data_parallel: DataParallel, worker: int) -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.skipif(not workers.CAN_FORK, reason="counts page faults as Linux does")
@pytest.mark.parametrize("threads", [1, 2])
@EACH_OPTIMIZER
def test_a_step_allocates_no_memory_after_the_first_ones(threads: int, rule: Optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newly allocated array of a step (64 KiB to 1 MiB) would fault in 16 to 256 pages; Python itself causes a few faults."""
    monkeypatch.setattr(DataParallel, "page_faults", page_faults, raising=False)
    gpt = GPT(ModelConfig(vocab_size=64, context_length=64, d_model=64, n_layers=2, n_heads=4))
    tokens, targets = np.random.default_rng(0).integers(0, 64, (2, 8, 64))
    with DataParallel(gpt, threads, 0, rule) as data_parallel:

        def step() -> None:
            data_parallel.loss_and_grads(tokens, targets)
            data_parallel.update(0.1, 1, 1.0)

        for _ in range(5):
            step()
        before = data_parallel._workers.run("page_faults")
        for _ in range(10):
            step()
        faults = [b - a for a, b in zip(before, data_parallel._workers.run("page_faults"), strict=True)]
    assert max(faults) < 200, f"{faults} page faults in 10 steps"


def test_at_least_one_thread() -> None:
    with pytest.raises(ValueError, match="threads is 0, but must be at least 1"):
        DataParallel(model(), 0)


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.parametrize("leave", [lambda: None, lambda: 1 / 0], ids=["normal exit", "error"])
def test_blas_has_one_thread_inside_and_its_previous_number_after(leave: Callable[[], object]) -> None:
    if not blas_threads():
        pytest.skip("threadpoolctl does not support this BLAS")
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        try:
            with DataParallel(model(), 2):
                assert set(blas_threads()) == {1}
                leave()
        except ZeroDivisionError:
            pass
        assert blas_threads() == before
