"""Tests of `write_report`, from the run folder to the pages."""

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from helpers.reports import Reader, make_norms, progress_sample

from minigpt.report import write_report


def written(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("report.md", "report.html", "loss.svg")}


def test_writes_three_files_and_nothing_else(make_run) -> None:
    folder = make_run()
    before = {path.name for path in folder.iterdir()}
    assert write_report(folder) == folder / "report.md"
    assert {path.name for path in folder.iterdir()} == before | {"report.md", "report.html", "loss.svg"}
    ET.fromstring((folder / "loss.svg").read_text(encoding="utf-8"))


def test_both_pages_contain_the_numbers_of_the_run(make_run) -> None:
    folder = make_run()
    write_report(folder)
    last = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    numbers = [f"{last['val_loss']:.3f} nats per token", f"{last['val_bits_per_byte']:.3f} bits per byte"]
    numbers += [f"{last['val_bits_per_byte'] - 0.3:.3f} above the floor", f"{0.3 * math.log(2) * 3.75:.4f} nats per token"]
    numbers += ["1,638,400", "4,213,248", "1 min 20 s"]
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text(encoding="utf-8")
        assert [number for number in numbers if number not in text] == []
    assert "curve" not in (folder / "report.html").read_text(encoding="utf-8").split("<svg")[0]


def test_page_contains_the_figure_and_no_external_resources(make_run) -> None:
    folder = make_run()
    write_report(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    svg = (folder / "loss.svg").read_text(encoding="utf-8")
    assert svg[svg.index("<svg") :].strip() in text
    assert text.count("href=") == text.count('href="#')
    assert "src=" not in text


def test_same_run_gives_the_same_files(make_run) -> None:
    folder = make_run()
    write_report(folder)
    first = written(folder)
    write_report(folder)
    assert written(folder) == first


def test_a_run_with_everything_has_a_report_without_tags_in_markdown(make_run) -> None:
    samples = [*(progress_sample(step) for step in (0, 100, 200)), *(progress_sample(400, seed) for seed in range(3))]
    changes = [{"step": 100, "settings": {"lr": [0.001, 0.002]}}]
    folder = make_run(run={"changes": changes}, samples=samples)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for step in (100, 200, 400):
        metrics[step - 1]["norms"] = make_norms(1 / step)
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)), encoding="utf-8")
    text = write_report(folder).read_text(encoding="utf-8")
    assert not re.search(r"</?\w", text)
    headings = ["The floor", "How the text changed", "Samples after 400 steps", "Norms of the layers", "Configuration"]
    assert re.findall("^## (.*)", text, re.MULTILINE)[:5] == headings
    page = Reader((folder / "report.html").read_text(encoding="utf-8"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 0
    assert [attrs["title"] for tag, attrs in page.tags if tag == "span" and "title" in attrs].count("9.25 bits") == 7
    assert [tag for tag, _ in page.tags].count("polyline") == 2 * 3


def test_an_interrupted_run_has_a_report(make_run) -> None:
    folder = make_run(samples=[])
    (folder / "samples.jsonl").unlink()
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "metrics.jsonl").write_text(lines[0] + "\n" + lines[1][:30], encoding="utf-8")
    text = write_report(folder).read_text(encoding="utf-8")
    assert "The run has completed 1 of 400 steps." in text
    assert "No samples have been generated yet." in text


def test_markup_in_a_sample_is_escaped(make_run) -> None:
    sample = {"step": 1, "prompt": "<i>A</i>", "seed": 0, "temperature": 1.0, "top_k": None, "text": " <b>fox</b> \ud800\x00"}
    folder = make_run(samples=[sample])
    write_report(folder)
    bold = {"report.md": "&lt;**i&gt;A&lt;/i**&gt;", "report.html": "<strong>&lt;i&gt;A&lt;/i&gt;</strong>"}
    for name, prompt in bold.items():
        text = (folder / name).read_text(encoding="utf-8")
        assert f"{prompt} &lt;b&gt;fox&lt;/b&gt; \ufffd\ufffd" in text
        assert "<b>" not in text


def test_nothing_is_written_for_a_damaged_run(make_run) -> None:
    folder = make_run()
    (folder / "samples.jsonl").write_text("no\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"samples\.jsonl, line 1"):
        write_report(folder)
    assert not list(folder.glob("*report*")) + list(folder.glob("*loss*"))
