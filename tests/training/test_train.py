"""Training runs of a tiny model: learning, files, interruption and resumption bit for bit, errors."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import load
from minigpt.data.batches import windows
from minigpt.data.tokenizer import Tokenizer
from minigpt.runs.checkpoint import checkpoints, newest_checkpoint
from minigpt.runs.folder import RunFolder
from minigpt.training import trainer
from minigpt.training.evaluate import Evaluation
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.presets import RECIPES
from minigpt.training.settings_file import read_settings
from minigpt.training.trainer import NonFiniteError, Trainer

TrainTiny = Callable[..., str]
FIELDS = ["step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s", "elapsed_s"]
TIMES = ("tokens_per_s", "elapsed_s")


def metrics(path: Path) -> list[dict[str, Any]]:
    return RunFolder(path).records("metrics.jsonl")


def untimed(path: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in TIMES} for record in metrics(path)]


def weights(path: Path) -> np.ndarray:
    return load(path)[0].parameters.flat


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`interrupt_at(step)` raises SIGINT in that step; 0 means never."""
    step = Trainer.step

    def at(when: int) -> None:
        def interrupted(trainer: Trainer) -> dict[str, Any]:
            if trainer.state.step + 1 == when:
                signal.raise_signal(signal.SIGINT)
            return step(trainer)

        monkeypatch.setattr(Trainer, "step", interrupted)

    return at


# ----------------------------------------------------------- a complete run


def test_the_loss_falls(tiny_run: Path) -> None:
    losses = [record["loss"] for record in metrics(tiny_run)]
    assert losses[0] == pytest.approx(np.log(257), abs=0.1)
    assert np.mean(losses[-5:]) < losses[0] - 2
    validated = [record["val_loss"] for record in metrics(tiny_run) if "val_loss" in record]
    assert validated == sorted(validated, reverse=True)


def test_a_run_writes_its_files(tiny_run: Path) -> None:
    files = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    assert files >= {"config.toml", "tokenizer.json", "run.json", "metrics.jsonl", "samples.jsonl"}
    assert "checkpoints/step-000060/model.safetensors" in files
    assert not [name for name in files if "/." in name or name.startswith(".")]


def test_each_step_is_one_line_of_metrics(tiny_run: Path) -> None:
    records = metrics(tiny_run)
    assert [record["step"] for record in records] == list(range(1, 61))
    for record in records:
        measured = ["norms", "val_loss", "val_bits_per_byte"] if record["step"] % 20 == 0 else []
        assert list(dict.fromkeys(name.split(".")[0] for name in record)) == [*FIELDS, *measured]
        assert record["tokens"] == record["step"] * 4 * 16
    elapsed = [record["elapsed_s"] for record in records]
    assert elapsed == sorted(elapsed)
    assert max(record["lr"] for record in records) == 1e-2


def test_samples_are_generated_during_training_and_at_the_end(tiny_run: Path) -> None:
    samples = RunFolder(tiny_run).records("samples.jsonl")
    assert [(sample["step"], sample["seed"]) for sample in samples] == [(0, 0), (30, 0), *((60, seed) for seed in range(5))]
    fields = {"step", "prompt", "seed", "temperature", "top_k", "text", "pieces", "surprises"}
    assert all(set(sample) == fields and "".join(sample["pieces"]) == sample["text"] for sample in samples)


def test_run_json_describes_data_and_machine(tiny_run: Path) -> None:
    metadata = json.loads((tiny_run / "run.json").read_text(encoding="utf-8"))
    assert metadata["parameters"] == weights(tiny_run).size
    assert metadata["data"]["name"] == "little.txt"
    assert (metadata["data"]["train"]["documents"], metadata["data"]["valid"]["documents"]) == (57, 3)
    assert metadata["machine"]["threads"] == 2
    assert metadata["version"] == "0.0.0"


def test_validation_is_the_loss_of_the_model_on_the_held_out_text(tiny_run: Path, text_file: Path) -> None:
    model, tokenizer = load(tiny_run)
    held_out = text_file.read_text(encoding="utf-8").split("\n<|endoftext|>\n")[1::20]
    ids = np.array([id for text in held_out for id in (*tokenizer.encode(text), tokenizer.end_of_text)])
    losses = [(model.loss(t, y), y.size) for t, y in windows(ids, 16, 1, limit=200)]
    expected = sum(loss * size for loss, size in losses) / sum(size for _, size in losses)
    last = metrics(tiny_run)[-1]
    assert last["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert last["val_bits_per_byte"] == pytest.approx(
        expected / np.log(2) * len(ids) / sum(len(text.encode()) for text in held_out), rel=1e-5
    )


def test_the_same_settings_give_the_same_bits(tmp_path: Path, train_tiny: TrainTiny) -> None:
    for name in ("one", "two"):
        train_tiny(tmp_path / name, dropout=0.2)
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    np.testing.assert_array_equal(weights(tmp_path / "one"), weights(tmp_path / "two"))
    train_tiny(tmp_path / "three", dropout=0.2, seed=1)
    assert not np.array_equal(weights(tmp_path / "one"), weights(tmp_path / "three"))


def test_without_a_terminal_plain_lines_are_printed(tmp_path: Path, train_tiny: TrainTiny) -> None:
    lines = train_tiny(tmp_path / "run", prompt="Tom").splitlines()
    assert any(line.startswith("Data: little.txt; ") for line in lines)
    assert any(line.startswith("step 1/8  ") and "loss 5." in line for line in lines)
    assert any(line.startswith("step 8/8  in 0:0") and "validation" in line for line in lines)
    assert sum(line == "Sample after step 8:" for line in lines) == 5
    assert sum(line.startswith("Tom") for line in lines) >= 5
    assert not any("\x1b" in line for line in lines)


# ------------------------------------------------------ stop and resume


@pytest.mark.parametrize("stop_at", [4, 5])  # at a checkpoint, and between two
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, train_tiny: TrainTiny, interrupt_at: Callable[[int], None], stop_at: int
) -> None:
    train_tiny(tmp_path / "once", dropout=0.2)
    interrupt_at(stop_at)
    train_tiny(tmp_path / "twice", dropout=0.2)
    assert newest_checkpoint(tmp_path / "twice").name == f"step-{stop_at:06d}"
    assert len(metrics(tmp_path / "twice")) == stop_at
    interrupt_at(0)
    printed = train_tiny(tmp_path / "twice", dropout=0.2, resume=True)
    assert f"Resuming after step {stop_at}." in printed
    assert untimed(tmp_path / "twice") == untimed(tmp_path / "once")
    np.testing.assert_array_equal(weights(tmp_path / "twice"), weights(tmp_path / "once"))


def test_after_a_crash_the_steps_since_the_checkpoint_are_repeated(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tiny(tmp_path / "once")
    step = Trainer.step

    def crash(trainer: Trainer) -> dict[str, Any]:
        if trainer.state.step == 6:
            raise RuntimeError("power cut")
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", crash)
    with pytest.raises(RuntimeError):
        train_tiny(tmp_path / "twice")
    with (tmp_path / "twice" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "los')
    monkeypatch.setattr(Trainer, "step", step)
    train_tiny(tmp_path / "twice", resume=True)
    assert untimed(tmp_path / "twice") == untimed(tmp_path / "once")
    np.testing.assert_array_equal(weights(tmp_path / "twice"), weights(tmp_path / "once"))


def test_a_run_without_a_checkpoint_starts_again(tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    train_tiny(tmp_path / "once")
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda trainer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_tiny(tmp_path / "twice")
    monkeypatch.setattr(Trainer, "step", step)
    assert "has no checkpoint yet" in train_tiny(tmp_path / "twice", resume=True)
    np.testing.assert_array_equal(weights(tmp_path / "twice"), weights(tmp_path / "once"))


def test_a_completed_run_can_be_continued_with_more_steps(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run")
    samples = RunFolder(tmp_path / "run").records("samples.jsonl")
    assert "has completed all of its 8 steps; to continue, increase --steps" in train_tiny(tmp_path / "run", resume=True)
    assert RunFolder(tmp_path / "run").records("samples.jsonl") == samples
    with pytest.raises(ValueError, match="has completed 8 steps, but steps is 7"):
        train_tiny(tmp_path / "run", steps=7, resume=True)
    train_tiny(tmp_path / "run", steps=12, resume=True)
    assert [record["step"] for record in metrics(tmp_path / "run")] == list(range(1, 13))


def test_resuming_with_another_model_or_tokenizer_is_refused(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(ValueError, match=r"^n_layers is 1, but the run was trained with 2: a resumed run keeps"):
        train_tiny(tmp_path / "run", n_layers=1, steps=12, resume=True)
    with pytest.raises(ValueError, match="was trained on other data"):
        train_tiny(tmp_path / "run", tokenizer="char", steps=12, resume=True)
    with pytest.raises(ValueError, match=r"cannot be resumed: it has no config\.toml"):
        train_tiny(tmp_path / "nothing", resume=True)
    np.testing.assert_array_equal(weights(tmp_path / "run"), before)
    assert len(metrics(tmp_path / "run")) == 8


def test_a_run_is_replaced_only_with_overwrite(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run")
    with pytest.raises(ValueError, match="already exists"):
        train_tiny(tmp_path / "run", steps=2)
    assert len(metrics(tmp_path / "run")) == 8
    train_tiny(tmp_path / "run", steps=2, overwrite=True)
    assert len(metrics(tmp_path / "run")) == 2


def test_a_run_that_cannot_start_does_not_delete_the_old_one(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run")
    for wrong in ({"data": ("missing.txt",)}, {"d_model": 15, "n_heads": 2}, {"val_data": "missing.txt"}):
        with pytest.raises(ValueError):
            train_tiny(tmp_path / "run", overwrite=True, **wrong)
    assert len(metrics(tmp_path / "run")) == 8


# ------------------------------------------------------------ not finite


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_stops_before_the_update(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    poisoned = "blocks.1.attention.out.weight"
    healthy, updates = DataParallel.sum_gradients, []
    monkeypatch.setattr(DataParallel, "update", lambda *arguments: updates.append(arguments[2]))

    def poison(data_parallel: DataParallel) -> float:
        if len(updates) == 5:
            data_parallel.grads[poisoned][2, 3] = wrong
        return healthy(data_parallel)

    monkeypatch.setattr(DataParallel, "sum_gradients", poison)
    with pytest.raises(NonFiniteError, match=rf"step 6: the gradient of {poisoned} is not finite .*; a smaller --lr may help"):
        train_tiny(tmp_path / "run")
    assert updates == [1, 2, 3, 4, 5]
    assert newest_checkpoint(tmp_path / "run").name == "step-000004"
    assert np.isfinite(weights(tmp_path / "run")).all()
    assert [record["step"] for record in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("rates", [{"head_lr": 3e38}, {**RECIPES["gpt2"], "recipe": "gpt2", "lr": 1e30}], ids=["default", "gpt2"])
def test_a_diverging_run_is_an_error(tmp_path: Path, train_tiny: TrainTiny, rates: dict[str, Any]) -> None:
    with pytest.raises(NonFiniteError, match=r"^step \d+: .* is not finite"):
        train_tiny(tmp_path / "run", **{**rates, "clip": 0.0, "weight_decay": 0.0, "warmup": 1})


# ------------------------------------------------------------------ data


def test_a_short_text_reduces_the_context_only_if_allowed(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from minigpt.training.resolve import resolve
    from minigpt.training.settings import Settings
    from minigpt.training.train import train

    text = tmp_path / "short.txt"
    text.write_text("\n<|endoftext|>\n".join(["Tom saw a cat.", "Mia saw a bun.", "Tom saw a bun."]), encoding="utf-8")
    settings = Settings(data=(str(text),), tokenizer="bytes", d_model=16, n_heads=2, n_layers=1, steps=2, batch_size=2)
    printed = io.StringIO()
    arguments = {"console": Console(file=printed), "command": "", "version": ""}
    with pytest.raises(ValueError, match="the split has 30 tokens, but one window of context_length 256"):
        train(settings, tmp_path / "strict", **arguments)
    train(settings, tmp_path / "run", allow_smaller_context=True, **arguments)
    assert "has only 30 tokens: context_length is 8 instead of 256" in printed.getvalue()
    assert resolve({}, tmp_path / "run" / "config.toml").context_length == 8
    assert load(tmp_path / "run")[0].config.context_length == 8


def test_the_checkpoint_with_the_best_validation_loss_is_kept(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([4.0, 3.0, 5.0, 6.0])
    monkeypatch.setattr(trainer, "evaluate", lambda *_: Evaluation(next(losses), 1.0, 1.0, 0.5, 10))
    train_tiny(tmp_path / "run", steps=8, eval_every=2, checkpoint_every=100)
    names = [path.name for path in checkpoints(RunFolder(tmp_path / "run"))]
    assert names == ["step-000004", "step-000008"]  # the best, and the newest


def test_a_validation_loss_that_is_not_finite_is_an_error(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([4.0, math.nan])
    monkeypatch.setattr(trainer, "evaluate", lambda *_: Evaluation(next(losses), 1.0, 1.0, 0.5, 10))
    with pytest.raises(trainer.NonFiniteError, match="step 8: the validation loss is not finite"):
        train_tiny(tmp_path / "run", steps=8, eval_every=4, checkpoint_every=100)
    assert [path.name for path in checkpoints(RunFolder(tmp_path / "run"))] == ["step-000004"]


def test_the_token_count_includes_those_of_another_batch_size(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", steps=4, batch_size=4)
    train_tiny(tmp_path / "run", resume=True, steps=6, batch_size=2)
    tokens = [record["tokens"] for record in RunFolder(tmp_path / "run").records("metrics.jsonl")]
    T = tokens[0] // 4
    assert tokens == [4 * T, 8 * T, 12 * T, 16 * T, 18 * T, 20 * T]


def test_config_toml_contains_no_automatic_values(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", threads=0)
    s = read_settings(tmp_path / "run" / "config.toml")
    assert min(s["threads"], s["warmup"], s["d_ff"]) >= 1
    assert s["vocab_size"] == Tokenizer.load(tmp_path / "run" / "tokenizer.json").vocab_size
