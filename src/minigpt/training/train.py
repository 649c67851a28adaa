"""Train a model from settings: prepare the data, create or resume the run, run the training loop, generate final samples."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from minigpt.data.batches import batch
from minigpt.data.ranks import Ranks, SingleProcess
from minigpt.data.splits import Split
from minigpt.data.text_files import plural
from minigpt.data.token_files import open_prepared
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, shapes
from minigpt.runs.checkpoint import TrainingState, checkpoints
from minigpt.runs.folder import RunFolder
from minigpt.training.changes import changed_settings, write_settings
from minigpt.training.estimate import check_memory
from minigpt.training.interrupt import MESSAGE, StopRequest, stop_request
from minigpt.training.job import Job, data_parallel
from minigpt.training.machine import available_cores, describe
from minigpt.training.output import optional_output
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.parallel.mpi import MPIRanks
from minigpt.training.prepare import prepare_data, reduce_context
from minigpt.training.progress import Progress
from minigpt.training.recipe import optimizer
from minigpt.training.resume import check_same_data, check_same_model
from minigpt.training.resume import resume as resume_run
from minigpt.training.settings import Settings
from minigpt.training.trainer import Callback, Trainer


def train(
    settings: Settings,
    out: Path,
    *,
    console: Console,
    command: str,
    version: str,
    resume: bool = False,
    overwrite: bool = False,
    allow_smaller_context: bool = False,
    ranks: Ranks | None = None,
    callback: Callback | None = None,
) -> StopRequest:
    """Train a model, and return whether a signal stopped the training before the last step.

    Parameters
    ----------
    out
        The folder of the run.
    console
        Where progress is printed.
    command, version
        The command line and the version of minigpt, for run.json.
    resume, overwrite
        Continue the run in `out` from its newest checkpoint, or replace it.
    allow_smaller_context
        Reduce context_length if the text is too short for it, instead of raising an error.
    ranks
        The ranks of an MPI job. Rank 0 calls this function, and the others `train_as_follower`.
    callback
        A function of the number, the record and the model of each step, called on rank 0 after the step.

    Raises
    ------
    ValueError
        If the settings do not fit the data or the folder.
    """
    ranks = ranks or SingleProcess(available_cores())
    run = RunFolder(out)
    progress = Progress(console, settings.steps)
    check_folder(run, resume, overwrite)
    with optional_output(), run.lock():
        job = prepare_job(settings, run, ranks, progress, resume, allow_smaller_context)
        metadata = run_metadata(job, command, version)
        with _resume_hint(run):
            return _train(job, metadata, resume, overwrite, callback)


def check_folder(run: RunFolder, resume: bool, overwrite: bool) -> None:
    """Raise `ValueError` if a new run cannot use the folder, or if there is no run to resume."""
    if not resume:
        run.check_available(overwrite)
    elif not run.config.exists():
        raise ValueError(f"{run.path} cannot be resumed: it has no config.toml")


def prepare_job(
    settings: Settings, run: RunFolder, ranks: Ranks, progress: Progress, resume: bool, allow_smaller_context: bool
) -> Job:
    """Prepare the data, and return the job. Raises `ValueError` if the settings do not fit the data or the machine."""
    if resume:
        check_same_model(run, settings)
    progress.print_line("Preparing the data ...")
    data = prepare_data(settings, progress.print_text, run if resume else None, ranks)
    if allow_smaller_context:
        settings = reduce_context(settings, data.train, progress.print_line)
    batch(data.train, 0, 0, 1, settings.context_length)  # raises ValueError if the text is too short
    job = Job(settings, data, run, ranks, progress)
    check_memory(settings, data.tokenizer.vocab_size, job.threads, progress.print_line, ranks.size)
    return job


def _train(job: Job, metadata: dict[str, Any], resume: bool, overwrite: bool, callback: Callback | None) -> StopRequest:
    """Create or resume the run, and train."""
    if resume:
        previous = check_same_data(job, metadata)
        metadata["command"] = previous["command"]
        workers, state = resume_run(job)
    else:
        workers, state = job.start()
        job.run.create(overwrite)
    model = workers.model
    job = replace(job, settings=job.settings.resolved(model.config, job.threads))
    changes = changed_settings(job, previous, state.step) if resume else []
    write_settings(job, {**metadata, "parameters": model.parameters.flat.size}, changes)
    _print_summary(job, model, metadata["machine"])
    return _train_loop(job, workers, state, callback)


def _train_loop(job: Job, workers: DataParallel, state: TrainingState, callback: Callback | None) -> StopRequest:
    """Train on all ranks, then generate the final samples."""
    model = workers.model
    content = {"settings": asdict(job.settings), "model": asdict(model.config), "state": asdict(state)}
    checksums = [job.data.train.sha256, job.data.valid.sha256]
    message = "" if job.progress.quiet else MESSAGE
    job.progress.begin(state.step, job.data.floor_bits_per_byte)
    on_all_ranks = job.ranks.job("train", folder=str(job.data.folder.resolve()), checksums=checksums, **content)
    with on_all_ranks, stop_request(message) as stop, workers, job.progress:
        workers.broadcast_initial_state()
        trainer = Trainer(job.settings, job.data, model, state, job.run, workers, job.progress, stop, callback)
        if trainer.train():
            trainer.write_final_samples()
            stop.signal = None  # the training is complete, even if a stop was requested during the samples
    return stop


def train_as_follower(
    ranks: MPIRanks, folder: str, checksums: list[str], settings: dict[str, Any], model: dict[str, Any], state: dict[str, Any]
) -> None:
    """Take part in a training job that rank 0 has started. The arguments are those of the job.

    Raises `ValueError` if the token files in `folder` do not have the `checksums` of those that rank 0 reads.
    """
    s = Settings(**{**settings, "data": tuple(settings["data"])})
    data = open_prepared(Path(folder))
    for split, checksum in zip((data.train, data.valid), checksums, strict=True):
        if split.sha256 != checksum:
            raise ValueError(f"{split.path} is not the file that rank 0 reads: all machines must see the same MINIGPT_CACHE")
    config = ModelConfig(**model)
    gpt = GPT(config, parameters=Parameters(shapes(config), np.float32))
    with open(os.devnull, "w", encoding="utf-8") as devnull:
        progress = Progress(Console(file=devnull), s.steps)
        with stop_request() as stop, data_parallel(gpt, s, ranks) as workers:
            workers.broadcast_initial_state()
            run = RunFolder(Path(os.devnull))
            Trainer(s, data, gpt, TrainingState(**state), run, workers, progress, stop).train()


@contextmanager
def _resume_hint(run: RunFolder) -> Iterator[None]:
    """Add the newest checkpoint and the command that resumes the run to the message of an `OSError` (such as a full disk)."""
    try:
        yield
    except OSError as error:
        if not run.config.exists():
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        existing = checkpoints(run)
        saved = f"the newest checkpoint is {existing[-1]}" if existing else "there is no checkpoint yet"
        command = f"minigpt train --out {shlex.quote(str(run.path))} --resume"
        raise OSError(f"{what}. Training has stopped; {saved}. To resume: {command}") from error


def run_metadata(job: Job, command: str, version: str) -> dict[str, Any]:
    """Return the content of run.json: what is not in config.toml."""
    machine = describe(job.threads)
    machine.pop("blas_threads", None)  # training uses one BLAS thread in each worker
    if job.ranks.size > 1:
        machine["ranks"] = job.ranks.size

    def split(s: Split) -> dict[str, int | str]:
        return {"documents": s.documents, "bytes": s.bytes, "tokens": s.n_tokens, "sha256": s.sha256}

    data = {
        "name": job.data.name,
        "held_out": job.data.held_out,
        "train": split(job.data.train),
        "valid": split(job.data.valid),
        "floor_bits_per_byte": job.data.floor_bits_per_byte,
        "floor_is_exact": job.data.floor_is_exact,
    }
    return {"command": command, "version": version, "data": data, "machine": machine}


def _print_summary(job: Job, model: GPT, machine: dict[str, Any]) -> None:
    c, s, data, print_text = model.config, job.settings, job.data, job.progress.print_text
    held_out = f" ({data.held_out})" if data.held_out else ""
    print_text(
        f"Data: {data.name}; {data.train.n_tokens:,} tokens in {plural(data.train.documents, 'document')} for training, "
        f"{plural(data.valid.documents, 'document')} for validation{held_out}; vocabulary size {c.vocab_size:,}."
    )
    if s.init:
        job.progress.print_line(f"Initial weights: {s.init}.")
    print_text(
        f"Model: {model.parameters.flat.size:,} parameters; context_length {c.context_length}, d_model {c.d_model}, "
        f"n_layers {c.n_layers}, n_heads {c.n_heads}."
    )
    print_text(f"Recipe: {s.recipe}; {_optimizer(s)}, {s.schedule} schedule.")
    workers = f"{s.threads} thread" if s.threads == 1 else f"{s.threads} threads"
    if job.ranks.size > 1:
        workers = f"{job.ranks.size} ranks with {workers} each"
    print_text(
        f"Training: {s.steps:,} steps of {s.batch_size} x {c.context_length} tokens on {workers}, "
        f"{machine['processor']}, BLAS {machine.get('blas', 'unknown')}."
    )
    job.progress.print_line(f"Output folder: {job.run.path}")


def _optimizer(s: Settings) -> str:
    """Describe the optimizer and the learning rates.

    >>> _optimizer(Settings(optimizer="adamw", lr=0.001, embedding_lr=0.01, head_lr=0.0, vector_lr=0.001))
    'adamw with learning rate 0.001 (embedding 0.01)'
    """
    used = {name: group.lr for name, group in optimizer(s).groups.items() if not (name == "head" and s.tied)}
    others = ", ".join(f"{name} {lr:g}" for name, lr in used.items() if lr != s.lr)
    return f"{s.optimizer} with learning rate {s.lr:g}" + (f" ({others})" if others else "")
