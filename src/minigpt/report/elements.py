"""The parts of a report, independent of the output format (Markdown or HTML)."""

from dataclasses import dataclass


class Strong(str):
    """A part of a text to be set in bold."""


Text = list[str]
"A text as a list of parts without markup, some of which are `Strong`."


@dataclass(frozen=True)
class Table:
    """A titled table of names and values."""

    title: str
    rows: list[tuple[str, str]]


@dataclass(frozen=True)
class Token:
    """A token of a sample: the text that it completes, and its surprisal in bits."""

    text: str
    bits: float


@dataclass(frozen=True)
class FormattedSample:
    """A generated sample with its prompt in bold, a note with its sampling options, and its tokens, if they were recorded."""

    text: Text
    note: str
    tokens: tuple[Token, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Series:
    """The values of a quantity at the measuring points, and its first and last value as text."""

    values: tuple[float, ...]
    text: str


@dataclass(frozen=True)
class NormTable:
    """A table with one row for each layer and one series for each column."""

    note: str
    columns: tuple[str, ...]
    steps: tuple[int, ...]
    rows: list[tuple[str, list[Series]]]


@dataclass(frozen=True)
class Content:
    """The contents of a report, in the order in which they appear."""

    title: str
    summary: Text
    explanation: str
    alt_text: str
    floor: Text
    progress_note: str
    progress: list[FormattedSample]
    samples_title: str
    samples: list[FormattedSample]
    norms: NormTable | None
    tables: list[Table]
    commands: list[tuple[str, str]]
