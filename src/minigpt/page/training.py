"""What the view "Training" shows of a run, which may still be going on. The records are read as they are written."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.runs.columns import columns, downsample
from minigpt.runs.folder import RunFolder
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings

POINTS = 400
"The largest number of points of a curve; each is the mean over an equal number of steps."
KINDS = ("gradient", "weight", "update")


class Records:
    """The records of a file of JSON lines. Each call of `read` reads only what has been appended since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: list[dict[str, Any]] = []
        self._offset = 0
        self._lock = threading.Lock()

    def read(self) -> list[dict[str, Any]]:
        """Return all records. A resumed run removes records, so a file that is shorter than before is read again."""
        with self._lock:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size < self._offset:
                self._records, self._offset = [], 0
            if size > self._offset:
                with open(self._path, "rb") as file:
                    file.seek(self._offset)
                    complete = file.read(size - self._offset).rpartition(b"\n")[0]
                self._records += [json.loads(line) for line in complete.splitlines() if line.strip()]
                self._offset += len(complete) + 1 if complete else 0
            return list(self._records)


class Training:
    """The curves and the stories of a run."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._metrics, self._samples = Records(run.path / "metrics.jsonl"), Records(run.path / "samples.jsonl")

    def read(self) -> dict[str, Any]:
        """Return the curves, the validations, the norms of the layers, and the samples."""
        records, settings = self._metrics.read(), Settings(**read_settings(self._run.config))
        found = columns(records)
        measured = np.isfinite(found["val_loss"])
        names = ("step", "tokens", "elapsed_s", "loss", "lr", "grad_norm")
        return {
            "steps": settings.steps,
            "done": int(found["step"][-1]) if records else 0,
            "clip": settings.clip,
            "curves": {name: _numbers(downsample(found[name], POINTS)) for name in names},
            "validation": {
                name: _numbers(found[name][measured]) for name in ("step", "tokens", "elapsed_s", "val_loss", "val_bits_per_byte")
            },
            "floor": self._floor(),
            "norms": self._norms(found),
            "samples": self.samples(),
        }

    def samples(self) -> list[dict[str, Any]]:
        """Return the stories that the run has told, with their tokens if they were recorded."""
        names = ("step", "text", "prompt", "pieces", "surprises")
        return [{name: sample.get(name) for name in names} for sample in self._samples.read()]

    def _norms(self, found: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the norms of the layers at the steps where they were measured."""
        layers = [name.removeprefix("norms.").removesuffix(".weight") for name in found if name.endswith(".weight")]
        if not layers:
            return {"layers": [], "steps": []}
        rows = np.isfinite(found[f"norms.{layers[0]}.weight"])
        values = {kind: [_numbers(found[f"norms.{layer}.{kind}"][rows]) for layer in layers] for kind in KINDS}
        return {"layers": layers, "steps": found["step"][rows].tolist(), **values}

    def _floor(self) -> float | None:
        """Return the entropy of the validation text in bits per byte, if it is known."""
        data = self._run.read_json("run.json").get("data")
        floor = data.get("floor_bits_per_byte") if isinstance(data, dict) else None
        return float(floor) if isinstance(floor, int | float) else None


def _numbers(x: np.ndarray) -> list[float | None]:
    """Return a list for JSON, which has no NaN."""
    return [float(value) if np.isfinite(value) else None for value in x]
