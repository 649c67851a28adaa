"""Folders of text: what is read, and what is said about the rest."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from minigpt.data.corpus import documents
from minigpt.data.text_files import text_files

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """`write("notes/a.txt", ...)` writes files with a text, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write_files(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text("text", encoding="utf-8")

    return write_files


def found(name: str) -> tuple[list[str], list[str]]:
    """Return the names of the files in a folder, and the lines about them."""
    lines: list[str] = []
    return [file.relative_to(name).as_posix() for file in text_files([name], lines.append)], lines


def test_hidden_files_and_folders_are_not_read(write: Write) -> None:
    hidden = [".ipynb_checkpoints/a-checkpoint.txt", ".git/b/c.txt", "._a.txt", ".DS_Store", "sub/.d.jsonl"]
    write("notes/a.txt", "notes/sub/b.txt", *(f"notes/{name}" for name in hidden))
    assert found("notes") == (["a.txt", "sub/b.txt"], ["notes/: 2 text files; skipped 5 hidden files"])
    assert list(documents(["notes"])) == ["text", "text"]


def test_a_hidden_folder_that_is_named_is_read(write: Write) -> None:
    write(".notes/a.txt")
    assert found(".notes") == (["a.txt"], [])


def test_what_is_skipped_is_counted_in_one_line(write: Write) -> None:
    write(*(f"notes/{i}.txt" for i in range(12)), "notes/a.md", "notes/sub/b.MD", "notes/c.pdf", "notes/.x", "notes/.y/z.txt")
    assert found("notes/")[1] == ["notes/: 12 text files; skipped 3 other files (2 .md, 1 .pdf) and 2 hidden ones"]


def test_only_the_most_frequent_suffixes_are_named(write: Write) -> None:
    write("notes/a.txt", *(f"notes/{i}.{'abcdef'[i % 6]}" for i in range(13)), "notes/Makefile", "notes/LICENSE")
    line = "notes/: 1 text file; skipped 15 other files (3 .a, 2 .b, 2 .c, 2 .d, ...)"
    assert found("notes")[1] == [line]


@pytest.mark.skipif(os.name == "nt", reason="needs a privilege on Windows")
def test_links_to_folders_are_counted(write: Write) -> None:
    write("notes/a.txt", "other/b.txt", "notes/c.md")
    Path("notes/link").symlink_to(Path("other").resolve())
    assert found("notes")[1] == ["notes/: 1 text file; skipped 1 other file (1 .md) and 1 link to folders"]


def test_nothing_is_said_about_a_folder_of_text(write: Write) -> None:
    write("notes/a.txt", "notes/b.jsonl.gz", "notes/C.TXT.GZ")
    assert found("notes") == (["C.TXT.GZ", "a.txt", "b.jsonl.gz"], [])


def test_a_folder_without_text_says_what_it_contains(write: Write) -> None:
    write("notes/a.md", "notes/b.md", "notes/.c.txt", "empty/x/.keep")
    message = r"the folder notes contains no \.txt or \.jsonl file, only 2 other files \(2 \.md\) and 1 hidden one; "
    with pytest.raises(ValueError, match=message + "a file of another kind that contains text must be named itself$"):
        found("notes")
    assert list(documents(["notes/a.md"])) == ["text"]
    with pytest.raises(ValueError, match=r"the folder empty contains no \.txt or \.jsonl file, only 1 hidden file; "):
        found("empty")
    Path("bare").mkdir()
    with pytest.raises(ValueError, match=r"the folder bare contains no \.txt or \.jsonl file$"):
        found("bare")
