"""Tests of the text and tables of a report, against numbers calculated here."""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reports import make_norms, progress_sample

from minigpt.report.content import MAX_PROGRESS, describe
from minigpt.report.elements import Content, Strong
from minigpt.report.files import load_run
from minigpt.report.formats import format_duration, format_number, strip_folders


def content_of(folder: Path) -> Content:
    return describe(load_run(folder))


def summary(folder: Path) -> str:
    return "".join(content_of(folder).summary)


def table(content: Content, title: str) -> dict[str, str]:
    return next(dict(table.rows) for table in content.tables if table.title == title)


def metric(step: int, **changes: Any) -> dict[str, Any]:
    record = {"step": step, "tokens": 1000 * step, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "tokens_per_s": 5000.0}
    return record | {"elapsed_s": 0.2 * step} | changes


def test_summary_has_the_key_figures(make_run) -> None:
    metrics = [metric(i) for i in range(1, 400)] + [metric(400, val_loss=1.3, val_bits_per_byte=0.5)]
    content = content_of(make_run(metrics=metrics))
    assert "".join(content.summary) == (
        "The model has 4.2 million parameters. It was trained for 400 steps on 400,000 tokens of storybook (20,000 stories), "
        "or 0.10 epochs. Training took 1 min 20 s, at a median speed of 5,000 tokens per second. The loss on the "
        "validation text, which is not part of the training data, is 1.300 nats per token, or 0.500 bits per byte, 0.200 above "
        "the floor of 0.300 (the entropy of the text)."
    )
    strong = [part for part in content.summary if isinstance(part, Strong)]
    assert strong == ["1.300 nats per token", "0.500 bits per byte", "0.200 above the floor"]


def test_summary_before_the_first_validation(make_run) -> None:
    text = summary(make_run(metrics=[metric(1)]))
    assert "trained for 1 step on " in text
    assert "The run has completed 1 of 400 steps. " in text
    assert text.endswith("The validation loss has not been measured yet; the training loss is 2.000 nats per token.")


def test_summary_of_a_run_that_diverged(make_run) -> None:
    text = summary(make_run(metrics=[metric(1), metric(2, loss=math.nan)]))
    assert "Training stopped at step 2, where the loss was not finite." in text


def test_summary_has_the_steps_of_the_last_and_the_best_validation(make_run) -> None:
    metrics = [
        metric(1, val_loss=1.0, val_bits_per_byte=0.4),
        metric(2, val_loss=1.1, val_bits_per_byte=0.45),
        metric(3),
    ]
    text = summary(make_run(metrics=metrics))
    assert "At step 2, the loss on the validation text" in text
    assert text.endswith("The lowest validation loss was 1.000 nats per token (0.400 bits per byte), at step 1.")


@pytest.mark.parametrize(
    ("floor", "exact", "end"),
    [
        (None, True, "0.500 bits per byte."),
        (0.3, False, "0.200 above the floor of 0.300 (an upper bound on the entropy of the text)."),
        (0.6, False, "0.100 below the floor of 0.600 (an upper bound on the entropy of the text)."),
    ],
)
def test_summary_distinguishes_an_exact_floor_from_a_bound(make_run, floor: float | None, exact: bool, end: str) -> None:
    size = {"documents": 1, "bytes": 400, "tokens": 100}
    data = {"name": "x", "train": size, "valid": size, "floor_bits_per_byte": floor, "floor_is_exact": exact}
    metrics = [metric(400, val_loss=1.3, val_bits_per_byte=0.5)]
    assert summary(make_run(run={"data": data}, metrics=metrics)).endswith(end)


def test_tables_hold_every_setting_and_the_exact_sizes(make_run) -> None:
    folder = make_run()
    run, content = load_run(folder), content_of(folder)
    assert [t.title for t in content.tables] == ["Configuration", "Model", "Data", "Training", "Machine"]
    settings = table(content, "Configuration") | table(content, "Model")
    assert settings == {name: settings[name] for name in [*run.config, "parameters"]}
    assert (settings["lr"], settings["d_ff"], settings["tied"], settings["parameters"]) == ("0.001", "1024", "true", "4,213,248")
    data = table(content, "Data")
    assert data["training tokens"] == "4,000,000 (3.75 bytes per token)"
    assert data["floor"] == f"0.3000 bits per byte, {0.3 * math.log(2) * 3.75:.4f} nats per token"
    training = table(content, "Training")
    assert (training["steps"], training["tokens seen"], training["epochs"]) == ("400", "1,638,400", "0.41")
    assert training["time"] == "1 min 20 s"
    assert run.final is not None
    assert training["last validation"].startswith(f"{run.final.loss:.4f} nats per token, {run.final.bits_per_byte:.4f} bits")
    assert table(content, "Machine") == {
        "processor": "Quill 9",
        "cores": "2",
        "memory (GiB)": "7.5",
        "BLAS": "openblas 0.3",
        "threads": "2",
        "minigpt": "0.1.0",
    }


def test_samples_have_prompt_seed_and_text(make_run) -> None:
    content = content_of(make_run())
    assert content.samples_title == "Samples after 400 steps"
    assert len(content.samples) == 5
    prompt, text = content.samples[1].text
    assert isinstance(prompt, Strong)
    assert prompt == "One day,"
    assert text.startswith(" a bear found a boat.")
    assert text.endswith("\nThe river was glad.")
    assert content.samples[1].note == "seed 1, temperature 0.8, top-k 40"


def test_the_texts_at_each_measuring_point_are_in_order_with_the_final_one_of_the_same_seed(make_run) -> None:
    samples = [progress_sample(step) for step in (0, 200)] + [progress_sample(400, seed) for seed in range(3)]
    content = content_of(make_run(samples=samples))
    assert [sample.title for sample in content.progress] == ["Step 0", "Step 200", "Step 400"]
    assert [sample.text[1] for sample in content.progress] == [f" upon step {step}.é" for step in (0, 200, 400)]
    assert content.progress_note == (
        "The text that the model generated at each measuring point, always from the prompt “Once” and with seed 0, "
        "temperature 0.8, top-k 40."
    )
    assert {sample.note for sample in content.progress} == {"2.4 bits of surprise per token"}
    assert [sample.note for sample in content.samples] == [
        f"seed {seed}, temperature 0.8, top-k 40; 2.4 bits of surprise per token" for seed in range(3)
    ]


def test_a_run_of_an_older_version_shows_its_samples_of_different_seeds(make_run) -> None:
    pairs = [(200, 1), (200, 2), (400, 3), (400, 4)]
    content = content_of(make_run(samples=[progress_sample(*pair, pieces=None, surprises=None) for pair in pairs]))
    assert [(sample.title, sample.note[:6]) for sample in content.progress] == [
        *(("Step 200", "seed 1"), ("Step 200", "seed 2"), ("Step 400", "seed 3")),
    ]
    assert content.progress_note == "The text that the model generated at each measuring point."
    assert not any(sample.tokens for sample in [*content.progress, *content.samples])


def test_one_measuring_point_shows_no_change(make_run) -> None:
    content = content_of(make_run())
    assert (content.progress, content.progress_note) == ([], "")


def test_of_very_many_measuring_points_some_are_shown(make_run) -> None:
    content = content_of(make_run(samples=[progress_sample(step, prompt="") for step in range(0, 401, 4)]))
    steps = [int(sample.title.split()[1]) for sample in content.progress]
    assert (len(steps), steps[0], steps[-1]) == (MAX_PROGRESS, 0, 400)
    assert set(np.diff(steps)) <= {8, 12}
    assert "always without a prompt and with seed 0" in content.progress_note
    assert content.progress_note.endswith("(50 of 101 samples, evenly spaced; samples.jsonl has all).")


def test_tokens_inside_a_character_are_one_with_the_sum_of_their_surprises(make_run) -> None:
    tokens = content_of(make_run(samples=[progress_sample(400)])).samples[0].tokens
    assert [(token.text, token.bits) for token in tokens] == [
        (" upon", 0.5),
        (" step", 2.0),
        (" 400", 9.25),
        (".", 0.0),
        ("é", 2.75),
    ]


def test_the_floor_is_explained_with_its_distance(make_run) -> None:
    size = {"documents": 4, "bytes": 4000, "tokens": 1000}
    data = {"name": "x", "train": size, "valid": size, "floor_bits_per_byte": 0.1, "floor_is_exact": True}
    content = content_of(make_run(run={"data": data}, metrics=[metric(400, val_loss=1.3, val_bits_per_byte=0.255)]))
    text = "".join(content.floor)
    assert "these choices carry 100 bits of information, or 0.100 bits per byte" in text  # 0.1 bits * 1,000 bytes
    assert "The floor is exact" in text
    assert "the model is 0.155 above the floor: it needs 155 bits more for a story of 1,000 bytes" in text
    assert "by a factor of 2^0.155 = 1.113 (the geometric mean)" in text


@pytest.mark.parametrize(
    ("exact", "bits", "expected"),
    [
        (True, 0.2, "0.100 below it, which is possible by chance, but not on average."),
        (False, 0.2, "0.100 below it, as the bound allows."),
        (False, None, "an upper bound: the true floor can be lower, because a text can result from several choices. "),
    ],
)
def test_the_floor_of_other_runs(make_run, exact: bool, bits: float | None, expected: str) -> None:
    size = {"documents": 1, "bytes": 400, "tokens": 100}
    data = {"name": "x", "train": size, "valid": size, "floor_bits_per_byte": 0.3, "floor_is_exact": exact}
    validation = {} if bits is None else {"val_loss": 1.0, "val_bits_per_byte": bits}
    assert "".join(content_of(make_run(run={"data": data}, metrics=[metric(400, **validation)])).floor).endswith(expected)


def test_data_without_a_floor_has_no_explanation_of_it(make_run) -> None:
    size = {"documents": 1, "bytes": 400, "tokens": 100}
    assert content_of(make_run(run={"data": {"name": "x", "train": size, "valid": size}})).floor == []


def test_norms_of_each_layer(make_run) -> None:
    metrics = [metric(i) for i in range(1, 401)]
    metrics[199]["norms"], metrics[399]["norms"] = make_norms(1.0), make_norms(0.1)
    norms = content_of(make_run(metrics=metrics)).norms
    assert norms is not None
    assert norms.steps == (200, 400)
    assert norms.columns == ("gradient", "weights", "update / weights")
    assert [(layer, [series.text for series in columns]) for layer, columns in norms.rows] == [
        ("token embedding", ["0.5 → 0.05", "20 → 20", "0.01 → 0.001"]),
        ("blocks.0", ["0.25 → 0.025", "10 → 10", "0.001 → 0.0001"]),
    ]
    assert "from step 200 to step 400" in norms.note


def test_one_measuring_point_of_norms_and_none(make_run) -> None:
    run = load_run(make_run(metrics=[metric(1, norms=make_norms(1.0)), metric(2)]))
    norms = describe(run).norms
    assert norms is not None
    assert norms.rows[1][1][0].text == "0.25"
    assert "at step 1," in norms.note
    assert describe(replace(run, norms=[])).norms is None


def test_changed_settings_are_in_the_summary(make_run) -> None:
    changes = [{"step": 600, "settings": {"lr": [0.003, 0.02]}}, {"step": 1200, "settings": {"seed": [0, 1], "clip": [1.0, 0.5]}}]
    text = summary(make_run(run={"changes": changes}))
    assert "From step 601 on, lr was 0.02 instead of 0.003. " in text
    assert "From step 1,201 on, seed was 1 instead of 0, and clip was 0.5 instead of 1. " in text


def test_the_data_table_has_the_text_that_was_held_out(make_run) -> None:
    size = {"documents": 1, "bytes": 400, "tokens": 100}
    data = {"name": "book.txt", "train": size, "valid": size, "held_out": "the last tenth of book.txt"}
    assert table(content_of(make_run(run={"data": data})), "Data")["held out"] == "the last tenth of book.txt"


def test_commands_can_be_pasted_where_the_run_was_trained(make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run()
    monkeypatch.chdir(tmp_path.parent)
    commands = [shlex.split(command) for _, command in content_of(folder).commands]
    path = f"{tmp_path.name}/small-run"
    assert commands[1][2:] == ["--config", f"{path}/config.toml", "--out", f"{path}-again"]
    assert commands[2][:3] == ["minigpt", "sample", path]


def test_commands_repeat_the_run_and_its_first_sample(make_run) -> None:
    assert [command for _, command in content_of(make_run()).commands] == [
        "minigpt train --preset small --steps 400",
        "minigpt train --config small-run/config.toml --out small-run-again",
        "minigpt sample small-run --prompt 'Once upon a time' --temperature 0.8 --seed 0 --top-k 40",
    ]


def test_commands_are_quoted_for_the_shell(make_run) -> None:
    sample = {"step": 1, "prompt": "It's $5\n!", "seed": 3, "temperature": 1, "top_k": None, "text": ""}
    folder = make_run(samples=[sample])
    commands = [command for _, command in content_of(folder.rename(folder.with_name("my run"))).commands]
    assert shlex.split(commands[1])[3:] == ["my run/config.toml", "--out", "my run-again"]
    assert shlex.split(commands[2])[2:] == ["my run", "--prompt", "It's $5\n!", "--temperature", "1", "--seed", "3"]


def test_folders_of_the_machine_are_not_revealed(make_run, tmp_path: Path) -> None:
    command = f"/opt/ann/bin/minigpt train --data '/home/ann/my stories/a.txt' ../b.txt --out={tmp_path}/x"
    folder = make_run(run={"command": command}, config={"data": ["/home/ann/a.txt", r"C:\Users\ann\b.txt"]})
    content = content_of(folder)
    assert content.commands[0][1] == "minigpt train --data a.txt ../b.txt --out=x"
    assert table(content, "Configuration")["data"] == "a.txt, b.txt"
    everything = repr(content)
    assert "ann" not in everything
    assert str(tmp_path) not in everything


def test_durations_and_numbers_are_rounded_for_reading() -> None:
    assert [format_duration(s) for s in (0.04, 59.94, 59.96, 3599.4, 3599.6, 86_400)] == [
        *("0.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "24 h 0 min"),
    ]
    assert [format_number(n) for n in (1, 999_999, 1_000_000, 2_500_000_000)] == ["1", "999,999", "1.0 million", "2.5 billion"]


def test_absolute_paths_lose_their_folders_and_other_text_does_not_change() -> None:
    kept = ["a/b.txt", "../b", "C:b.txt", "--lr", "1e-3", "x = y", "http://a.b/c", "storybook (20,000 stories)"]
    assert [strip_folders(text) for text in kept] == kept
    assert strip_folders("C:/Users/ann/b.txt") == "b.txt"
