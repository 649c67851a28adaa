"""The loop against the same training written down plainly: batch, gradients, clip, update."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, load
from minigpt.data.batches import batch
from minigpt.data.token_files import prepare
from minigpt.np.ops import Dropout
from minigpt.train.folder import RunFolder
from minigpt.train.optimizer import AdamW, clip_scale, pieces
from minigpt.train.parallel import Team
from minigpt.train.schedule import learning_rate
from minigpt.train.settings import Settings, resolve

TrainTiny = Callable[..., str]


def test_training_is_what_it_says(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", dropout=0.2, seed=3, clip=0.5, weight_decay=0.3, warmup=2)
    s = resolve({}, tmp_path / "run" / "config.toml")
    data = prepare(s.data, tokenizer=s.tokenizer)
    model = GPT(s.model(257), seed=3)
    p, m, v = model.parameters, model.parameters.like(), model.parameters.like()
    for record in RunFolder(tmp_path / "run").records("metrics.jsonl"):
        step = record["step"]
        loss, g = model.loss_and_grads(*batch(data.train.tokens, 3, step, 4, 16), drop=Dropout(0.2, 3, step))
        norm = float(np.linalg.norm(g.flat))
        lr = learning_rate(step, 8, 1e-2, warmup=2)
        assert [record["loss"], record["grad_norm"], record["lr"]] == pytest.approx([loss, norm, lr], rel=1e-3)
        for where, decaying in pieces(p):
            arrays = (p.flat[where], g.flat[where] * clip_scale(norm, 0.5), m.flat[where], v.flat[where])
            AdamW(beta2=Settings.beta2, weight_decay=0.3).update(*arrays, lr, step, decaying)
    assert norm > 0.5  # or clipping was not seen
    np.testing.assert_allclose(load(tmp_path / "run")[0].parameters.flat, p.flat, atol=1e-4)


def test_each_step_has_its_own_batch_and_masks(tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[np.ndarray, Dropout]] = []
    original = Team.loss_and_grads

    def spy(team: Team, tokens: np.ndarray, targets: np.ndarray, drop: Dropout) -> Any:
        np.testing.assert_array_equal(tokens[:, 1:], targets[:, :-1])
        seen.append((tokens, drop))
        return original(team, tokens, targets, drop)

    monkeypatch.setattr(Team, "loss_and_grads", spy)
    train_tiny(tmp_path / "run", dropout=0.2, seed=3)
    assert [drop for _, drop in seen] == [Dropout(0.2, seed=3, step=step) for step in range(1, 9)]
    assert len({tokens.tobytes() for tokens, _ in seen}) == 8
