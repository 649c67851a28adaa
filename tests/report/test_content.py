"""What a report says, against numbers worked out here."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest

from minigpt.report.content import Content, Strong, about, describe, duration, printable, without_folders
from minigpt.report.files import load_run


def told(folder: Path) -> Content:
    return describe(load_run(folder))


def summary(folder: Path) -> str:
    return "".join(told(folder).summary)


def table(content: Content, title: str) -> dict[str, str]:
    return next(dict(table.rows) for table in content.tables if table.title == title)


def metric(step: int, **changes: Any) -> dict[str, Any]:
    record = {"step": step, "tokens": 1000 * step, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "tokens_per_s": 5000.0}
    return record | {"elapsed_s": 0.2 * step} | changes


def test_summary_has_the_key_figures(make_run) -> None:
    metrics = [metric(i) for i in range(1, 400)] + [metric(400, val_loss=1.3, val_bits_per_byte=0.5)]
    content = told(make_run(metrics=metrics))
    assert "".join(content.summary) == (
        "The model of 4.2 million parameters saw 400,000 tokens of storybook (20,000 stories), 0.10 times its training "
        "data, in 400 steps. This took 1 min 20 s, at a median of 5,000 tokens a second. On validation text, which it "
        "never trained on, its loss is 1.300 per token, which is 0.500 bits per byte: 0.200 above the floor of 0.300, "
        "the entropy of that text."
    )
    strong = [part for part in content.summary if isinstance(part, Strong)]
    assert strong == ["1.300 per token", "0.500 bits per byte", "0.200 above the floor"]


def test_summary_before_the_first_validation(make_run) -> None:
    text = summary(make_run(metrics=[metric(1)]))
    assert "in 1 step. " in text
    assert "It has done 1 of 400 steps. " in text
    assert text.endswith("The validation loss was not measured yet; the training loss is 2.000 per token.")


def test_summary_of_a_run_that_blew_up(make_run) -> None:
    assert "It stopped at step 2, whose loss was not finite." in summary(make_run(metrics=[metric(1), metric(2, loss=math.nan)]))


def test_summary_tells_when_it_was_measured_and_when_it_was_best(make_run) -> None:
    metrics = [
        metric(1, val_loss=1.0, val_bits_per_byte=0.4),
        metric(2, val_loss=1.1, val_bits_per_byte=0.45),
        metric(3),
    ]
    text = summary(make_run(metrics=metrics))
    assert "At step 2, on validation text" in text
    assert text.endswith("The lowest was 1.000, 0.400 bits per byte, at step 1.")


@pytest.mark.parametrize(
    ("floor", "exact", "end"),
    [
        (None, True, "0.500 bits per byte."),
        (0.3, False, "0.200 above the floor of 0.300, an upper bound of the entropy of that text."),
        (0.6, False, "0.100 below the floor of 0.600, an upper bound of the entropy of that text."),
    ],
)
def test_summary_is_honest_about_the_floor(make_run, floor: float | None, exact: bool, end: str) -> None:
    size = {"documents": 1, "bytes": 400, "tokens": 100}
    data = {"name": "x", "train": size, "valid": size, "floor_bits_per_byte": floor, "floor_is_exact": exact}
    metrics = [metric(400, val_loss=1.3, val_bits_per_byte=0.5)]
    assert summary(make_run(run={"data": data}, metrics=metrics)).endswith(end)


def test_tables_hold_every_setting_and_the_exact_sizes(make_run) -> None:
    folder = make_run()
    run, content = load_run(folder), told(folder)
    assert [t.title for t in content.tables] == ["Configuration", "Model", "Data", "Training", "Machine"]
    settings = table(content, "Configuration") | table(content, "Model")
    assert settings == {name: settings[name] for name in [*run.config, "parameters"]}
    assert (settings["lr"], settings["d_ff"], settings["tied"], settings["parameters"]) == ("0.001", "1024", "true", "4,213,248")
    data = table(content, "Data")
    assert data["training tokens"] == "4,000,000 (3.75 bytes each)"
    assert data["floor"] == f"0.3000 bits per byte, {0.3 * math.log(2) * 3.75:.4f} per token"
    training = table(content, "Training")
    assert (training["steps"], training["tokens seen"], training["times over the data"]) == ("400", "1,638,400", "0.41")
    assert training["time"] == "1 min 20 s"
    assert run.final is not None
    assert training["last validation"].startswith(f"{run.final.loss:.4f} per token, {run.final.bits_per_byte:.4f} bits")
    assert table(content, "Machine") == {
        "processor": "Quill 9",
        "cores": "2",
        "memory (GiB)": "7.5",
        "BLAS": "openblas 0.3",
        "threads": "2",
        "minigpt": "0.1.0",
    }


def test_samples_have_prompt_seed_and_text(make_run) -> None:
    content = told(make_run())
    assert content.samples_title == "Stories after 400 steps"
    assert len(content.samples) == 5
    prompt, text = content.samples[1].text
    assert isinstance(prompt, Strong)
    assert prompt == "One day,"
    assert text.startswith(" a bear found a boat.")
    assert text.endswith("\nThe river was glad.")
    assert content.samples[1].note == "seed 1, temperature 0.8, top-k 40"


def test_commands_repeat_the_run_and_its_first_story(make_run) -> None:
    assert [command for _, command in told(make_run()).commands] == [
        "minigpt train --preset small --steps 400",
        "minigpt train --config small-run/config.toml --out small-run-again",
        "minigpt sample small-run --prompt 'Once upon a time' --temperature 0.8 --seed 0 --top-k 40",
    ]


def test_commands_can_be_pasted_whatever_the_names(make_run) -> None:
    story = {"step": 1, "prompt": "It's $5\n!", "seed": 3, "temperature": 1, "top_k": None, "text": ""}
    folder = make_run(stories=[story])
    commands = [command for _, command in told(folder.rename(folder.with_name("my run"))).commands]
    assert shlex.split(commands[1])[3:] == ["my run/config.toml", "--out", "my run-again"]
    assert shlex.split(commands[2])[2:] == ["my run", "--prompt", "It's $5\n!", "--temperature", "1", "--seed", "3"]


def test_no_folder_of_the_machine_is_named(make_run, tmp_path: Path) -> None:
    command = f"/opt/ann/bin/minigpt train --data '/home/ann/my stories/a.txt' ../b.txt --out={tmp_path}/x"
    folder = make_run(run={"command": command}, config={"data": ["/home/ann/a.txt", r"C:\Users\ann\b.txt"]})
    content = told(folder)
    assert content.commands[0][1] == "minigpt train --data a.txt ../b.txt --out=x"
    assert table(content, "Configuration")["data"] == "a.txt, b.txt"
    everything = repr(content)
    assert "ann" not in everything
    assert str(tmp_path) not in everything


def test_times_and_counts_round_to_what_people_say() -> None:
    assert [duration(s) for s in (0.04, 59.94, 59.96, 3599.4, 3599.6, 86_400)] == [
        *("0.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "24 h 0 min"),
    ]
    assert [about(n) for n in (1, 999_999, 1_000_000, 2_500_000_000)] == ["1", "999,999", "1.0 million", "2.5 billion"]


def test_paths_lose_their_folders_and_nothing_else_changes() -> None:
    kept = ["a/b.txt", "../b", "C:b.txt", "--lr", "1e-3", "x = y", "http://a.b/c", "storybook (20,000 stories)"]
    assert [without_folders(text) for text in kept] == kept
    assert without_folders("C:/Users/ann/b.txt") == "b.txt"


def test_printable_replaces_what_no_page_may_hold() -> None:
    text = printable("a\x00b\x1b[0m\r\nc\td\ud800é🙂")
    assert text == "a\ufffdb\ufffd[0m\nc\td\ufffdé🙂"
    assert json.loads(json.dumps(text)).encode("utf-8")
