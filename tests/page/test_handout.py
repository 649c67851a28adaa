"""The story in a report: one file with a script and without a server."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from minigpt import open_run
from minigpt.page import files, handout
from minigpt.report import write_report
from minigpt.report.tokens import LEVELS
from minigpt.runs.folder import RunFolder


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="story-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("handout") / "run"
    shutil.copytree(tiny_run, path)
    write_report(path)
    return path


def test_a_report_shows_the_snapshots(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    found = data_of(page)
    assert [moment["step"] for moment in found["moments"]] == [0, 1, 2, 4, 8, 16, 32, 40, 60]
    last = found["moments"][-1]
    told = [sample["text"] for sample in open_run(run).samples]
    assert told[-1].startswith("".join(last["tokens"][1:]))
    assert last["attention"]["shape"][:2] == [2, 2] and len(last["attribution"]) == len(last["ids"]) - 1
    assert len(last["parts"]) == len(last["attribution"][0]["shares"])
    story = handout.story(run)
    assert story in page
    for word in ("src=", "href=", "import ", 'fetch("http'):
        assert word not in story


def test_the_text_cannot_end_the_script(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    sample = open_run(copy).samples[-1]
    RunFolder(copy).append("samples.jsonl", {**sample, "text": "</script><b>", "pieces": None, "surprises": None})
    page = handout.story(copy)
    assert page.count("</script>") == 2 and "\\u003c" in page
    assert "".join(data_of(page)["moments"][-1]["tokens"][1:]) == "</script><b>"


def test_a_run_without_weights_has_no_story(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "snapshots"))
    assert handout.story(copy) == ""
    write_report(copy)
    assert "story-data" not in (copy / "report.html").read_text(encoding="utf-8")


def test_large_models_show_fewer_snapshots(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(json.dumps(data_of(handout.story(run))["moments"][-1]))
    monkeypatch.setattr(handout, "MAX_BYTES", 7 * size // 2)
    assert [moment["step"] for moment in data_of(handout.story(run))["moments"]] == [0, 40, 60]
    monkeypatch.setattr(handout, "MAX_BYTES", 1)
    assert [moment["step"] for moment in data_of(handout.story(run))["moments"]] == [60]


def test_modules_can_be_bundled() -> None:
    bundled = files.bundle("report.js")
    assert not re.search(r"^(import|export)\b", bundled, re.MULTILINE)
    assert (
        bundled.index('modules["dom.js"] =') < bundled.index('modules["inside.js"] =') < bundled.index('modules["report.js"] =')
    )
    for name in (name for name in files.names() if name.endswith(".js")):
        source = files.read(name)
        assert len(re.findall(r"^import ", source, re.MULTILINE)) == len(files._IMPORT.findall(source)), name
        assert len(re.findall(r"^export ", source, re.MULTILINE)) == len(files._EXPORT.findall(source)), name


def test_the_page_has_the_levels_of_surprise_of_the_reports() -> None:
    bounds = re.search(r"const BOUNDS = \[(.*?)\];", files.read("colors.js"))
    assert bounds is not None and [float(bound) for bound in bounds[1].split(",")] == list(LEVELS)
