"""The recorded norms of layers equal those computed from the parameters before and after a step, and change nothing."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minigpt import GPT, ModelConfig, load
from minigpt.np.parameters import Parameters
from minigpt.runs.folder import RunFolder
from minigpt.training.layer_norms import LayerNorms
from minigpt.training.parallel import workers
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.presets import RECIPES
from minigpt.training.recipe import optimizer
from minigpt.training.settings import Settings

KINDS = [False, True] if workers.CAN_FORK else [False]
CONFIG = ModelConfig(vocab_size=19, context_length=8, d_model=12, n_layers=2, n_heads=3)
LAYERS = ["token_embedding", "position_embedding", "blocks.0", "blocks.1", "final_norm"]
TrainTiny = Callable[..., str]


@pytest.fixture(params=KINDS, ids=lambda can_fork: "processes" if can_fork else "threads", autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CAN_FORK", request.param)
    monkeypatch.setattr("minigpt.np.ops.ROW_BLOCK_ELEMENTS", 100)  # so that slices of the update overlap several layers


def norm(p: Parameters, layer: str, vector: np.ndarray) -> float:
    """The norm of a layer's parameters in a vector like that of all parameters."""
    views = Parameters(p.shapes, vector.dtype, vector)
    own = [array.ravel() for name, array in views.items() if name.startswith(f"{layer}.") or name == layer]
    return float(np.linalg.norm(np.concatenate(own).astype(np.float64)))


def steps(threads: int, measured: bool, recipe: str) -> tuple[GPT, list[tuple[np.ndarray, np.ndarray, LayerNorms | None]], bytes]:
    """Train for three steps. Returns the model, the gradients, updates and norms of each step, and all other results."""
    gpt, found = GPT(CONFIG, seed=3), []
    results: list[float] = []
    with DataParallel(gpt, threads, 1, optimizer(Settings(**RECIPES[recipe]))) as data_parallel:
        for step in (1, 2, 3):
            tokens, targets = np.random.default_rng(step).integers(0, 19, (2, 4, 8))
            loss, grad_norm = data_parallel.loss_and_grads(tokens, targets)
            before = gpt.parameters.flat.copy()
            norms = data_parallel.update(0.5, step, scale=0.3, measure=measured)
            found.append((data_parallel.grads.flat.copy(), gpt.parameters.flat - before, norms))
            results += [loss, grad_norm, *gpt.parameters.flat, *data_parallel.moments[0].flat, *data_parallel.moments[1].flat]
    return gpt, found, np.array(results).tobytes()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_norms_are_those_of_gradients_weights_and_updates(threads: int, recipe: str) -> None:
    gpt, found, _ = steps(threads, True, recipe)
    p = gpt.parameters
    for gradient, update, norms in found:
        assert norms is not None and list(norms) == LAYERS
        for layer, own in norms.items():
            assert own["gradient"] == pytest.approx(norm(p, layer, gradient), rel=1e-5)
            assert own["update"] == pytest.approx(norm(p, layer, update), rel=1e-5)
    assert norms is not None
    for layer, own in norms.items():  # after the last update
        assert own["weight"] == pytest.approx(norm(p, layer, p.flat), rel=1e-5)
    assert math.hypot(*(own["gradient"] for own in norms.values())) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recording_norms_changes_no_bit_of_the_training(threads: int, recipe: str) -> None:
    assert steps(threads, True, recipe)[2] == steps(threads, False, recipe)[2]
    assert all(norms is None for _, _, norms in steps(threads, False, recipe)[1])


def test_runs_record_them_at_measuring_points(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", steps=7, eval_every=3, samples=0)
    records = RunFolder(tmp_path / "run").records("metrics.jsonl")
    assert [record["step"] for record in records if "norms" in record] == [3, 6, 7]
    for record in records:
        if "norms" in record:
            gradients = [own["gradient"] for own in record["norms"].values()]
            assert math.hypot(*gradients) == pytest.approx(record["grad_norm"], rel=1e-4)
    p = load(tmp_path / "run")[0].parameters
    for layer, own in records[-1]["norms"].items():
        assert own["weight"] == pytest.approx(norm(p, layer, p.flat), rel=1e-5)


def test_a_step_that_is_skipped_has_no_norms(tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    original = DataParallel.loss_and_grads
    calls: list[int] = []

    def broken(*arguments: object) -> tuple[float, float]:
        calls.append(1)
        loss, grad_norm = original(*arguments)  # type: ignore[arg-type]
        return (math.nan if len(calls) == 2 else loss), grad_norm

    monkeypatch.setattr(DataParallel, "loss_and_grads", broken)
    train_tiny(tmp_path / "run", steps=4, eval_every=2, samples=0, on_nonfinite="skip")
    assert ["norms" in record for record in RunFolder(tmp_path / "run").records("metrics.jsonl")] == [False, False, False, True]
