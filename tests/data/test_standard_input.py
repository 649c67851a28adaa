"""Texts from standard input."""

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from minigpt.data.corpus import documents
from minigpt.data.sources import source
from minigpt.data.standard_input import replace_standard_input

Give = Callable[[bytes], None]


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Give:
    """`give(content)` makes standard input contain these bytes."""
    return lambda content: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_names_without_standard_input_stay() -> None:
    assert replace_standard_input(["a.txt", "./-"]) == ("a.txt", "./-")


def test_the_same_text_gives_the_same_file_and_keeps_its_time(give: Give, tmp_path: Path) -> None:
    files = []
    for content in (b"one", b"two", b"one"):
        give(content)
        before, file, after = replace_standard_input(["a.txt", "-", "b.txt"], tmp_path)
        assert (before, after) == ("a.txt", "b.txt") and Path(file).read_bytes() == content
        os.utime(file, (0, 0)) if not files else None
        files.append(file)
    assert files[0] == files[2] != files[1]
    assert Path(files[0]).stat().st_mtime == 0
    assert len(names(tmp_path)) == 2 and all(name.startswith("stdin-") for name in names(tmp_path))


@pytest.mark.parametrize(
    ("content", "suffix", "texts"),
    [
        (b"One.\n\nTwo.\n", ".txt", ["One.\n\nTwo."]),
        (b'{"text": "one"}\n{"text": "two"}\n', ".jsonl", ["one", "two"]),
        (b'{"text": "one"', ".txt", ['{"text": "one"']),
        (b'["text"]\n', ".txt", ['["text"]']),
        (gzip.compress(b"one<|endoftext|>two"), ".txt.gz", ["one", "two"]),
        (gzip.compress(b'{"text": "one"}\n'), ".jsonl.gz", ["one"]),
    ],
)
def test_the_suffix_is_that_of_the_content(give: Give, tmp_path: Path, content: bytes, suffix: str, texts: list[str]) -> None:
    give(content)
    (file,) = replace_standard_input(["-"], tmp_path)
    assert Path(file).name.partition(".")[2] == suffix[1:]
    assert list(documents([file])) == texts


def test_a_damaged_gzip_stream_is_named_when_it_is_read(give: Give, tmp_path: Path) -> None:
    give(gzip.compress(b"some text")[:-6])
    (file,) = replace_standard_input(["-"], tmp_path)
    with pytest.raises(ValueError, match=r"stdin-\w+\.txt\.gz is a damaged or truncated gzip file"):
        list(documents([file]))


def test_an_empty_standard_input_is_refused(give: Give, tmp_path: Path) -> None:
    give(b"")
    with pytest.raises(ValueError, match=r"standard input \(-\) is empty, but must contain a text"):
        replace_standard_input(["-"], tmp_path)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_a_terminal_is_refused_and_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leader, follower = os.openpty()
    os.write(leader, b"\x04")  # the end of the input, so that code that did read it would not wait
    with os.fdopen(follower, encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        with pytest.raises(ValueError, match="standard input is a terminal, but must be a pipe or a file, as in: minigpt train"):
            replace_standard_input(["-"], tmp_path)
    os.close(leader)


def test_a_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ValueError, match="standard input is not available"):
        replace_standard_input(["-"], tmp_path)


def test_standard_input_is_not_waited_for_in_an_mpi_job(give: Give, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    give(b"text")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"standard input \(-\) cannot be read in an MPI job: write the text to a file"):
        replace_standard_input(["-"], tmp_path)


def test_standard_input_is_read_once(give: Give, tmp_path: Path) -> None:
    give(b"text")
    with pytest.raises(ValueError, match=r"names standard input \(-\) more than once"):
        replace_standard_input(["-", "-"], tmp_path)
    with pytest.raises(ValueError, match="val_data is -, but only data can be read from standard input"):
        source(["storybook"], "-", stories=1, seed=0, say=lambda line: None)


def test_an_interrupt_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocks = iter([b"text"])

    def read(size: int) -> bytes:
        for block in blocks:
            assert len(names(tmp_path)) == 1
            return block
        raise KeyboardInterrupt

    stream = SimpleNamespace(read=read, isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
    with pytest.raises(KeyboardInterrupt):
        replace_standard_input(["-"], tmp_path)
    assert names(tmp_path) == []
