"""Files with settings: `config.toml`, written by hand or by a run, also by a run of an earlier version."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from minigpt.np.config import RENAMED_FIELDS, upgrade_fields
from minigpt.training.presets import RECIPES
from minigpt.training.settings import Settings, suggestion

OLD_NAMES = {"final_lr": ("min_lr_ratio",), **RENAMED_FIELDS}
"The settings of version 0.1 that have been renamed, with their current names."
EARLIER_SETTINGS = {"lr", "beta1", "beta2", "weight_decay", "clip", "warmup", "min_lr_ratio"}
"A file without a recipe that has all of these was written by a run before there were recipes, with what is now the recipe gpt2."
_LONG_KEY = re.compile(r"""(?<![\w-])((?>[\w-]+|"(\\.|[^"\\\n])*"|'[^'\n]*')[ \t]*+\.[ \t]*+){100}""")


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, under their current names.

    Raises
    ------
    ValueError
        If the file cannot be read, or contains an unknown setting or a value of the wrong type. The message names the file.
    """
    try:
        values = parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from None
    types = {field.name: field.type for field in fields(Settings)}
    old_types = {old: types[new[0]] for old, new in OLD_NAMES.items()}
    check_names(values, f"{path}: ")
    for name, value in values.items():
        values[name] = converted(value, (types | old_types)[name], f"{path}: {name}")
    try:
        return upgrade_settings(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def upgrade_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a file of an earlier version as this version has them: with current names, and with their recipe.

    Raises `ValueError` if a setting is given under its old and its current name.

    >>> upgrade_settings({"final_lr": 0.05, "bias": False})
    {'min_lr_ratio': 0.05, 'attention_bias': False, 'feed_forward_bias': False}
    """
    values = upgrade_fields(values, OLD_NAMES)
    if "recipe" not in values and values.keys() >= EARLIER_SETTINGS:
        return {"recipe": "gpt2", **RECIPES["gpt2"], **values}
    return values


def check_names(values: Iterable[str], where: str = "", others: Iterable[str] = ()) -> None:
    """Raise `ValueError` for the first name that is neither a setting nor in `others`. The message starts with `where`."""
    known = [*(field.name for field in fields(Settings)), *others]
    for name in values:
        if name not in (*known, *OLD_NAMES):
            raise ValueError(f"{where}there is no setting {name!r}{suggestion(name, known)}")


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML file. Raises `ValueError` if it is invalid, or nested more deeply than the parser supports."""
    if _LONG_KEY.search(text):  # the parser needs time and memory quadratic in the number of parts
        raise ValueError("a key has more than 100 parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def converted(value: Any, annotation: Any, where: str) -> Any:
    """Return a value as the type of a setting: integers become floats, and lists tuples, where needed.

    Raises `ValueError` for a value of another type. The message starts with `where`.
    """
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{where} is too large: integers in TOML have 64 bits")
    if annotation == tuple[str, ...]:
        if not (isinstance(value, list) and value and all(isinstance(item, str) for item in value)):
            raise ValueError(f"{where} is {_short_repr(value)}, but must be a list of strings")
        return tuple(value)
    types = [t for t in (get_args(annotation) or (annotation,)) if t is not type(None)]
    expected = str if isinstance(types[0], str) else types[0]  # the arguments of Literal are strings
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
        raise ValueError(f"{where} is {_short_repr(value)}, but must be {names[expected]}")
    return value


def _short_repr(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or deeply nested tables
        return f"a {type(value).__name__} too large to show"
