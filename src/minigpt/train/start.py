"""From settings to a trained model: prepare the data, open the run's folder, train, tell the last stories."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from minigpt.data.batches import batch
from minigpt.data.token_files import Prepared, Split, prepare
from minigpt.interop.load import load, tokenizer_path
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, shapes
from minigpt.train.checkpoint import MODEL, State, load_model, load_moments, load_state, newest_whole, set_aside_after
from minigpt.train.folder import RunFolder
from minigpt.train.interrupt import StopRequest, stop_request
from minigpt.train.loop import Trainer
from minigpt.train.machine import available_cores, describe
from minigpt.train.parallel import Team
from minigpt.train.progress import Progress
from minigpt.train.settings import Settings

SMALLEST_CONTEXT = 8


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
) -> StopRequest:
    """Train in the folder `out`; returns whether somebody asked to stop before the end.

    With `resume` a run goes on from its newest checkpoint. With `may_shrink` a text shorter than context_length makes the
    context smaller instead of an error. Raises `ValueError` for settings that do not fit the data or the folder.
    """
    run = RunFolder(out)
    progress = Progress(console, settings.steps)
    if not resume:
        run.check_free(overwrite)
    elif not run.config.exists():
        raise ValueError(f"{run.path} is not a run to resume: it has no config.toml")
    with run.held():
        progress.say("Preparing the data ...")
        data = prepare_for(settings, progress.say, run if resume else None)
        if may_shrink:
            settings = _fit_context(settings, data.train, progress)
        batch(data.train.tokens, 0, 0, 1, settings.context_length)  # raises for a text that is too short
        threads = settings.threads or available_cores()
        about = _about(data, threads, command, version)
        if resume:
            team, state = _go_on(run, settings, data, threads, about, progress)
        else:
            team, state = _begin(settings, data, threads), State()
            run.create(overwrite)
        model = team.model
        settings = settings.resolved(model.config, threads)
        run.write_json("run.json", {**about, "parameters": model.parameters.flat.size})
        data.tokenizer.save(run.tokenizer)
        settings.save(run.config)
        _introduce(settings, data, model, about["machine"], run, progress)
        with stop_request() as stop, team, progress:
            trainer = Trainer(settings, data, model, state, run, team, progress, stop)
            if trainer.train():
                trainer.tell_last_stories()
                stop.signal = None  # whoever asked only missed stories: there is nothing to go on with
    return stop


def prepare_for(settings: Settings, say: Callable[[str], None], resumed: RunFolder | None = None) -> Prepared:
    """The data that settings ask for, in token ids; a run that is resumed has its tokenizer."""
    return prepare(
        settings.data,
        settings.val_data,
        vocab_size=settings.vocab_size,
        tokenizer=_tokenizer(settings, resumed),
        stories=settings.stories,
        seed=settings.seed,
        say=say,
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


def _begin(settings: Settings, data: Prepared, threads: int) -> Team:
    return Team(_first_model(settings, data), threads, settings.micro_batch)


def _go_on(
    run: RunFolder, settings: Settings, data: Prepared, threads: int, about: dict[str, Any], progress: Progress
) -> tuple[Team, State]:
    """A team with the model and the moments of the newest whole checkpoint, and its state; puts what `about` says of the run's
    first command back.
    """
    before = run.read_json("run.json")
    if run.tokenizer_fingerprint() != data.tokenizer.fingerprint or before.get("data") != about["data"]:
        raise ValueError(f"{run.path} was trained on other data: it has changed since, or --data, --seed, ... are not the same")
    about["command"] = before["command"]
    expected = settings.model(settings.vocab_size if settings.init else data.tokenizer.vocab_size)
    found = newest_whole(run)
    if not found:
        progress.say(f"{run.path} holds no checkpoint yet: it begins at step 1.")
        team, state = _begin(settings, data, threads), State()
    else:
        state = load_state(found)
        model = load_model(found / MODEL)
        if model.config != expected:
            raise ValueError(f"{found} holds a model of another shape: {model.config}, but the settings say {expected}")
        if state.step > settings.steps:
            raise ValueError(f"{run.path} has done {state.step:,} steps, but steps is {settings.steps:,}")
        team = Team(model, threads, settings.micro_batch)
        load_moments(found, team.moments)
        done = state.step == settings.steps
        done_so = f"{run.path} has done all of its {state.step:,} steps: to train on, give more --steps."
        progress.say(done_so if done else f"Going on after step {state.step:,}.")
    set_aside_after(run, state.step)
    run.forget_after(state.step)
    return team, state


def _about(data: Prepared, threads: int, command: str, version: str) -> dict[str, Any]:
    """What run.json says: what the configuration does not."""
    machine = describe(threads)
    machine.pop("blas_threads", None)  # training limits them to one a thread

    def split(s: Split) -> dict[str, int]:
        return {"documents": s.documents, "bytes": s.bytes, "tokens": s.n_tokens}

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
    settings: Settings, data: Prepared, model: GPT, machine: dict[str, Any], run: RunFolder, progress: Progress
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
        f"Training: {s.steps:,} steps of {s.batch_size} x {c.context_length} tokens on {threads} thread{'s' * (threads > 1)}, "
        f"{machine['processor']}, BLAS {machine.get('blas', 'unknown')}."
    )
    progress.say(f"Writing to {run.path}")
