"""The files of records of a run, metrics.jsonl and samples.jsonl: one JSON object per line."""

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from minigpt.data.atomic import atomic_write_text, unused_path

LocatedRecord = tuple[str, dict[str, Any]]
"A JSON object, preceded by its location for error messages."

RECORDS = {"metrics.jsonl": ("step",), "samples.jsonl": ("step", "seed")}
"The files of records, and the integers that identify a record."
_SHOWN = 5  # ranges of steps in a warning


def json_lines(path: Path) -> Iterator[LocatedRecord]:
    """Yield the objects in a .jsonl file with their locations, without a last line that was truncated when a run was killed.

    Raises `ValueError` for any other line that is not a JSON object.
    """
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None and number == len(lines):
            return
        if isinstance(record, dict):
            yield f"{path}, line {number}", record
        elif line.strip():
            raise ValueError(f"{path}, line {number}: expected a JSON object, found {line[:40]!r}")


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a .jsonl file as `json_lines` does. A missing file has none.

    Raises `ValueError` for the same reasons, and for a step or a seed that is not an integer.
    """
    records = list(json_lines(path)) if path.exists() else []
    for where, record in records:
        if key := _invalid_key(path, record):
            raise ValueError(f"{where}: {key} is {record[key]!r}, but must be an integer")
    return [record for _, record in records]


def truncate_after(path: Path, step: int) -> None:
    """Remove the records of later steps from a .jsonl file, and all lines that are not records.

    Warn of earlier steps that are missing or recorded twice, and of earlier lines that are not records; the file with such lines
    is kept under another name.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    kept: list[dict[str, Any]] = []
    damaged: list[int] = []
    unreadable: list[int] = []  # since the last record that is kept
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if not isinstance(record, dict) or _invalid_key(path, record):
            unreadable += [number] if line.strip() else []
        elif record.get("step", 0) <= step:
            kept.append(record)
            damaged += unreadable
            unreadable = []
    problems = _missing_and_repeated(path, kept, step)
    if damaged:
        copy = unused_path(path.parent, f"damaged-{path.name}")
        shutil.copy(path, copy)
        problems.append(f"unreadable lines, which were removed: {_ranges(damaged)} ({copy.name} is a copy of the file)")
    if problems:
        warnings.warn(f"{path}: {'; '.join(problems)}. The training is not affected", stacklevel=2)
    if lines:
        atomic_write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))


def _missing_and_repeated(path: Path, records: list[dict[str, Any]], last: int) -> list[str]:
    """Describe the steps up to `last` that are missing in metrics.jsonl, and those that have a record more than once."""
    keys = RECORDS[path.name]
    counts = Counter(tuple(record.get(key, 0) for key in keys) for record in records)
    steps = {record.get("step", 0) for record in records}
    repeated = {key[0] for key, count in counts.items() if count > 1}
    missing = set(range(1, last + 1)) - steps if path.name == "metrics.jsonl" else set()
    found = {"steps without a record": missing, "steps with more than one record": repeated}
    return [f"{problem}: {_ranges(sorted(steps))}" for problem, steps in found.items() if steps]


def _parse(line: bytes) -> Any:
    """Return the value of a line of JSON, or None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _invalid_key(path: Path, record: dict[str, Any]) -> str | None:
    """Return the name of a step or a seed that is not an integer, if the record has one."""
    return next((key for key in RECORDS.get(path.name, ()) if type(record.get(key, 0)) is not int), None)


def _ranges(numbers: Iterable[int]) -> str:
    """Return ascending numbers as text.

    >>> _ranges([1, 2, 3, 7])
    '1-3, 7'
    """
    runs = [list(run) for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    texts = [f"{run[0][1]}-{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs]
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")
