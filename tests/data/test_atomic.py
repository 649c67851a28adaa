import os
from pathlib import Path

import pytest

from minigpt.data.atomic import atomic_replace, atomic_write_text


def test_the_file_changes_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")
    with atomic_replace(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert temporary.parent == tmp_path
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(error), atomic_replace(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise error
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_use_different_temporary_files(tmp_path: Path) -> None:
    with atomic_replace(tmp_path / "a") as first, atomic_replace(tmp_path / "a") as second:
        assert first != second
        first.write_text("1", encoding="utf-8")
        second.write_text("2", encoding="utf-8")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "1"


def test_write_text_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    atomic_write_text(path, "old")
    atomic_write_text(path, "né\n")
    assert path.read_bytes() == "né\n".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    atomic_write_text(path, "old")

    def fail(source: Path, target: Path) -> None:
        assert Path(source).read_text(encoding="utf-8") == "new"
        assert path.read_text(encoding="utf-8") == "old"
        raise OSError("disk is gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is gone"):
        atomic_write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
