"""Train a model from settings: prepare the data, create or resume the run, run the training loop, generate final samples."""

import math
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from minigpt.data.batches import batch
from minigpt.data.ranks import SINGLE_PROCESS, Ranks, SingleProcess
from minigpt.data.splits import Split
from minigpt.data.token_files import PreparedData, open_prepared, prepare
from minigpt.interop.load import tokenizer_path
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, shapes
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
from minigpt.train.initial_model import initial_model
from minigpt.train.interrupt import StopRequest, stop_request
from minigpt.train.machine import available_cores, describe, machine_memory
from minigpt.train.output import optional_output
from minigpt.train.parallel.data_parallel import DataParallel
from minigpt.train.parallel.mpi import MPIRanks
from minigpt.train.parallel.mpi_data_parallel import MPIDataParallel
from minigpt.train.progress import Progress
from minigpt.train.settings import Settings
from minigpt.train.trainer import Trainer

MIN_CONTEXT_LENGTH = 8  # a shorter text is an error
SIZES = ("vocab_size", "context_length", "d_model", "d_ff", "n_layers", "batch_size")


@dataclass(frozen=True)
class _Job:
    """A training job whose data is prepared."""

    settings: Settings
    data: PreparedData
    run: RunFolder
    ranks: Ranks
    progress: Progress

    @property
    def threads(self) -> int:
        return _threads_per_rank(self.settings, self.ranks)


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

    Raises
    ------
    ValueError
        If the settings do not fit the data or the folder.
    """
    ranks = ranks or SingleProcess(available_cores())
    run = RunFolder(out)
    progress = Progress(console, settings.steps)
    if not resume:
        run.check_available(overwrite)
    elif not run.config.exists():
        raise ValueError(f"{run.path} cannot be resumed: it has no config.toml")
    with optional_output(), run.lock():
        progress.print_line("Preparing the data ...")
        data = prepare_data(settings, progress.print_line, run if resume else None, ranks)
        if allow_smaller_context:
            settings = _reduce_context(settings, data.train, progress)
        batch(data.train, 0, 0, 1, settings.context_length)  # raises ValueError if the text is too short
        _check_memory(settings, data.tokenizer.vocab_size)
        job = _Job(settings, data, run, ranks, progress)
        metadata = _run_metadata(job, command, version)
        with _resume_hint(run):
            return _train(job, metadata, resume, overwrite)


def _train(job: _Job, metadata: dict[str, Any], resume: bool, overwrite: bool) -> StopRequest:
    """Create or resume the run, and train."""
    if resume:
        metadata["command"] = _check_same_data(job, metadata)
        data_parallel, state = _resume(job)
    else:
        data_parallel, state = _start(job)
        job.run.create(overwrite)
    model = data_parallel.model
    job = replace(job, settings=job.settings.resolved(model.config, job.threads))
    job.run.write_json("run.json", {**metadata, "parameters": model.parameters.flat.size})
    job.data.tokenizer.save(job.run.tokenizer)
    job.settings.save(job.run.config)
    _print_summary(job, model, metadata["machine"])
    return _train_loop(job, data_parallel, state)


def _train_loop(job: _Job, data_parallel: DataParallel, state: TrainingState) -> StopRequest:
    """Train on all ranks, then generate the final samples."""
    model = data_parallel.model
    content = {"settings": asdict(job.settings), "model": asdict(model.config), "state": asdict(state)}
    checksums = [job.data.train.sha256, job.data.valid.sha256]
    on_all_ranks = job.ranks.job("train", folder=str(job.data.folder.resolve()), checksums=checksums, **content)
    with on_all_ranks, stop_request() as stop, data_parallel, job.progress:
        data_parallel.broadcast_initial_state()
        trainer = Trainer(job.settings, job.data, model, state, job.run, data_parallel, job.progress, stop)
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
        with stop_request() as stop, _data_parallel(gpt, s, ranks) as data_parallel:
            data_parallel.broadcast_initial_state()
            run = RunFolder(Path(os.devnull))
            Trainer(s, data, gpt, TrainingState(**state), run, data_parallel, progress, stop).train()


def _check_memory(settings: Settings, vocab_size: int) -> None:
    """Raise `ValueError` if the machine cannot have enough memory, before anything is allocated or deleted."""
    model = settings.model(vocab_size)
    one, two = (sum(map(math.prod, shapes(replace(model, n_layers=n)).values())) for n in (1, 2))
    parameters = one + (model.n_layers - 1) * (two - one)
    needed = 16 * parameters + 16 * settings.batch_size * model.context_length  # weights, gradients, moments; tokens, targets
    memory = machine_memory()
    if memory and needed > memory:
        sizes = ", ".join(f"{name} {getattr(settings, name):,}" for name in SIZES)
        raise ValueError(
            f"training {parameters:,} parameters takes at least {needed / 1e9:,.0f} GB of memory, but this machine has "
            f"{memory / 1e9:,.0f} GB ({sizes})"
        )


def _threads_per_rank(settings: Settings, ranks: Ranks) -> int:
    """Return the number of workers of a rank. In an MPI job, it is at most the rank's number of cores."""
    threads = settings.threads or ranks.cores
    return min(threads, ranks.cores) if ranks.size > 1 else threads


def _data_parallel(model: GPT, settings: Settings, ranks: Ranks) -> DataParallel:
    threads = _threads_per_rank(settings, ranks)
    if isinstance(ranks, MPIRanks):
        return MPIDataParallel(model, threads, settings.micro_batch, ranks)
    return DataParallel(model, threads, settings.micro_batch)


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


def prepare_data(
    settings: Settings, say: Callable[[str], None], resumed: RunFolder | None = None, ranks: Ranks = SINGLE_PROCESS
) -> PreparedData:
    """Tokenize the data of the settings, or find it in the cache. A run that is `resumed` keeps its tokenizer."""
    ranks.watchdog = settings.watchdog
    return prepare(
        settings.data,
        settings.val_data,
        vocab_size=settings.vocab_size,
        tokenizer=_tokenizer(settings, resumed),
        stories=settings.stories,
        seed=settings.seed,
        say=say,
        ranks=ranks,
    )


def _tokenizer(settings: Settings, resumed: RunFolder | None) -> str | None:
    """Return the setting `tokenizer` or, by default, the path of the initial model's tokenizer."""
    if settings.tokenizer or not settings.init:
        return settings.tokenizer
    path = resumed.tokenizer if resumed else tokenizer_path(settings.init)
    if path is None:
        raise ValueError(f"{settings.init} has no tokenizer: give one with --tokenizer")
    return str(path)


def _reduce_context(settings: Settings, split: Split, progress: Progress) -> Settings:
    """Reduce context_length to a power of two that is at most half the number of tokens, if the text is short."""
    longest = 1 << (split.n_tokens // 2).bit_length() - 1
    if settings.context_length <= longest or longest < MIN_CONTEXT_LENGTH:
        return settings
    progress.print_line(
        f"The training text has only {split.n_tokens:,} tokens: context_length is {longest} instead of {settings.context_length}."
    )
    return replace(settings, context_length=longest)


def _start(job: _Job) -> tuple[DataParallel, TrainingState]:
    """Return the initial model and state of a new run."""
    model = initial_model(job.settings, job.data.tokenizer.vocab_size)
    return _data_parallel(model, job.settings, job.ranks), TrainingState()


def _check_same_data(job: _Job, metadata: dict[str, Any]) -> str:
    """Return the command in run.json. Raises `ValueError` if there is none, or if the run was trained on other data.

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
    return command


def _resume(job: _Job) -> tuple[DataParallel, TrainingState]:
    """Return the model and the state of the newest intact checkpoint, and remove later checkpoints and records."""
    run = job.run
    if checkpoint := newest_intact(run):
        data_parallel, state = _load_checkpoint(job, checkpoint)
    else:
        job.progress.print_line(f"{run.path} has no checkpoint yet; training starts at step 1.")
        data_parallel, state = _start(job)
    set_aside_damaged(run, state.step)
    prune_checkpoints(run, job.settings.keep)
    run.truncate_after(state.step)
    return data_parallel, state


def _load_checkpoint(job: _Job, checkpoint: Path) -> tuple[DataParallel, TrainingState]:
    run, settings = job.run, job.settings
    expected = settings.model(settings.vocab_size if settings.init else job.data.tokenizer.vocab_size)
    state = load_state(checkpoint)
    model = load_model(checkpoint / MODEL)
    if model.config != expected:
        raise ValueError(f"{checkpoint} has another configuration: {model.config}, but the settings specify {expected}")
    if state.step > settings.steps:
        raise ValueError(f"{run.path} has completed {state.step:,} steps, but steps is {settings.steps:,}")
    data_parallel = _data_parallel(model, settings, job.ranks)
    load_optimizer(checkpoint, data_parallel.moments)
    if state.step == settings.steps:
        job.progress.print_line(f"{run.path} has completed all of its {state.step:,} steps; to continue, increase --steps.")
    else:
        job.progress.print_line(f"Resuming after step {state.step:,}.")
    return data_parallel, state


def _run_metadata(job: _Job, command: str, version: str) -> dict[str, Any]:
    """Return the content of run.json: what is not in config.toml."""
    machine = describe(job.threads)
    machine.pop("blas_threads", None)  # training uses one BLAS thread in each worker
    if job.ranks.size > 1:
        machine["ranks"] = job.ranks.size

    def split(s: Split) -> dict[str, int | str]:
        return {"documents": s.documents, "bytes": s.bytes, "tokens": s.n_tokens, "sha256": s.sha256}

    data = {
        "name": job.data.name,
        "train": split(job.data.train),
        "valid": split(job.data.valid),
        "floor_bits_per_byte": job.data.floor_bits_per_byte,
        "floor_is_exact": job.data.floor_is_exact,
    }
    return {"command": command, "version": version, "data": data, "machine": machine}


def _print_summary(job: _Job, model: GPT, machine: dict[str, Any]) -> None:
    c, s, data, print_line = model.config, job.settings, job.data, job.progress.print_line
    print_line(
        f"Data: {data.name}; {data.train.n_tokens:,} tokens in {data.train.documents:,} documents for training, "
        f"{data.valid.documents:,} documents for validation; vocabulary size {c.vocab_size:,}."
    )
    if s.init:
        print_line(f"Initial weights: {s.init}.")
    print_line(
        f"Model: {model.parameters.flat.size:,} parameters; context_length {c.context_length}, d_model {c.d_model}, "
        f"n_layers {c.n_layers}, n_heads {c.n_heads}."
    )
    workers = f"{s.threads} thread" if s.threads == 1 else f"{s.threads} threads"
    if job.ranks.size > 1:
        workers = f"{job.ranks.size} ranks with {workers} each"
    print_line(
        f"Training: {s.steps:,} steps of {s.batch_size} x {c.context_length} tokens on {workers}, "
        f"{machine['processor']}, BLAS {machine.get('blas', 'unknown')}."
    )
    print_line(f"Output folder: {job.run.path}")
