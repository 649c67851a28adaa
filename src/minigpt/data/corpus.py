"""Streams of documents from text files. Only one document is in memory at a time, not the corpus."""

import codecs
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from minigpt.data.encodings import is_jsonl, not_utf8, open_text
from minigpt.data.text_files import join_names, text_files

END_OF_TEXT = "<|endoftext|>"
SURROGATE = re.compile("[\ud800-\udfff]")  # lone surrogates: JSON can express them, UTF-8 cannot
FIELD = "text"
"The field of the records of .jsonl files that is read by default."
_BLOCK = 1 << 20  # bytes read at a time
_SHOWN_FIELDS, _SHOWN_CHARACTERS = 8, 40


def documents(paths: Sequence[str | Path], field: str = FIELD) -> Iterator[str]:
    """Yield the documents of files and folders, stripped of surrounding white space. Empty documents are skipped.

    `.jsonl` files contain one object per line, of which the string `field` is read; all other files are text, split at
    `<|endoftext|>`. Files whose names end with `.gz` are decompressed. Text is UTF-8, with or without a byte order mark; the line
    endings "\\r\\n" and "\\r" become "\\n".

    Raises ValueError, which names the file: when called, for the same reasons as `text_files`, and during iteration, for bytes
    that are not UTF-8, lines that are not such objects, files that no longer exist, and a corpus without documents.
    """
    return _documents(text_files(paths), field)


def find_character(files: Sequence[Path], character: str, field: str = FIELD) -> str | None:
    """Return where the first document with a character contains it, as "FILE, line NUMBER", or None if there is none."""
    for file in files:
        line = _line_of_record(file, field, character) if is_jsonl(file) else _line_of_text(file, character)
        if line:
            return f"{file}, line {line}"
    return None


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


def _documents(files: Sequence[Path], field: str) -> Iterator[str]:
    empty = True
    for file in files:
        texts = (text for _, text in _jsonl_texts(file, field)) if is_jsonl(file) else _text_documents(file)
        for document in filter(None, map(str.strip, texts)):
            empty = False
            yield document
    if empty:
        raise ValueError(f"no text in {join_names(files)}")


def _text_documents(file: Path) -> Iterator[str]:
    with open_text(file) as stream:
        yield from _split(_decoded_blocks(stream, file))


def _line_of_text(file: Path, character: str) -> int | None:
    line = 1
    for document in _text_documents(file):
        if character in document.strip():
            start = len(document) - len(document.lstrip())
            return line + document.count("\n", 0, document.index(character, start))
        line += document.count("\n")
    return None


def _line_of_record(file: Path, field: str, character: str) -> int | None:
    return next((number for number, text in _jsonl_texts(file, field) if character in text.strip()), None)


def _decoded_blocks(stream: BinaryIO, file: Path) -> Iterator[str]:
    """Yield decoded blocks of text with line endings as "\\n". A character that spans two blocks is in the second one."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    at_start, block = True, b""
    while True:
        previous, block = block, stream.read(_BLOCK)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            kept = len(error.object) - len(block)  # the bytes that the decoder kept from the previous block
            position = stream.tell() - len(error.object) + error.start
            raise not_utf8(file, position, previous + block, len(previous) - kept + error.start) from error
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
            yield _join_and_clear(parts, end)
        parts.append(rest[:-overlap])
        tail = rest[-overlap:]
    yield _join_and_clear(parts, tail)


def _join_and_clear(parts: list[str], last: str) -> str:
    """Join the parts of a document and clear the list, so that a long document is not in memory twice."""
    document = "".join([*parts, last])
    parts.clear()
    return document


def _jsonl_texts(file: Path, field: str) -> Iterator[tuple[int, str]]:
    """Yield the number of each line that is not empty, and the text of its record."""
    position, previous = 0, b""
    with open_text(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                bom = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
                index = len(previous) + bom + error.start
                raise not_utf8(file, position + bom + error.start, previous + line, index) from error
            position, previous = position + len(line), line
            if text.strip():
                yield number, _text_field(text, field, f"{file}, line {number}")


def _text_field(line: str, field: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: invalid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # integers with too many digits, and nesting that is too deep
        raise ValueError(f"{where}: the JSON cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object with the field {_shown(field)}, found a JSON {type(record).__name__}")
    if field not in record:
        raise ValueError(f"{where}: the record has no field {_shown(field)}, {_fields(record)}")
    text = record[field]
    if not isinstance(text, str):
        raise ValueError(f"{where}: the field {_shown(field)} is {type(text).__name__}, but must be a string")
    if SURROGATE.search(text):
        raise ValueError(f"{where}: the field {_shown(field)} contains a lone surrogate, which is not a character")
    return text


def _fields(record: dict[str, Any]) -> str:
    """Describe the fields of a record that does not have the expected one."""
    names = [_shown(name) for name in record]
    if len(names) > _SHOWN_FIELDS:
        names = [*names[:_SHOWN_FIELDS], f"and {len(names) - _SHOWN_FIELDS} more"]
    return f"only {', '.join(names)}: choose one with --field" if names else "because it is empty"


def _shown(name: str) -> str:
    """Return the name of a field in quotation marks, shortened."""
    return json.dumps(name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}...", ensure_ascii=False)
