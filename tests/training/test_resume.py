"""A run that was stopped after any step and resumed gives the same bits as one that was not, and sees the same data anywhere."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.processes import wait_until
from helpers.runs import TINY_MODEL, content, interrupted_at, metrics, outcome

import minigpt
from minigpt import load
from minigpt.runs.checkpoint import checkpoints
from minigpt.runs.folder import RunFolder
from minigpt.training.changes import update_changes, without_undone
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.presets import RECIPES
from minigpt.training.recipe import optimizer
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings
from minigpt.training.trainer import Trainer

TrainTiny = Callable[..., str]
STEPS = 8
SETTINGS: dict[str, Any] = {
    "dropout": 0.2,
    "micro_batch": 1,
    "steps": STEPS,
    "eval_every": 3,
    "checkpoint_every": 4,
    "sample_every": 3,
}
POSIX = pytest.mark.skipif(os.name == "nt", reason="on Windows, SIGINT cannot be sent to a single process")

pytestmark = pytest.mark.usefixtures("short_samples")


@pytest.mark.parametrize("threads", [1, 2])
def test_stopped_after_any_step_a_resumed_run_gives_the_same_bits(tmp_path: Path, train_tiny: TrainTiny, threads: int) -> None:
    train_tiny(tmp_path / "once", threads=threads, **SETTINGS)
    expected = outcome(tmp_path / "once")
    for k in range(1, STEPS):
        run = tmp_path / str(k)
        with interrupted_at(k):
            train_tiny(run, threads=threads, **SETTINGS)
        assert [record["step"] for record in metrics(run)] == list(range(1, k + 1))
        assert checkpoints(RunFolder(run))[-1].name == f"step-{k:06d}"
        train_tiny(run, threads=threads, resume=True, **SETTINGS)
        assert outcome(run) == expected, k


@pytest.mark.parametrize("threads, recipe", [(1, "default"), (2, "default"), (2, "gpt2")])
def test_stopped_after_every_step_a_resumed_run_gives_the_same_bits(
    tmp_path: Path, train_tiny: TrainTiny, threads: int, recipe: str
) -> None:
    settings = {**RECIPES[recipe], "recipe": recipe, "threads": threads, **SETTINGS}
    train_tiny(tmp_path / "once", **settings)
    for k in range(1, STEPS + 1):
        with interrupted_at(k):
            train_tiny(tmp_path / "often", resume=k > 1, **settings)
    train_tiny(tmp_path / "often", resume=True, **settings)
    assert outcome(tmp_path / "often") == outcome(tmp_path / "once")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, train_tiny: TrainTiny) -> None:
    train_tiny(tmp_path / "run", **SETTINGS)
    before = content(tmp_path / "run")
    train_tiny(tmp_path / "run", resume=True, **SETTINGS)
    assert content(tmp_path / "run") == before


@POSIX
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_to_the_command_line_saves_exactly_what_was_trained(
    tmp_path: Path, train_tiny: TrainTiny, number: signal.Signals, code: int, threads: int
) -> None:
    never = 10**6
    settings = {**SETTINGS, "steps": never, "eval_every": never, "checkpoint_every": never, "sample_every": 0, "threads": threads}
    here, there = tmp_path / "here", tmp_path / "there"
    with interrupted_at(1):
        train_tiny(here, **settings)
    shutil.copytree(here, there)
    script = "from minigpt.cli import main; main()"
    command = [sys.executable, "-c", script, "train", "--out", str(there), "--resume"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            wait_until(lambda: process.poll() is not None or len(metrics(there)) >= 2, "no step was recorded")
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code
    assert err == "\nStopping after this step. Interrupt again (Ctrl-C) to stop immediately without saving.\n"
    assert "Stopped and saved. To resume: minigpt train " in out
    with interrupted_at(len(metrics(there)), number):
        train_tiny(here, resume=True, **settings)
    assert outcome(there) == outcome(here)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("micro_batch", [0, 1])
def test_on_another_number_of_threads_a_run_sees_the_same_data(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch, threads: int, micro_batch: int
) -> None:
    settings = {**SETTINGS, "micro_batch": micro_batch}
    seen: list[tuple[bytes, object]] = []
    original = DataParallel.loss_and_grads

    def spy(data_parallel: DataParallel, tokens: np.ndarray, targets: np.ndarray, drop: Any) -> Any:
        seen.append((tokens.tobytes() + targets.tobytes(), drop))
        return original(data_parallel, tokens, targets, drop)

    monkeypatch.setattr(DataParallel, "loss_and_grads", spy)
    train_tiny(tmp_path / "once", threads=2, **settings)
    expected, seen[:] = seen[:], []
    with interrupted_at(3):
        train_tiny(tmp_path / "twice", threads=2, **settings)
    train_tiny(tmp_path / "twice", threads=threads, resume=True, **settings)
    assert seen == expected
    for found, wanted in zip(metrics(tmp_path / "twice"), metrics(tmp_path / "once"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


def test_the_weights_alone_can_be_loaded_anywhere(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = load(tiny_run)
    weights = checkpoints(RunFolder(tiny_run))[-1] / "model.safetensors"
    shutil.copy(weights, tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, Path(".")):
        model, tokenizer = load(path)
        assert tokenizer is None
        assert model.config == expected.config
        np.testing.assert_array_equal(model.parameters.flat, expected.parameters.flat)
    np.testing.assert_array_equal(model.logits([[1, 2, 3]]), expected.logits([[1, 2, 3]]))


# ------------------------------------------------------------ other settings


def changes(run: Path) -> list[dict[str, Any]]:
    """Return the changes of settings that run.json records."""
    recorded: list[dict[str, Any]] = RunFolder(run).read_json("run.json").get("changes", [])
    return recorded


def change(step: int, **settings: list[Any]) -> dict[str, Any]:
    return {"step": step, "settings": settings}


def stopped_at(step: int, run: Path, train_tiny: TrainTiny, **settings: Any) -> str:
    """Train, or resume, until a signal in that step, which is completed and saved."""
    with interrupted_at(step):
        return train_tiny(run, **{**SETTINGS, **settings})


def test_changed_settings_are_printed_and_recorded(tmp_path: Path, train_tiny: TrainTiny) -> None:
    run = tmp_path / "run"
    assert "instead of" not in stopped_at(3, run, train_tiny)
    printed = stopped_at(5, run, train_tiny, resume=True, lr=0.02, on_nonfinite="skip", val_data=None, dropout=0.1)
    line = "From step 4 on: dropout 0.1 instead of 0.2, lr 0.02 instead of 0.01, on_nonfinite 'skip' instead of 'stop'.\n"
    assert f"Resuming after step 3.\n{line}" in printed
    first = change(3, dropout=[0.2, 0.1], lr=[0.01, 0.02], on_nonfinite=["stop", "skip"])
    assert changes(run) == [first]
    now: dict[str, Any] = {"dropout": 0.1, "lr": 0.02, "on_nonfinite": "skip", "warmup": 1}
    printed = stopped_at(6, run, train_tiny, resume=True, **now, steps=2000, prompt="Tom")
    assert "From step 6 on: steps 2,000 instead of 8, prompt 'Tom' instead of ''.\n" in printed
    assert changes(run) == [first, change(5, steps=[8, 2000], prompt=["", "Tom"])]
    assert "instead of" not in stopped_at(7, run, train_tiny, resume=True, **now, steps=2000, prompt="Tom")
    assert changes(run) == [first, change(5, steps=[8, 2000], prompt=["", "Tom"])]
    rates = [record["lr"] for record in metrics(run)]
    assert rates[3] > 1.5 * rates[2]  # the setting has an effect


def test_automatic_values_are_not_changes(tmp_path: Path, train_tiny: TrainTiny) -> None:
    """config.toml holds the resolved values of warmup, d_ff, vocab_size and threads."""
    run = tmp_path / "run"
    stopped_at(3, run, train_tiny, warmup=0, threads=0, d_ff=0, vocab_size=2048)
    before = RunFolder(run).read_json("run.json")
    for same in ({}, {"warmup": 1, "d_ff": 48, "n_kv_heads": 2, "d_head": 8, "vocab_size": 257}):
        settings = {"warmup": 0, "threads": 0, "d_ff": 0, "vocab_size": 2048, **same}
        assert "instead of" not in stopped_at(4, run, train_tiny, resume=True, **settings)
        assert RunFolder(run).read_json("run.json") == before


def test_a_change_moves_to_an_earlier_step_if_the_run_is_resumed_before_it(tmp_path: Path, train_tiny: TrainTiny) -> None:
    run = tmp_path / "run"
    stopped_at(3, run, train_tiny, keep=9)
    stopped_at(5, run, train_tiny, resume=True, keep=9, lr=0.02)
    stopped_at(6, run, train_tiny, resume=True, keep=9, lr=0.02, clip=0.5)
    assert changes(run) == [change(3, lr=[0.01, 0.02]), change(5, clip=[1.0, 0.5])]
    for step in (4, 5, 6):
        (run / "checkpoints" / f"step-00000{step}" / "state.json").unlink()
    with pytest.warns(UserWarning, match="trying the checkpoint before it"):
        printed = train_tiny(run, resume=True, **SETTINGS | {"keep": 9, "lr": 0.02, "clip": 0.5})
    assert "From step 4 on: lr 0.02 instead of 0.01, clip 0.5 instead of 1.0.\n" in printed
    assert changes(run) == [change(3, lr=[0.01, 0.02], clip=[1.0, 0.5])]


@pytest.mark.parametrize("again", [0.02, 0.01, 0.03], ids=["the same change", "no change", "another change"])
def test_a_kill_before_config_toml_neither_loses_nor_doubles_a_change(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch, again: float
) -> None:
    run = tmp_path / "run"
    stopped_at(3, run, train_tiny)

    def killed(settings: Settings, path: Path) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Settings, "save", killed)
        train_tiny(run, resume=True, **SETTINGS | {"lr": 0.02})
    assert changes(run) == [change(3, lr=[0.01, 0.02])]  # run.json is written first
    assert read_settings(run / "config.toml")["lr"] == 0.01
    train_tiny(run, resume=True, **SETTINGS | {"lr": again})
    assert changes(run) == ([] if again == 0.01 else [change(3, lr=[0.01, again])])


def test_the_changes_describe_every_step_whatever_interrupts_a_run() -> None:
    """Simulates runs: checkpoints that are lost, changes that are made and undone, and kills between the two files."""
    rng = random.Random(0)
    for _ in range(300):
        recorded: list[dict[str, Any]] = []
        config = first = {"lr": rng.randint(1, 3), "clip": rng.randint(1, 3)}
        trained: list[dict[str, int]] = []  # the settings of each step
        for _ in range(rng.randint(1, 8)):
            del trained[rng.randint(0, len(trained)) :]
            settings = {name: rng.choice([value, rng.randint(1, 3)]) for name, value in config.items()}
            recorded = update_changes(recorded, config, settings, len(trained))
            if rng.random() < 0.3:
                continue  # killed before config.toml was written
            config = settings
            if rng.random() < 0.3:
                continue  # killed before run.json was written again
            recorded = without_undone(recorded)
            trained += [settings] * rng.randint(0, 3)
        for step, expected in enumerate(trained, start=1):
            found = dict(first)
            for entry in recorded:
                if entry["step"] < step:
                    found |= {name: new for name, (_, new) in entry["settings"].items()}
            assert found == expected


def test_python_records_changes_too(tmp_path: Path, text_file: Path) -> None:
    settings: dict[str, Any] = {**TINY_MODEL, "data": text_file, "eval_every": 2, "sample_every": 0, "threads": 1, "quiet": True}
    minigpt.train(out=tmp_path / "run", steps=2, warmup=1, **settings)
    minigpt.train(out=tmp_path / "run", resume=True, steps=4, lr=0.02, quiet=True)
    assert changes(tmp_path / "run") == [change(2, steps=[2, 4], lr=[Settings.lr, 0.02])]


@pytest.mark.parametrize("invalid", [5, [5], [{"step": "3", "settings": {}}], [{"step": 3, "settings": {"lr": 1}}]], ids=str)
def test_a_run_json_with_invalid_changes_is_refused(tmp_path: Path, train_tiny: TrainTiny, invalid: object) -> None:
    stopped_at(1, tmp_path, train_tiny)
    run = RunFolder(tmp_path)
    run.write_json("run.json", run.read_json("run.json") | {"changes": invalid})
    with pytest.raises(ValueError, match=r'run\.json: changes is .*, but must be a list of \{"step": number'):
        train_tiny(tmp_path, resume=True, **SETTINGS)


REMEDY = "a resumed run keeps its architecture; start a new run, or leave the option out"


def test_another_architecture_is_refused_in_one_line_before_the_data_is_prepared(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_at(1, tmp_path, train_tiny)
    monkeypatch.setattr("minigpt.training.train.prepare_data", lambda *arguments: pytest.fail("prepared the data"))
    before = content(tmp_path)
    refused = {
        f"d_model is 32, but the run was trained with 16: {REMEDY}": {"d_model": 32, "n_layers": 3},
        f"context_length is 8 (preset nano), but the run was trained with 16: {REMEDY}": {"context_length": 8, "preset": "nano"},
        f"norm is 'layer', but the run was trained with 'rms': {REMEDY}": {"norm": "layer"},
        "optimizer is 'adamw', but the run was trained with 'muon': a resumed run keeps its optimizer; start a new run, or leave "
        "the option out": {"optimizer": "adamw"},
        "init is 'gpt2', but the run was not started from a model: a resumed run keeps its weights": {"init": "gpt2"},
    }
    for message, settings in refused.items():
        with pytest.raises(ValueError) as error:
            train_tiny(tmp_path, resume=True, **SETTINGS | settings)
        assert str(error.value) == message
    assert content(tmp_path) == before


def test_rates_and_the_schedule_can_be_changed(tmp_path: Path, train_tiny: TrainTiny) -> None:
    stopped_at(3, tmp_path, train_tiny)
    now: dict[str, Any] = {"embedding_lr": 0.5, "schedule": "cosine", "muon_iterations": 5, "momentum": 0.5}
    printed = stopped_at(4, tmp_path, train_tiny, resume=True, **now)
    assert "From step 4 on: " in printed
    old = Settings()
    assert changes(tmp_path) == [change(3, **{name: [getattr(old, name), value] for name, value in now.items()})]
    assert metrics(tmp_path)[3]["lr"] < metrics(tmp_path)[2]["lr"]


OLD_CONFIG = """
context_length = 16
d_model = 16
n_layers = 2
n_heads = 2
n_kv_heads = 0
d_head = 0
d_ff = 64
activation = "gelu"
positions = "learned"
rope_theta = 10000.0
rope_pairing = "half"
norm = "layer"
norm_placement = "pre"
qk_norm = false
attention_bias = true
feed_forward_bias = true
tied = true
dropout = 0.2
norm_epsilon = 1e-05
data = ["TEXT"]
field = "text"
tokenizer = "bytes"
vocab_size = 257
stories = 20000
preset = "quick"
batch_size = 4
micro_batch = 1
steps = 8
lr = 0.003
warmup = 1
min_lr_ratio = 0.1
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.99
clip = 1.0
seed = 0
threads = 2
watchdog = 600
eval_every = 3
eval_tokens = 200
checkpoint_every = 4
keep = 2
on_nonfinite = "stop"
sample_every = 3
samples = 5
prompt = ""
"""
"The file of a run of version 0.2, which had no recipes: AdamW with one learning rate, a cosine, and GPT-2's initial weights."


def test_a_run_of_version_0_2_is_resumed_as_it_was(tmp_path: Path, train_tiny: TrainTiny, text_file: Path) -> None:
    config = tmp_path / "old.toml"
    config.write_text(OLD_CONFIG.replace("TEXT", text_file.as_posix()), encoding="utf-8")
    settings = resolve({}, config, resume=True)
    values = {"recipe": "gpt2", "optimizer": "adamw", "lr": 0.003, "beta2": 0.99, "schedule": "cosine", "zero_init": False}
    assert {name: getattr(settings, name) for name in values} == values
    groups = optimizer(settings).groups
    assert {group.lr for group in groups.values()} == {0.003}
    assert {name: getattr(group.rule, "weight_decay", None) for name, group in groups.items()} == {
        "matrices": 0.1,
        "embedding": 0.1,
        "head": 0.1,
        "vectors": 0.0,
    }
    train_tiny(tmp_path / "once", **vars(settings))
    with interrupted_at(3):
        train_tiny(tmp_path / "run", **vars(settings))
    old = config.read_text(encoding="utf-8")
    (tmp_path / "run" / "config.toml").write_text(old, encoding="utf-8")
    resumed = resolve({}, tmp_path / "run" / "config.toml", resume=True)
    assert "instead of" not in train_tiny(tmp_path / "run", resume=True, **vars(resumed))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "once")
    with pytest.raises(ValueError, match=r"^optimizer is 'muon', but the run was trained with 'adamw'"):
        train_tiny(tmp_path / "run", resume=True, **vars(resumed) | {"optimizer": "muon"})


def test_a_run_without_a_checkpoint_can_change_its_architecture(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Trainer, "step", lambda trainer: 1 / 0)
        train_tiny(tmp_path, **SETTINGS)
    assert "From step 1 on: d_model 32 instead of 16, d_head 16 instead of 8" in train_tiny(
        tmp_path, resume=True, **SETTINGS | {"d_model": 32}
    )
    assert load(tmp_path)[0].config.d_model == 32


def test_a_checkpoint_with_another_configuration_is_named(tmp_path: Path, train_tiny: TrainTiny) -> None:
    stopped_at(1, tmp_path, train_tiny)
    config = tmp_path / "config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("n_layers = 2", "n_layers = 3"), encoding="utf-8")
    checkpoint = tmp_path / "checkpoints" / "step-000001"
    with pytest.raises(ValueError) as error:
        train_tiny(tmp_path, resume=True, **SETTINGS | {"n_layers": 3})
    assert str(error.value) == f"{config}: n_layers is 3, but the model in {checkpoint} has 2"


def test_an_initial_model_with_another_configuration_is_refused_in_one_line(
    tmp_path: Path, train_tiny: TrainTiny, tiny_run: Path
) -> None:
    with pytest.raises(ValueError) as error:
        train_tiny(tmp_path / "run", init=str(tiny_run), n_layers=3, tokenizer="bytes")
    assert str(error.value) == "n_layers is 3, but the initial model has 2: leave the option out"
