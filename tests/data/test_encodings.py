"""Compressed files, and files that are not UTF-8 text."""

import gzip
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from minigpt.data.corpus import documents

TEXT = "Café crème, naïve façade. The house was quiet, and the night was long.\n" * 40


def refusal(path: Path) -> str:
    """Return the message of the error for a file."""
    with pytest.raises(ValueError) as refused:
        list(documents([path]))
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
    return str(refused.value)


def run_conversion(message: str, folder: Path) -> Path:
    """Run the command in a message, and return the file that it wrote."""
    command = message.partition("so convert it: ")[2]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    subprocess.run(["bash", "-c", command], check=True, cwd=folder)
    assert all(path.read_bytes() == content for path, content in before.items())
    (new,) = set(folder.iterdir()) - before.keys()
    return new


# --- compressed files


@pytest.mark.parametrize("name", ["a.txt.gz", "a.gz", "A.CSV.GZ"])
def test_compressed_text_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress("\ufeffone\r\ntwo<|endoftext|>three".encode()))
    assert list(documents([tmp_path / name])) == ["one\ntwo", "three"]


def test_compressed_records_are_read_also_in_folders(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"body": "one"}\n{"body": "two"}\n')
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"three") + gzip.compress(b" four"))  # two members
    (tmp_path / "c.gz").write_bytes(b"not read")
    assert list(documents([tmp_path], "body")) == ["one", "two", "three four"]


@pytest.mark.parametrize("damage", ["truncated", "tiny", "corrupted", "checksum", "not compressed"])
@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    text = "".join(json.dumps({"text": f"record {i} {i * i}"}) + "\n" for i in range(3000))
    content = bytearray(gzip.compress(text.encode(), mtime=0))
    if damage in ("truncated", "tiny"):
        del content[len(content) // 2 if damage == "truncated" else 5 :]
    elif damage == "not compressed":
        content = bytearray(b"text\n")
    else:
        content[-6 if damage == "checksum" else 3000] ^= 0xFF
    (tmp_path / name).write_bytes(content)
    assert "is a damaged or truncated gzip file: " in refusal(tmp_path / name)


# --- other encodings


@pytest.mark.skipif(not shutil.which("iconv"), reason="needs iconv")
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
@pytest.mark.parametrize(
    ("encoding", "name", "position"),
    [
        ("utf-16", "UTF-16", r"invalid byte at position 0 \(counted from 0\); it begins with the byte order mark of UTF-16"),
        ("utf-32", "UTF-32", r"invalid byte at position 0 \(counted from 0\); it begins with the byte order mark of UTF-32"),
        ("utf-16-le", "UTF-16LE", "UTF-16, because every other byte from position 1 on is 0"),
        ("utf-16-be", "UTF-16BE", "UTF-16, because every other byte from position 0 on is 0"),
        ("latin-1", "WINDOWS-1252", r"invalid byte at position 3 \(counted from 0\); it looks like Latin-1 or Windows-1252"),
    ],
)
def test_another_encoding_is_named_with_a_command_that_converts_it(
    tmp_path: Path, encoding: str, name: str, position: str, suffix: str
) -> None:
    path = tmp_path / f"it's my {encoding}{suffix}"
    content = TEXT.encode(encoding)
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    (tmp_path / f"it's my {encoding}-utf8.txt").write_text("taken", encoding="utf-8")
    message = refusal(path)
    assert re.search(f"is not UTF-8 text: .*{position}, so convert it: .*iconv -f {name} -t UTF-8", message)
    new = run_conversion(message, tmp_path)
    assert new.name == f"it's my {encoding}-utf8-2.txt"
    assert list(documents([new])) == [TEXT.strip()]


def test_quotation_marks_of_windows_1252_are_converted(tmp_path: Path) -> None:
    path = tmp_path / "-a.txt"
    path.write_bytes("He said: “No, never!”".encode("cp1252"))
    message = refusal(path)
    assert (
        "at position 9 (counted from 0); it looks like Latin-1 or Windows-1252, so convert it: iconv -f WINDOWS-1252" in message
    )


def test_jsonl_in_latin_1_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "plain"}\n{"text": "caf\xe9"}\n')
    assert re.search(
        r"invalid byte at position 31 \(counted from 0\); it looks like Latin-1 .* > \S*/a-utf8\.jsonl$", refusal(path)
    )


def test_other_bytes_are_not_called_latin_1(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Привет, мир. Как дела?".encode("cp1251"))
    assert refusal(path).endswith("position 0 (counted from 0); convert it from its encoding with iconv, or save it as UTF-8")
    path.write_bytes("Zoë ran.".encode() + b"\xff" + b"And so on.")
    assert refusal(path).endswith("position 9 (counted from 0); what precedes it is UTF-8, so the file may be damaged there")
    path.write_bytes("A cat: 🐈".encode()[:-1])
    assert refusal(path).endswith("position 7 (counted from 0); it ends within a character, so a part of the file may be missing")


# --- files that are not text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
            "is a PDF file, not text: extract its text, such as with pdftotext, and use the result",
        ),
        (b"{\\rtf1\\ansi Hello}", "is an RTF document, not text: save it as plain text"),
        (b"PAR1\x15\x04", "is a Parquet file, not text: convert it to .jsonl"),
        (b"\x89PNG\r\n\x1a\n", "is an image, not text"),
        (gzip.compress(b"text"), "is compressed with gzip, not text: give it a name that ends with .gz"),
        (b"\xfd7zXZ\0\0", "is compressed with xz, not text: decompress it"),
        (bytes(range(256)) * 4, "is not UTF-8 text: invalid byte at position 128"),
        (bytes(range(1, 13)) * 90, "looks like a binary file, not text"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else "",
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert message in refusal(path)


def test_a_word_document_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as file:
        file.writestr("word/document.xml", "<w:t>text</w:t>")
    assert "is a zip archive, as .docx, .odt and .epub files are, not text: unpack it, or save it as" in refusal(
        tmp_path / "a.docx"
    )


@pytest.mark.parametrize("text", ["\0" * 20, "a\0b", "a\0b\0c", "\x1b[1mbold\x1b[0m " * 90, "x\0" * 3, "名前 " * 300])
def test_unusual_text_is_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert list(documents([tmp_path / "a.txt"])) == [text.strip()]
