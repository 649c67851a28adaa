"""The model that the page shows: a run with its snapshots, or a single model."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from minigpt.data.tokenizer import Tokenizer
from minigpt.interop.load import find_model, load, tokenizer_path
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, first_nonfinite
from minigpt.runs.checkpoint import checkpoints, step_of
from minigpt.runs.folder import RunFolder, find_run
from minigpt.runs.snapshots import snapshots
from minigpt.training.machine import available_cores

MODEL_MEMORY = 1 << 30
"The memory of the models that are kept, in bytes."
SMALL = 20_000_000
"The number of parameters below which more than one thread brings little for a single text."
Value = TypeVar("Value")


class Cache(Generic[Value]):
    """The most recently used values, as many as fit in a number of bytes, and at least one. It can be used by several threads.

    >>> cache = Cache(2, lambda text: len(text))
    >>> cache.get(1, lambda: "ab"), cache.get(1, lambda: "not used"), cache.get(2, lambda: "c"), cache.get(1, lambda: "again")
    ('ab', 'ab', 'c', 'again')
    """

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self._limit, self._size = limit, size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key. `make` computes it if it is not kept; other threads wait meanwhile."""
        with self._lock:
            if key not in self._values:
                value = make()
                while self._values and sum(map(self._size, self._values.values())) + self._size(value) > self._limit:
                    self._values.popitem(last=False)
                self._values[key] = value
            self._values.move_to_end(key)
            return self._values[key]


class Subject:
    """A run, a checkpoint, a Hugging Face directory or a model on the hub, whose model is loaded when it is needed.

    Raises `ValueError` if there is none, or if it has no tokenizer.
    """

    def __init__(self, where: str | Path) -> None:
        self.where = where
        path = find_run(where)
        self.run = RunFolder(path.resolve()) if (path / "run.json").is_file() else None
        "The run, or None if the model does not belong to one."
        self.name = path.resolve().name if path.exists() else str(where)
        self._models: Cache[GPT] = Cache(MODEL_MEMORY, lambda model: model.parameters.flat.nbytes)
        found = self.run.tokenizer if self.run else tokenizer_path(where)
        if found is None or not found.exists():
            raise ValueError(f"{where} has no tokenizer (tokenizer.json)")
        self.tokenizer = Tokenizer.load(found)

    @property
    def steps(self) -> list[int]:
        """The steps whose weights there are, in ascending order. Empty if the model does not belong to a run."""
        if self.run is None:
            return []
        return sorted({step_of(path) for path in [*snapshots(self.run), *checkpoints(self.run)]})

    @property
    def trained(self) -> RunFolder | None:
        """The run, if minigpt has trained it, and has its settings: a run can also be imported."""
        return self.run if self.run is not None and self.run.config.exists() else None

    def resolve(self, step: int | None) -> int | None:
        """Return the step, or the last one whose weights there are if it is None. A model without a run has no steps.

        Raises `ValueError` if there are no weights yet, or if a model without a run is given a step.
        """
        if self.run is None:
            if step is not None:
                raise ValueError(f"{self.name} does not belong to a run, so it has no steps")
            return None
        if step is None and not (steps := self.steps):
            raise ValueError(f"{self.name} has no weights yet: its training has just started")
        return steps[-1] if step is None else step

    def model(self, step: int | None = None, dtype: type[np.floating] = np.float32) -> GPT:
        """Return the model after a step, by default the last one whose weights there are.

        Raises `ValueError` if there are no weights of the step, and `FloatingPointError` if they are not finite.
        """
        resolved = self.resolve(step)
        return self._models.get((resolved, dtype), lambda: self._load(resolved, dtype))

    def _load(self, step: int | None, dtype: type[np.floating]) -> GPT:
        if dtype is not np.float32:
            return with_dtype(self.model(step), dtype)
        model = load(find_model(self.where) if self.run is None else self.run.path, step)[0]
        if name := first_nonfinite(model.parameters):
            raise FloatingPointError(f"{self.name}: {name} has weights that are not finite (NaN or infinite)")
        return model


def blas_threads(model: GPT) -> int:
    """Return how many threads the matrix products of a model should have: one if it is small, so that others can use the rest."""
    return 1 if model.num_parameters() < SMALL else available_cores()


def with_dtype(model: GPT, dtype: type[np.floating]) -> GPT:
    """Return a copy of a model whose parameters have another precision."""
    return GPT(model.config, parameters=Parameters(model.parameters.shapes, dtype, model.parameters.flat.astype(dtype)))
