"""Tests of reading complete, incomplete and damaged run folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt.report.files import load_run


def metric(step: int, **changes: Any) -> dict[str, Any]:
    record = {"step": step, "tokens": 10 * step, "loss": 3.0, "lr": 0.1, "grad_norm": 1.0, "tokens_per_s": 5.0}
    return record | {"elapsed_s": 2.0 * step} | changes


def test_reads_what_was_recorded(make_run) -> None:
    metrics = [metric(1, loss=5.0), metric(2, loss=4.0, val_loss=4.5, val_bits_per_byte=1.5), metric(3, val_loss=None)]
    run = load_run(make_run(metrics=metrics))
    assert run.name == "small-run"
    assert run.history.step.tolist() == [1, 2, 3]
    assert run.history.loss.tolist() == [5.0, 4.0, 3.0]
    assert [(v.step, v.loss, v.bits_per_byte) for v in run.validations] == [(2, 4.5, 1.5)]
    assert (run.parameters, run.data.valid.bytes, run.config["lr"]) == (4_213_248, 375_000, 1e-3)
    assert run.command == ["minigpt", "train", "--preset", "small", "--steps", "400"]


def test_settings_of_version_0_1_have_their_current_names(make_run) -> None:
    config = load_run(make_run(config={"final_lr": 0.05, "bias": False})).config
    assert (config["min_lr_ratio"], config["attention_bias"], config["feed_forward_bias"]) == (0.05, False, False)
    assert not {"final_lr", "bias"} & config.keys()


def test_a_relative_path_is_resolved_for_the_name_of_a_run(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_run())
    assert load_run(Path(".")).name == "small-run"


def test_steps_lost_before_a_resume_count_once(make_run) -> None:
    lost = [metric(i, loss=9.0, val_loss=9.0, val_bits_per_byte=9.0) for i in (3, 4)]
    again = [metric(i, loss=2.0) for i in (3, 4, 5)]
    run = load_run(make_run(metrics=[metric(1), metric(2), *lost, *again]))
    assert run.history.step.tolist() == [1, 2, 3, 4, 5]
    assert run.history.loss.tolist() == [3.0, 3.0, 2.0, 2.0, 2.0]
    assert run.validations == []


def test_a_truncated_last_line_is_ignored(make_run) -> None:
    folder = make_run(metrics=[metric(1), metric(2)])
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 3, "tok')
    assert load_run(folder).steps_done == 2


def test_a_complete_last_line_without_a_newline_counts(make_run) -> None:
    folder = make_run()
    (folder / "metrics.jsonl").write_text(json.dumps(metric(1)), encoding="utf-8")
    assert load_run(folder).steps_done == 1


@pytest.mark.parametrize("loss", [float("nan"), None], ids=["NaN", "null"])
def test_a_loss_that_is_nan_or_null_is_nan(make_run, loss: float | None) -> None:
    run = load_run(make_run(metrics=[metric(1), metric(2, loss=loss)]))
    assert np.isnan(run.history.loss).tolist() == [False, True]


def test_samples_are_those_of_the_last_step_without_repetitions(make_run) -> None:
    sample = {"step": 5, "prompt": "One day", "seed": 1, "temperature": 1, "top_k": None, "text": " a"}
    samples = [sample | {"step": 9}, sample, sample | {"seed": 2, "text": " b"}, sample | {"text": " c"}]
    assert [s.text for s in load_run(make_run(samples=samples)).samples] == [" c", " b"]


def test_all_samples_are_kept_in_order(make_run) -> None:
    sample = {"prompt": "One day", "seed": 1, "temperature": 1, "top_k": None}
    records = [sample | {"step": step, "text": f" {step}"} for step in (0, 10, 20, 30)]
    run = load_run(make_run(samples=records))
    assert [(s.step, s.text) for s in run.all_samples] == [(0, " 0"), (10, " 10"), (20, " 20"), (30, " 30")]
    assert run.all_samples[0].tokens == ()


def test_a_resumed_run_has_each_sample_once(make_run) -> None:
    sample = {"prompt": "One day", "seed": 1, "temperature": 1, "top_k": None}
    first = [sample | {"step": step, "text": f" lost {step}"} for step in (0, 10, 20, 25, 30)]
    again = [sample | {"step": step, "text": f" {step}"} for step in (20, 30)]
    run = load_run(make_run(samples=first + again))
    assert [s.text for s in run.all_samples] == [" lost 0", " lost 10", " 20", " 30"]


TOKENS = {"step": 5, "prompt": "", "seed": 1, "temperature": 1, "text": "a b", "pieces": ["a", "", " b"]}


def test_tokens_are_pieces_with_their_surprises(make_run) -> None:
    run = load_run(make_run(samples=[TOKENS | {"surprises": [0, 1.5, None]}]))
    tokens = run.samples[0].tokens
    assert tokens[:2] == (("a", 0.0), ("", 1.5))
    assert tokens[2][0] == " b"
    assert np.isnan(tokens[2][1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprises": [1, 2]}, "line 1: surprises has 2 values, but must have 3, one for each piece$"),
        ({"surprises": [1, 2, "x"]}, "line 1, surprises: 2 is 'x', but must be int or float"),
        ({"surprises": [1, 2, 3], "text": "c"}, "line 1: pieces must be strings that make up the text$"),
        ({"surprises": [1, 2, 3], "pieces": ["a", 1, " b"]}, "line 1: pieces must be strings that make up the text$"),
    ],
)
def test_damaged_tokens_are_named_with_their_line(make_run, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_run(make_run(samples=[TOKENS | changes]))


def test_norms_are_read_and_unknown_fields_are_ignored(make_run) -> None:
    norms = {"head": {"gradient": 1.0, "weight": None, "update": 3}}
    run = load_run(make_run(metrics=[metric(1), metric(2, norms=norms, val_something=[1, {}])]))
    assert [point.step for point in run.norms] == [2]
    assert run.norms[0].layers["head"]["gradient"] == 1.0
    assert np.isnan(run.norms[0].layers["head"]["weight"])


def test_damaged_norms_are_named(make_run) -> None:
    with pytest.raises(ValueError, match=r"line 1, norms, head: weight is missing$"):
        load_run(make_run(metrics=[metric(1, norms={"head": {"gradient": 1.0}})]))


def test_changes_of_settings_are_read(make_run) -> None:
    changes = [{"step": 600, "settings": {"lr": [0.003, 0.02], "prompt": ["", "Once"]}}]
    run = load_run(make_run(run={"changes": changes}))
    assert [(change.step, change.settings) for change in run.changes] == [(600, {"lr": (0.003, 0.02), "prompt": ("", "Once")})]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"run\.json: changes is {}, but must be list$"),
        ([7], r"run\.json, changes, entry 1: settings is missing$"),
        ([{"settings": {"lr": [1, 2]}}], r"run\.json, changes, entry 1: step is missing$"),
        (
            [{"step": 1, "settings": {"lr": [1]}}],
            r"entry 1, settings: lr has 1 values, but must have 2, the old and the new one$",
        ),
    ],
)
def test_damaged_changes_are_named(make_run, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_run(make_run(run={"changes": changes}))


def test_the_path_for_commands_is_relative_to_the_current_folder(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run()
    assert load_run(folder).path == "small-run"
    monkeypatch.chdir(tmp_path.parent)
    expected = f"{tmp_path.name}/small-run"
    for path in (folder, Path(expected), folder / ".." / "small-run"):
        assert load_run(path).path == expected
    monkeypatch.chdir(folder)
    assert load_run(Path(".")).path == "small-run"
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    assert load_run(folder).path == "small-run"


def test_a_run_in_a_linked_folder_keeps_the_path_that_was_given(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run()
    (tmp_path / "here").mkdir()
    (tmp_path / "here/runs").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    assert load_run(Path("runs/small-run")).path == "runs/small-run"
    assert load_run(folder).path == "small-run"


def test_a_run_without_samples_yet(make_run) -> None:
    folder = make_run()
    (folder / "samples.jsonl").unlink()
    assert load_run(folder).samples == []


@pytest.mark.parametrize("name", ["config.toml", "run.json", "metrics.jsonl"])
def test_a_folder_that_is_not_a_run_is_rejected(make_run, name: str) -> None:
    folder = make_run()
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"small-run is not a run folder: it has no file {name}$"):
        load_run(folder)


def test_a_missing_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a run folder"):
        load_run(tmp_path / "nowhere")


def test_a_run_without_a_step_is_rejected(make_run) -> None:
    with pytest.raises(ValueError, match=r"metrics\.jsonl has no finished step"):
        load_run(make_run(metrics=[]))


GOOD = json.dumps(metric(1)).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", GOOD + b"\n{oops}\n", r"metrics\.jsonl, line 2: expected a JSON object, found b'{oops}'$"),
        ("metrics.jsonl", GOOD + b"\n[1]\n", r"metrics\.jsonl, line 2: expected a JSON object"),
        ("metrics.jsonl", GOOD + b"\n\xff\n" + GOOD, r"metrics\.jsonl, line 2: expected a JSON object"),
        ("metrics.jsonl", b'{"tokens": 3}\n', r"metrics\.jsonl, line 1: step is missing$"),
        ("metrics.jsonl", GOOD + b'\n{"step": 2}\n', r"metrics\.jsonl, line 2: tokens is missing$"),
        ("metrics.jsonl", GOOD.replace(b"3.0", b'"low"'), r"metrics\.jsonl, line 1: loss is 'low', but must be int or"),
        ("samples.jsonl", b'{"step": 1}\n', r"samples\.jsonl, line 1: prompt is missing$"),
        ("samples.jsonl", b'{"step": true}\n', r"samples\.jsonl, line 1: step is True, but must be int$"),
        ("run.json", b"{", r"run\.json cannot be read: "),
        ("run.json", b"[]", r"run\.json holds a JSON list, but must hold an object$"),
        ("run.json", b'{"command": "a \'b"}', r"run\.json: command is not a valid shell command: No closing quotation$"),
        ("run.json", b'{"command": "a"}', r"run\.json: parameters is missing$"),
        ("config.toml", b"lr = \n", r"config\.toml is not valid TOML: "),
        ("config.toml", b"final_lr = 0.1\nmin_lr_ratio = 0.1\n", r"config\.toml: final_lr is the old name of min_lr_ratio"),
    ],
)
def test_the_error_of_a_damaged_file_has_its_name_and_line(make_run, name: str, content: bytes, message: str) -> None:
    folder = make_run()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)


def test_an_empty_split_is_rejected(make_run) -> None:
    size = {"documents": 1, "bytes": 1, "tokens": 1}
    data = {"name": "x", "train": size, "valid": size | {"tokens": 0}}
    with pytest.raises(ValueError, match=r"run\.json, data, valid: tokens is 0, but must be at least 1$"):
        load_run(make_run(run={"data": data}))
