"""Tests of the derived quantities of a run, against values calculated by hand."""

import json
import math
import statistics
from typing import Any

import pytest

from minigpt.report.files import load_run
from minigpt.report.numbers import Split


def read(folder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_loss_per_token_of_bits_per_byte() -> None:
    # 4 bytes per token at 2 bits per byte are 8 bits per token, the entropy of 256 equally likely tokens.
    assert Split(documents=1, bytes=400, tokens=100).loss_per_token(2.0) == pytest.approx(math.log(256))


def test_numbers_of_a_run(make_run) -> None:
    folder = make_run()
    records, run = read(folder), load_run(folder)
    assert run.steps_done == 400
    assert run.tokens_seen == 400 * 4096
    assert run.epochs == pytest.approx(400 * 4096 / 4_000_000)
    assert run.elapsed_s == pytest.approx(80)
    assert run.tokens_per_s == statistics.median(r["tokens_per_s"] for r in records)
    assert run.final_training_loss == pytest.approx(statistics.fmean(r["loss"] for r in records[-40:]))  # a tenth


def test_last_and_best_validation(make_run) -> None:
    folder = make_run()
    measured = [(r["val_loss"], r["step"]) for r in read(folder) if "val_loss" in r]
    run = load_run(folder)
    assert run.final is not None
    assert run.best is not None
    assert (run.final.loss, run.final.step) == measured[-1]
    assert (run.best.loss, run.best.step) == min(measured)


def test_the_best_is_not_the_last_after_overfitting(make_run) -> None:
    folder = make_run()
    records = read(folder)
    records[99] |= {"val_loss": 0.5, "val_bits_per_byte": 0.25}
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    run = load_run(folder)
    assert run.best is not None
    assert (run.best.step, run.best.loss) == (100, 0.5)


def test_distance_to_the_floor(make_run) -> None:
    run = load_run(make_run())
    assert run.final is not None
    assert run.above_floor == pytest.approx(run.final.bits_per_byte - 0.3)
    assert run.data.floor_loss == pytest.approx(0.3 * math.log(2) * 3.75)


def test_there_is_no_distance_without_a_floor(make_run) -> None:
    folder = make_run()
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    run["data"]["floor_bits_per_byte"] = None
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    loaded = load_run(folder)
    assert (loaded.data.floor_loss, loaded.above_floor) == (None, None)


def test_training_loss_ignores_a_last_step_that_is_not_finite(make_run) -> None:
    folder = make_run()
    records = read(folder)[:3]
    records[-1]["loss"] = math.nan
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert load_run(folder).final_training_loss == pytest.approx((records[0]["loss"] + records[1]["loss"]) / 2)
