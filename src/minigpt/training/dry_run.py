"""Estimate what a training run needs and how long it takes, without training."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from minigpt.data.ranks import Ranks
from minigpt.data.text_files import plural
from minigpt.np.config import ModelConfig
from minigpt.runs.folder import RunFolder
from minigpt.runs.snapshots import is_due
from minigpt.training.changes import changed_settings
from minigpt.training.estimate import count_parameters, flops, gigabytes, memory, update_flops
from minigpt.training.initial_model import initial_model
from minigpt.training.job import Job
from minigpt.training.machine import machine_memory
from minigpt.training.output import optional_output
from minigpt.training.progress import Progress
from minigpt.training.resume import check_same_data, resume_point
from minigpt.training.settings import Settings
from minigpt.training.speed import duration, measure_speed, step_seconds, training_seconds, two_digits
from minigpt.training.train import check_folder, prepare_job, run_metadata


def dry_run(
    settings: Settings,
    out: Path,
    *,
    console: Console,
    ranks: Ranks,
    resume: bool = False,
    overwrite: bool = False,
    allow_smaller_context: bool = False,
) -> None:
    """Prepare the data, and print the parameters, the memory, the operations and the expected time of a run.

    Nothing is written except the prepared data in the cache. The arguments and the errors are those of
    `minigpt.training.train.train`.
    """
    run, progress = RunFolder(out), Progress(console, settings.steps)
    check_folder(run, resume, overwrite)
    with optional_output():
        job = prepare_job(settings, run, ranks, progress, resume, allow_smaller_context)
        done = _steps_done(job) if resume else 0
        if settings.init and not resume:
            initial_model(job.settings, job.data.tokenizer.vocab_size)  # raises ValueError if it does not fit
        for name, value in _lines(job, job.config, done, resume):
            progress.print_text(f"{name + ':':<12} {value}")
        progress.print_line("Nothing has been trained or written. To train, leave out --dry-run.")


def _steps_done(job: Job) -> int:
    """Return the number of steps that a resumed run would not repeat. Raises `ValueError` if it cannot be resumed."""
    previous = check_same_data(job, run_metadata(job, "", ""))
    step = resume_point(job).step
    changed_settings(replace(job, settings=job.settings.resolved(job.config, job.threads)), previous, step)  # prints them
    return step


def _lines(job: Job, config: ModelConfig, done: int, resume: bool) -> list[tuple[str, str]]:
    """Return the name and the value of each line."""
    s, data, ranks = job.settings, job.data, job.ranks.size
    per_step = s.batch_size * config.context_length
    left = s.steps - done
    tokens = f"{left * per_step:,}, {left * per_step / data.train.n_tokens:,.2f} times the training text"
    steps = f"{s.steps:,}"
    if resume:
        steps = f"{left:,} left of {s.steps:,}: {job.run.path} has completed {done:,}"
    operations = sum(flops(config, config.context_length)) * s.batch_size + update_flops(s, config)
    workers = plural(job.threads, "thread") + (f" on each of {ranks} ranks" if ranks > 1 else "")
    speed = measure_speed(s, config, job.threads)
    seconds = step_seconds(s, config, speed, job.threads, ranks)
    total = training_seconds(s, config, seconds, left, data.valid.n_tokens)
    return [
        ("Data", f"{data.name}; {data.train.n_tokens:,} tokens for training, {data.valid.n_tokens:,} for validation"),
        ("Model", f"{count_parameters(config):,} parameters, vocabulary of {config.vocab_size:,} tokens"),
        ("Memory", _memory(job, config)),
        ("Disk", _disk(job, config)),
        ("Steps", f"{steps}, of {s.batch_size:,} x {config.context_length:,} tokens"),
        ("Tokens", tokens),
        ("Operations", f"{two_digits(operations / 1e9)} GFLOP in the matrix products of a step"),
        ("Time", f"about {duration(total)} with {workers} of this machine, {duration(seconds)} for a step"),
        ("Folder", str(job.run.path)),
    ]


def _disk(job: Job, config: ModelConfig) -> str:
    """Return the size of the checkpoints, with the weights and two moments, and of the snapshots, with the weights."""
    s, parameters = job.settings, count_parameters(config)
    steps = {0, s.steps, *(1 << i for i in range(s.steps.bit_length()))}
    number = sum(is_due(step, s.steps, s.snapshots, parameters) for step in steps)
    kept = min(s.keep, -(-s.steps // s.checkpoint_every)) + 1  # and the best one
    checkpoints = f"{gigabytes(12 * parameters * kept)} for {plural(kept, 'checkpoint')}"
    snapshots = f", {gigabytes(4 * parameters * number)} for {plural(number, 'snapshot')}" if number else ""
    return f"at most {checkpoints}{snapshots}"


def _memory(job: Job, config: ModelConfig) -> str:
    needed = memory(job.settings, config, job.threads, job.ranks.size)
    vectors, arrays = needed.vectors + needed.partial_gradients, needed.cached + needed.temporary
    available = machine_memory()
    of = f" of {gigabytes(available)}" if available else ""
    return (
        f"about {gigabytes(needed.total)}{of}: {gigabytes(vectors)} for parameters, gradients and moments, "
        f"{gigabytes(arrays)} for activations, {gigabytes(needed.batch + needed.processes)} for the rest"
    )
