"""Format numbers, durations, settings and paths for reading."""

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any


def format_duration(seconds: float) -> str:
    """Format a duration for reading.

    >>> format_duration(7.25), format_duration(178), format_duration(4000)
    ('7.2 s', '2 min 58 s', '1 h 7 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))


def format_number(number: float) -> str:
    """Format a number for reading; millions and billions are rounded to one decimal place.

    >>> format_number(9120), format_number(3_604_480)
    ('9,120', '3.6 million')
    """
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:,.1f} {word}"
    return f"{number:,.0f}"


def format_count(number: int, word: str) -> str:
    """Format a number of things.

    >>> format_count(1, "step"), format_count(1200, "step")
    ('1 step', '1,200 steps')
    """
    plural = "" if number == 1 else "s"
    return f"{format_number(number)} {word}{plural}"


def format_value(value: Any) -> str:
    """Format a setting.

    >>> format_value(True), format_value(0.003), format_value(["a.txt", "/home/ann/b.txt"])
    ('true', '0.003', 'a.txt, b.txt')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(format_value, value))
    return f"{value:g}" if isinstance(value, float) else strip_folders(str(value))


def strip_folders(text: str) -> str:
    """Shorten an absolute path, or the absolute path after `=`, to its last component; return other text unchanged.

    >>> [strip_folders(text) for text in ("/home/ann/my stories/train.txt", "--out=/data/run", "../a.txt")]
    ['train.txt', '--out=run', '../a.txt']
    """
    flag, equals, path = text.rpartition("=")
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(path).is_absolute():
            return flag + equals + kind(path).name
    return text
