"""Resume a run from its newest intact checkpoint, with the settings of the run or with others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from minigpt.np.model import GPT
from minigpt.runs.checkpoint import (
    MODEL,
    TrainingState,
    checkpoints,
    load_model,
    load_optimizer,
    load_state,
    newest_intact,
    prune_checkpoints,
    set_aside_damaged,
)
from minigpt.runs.folder import RunFolder
from minigpt.runs.snapshots import remove_snapshots_after
from minigpt.training.changes import check_changes
from minigpt.training.initial_model import first_difference
from minigpt.training.job import Job, data_parallel
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings


def check_same_model(run: RunFolder, settings: Settings) -> None:
    """Raise `ValueError` if the settings specify another architecture, initial model or optimizer than those of the run.

    Only a run without a checkpoint can change them.
    """
    if not checkpoints(run):
        return
    previous = Settings(**read_settings(run.config))
    if settings.init != previous.init:
        before = f"was started from {previous.init}" if previous.init else "was not started from a model"
        raise ValueError(f"init is {settings.init!r}, but the run {before}: a resumed run keeps its weights")
    causes = [
        f"{name} {getattr(settings, name)}" for name in ("preset", "recipe") if getattr(settings, name) != getattr(previous, name)
    ]
    cause = f" ({', '.join(causes)})" if causes else ""
    model, trained = (s.model(previous.vocab_size) for s in (replace(settings, dropout=previous.dropout), previous))
    if difference := first_difference(model, trained):
        name, value, old = difference
        remedy = "a resumed run keeps its architecture; start a new run, or leave the option out"
        raise ValueError(f"{name} is {value!r}{cause}, but the run was trained with {old!r}: {remedy}")
    if settings.optimizer != previous.optimizer:
        problem = f"optimizer is {settings.optimizer!r}{cause}, but the run was trained with {previous.optimizer!r}"
        raise ValueError(f"{problem}: a resumed run keeps its optimizer; start a new run, or leave the option out")


def check_same_data(job: Job, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the content of run.json. Raises `ValueError` if it is invalid, or if the run was trained on other data.

    The content of the data counts, and not the names of its files, which may have been moved or renamed.
    """
    run = job.run
    previous = run.read_json("run.json")
    if run.tokenizer_fingerprint() != job.data.tokenizer.fingerprint:
        raise ValueError(f"{run.path} was trained on other data: {run.tokenizer} is not the tokenizer of the current data")
    data = previous.get("data")
    in_words = {"name": job.data.name, "held_out": job.data.held_out}  # older runs do not have held_out
    if not isinstance(data, dict) or {**data, **in_words} != metadata["data"]:
        raise ValueError(f"{run.path} was trained on other data: it has changed, or --data, --seed, ... are different")
    if not isinstance(command := previous.get("command"), str):
        raise ValueError(f"{run.path / 'run.json'}: command is {command!r}, but must be a string")
    check_changes(run, previous)
    return previous


def resume(job: Job) -> tuple[DataParallel, TrainingState]:
    """Return the model and the state of the newest intact checkpoint, and remove later checkpoints and records."""
    run = job.run
    if checkpoint := newest_intact(run):
        workers, state = _load_checkpoint(job, checkpoint)
    else:
        job.progress.print_line(f"{run.path} has no checkpoint yet; training starts at step 1.")
        workers, state = job.start()
    set_aside_damaged(run, state.step)
    prune_checkpoints(run, job.settings.keep)
    run.truncate_after(state.step)
    remove_snapshots_after(run, state.step)
    return workers, state


def resume_point(job: Job) -> TrainingState:
    """Return the state from which the run would be resumed, and change nothing. Raises `ValueError` if it cannot be resumed."""
    checkpoint = newest_intact(job.run)
    return _load_same(job, checkpoint)[1] if checkpoint else TrainingState()


def _load_same(job: Job, checkpoint: Path) -> tuple[GPT, TrainingState]:
    """Return the model and the state of a checkpoint. Raises `ValueError` if they do not fit the settings."""
    state, model = load_state(checkpoint), _load_model(job, checkpoint)
    if state.step > job.settings.steps:
        raise ValueError(f"{job.run.path} has completed {state.step:,} steps, but steps is {job.settings.steps:,}")
    return model, state


def _load_checkpoint(job: Job, checkpoint: Path) -> tuple[DataParallel, TrainingState]:
    run, settings = job.run, job.settings
    model, state = _load_same(job, checkpoint)
    workers = data_parallel(model, settings, job.ranks)
    load_optimizer(checkpoint, workers.moments)
    if state.step == settings.steps:
        job.progress.print_line(f"{run.path} has completed all of its {state.step:,} steps; to continue, increase --steps.")
    else:
        job.progress.print_line(f"Resuming after step {state.step:,}.")
    return workers, state


def _load_model(job: Job, checkpoint: Path) -> GPT:
    """Return the model of a checkpoint, with the dropout of the settings. Raises `ValueError` if config.toml has another one."""
    model, expected = load_model(checkpoint / MODEL), job.config
    if difference := first_difference(expected, replace(model.config, dropout=expected.dropout)):
        name, value, other = difference
        raise ValueError(f"{job.run.config}: {name} is {value!r}, but the model in {checkpoint} has {other!r}")
    return GPT(expected, parameters=model.parameters)
