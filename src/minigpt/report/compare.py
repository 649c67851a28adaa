"""Compare training runs: the settings that differ, the results, and the curves on common axes."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.report.files import load_run
from minigpt.report.formats import format_duration
from minigpt.report.numbers import Run, Validation
from minigpt.report.settings import shown_settings

NONE = "-"
Row = tuple[str, ...]
"The name of a setting or a result, and its value for each run."


@dataclass(frozen=True)
class Comparison:
    """Runs, and names that distinguish them: those of their folders, with parent folders if necessary."""

    names: list[str]
    runs: list[Run]

    @property
    def settings(self) -> list[Row]:
        """The settings that differ, and other differences that affect the results."""
        return [*_differing(self.runs), *_changes(self.runs)]

    @property
    def results(self) -> list[Row]:
        """The results of the runs."""
        return _results(self.runs)

    @property
    def notes(self) -> list[str]:
        """Differences that limit how far the results can be compared."""
        texts = {(run.data.valid.documents, run.data.valid.bytes) for run in self.runs}
        floors = {(run.data.floor_bits_per_byte, run.data.floor_is_exact) for run in self.runs}
        notes = []
        if len(texts) > 1 or len(floors) > 1:
            notes.append("The runs were validated on different texts, so their bits per byte are not comparable.")
        if len({run.data.valid.tokens for run in self.runs}) > 1:
            notes.append("The runs have different tokenizers or texts: compare bits per byte, not the loss per token.")
        if len({run.machine.get("processor") for run in self.runs}) > 1:
            notes.append("The runs were trained on different processors, so their times are not comparable.")
        return notes


def compare(folders: Sequence[Path]) -> Comparison:
    """Read runs from their folders.

    Raises `ValueError` if there are fewer than two, if one is given twice, or if one is not a run or is damaged.
    """
    if len(folders) < 2:
        raise ValueError("give two or more runs to compare")
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise ValueError(f"{folder} is given twice: give different runs to compare")
    return Comparison(unique_names([path.parts for path in resolved]), [load_run(folder) for folder in folders])


def unique_names(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the last components of different paths: as few as distinguish each of them from the others.

    >>> unique_names([("runs", "a"), ("old", "b"), ("new", "b")])
    ['a', 'old/b', 'new/b']
    """
    lengths = [1] * len(paths)
    for _ in range(max(map(len, paths))):
        names = ["/".join(path[-n:]) for path, n in zip(paths, lengths, strict=True)]
        repeated = _repeated(names)
        lengths = [n + (name in repeated) for n, name in zip(lengths, names, strict=True)]
    return names


def _repeated(names: list[str]) -> set[str]:
    return {name for name, number in Counter(names).items() if number > 1}


def _differing(runs: list[Run]) -> list[Row]:
    settings = [shown_settings(run.config) for run in runs]
    names = dict.fromkeys(name for values in settings for name in values)
    rows = [(name, *(values.get(name, NONE) for values in settings)) for name in names]
    other: dict[str, Callable[[Run], str]] = {
        "text": lambda run: run.data.name,
        "processor": lambda run: str(run.machine.get("processor", NONE)),
        "version of minigpt": lambda run: run.version,
    }
    rows += [(name, *map(value, runs)) for name, value in other.items()]
    return [row for row in rows if len(set(row[1:])) > 1]


def _changes(runs: list[Run]) -> list[Row]:
    """Return a row with the settings that were changed when runs were resumed, if there are any."""
    cells = ["; ".join(f"{', '.join(change.settings)} after {change.step:,}" for change in run.changes) for run in runs]
    return [("changed when resumed", *(cell or NONE for cell in cells))] if any(cells) else []


def _results(runs: list[Run]) -> list[Row]:
    values: dict[str, Callable[[Run], str]] = {
        "parameters": lambda run: f"{run.parameters:,}",
        "steps": _steps,
        "tokens": lambda run: f"{run.tokens_seen:,}",
        "time": lambda run: format_duration(run.elapsed_s),
        "tokens/s": lambda run: f"{run.tokens_per_s:,.0f}",
        "training loss": lambda run: _number(run.final_training_loss),
        "validation loss": lambda run: _validation(run.final, lambda v: v.loss),
        "  bits per byte": lambda run: _validation(run.final, lambda v: v.bits_per_byte),
        "  above the floor": lambda run: NONE if run.above_floor is None else _number(run.above_floor),
        "best validation loss": lambda run: _validation(run.best, lambda v: v.loss),
        "  bits per byte (best)": lambda run: _validation(run.best, lambda v: v.bits_per_byte),
        "  at step": lambda run: f"{run.best.step:,}" if run.best else NONE,
    }
    rows = [(name, *map(value, runs)) for name, value in values.items()]
    return [row for row in rows if set(row[1:]) != {NONE}]


def _steps(run: Run) -> str:
    planned = run.config.get("steps")
    unfinished = isinstance(planned, int) and run.steps_done < planned
    return f"{run.steps_done:,} of {planned:,}" if unfinished else f"{run.steps_done:,}"


def _validation(validation: Validation | None, value: Callable[[Validation], float]) -> str:
    return NONE if validation is None else _number(value(validation))


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "not finite"
