"""Train runs that are interrupted, and compare runs."""

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from minigpt.runs.checkpoint import checkpoints
from minigpt.runs.columns import flatten
from minigpt.runs.folder import RunFolder
from minigpt.training.trainer import Trainer

TINY_MODEL: dict[str, Any] = {"tokenizer": "bytes", "context_length": 8, "d_model": 8, "n_layers": 1, "n_heads": 2}
"The settings of the smallest model that the tests train."
TIMES = ("tokens_per_s", "elapsed_s")
TEMPORARY = (".*", "building-*", "lock", "*.lock")


def as_flags(settings: Mapping[str, object]) -> list[str]:
    """Return settings as flags of the command line.

    >>> as_flags({"d_model": 8})
    ['--d-model=8']
    """
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def shorten_samples(patch: pytest.MonkeyPatch) -> None:
    """Make training generate samples of 4 tokens, which saves time."""
    original = Trainer.generate_sample
    patch.setattr(Trainer, "generate_sample", lambda trainer, prompt, seed: original(trainer, prompt, seed, max_new_tokens=4))


@contextmanager
def interrupted_at(step: int, number: signal.Signals = signal.SIGINT) -> Iterator[None]:
    """Raise a signal in that step of every training inside the block."""
    original = Trainer.step

    def interrupted(trainer: Trainer) -> dict[str, Any]:
        if trainer.state.step + 1 == step:
            signal.raise_signal(number)
        return original(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        yield


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl without their times. The norms of a layer are named norms.LAYER.KIND."""
    records = RunFolder(run).records("metrics.jsonl")
    json.dumps(records, allow_nan=False)  # raises for NaN and Infinity, which strict JSON does not have
    return [{name: value for name, value in flatten(record) if name not in TIMES} for record in records]


def outcome(run: Path, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return everything about a run that must be reproduced bit for bit, except the parts named in `without`."""
    newest = checkpoints(RunFolder(run))[-1]
    state = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    samples = run / "samples.jsonl"
    parts = {
        "newest": newest.name,
        "weights": (newest / "model.safetensors").read_bytes(),
        "moments": (newest / "optimizer.safetensors").read_bytes(),
        "state": {name: value for name, value in state.items() if name not in TIMES},
        "metrics": metrics(run),
        "samples": samples.read_bytes() if samples.exists() else b"",
        "config": (run / "config.toml").read_bytes(),
        "tokenizer": (run / "tokenizer.json").read_bytes(),
    }
    return {name: value for name, value in parts.items() if name not in without}


def differences(run: Path, expected: dict[str, Any]) -> list[str]:
    """Return the names of the parts of a run's outcome that differ from the expected outcome."""
    found = outcome(run)
    return [name for name, value in expected.items() if found[name] != value]


def content(folder: Path) -> dict[str, bytes | None]:
    """Return the path and content of every file in a folder; folders have None."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


def temporary_files(*folders: Path) -> list[str]:
    """Return the names of all temporary files, unfinished folders and locks below some folders."""
    return sorted({str(path) for folder in folders for pattern in TEMPORARY for path in folder.rglob(pattern)})


def checkpoint_names(run: Path) -> list[str]:
    """Return the names in the folder of a run's checkpoints."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())
