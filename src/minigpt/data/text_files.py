"""The text files that paths of files and folders stand for."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

Say = Callable[[str], None]
"A function that is called with lines of progress."
SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
"The files of a folder that are read."
_SHOWN_SUFFIXES = 4


def text_files(paths: Sequence[str | Path], say: Say = lambda line: None) -> list[Path]:
    """Return the files in `paths`, with each folder replaced by the .txt and .jsonl files below it (or .gz of these), sorted.

    Hidden files and folders below a folder, and symbolic links to folders, are skipped. `say` is called with a line for
    each folder in which files were skipped. Raises ValueError, which names the path, if a file does not exist, cannot be read or
    can only be read once (a pipe, a device), and for a folder without text files.
    """
    return [file for path in paths for file in _expand_path(path, say)]


@contextmanager
def os_errors_as_value_errors(path: Path) -> Iterator[None]:
    """Turn every OSError in the block into a ValueError whose message names `path`."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def plural(number: int, noun: str) -> str:
    """Return a number with a noun.

    >>> plural(1, "document"), plural(2000, "document")
    ('1 document', '2,000 documents')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def join_names(paths: Sequence[str | Path]) -> str:
    """Return the names of at most three files, and the number of the others."""
    shown = ", ".join(str(path) for path in paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3} more"


@dataclass
class _Folder:
    """The files below a folder: those of text, and the numbers of the others by suffix, of hidden entries and of links."""

    texts: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    links: int = 0

    def skipped(self) -> str:
        """Describe what is skipped, or return ""."""
        parts = []
        if number := self.others.total():
            by_number = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
            suffixes = [f"{count:,} {suffix}" for suffix, count in by_number[:_SHOWN_SUFFIXES]]
            suffixes += ["..."] if len(by_number) > _SHOWN_SUFFIXES else []
            parts.append(f"{plural(number, 'other file')} ({', '.join(suffixes)})")
        if self.hidden:
            parts.append(plural(self.hidden, "hidden one" if parts else "hidden file"))
        if self.links:
            parts.append(plural(self.links, "link") + " to folders")
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _expand_path(name: str | Path, say: Say) -> list[Path]:
    if not str(name):
        raise ValueError("the name of a text is empty, but must be a file or a folder")
    path = Path(name)
    files = _files_below(path, say) if stat.S_ISDIR(_file_mode(path)) else [path]
    for file in files:
        _check_readable(file)
    return files


def _files_below(path: Path, say: Say) -> list[Path]:
    """Return the text files of a folder and its subfolders. Raises ValueError if there is none."""
    folder = _scan(path)
    skipped = folder.skipped()
    if not folder.texts:
        found = f", only {skipped}; a file of another kind that contains text must be named itself" if skipped else ""
        raise ValueError(f"the folder {path} contains no .txt or .jsonl file{found}")
    if skipped:
        say(f"{path.as_posix().rstrip('/')}/: {plural(len(folder.texts), 'text file')}; skipped {skipped}")
    return sorted(folder.texts, key=Path.as_posix)


def _scan(path: Path) -> _Folder:
    """Sort what is below a folder. Raises ValueError if a subfolder cannot be listed."""

    def raise_value_error(error: OSError) -> None:
        with os_errors_as_value_errors(Path(error.filename)):
            raise error

    found = _Folder()
    for parent, folders, names in os.walk(path, onerror=raise_value_error):
        found.hidden += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.links += sum(os.path.islink(os.path.join(parent, name)) for name in folders)
        for file in (Path(parent, name) for name in names if not name.startswith(".")):
            if file.name.lower().endswith(SUFFIXES):
                found.texts.append(file)
            else:
                found.others[file.suffix.lower() or "without a suffix"] += 1
    return found


def _file_mode(path: Path) -> int:
    """Return the `st_mode` of a file or folder. Raises ValueError if it does not exist."""
    with os_errors_as_value_errors(path):
        try:
            return path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a null character
            pass
    if path.is_symlink():
        raise ValueError(f"{path} is a link to {os.readlink(path)}, which does not exist")
    raise ValueError(f"no such file or folder: {path}")


def _check_readable(file: Path) -> None:
    """Raise ValueError if `file` cannot be opened, or is not a regular file: opening a pipe could block."""
    mode = _file_mode(file)
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        remedy = "write it to a file and use that" + (", or use standard input (-)" if kind == "pipe" else "")
        raise ValueError(f"{file} is a {kind}, but text is read more than once: {remedy}")
    with os_errors_as_value_errors(file), file.open("rb"):
        pass
