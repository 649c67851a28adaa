"""The training loop against a plain implementation: batch, gradients, clipping, update."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, load
from minigpt.data.batches import batch
from minigpt.data.token_files import prepare
from minigpt.np.ops import Dropout
from minigpt.runs.folder import RunFolder
from minigpt.training.optimizer import AdamW, clip_scale, update_slices
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.schedule import learning_rate
from minigpt.training.settings import Settings, resolve

TrainTiny = Callable[..., str]


def test_training_equals_a_plain_implementation(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", dropout=0.2, seed=3, clip=0.5, weight_decay=0.3, warmup=2)
    s = resolve({}, tmp_path / "run" / "config.toml")
    data = prepare(s.data, tokenizer=s.tokenizer)
    model = GPT(s.model(257), seed=3)
    p, m, v = model.parameters, model.parameters.zeros_like(), model.parameters.zeros_like()
    for record in RunFolder(tmp_path / "run").records("metrics.jsonl"):
        step = record["step"]
        loss, g = model.loss_and_grads(*batch(data.train.tokens, 3, step, 4, 16), dropout=Dropout(0.2, 3, step))
        norm = float(np.linalg.norm(g.flat))
        lr = learning_rate(step, 8, 1e-2, warmup=2)
        assert [record["loss"], record["grad_norm"], record["lr"]] == pytest.approx([loss, norm, lr], rel=1e-3)
        for part, decaying in update_slices(p):
            arrays = (p.flat[part], g.flat[part] * clip_scale(norm, 0.5), m.flat[part], v.flat[part])
            AdamW(beta2=Settings.beta2, weight_decay=0.3).update(*arrays, lr, step, decaying)
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
