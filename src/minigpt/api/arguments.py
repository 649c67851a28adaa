"""The arguments of `minigpt.train`: their types, their description, and how they differ from the flags of the command line."""

import inspect
import os
import re
import reprlib
import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minigpt.np.sampling import SamplingOptions
from minigpt.training.settings import Settings
from minigpt.training.settings_file import OLD_NAMES, check_names, converted

Function = TypeVar("Function", bound=Callable[..., Any])
ARGUMENTS = ("data", "out", "resume", "config", "overwrite", "callback", "quiet")
"The arguments of `minigpt.train` that are not settings, and `data`, which is one."
SWITCHES = ("resume", "overwrite")
COMMON = ("preset", "recipe", "steps", "batch_size", "lr", "seed", "threads")
"The settings that the description names first."
PATHS = ("val_data", "tokenizer", "init")
"The settings that may be given as a `Path`."
_FLAG = re.compile(r"(?<![\w-])--(?:no-)?([a-z][a-z0-9-]*[a-z0-9])(?: [A-Z]+\b)?")


def given_settings(data: object, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `minigpt.train` as `resolve` expects them. Those that are None are left out.

    Raises `ValueError` for an unknown name, with the nearest known one, and for a value of the wrong type.

    >>> given_settings("my.txt", {"lr": 1, "steps": np.int64(5), "prompt": None})
    {'data': ('my.txt',), 'lr': 1.0, 'steps': 5}
    """
    check_names(settings, others=ARGUMENTS)
    types = {field.name: field.type for field in fields(Settings)}
    given: dict[str, Any] = {} if data is None else {"data": text_names(data)}
    for name, value in settings.items():
        if name in OLD_NAMES:
            raise ValueError(f"the setting {name} is now {' and '.join(OLD_NAMES[name])}")
        if isinstance(value, np.generic):
            value = value.item()
        if name in PATHS and isinstance(value, os.PathLike):
            value = str(value)
        if value is not None:
            given[name] = converted(value, types[name], name)
    return given


def text_names(data: object) -> tuple[str, ...]:
    """Return the value of the setting `data` for a name or path, or a list of them.

    >>> text_names(Path("my.txt"))
    ('my.txt',)
    """
    names = [data] if isinstance(data, str | os.PathLike) else data
    if not isinstance(names, Sequence) or not all(isinstance(name, str | os.PathLike) for name in names):
        expected = "storybook, tinystories, a file or folder of text, or a list of files and folders"
        raise ValueError(f"data is {reprlib.repr(data)}, but must be {expected}")
    return tuple(map(str, names))


def check_sampling(prompt: object, max_new_tokens: object, sampling: Iterable[str]) -> None:
    """Raise `ValueError` for a prompt that is not text, a number of tokens that is not an integer, or an unknown option.

    >>> check_sampling("Once", 5, ["temperatur"])
    Traceback (most recent call last):
        ...
    ValueError: there is no sampling option 'temperatur'; the options are temperature, top_k, top_p, min_p, repetition_penalty
    """
    if not isinstance(prompt, str):
        raise ValueError(f"prompt is {reprlib.repr(prompt)}, but must be a string")
    if not isinstance(max_new_tokens, int | np.integer):
        raise ValueError(f"max_new_tokens is {reprlib.repr(max_new_tokens)}, but must be an integer")
    for name in sampling:
        if name not in SamplingOptions.__annotations__:
            known = ", ".join(SamplingOptions.__annotations__)
            raise ValueError(f"there is no sampling option {name!r}; the options are {known}")


def given_path(name: str, value: object) -> Path:
    """Return an argument as a path. Raises `ValueError` if it is not one, or empty."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ValueError(f"{name} is {value!r}, but must be a path")
    return Path(value)


def equivalent_command(given: Mapping[str, Any], paths: Mapping[str, Path], **switches: bool) -> str:
    """Return the command that does what the arguments of `minigpt.train` do.

    >>> equivalent_command({"preset": "tiny", "attention_bias": False}, {"out": Path("a b")}, resume=True)
    "minigpt train --preset tiny --no-attention-bias --out 'a b' --resume"
    """
    words = ["minigpt", "train"]
    for name, value in {**given, **paths}.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(value if isinstance(value, tuple) else [str(value)])]
    words += [f"--{name}" for name, on in switches.items() if on]
    return shlex.join(words)


def in_python_terms(message: str) -> str:
    """Return a message with the names of arguments in place of flags, unless it contains a command.

    >>> in_python_terms("RUN already exists: resume it (--resume), replace it (--overwrite) or choose another --out")
    'RUN already exists: resume it (resume=True), replace it (overwrite=True) or choose another out'
    """
    known = {*ARGUMENTS, *(field.name for field in fields(Settings))}

    def argument(flag: re.Match[str]) -> str:
        name = flag[1].replace("-", "_")
        if name not in known:
            return flag[0]
        return f"{name}=True" if name in SWITCHES else name

    return message if "minigpt train" in message else _FLAG.sub(argument, message)


@contextmanager
def errors_in_python_terms() -> Iterator[None]:
    """Replace flags by arguments in the message of a `ValueError` or `ArithmeticError` that is raised inside the block."""
    try:
        yield
    except (ValueError, ArithmeticError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (in_python_terms(error.args[0]),)
        raise


def documented(function: Function) -> Function:
    """Add the settings to the signature and to the docstring of `minigpt.train`, for `help` and for completion."""
    target: Any = function
    by_name = {field.name: field for field in fields(Settings)}
    settings = [by_name[name] for name in dict.fromkeys((*COMMON, *by_name)) if name not in ARGUMENTS]
    signature = inspect.signature(function)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
    added = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in settings
    ]
    target.__signature__ = signature.replace(parameters=[*own, *added])
    if docstring := inspect.getdoc(function):  # python -OO removes docstrings
        before, heading, after = docstring.partition("\nRaises\n")
        target.__doc__ = before + "".join(map(_entry, settings)) + heading + after
    return function


def _entry(field: Field[Any]) -> str:
    """Return the entry of a setting in the section Parameters of a docstring."""
    help = textwrap.fill(in_python_terms(field.metadata["help"]), 110, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return f"{field.name} : {inspect.formatannotation(field.type)}\n{help}\n"
