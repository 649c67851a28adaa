"""The folder of a training run: its files, its lock, and the records of its steps."""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.data.atomic import atomic_write_text, file_lock, filename_in_errors, fsync, is_temporary
from minigpt.data.json_files import read_json_object
from minigpt.data.tokenizer import Tokenizer

LocatedRecord = tuple[str, dict[str, Any]]
"A JSON object, preceded by its location for error messages."

LOCK_FILE = "lock"
SETUP_FILES = {LOCK_FILE, "run.json", "tokenizer.json", "tokenizer_config.json"}  # written before config.toml
RECORDS = ("metrics.jsonl", "samples.jsonl")


@dataclass(frozen=True)
class RunFolder:
    """The paths and files of a run.

    The folder contains config.toml, tokenizer.json, run.json (machine and data), metrics.jsonl (one line per step),
    samples.jsonl, checkpoints/step-000123/, the report, and, during training, `lock`.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The settings of the run, config.toml. It is written last: a folder without it is not a run yet."""
        return self.path / "config.toml"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer of the run, tokenizer.json."""
        return self.path / "tokenizer.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def check_available(self, overwrite: bool = False) -> None:
        """Raise `ValueError` if a new run cannot use this folder.

        The folder must be writable, and empty or, with `overwrite`, a run.
        """
        with self._unusable_as_value_error():
            self._check_available(overwrite)

    def _check_available(self, overwrite: bool) -> None:
        nearest = next(folder for folder in (self.path, *self.path.absolute().parents) if os.path.lexists(folder))
        nearest.stat()
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise ValueError(f"{nearest} is not a folder that can be written to: choose another --out")
        if not self.path.exists() or all(path.name in SETUP_FILES or is_temporary(path) for path in self.path.iterdir()):
            return  # a run that was killed before its first step has nothing to lose
        if not overwrite:
            options = "resume it (--resume), replace it (--overwrite) or choose another --out"
            raise ValueError(f"{self.path} already exists: {options}")
        if not (self.config.exists() and self.tokenizer.exists()):
            reason = "is not a run (it has no config.toml and tokenizer.json), so it is not replaced"
            raise ValueError(f"{self.path} {reason}: choose another --out")

    def create(self, overwrite: bool = False) -> None:
        """Create the folder, or delete everything in it except the lock. Raises `ValueError` as `check_available` does."""
        self.check_available(overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        last = [self.config, self.tokenizer]  # the folder remains a replaceable run until everything else is deleted
        for path in [*(path for path in self.path.iterdir() if path not in last), *filter(Path.exists, last)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of this folder during the block. Raises `ValueError` if another training process holds it.

        Temporary files of a killed process are deleted. If the folder is empty at the end, it is removed.
        """
        with ExitStack() as stack:
            with self._unusable_as_value_error():
                created = [folder for folder in (self.path, *self.path.absolute().parents) if not folder.exists()]
                stack.callback(_remove_empty, created)
                self.path.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(file_lock(self.path / LOCK_FILE))
            except TimeoutError:
                raise ValueError(f"{self.path} is in use by another training process") from None
            for leftover in [*filter(is_temporary, self.path.iterdir()), *self.checkpoints.glob(".step-*")]:
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()
            yield

    @contextmanager
    def _unusable_as_value_error(self) -> Iterator[None]:
        """Convert an OSError about this path into a ValueError, unless the disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise ValueError(f"{self.path} cannot be used ({error.strerror}): choose another --out") from None

    def tokenizer_fingerprint(self) -> str:
        """Return the fingerprint of the run's tokenizer."""
        return Tokenizer.load(self.tokenizer).fingerprint

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file atomically."""
        atomic_write_text(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file of the run. Raises `ValueError` if it cannot be read."""
        return read_json_object(self.path / name)

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Append one line to a .jsonl file."""
        path = self.path / name
        with filename_in_errors(path), open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def fsync_records(self) -> None:
        """Flush the appended lines to disk."""
        for name in RECORDS:
            if (self.path / name).exists():
                fsync(self.path / name)

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return the objects in a .jsonl file, without a truncated last line. A missing file has none."""
        path = self.path / name
        return [record for _, record in json_lines(path)] if path.exists() else []

    def truncate_after(self, step: int) -> None:
        """Remove the records of later steps: a resumed run will write them again."""
        for name in RECORDS:
            if (self.path / name).exists():
                kept = [record for record in self.records(name) if record.get("step", 0) <= step]
                atomic_write_text(self.path / name, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))


def json_lines(path: Path) -> Iterator[LocatedRecord]:
    """Yield the objects in a .jsonl file with their locations, without a last line that was truncated when a run was killed.

    Raises `ValueError` for any other line that is not a JSON object.
    """
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                return
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, found {line[:40]!r}")
        yield f"{path}, line {number}", record


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, deepest first, up to the first that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def unused_path(parent: Path, name: str) -> Path:
    """Return the first of parent/name, parent/name-2, parent/name-3, ... that does not exist."""
    number = 1
    while (path := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path
