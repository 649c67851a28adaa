"""What the commands share: the app, and kinds of flags."""

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter

from minigpt import __version__

app = App(
    name="minigpt",
    help="A transformer language model in pure NumPy: train it, read it, check its every gradient.",
    version=__version__,
)


def whole(kind: Any, tokens: Sequence[Any]) -> int:
    """A whole number; cyclopts by itself would cut 1.5 down to 1."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number") from None


Whole = Annotated[int, Parameter(converter=whole)]
Switch = Annotated[bool, Parameter(negative="")]


def at_least(least: int, **values: int) -> None:
    """Raises `ValueError`, naming it, for a value that is smaller."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}, but must be at least {least}")
