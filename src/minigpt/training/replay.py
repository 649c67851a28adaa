"""Repeat the steps of a run, bit for bit, or as they would have been without one of its documents.

The batch, the dropout and the learning rate of a step follow from the settings and its number, so every state of a run can be
computed again: from the newest checkpoint before it, or from the initial weights.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console

from minigpt.data.leave_out import Document, documents, steps_of_documents, without
from minigpt.data.ranks import SingleProcess
from minigpt.data.token_files import PreparedData
from minigpt.np.model import GPT
from minigpt.runs.checkpoint import (
    MODEL,
    TrainingState,
    checkpoints,
    is_intact,
    load_model,
    load_optimizer,
    load_state,
    step_of,
    verify,
)
from minigpt.runs.folder import RunFolder
from minigpt.runs.snapshots import snapshots
from minigpt.training.changes import without_undone
from minigpt.training.job import Job
from minigpt.training.machine import available_cores
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.prepare import prepare_data
from minigpt.training.progress import Progress
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings
from minigpt.training.trainer import Trainer

NO_EFFECT_ON_STEPS = {"keep", "samples", "sample_every", "prompt", "snapshots", "checkpoint_every", "watchdog"}
"Settings that do not change the weights."
OnStep = Callable[[int], object]
"Called with the number of each step that has been repeated."


@dataclass(frozen=True)
class Past:
    """A state of a run: what a checkpoint stores, in memory."""

    parameters: np.ndarray
    moments: tuple[np.ndarray, np.ndarray]
    state: TrainingState


class Replay:
    """A run whose steps can be repeated. A context manager, inside which it has workers.

    Raises `ValueError` if the run cannot be repeated: it was imported, its data has changed, or it had several ranks.
    """

    def __init__(self, run: RunFolder, say: Callable[[str], None] = lambda line: None) -> None:
        if not run.config.exists():
            raise ValueError(
                f"{run.path} has no config.toml, so its steps cannot be repeated: it was imported, or has not started"
            )
        self.run = run
        self.settings = Settings(**read_settings(run.config))
        self._content = run.read_json("run.json")
        machine = self._content.get("machine")
        if isinstance(machine, dict) and machine.get("ranks", 1) != 1:
            raise ValueError(
                f"{run.path} was trained on {machine['ranks']} MPI ranks, but only runs of one process can be repeated"
            )
        self.data = self._prepare(say)
        with open(os.devnull, "w", encoding="utf-8") as devnull:
            progress = Progress(Console(file=devnull, quiet=True), self.settings.steps)
        job = Job(self.settings, self.data, run, SingleProcess(available_cores()), progress)
        workers, state = job.start()
        self.trainer = Trainer(self.settings, self.data, workers.model, state, run, workers, progress)
        self._losses = {record["step"]: record["loss"] for record in run.records("metrics.jsonl")}

    def _prepare(self, say: Callable[[str], None]) -> PreparedData:
        try:
            data = prepare_data(self.settings, say, self.run)
        except ValueError as error:
            raise ValueError(
                f"the data of {self.run.path} cannot be read ({error}): run the command where it was trained"
            ) from None
        recorded = self._content.get("data")
        expected = recorded.get("train") if isinstance(recorded, dict) else None
        if not isinstance(expected, dict) or expected.get("sha256") != data.train.sha256:
            raise ValueError(f"the data of {self.run.path} has changed, so its steps cannot be repeated")
        return data

    def __enter__(self) -> "Replay":
        self.workers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.workers.__exit__(None, None, None)

    @property
    def workers(self) -> DataParallel:
        """The workers."""
        return self.trainer.data_parallel

    @property
    def model(self) -> GPT:
        """The model, in the state of the last repeated step."""
        return self.trainer.model

    @property
    def steps_done(self) -> int:
        """The number of steps that the run has recorded."""
        return max(self._losses, default=0)

    def documents(self) -> list[Document]:
        """Return the documents of the training text."""
        tokenizer = self.data.tokenizer
        return documents(self.data.train, tokenizer.end_of_text, tokenizer.begin_of_text)

    def steps_of_documents(self, documents: Sequence[Document], last: int) -> dict[int, list[int]]:
        """Return the steps up to `last` at which the model sees each document, by its number."""
        s = self.settings
        return steps_of_documents(documents, len(self.data.train), last, s.seed, s.batch_size, s.context_length)

    def start_before(self, step: int) -> int:
        """Go to the newest checkpoint that is not after `step`, or to the initial weights. Return its step.

        Raises `ValueError` if settings were changed after it and before `step`.
        """
        found = 0
        for path in reversed([path for path in checkpoints(self.run) if step_of(path) <= step]):
            try:
                verify(path)
            except ValueError:
                continue
            self.model.parameters.flat[...] = load_model(path / MODEL).parameters.flat
            load_optimizer(path, self.workers.moments)
            self.trainer.state = load_state(path)
            found = self.trainer.state.step
            break
        for change in without_undone(self._content.get("changes", [])):
            if found < change["step"] and (names := ", ".join(sorted(change["settings"].keys() - NO_EFFECT_ON_STEPS))):
                raise ValueError(
                    f"the steps of {self.run.path} up to {change['step']:,} cannot be repeated: its settings ({names}) were "
                    "changed after them"
                )
        return found

    def save(self) -> Past:
        """Return the present state."""
        m, v = self.workers.moments
        return Past(self.model.parameters.flat.copy(), (m.flat.copy(), v.flat.copy()), replace(self.trainer.state))

    def restore(self, past: Past) -> None:
        """Go back to a state."""
        self.model.parameters.flat[...] = past.parameters
        for p, saved in zip(self.workers.moments, past.moments, strict=True):
            p.flat[...] = saved
        self.trainer.state = replace(past.state)

    def advance(self, step: int, on_step: OnStep = lambda step: None, left_out: Document | None = None) -> None:
        """Repeat the steps up to `step`. Without a document that is left out, they must have the bits of the run.

        Raises `ValueError` if a loss or the weights of a snapshot are not those of the run.
        """
        paths = {step_of(path): path for path in snapshots(self.run)}
        with self._data_without(left_out):
            while self.trainer.state.step < step:
                record = self.trainer.step()
                if left_out is None:
                    self._check_same(record["step"], record["loss"])
                    if (path := paths.get(record["step"])) and is_intact(path, [MODEL]):
                        self._check_same_weights(load_model(path / MODEL), record["step"])
                on_step(record["step"])

    @contextmanager
    def _data_without(self, document: Document | None) -> Iterator[None]:
        """Leave a document out of the training text inside the block."""
        if document:
            self.trainer.data = replace(self.data, train=without(self.data.train, document))
        try:
            yield
        finally:
            self.trainer.data = self.data

    def _check_same(self, step: int, loss: float | None) -> None:
        if step in self._losses and loss != self._losses[step]:
            raise ValueError(self._difference(step, f"the loss is {loss!r}, and that of the run was {self._losses[step]!r}"))

    def _check_same_weights(self, snapshot: GPT, step: int) -> None:
        if not np.array_equal(snapshot.parameters.flat, self.model.parameters.flat):
            raise ValueError(self._difference(step, "the weights are not those of the snapshot"))

    def _difference(self, step: int, what: str) -> str:
        return (
            f"step {step:,} of {self.run.path} cannot be repeated bit for bit here: {what}. The bits depend on the processor, on "
            "the version of NumPy and its BLAS, and on the number of threads"
        )
