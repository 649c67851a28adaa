"""The models that the page shows."""

from pathlib import Path

import numpy as np
import pytest

from minigpt import GPT, ModelConfig, load
from minigpt.data.tokenizer import Tokenizer
from minigpt.page.subject import Cache, Subject, blas_threads


def test_models_of_the_snapshots(tiny_run: Path) -> None:
    subject = Subject(tiny_run)
    assert subject.steps == [0, 1, 2, 4, 8, 16, 32, 40, 60]
    for step in (0, 8, 40, 60):
        np.testing.assert_array_equal(subject.model(step).parameters.flat, load(tiny_run, step)[0].parameters.flat)
    assert subject.model() is subject.model(60)
    exact = subject.model(8, np.float64)
    assert exact.parameters.flat.dtype == np.float64
    np.testing.assert_array_equal(exact.parameters.flat, subject.model(8).parameters.flat)
    with pytest.raises(ValueError, match="no weights of step 3; it has weights of these steps: 0, 1"):
        subject.model(3)


def test_new_snapshots_are_found(tiny_run: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    kept = run.parent / "kept"
    shutil.move(run / "snapshots", kept)
    shutil.rmtree(run / "checkpoints")
    subject = Subject(run)
    with pytest.raises(ValueError, match="run has no weights yet"):
        subject.model()
    shutil.copytree(kept / "step-000000", run / "snapshots" / "step-000000")
    first = subject.model()
    shutil.copytree(kept / "step-000060", run / "snapshots" / "step-000060")
    assert subject.steps == [0, 60] and subject.model() is not first


def test_a_model_without_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    model = GPT(ModelConfig(vocab_size=257, context_length=8, d_model=8, n_layers=1, n_heads=2), seed=1)
    model.save_pretrained(folder, Tokenizer.bytes())
    subject = Subject(folder)
    assert (subject.name, subject.run, subject.steps) == ("exported", None, [])
    np.testing.assert_array_equal(subject.model().parameters.flat, model.parameters.flat)
    with pytest.raises(ValueError, match="exported does not belong to a run"):
        subject.model(4)
    bare = tmp_path / "bare"
    model.save_pretrained(bare)
    with pytest.raises(ValueError, match="has no tokenizer"):
        Subject(bare)
    with pytest.raises(ValueError, match="nothing"):
        Subject("nothing")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = GPT(ModelConfig(vocab_size=257, context_length=8, d_model=8, n_layers=1, n_heads=2))
    model.parameters["head" if "head" in model.parameters else "token_embedding"][3, 2] = np.nan
    model.save_pretrained(tmp_path / "nan", Tokenizer.bytes())
    with pytest.raises(FloatingPointError, match="weights that are not finite"):
        Subject(tmp_path / "nan").model()


def test_the_cache_forgets_the_oldest_values() -> None:
    made: list[int] = []

    def make(n: int) -> str:
        made.append(n)
        return "x" * n

    cache: Cache[str] = Cache(5, len)
    for n in (2, 3, 2, 1, 3, 9, 2):
        assert cache.get(n, lambda n=n: make(n)) == "x" * n  # type: ignore[misc]
    assert made == [2, 3, 1, 3, 9, 2]  # 2 was used after 3, so 3 is forgotten for 1; 9 leaves no room


def test_small_models_use_one_thread() -> None:
    assert blas_threads(GPT(ModelConfig(vocab_size=10, context_length=8, d_model=8, n_layers=1, n_heads=2))) == 1
