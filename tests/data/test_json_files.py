from pathlib import Path

import pytest

from minigpt.data.json_files import one_line, read_json_object


def test_an_object_is_returned(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"é": [1, null]}', encoding="utf-8")
    assert read_json_object(tmp_path / "a.json") == {"é": [1, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read: Expecting value"),
        (b"\xff", "cannot be read: .* can't decode byte 0xff"),
        (b"[" * 100_000, "cannot be read: maximum recursion depth"),
        (b'{"a": ' + b"1" * 5000 + b"}", "cannot be read: Exceeds the limit"),
        (b"[]", "holds a JSON list, but must hold an object$"),
        (b"null", "holds a JSON NoneType, but must hold an object$"),
        (None, "cannot be read: No such file or directory$"),
    ],
    ids=["empty", "not UTF-8", "deep", "long number", "list", "null", "missing"],
)
def test_other_files_are_refused_with_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json {message}") as refused:
        read_json_object(path)
    assert str(refused.value).startswith(str(path))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo\r\nthree"), "one two three"),
        (MemoryError(), "MemoryError"),
        (OSError(13, "Permission denied", "a.json"), "Permission denied"),
        (OSError("no error number"), "no error number"),
    ],
    ids=repr,
)
def test_errors_in_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line
