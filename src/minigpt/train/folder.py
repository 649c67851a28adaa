"""A run's folder: what a training leaves behind, and how it is found again."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.data.atomic import write_whole
from minigpt.data.tokenizer import Tokenizer

Located = tuple[str, dict[str, Any]]
"A JSON object and where it was found, for error messages."


@dataclass(frozen=True)
class RunFolder:
    """Where everything of a run lies.

    config.toml, tokenizer.json, run.json (machine and data), metrics.jsonl (one line a step), samples.jsonl,
    checkpoints/step-000123/, and the report.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def check_free(self, overwrite: bool = False) -> None:
        """Raises `ValueError` where a new run would destroy something, unless it is a run and `overwrite` says so."""
        nearest = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise ValueError(f"{nearest} is not a folder that can be written to: choose another --out")
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if not overwrite:
            ways = "go on with it (--resume), replace it (--overwrite) or choose another --out"
            raise ValueError(f"{self.path} exists already: {ways}")
        if not (self.config.exists() and self.tokenizer.exists()):
            what = "is not a run (it has no config.toml and tokenizer.json), so it is not replaced"
            raise ValueError(f"{self.path} {what}: choose another --out")

    def create(self, overwrite: bool = False) -> None:
        """Make the folder, empty."""
        self.check_free(overwrite)
        if self.path.exists() and any(self.path.iterdir()):
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)

    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the run's tokenizer."""
        return Tokenizer.load(self.tokenizer).fingerprint

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        write_whole(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """What a JSON file of the run holds; raises `ValueError` where it cannot be read."""
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path / name} cannot be read: {error}") from None
        return dict(content)

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add one line to a .jsonl file."""
        with open(self.path / name, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def records(self, name: str) -> list[dict[str, Any]]:
        """The lines of a .jsonl file; a last line that was cut off is left out."""
        path = self.path / name
        return [record for _, record in json_lines(path)] if path.exists() else []

    def forget_after(self, name: str, step: int) -> None:
        """Drop lines of later steps, which a resumed run will write again."""
        if (self.path / name).exists():
            kept = [record for record in self.records(name) if record.get("step", 0) <= step]
            write_whole(self.path / name, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))


def json_lines(path: Path) -> Iterator[Located]:
    """The objects in a .jsonl file, each with its place; a last line that a killed run had not finished is left out."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                return
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, found {line[:40]!r}")
        yield f"{path}, line {number}", record


def free_folder(parent: Path, name: str) -> Path:
    """The first of parent/name, parent/name-2, parent/name-3 ... that does not exist."""
    number = 1
    while (path := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path
