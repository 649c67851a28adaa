"""The app to which the commands are added, and types of flags that several commands use."""

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter

from minigpt import __version__

app = App(
    name="minigpt",
    help="A transformer language model in pure NumPy: train it, generate text, and check every gradient.",
    version=__version__,
)


def integer(kind: Any, tokens: Sequence[Any]) -> int:
    """Convert the value of a flag to an integer. The default converter of cyclopts would truncate 1.5 to 1."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not an integer") from None


Integer = Annotated[int, Parameter(converter=integer)]
Switch = Annotated[bool, Parameter(negative="", show_default=False)]


def check_minimum(minimum: int, **values: int) -> None:
    """Raise `ValueError` if one of the values is smaller than the minimum. The message names it."""
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name} is {value}, but must be at least {minimum}")
