"""Resume a run from its newest intact checkpoint, with the settings of the run or with others."""

from pathlib import Path
from typing import Any

from minigpt.runs.checkpoint import (
    MODEL,
    TrainingState,
    load_model,
    load_optimizer,
    load_state,
    newest_intact,
    prune_checkpoints,
    set_aside_damaged,
)
from minigpt.training.job import Job, data_parallel
from minigpt.training.parallel.data_parallel import DataParallel


def check_same_data(job: Job, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the content of run.json. Raises `ValueError` if it is invalid, or if the run was trained on other data.

    The content of the data counts, and not the names of its files, which may have been moved or renamed.
    """
    run = job.run
    previous = run.read_json("run.json")
    if run.tokenizer_fingerprint() != job.data.tokenizer.fingerprint:
        raise ValueError(f"{run.path} was trained on other data: {run.tokenizer} is not the tokenizer of the current data")
    data = previous.get("data")
    if not isinstance(data, dict) or {**data, "name": job.data.name} != metadata["data"]:
        raise ValueError(f"{run.path} was trained on other data: it has changed, or --data, --seed, ... are different")
    if not isinstance(command := previous.get("command"), str):
        raise ValueError(f"{run.path / 'run.json'}: command is {command!r}, but must be a string")
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
    return workers, state


def _load_checkpoint(job: Job, checkpoint: Path) -> tuple[DataParallel, TrainingState]:
    run, settings = job.run, job.settings
    expected = settings.model(settings.vocab_size if settings.init else job.data.tokenizer.vocab_size)
    state = load_state(checkpoint)
    model = load_model(checkpoint / MODEL)
    if model.config != expected:
        raise ValueError(f"{checkpoint} has another configuration: {model.config}, but the settings specify {expected}")
    if state.step > settings.steps:
        raise ValueError(f"{run.path} has completed {state.step:,} steps, but steps is {settings.steps:,}")
    workers = data_parallel(model, settings, job.ranks)
    load_optimizer(checkpoint, workers.moments)
    if state.step == settings.steps:
        job.progress.print_line(f"{run.path} has completed all of its {state.step:,} steps; to continue, increase --steps.")
    else:
        job.progress.print_line(f"Resuming after step {state.step:,}.")
    return workers, state
