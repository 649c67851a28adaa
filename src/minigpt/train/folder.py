"""A run's folder: what a training leaves behind, and how it is found again."""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.data.atomic import is_temporary, locked, naming, sync, write_whole
from minigpt.data.tokenizer import Tokenizer

Located = tuple[str, dict[str, Any]]
"A JSON object and where it was found, for error messages."

LOCK = "lock"
SETUP = {LOCK, "run.json", "tokenizer.json", "tokenizer_config.json"}  # there before config.toml, which makes it a run
RECORDS = ("metrics.jsonl", "samples.jsonl")


@dataclass(frozen=True)
class RunFolder:
    """Where everything of a run lies.

    config.toml, tokenizer.json, run.json (machine and data), metrics.jsonl (one line a step), samples.jsonl,
    checkpoints/step-000123/, and the report; and, while somebody trains in it, `lock`.
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
        with self._somewhere_else():
            self._check_free(overwrite)

    def _check_free(self, overwrite: bool) -> None:
        nearest = next(folder for folder in (self.path, *self.path.absolute().parents) if os.path.lexists(folder))
        nearest.stat()
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise ValueError(f"{nearest} is not a folder that can be written to: choose another --out")
        if not self.path.exists() or all(path.name in SETUP or is_temporary(path) for path in self.path.iterdir()):
            return  # a run that was killed before it had begun holds nothing to lose
        if not overwrite:
            ways = "go on with it (--resume), replace it (--overwrite) or choose another --out"
            raise ValueError(f"{self.path} exists already: {ways}")
        if not (self.config.exists() and self.tokenizer.exists()):
            what = "is not a run (it has no config.toml and tokenizer.json), so it is not replaced"
            raise ValueError(f"{self.path} {what}: choose another --out")

    def create(self, overwrite: bool = False) -> None:
        """Make the folder empty, but for the lock. What makes it a run goes last."""
        self.check_free(overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        last = [self.config, self.tokenizer]  # so that it is known for a run until nothing else is left
        for path in [*(path for path in self.path.iterdir() if path not in last), *filter(Path.exists, last)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the `with` nobody else trains in this folder: raises `ValueError` where somebody does.

        What a killed training left half-written is deleted; a folder that remains empty disappears again.
        """
        with ExitStack() as stack:
            with self._somewhere_else():
                made = [folder for folder in (self.path, *self.path.absolute().parents) if not folder.exists()]
                stack.callback(_remove_empty, made)
                self.path.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(self.path / LOCK))
            except TimeoutError:
                raise ValueError(f"{self.path} is in use: another training goes on in it") from None
            for leftover in [*filter(is_temporary, self.path.iterdir()), *self.checkpoints.glob(".step-*")]:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield

    @contextmanager
    def _somewhere_else(self) -> Iterator[None]:
        """Turn a system's refusal of this path into a `ValueError`."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise ValueError(f"{self.path} cannot be used ({error.strerror}): choose another --out") from None

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
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.path / name} cannot be read: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{self.path / name} holds a JSON {type(content).__name__}, but must hold an object")
        return content

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add one line to a .jsonl file."""
        path = self.path / name
        with naming(path), open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def sync_records(self) -> None:
        """Have all lines that were added written to the disk itself."""
        for name in RECORDS:
            if (self.path / name).exists():
                sync(self.path / name)

    def records(self, name: str) -> list[dict[str, Any]]:
        """The lines of a .jsonl file; a last line that was cut off is left out."""
        path = self.path / name
        return [record for _, record in json_lines(path)] if path.exists() else []

    def forget_after(self, step: int) -> None:
        """Drop lines of later steps, which a resumed run will write again."""
        for name in RECORDS:
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
        except (ValueError, RecursionError):
            if number == len(lines):
                return
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, found {line[:40]!r}")
        yield f"{path}, line {number}", record


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the deepest first, up to one that holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def free_folder(parent: Path, name: str) -> Path:
    """The first of parent/name, parent/name-2, parent/name-3 ... that does not exist."""
    number = 1
    while (path := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path
