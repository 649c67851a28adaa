"""Run folders as files: reading what a run recorded."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.report.numbers import Data, History, Run, Split, Story, Validation
from minigpt.train.folder import Located, json_lines
from minigpt.train.settings import parse_toml


def load_run(folder: Path) -> Run:
    """Read what a training run recorded in `folder`, finished, interrupted or resumed.

    Raises `ValueError`, naming the file and line, for a folder that is no run, a run without a finished step, and
    anything that is not as training writes it.
    """
    for name in ("config.toml", "run.json", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not the folder of a training run: it has no file {name}")
    try:
        return _load(folder)
    except RecursionError:
        raise ValueError(f"{folder} has a file that is nested too deeply") from None


def _load(folder: Path) -> Run:
    metrics = _metrics(folder / "metrics.jsonl")
    about = _run_json(folder / "run.json")
    return Run(
        name=folder.resolve().name,
        config=_config(folder / "config.toml"),
        command=_command(about),
        parameters=_take(about, "parameters", int),
        data=_data(_inner(about, "data")),
        machine=_flat(_inner(about, "machine")),
        version=_take(about, "version", str),
        history=_history(metrics),
        validations=[_validation(record) for record in metrics if record[1].get("val_loss") is not None],
        stories=_stories(folder / "samples.jsonl"),
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        config = parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    return _flat((str(path), config))


def _run_json(path: Path) -> Located:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a {type(record).__name__}, expected a JSON object")
    return str(path), record


def _command(about: Located) -> list[str]:
    try:
        return shlex.split(_take(about, "command", str))
    except ValueError as error:
        raise ValueError(f"{about[0]}: command is no line for a shell: {error}") from None


def _metrics(path: Path) -> list[Located]:
    """One record a step. A resumed run starts at its checkpoint: steps recorded after that and lost are left out."""
    kept: list[Located] = []
    for record in json_lines(path):
        step = _take(record, "step", int)
        while kept and kept[-1][1]["step"] >= step:
            kept.pop()
        kept.append(record)
    if not kept:
        raise ValueError(f"{path} records no finished step, so there is nothing to report yet")
    return kept


def _history(metrics: list[Located]) -> History:
    def column(name: str) -> np.ndarray:
        return np.array([_number(record, name) for record in metrics])

    def whole(name: str) -> np.ndarray:
        return np.array([_take(record, name, int) for record in metrics])

    return History(
        step=whole("step"),
        tokens=whole("tokens"),
        loss=column("loss"),
        lr=column("lr"),
        grad_norm=column("grad_norm"),
        tokens_per_s=column("tokens_per_s"),
        elapsed_s=np.array([_finite(record, "elapsed_s") for record in metrics]),
    )


def _validation(record: Located) -> Validation:
    return Validation(
        step=_take(record, "step", int),
        loss=_number(record, "val_loss"),
        bits_per_byte=_number(record, "val_bits_per_byte"),
    )


def _stories(path: Path) -> list[Story]:
    """The stories of the last step that has some; a story told again after a resume counts once."""
    stories = [_story(record) for record in json_lines(path)] if path.is_file() else []
    last = {(s.prompt, s.seed, s.temperature, s.top_k): s for s in stories if s.step == stories[-1].step}
    return list(last.values())


def _story(record: Located) -> Story:
    return Story(
        step=_take(record, "step", int),
        prompt=_take(record, "prompt", str),
        text=_take(record, "text", str),
        seed=_take(record, "seed", int),
        temperature=_number(record, "temperature"),
        top_k=None if record[1].get("top_k") is None else _take(record, "top_k", int),
    )


def _data(record: Located) -> Data:
    floor = record[1].get("floor_bits_per_byte")
    return Data(
        name=_take(record, "name", str),
        train=_split(_inner(record, "train")),
        valid=_split(_inner(record, "valid")),
        floor_bits_per_byte=None if floor is None else _finite(record, "floor_bits_per_byte"),
        floor_is_exact=bool(record[1].get("floor_is_exact")),
    )


def _split(record: Located) -> Split:
    sizes = {name: _take(record, name, int) for name in ("documents", "bytes", "tokens")}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{record[0]}: {name} is {size}, expected at least 1")
    return Split(**sizes)


def _inner(record: Located, name: str) -> Located:
    return f"{record[0]}, {name}", _take(record, name, dict)


def _flat(record: Located) -> dict[str, Any]:
    """Names and values to be shown, none of which holds more than a list of values."""
    where, values = record
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, (dict, list)) or _too_large(item):
                raise ValueError(f"{where}: {name} is neither a value nor a list of values")
    return values


def _take(record: Located, name: str, *kinds: type) -> Any:
    where, values = record
    if name not in values:
        raise ValueError(f"{where}: {name} is missing")
    if not isinstance(values[name], kinds) or isinstance(values[name], bool):
        raise ValueError(f"{where}: {name} is {values[name]!r}, expected {' or '.join(kind.__name__ for kind in kinds)}")
    if _too_large(values[name]):
        raise ValueError(f"{where}: {name} is too large a number")
    return values[name]


def _too_large(value: Any) -> bool:
    """Is it a number that no training records, and that cannot be drawn? Infinity may be."""
    return (isinstance(value, int) and abs(value) >= 1 << 62) or (isinstance(value, float) and 1e100 < abs(value) < math.inf)


def _number(record: Located, name: str) -> float:
    """A number; null, with which JSON may stand in for a loss that was no number, is NaN."""
    value = _take(record, name, int, float, type(None))
    return math.nan if value is None else float(value)


def _finite(record: Located, name: str) -> float:
    if not math.isfinite(value := _number(record, name)):
        raise ValueError(f"{record[0]}: {name} is {value}, expected a finite number")
    return value
