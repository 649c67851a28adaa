"""Open text files, and describe files that are not UTF-8 text."""

import codecs
import gzip
import os
import shlex
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO, cast

from minigpt.data.json_files import one_line
from minigpt.data.text_files import os_errors_as_value_errors

GZIP_MAGIC = b"\x1f\x8b"
_SAMPLE = 4096  # bytes
_NEARBY = 1 << 15  # bytes
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"Byte order marks. Those of UTF-32 are first, because one of them begins like that of UTF-16."
_EXTRACT, _SAVE_AS, _DECOMPRESS = "extract its text", "save it as plain text (UTF-8)", "decompress it (or compress it with gzip)"
_KINDS = {
    b"%PDF-": ("a PDF file", "extract its text, such as with pdftotext"),
    b"PK\x03\x04": ("a zip archive, as .docx, .odt and .epub files are", f"unpack it, or {_SAVE_AS}"),
    b"\xd0\xcf\x11\xe0": ("an old Office document", _SAVE_AS),
    b"{\\rtf1": ("an RTF document", _SAVE_AS),
    b"PAR1\x15": ("a Parquet file", "convert it to .jsonl"),
    b"SQLite format 3\0": ("an SQLite database", _EXTRACT),
    b"\x89PNG": ("an image", _EXTRACT),
    b"\xff\xd8\xff": ("an image", _EXTRACT),
    GZIP_MAGIC: ("compressed with gzip", "give it a name that ends with .gz"),
    b"BZh91AY": ("compressed with bzip2", _DECOMPRESS),
    b"\xfd7zXZ\0": ("compressed with xz", _DECOMPRESS),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", _DECOMPRESS),
}
"The first bytes of files that are not text -> what they are, and what to do."
_TEXT_CONTROLS = b"\t\n\v\f\r\x1b"
_CONTROLS = bytes(byte for byte in range(32) if byte not in _TEXT_CONTROLS)


@contextmanager
def open_text(file: Path) -> Iterator[BinaryIO]:
    """Open a text file to read its bytes, which are decompressed if its name ends with .gz.

    Raises ValueError, which names the file, for every OSError in the block, for a gzip file that is damaged or truncated, and for
    a file that begins like another kind of file than UTF-8 text.
    """
    with os_errors_as_value_errors(file), file.open("rb") as raw:
        if file.suffix.lower() != ".gz":
            _check_is_text(file, raw.peek(_SAMPLE)[:_SAMPLE])
            yield raw
            return
        try:
            with gzip.GzipFile(fileobj=raw) as stream:
                _check_is_text(file, stream.peek(_SAMPLE)[:_SAMPLE])
                yield cast(BinaryIO, stream)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{file} is a damaged or truncated gzip file: {one_line(error)}") from error


def is_jsonl(file: Path) -> bool:
    """Return whether a file contains JSON lines, judging by its name.

    >>> is_jsonl(Path("a.JSONL")), is_jsonl(Path("a.jsonl.gz")), is_jsonl(Path("jsonl.txt"))
    (True, True, False)
    """
    return file.name.lower().endswith((".jsonl", ".jsonl.gz"))


def not_utf8(file: Path, position: int, block: bytes, index: int) -> ValueError:
    """Return the error for an invalid byte. It is at `position` of the file, and at `index` of a block of the file's bytes."""
    message = _invalid_byte(file, position)
    before, nearby = block[max(0, index - _NEARBY) : index], block[max(0, index - _NEARBY) : index + _NEARBY]
    if 2 <= len(block) - index <= 3 and all(byte & 0xC0 == 0x80 for byte in block[index + 1 :]):
        return ValueError(f"{message}; it ends within a character, so a part of the file may be missing")
    if not before.isascii():
        return ValueError(f"{message}; what precedes it is UTF-8, so the file may be damaged there")
    if not _looks_western(nearby):
        return ValueError(f"{message}; convert it from its encoding with iconv, or save it as UTF-8")
    return ValueError(f"{message}; it looks like Latin-1 or Windows-1252, {_conversion(file, 'WINDOWS-1252')}")


def _invalid_byte(file: Path, position: int) -> str:
    return f"{file} is not UTF-8 text: invalid byte at position {position:,} (counted from 0)"


def _check_is_text(file: Path, start: bytes) -> None:
    """Raise ValueError if the first bytes of a file are those of UTF-16, or of a file that is not text."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            position = 2 if mark == codecs.BOM_UTF32_BE else 0
            reason = f"it begins with the byte order mark of {encoding}, {_conversion(file, encoding)}"
            raise ValueError(f"{_invalid_byte(file, position)}; {reason}")
    for magic, (kind, remedy) in _KINDS.items():
        if start.startswith(magic):
            raise ValueError(f"{file} is {kind}, not text: {remedy}, and use the result")
    if parity := _parity_of_zeros(start):
        reason = f"it looks like UTF-16, because every other byte from position {parity - 1} on is 0"
        encoding = "UTF-16BE" if parity == 1 else "UTF-16LE"
        raise ValueError(f"{file} is not UTF-8 text: {reason}, {_conversion(file, encoding)}")
    if len(start) >= 512 and len(start) - len(start.translate(None, _CONTROLS)) > len(start) // 3:
        raise ValueError(
            f"{file} looks like a binary file, not text: more than a third of its first bytes are control characters"
        )


def _parity_of_zeros(start: bytes) -> int:
    """Return 1 if most bytes at even positions are 0, but few others, 2 if most at odd positions are, and otherwise 0."""
    even, odd = start[::2].count(0), start[1::2].count(0)
    half = len(start) // 2
    if half < 4 or max(even, odd) < half / 2 or min(even, odd) > half / 20:
        return 0
    return 1 if even > odd else 2


def _looks_western(block: bytes) -> bool:
    """Return whether bytes are probably text of a Western language with one byte for each character."""
    accented = sum(byte >= 0x80 for byte in block)
    undefined = sum(map(block.count, b"\x81\x8d\x8f\x90\x9d"))  # in Windows-1252
    return accented <= len(block) * 0.3 and not undefined and not any(map(block.count, _CONTROLS))


def _conversion(file: Path, encoding: str) -> str:
    """Return the command that converts a file to UTF-8, into a new file."""
    is_gzip = file.suffix.lower() == ".gz"
    text = Path(file.stem) if is_gzip else Path(file.name)
    names = (f"{text.stem}-utf8{number}{text.suffix}" for number in chain([""], map("-{}".format, count(2))))
    new = next(path for path in map(file.with_name, names) if not os.path.lexists(path))
    old, target = (shlex.quote(f"./{path}" if str(path).startswith("-") else str(path)) for path in (file, new))
    convert = f"iconv -f {encoding} -t UTF-8"
    return f"so convert it: {f'gzip -dc {old} | {convert}' if is_gzip else f'{convert} {old}'} > {target}"
