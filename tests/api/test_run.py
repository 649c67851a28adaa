"""Runs on disk: the attributes of Run, open_run, and how both follow a training that goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import interrupted_at
from matplotlib.figure import Figure

import minigpt
from minigpt.interop.load import import_directory
from minigpt.runs.folder import RunFolder
from minigpt.training.presets import RECIPES

TrainTiny = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder runs/ in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def test_a_run_has_the_columns_of_its_metrics_as_arrays(tiny_run: Path) -> None:
    run = minigpt.open_run(tiny_run)
    metrics = run.metrics
    records = RunFolder(tiny_run).records("metrics.jsonl")
    assert list(metrics)[:9] == [
        "step",
        "tokens",
        "loss",
        "lr",
        "grad_norm",
        "tokens_per_s",
        "elapsed_s",
        "val_loss",
        "val_bits_per_byte",
    ]
    assert all(column.shape == (60,) for column in metrics.values())
    assert (metrics["step"].dtype, metrics["tokens"].dtype, metrics["loss"].dtype) == (np.int64, np.int64, np.float64)
    assert metrics["step"].tolist() == list(range(1, 61))
    assert metrics["loss"].tolist() == [record["loss"] for record in records]
    assert metrics["step"][np.isfinite(metrics["val_loss"])].tolist() == [20, 40, 60]
    assert metrics["norms.blocks.0.update"][19] == records[19]["norms"]["blocks.0"]["update"]
    assert run.samples == RunFolder(tiny_run).records("samples.jsonl")


def test_the_other_attributes_of_a_run(tiny_run: Path) -> None:
    run = minigpt.open_run(str(tiny_run))
    assert (run.path, run.finished, run.settings.d_model) == (tiny_run, True, 16)
    assert run.tokenizer.decode(run.tokenizer.encode("Zoë")) == "Zoë"
    assert run.model is run.model and run.model.config.d_model == 16
    figure = run.plot()
    assert isinstance(figure, Figure) and len(figure.axes) >= 3


def test_samples_and_evaluations_are_those_of_the_command(tiny_run: Path, text_file: Path, command: Command) -> None:
    run = minigpt.open_run(tiny_run)
    _, out, _ = command(
        "sample", tiny_run, "--prompt", "Tom", "--seed", 3, "--max-new-tokens", 40, "--stop", " k", "--top-p", 0.9
    )
    assert run.sample("Tom", seed=3, max_new_tokens=40, stop=" k", top_p=0.9) + "\n" == out
    assert run.sample("Tom", seed=3, max_new_tokens=40, stop=[" k"], top_p=0.9) + "\n" == out
    _, out, _ = command("eval", tiny_run, "--data", text_file, "--json")
    expected = json.loads(out)
    assert run.evaluate(text_file).loss == run.evaluate([str(text_file)]).loss == expected["loss"]
    assert run.evaluate().loss == pytest.approx(run.metrics["val_loss"][-1], rel=0.05)  # it measured the first 200 tokens
    with pytest.raises(ValueError, match="data is 5, but must be storybook, "):
        run.evaluate(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data is empty, but must be files or folders of text"):
        run.evaluate([])


def test_a_run_is_found_by_its_name_and_remains_valid_in_another_folder(
    runs: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_run, runs / "mine")
    run = minigpt.open_run("mine")
    assert run.path == runs / "mine"
    assert repr(run).startswith(f"Run({str(Path('runs/mine'))!r}, 14,992 parameters")
    monkeypatch.chdir(runs)
    assert run.model.num_parameters() > 0 and run.metrics["step"].size == 60
    assert repr(run).startswith("Run('mine', 14,992 parameters")


def test_other_folders_are_refused_with_a_reason(runs: Path, tiny_run: Path) -> None:
    def error(where: str | Path) -> str:
        with pytest.raises(ValueError) as caught:
            minigpt.open_run(where)
        return str(caught.value)

    missing = "there is no run 'storys-quick', neither as a path nor in runs/; "
    assert error("storys-quick") == missing + "there is no run in runs yet, and `minigpt train` trains one"
    shutil.copytree(tiny_run, runs / "stories-quick")
    assert error("storys-quick") == f"{missing}did you mean {Path('runs/stories-quick')}?"
    assert error(" ") == "the name of the run is empty, but must be the folder of a run, or its name in runs/"
    assert error(runs) == f"{runs} is not the folder of a run: it has no run.json"
    checkpoint = tiny_run / "checkpoints" / "step-000060"
    opened_by = "which minigpt.load and GPT.from_pretrained open"
    assert error(checkpoint) == f"{checkpoint} is not the folder of a run: it has no run.json (it is a checkpoint, {opened_by})"
    minigpt.load(tiny_run)[0].save_pretrained(runs / "exported")
    assert error("exported").endswith(f"it has no run.json (it is a Hugging Face directory, {opened_by})")


def test_an_interrupted_run_is_that_of_its_newest_checkpoint(tmp_path: Path, train_tiny: TrainTiny) -> None:
    with interrupted_at(3):
        train_tiny(tmp_path / "run", threads=1)
    run = minigpt.open_run(tmp_path / "run")
    assert (run.metrics["step"].tolist(), run.finished) == ([1, 2, 3], False)
    assert np.isnan(run.metrics["val_loss"]).all()
    assert repr(run).endswith("step 3 of 8)")
    assert run.sample("Tom", max_new_tokens=2).startswith("Tom")
    assert isinstance(run.plot(), Figure)


def test_a_run_that_is_continued_shows_its_new_values(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `Run` that was opened before has the new model, too, and the same one until then."""
    monkeypatch.setattr("minigpt.api.train.write_report", lambda run: run)  # which takes longer than the training
    train_tiny(tmp_path / "run", steps=2, threads=1, samples=0)
    run = minigpt.open_run(tmp_path / "run")
    model, weights = run.model, run.model.parameters.flat.copy()
    assert run.model is model
    minigpt.train(out=run.path, resume=True, steps=3, quiet=True)
    fresh = minigpt.open_run(run.path)
    for opened in (run, fresh):
        assert (opened.metrics["step"].tolist(), opened.settings.steps, opened.finished) == ([1, 2, 3], 3, True)
        assert "step 3 of 3" in repr(opened)
    assert run.model is not model and np.array_equal(run.model.parameters.flat, fresh.model.parameters.flat)
    assert np.array_equal(model.parameters.flat, weights) and not np.array_equal(run.model.parameters.flat, weights)


def test_an_imported_run_has_a_model_and_no_metrics(tmp_path: Path, tiny_run: Path) -> None:
    model, tokenizer = minigpt.load(tiny_run)
    model.save_pretrained(tmp_path / "gpt", tokenizer)
    import_directory(tmp_path / "gpt", RunFolder(tmp_path / "run"), "0.0.0")
    run = minigpt.open_run(tmp_path / "run")
    assert repr(run).endswith("parameters, imported from 'gpt')")
    assert run.sample("Tom", max_new_tokens=3).startswith("Tom")
    assert (run.metrics["loss"].shape, run.samples, run.finished) == ((0,), [], False)
    for attribute in (lambda: run.settings, run.plot):
        with pytest.raises(ValueError, match=r"has no settings and no metrics \(config.toml\): it was imported"):
            attribute()
    with pytest.raises(ValueError, match=r"no validation text of its own: give a text with data$"):
        run.evaluate()
    (run.path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer \(tokenizer.json\)"):
        minigpt.open_run(run.path).tokenizer  # noqa: B018


def test_a_run_of_version_0_1_can_be_opened(tmp_path: Path, train_tiny: TrainTiny) -> None:
    path = tmp_path / "run"
    train_tiny(path, recipe="gpt2", sample_every=4, **RECIPES["gpt2"] | {"lr": 1e-3})
    config = (path / "config.toml").read_text(encoding="utf-8")
    new = ["field = ", "feed_forward_bias", "samples", "recipe", "optimizer", "embedding_lr", "head_lr", "vector_lr"]
    new += ["schedule", "decay", "zero_init", "embedding_std", "momentum", "muon_"]
    lines = [line for line in config.splitlines() if not line.startswith(tuple(new))]
    renamed = "\n".join(lines).replace("min_lr_ratio", "final_lr").replace("attention_bias", "bias")
    (path / "config.toml").write_text(renamed + "\n", encoding="utf-8")
    _without(path / "metrics.jsonl", "norms")
    _without(path / "samples.jsonl", "pieces", "surprises")
    run = minigpt.open_run(path)
    assert (run.settings.min_lr_ratio, run.settings.attention_bias, run.settings.field) == (0.1, True, "text")
    assert (run.settings.recipe, run.settings.optimizer, run.settings.schedule) == ("gpt2", "adamw", "cosine")
    assert "step 8 of 8" in repr(run)
    assert not any(name.startswith("norms") for name in run.metrics) and run.metrics["loss"].size == 8
    assert isinstance(run.plot(), Figure)
    assert "pieces" not in run.samples[0]


def test_a_damaged_run_still_has_a_repr(tmp_path: Path, tiny_run: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    run = minigpt.open_run(tmp_path / "run")
    (run.path / "metrics.jsonl").write_text("no json\n{}\n", encoding="utf-8")
    assert "cannot be read: " in repr(run) and "line 1" in repr(run)


def _without(path: Path, *names: str) -> None:
    """Remove values from the records in a file."""
    records: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [{name: value for name, value in record.items() if name not in names} for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prompt": 3}, "prompt is 3, but must be a string"),
        ({"prompt": ["a", "b"]}, r"prompt is \['a', 'b'\], but must be a string"),
        ({"max_new_tokens": "a"}, "max_new_tokens is 'a', but must be an integer"),
        ({"temp": 3}, "there is no sampling option 'temp'; the options are temperature, top_k"),
        ({"top_k": 0}, "top_k is 0, but must be at least 1"),
    ],
)
def test_invalid_arguments_of_sample_are_named(tiny_run: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minigpt.open_run(tiny_run).sample(**arguments)
