"""Operations that a server or a long training repeats do not keep memory (after the memleak tests of SQLite)."""

import gc
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig, load
from minigpt.generate.text import stream_text
from minigpt.np.config import LLAMA
from minigpt.training.parallel.data_parallel import DataParallel

PAGE = 4096
WARM_UP, ROUNDS = 3, 4

SIZES: dict[str, Any] = {"vocab_size": 257, "context_length": 64, "d_model": 64, "n_layers": 2, "n_heads": 4}
FAMILIES = {"GPT-2": {}, "Llama": LLAMA}


def growth(operation: Callable[[], object], warm_up: int = WARM_UP) -> float:
    """Return by how many bytes the traced memory grows per round, after a warm-up. It includes the memory of NumPy arrays."""
    tracemalloc.start()
    try:
        for _ in range(warm_up):
            operation()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(ROUNDS):
            operation()
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / ROUNDS
    finally:
        tracemalloc.stop()


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def model(request: pytest.FixtureRequest) -> GPT:
    return GPT(ModelConfig(**SIZES, **request.param))


def test_a_leak_of_one_page_would_be_found() -> None:
    kept = []
    assert growth(lambda: kept.append(np.empty(PAGE, np.uint8))) >= PAGE


def test_generation(model: GPT) -> None:
    assert growth(lambda: model.generate([[1, 2, 3], [4]], max_new_tokens=80)) < PAGE


def test_a_generation_whose_rows_finish_one_after_the_other(model: GPT) -> None:
    def generate() -> None:
        lengths = {0: 3, 1: 5, 2: 9}
        generated = [0, 0, 0]

        def stop(row: int, token: int) -> bool:
            generated[row] += 1
            return generated[row] >= lengths[row]

        assert len(list(model.steps([[1], [2, 3], [4]], 20, stop_tokens=stop))) == 9

    assert growth(generate) < PAGE


def test_a_generation_that_is_abandoned(model: GPT) -> None:
    def generate() -> None:
        with closing(model.steps([[1, 2]], 40)) as steps:  # type: ignore[type-var]
            for _ in range(5):
                next(steps)

    assert growth(generate) < PAGE


def test_gradients_and_scores(model: GPT) -> None:
    tokens = np.arange(40).reshape(2, 20)

    def compute() -> None:
        model.loss_and_grads(tokens, tokens)
        model.score(tokens, tokens)

    assert growth(compute) < PAGE


@pytest.mark.parametrize("threads", [1, 2])
def test_workers(threads: int) -> None:
    tokens = np.arange(40).reshape(2, 20)

    def score() -> None:
        with DataParallel(GPT(ModelConfig(**SIZES)), threads) as data_parallel:
            data_parallel.loss_and_grads(tokens, tokens)
            data_parallel.score(tokens, tokens)

    assert growth(score) < PAGE


def test_loading_and_sampling(tiny_run: Path) -> None:
    def sample() -> None:
        model, tokenizer = load(tiny_run)
        assert tokenizer is not None
        assert "".join(stream_text(model, tokenizer, "Tom", 10))

    assert growth(sample) < PAGE


@pytest.mark.usefixtures("short_samples")
def test_training(tmp_path: Path, train_tiny: Callable[..., str]) -> None:
    def train() -> None:
        train_tiny(tmp_path / "run", steps=2, overwrite=True)

    assert growth(train, warm_up=12) < PAGE  # the caches of the many modules involved take a while to fill
