"""Fixtures: a small synthetic run folder."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

CONFIG = {
    "data": ["storybook"],
    "preset": "small",
    "vocab_size": 2048,
    "context_length": 256,
    "d_model": 256,
    "n_layers": 4,
    "n_heads": 8,
    "d_ff": 1024,
    "activation": "gelu",
    "tied": True,
    "batch_size": 16,
    "steps": 400,
    "lr": 1e-3,
    "seed": 0,
    "threads": 2,
}

RUN = {
    "command": "minigpt train --preset small --steps 400",
    "parameters": 4_213_248,
    "data": {
        "name": "storybook (20,000 stories)",
        "train": {"documents": 20_000, "bytes": 15_000_000, "tokens": 4_000_000},
        "valid": {"documents": 500, "bytes": 375_000, "tokens": 100_000},
        "floor_bits_per_byte": 0.3,
        "floor_is_exact": True,
    },
    "machine": {"processor": "Quill 9", "cores": 2, "memory_gib": 7.5, "blas": "openblas 0.3", "threads": 2},
    "version": "0.1.0",
}

STORIES = [
    " there was a little fox called Pim. Pim wanted a red kite.\n\n“Can I fly it?” he asked.",
    " a bear found a boat. It was too big for the pond, so she gave it to the river.\nThe river was glad.",
    " nobody came to the party. Then the door opened, and there they all were.",
    " the moon was hungry. Mia gave it a spoon of soup.",
    " two ducks shared one hat. It rained all day, and both kept dry.",
]

PROMPTS = ["Once upon a time", "One day,", "At first", "Far away,", "In the morning"]


def metric(step: int, steps: int = 400) -> dict[str, Any]:
    """Return a plausible record of metrics.jsonl; every 50th has a validation."""
    loss = 0.9 + 6.7 * math.exp(-step / 40) + 1.2 * math.exp(-step / 150) + 0.06 * math.sin(37.0 * step)
    record = {
        "step": step,
        "tokens": 4096 * step,
        "loss": loss,
        "lr": 1e-3 * min(step / 40, 0.55 + 0.45 * math.cos(math.pi * step / steps)),
        "grad_norm": 0.5 + 3 * math.exp(-step / 30) + 0.1 * math.sin(19.0 * step),
        "tokens_per_s": 20_000 + 100 * (step % 7),
        "elapsed_s": 0.2 * step,
    }
    if step % 50 == 0:
        record |= {"val_loss": loss + 0.05, "val_bits_per_byte": (loss + 0.05) / math.log(2) / 3.75}
    return record


def make_samples(step: int) -> list[dict[str, Any]]:
    """Return the records of samples.jsonl for one step."""
    return [
        {
            "step": step,
            "prompt": prompt,
            "seed": seed,
            "temperature": 0.8,
            "top_k": 40,
            "text": story,
        }
        for seed, (prompt, story) in enumerate(zip(PROMPTS, STORIES, strict=True))
    ]


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write records as JSON Lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function `make(run, config, metrics, samples)` that writes a run folder, with defaults for all arguments."""

    def make(
        run: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        metrics: list[dict[str, Any]] | None = None,
        samples: list[dict[str, Any]] | None = None,
    ) -> Path:
        folder = tmp_path / "small-run"
        folder.mkdir()
        (folder / "config.toml").write_text(tomli_w.dumps(CONFIG | (config or {})), encoding="utf-8")
        (folder / "run.json").write_text(json.dumps(RUN | (run or {})), encoding="utf-8")
        write_lines(folder / "metrics.jsonl", [metric(i) for i in range(1, 401)] if metrics is None else metrics)
        write_lines(folder / "samples.jsonl", make_samples(400) if samples is None else samples)
        return folder

    return make
