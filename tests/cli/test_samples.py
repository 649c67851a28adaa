"""The samples at the end of `minigpt train`, and the setting that switches them off."""

from collections.abc import Callable
from pathlib import Path

import pytest

from minigpt.runs.folder import RunFolder

Run = Callable[..., tuple[int, str, str]]
Flags = Callable[..., list[object]]


@pytest.mark.parametrize(
    "steps, samples, number",
    [(19, None, 0), (20, None, 5), (20, 0, 0), (3, 2, 2)],
    ids=["a short run", "default", "switched off", "a number for a short run"],
)
def test_the_number_of_final_samples(
    run: Run,
    flags: Flags,
    text_file: Path,
    tmp_path: Path,
    short_samples: None,
    steps: int,
    samples: int | None,
    number: int,
) -> None:
    words = flags(steps=steps, samples=samples, eval_every=50, checkpoint_every=50)
    code, out, err = run("train", "--data", text_file, *words, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert out.count(f"Sample after step {steps}:") == number
    records = RunFolder(tmp_path / "run").records("samples.jsonl")
    assert [(record["step"], record["seed"]) for record in records] == [(steps, seed) for seed in range(number)]


def test_samples_during_the_training_remain_without_those_at_the_end(
    run: Run, flags: Flags, text_file: Path, tmp_path: Path, short_samples: None
) -> None:
    words = flags(steps=4, samples=0, sample_every=2)
    code, out, _ = run("train", "--data", text_file, *words, "--out", tmp_path / "run")
    assert code == 0 and "Sample before training:" not in out and "Sample after step 2:" in out
    assert [record["step"] for record in RunFolder(tmp_path / "run").records("samples.jsonl")] == [2]


def test_a_negative_number_of_samples_is_refused(run: Run, flags: Flags, text_file: Path, tmp_path: Path) -> None:
    code, _, err = run("train", "--data", text_file, *flags(samples=-1), "--out", tmp_path / "run")
    assert (code, err) == (2, "minigpt: samples is -1, but must be 0 or more\n")
