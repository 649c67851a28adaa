"""Read the files of a run folder."""

import math
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.json_files import read_json_object
from minigpt.report.numbers import Data, History, MeasuredNorms, Run, Sample, SettingsChange, Split, Validation
from minigpt.runs.folder import nearest_run
from minigpt.runs.records import LocatedRecord, json_lines
from minigpt.training.layer_norms import KINDS
from minigpt.training.settings_file import parse_toml, upgrade_settings


def load_run(folder: Path) -> Run:
    """Read the records of a finished, interrupted or resumed training run from its folder.

    Raises `ValueError` with the file and the line if the folder is not a run, has no finished step, or contains an invalid
    file.
    """
    for name in ("config.toml", "run.json", "metrics.jsonl"):
        if not (folder / name).is_file():
            hint = "" if folder.exists() else nearest_run(folder)
            raise ValueError(f"{folder} is not a run folder: it has no file {name}{hint}")
    try:
        return _load(folder)
    except RecursionError:
        raise ValueError(f"{folder} contains a file that is nested too deeply") from None


def _load(folder: Path) -> Run:
    metrics = _metrics(folder / "metrics.jsonl")
    info = _run_json(folder / "run.json")
    return Run(
        name=folder.resolve().name,
        path=_path_for_commands(folder),
        config=_config(folder / "config.toml"),
        command=_command(info),
        parameters=_take(info, "parameters", int),
        data=_data(_object(info, "data")),
        machine=_scalars(_object(info, "machine")),
        version=_take(info, "version", str),
        history=_history(metrics),
        validations=[_validation(record) for record in metrics if record[1].get("val_loss") is not None],
        all_samples=_samples(folder / "samples.jsonl"),
        norms=[_norms(record) for record in metrics if record[1].get("norms") is not None],
        changes=_changes(info),
    )


def _path_for_commands(folder: Path) -> str:
    """Return the folder relative to the current folder if it is inside it, otherwise only its name: reports are published."""
    for path, current in ((Path(os.path.abspath(folder)), Path.cwd()), (folder.resolve(), Path.cwd().resolve())):
        if path != current and path.is_relative_to(current):
            return path.relative_to(current).as_posix()
    return folder.resolve().name


def _config(path: Path) -> dict[str, Any]:
    try:
        values = parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    try:
        config = upgrade_settings(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return _scalars((str(path), config))


def _run_json(path: Path) -> LocatedRecord:
    return str(path), read_json_object(path)


def _command(info: LocatedRecord) -> list[str]:
    command = _take(info, "command", str)
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ValueError(f"{info[0]}: command is not a valid shell command: {error}") from None


def _metrics(path: Path) -> list[LocatedRecord]:
    """Return one record per step. If a resumed run repeated steps after its checkpoint, their first records are left out."""
    kept: list[LocatedRecord] = []
    for record in json_lines(path):
        step = _take(record, "step", int)
        while kept and kept[-1][1]["step"] >= step:
            kept.pop()
        kept.append(record)
    if not kept:
        raise ValueError(f"{path} has no finished step, so there is nothing to report yet")
    return kept


def _history(metrics: list[LocatedRecord]) -> History:
    def column(name: str) -> np.ndarray:
        return np.array([_number(record, name) for record in metrics])

    def integers(name: str) -> np.ndarray:
        return np.array([_take(record, name, int) for record in metrics])

    return History(
        step=integers("step"),
        tokens=integers("tokens"),
        loss=column("loss"),
        lr=column("lr"),
        grad_norm=column("grad_norm"),
        tokens_per_s=column("tokens_per_s"),
        elapsed_s=np.array([_finite(record, "elapsed_s") for record in metrics]),
    )


def _validation(record: LocatedRecord) -> Validation:
    return Validation(
        step=_take(record, "step", int),
        loss=_number(record, "val_loss"),
        bits_per_byte=_number(record, "val_bits_per_byte"),
    )


def _norms(record: LocatedRecord) -> MeasuredNorms:
    norms = _object(record, "norms")
    layers = {layer: _object(norms, layer) for layer in norms[1]}
    values = {name: {kind: _number(layer, kind) for kind in KINDS} for name, layer in layers.items()}
    return MeasuredNorms(_take(record, "step", int), values)


def _changes(info: LocatedRecord) -> list[SettingsChange]:
    """Return the changes of settings that run.json records; older runs have no such list."""
    changes = [] if info[1].get("changes") is None else _take(info, "changes", list)
    found = []
    for number, change in enumerate(changes, start=1):
        record = f"{info[0]}, changes, entry {number}", change if isinstance(change, dict) else {}
        settings = _object(record, "settings")
        found.append(SettingsChange(_take(record, "step", int), {name: _old_and_new(settings, name) for name in settings[1]}))
    return found


def _old_and_new(record: LocatedRecord, name: str) -> tuple[Any, Any]:
    values = _take(record, name, list)
    if len(values) != 2:
        raise ValueError(f"{record[0]}: {name} has {len(values)} values, but must have 2, the old and the new one")
    return values[0], values[1]


def _samples(path: Path) -> list[Sample]:
    """Return the samples in order. Of those that were repeated after a resume, only the last ones are kept."""
    kept: dict[tuple[Any, ...], Sample] = {}
    for record in json_lines(path) if path.is_file() else ():
        sample = _sample(record)
        while kept and (last := next(reversed(kept)))[0] > sample.step:
            del kept[last]
        kept[sample.step, *sample.options] = sample
    return list(kept.values())


def _sample(record: LocatedRecord) -> Sample:
    return Sample(
        step=_take(record, "step", int),
        prompt=_take(record, "prompt", str),
        text=_take(record, "text", str),
        seed=_take(record, "seed", int),
        temperature=_number(record, "temperature"),
        top_k=None if record[1].get("top_k") is None else _take(record, "top_k", int),
        tokens=_tokens(record),
    )


def _tokens(record: LocatedRecord) -> tuple[tuple[str, float], ...]:
    """Return the pieces of a sample with their surprises, which samples of older versions do not have."""
    where, values = record
    if values.get("pieces") is None or values.get("surprises") is None:
        return ()
    pieces, surprises = _take(record, "pieces", list), _take(record, "surprises", list)
    if not all(isinstance(piece, str) for piece in pieces) or "".join(pieces) != values["text"]:
        raise ValueError(f"{where}: pieces must be strings that make up the text")
    if len(pieces) != len(surprises):
        raise ValueError(f"{where}: surprises has {len(surprises)} values, but must have {len(pieces)}, one for each piece")
    bits = [_number((f"{where}, surprises", {str(i): value}), str(i)) for i, value in enumerate(surprises)]
    return tuple(zip(pieces, bits, strict=True))


def _data(record: LocatedRecord) -> Data:
    floor = record[1].get("floor_bits_per_byte")
    return Data(
        name=_take(record, "name", str),
        train=_split(_object(record, "train")),
        valid=_split(_object(record, "valid")),
        floor_bits_per_byte=None if floor is None else _finite(record, "floor_bits_per_byte"),
        floor_is_exact=bool(record[1].get("floor_is_exact")),
        held_out=None if record[1].get("held_out") is None else _take(record, "held_out", str),
    )


def _split(record: LocatedRecord) -> Split:
    sizes = {name: _take(record, name, int) for name in ("documents", "bytes", "tokens")}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{record[0]}: {name} is {size}, but must be at least 1")
    return Split(**sizes)


def _object(record: LocatedRecord, name: str) -> LocatedRecord:
    return f"{record[0]}, {name}", _take(record, name, dict)


def _scalars(record: LocatedRecord) -> dict[str, Any]:
    """Return the names and values of a record, each of which must be a scalar or a list of scalars."""
    where, values = record
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, (dict, list)):
                raise ValueError(f"{where}: {name} is nested, but must be a value or a list of values")
            if _too_large(item):
                raise ValueError(f"{where}: {name} is too large")
    return values


def _take(record: LocatedRecord, name: str, *kinds: type) -> Any:
    """Return a value of a record, which must be of one of the given types."""
    where, values = record
    if name not in values:
        raise ValueError(f"{where}: {name} is missing")
    if not isinstance(values[name], kinds) or isinstance(values[name], bool):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{where}: {name} is {values[name]!r}, but must be {expected}")
    if _too_large(values[name]):
        raise ValueError(f"{where}: {name} is too large")
    return values[name]


def _too_large(value: Any) -> bool:
    """Return whether a number is too large to be plotted. Infinity is allowed, because it is left out of the plot."""
    return (isinstance(value, int) and abs(value) >= 1 << 62) or (isinstance(value, float) and 1e100 < abs(value) < math.inf)


def _number(record: LocatedRecord, name: str) -> float:
    """Return a number. Null, which JSON has in place of a non-finite value, becomes NaN."""
    value = _take(record, name, int, float, type(None))
    return math.nan if value is None else float(value)


def _finite(record: LocatedRecord, name: str) -> float:
    if not math.isfinite(value := _number(record, name)):
        raise ValueError(f"{record[0]}: {name} is {value}, but must be finite")
    return value
