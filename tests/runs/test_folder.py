"""Run folders: what is never overwritten, and truncated records."""

import json
from pathlib import Path

import pytest

from minigpt.runs.folder import RunFolder, unused_path


def make_run(path: Path) -> RunFolder:
    path.mkdir()
    for name in ("config.toml", "tokenizer.json"):
        (path / name).write_text("", encoding="utf-8")
    return RunFolder(path)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_new_or_empty_folder_is_available(tmp_path: Path, overwrite: bool) -> None:
    RunFolder(tmp_path / "new").create(overwrite)
    RunFolder(tmp_path / "new").create(overwrite)
    RunFolder(tmp_path / "a" / "b").create(overwrite)
    assert (tmp_path / "a" / "b").is_dir()


def test_a_run_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run already exists: resume it \(--resume\), replace it \(--overwrite\)"):
        run.create()
    assert run.config.exists()
    run.create(overwrite=True)
    assert list(run.path.iterdir()) == []


def test_what_is_not_a_run_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ValueError, match=r"is not a (run|folder)"):
            RunFolder(path).create(overwrite=True)
    (tmp_path / "config.toml").write_text("color = 'blue'", encoding="utf-8")  # many programs have such a file
    with pytest.raises(ValueError, match="is not a run"):
        RunFolder(tmp_path).create(overwrite=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.records("metrics.jsonl") == []
    lines = [{"step": 1, "text": "Zoë\n“hm”"}, {"step": 2}]
    for line in lines:
        run.append("metrics.jsonl", line)
    assert run.records("metrics.jsonl") == lines
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029", "\x0c", "\x1c"])
def test_unicode_line_separators_inside_a_text_do_not_end_a_record(tmp_path: Path, separator: str) -> None:
    run = RunFolder(tmp_path)
    run.append("samples.jsonl", {"step": 1, "text": f"one{separator}two"})
    run.append("samples.jsonl", {"step": 2, "text": "three"})
    assert [record["text"] for record in run.records("samples.jsonl")] == [f"one{separator}two", "three"]


@pytest.mark.parametrize("truncated", [b'{"ste', b'{"text": "Zo' + "ë".encode()[:1], b""], ids=["line", "character", "nothing"])
def test_a_truncated_last_line_is_ignored(tmp_path: Path, truncated: bytes) -> None:
    run = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n' + truncated)
    assert run.records("metrics.jsonl") == [{"step": 1}, {"step": 2}]
    run.truncate_after(2)
    run.append("metrics.jsonl", {"step": 3})
    assert run.records("metrics.jsonl") == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected a JSON object"):
        RunFolder(tmp_path).records("metrics.jsonl")


def test_truncate_after_removes_later_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3, 4):
        run.append("metrics.jsonl", {"step": step})
    run.truncate_after(2)
    assert run.records("metrics.jsonl") == [{"step": 1}, {"step": 2}]
    assert run.records("samples.jsonl") == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_json_is_written_atomically(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_json("run.json", {"name": "Zoë"})
    with pytest.raises(TypeError):
        run.write_json("run.json", {"name": object()})
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == {"name": "Zoë"}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_unused_path_returns_the_first_that_does_not_exist(tmp_path: Path) -> None:
    assert unused_path(tmp_path, "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").write_text("", encoding="utf-8")
    assert unused_path(tmp_path, "run") == tmp_path / "run-3"
