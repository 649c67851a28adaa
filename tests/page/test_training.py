"""The view "Training", which follows a run while it goes on."""

import json
import shutil
from pathlib import Path

import numpy as np

from minigpt import open_run
from minigpt.page.training import Records, Training
from minigpt.runs.folder import RunFolder


def test_the_curves_are_those_of_the_run(tiny_run: Path) -> None:
    run = open_run(tiny_run)
    found, metrics = Training(RunFolder(tiny_run)).read(), run.metrics
    assert (found["steps"], found["done"], found["floor"]) == (60, 60, None)
    np.testing.assert_allclose(found["curves"]["loss"], metrics["loss"])
    measured = np.isfinite(metrics["val_loss"])
    assert found["validation"]["step"] == [20, 40, 60]
    np.testing.assert_allclose(found["validation"]["val_bits_per_byte"], metrics["val_bits_per_byte"][measured])
    layers = found["norms"]["layers"]
    assert layers[0] == "token_embedding" and found["norms"]["steps"] == [20, 40, 60]
    for kind in ("gradient", "weight", "update"):
        np.testing.assert_allclose(found["norms"][kind][0], metrics[f"norms.token_embedding.{kind}"][measured])
    assert [sample["text"] for sample in found["samples"]] == [sample["text"] for sample in run.samples]
    json.dumps(found, allow_nan=False)


def test_records_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records = Records(path)
    assert records.read() == []
    path.write_text('{"step": 1}\n{"st', encoding="utf-8")
    assert records.read() == [{"step": 1}] == records.read()
    with open(path, "a", encoding="utf-8") as file:
        file.write('ep": 2}\n')
    assert records.read() == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 5}\n', encoding="utf-8")  # a resumed run has removed records
    assert records.read() == [{"step": 5}]


def test_a_run_without_steps_has_no_curves(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("*.jsonl"))
    found = Training(RunFolder(run)).read()
    assert found["done"] == 0 and found["curves"]["loss"] == [] and found["norms"]["layers"] == []


def test_the_floor_of_the_storybook(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    content["data"]["floor_bits_per_byte"] = 0.11
    (run / "run.json").write_text(json.dumps(content), encoding="utf-8")
    assert Training(RunFolder(run)).read()["floor"] == 0.11
