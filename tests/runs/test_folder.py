"""Run folders: what is never overwritten, and truncated records."""

import json
import os
from pathlib import Path

import pytest

from minigpt.data.atomic import unused_path
from minigpt.runs.folder import RunFolder


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


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_of_a_leftover_that_is_a_link_only_the_link_is_deleted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    run.checkpoints.mkdir()
    (run.checkpoints / ".step-000005").symlink_to(tmp_path / "mine")
    with run.lock():
        assert list(run.checkpoints.iterdir()) == []
    assert (tmp_path / "mine").is_dir()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_run_can_be_created_in_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("minigpt.runs.folder.fsync", refuse)  # root can list every folder
    with RunFolder(tmp_path / "run").lock():
        assert (tmp_path / "run" / "lock").exists()


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


def write_steps(path: Path, *steps: object) -> None:
    lines = [step if isinstance(step, bytes) else b'{"step": %d}' % step for step in steps if isinstance(step, bytes | int)]
    (path / "metrics.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


NUL = bytes(20)


@pytest.mark.parametrize(
    "lines, kept",
    [
        ([1, 2, NUL], [1, 2]),
        ([1, 2, NUL, NUL + b'"tokens": 3}', 4], [1, 2]),  # a block of the file was not written
        ([1, 2, 3, NUL, b"", b'{"step": 4', b"[5]", 6], [1, 2]),
        ([1, 2, b'{"step": "3"}', b'{"step": null}', b'{"step": [3]}', b'{"step": true}'], [1, 2]),
        ([1, 2, b"\xff\xfe", b"[" * 10_000], [1, 2]),
    ],
)
def test_unreadable_lines_after_the_last_record_are_removed(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, lines: list[object], kept: list[int]
) -> None:
    write_steps(tmp_path, *lines)
    RunFolder(tmp_path).truncate_after(2)
    assert [record["step"] for record in RunFolder(tmp_path).records("metrics.jsonl")] == kept
    assert not recwarn.list and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "lines, last, problem",
    [
        ([1, 2, 4, 5], 5, "steps without a record: 3"),
        ([1, 4, 6, 7, 9], 10, "steps without a record: 2-3, 5, 8, 10"),
        ([], 3, "steps without a record: 1-3"),
        (list(range(2, 40, 2)), 39, "steps without a record: 1, 3, 5, 7, 9 and 15 more"),
        ([1, 2, 2, 3, 3, 3], 3, "steps with more than one record: 2-3"),
        ([1, 2, 3, 1, 2, 3], 2, "steps with more than one record: 1-2"),
        ([1, 3, 3, 9], 4, "steps without a record: 2, 4; steps with more than one record: 3"),
    ],
)
def test_missing_and_repeated_steps_are_named(tmp_path: Path, lines: list[int], last: int, problem: str) -> None:
    write_steps(tmp_path, *lines)
    with pytest.warns(UserWarning) as warned:
        RunFolder(tmp_path).truncate_after(last)
    assert [str(w.message) for w in warned] == [f"{tmp_path / 'metrics.jsonl'}: {problem}. The training is not affected"]
    kept = [record["step"] for record in RunFolder(tmp_path).records("metrics.jsonl")]
    assert kept == [step for step in lines if step <= last]


def test_a_missing_file_of_metrics_is_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: steps without a record: 1-2"):
        RunFolder(tmp_path).truncate_after(2)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_lines_before_the_last_record_are_named_and_the_file_is_kept(tmp_path: Path) -> None:
    for name in ("damaged-metrics.jsonl", "damaged-metrics.jsonl-2"):
        write_steps(tmp_path, 1, NUL, b"{", 3, NUL)
        before = (tmp_path / "metrics.jsonl").read_bytes()
        with pytest.warns(UserWarning, match=rf"record: 2; unreadable lines, which were removed: 2-3 \({name} is"):
            RunFolder(tmp_path).truncate_after(3)
        assert [record["step"] for record in RunFolder(tmp_path).records("metrics.jsonl")] == [1, 3]
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    "name, record, problem",
    [
        ("samples.jsonl", {"step": 1, "seed": [1]}, r"seed is \[1\]"),
        ("samples.jsonl", {"step": 1, "seed": None}, "seed is None"),
        ("metrics.jsonl", {"step": "6"}, "step is '6'"),
        ("metrics.jsonl", {"step": True}, "step is True"),
    ],
)
def test_a_record_with_an_invalid_step_or_seed_is_named(tmp_path: Path, name: str, record: object, problem: str) -> None:
    (tmp_path / name).write_text(f'{{"step": 1, "seed": 1}}\n{json.dumps(record)}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name}, line 2: {problem}, but must be an integer"):
        RunFolder(tmp_path).records(name)


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
    if os.name != "nt":
        (tmp_path / "run-3").symlink_to(tmp_path / "missing")
        assert unused_path(tmp_path, "run") == tmp_path / "run-4"
