"""The fields of a request, checked."""

import json
import sys
from collections.abc import Mapping
from typing import Any

LARGEST = sys.float_info.max
MAX_TEXT = 20_000
"The largest number of characters of a text."


class Fields:
    """The fields of a JSON object. Each method returns a field, or raises `ValueError` if it is not what it must be.

    >>> fields = Fields.parse(b'{"text": "Once", "step": 64}')
    >>> fields.text("text"), fields.integer("step", 0, 1000), fields.integer("seed", 0, 9, default=3)
    ('Once', 64, 3)
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    @classmethod
    def parse(cls, body: bytes) -> "Fields":
        """Return the fields of the body of a request."""
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise ValueError("the body of the request must be a JSON object")
        return cls(values)

    def text(self, name: str) -> str:
        """Return a text that can be encoded."""
        value = self._values.get(name)
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise ValueError(f"{name} must be a string of at most {MAX_TEXT:,} characters")
        return value

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer from `low` to `high`."""
        value = self._values.get(name, default)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} is {_short(value)}, but must be an integer from {low:,} to {high:,}")
        return value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """Return an integer from `low` to `high`, or None if the field is missing or null."""
        return None if self._values.get(name) is None else self.integer(name, low, high)

    def number(self, name: str, default: float | None = None) -> float:
        """Return a finite number."""
        value = self._values.get(name, default)
        if type(value) not in (int, float) or not abs(value) <= LARGEST:
            raise ValueError(f"{name} is {_short(value)}, but must be a finite number")
        return float(value)

    def integers(self, name: str, most: int) -> tuple[int, ...]:
        """Return a list of at most `most` integers that are 0 or more. It is empty if the field is missing."""
        value = self._values.get(name) or []
        if not isinstance(value, list) or len(value) > most or not all(type(x) is int and x >= 0 for x in value):
            raise ValueError(f"{name} must be a list of at most {most:,} integers that are 0 or more")
        return tuple(value)

    def span(self, name: str) -> tuple[int, int] | None:
        """Return a range of two integers, or None if the field is missing."""
        value = self.integers(name, 2)
        if len(value) == 1:
            raise ValueError(f"{name} must be a list of two integers")
        return (value[0], value[1]) if value else None

    def names(self, name: str, most: int) -> tuple[str, ...]:
        """Return a list of at most `most` short texts, in alphabetical order. It is empty if the field is missing."""
        value = self._values.get(name) or []
        if not isinstance(value, list) or len(value) > most or not all(isinstance(x, str) and len(x) < 100 for x in value):
            raise ValueError(f"{name} must be a list of at most {most:,} names")
        return tuple(sorted(set(value)))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
