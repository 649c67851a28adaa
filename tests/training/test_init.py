"""Training from a model (--init): its weights, its configuration, its tokenizer."""

import io
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from minigpt import GPT, ModelConfig, load
from minigpt.data.batches import batch
from minigpt.data.token_files import prepare
from minigpt.data.tokenizer import Tokenizer
from minigpt.interop.hugging_face import export
from minigpt.interop.load import import_directory
from minigpt.np.config import LLAMA
from minigpt.runs.folder import RunFolder
from minigpt.training.initial_model import initial_model
from minigpt.training.presets import PRESET_TRAINING, QUICK, RECIPES
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings
from minigpt.training.train import train
from minigpt.training.trainer import Trainer

TrainTiny = Callable[..., str]
FineTune = Callable[..., Settings]
TRAINING: dict[str, Any] = {"batch_size": 4, "steps": 2, "threads": 2, "eval_tokens": 100, "sample_every": 0}


@pytest.fixture
def fine_tune(text_file: Path) -> FineTune:
    """`fine_tune(init, out, lr=..., ...)` trains a model for two steps, and returns the settings."""

    def run(init: Path, out: Path, *, config: Path | None = None, resume: bool = False, **given: Any) -> Settings:
        given = {"data": (str(text_file),), "init": str(init), **TRAINING, **given}
        settings = resolve(given, config, resume)
        train(settings, out, console=Console(file=io.StringIO()), command="minigpt train", version="0.0.0", resume=resume)
        return settings

    return run


@pytest.fixture(scope="module")
def llama_run(tmp_path_factory: pytest.TempPathFactory, train_tiny: TrainTiny) -> Path:
    """A run of a Llama with widths of its own."""
    path = tmp_path_factory.mktemp("runs") / "llama"
    form = LLAMA | {"tied": False, "norm_epsilon": 1e-3, "rope_theta": 300.0}
    train_tiny(path, steps=4, **form, n_kv_heads=1, d_head=6, d_ff=20)
    return path


@pytest.fixture(scope="module")
def gpt2_run(tmp_path_factory: pytest.TempPathFactory, train_tiny: TrainTiny) -> Path:
    """A run with the recipe gpt2."""
    path = tmp_path_factory.mktemp("runs") / "gpt2"
    train_tiny(path, **{**RECIPES["gpt2"], "recipe": "gpt2", "lr": 1e-2, "dropout": 0.1})
    return path


@pytest.fixture(params=["default", "gpt2", "llama"])
def base(request: pytest.FixtureRequest, tiny_run: Path, gpt2_run: Path, llama_run: Path) -> Path:
    return {"default": tiny_run, "gpt2": gpt2_run, "llama": llama_run}[request.param]


def first_loss(out: Path) -> float:
    return float(RunFolder(out).records("metrics.jsonl")[0]["loss"])


def loss_of(model: GPT, settings: Settings, tokenizer: Path, T: int) -> float:
    """The loss of a model on the batch of step 1."""
    data = prepare(settings.data, tokenizer=str(tokenizer))
    return model.loss(*batch(data.train.tokens, settings.seed, 1, 4, T))


# --------------------------------------------------------------- weights


@pytest.mark.parametrize("kind", ["run", "checkpoint", "directory", "imported run"])
def test_training_starts_from_the_weights_of_the_model(base: Path, fine_tune: FineTune, tmp_path: Path, kind: str) -> None:
    model, tokenizer = load(base)
    init = base
    if kind == "checkpoint":
        init = next((base / "checkpoints").glob("*"))
        model, _ = load(init)
    elif kind != "run":
        init = tmp_path / "directory"
        export(model, tokenizer, init)
    if kind == "imported run":
        import_directory(init, RunFolder(tmp_path / "imported"), "")
        init = tmp_path / "imported"
    settings = fine_tune(init, tmp_path / "out")
    assert first_loss(tmp_path / "out") == pytest.approx(loss_of(model, settings, base / "tokenizer.json", 16), rel=1e-5)
    after, its_tokenizer = load(tmp_path / "out")
    assert its_tokenizer and tokenizer and its_tokenizer.fingerprint == tokenizer.fingerprint
    assert asdict(after.config) == asdict(model.config) | {"dropout": 0.0}
    moved = np.abs(after.parameters.flat - model.parameters.flat)
    assert 0 < moved.max() < 0.01  # two small steps


def test_a_smaller_context_uses_the_first_positions(base: Path, fine_tune: FineTune, tmp_path: Path) -> None:
    settings = fine_tune(base, tmp_path / "out", context_length=8, dropout=0.0, lr=1e-9, weight_decay=0.0)
    model = load(base)[0]
    assert first_loss(tmp_path / "out") == pytest.approx(loss_of(model, settings, base / "tokenizer.json", 8), rel=1e-5)
    after = load(tmp_path / "out")[0]
    assert (after.config.context_length, model.config.context_length) == (8, 16)
    for name, array in after.parameters.items():
        np.testing.assert_allclose(array, model.parameters[name][: len(array)], atol=1e-7)


def test_a_larger_context_requires_rope(gpt2_run: Path, llama_run: Path, fine_tune: FineTune, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="context_length is 32, but the initial model has only 16 learned positions"):
        fine_tune(gpt2_run, tmp_path / "none", context_length=32)
    assert not (tmp_path / "none").exists()
    settings = fine_tune(llama_run, tmp_path / "out", context_length=32)
    model = load(llama_run)[0]
    longer = GPT(ModelConfig(**asdict(model.config) | {"context_length": 32}), parameters=model.parameters)
    assert first_loss(tmp_path / "out") == pytest.approx(loss_of(longer, settings, llama_run / "tokenizer.json", 32), rel=1e-5)
    assert load(tmp_path / "out")[0].config.context_length == 32


@pytest.mark.parametrize("zero_init", [True, False])
def test_a_new_model_has_output_projections_of_zero_if_the_setting_says_so(zero_init: bool) -> None:
    settings = Settings(d_model=16, n_layers=2, n_heads=2, vocab_size=30, zero_init=zero_init)
    outputs = [
        array for name, array in initial_model(settings, 30).parameters.items() if name.endswith(("out.weight", "down.weight"))
    ]
    assert [bool(array.any()) for array in outputs] == [not zero_init] * 4


def test_a_new_model_has_embeddings_with_the_standard_deviation_of_the_settings() -> None:
    settings = Settings(d_model=64, n_layers=1, n_heads=2, vocab_size=300, embedding_std=0.7)
    p = initial_model(settings, 300).parameters
    assert p["token_embedding"].std() == pytest.approx(0.7, rel=0.05)
    assert p["head"].std() == pytest.approx(0.02, rel=0.05)


def test_the_seed_does_not_change_the_initial_weights_and_dropout_can_be_set(
    tiny_run: Path, fine_tune: FineTune, tmp_path: Path
) -> None:
    fine_tune(tiny_run, tmp_path / "out", seed=5, dropout=0.4)
    assert load(tmp_path / "out")[0].config.dropout == 0.4
    assert np.abs(load(tmp_path / "out")[0].parameters.flat - load(tiny_run)[0].parameters.flat).max() < 0.01


# -------------------------------------------------------- configuration


def test_the_configuration_of_the_model_takes_precedence_over_preset_and_file(llama_run: Path, tmp_path: Path) -> None:
    Settings(n_layers=7, norm="layer", context_length=99, d_ff=5).save(tmp_path / "c.toml")
    for given in ({}, {"preset": "base"}):
        settings = resolve({"init": str(llama_run), **given}, tmp_path / "c.toml")
        assert settings.model(257) == load(llama_run)[0].config


def test_a_preset_takes_precedence_over_a_file_as_without_init(llama_run: Path, tmp_path: Path) -> None:
    Settings(batch_size=5, steps=7).save(tmp_path / "c.toml")
    given = {"preset": "base", "init": str(llama_run)}
    without = resolve({"preset": "base"}, tmp_path / "c.toml")
    with_init = resolve(given, tmp_path / "c.toml")
    assert (with_init.batch_size, with_init.steps) == (without.batch_size, without.steps)
    assert with_init.batch_size == PRESET_TRAINING["base"]["batch_size"]


CONTRADICTIONS: dict[str, Any] = {
    **{"n_layers": 3, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "d_head": 8, "d_ff": 21, "vocab_size": 300},
    **{"activation": "gelu", "positions": "learned", "norm": "layer", "norm_placement": "post", "rope_pairing": "interleaved"},
    **{"qk_norm": True, "attention_bias": True, "feed_forward_bias": True, "tied": True, "norm_epsilon": 1e-5, "rope_theta": 1e4},
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_another_configuration_is_refused_by_name(llama_run: Path, name: str) -> None:
    value, own = CONTRADICTIONS[name], getattr(load(llama_run)[0].config, name)
    with pytest.raises(ValueError) as refusal:
        resolve({"init": str(llama_run), name: value})
    assert str(refusal.value) == f"{name} is {value!r}, but the model in {llama_run} has {own!r}"
    assert getattr(resolve({"init": str(llama_run), name: own}), name) == own  # the same value is accepted


def test_the_default_learning_rate_is_that_of_fine_tuning(tiny_run: Path) -> None:
    assert resolve({"init": str(tiny_run)}).lr == 3e-4
    assert resolve({"init": str(tiny_run), "preset": "base"}).lr == 3e-4
    assert resolve({"init": str(tiny_run), "lr": 0.5}).lr == 0.5
    assert resolve({}).lr == QUICK["lr"]


def test_an_invalid_init_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint"):
        resolve({"init": str(tmp_path)})
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(ValueError, match="model_type is 'bert'"):
        resolve({"init": str(tmp_path)})


# ------------------------------------------------------------- tokenizer


def without_tokenizer(folder: Path, vocab_size: int) -> Path:
    export(GPT(ModelConfig(vocab_size=vocab_size, context_length=16, d_model=8, n_layers=1, n_heads=2)), None, folder)
    return folder


def test_a_model_without_a_tokenizer_requires_one(fine_tune: FineTune, tmp_path: Path) -> None:
    init = without_tokenizer(tmp_path / "init", vocab_size=257)
    with pytest.raises(ValueError, match=r"init has no tokenizer: give one with --tokenizer"):
        fine_tune(init, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fine_tune(init, tmp_path / "out", tokenizer="bytes")
    tokenizer = load(tmp_path / "out")[1]
    assert tokenizer and tokenizer.fingerprint == Tokenizer.bytes().fingerprint


def test_a_model_may_have_more_ids_than_its_tokenizer(fine_tune: FineTune, tmp_path: Path) -> None:
    """The vocabulary size of a model is often rounded up to a multiple of 64."""
    init = without_tokenizer(tmp_path / "init", vocab_size=320)
    fine_tune(init, tmp_path / "out", tokenizer="bytes")
    model, tokenizer = load(tmp_path / "out")
    assert tokenizer and (model.config.vocab_size, tokenizer.vocab_size) == (320, 257)
    fine_tune(init, tmp_path / "out", resume=True, config=tmp_path / "out" / "config.toml", tokenizer="bytes", steps=3)
    assert len(RunFolder(tmp_path / "out").records("metrics.jsonl")) == 3


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(fine_tune: FineTune, tmp_path: Path) -> None:
    init = without_tokenizer(tmp_path / "init", vocab_size=256)
    with pytest.raises(ValueError, match=r"the tokenizer has 257 ids, but the model in .*init has 256"):
        fine_tune(init, tmp_path / "out", tokenizer="bytes")
    assert not (tmp_path / "out").exists()


def test_the_special_tokens_of_the_tokenizer_are_used(fine_tune: FineTune, tmp_path: Path, text_file: Path) -> None:
    """In this directory, texts start with <s> and end with </s>."""
    from tokenizers import Tokenizer as Backend

    Tokenizer.bytes().save(tmp_path / "bytes.json")
    backend = Backend.from_file(str(tmp_path / "bytes.json"))
    backend.add_special_tokens(["<s>", "</s>"])
    tokenizer = Tokenizer(backend, "<s>", "</s>")
    config = ModelConfig(vocab_size=259, context_length=16, d_model=8, n_layers=1, n_heads=2)
    export(GPT(config), tokenizer, tmp_path / "init")
    fine_tune(tmp_path / "init", tmp_path / "out")
    its = load(tmp_path / "out")[1]
    assert its and (its.begin_of_text, its.end_of_text) == (257, 258)
    tokens = prepare((str(text_file),), tokenizer=str(tmp_path / "init")).train.tokens
    assert (tokens == 258).sum() == 57 and 256 not in tokens


# ---------------------------------------------------------- stop and resume


def test_a_run_can_be_resumed_without_its_init(
    base: Path, fine_tune: FineTune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = tmp_path / "init"
    export(*load(base), init)
    given = {"steps": 4, "dropout": 0.1, "context_length": 8}
    fine_tune(init, tmp_path / "once", **given)
    step = Trainer.step

    def interrupted(trainer: Trainer) -> dict[str, Any]:
        if trainer.state.step == 1:
            signal.raise_signal(signal.SIGINT)
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", interrupted)
    fine_tune(init, tmp_path / "twice", **given)
    assert len(RunFolder(tmp_path / "twice").records("metrics.jsonl")) == 2
    monkeypatch.setattr(Trainer, "step", step)
    shutil.rmtree(init)
    settings = resolve({}, tmp_path / "twice" / "config.toml", resume=True)
    console = Console(file=io.StringIO())
    train(settings, tmp_path / "twice", console=console, command="", version="", resume=True)
    once, twice = (load(tmp_path / name)[0] for name in ("once", "twice"))
    np.testing.assert_array_equal(once.parameters.flat, twice.parameters.flat)
    assert once.config == twice.config
    losses = [[record["loss"] for record in RunFolder(tmp_path / name).records("metrics.jsonl")] for name in ("once", "twice")]
    assert losses[0] == losses[1]


def test_config_toml_contains_the_whole_configuration(base: Path, fine_tune: FineTune, tmp_path: Path) -> None:
    fine_tune(base, tmp_path / "out")
    saved, config = read_settings(tmp_path / "out" / "config.toml"), asdict(load(tmp_path / "out")[0].config)
    assert {name: saved[name] for name in config} == config
    assert (saved["init"], saved["lr"]) == (str(base), 3e-4)


def test_the_config_of_a_fine_tuned_run_repeats_it(base: Path, fine_tune: FineTune, tmp_path: Path) -> None:
    fine_tune(base, tmp_path / "once", context_length=8, lr=1e-3)
    fine_tune(base, tmp_path / "again", config=tmp_path / "once" / "config.toml")
    once, again = (load(tmp_path / name)[0] for name in ("once", "again"))
    assert once.config == again.config
    np.testing.assert_array_equal(once.parameters.flat, again.parameters.flat)
