"""Displays for the progress of a run on a terminal, in a notebook, and in a file or pipe."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from rich.cells import chop_cells
from rich.console import Console
from rich.live import Live
from rich.text import Text

from minigpt.training.progress_line import ProgressLine, Status

MAX_TEXT_WIDTH = 100  # longer lines are hard to read
NOTEBOOK_WIDTH = 88
PREVIEW_LINES = 3
NOTEBOOK_REFRESH_S = 0.25


class LiveLine(Protocol):
    """A line that is updated in place."""

    def start(self) -> None:
        """Show the line, and update it regularly until `stop`."""
        ...

    def stop(self) -> None:
        """End the updates."""
        ...


def live_line(console: Console, status: Callable[[], Status]) -> LiveLine | None:
    """Return the live line that a console can show, or None."""
    if in_notebook(console):
        return NotebookLine(status)
    # the output of a command in a notebook ("!minigpt train") claims to be a terminal, but shows each update as a new line
    if on_terminal(console) and console.is_interactive and "JPY_PARENT_PID" not in os.environ:
        return TerminalLine(console, status)
    return None


def on_terminal(console: Console) -> bool:
    """Return whether a console is a terminal. To rich, a pipe is one too if the environment variable FORCE_COLOR is set."""
    return console.is_terminal and console.file.isatty()


def in_notebook(console: Console) -> bool:
    """Return whether a console prints to a cell of a notebook."""
    return console.is_jupyter and console.file is sys.stdout


class TerminalLine:
    """A live line below the text that is printed on a terminal. It is removed at the end."""

    def __init__(self, console: Console, status: Callable[[], Status]) -> None:
        self._console = console
        options: dict[str, Any] = {"refresh_per_second": 8, "transient": True}
        self._live = Live(console=console, get_renderable=lambda: ProgressLine(status()), **options)

    def start(self) -> None:
        """See `LiveLine`. The cursor remains visible, because the process may be killed or stopped at any time."""
        self._live.start(refresh=True)
        self._console.show_cursor(True)

    def stop(self) -> None:
        """See `LiveLine`."""
        self._live.stop()


class NotebookLine:
    """A live line in the output of a cell. It remains at the end."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._refresh_regularly, daemon=True)

    def start(self) -> None:
        """See `LiveLine`."""
        from IPython.display import display

        self._handle: Any = display(self._text(), display_id=True)
        self._thread.start()

    def stop(self) -> None:
        """See `LiveLine`."""
        self._stopped.set()
        self._thread.join()
        self._handle.update(self._text())

    def _refresh_regularly(self) -> None:
        shown = ""
        while not self._stopped.wait(NOTEBOOK_REFRESH_S):
            text = self._text()
            if text.markup != shown:
                self._handle.update(text)
                shown = text.markup

    def _text(self) -> Text:
        return ProgressLine(self._status()).text(NOTEBOOK_WIDTH)


def wrap(text: str, console: Console) -> str:
    """Wrap text at words, if a console is a terminal or a notebook. The lines in a file or pipe remain as they are."""
    if not (on_terminal(console) or in_notebook(console)):
        return text
    lines = Text(text).wrap(console, min(console.width, MAX_TEXT_WIDTH))
    return "\n".join(line.plain.rstrip() for line in lines)


def preview(text: str, console: Console) -> str:
    """Return the beginning of a text, at most about three lines of it, with an ellipsis if it is longer."""
    width = min(console.width, MAX_TEXT_WIDTH)
    lines = "\n".join(text.split("\n")[:PREVIEW_LINES])
    shown = chop_cells(lines, PREVIEW_LINES * max(1, width - 5))[0] if lines else ""
    if shown != lines and " " in shown[-width:]:
        shown = shown.rpartition(" ")[0]  # without half a word
    return shown if shown == text else f"{shown.rstrip()}…"
