"""Streams of documents from text files: a document is in memory, a corpus never."""

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
SURROGATE = re.compile("[\ud800-\udfff]")  # halves of characters: JSON can hold one alone, UTF-8 cannot
_BLOCK = 1 << 20  # bytes read at a time
_SUFFIXES = (".txt", ".jsonl")


def text_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` name: files as they are, and of folders every .txt and .jsonl below them, sorted.

    Links to folders are not followed there. Raises ValueError, naming it, for what does not exist, may not be read or can
    only be read once (a pipe, a device), and for a folder without text.
    """
    return [file for path in paths for file in _files_of(path)]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What keeps us from reading `path` becomes a ValueError that names it."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def documents(paths: Sequence[str | Path]) -> Iterator[str]:
    """The documents of files and folders, one after the other, without surrounding white space and without empty ones.

    `.jsonl` files hold an object with the field `text` on each line; all others are text, cut at `<|endoftext|>`.
    Text is UTF-8, with or without a byte order mark; the line ends of Windows (and of old Macs) become "\\n".
    Raises ValueError for what `text_files` refuses (at once), and for bytes that are not UTF-8, lines that are not such
    objects, files that have gone since, and a corpus without any document (when it comes to them), always naming the file.
    """
    files = text_files(paths)
    return _documents(files)


def hold_out(corpus: Iterable[str], split: str, every: int = HOLD_OUT_EVERY) -> Iterator[str]:
    """The "train" or the "valid" documents of a corpus that comes without validation text.

    Every 20th document is held out, the 2nd, 22nd, 42nd and so on: this needs no counting, cuts no document in two, and
    works from two documents on.

    >>> list(hold_out(["a", "b", "c"], "train")), list(hold_out(["a", "b", "c"], "valid"))
    (['a', 'c'], ['b'])
    """
    if split not in ("train", "valid"):
        raise ValueError(f'split is {split!r}, expected "train" or "valid"')
    return (document for i, document in enumerate(corpus) if (i % every == 1) == (split == "valid"))


def check_can_hold_out(paths: Sequence[str | Path]) -> None:
    """Raise ValueError if the files hold a single document, of which none can be kept back for validation."""
    if len(list(islice(documents(paths), 2))) < 2:
        raise ValueError(
            f"{_names(paths)} is a single document, so none can be held out for validation: "
            f"give --val-data FILE, or mark where documents end with a line {END_OF_TEXT}"
        )


def pieces(text: str, size: int) -> Iterator[tuple[str, bool]]:
    """A long text in pieces of at most `size` characters, each with whether it is the last.

    Cut before a space (and the white space around it) where there is one, so words and most tokenizers' tokens stay whole.

    >>> list(pieces("one two three", 10))
    [('one two', False), (' three', True)]
    """
    start = 0
    while len(text) - start > size:
        space = max(start, text.rfind(" ", start, start + size))
        end = start + (len(text[start:space].rstrip()) or size)
        yield text[start:end], False
        start = end
    yield text[start:], True


def _files_of(name: str | Path) -> list[Path]:
    if not str(name):
        raise ValueError("the name of a text is empty, but must be that of a file or a folder")
    path = Path(name)
    found = _files_below(path) if stat.S_ISDIR(_mode(path)) else [path]
    if not found:
        raise ValueError(f"the folder {path} holds no .txt or .jsonl file")
    for file in found:
        _check_is_text(file)
    return found


def _files_below(folder: Path) -> list[Path]:
    """The .txt and .jsonl files of a folder and of those in it; what cannot be listed is not passed over."""

    def refuse(error: OSError) -> None:
        with reading(Path(error.filename)):
            raise error

    below = (Path(parent, name) for parent, _, names in os.walk(folder, onerror=refuse) for name in names)
    return sorted((file for file in below if file.suffix.lower() in _SUFFIXES), key=Path.as_posix)


def _mode(path: Path) -> int:
    """What kind of thing is there, as `stat` has it."""
    with reading(path):
        try:
            return path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a name that no file can have
            pass
    if path.is_symlink():
        raise ValueError(f"{path} is a link to {os.readlink(path)}, which does not exist")
    raise ValueError(f"no such file or folder: {path}")


def _check_is_text(file: Path) -> None:
    """Raise ValueError for what is no file, which opening might wait for without end, and for what may not be read."""
    mode = _mode(file)
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise ValueError(f"{file} is a {kind}, but text is read more than once: write it to a file, and give that")
    with reading(file), file.open("rb"):
        pass


def _documents(files: Sequence[Path]) -> Iterator[str]:
    empty = True
    for file in files:
        read = _jsonl_documents if file.suffix.lower() == ".jsonl" else _text_documents
        for document in filter(None, map(str.strip, read(file))):
            empty = False
            yield document
    if empty:
        raise ValueError(f"no text in {_names(files)}")


def _text_documents(file: Path) -> Iterator[str]:
    with reading(file), file.open("rb") as stream:
        yield from _split(_decoded_blocks(stream, file))


def _decoded_blocks(stream: BinaryIO, file: Path) -> Iterator[str]:
    """Blocks of text, each of whole characters, with line ends as "\\n"."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    start = True
    while True:
        block = stream.read(_BLOCK)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            # error.object begins with what the decoder had kept of the block before
            raise _not_utf8(file, stream.tell() - len(error.object) + error.start) from error
        yield text.removeprefix("\ufeff") if start else text
        if not block:
            return
        start = start and not text


def _split(blocks: Iterable[str]) -> Iterator[str]:
    """The texts between end-of-text marks; a mark may lie across two blocks."""
    overlap = len(END_OF_TEXT) - 1
    pieces: list[str] = []  # what is known of the current document, except its last few characters
    tail = ""
    for block in blocks:
        *ends, rest = (tail + block).split(END_OF_TEXT)
        for end in ends:
            yield "".join([*pieces, end])
            pieces.clear()
        pieces.append(rest[:-overlap])
        tail = rest[-overlap:]
    yield "".join([*pieces, tail])


def _jsonl_documents(file: Path) -> Iterator[str]:
    position = 0
    with reading(file), file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                mark = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
                raise _not_utf8(file, position + mark + error.start) from error
            position += len(line)
            if text.strip():
                yield _text_field(text, f"{file}, line {number}")


def _text_field(line: str, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # numbers and nestings beyond what Python takes
        raise ValueError(f"{where}: JSON that cannot be read: {error}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f'{where}: expected an object with the field "text"') from error
    if not isinstance(text, str):
        raise ValueError(f'{where}: the field "text" is {type(text).__name__}, expected a string')
    if SURROGATE.search(text):
        raise ValueError(f'{where}: the field "text" holds half of a surrogate pair, which is no character')
    return text


def _not_utf8(file: Path, position: int) -> ValueError:
    return ValueError(f"{file} is not UTF-8 text: bad byte at position {position:,} (counted from 0)")


def _names(paths: Sequence[str | Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3} more"
