import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.data import corpus
from minigpt.data.corpus import END_OF_TEXT, documents, find_character, text_chunks
from minigpt.data.text_files import text_files

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: str | bytes, name: str = "a.txt") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write_file


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_text_is_split_at_the_marks_and_stripped(write: Write) -> None:
    path = write(f"\n{END_OF_TEXT} one\ntwo \n{END_OF_TEXT}\n\n{END_OF_TEXT}three{END_OF_TEXT}\n")
    assert list(documents([path])) == ["one\ntwo", "three"]


def test_a_file_without_marks_is_one_document(write: Write) -> None:
    assert list(documents([write("To be,\nor not.", "input.md")])) == ["To be,\nor not."]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 13, 64])
def test_blocks_may_end_anywhere(write: Write, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(corpus, "_BLOCK", block)
    path = write(f"\ufeffZoë 🐈\r\nruns{END_OF_TEXT}<|end<|endoftext|{END_OF_TEXT}|>\rlast\r\n")
    assert list(documents([path])) == ["Zoë 🐈\nruns", "<|end<|endoftext|", "|>\nlast"]


@given(texts=st.lists(st.text().filter(lambda text: END_OF_TEXT not in text), min_size=1), block=st.integers(1, 40))
@settings(deadline=None)
def test_any_documents_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str], block: int) -> None:
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    path.write_bytes(END_OF_TEXT.join(["first", *texts]).encode("utf-8"))
    expected = [text.replace("\r\n", "\n").replace("\r", "\n").strip() for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_BLOCK", block)
        found = list(documents([path]))
    assert found == ["first", *(text for text in expected if text)]


def test_jsonl_gives_the_field_text(write: Write) -> None:
    path = write(jsonl({"text": " one\r\nline "}, {"id": 3, "text": END_OF_TEXT}, {"text": " "}) + "\n", "a.jsonl")
    assert list(documents([path])) == ["one\r\nline", END_OF_TEXT]


def test_jsonl_gives_another_field(write: Write) -> None:
    path = write(jsonl({"text": "one", "body": "two"}, {"body": "three"}), "a.jsonl")
    assert list(documents([path], "body")) == ["two", "three"]
    with pytest.raises(ValueError, match=r'a\.jsonl, line 1: the record has no field "Body", only "text", "body": choose one'):
        list(documents([path], "Body"))


@pytest.mark.parametrize("block", [1, 4, 1 << 20])
def test_a_character_is_found_by_file_and_line(write: Write, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(corpus, "_BLOCK", block)
    files = [
        write(f"\tone\r\ntwo é\x0bé\u2028é\n\n {END_OF_TEXT}\r\tandΩ, Ω\n\t{END_OF_TEXT}\na \tb"),
        write("\n" + jsonl({"body": "a"}, {"body": "ä\n"}), "b.jsonl"),
    ]
    places = {"é": "a.txt, line 2", "Ω": "a.txt, line 5", "ä": "b.jsonl, line 3", "\x0b": "a.txt, line 2", "\t": "a.txt, line 7"}
    for character, place in places.items():
        assert find_character(files, character, "body") == f"{files[0].parent}/{place}"
    assert find_character(files, "ß", "body") is None


def test_jsonl_tolerates_a_byte_order_mark_and_windows_line_ends(write: Write) -> None:
    assert list(documents([write('\ufeff{"text": "a"}\r\n{"text": "b"}', "a.JSONL")])) == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "invalid JSON: .* at column 2"),
        ('"text"', 'expected an object with the field "text", found a JSON str'),
        ("[]", 'expected an object with the field "text", found a JSON list'),
        ("7", 'expected an object with the field "text", found a JSON int'),
        ('{"txt": "a", "id": 7}', 'the record has no field "text", only "txt", "id": choose one with --field'),
        ("{}", 'the record has no field "text", because it is empty'),
        (json.dumps(dict.fromkeys("abcdefghij")), 'the record has no field "text", only "a", .*"h", and 2 more: choose'),
        (json.dumps({"x" * 99: 1}), 'the record has no field "text", only "x{40}\\.\\.\\.": choose'),
        ('{"text": null}', 'the field "text" is NoneType, but must be a string'),
        (r'{"text": "\ud83d"}', 'the field "text" contains a lone surrogate'),
        pytest.param("[" * 200_000, "the JSON cannot be read: maximum recursion depth", id="deep nesting"),
        pytest.param('{"text": "a", "n": ' + "1" * 5000 + "}", "the JSON cannot be read: Exceeds the limit", id="digits"),
    ],
)
def test_invalid_lines_are_named(write: Write, line: str, message: str) -> None:
    path = write(jsonl({"text": "good"}) + "\n" + line, "a.jsonl")
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 3: {message}"):
        list(documents([path]))


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
@pytest.mark.parametrize("good", ["", "abc", "Zoë 🐈 ", "\ufeffa"])
@pytest.mark.parametrize("bad", [b"\xffabc", b"\xe2\x82", b"\xc3", b"\xed\xa0\xbd"])
def test_bytes_that_are_not_utf8_are_named_by_position(
    write: Write, monkeypatch: pytest.MonkeyPatch, block: int, good: str, bad: bytes
) -> None:
    monkeypatch.setattr(corpus, "_BLOCK", block)
    path = write(good.encode("utf-8") + bad)
    with pytest.raises(ValueError, match=rf"a\.txt is not UTF-8 text: invalid byte at position {len(good.encode('utf-8'))} "):
        list(documents([path]))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("before", [b"", b'{"text": "good"}\n'])
def test_jsonl_that_is_not_utf8_is_named_by_position(write: Write, mark: bytes, before: bytes) -> None:
    path = write(mark + before + b'{"text": "\xff"}', "a.jsonl")
    with pytest.raises(ValueError, match=rf"a\.jsonl is not UTF-8 text: invalid byte at position {len(mark + before) + 10} "):
        list(documents([path]))


def test_folders_give_their_text_files_in_order(write: Write, tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.TXT", "a/c.jsonl", "README.md", "a.txt"):
        write(jsonl({"text": name}) if name.endswith("jsonl") else name, name)
    assert list(documents([tmp_path])) == ["a.txt", "a/c.jsonl", "a/z.TXT", "b.txt"]
    assert list(documents([str(tmp_path / "b.txt"), tmp_path / "a"])) == ["b.txt", "a/c.jsonl", "a/z.TXT"]


@pytest.mark.parametrize("name", ["absent", "a.txt/below", "a\0b"])
def test_missing_files_are_refused_at_once(write: Write, tmp_path: Path, name: str) -> None:
    write("here", "a.txt")
    with pytest.raises(ValueError, match=rf"no such file or folder: .*{name}"):
        documents([tmp_path / name])


def test_a_folder_without_text_is_refused_at_once(write: Write, tmp_path: Path) -> None:
    write("here", "a.md")
    with pytest.raises(ValueError, match=r"contains no \.txt or \.jsonl file"):
        text_files([tmp_path])


def test_an_empty_name_is_not_the_current_folder(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("here")
    monkeypatch.chdir(tmp_path)
    assert list(documents(["."])) == ["here"]
    with pytest.raises(ValueError, match="the name of a text is empty"):
        documents([""])


@pytest.mark.parametrize("where", ["", "folder"])
def test_links_are_followed_or_refused(write: Write, tmp_path: Path, where: str) -> None:
    write("there", "there.md")
    folder = tmp_path / "folder"
    folder.mkdir()
    link = folder / "link.txt"
    paths = [folder if where else link]
    link.symlink_to("../there.md")
    assert list(documents(paths)) == ["there"]
    (tmp_path / "there.md").unlink()
    with pytest.raises(ValueError, match=r"link\.txt is a link to \.\./there\.md, which does not exist"):
        documents(paths)
    link.unlink()
    link.symlink_to("link.txt")
    with pytest.raises(ValueError, match=r"link\.txt cannot be read: "):
        documents(paths)


def test_links_to_folders_are_not_followed_in_folders(write: Write, tmp_path: Path) -> None:
    write("one", "folder/a.txt")
    write("two", "other/b.txt")
    (tmp_path / "folder" / "loop.txt").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "other").symlink_to(tmp_path / "other")
    assert list(documents([tmp_path / "folder"])) == ["one"]
    assert list(documents([tmp_path / "folder" / "other"])) == ["two"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in the file system")
@pytest.mark.parametrize("where", ["", "folder"])
def test_pipes_are_refused_before_they_are_opened(tmp_path: Path, where: str) -> None:
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY)  # so that opening the pipe would not block if the code did open it
    try:
        with pytest.raises(ValueError, match=r"pipe\.txt is a pipe, but text is read more than once: write it to a file"):
            documents([tmp_path if where else pipe])
    finally:
        os.close(reader)
        os.close(writer)


def test_a_file_that_was_deleted_meanwhile_is_named(write: Write) -> None:
    found = documents([write("one", "a.txt"), path := write("two", "b.txt")])
    assert next(found) == "one"
    path.unlink()
    with pytest.raises(ValueError, match=r"b\.txt cannot be read: No such file"):
        next(found)


def test_files_that_may_not_be_opened_are_refused_at_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("mine")

    def refuse(file: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ValueError, match=r"a\.txt cannot be read: Permission denied"):
        documents([path])


def test_a_folder_that_cannot_be_listed_is_refused(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("one", "a.txt")
    write("two", "locked/b.txt")
    scan = os.scandir

    def refuse(folder: str | Path) -> Any:
        if os.fspath(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"locked cannot be read: Permission denied"):
        documents([tmp_path])


@pytest.mark.parametrize("content", ["", " \n", END_OF_TEXT, "\ufeff"])
def test_an_empty_corpus_is_refused(write: Write, content: str) -> None:
    paths = [write(content, f"{name}.txt") for name in "abcde"]
    with pytest.raises(ValueError, match=r"no text in .*a\.txt, .*b\.txt, .*c\.txt and 2 more"):
        list(documents(paths))


@given(text=st.text(alphabet="ab \n"), size=st.integers(1, 12))
def test_chunks_add_up_to_the_text(text: str, size: int) -> None:
    parts = list(text_chunks(text, size))
    assert "".join(part for part, _ in parts) == text
    assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True]
    assert all(len(part) <= size for part, _ in parts)


@given(words=st.lists(st.text("ab", min_size=1, max_size=5)), space=st.sampled_from([" ", "  ", "\n "]))
def test_chunks_end_before_white_space(words: list[str], space: str) -> None:
    text = space.join(words)
    assert all(part[0].isspace() and not part[-1].isspace() for part, _ in list(text_chunks(text, 10))[1:])


def test_documents_stream(write: Write) -> None:
    """The peak of memory is far below the size of the file."""
    import tracemalloc

    path = write((f"{'story ' * 100}\n{END_OF_TEXT}\n" * 50_000).encode())
    tracemalloc.start()
    count = sum(1 for _ in documents([path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 50_000 and path.stat().st_size > 30_000_000
    assert peak < 8_000_000


def test_real_stories(shared_data: Callable[[str], Path]) -> None:
    stories = list(documents([shared_data("tinystories/valid.txt")]))
    assert len(stories) > 100
    assert all(story == story.strip() and END_OF_TEXT not in story for story in stories)
