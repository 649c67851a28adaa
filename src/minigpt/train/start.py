"""From settings to a trained model: prepare the data, open the run's folder, train, tell the last stories."""

import math
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from minigpt.data.batches import batch
from minigpt.data.ranks import ALONE, Alone, Ranks
from minigpt.data.token_files import Prepared, Split, open_prepared, prepare
from minigpt.interop.load import load, tokenizer_path
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, shapes
from minigpt.train.checkpoint import (
    MODEL,
    State,
    checkpoints,
    load_model,
    load_moments,
    load_state,
    newest_whole,
    set_aside_after,
    thin_out,
)
from minigpt.train.folder import RunFolder
from minigpt.train.interrupt import StopRequest, stop_request
from minigpt.train.loop import Trainer
from minigpt.train.machine import available_cores, describe, machine_memory
from minigpt.train.mpi import World
from minigpt.train.parallel import Team
from minigpt.train.progress import Progress
from minigpt.train.ranked import RankTeam
from minigpt.train.settings import Settings

SMALLEST_CONTEXT = 8
SIZES = ("vocab_size", "context_length", "d_model", "d_ff", "n_layers", "batch_size")


def train(
    settings: Settings,
    out: Path,
    *,
    console: Console,
    command: str,
    version: str,
    resume: bool = False,
    overwrite: bool = False,
    may_shrink: bool = False,
    ranks: Ranks | None = None,
) -> StopRequest:
    """Train in the folder `out`; returns whether somebody asked to stop before the end.

    With `resume` a run goes on from its newest checkpoint. With `may_shrink` a text shorter than context_length makes the
    context smaller instead of an error. Of several `ranks` this is what the first does; see `follow`.

    Raises `ValueError` for settings that do not fit the data or the folder.
    """
    ranks = ranks or Alone(available_cores())
    run = RunFolder(out)
    progress = Progress(console, settings.steps)
    if not resume:
        run.check_free(overwrite)
    elif not run.config.exists():
        raise ValueError(f"{run.path} is not a run to resume: it has no config.toml")
    with run.held():
        progress.say("Preparing the data ...")
        data = prepare_for(settings, progress.say, run if resume else None, ranks)
        if may_shrink:
            settings = _fit_context(settings, data.train, progress)
        batch(data.train.tokens, 0, 0, 1, settings.context_length)  # raises for a text that is too short
        threads = _threads(settings, ranks)
        _check_memory(settings, data.tokenizer.vocab_size)
        about = _about(data, threads, ranks, command, version)
        with _what_is_left(run):
            if resume:
                team, state = _go_on(run, settings, data, threads, ranks, about, progress)
            else:
                team, state = _team(_first_model(settings, data), settings, threads, ranks), State()
                run.create(overwrite)
            model = team.model
            settings = settings.resolved(model.config, threads)
            run.write_json("run.json", {**about, "parameters": model.parameters.flat.size})
            data.tokenizer.save(run.tokenizer)
            settings.save(run.config)
            _introduce(settings, data, model, ranks, about["machine"], run, progress)
            facts = {"settings": asdict(settings), "model": asdict(model.config), "state": asdict(state)}
            job = ranks.job("train", folder=str(data.folder.resolve()), **facts)
            with job, stop_request() as stop, team, progress:
                team.begin()
                trainer = Trainer(settings, data, model, state, run, team, progress, stop)
                if trainer.train():
                    trainer.tell_last_stories()
                    stop.signal = None  # whoever asked only missed stories: there is nothing to go on with
    return stop


def follow(ranks: World, folder: str, settings: dict[str, Any], model: dict[str, Any], state: dict[str, Any]) -> None:
    """What every rank but the first does in `train`, with what that one says."""
    s = Settings(**{**settings, "data": tuple(settings["data"])})
    data = open_prepared(Path(folder))
    config = ModelConfig(**model)
    gpt = GPT(config, parameters=Parameters(shapes(config), np.float32))
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        progress = Progress(Console(file=nowhere), s.steps)
        with stop_request() as stop, _team(gpt, s, _threads(s, ranks), ranks) as team:
            team.begin()
            Trainer(s, data, gpt, State(**state), RunFolder(Path(os.devnull)), team, progress, stop).train()


def _check_memory(settings: Settings, vocab_size: int) -> None:
    """Raises `ValueError` for a model or a batch that can never fit, before anything is asked for or deleted."""
    model = settings.model(vocab_size)
    one, two = (sum(map(math.prod, shapes(replace(model, n_layers=n)).values())) for n in (1, 2))
    parameters = one + (model.n_layers - 1) * (two - one)
    least = 16 * parameters + 16 * settings.batch_size * model.context_length  # weights, gradients, moments; tokens, targets
    have = machine_memory()
    if have and least > have:
        sizes = ", ".join(f"{name} {getattr(settings, name):,}" for name in SIZES)
        raise ValueError(
            f"training {parameters:,} parameters takes at least {least / 1e9:,.0f} GB of memory, but this machine has "
            f"{have / 1e9:,.0f} GB ({sizes})"
        )


def _threads(settings: Settings, ranks: Ranks) -> int:
    """Workers in this rank: of several ranks none takes more than its share of the cores."""
    return min(settings.threads or ranks.cores, ranks.cores) if ranks.size > 1 else settings.threads or ranks.cores


def _team(model: GPT, settings: Settings, threads: int, ranks: Ranks) -> Team:
    if isinstance(ranks, World):
        return RankTeam(model, threads, settings.micro_batch, ranks, settings.watchdog)
    return Team(model, threads, settings.micro_batch)


@contextmanager
def _what_is_left(run: RunFolder) -> Iterator[None]:
    """To an error of the system (a full disk, a killed worker) add what of the run is safe, and how to go on with it."""
    try:
        yield
    except OSError as error:
        if not run.config.exists():
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        found = checkpoints(run)
        left = f"{found[-1]} is whole" if found else "there is no checkpoint yet"
        how = f"minigpt train --out {shlex.quote(str(run.path))} --resume"
        raise OSError(f"{what}. The training has stopped; {left}. To go on: {how}") from error


def prepare_for(
    settings: Settings, say: Callable[[str], None], resumed: RunFolder | None = None, ranks: Ranks = ALONE
) -> Prepared:
    """The data that settings ask for, in token ids; a run that is resumed has its tokenizer."""
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
    """What to encode with: what the settings say, or the tokenizer of the model to go on from."""
    if settings.tokenizer or not settings.init:
        return settings.tokenizer
    path = resumed.tokenizer if resumed else tokenizer_path(settings.init)
    if path is None:
        raise ValueError(f"{settings.init} has no tokenizer: give one with --tokenizer")
    return str(path)


def _fit_context(settings: Settings, split: Split, progress: Progress) -> Settings:
    """Settings with a context that a short text can fill: half its tokens at most, a power of two."""
    longest = 1 << (split.n_tokens // 2).bit_length() - 1
    if settings.context_length <= longest or longest < SMALLEST_CONTEXT:
        return settings
    progress.say(
        f"The training text has only {split.n_tokens:,} tokens: context_length is {longest} instead of {settings.context_length}."
    )
    return replace(settings, context_length=longest)


def _first_model(settings: Settings, data: Prepared) -> GPT:
    """A model with random weights, or the one to go on from, in the context that the settings ask for."""
    if not settings.init:
        return GPT(settings.model(data.tokenizer.vocab_size), settings.seed)
    model, _ = load(settings.init)
    if data.tokenizer.vocab_size > model.config.vocab_size:
        ids = f"{data.tokenizer.vocab_size:,} ids, but the model in {settings.init} has {model.config.vocab_size:,}"
        raise ValueError(f"the tokenizer has {ids}")
    return with_context(model, settings.model(model.config.vocab_size))


def with_context(model: GPT, config: ModelConfig) -> GPT:
    """A copy of a model in another context_length, and with another dropout: learned positions can only become fewer."""
    if (have := replace(model.config, context_length=config.context_length, dropout=config.dropout)) != config:
        raise ValueError(f"the model to go on from is another one: {have}, but the settings say {config}")
    if config.positions == "learned" and config.context_length > model.config.context_length:
        longest = model.config.context_length
        raise ValueError(f"context_length is {config.context_length}, but the model to go on from has {longest} positions")
    p = Parameters(shapes(config), model.parameters.flat.dtype)
    for name, array in p.items():
        array[...] = model.parameters[name][: len(array)]
    return GPT(config, parameters=p)


def _go_on(
    run: RunFolder,
    settings: Settings,
    data: Prepared,
    threads: int,
    ranks: Ranks,
    about: dict[str, Any],
    progress: Progress,
) -> tuple[Team, State]:
    """A team with the model and the moments of the newest whole checkpoint, and its state; puts what `about` says of the run's
    first command back.
    """
    before = run.read_json("run.json")
    if run.tokenizer_fingerprint() != data.tokenizer.fingerprint:
        raise ValueError(f"{run.path} was trained on other data: {run.tokenizer} is not the tokenizer of the data now")
    if before.get("data") != about["data"]:
        raise ValueError(f"{run.path} was trained on other data: it has changed since, or --data, --seed, ... are not the same")
    about["command"] = before["command"]
    expected = settings.model(settings.vocab_size if settings.init else data.tokenizer.vocab_size)
    found = newest_whole(run)
    if not found:
        progress.say(f"{run.path} holds no checkpoint yet: it begins at step 1.")
        team, state = _team(_first_model(settings, data), settings, threads, ranks), State()
    else:
        state = load_state(found)
        model = load_model(found / MODEL)
        if model.config != expected:
            raise ValueError(f"{found} holds a model of another shape: {model.config}, but the settings say {expected}")
        if state.step > settings.steps:
            raise ValueError(f"{run.path} has done {state.step:,} steps, but steps is {settings.steps:,}")
        team = _team(model, settings, threads, ranks)
        load_moments(found, team.moments)
        done = state.step == settings.steps
        done_so = f"{run.path} has done all of its {state.step:,} steps: to train on, give more --steps."
        progress.say(done_so if done else f"Going on after step {state.step:,}.")
    set_aside_after(run, state.step)
    thin_out(run, settings.keep)
    run.forget_after(state.step)
    return team, state


def _about(data: Prepared, threads: int, ranks: Ranks, command: str, version: str) -> dict[str, Any]:
    """What run.json says: what the configuration does not."""
    machine = describe(threads)
    machine.pop("blas_threads", None)  # training limits them to one a thread
    if ranks.size > 1:
        machine["ranks"] = ranks.size

    def split(s: Split) -> dict[str, int | str]:
        return {"documents": s.documents, "bytes": s.bytes, "tokens": s.n_tokens, "sha256": s.sha256}

    return {
        "command": command,
        "version": version,
        "data": {
            "name": data.name,
            "train": split(data.train),
            "valid": split(data.valid),
            "floor_bits_per_byte": data.floor_bits_per_byte,
            "floor_is_exact": data.floor_is_exact,
        },
        "machine": machine,
    }


def _introduce(
    settings: Settings,
    data: Prepared,
    model: GPT,
    ranks: Ranks,
    machine: dict[str, Any],
    run: RunFolder,
    progress: Progress,
) -> None:
    c, s, threads = model.config, settings, settings.threads
    progress.say(
        f"Data: {data.name}; training on {data.train.n_tokens:,} tokens of {data.train.documents:,} documents, "
        f"validating on {data.valid.documents:,} others; vocabulary of {c.vocab_size:,}."
    )
    if s.init:
        progress.say(f"Weights from {s.init}.")
    progress.say(
        f"Model: {model.parameters.flat.size:,} parameters; context {c.context_length}, width {c.d_model}, "
        f"{c.n_layers} layers, {c.n_heads} heads."
    )
    progress.say(
        f"Training: {s.steps:,} steps of {s.batch_size} x {c.context_length} tokens on "
        f"{f'{ranks.size} ranks with ' * (ranks.size > 1)}{threads} thread{'s' * (threads > 1)}{' each' * (ranks.size > 1)}, "
        f"{machine['processor']}, BLAS {machine.get('blas', 'unknown')}."
    )
    progress.say(f"Writing to {run.path}")
