"""Messages for errors of the command line, one line each, with the option, command or run that was probably meant."""

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path

from cyclopts.exceptions import (
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from minigpt.cli.app import app
from minigpt.runs.folder import RUNS

RENAMED_FLAGS = {
    "--final-lr": "--final-lr is now --min-lr-ratio: a fraction of --lr, from 0 to 1, not an absolute learning rate",
    "--bias": "--bias is now --attention-bias --feed-forward-bias",
    "--no-bias": "--no-bias is now --no-attention-bias --no-feed-forward-bias",
}
"The flags of `train` and `prepare` in version 0.1 that have another name now."

OTHER_NAMES = {
    "--lr": ("--learning-rate", "--max-lr"),
    "--min-lr-ratio": ("--min-lr", "--min-learning-rate"),
    "--optimizer": ("--optim", "--optimiser"),
    "--schedule": ("--lr-schedule", "--scheduler", "--lr-scheduler", "--lr-scheduler-type"),
    "--warmup": ("--warmup-steps", "--warmup-iters"),
    "--decay": ("--cooldown", "--warmdown", "--decay-fraction"),
    "--steps": ("--epochs", "--num-epochs", "--max-steps", "--iters", "--max-iters", "--iterations", "--num-steps"),
    "--batch-size": ("--batch", "--bs"),
    "--n-layers": ("--layers", "--num-layers", "--n-layer", "--depth", "--num-hidden-layers"),
    "--n-heads": ("--heads", "--num-heads", "--n-head", "--num-attention-heads"),
    "--d-model": ("--hidden-size", "--hidden", "--hidden-dim", "--n-embd", "--dim", "--width", "--embedding-size"),
    "--context-length": ("--block-size", "--seq-len", "--seq-length", "--max-seq-len", "--context", "--window"),
    "--clip": ("--grad-clip", "--gradient-clip", "--max-grad-norm"),
    "--threads": ("--workers", "--num-workers", "--cores", "--cpus", "--num-threads", "--jobs"),
    "--data": ("--file", "--files", "--input", "--text", "--dataset", "--train-data"),
    "--val-data": ("--validation", "--valid-data", "--eval-data", "--test-data"),
    "--out": ("--output", "--output-dir", "--out-dir", "--run", "--save", "-o"),
    "--overwrite": ("--force",),
    "--resume": ("--continue",),
    "--init": ("--init-from", "--finetune", "--pretrained", "--model", "--checkpoint"),
    "--eval-every": ("--eval-interval", "--validate-every"),
    "--checkpoint-every": ("--save-every", "--save-interval", "--checkpoint-interval"),
    "--sample-every": ("--sample-interval",),
    "--max-new-tokens": ("--max-tokens", "--tokens", "--length", "--max-length", "--num-tokens"),
    "--temperature": ("--temp",),
    "--number": ("--num-samples", "--samples", "--count"),
    "--prompt": ("--start", "--text", "--input"),
    "--show-probabilities": ("--probabilities", "--logprobs"),
}
"The options, with the names that other programs give them."

OTHER_COMMANDS = {
    "sample": ("generate", "complete", "chat", "run"),
    "eval": ("evaluate", "test", "validate", "perplexity"),
    "train": ("finetune", "fine-tune", "resume", "fit"),
    "bench": ("benchmark", "speed"),
    "gradcheck": ("check", "verify"),
    "prepare": ("tokenize", "download"),
    "report": ("plot",),
    "trace": ("inspect", "look", "explain", "attention"),
    "replay": ("repeat", "rerun"),
    "influence": ("leave-one-out", "ablate"),
}
"The commands, with other words for them."


def describe(error: CycloptsError) -> str:
    """Return the message of an error of the command line, in one line."""
    if isinstance(error, UnknownOptionError):
        return _unknown_option(error)
    if isinstance(error, UnknownCommandError):
        return _unknown_command((error.unused_tokens or [""])[0])
    if isinstance(error, UnusedCliTokensError):
        words = " ".join(error.unused_tokens or [])
        return f"{_command(error)} takes fewer arguments; unexpected: {words}"
    if isinstance(error, MissingArgumentError) and error.argument and error.argument.required:
        flag = error.argument.names[0]
        return _missing_argument(error, flag if error.argument.index is None else flag.strip("-").upper())
    return " ".join(str(error).split())


def _command(error: CycloptsError) -> str:
    return " ".join(["minigpt", *(error.command_chain or ())])


def _unknown_option(error: UnknownOptionError) -> str:
    word = (error.token.keyword or error.token.value).partition("=")[0]
    if word in RENAMED_FLAGS and _command(error) in ("minigpt train", "minigpt prepare"):
        return RENAMED_FLAGS[word]
    if " " in word and _command(error) == "minigpt sample":
        return f"{word!r} starts with a hyphen, as options do: give it as --prompt={shlex.quote(word)}"
    options = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    known = {name: name for name in options}
    known |= {other: name for name, others in OTHER_NAMES.items() if name in known for other in others if other not in known}
    close = _nearest(word.lower().replace("_", "-"), known)
    note = " (a number of batches, not of epochs)" if close and "epochs" in close else ""
    suggestion = f" Did you mean {known[close]}{note}?" if close else ""
    return f"Unknown option: {word}.{suggestion} `{_command(error)} --help` lists the options."


def _unknown_command(word: str) -> str:
    if word.startswith("-"):
        return f"Options come after a command, such as `minigpt train {word}`. `minigpt --help` lists the commands."
    if word in ("help", "version"):
        return f'Unknown command "{word}". Did you mean `minigpt --{word}`?'
    commands = {name: name for name in app if not name.startswith("-")}
    commands |= {other: name for name, others in OTHER_COMMANDS.items() for other in others}
    close = _nearest(word, commands)
    suggestion = f' Did you mean "{commands[close]}"?' if close else ""
    if not close and Path(word).exists():
        suggestion = f" Did you mean `minigpt train {word}`?"
    return f'Unknown command "{word}".{suggestion} `minigpt --help` lists the commands.'


def _nearest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)), None)


def _missing_argument(error: CycloptsError, name: str) -> str:
    """Name the argument that is missing or, if it is a run, the newest one in runs/."""
    command = _command(error)
    if name != "RUN" or command == "minigpt import":
        return f"{name} is missing: `{command} --help` explains it"
    runs = [path.parent for path in RUNS.glob("*/run.json")]
    if not runs:
        return f"RUN is missing: there is no run in {RUNS} yet, and `minigpt train` trains one"
    newest = max(runs, key=lambda path: (path / "run.json").stat().st_mtime)
    return f"RUN is missing, such as in: {command} {shlex.quote(str(newest))}"
