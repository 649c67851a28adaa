"""The folder of a training run: its files, its lock, and the records of its steps."""

import difflib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.data.atomic import atomic_write_text, file_lock, filename_in_errors, fsync, is_temporary
from minigpt.data.json_files import read_json_object
from minigpt.data.tokenizer import Tokenizer
from minigpt.runs.records import RECORDS, read_records, truncate_after

RUNS = Path("runs")
"The folder of new runs, in the current folder."
LOCK_FILE = "lock"
SETUP_FILES = {LOCK_FILE, "run.json", "tokenizer.json", "tokenizer_config.json"}  # written before config.toml


def find_run(where: str | Path) -> Path:
    """Return the path `where` or, if it does not exist, the folder of this name in runs/ if that exists.

    Raises `ValueError` if `where` is empty.
    """
    if not str(where).strip():
        raise ValueError("the name of the run is empty, but must be the folder of a run, or its name in runs/")
    path = Path(where)
    return RUNS / path if not path.exists() and (RUNS / path).exists() else path


def split_step(where: str | Path) -> tuple[str | Path, int | None]:
    """Divide a name such as RUN@64 into the name of the run and the step. A path that exists has no step.

    >>> split_step("runs/first@64"), split_step("runs/first")
    (('runs/first', 64), ('runs/first', None))
    """
    match = re.fullmatch(r"(.+)@(\d+)", str(where), re.DOTALL)
    return (match[1], int(match[2])) if match and not find_run(where).exists() else (where, None)


def nearest_run(where: str | Path) -> str:
    """Return the end of an error message: the run in runs/ that was probably meant, or how to get a run if there is none."""
    name = os.path.basename(os.path.abspath(where))
    runs = [path for path in RUNS.iterdir() if path.is_dir()] if RUNS.is_dir() else []
    close = difflib.get_close_matches(name, [path.name for path in runs if path.absolute() != Path(where).absolute()], n=1)
    if close:
        return f"; did you mean {RUNS / close[0]}?"
    is_name = Path(where).parent in (Path(), RUNS)
    return f"; there is no run in {RUNS} yet, and `minigpt train` trains one" if is_name and not runs else ""


@dataclass(frozen=True)
class RunFolder:
    """The paths and files of a run.

    The folder contains config.toml, tokenizer.json, run.json (machine and data), metrics.jsonl (one line per step),
    samples.jsonl, checkpoints/step-000123/, snapshots/step-000064/, the report, and, during training, `lock`.
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

    @property
    def snapshots(self) -> Path:
        """The folder of the snapshots."""
        return self.path / "snapshots"

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
                for folder in created or [self.path]:
                    with suppress(PermissionError):  # a folder that can be written to, but not read, cannot be flushed
                        fsync(folder.absolute().parent)
            try:
                stack.enter_context(file_lock(self.path / LOCK_FILE))
            except TimeoutError:
                raise ValueError(f"{self.path} is in use by another training process") from None
            for leftover in [*filter(is_temporary, self.path.iterdir()), *self.path.glob("*/.step-*")]:
                if leftover.is_dir() and not leftover.is_symlink():
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
        """Flush the appended lines, and the names of all files and folders of the run, to disk."""
        for name in RECORDS:
            if (self.path / name).exists():
                fsync(self.path / name)
        fsync(self.path)

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return the objects in a .jsonl file, without a truncated last line. A missing file has none."""
        return read_records(self.path / name)

    def truncate_after(self, step: int) -> None:
        """Remove the records of later steps: a resumed run will write them again. Warn if earlier ones are missing."""
        for name in RECORDS:
            truncate_after(self.path / name, step)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, deepest first, up to the first that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
