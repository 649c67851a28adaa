"""The records of metrics.jsonl as columns."""

import math
from typing import Any

import numpy as np

INTEGERS = ("step", "tokens")
COLUMNS = (*INTEGERS, "loss", "lr", "grad_norm", "tokens_per_s", "elapsed_s", "val_loss", "val_bits_per_byte")
"The columns of `Run.metrics` that every run has."


def columns(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return records of metrics.jsonl as arrays, one for each name. Values that a record does not have are NaN.

    >>> found = columns([{"step": 1, "loss": 2.0}, {"step": 2, "loss": None, "norms": {"head": {"weight": 3.0}}}])
    >>> found["step"], found["loss"], found["norms.head.weight"]
    (array([1, 2]), array([ 2., nan]), array([nan,  3.]))
    """
    flat = [dict(flatten(record)) for record in records]
    names = dict.fromkeys((*COLUMNS, *(name for record in flat for name in record)))
    return {name: _column([record.get(name) for record in flat], name in INTEGERS) for name in names}


def _column(values: list[Any], integers: bool) -> np.ndarray:
    if integers and None not in values:
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def flatten(record: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the items of a record, with the names of nested values joined by dots."""
    items: list[tuple[str, Any]] = []
    for name, value in record.items():
        items += flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return items


def downsample(values: np.ndarray, most: int) -> np.ndarray:
    """Return the means over bins of equal size, at most `most` of them.

    >>> downsample(np.arange(5.0), 2), downsample(np.arange(2.0), 9), downsample(np.array([]), 9)
    (array([1. , 3.5]), array([0., 1.]), array([], dtype=float64))
    """
    starts = np.arange(0, len(values), max(1, math.ceil(len(values) / most)))
    return np.add.reduceat(values, starts) / np.diff(starts, append=len(values)) if len(values) else values
