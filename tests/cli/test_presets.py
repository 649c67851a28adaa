"""What training takes, before it starts: `minigpt presets` and `minigpt train --dry-run`."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import content

from minigpt.cli import presets
from minigpt.cli.columns import aligned
from minigpt.np.config import PRESETS
from minigpt.runs.folder import RunFolder
from minigpt.training import estimate, speed

Run = Callable[..., tuple[int, str, str]]
Flags = Callable[..., list[object]]


@pytest.fixture(autouse=True)
def known_speed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the measurement of the speed, which `test_the_speed_is_measured` tests, by a known speed. Returns its calls."""
    calls: list[Any] = []

    def measure(*arguments: Any) -> speed.Speed:
        calls.append(arguments)
        return speed.Speed(flops_per_s=1e10, update_factor=1.0)

    for module in ("minigpt.training.speed", "minigpt.training.dry_run"):
        monkeypatch.setattr(f"{module}.measure_speed", measure)
    return calls


def lines_of(output: str) -> dict[str, str]:
    """Return the values of the lines of a dry run by their names."""
    return {name: value.strip() for name, colon, value in (line.partition(":") for line in output.splitlines()) if colon}


# ------------------------------------------------------------------ presets


def test_presets_prints_a_line_for_each_preset(run: Run) -> None:
    code, out, err = run("presets", "--threads", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    header, *rows = (line.split() for line in lines[: 1 + len(PRESETS)])
    assert header == ["preset", "layers", "width", "heads", "context", "vocab", "params", "memory", "tokens", "time"]
    assert [row[0] for row in rows] == list(PRESETS)
    assert rows[0][1:7] == ["4", "128", "2", "256", "2048", "1.3M"]
    assert rows[0][9:10] == ["2.5M"]
    assert max(map(len, lines)) <= 80
    assert "minigpt train --preset tiny " in out
    assert "\x1b" not in out


def test_presets_as_json(run: Run, known_speed: list[Any]) -> None:
    summaries = {summary["preset"]: summary for summary in json.loads(run("presets", "--json", "--threads", 3)[1])}
    assert list(summaries) == list(PRESETS)
    assert {call[2] for call in known_speed} == {3}
    gpt2 = summaries["gpt2"]
    assert gpt2["parameters"] == 124_439_808
    assert gpt2["tokens"] == 1000 * 4 * 1024
    assert 4e9 < gpt2["memory_bytes"] < 6e9
    assert gpt2["seconds"] == pytest.approx(1000 * 2 * 1024 * 6 * 124e6 / 1e10, rel=0.3)  # the 4 sequences take two rounds


def test_presets_refuses_a_negative_number_of_threads(run: Run) -> None:
    assert run("presets", "--threads", -1)[::2] == (2, "minigpt: threads is -1, but must be at least 0\n")


def test_the_speed_of_each_preset_is_measured_with_little_work() -> None:
    for name in PRESETS:
        settings = presets.resolve({"preset": name})
        part, sequences = speed._part(settings, settings.model(settings.vocab_size), 2, presets.MAX_FLOPS)
        assert speed._work(part, sequences) < 5e9  # at most about a tenth of a second for a step


def test_a_table_that_is_too_wide_is_divided() -> None:
    rows = [("", "first", "second"), ("lr", "0.1", "0.25")]
    assert aligned(rows, width=15) == "    first\nlr    0.1\n\n    second\nlr    0.25"
    assert aligned(rows, width=17) == aligned(rows) == "    first  second\nlr    0.1    0.25"


# ------------------------------------------------------------------ dry run


def test_a_dry_run_says_what_the_run_then_has(
    run: Run, flags: Flags, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("train", "--data", text_file, *flags(steps=6))
    code, out, err = run(*words, "--dry-run")
    assert (code, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    found = lines_of(out)
    assert run(*words)[0] == 0
    trained = RunFolder(Path("runs/little-quick"))
    info, records = trained.read_json("run.json"), trained.records("metrics.jsonl")
    assert found["Model"] == f"{info['parameters']:,} parameters, vocabulary of 257 tokens"
    assert found["Tokens"].startswith(
        f"{records[-1]['tokens']:,}, {records[-1]['tokens'] / info['data']['train']['tokens']:,.2f} "
    )
    assert found["Folder"] == str(trained.path)
    assert re.match(r"about [\d.]+ MB of [\d.]+ GB: ", found["Memory"])
    assert "GFLOP" in found["Operations"]
    assert re.match(r"about [\d.]+ s with 2 threads of this machine, [\d.]+ s for a step", found["Time"])


def test_a_dry_run_of_a_resumed_run_says_what_is_left(run: Run, trained: Path) -> None:
    before = content(trained)
    code, out, err = run("train", "--out", trained, "--resume", "--steps", 20, "--lr", 0.5, "--dry-run")
    assert (code, err) == (0, "")
    assert lines_of(out)["Steps"] == f"12 left of 20: {trained} has completed 8, of 4 x 16 tokens"
    assert lines_of(out)["Tokens"].startswith(f"{12 * 4 * 16}, ")
    assert re.search("From step 9 on: .*lr 0.5 instead of 0.01", out)
    assert content(trained) == before


def test_a_dry_run_refuses_what_training_refuses(
    run: Run, flags: Flags, trained: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    words = ("train", "--data", text_file, "--dry-run", *flags(steps=6))
    small = ("train", "--data", text_file, "--dry-run", *flags(tokenizer="char"))
    large = ("train", "--data", text_file, "--dry-run", *flags(batch_size=10**8))
    refused = [
        ((*words, "--out", trained), f"{trained} already exists: "),
        ((*words, "--out", trained, "--resume", "--d-ff", 5), "d_ff is 5, but the run was trained with 48"),
        ((*words, "--out", new, "--resume"), f"{new} cannot be resumed: "),
        ((*small, "--out", new, "--prompt", "日本"), "prompt is '日本', but "),
        ((*large, "--out", new, "--micro-batch", 10**7), "training "),
        (("train", "--data", tmp_path / "none.txt", "--dry-run"), ""),
    ]
    before = content(trained)
    for arguments, message in refused:
        code, _, err = run(*arguments)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert err.startswith(f"minigpt: {message}")
    monkeypatch.setattr(estimate, "machine_memory", lambda: 1000)
    assert "takes at least" in run(*words, "--out", new)[2]
    assert content(trained) == before
    assert not new.exists()


def test_a_dry_run_checks_the_initial_model(run: Run, directory: Path, text_file: Path, tmp_path: Path) -> None:
    words = ("train", "--init", directory, "--data", text_file, "--tokenizer", "bytes", "--dry-run", "--out", tmp_path / "new")
    assert run(*words)[::2] == (2, f"minigpt: the tokenizer has 257 ids, but the model in {directory} has 37\n")
