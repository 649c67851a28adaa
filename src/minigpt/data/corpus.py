"""Streams of documents from text files. Only one document is in memory at a time, not the corpus."""

import codecs
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

END_OF_TEXT = "<|endoftext|>"
HOLD_OUT_EVERY = 20
SURROGATE = re.compile("[\ud800-\udfff]")  # lone surrogates: JSON can express them, UTF-8 cannot
_BLOCK = 1 << 20  # bytes read at a time
_SUFFIXES = (".txt", ".jsonl")


def text_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files in `paths`, with each folder replaced by the .txt and .jsonl files below it, sorted.

    Symbolic links to subfolders are not followed. Raises ValueError, which names the path, if a file does not exist, cannot be
    read or can only be read once (a pipe, a device), and for a folder without text files.
    """
    return [file for path in paths for file in _expand_path(path)]


@contextmanager
def os_errors_as_value_errors(path: Path) -> Iterator[None]:
    """Turn every OSError in the block into a ValueError whose message names `path`."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def documents(paths: Sequence[str | Path]) -> Iterator[str]:
    """Yield the documents of files and folders, stripped of surrounding white space. Empty documents are skipped.

    `.jsonl` files contain one object with the field `text` per line; all other files are text, split at `<|endoftext|>`.
    Text is UTF-8, with or without a byte order mark; the line endings "\\r\\n" and "\\r" become "\\n".

    Raises ValueError, which names the file: when called, for the same reasons as `text_files`, and during iteration, for bytes
    that are not UTF-8, lines that are not such objects, files that no longer exist, and a corpus without documents.
    """
    files = text_files(paths)
    return _documents(files)


def hold_out(corpus: Iterable[str], split: str, every: int = HOLD_OUT_EVERY) -> Iterator[str]:
    """Yield the documents of the split "train" or "valid" of a corpus without a validation file.

    Every 20th document is held out for validation: the 2nd, 22nd, 42nd and so on. This takes one pass, never splits a
    document, and works with two documents or more.

    >>> list(hold_out(["a", "b", "c"], "train")), list(hold_out(["a", "b", "c"], "valid"))
    (['a', 'c'], ['b'])
    """
    if split not in ("train", "valid"):
        raise ValueError(f'split is {split!r}, but must be "train" or "valid"')
    return (document for i, document in enumerate(corpus) if (i % every == 1) == (split == "valid"))


def check_can_hold_out(paths: Sequence[str | Path]) -> None:
    """Raise ValueError if the files contain a single document, so that none can be held out for validation."""
    if len(list(islice(documents(paths), 2))) < 2:
        raise ValueError(
            f"{_join_names(paths)} is a single document, so none can be held out for validation: "
            f"use --val-data FILE, or end each document with a line {END_OF_TEXT}"
        )


def text_chunks(text: str, size: int) -> Iterator[tuple[str, bool]]:
    """Yield a text in chunks of at most `size` characters, each with a flag that is True for the last one.

    Chunks end before white space if they contain any, so no word, and with most tokenizers no token, is split.

    >>> list(text_chunks("one two three", 10))
    [('one two', False), (' three', True)]
    """
    start = 0
    while len(text) - start > size:
        space = max(start, text.rfind(" ", start, start + size))
        end = start + (len(text[start:space].rstrip()) or size)
        yield text[start:end], False
        start = end
    yield text[start:], True


def _expand_path(name: str | Path) -> list[Path]:
    if not str(name):
        raise ValueError("the name of a text is empty, but must be a file or a folder")
    path = Path(name)
    files = _files_below(path) if stat.S_ISDIR(_file_mode(path)) else [path]
    if not files:
        raise ValueError(f"the folder {path} contains no .txt or .jsonl file")
    for file in files:
        _check_readable(file)
    return files


def _files_below(folder: Path) -> list[Path]:
    """Return the .txt and .jsonl files of a folder and its subfolders. Raises ValueError if one cannot be listed."""

    def raise_value_error(error: OSError) -> None:
        with os_errors_as_value_errors(Path(error.filename)):
            raise error

    below = (Path(parent, name) for parent, _, names in os.walk(folder, onerror=raise_value_error) for name in names)
    return sorted((file for file in below if file.suffix.lower() in _SUFFIXES), key=Path.as_posix)


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
        raise ValueError(f"{file} is a {kind}, but text is read more than once: write it to a file and use that")
    with os_errors_as_value_errors(file), file.open("rb"):
        pass


def _documents(files: Sequence[Path]) -> Iterator[str]:
    empty = True
    for file in files:
        read = _jsonl_documents if file.suffix.lower() == ".jsonl" else _text_documents
        for document in filter(None, map(str.strip, read(file))):
            empty = False
            yield document
    if empty:
        raise ValueError(f"no text in {_join_names(files)}")


def _text_documents(file: Path) -> Iterator[str]:
    with os_errors_as_value_errors(file), file.open("rb") as stream:
        yield from _split(_decoded_blocks(stream, file))


def _decoded_blocks(stream: BinaryIO, file: Path) -> Iterator[str]:
    """Yield decoded blocks of text with line endings as "\\n". A character that spans two blocks is in the second one."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    at_start = True
    while True:
        block = stream.read(_BLOCK)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            # error.object begins with the bytes that the decoder kept from the previous block
            raise _not_utf8(file, stream.tell() - len(error.object) + error.start) from error
        yield text.removeprefix("\ufeff") if at_start else text
        if not block:
            return
        at_start = at_start and not text


def _split(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the texts between end-of-text marks. A mark may span two blocks."""
    overlap = len(END_OF_TEXT) - 1
    parts: list[str] = []  # the current document so far, except for its last characters, which may begin a mark
    tail = ""
    for block in blocks:
        *ends, rest = (tail + block).split(END_OF_TEXT)
        for end in ends:
            yield "".join([*parts, end])
            parts.clear()
        parts.append(rest[:-overlap])
        tail = rest[-overlap:]
    yield "".join([*parts, tail])


def _jsonl_documents(file: Path) -> Iterator[str]:
    position = 0
    with os_errors_as_value_errors(file), file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                bom = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
                raise _not_utf8(file, position + bom + error.start) from error
            position += len(line)
            if text.strip():
                yield _text_field(text, f"{file}, line {number}")


def _text_field(line: str, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: invalid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # integers with too many digits, and nesting that is too deep
        raise ValueError(f"{where}: the JSON cannot be read: {error}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f'{where}: expected an object with the field "text"') from error
    if not isinstance(text, str):
        raise ValueError(f'{where}: the field "text" is {type(text).__name__}, but must be a string')
    if SURROGATE.search(text):
        raise ValueError(f'{where}: the field "text" contains a lone surrogate, which is not a character')
    return text


def _not_utf8(file: Path, position: int) -> ValueError:
    return ValueError(f"{file} is not UTF-8 text: invalid byte at position {position:,} (counted from 0)")


def _join_names(paths: Sequence[str | Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3} more"
