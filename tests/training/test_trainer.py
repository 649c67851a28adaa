"""The training loop against a plain implementation: batch, gradients, clipping, update."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import load
from minigpt.data.batches import batch
from minigpt.data.token_files import prepare
from minigpt.np.ops import Dropout
from minigpt.runs.folder import RunFolder
from minigpt.training.adamw import AdamW
from minigpt.training.initial_model import initial_model
from minigpt.training.muon import Muon
from minigpt.training.optimizer import Optimizer, clip_scale
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.presets import RECIPES
from minigpt.training.recipe import optimizer
from minigpt.training.resolve import resolve
from minigpt.training.schedule import learning_rate

TrainTiny = Callable[..., str]
RATES = {"lr": 1e-2, "embedding_lr": 0.02, "head_lr": 0.03, "vector_lr": 0.04}


def rule_of_parameter(name: str, rules: Optimizer) -> tuple[AdamW | Muon, float]:
    """Return the expected rule and learning rate of a parameter."""
    if name in ("token_embedding", "position_embedding", "head"):
        return AdamW(beta2=0.97, weight_decay=0.3), RATES["head_lr" if name == "head" else "embedding_lr"]
    if name.endswith(".weight"):
        return rules.groups["matrices"].rule, RATES["lr"]
    return AdamW(beta2=0.97, weight_decay=0), RATES["vector_lr"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_equals_a_plain_implementation(tmp_path: Path, train_tiny: TrainTiny, recipe: str) -> None:
    changes = {**RECIPES[recipe], **RATES, "beta2": 0.97, "clip": 0.5, "weight_decay": 0.3, "min_lr_ratio": 0.1}
    train_tiny(tmp_path / "run", dropout=0.2, seed=3, warmup=2, recipe=recipe, **changes)
    s = resolve({}, tmp_path / "run" / "config.toml")
    data, rules = prepare(s.data, tokenizer=s.tokenizer), optimizer(s)
    model = initial_model(s, 257)
    p, m, v = model.parameters, model.parameters.zeros_like(), model.parameters.zeros_like()
    for record in RunFolder(tmp_path / "run").records("metrics.jsonl"):
        step = record["step"]
        loss, g = model.loss_and_grads(*batch(data.train.tokens, 3, step, 4, 16), dropout=Dropout(0.2, 3, step))
        norm = float(np.linalg.norm(g.flat))
        factor = learning_rate(step, 8, 1.0, 2, 0.1, s.schedule, s.decay)
        assert [record["loss"], record["grad_norm"], record["lr"]] == pytest.approx([loss, norm, factor * 1e-2], rel=1e-3)
        for name in p:
            rule, lr = rule_of_parameter(name, rules)
            columns = [slice(0, 16), slice(16, 32), slice(32, 48)] if name.endswith("qkv.weight") else [slice(None)]
            for part in columns if isinstance(rule, Muon) else [slice(None)]:
                arrays = (x[name][..., part] for x in (p, g, m, v))
                rule.update(*arrays, factor * lr, step, clip_scale(norm, 0.5))
    assert norm > 0.5  # otherwise, clipping is not tested
    np.testing.assert_allclose(load(tmp_path / "run")[0].parameters.flat, p.flat, atol=1e-4)


def test_each_step_has_its_own_batch_and_dropout_masks(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[np.ndarray, Dropout]] = []
    original = DataParallel.loss_and_grads

    def spy(data_parallel: DataParallel, tokens: np.ndarray, targets: np.ndarray, drop: Dropout) -> Any:
        np.testing.assert_array_equal(tokens[:, 1:], targets[:, :-1])
        seen.append((tokens, drop))
        return original(data_parallel, tokens, targets, drop)

    monkeypatch.setattr(DataParallel, "loss_and_grads", spy)
    train_tiny(tmp_path / "run", dropout=0.2, seed=3)
    assert [drop for _, drop in seen] == [Dropout(0.2, seed=3, step=step) for step in range(1, 9)]
    assert len({tokens.tobytes() for tokens, _ in seen}) == 8
