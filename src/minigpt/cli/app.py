"""The app to which the commands are added, and types of flags that several commands use."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from minigpt import __version__

app = App(
    name="minigpt",
    help="A transformer language model in pure NumPy: train it, generate text, and check every gradient.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # `main` prints a line
)


def integer(kind: Any, tokens: Sequence[Any]) -> int:
    """Convert the value of a flag to an integer. The default converter of cyclopts would truncate 1.5 to 1."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not an integer") from None


def path(kind: Any, tokens: Sequence[Any]) -> Path:
    """Convert the value of an argument to a path. An empty value is an error; `Path` would take it for the current folder."""
    if not tokens[0].value:
        raise ValueError("the path is empty")
    return Path(tokens[0].value)


NonEmptyPath = Annotated[Path, Parameter(converter=path)]
Integer = Annotated[int, Parameter(converter=integer)]
Switch = Annotated[bool, Parameter(negative="", show_default=False)]


def check_minimum(minimum: int, **values: int) -> None:
    """Raise `ValueError` if one of the values is smaller than the minimum. The message names it."""
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name} is {value}, but must be at least {minimum}")


def given_once(files: tuple[str, ...], data: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the text that is given as words or with --data. Raises `ValueError` if it is given in both ways."""
    if files and data is not None:
        raise ValueError(f"text is given both as an argument ({files[0]}) and with --data: give all of it in one way")
    return files or data
