"""Settings: the precedence of their sources, files, old names, and invalid values."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from minigpt.interop.load import read_config
from minigpt.np.config import GPT2, LLAMA, PRESETS, QWEN3
from minigpt.training.presets import FINE_TUNING, GPT2_TRAINING, PRESET_TRAINING, QUICK, RECIPES
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings, upgrade_settings


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_order_is_given_then_file_then_preset_then_default(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", 'preset = "tiny"\nn_layers = 3\nlr = 0.5\nsteps = 7\n')
    s = resolve({"steps": 9}, config)
    assert s.steps == 9  # given takes precedence over the file
    assert (s.n_layers, s.lr) == (3, 0.5)  # the file takes precedence over the preset and the defaults
    assert (s.d_model, s.context_length, s.batch_size) == (128, 128, PRESET_TRAINING["tiny"]["batch_size"])  # the file's preset
    assert s.beta1 == Settings.beta1


def test_a_given_preset_takes_precedence_over_a_file(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", 'preset = "tiny"\nn_layers = 3\nbatch_size = 5\nlr = 0.5\n')
    s = resolve({"preset": "base", "n_heads": 4}, config)
    assert (s.preset, s.n_layers, s.d_model, s.batch_size) == ("base", 6, 512, PRESET_TRAINING["base"]["batch_size"])
    assert (s.n_heads, s.lr) == (4, 0.5)  # the learning rate belongs to the recipe, and the file's is kept
    s = resolve({"preset": "base", "n_heads": 4, "recipe": "gpt2"}, config)
    assert (s.preset, s.n_heads, s.batch_size, s.lr) == ("base", 4, 8, GPT2_TRAINING["base"]["lr"])


def test_the_default_is_the_quick_preset() -> None:
    s = resolve({})
    assert s == Settings()
    assert (s.preset, s.d_model, s.context_length, s.n_layers, s.n_heads) == ("quick", 128, 256, 4, 2)


def test_the_gpt2_preset_sets_its_vocabulary_size() -> None:
    assert resolve({"preset": "gpt2"}).vocab_size == 50257
    assert resolve({"preset": "gpt2", "vocab_size": 300}).vocab_size == 300


def test_the_widths_of_a_preset_are_not_used_with_another_d_model(tmp_path: Path) -> None:
    tiny = resolve({"preset": "llama-tiny"})
    assert (tiny.d_ff, tiny.n_kv_heads, tiny.norm, tiny.attention_bias, tiny.feed_forward_bias) == (344, 2, "rms", False, False)
    assert tiny.model(300).d_ff == 344
    assert resolve({"preset": "llama-tiny", "n_heads": 2}).d_ff == 344
    assert resolve({"preset": "llama-tiny", "d_model": 128}).d_ff == 344
    assert resolve({"preset": "llama-tiny", "d_model": 64}).model(300).d_ff == 176
    assert resolve({"preset": "llama-tiny", "activation": "gelu"}).model(300).d_ff == 512
    assert resolve({"preset": "llama-tiny", "d_model": 64, "d_ff": 100}).d_ff == 100
    config = write(tmp_path / "c.toml", 'preset = "llama-tiny"\nd_model = 48\nd_ff = 99\nd_head = 6\n')
    for given, d_ff, d_head in (
        ({}, 99, 6),
        ({"n_heads": 2}, 99, 24),
        ({"d_model": 64}, 176, 16),
        ({"d_model": 48}, 99, 6),
        ({"preset": "small"}, 688, 32),
        ({"preset": "small", "recipe": "gpt2"}, 1024, 32),
    ):
        model = resolve(given, config).model(300)
        assert (model.d_ff, model.d_head) == (d_ff, d_head), given
    assert resolve({}, write(config, 'preset = "llama-tiny"\nd_model = 48\n')).model(300).d_ff == 128
    assert resolve({"preset": "llama-15m"}).model(32000).d_ff == 768


def test_every_model_setting_reaches_the_model() -> None:
    given: dict[str, Any] = {"n_kv_heads": 1, "d_head": 6, "rope_theta": 77.0, "qk_norm": True, "norm_epsilon": 1e-3}
    given |= {"norm": "rms", "positions": "rope", "rope_pairing": "interleaved", "activation": "swiglu", "d_ff": 50}
    model = resolve(given).model(300)
    assert {name: getattr(model, name) for name in given} == given


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data": ("a b.txt", 'quo"te.jsonl'), "val_data": "vé.txt", "prompt": 'She said: "Hi!"\n'},
        {"lr": 1e-5, "dropout": 0.1, "attention_bias": True, "tied": True, "activation": "relu", "tokenizer": "char"},
        {"recipe": "gpt2", **RECIPES["gpt2"], "steps": 3},
        {"optimizer": "adamw", "lr": 1e-3, "embedding_lr": 0.0, "muon_scale": "rms", "schedule": "cosine"},
    ],
)
def test_saved_settings_are_read_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    s = Settings(**changes)
    s.save(tmp_path / "config.toml")
    assert resolve({}, tmp_path / "config.toml") == s
    assert Settings(**read_settings(tmp_path / "config.toml")) == s
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_a_saved_file_contains_every_setting_that_is_not_none(tmp_path: Path) -> None:
    Settings().save(tmp_path / "config.toml")
    assert read_settings(tmp_path / "config.toml").keys() == {k for k, v in asdict(Settings()).items() if v is not None}


INVALID_FILES = [
    ("steps = 1.5", "steps is 1.5, but must be an integer"),
    ("steps = true", "steps is True, but must be an integer"),
    ('lr = "fast"', "lr is 'fast', but must be a number"),
    ("lr = true", "lr is True, but must be a number"),
    ("tied = 1", "tied is 1, but must be true or false"),
    ("bias = 1", "bias is 1, but must be true or false"),
    ("final_lr = true", "final_lr is True, but must be a number"),
    ("final_lr = 0.1\nmin_lr_ratio = 0.1", "final_lr is the old name of min_lr_ratio; use only the new one"),
    ("bias = true\nfeed_forward_bias = true", "bias is the old name of attention_bias and feed_forward_bias"),
    ("prompt = 3", "prompt is 3, but must be a string"),
    ("val_data = 3", "val_data is 3, but must be a string"),
    ("activation = 3", "activation is 3, but must be a string"),
    ("recipe = 3", "recipe is 3, but must be a string"),
    ('recipe = "gpt-2"', "recipe is 'gpt-2', but must be one of: default, gpt2; did you mean 'gpt2'?"),
    ('optimizer = "adamw"', "optimizer is 'adamw', but lr is "),
    ('data = "a.txt"', "data is 'a.txt', but must be a list of strings"),
    ("data = []", "data is [], but must be a list of strings"),
    ("data = [1]", "data is [1], but must be a list of strings"),
    ("stepz = 3", "there is no setting 'stepz'; did you mean 'steps'?"),
    ("n_layer = 3", "there is no setting 'n_layer'; did you mean 'n_layers'?"),
    ("qqq = 3", "there is no setting 'qqq'"),
    ("[model]\nsteps = 1", "there is no setting 'model'"),
    ("steps = ", "is not a TOML file"),
]


@pytest.mark.parametrize("text, message", INVALID_FILES, ids=[text for text, _ in INVALID_FILES])
def test_an_invalid_file_is_described_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "c.toml", text)
    with pytest.raises(ValueError) as caught:
        resolve({}, path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_integer_becomes_a_float(tmp_path: Path) -> None:
    lr = resolve({}, write(tmp_path / "c.toml", "lr = 1")).lr
    assert (lr, type(lr)) == (1.0, float)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.toml: No such file"):
        resolve({}, tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.toml is not a TOML file"):
        resolve({}, tmp_path / "binary.toml")


INVALID = [
    *((name, 0, "at least 1") for name in ("steps", "batch_size", "vocab_size", "stories", "eval_every", "eval_tokens")),
    ("checkpoint_every", 0, "at least 1"),
    *((name, -1, "0 or more") for name in ("micro_batch", "warmup", "threads", "sample_every", "clip", "weight_decay", "seed")),
    ("lr", 0.0, "a finite number greater than 0"),
    ("lr", float("nan"), "a finite number greater than 0"),
    ("lr", float("inf"), "a finite number greater than 0"),
    ("clip", float("nan"), "0 or more"),
    ("beta1", 1.0, "at least 0 and less than 1"),
    ("beta2", -0.1, "at least 0 and less than 1"),
    ("min_lr_ratio", 1.5, "from 0 to 1"),
    ("momentum", 1.0, "at least 0 and less than 1"),
    *((name, -0.1, "finite, and 0 or more") for name in ("embedding_lr", "head_lr", "vector_lr", "muon_weight_decay")),
    ("vector_lr", float("inf"), "finite, and 0 or more"),
    ("muon_iterations", 0, "from 1 to 20"),
    ("muon_iterations", 21, "from 1 to 20"),
    ("decay", 1.5, "from 0 to 1"),
    ("decay", float("nan"), "from 0 to 1"),
    ("optimizer", "adam", "one of: muon, adamw; did you mean 'adamw'?"),
    ("recipe", "defaults", "one of: default, gpt2; did you mean 'default'?"),
    ("schedule", "cosin", "one of: linear, cosine; did you mean 'cosine'?"),
    ("muon_coefficients", "polar", "one of: polar_express, jordan"),
    ("muon_scale", "frobenius", "one of: spectral, rms"),
    ("data", (), "storybook, tinystories, or files and folders of text"),
    ("preset", "tinny", "one of: quick, nano, tiny, small, base, gpt2"),
    ("n_layers", 0, "a positive integer"),
    ("dropout", 1.0, "at least 0 and less than 1"),
    ("activation", "tanh", "one of: gelu, gelu_exact, relu, relu_squared, swiglu"),
    ("norm_epsilon", 0.0, "greater than 0"),
    ("vocab_size", 1 << 21, "at most 1,048,576"),
    ("threads", 1 << 11, "at most 1,024"),
    ("seed", 1 << 63, "less than 2**63"),
    ("weight_decay", float("inf"), "finite"),
    ("keep", 0, "at least 1"),
    ("watchdog", -1, "0 or more"),
    ("on_nonfinite", "skipp", "one of: stop, skip; did you mean 'skip'?"),
    ("prompt", "\udcff", "valid UTF-8"),
]


@pytest.mark.parametrize("name, value, expected", INVALID)
def test_an_invalid_value_is_named(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        resolve({name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}, but must be ")
    assert expected in str(caught.value)


def test_inconsistent_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="d_model is 128, but must be divisible by n_heads = 7"):
        resolve({"n_heads": 7})


# ------------------------------------------------------------- recipes

FORMS = {"gpt2": GPT2, "llama": LLAMA, "qwen3": QWEN3}
DEFAULT, GPT2_RECIPE = RECIPES["default"], RECIPES["gpt2"]
FILES = {
    "none": "",
    "partial": "lr = 0.5\n",
    "partial gpt2": 'recipe = "gpt2"\nlr = 0.5\n',
    "partial default": 'recipe = "default"\nlr = 0.5\n',
    "preset gpt2": 'preset = "gpt2"\n',
    "preset gpt2, default": 'preset = "gpt2"\nrecipe = "default"\n',
    "llama-tiny": 'preset = "llama-tiny"\n',
}
CASES: list[tuple[str, dict[str, Any], str, str, float]] = [
    # file, given, recipe, form, lr
    ("none", {}, "default", "qwen3", QUICK["lr"]),
    ("none", {"preset": "small"}, "default", "qwen3", DEFAULT["lr"]),
    ("none", {"recipe": "gpt2"}, "gpt2", "gpt2", 3e-3),
    ("none", {"recipe": "gpt2", "preset": "small"}, "gpt2", "gpt2", 1e-3),
    ("none", {"recipe": "gpt2", "lr": 0.25}, "gpt2", "gpt2", 0.25),
    ("none", {"preset": "gpt2"}, "gpt2", "gpt2", 6e-4),
    ("none", {"preset": "gpt2", "recipe": "default"}, "default", "gpt2", DEFAULT["lr"]),
    ("none", {"preset": "llama-tiny"}, "default", "llama", DEFAULT["lr"]),
    ("none", {"preset": "llama-tiny", "recipe": "gpt2"}, "gpt2", "llama", 1e-3),
    ("partial", {}, "default", "qwen3", 0.5),
    ("partial", {"recipe": "gpt2"}, "gpt2", "gpt2", 0.5),
    ("partial", {"preset": "gpt2"}, "gpt2", "gpt2", 6e-4),
    ("partial gpt2", {}, "gpt2", "gpt2", 0.5),
    ("partial gpt2", {"recipe": "gpt2"}, "gpt2", "gpt2", 0.5),
    ("partial gpt2", {"recipe": "default"}, "default", "qwen3", QUICK["lr"]),
    ("partial gpt2", {"recipe": "default", "lr": 0.25}, "default", "qwen3", 0.25),
    ("partial gpt2", {"preset": "small"}, "gpt2", "gpt2", 1e-3),
    ("partial default", {"preset": "gpt2"}, "gpt2", "gpt2", 6e-4),
    ("partial default", {"preset": "small"}, "default", "qwen3", 0.5),
    ("preset gpt2", {}, "gpt2", "gpt2", 6e-4),
    ("preset gpt2", {"recipe": "default"}, "default", "gpt2", DEFAULT["lr"]),
    ("preset gpt2", {"preset": "small"}, "default", "qwen3", DEFAULT["lr"]),
    ("preset gpt2, default", {}, "default", "gpt2", DEFAULT["lr"]),
    ("llama-tiny", {"recipe": "gpt2"}, "gpt2", "llama", 1e-3),
]


@pytest.mark.parametrize("file, given, recipe, form, lr", CASES, ids=[f"{case[0]}: {case[1]}" for case in CASES])
def test_the_recipe_and_what_it_selects(
    tmp_path: Path, file: str, given: dict[str, Any], recipe: str, form: str, lr: float
) -> None:
    s = resolve(given, write(tmp_path / "c.toml", FILES[file]))
    assert (s.recipe, s.lr) == (recipe, lr)
    assert {name: getattr(s, name) for name in QWEN3} == FORMS[form]
    assert s.embedding_std == (0.02 if s.tied else 0.3)
    others = RECIPES[recipe].keys() - QWEN3.keys() - {"lr", "beta2", "embedding_std"}
    expected = QUICK if (s.preset, recipe) == ("quick", "default") else RECIPES[recipe]
    assert {name: getattr(s, name) for name in others} == {name: expected[name] for name in others}


def test_a_recipe_takes_precedence_over_the_complete_config_of_a_run(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    for preset, recipe, other in (("small", "default", "gpt2"), ("small", "gpt2", "default"), ("llama-tiny", "default", "gpt2")):
        s = resolve({"preset": preset, "recipe": recipe, "steps": 7})
        s.resolved(s.model(300), threads=2).save(config)
        changed = resolve({"recipe": other}, config)
        expected = resolve({"preset": preset, "recipe": other, "steps": 7})
        expected = expected.resolved(expected.model(300), threads=2)
        assert replace(changed, warmup=expected.warmup) == replace(expected, d_ff=changed.d_ff)
        assert changed.model(300) == expected.model(300)
        assert resolve({"recipe": recipe}, config) == resolve({}, config)


PREVIOUS: dict[str, Any] = {
    **{"context_length": 256, "d_model": 128, "n_layers": 4, "n_heads": 4, "n_kv_heads": 0, "d_head": 0, "d_ff": 0},
    **{"activation": "gelu", "positions": "learned", "rope_theta": 10000.0, "rope_pairing": "half", "norm": "layer"},
    **{"norm_placement": "pre", "qk_norm": False, "attention_bias": True, "feed_forward_bias": True, "tied": True},
    **{"dropout": 0.0, "norm_epsilon": 1e-05, "data": ("storybook",), "val_data": None, "field": "text", "tokenizer": None},
    **{"vocab_size": 2048, "stories": 20000, "init": None, "preset": "quick", "batch_size": 8, "micro_batch": 0, "steps": 1200},
    **{"lr": 0.003, "warmup": 0, "min_lr_ratio": 0.1, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99, "clip": 1.0, "seed": 0},
    **{"threads": 0, "watchdog": 600, "eval_every": 200, "eval_tokens": 65536, "checkpoint_every": 250, "keep": 2},
    **{"on_nonfinite": "stop", "sample_every": 200, "samples": None, "prompt": ""},
}
"The settings of the version before there were recipes."
LONGER = {"vocab_size": 4096, "steps": 1000, "eval_every": 100, "lr": 0.001, "beta2": 0.95}
LLAMAS = {"activation": "swiglu", "positions": "rope", "norm": "rms", "attention_bias": False, "feed_forward_bias": False}
PREVIOUS_PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},
    "nano": {**LONGER, "context_length": 64, "batch_size": 12, "steps": 2000, "lr": 0.003, "beta2": 0.99},
    "tiny": {**LONGER, "context_length": 128, "batch_size": 32},
    "small": {**LONGER, "d_model": 256, "n_heads": 8, "batch_size": 16},
    "base": {**LONGER, "d_model": 512, "n_layers": 6, "n_heads": 8},
    "gpt2": {
        **{**LONGER, "context_length": 1024, "d_model": 768, "n_layers": 12, "n_heads": 12, "vocab_size": 50257},
        **{"batch_size": 4, "lr": 0.0006},
    },
    "llama-tiny": {**LONGER, **LLAMAS, "context_length": 128, "n_kv_heads": 2, "d_ff": 344, "batch_size": 32},
    "llama-15m": {
        **{**LONGER, **LLAMAS, "d_model": 288, "n_layers": 6, "n_heads": 6, "d_ff": 768, "vocab_size": 32000, "batch_size": 16},
    },
}
"How the presets of that version differed from its defaults."
UNCHANGED_OPTIMIZER = {
    **{"optimizer": "adamw", "embedding_lr": 0.0, "head_lr": 0.0, "vector_lr": 0.0, "schedule": "cosine"},
    **{"zero_init": False, "embedding_std": 0.02, "recipe": "gpt2"},
}
"What that version did in every run."


@pytest.mark.parametrize("preset", PREVIOUS_PRESETS)
def test_the_recipe_gpt2_is_exactly_the_previous_version(preset: str) -> None:
    expected = {**PREVIOUS, "preset": preset, **PREVIOUS_PRESETS[preset], **UNCHANGED_OPTIMIZER}
    values = asdict(resolve({"recipe": "gpt2", "preset": preset}))
    assert {name: values[name] for name in expected} == expected
    unused = {"decay", "momentum", "muon_weight_decay", "muon_iterations", "muon_coefficients", "muon_scale"}
    assert values.keys() - expected.keys() == unused | {"snapshots"}  # which does not change the training
    assert PREVIOUS_PRESETS.keys() == PRESETS.keys()


@pytest.mark.parametrize("recipe", ["default", "gpt2"])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_with_a_tied_head_start_with_small_embeddings(preset: str, recipe: str) -> None:
    settings = resolve({"preset": preset, "recipe": recipe})
    assert settings.embedding_std == (0.02 if settings.tied else 0.3)


@pytest.mark.parametrize("preset", ["quick", "small", "llama-tiny"])
def test_the_complete_config_of_an_earlier_version_has_the_recipe_gpt2(tmp_path: Path, preset: str) -> None:
    """A run of that version resumes with the same settings, and --config repeats it."""
    values = {**PREVIOUS, "preset": preset, **PREVIOUS_PRESETS[preset], "lr": 0.004, "warmup": 9, "threads": 2}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None}
    config = write(tmp_path / "c.toml", tomli_w.dumps(values))
    expected = {**values, **UNCHANGED_OPTIMIZER, "data": ("storybook",)}
    for s in (Settings(**read_settings(config)), resolve({}, config), resolve({}, config, resume=True)):
        assert {name: getattr(s, name) for name in expected} == expected
    values["final_lr"] = values.pop("min_lr_ratio")
    values["bias"] = values.pop("attention_bias")
    del values["feed_forward_bias"]
    assert resolve({}, write(config, tomli_w.dumps(values))) == s
    assert resolve({"recipe": "default"}, config).optimizer == "muon"


def test_a_hand_written_file_has_the_default_recipe(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", 'preset = "small"\nlr = 0.02\nbeta1 = 0.8\nwarmup = 5\nclip = 0.5\n')
    s = resolve({}, config)
    assert (s.recipe, s.optimizer, s.lr, s.beta1, s.norm) == ("default", "muon", 0.02, 0.8, "rms")


CHANGED_OPTIMIZERS = [
    ("", {"optimizer": "adamw"}, f"lr is {QUICK['lr']:g}, the learning rate of muon: give lr, too, or the recipe gpt2"),
    ("", {"optimizer": "muon", "recipe": "gpt2"}, "lr is 0.003, the learning rate of adamw: give lr, too, or the recipe default"),
    ("lr = 0.1", {"optimizer": "adamw"}, "lr is 0.1, the learning rate of muon"),
    ('recipe = "gpt2"\nlr = 0.1', {"optimizer": "muon"}, "lr is 0.1, the learning rate of adamw"),
    ('optimizer = "adamw"', {}, f"lr is {QUICK['lr']:g}, the learning rate of muon"),
]


@pytest.mark.parametrize("file, given, message", CHANGED_OPTIMIZERS)
def test_another_optimizer_needs_its_own_learning_rate(tmp_path: Path, file: str, given: dict[str, Any], message: str) -> None:
    """The learning rate of Muon is far too large for AdamW."""
    config = write(tmp_path / "c.toml", file)
    with pytest.raises(ValueError) as caught:
        resolve(given, config)
    where = "" if "optimizer" in given else f"{config}: "
    assert str(caught.value).startswith(f"{where}optimizer is {given.get('optimizer', 'adamw')!r}, but {message}")
    assert resolve({**given, "lr": 0.01}, config).lr == 0.01


@pytest.mark.parametrize("file, given", [('optimizer = "adamw"\nlr = 0.1', {}), ('optimizer = "adamw"', {"lr": 0.1})])
def test_another_optimizer_with_a_learning_rate_keeps_the_recipe(tmp_path: Path, file: str, given: dict[str, Any]) -> None:
    s = resolve(given, write(tmp_path / "c.toml", file))
    assert (s.optimizer, s.lr, s.recipe, s.embedding_lr) == ("adamw", 0.1, "default", QUICK["embedding_lr"])
    s.save(tmp_path / "saved.toml")
    assert resolve({}, tmp_path / "saved.toml") == s


def test_an_initial_model_is_trained_with_the_recipe_gpt2(tmp_path: Path, tiny_run: Path) -> None:
    """Its form and sizes remain, here those of the default recipe."""
    init = str(tiny_run)
    model = read_config(init)
    config = tmp_path / "c.toml"
    for text, given, recipe, lr in (
        ("", {}, "gpt2", FINE_TUNING["lr"]),
        ("", {"preset": "llama-tiny"}, "gpt2", FINE_TUNING["lr"]),
        ("", {"lr": 0.1}, "gpt2", 0.1),
        ("", {"recipe": "default"}, "default", QUICK["lr"]),
        ("lr = 0.1", {}, "gpt2", 0.1),
        ('recipe = "gpt2"', {}, "gpt2", FINE_TUNING["lr"]),
        ('recipe = "default"', {}, "default", QUICK["lr"]),
        ('recipe = "default"\nlr = 0.1', {}, "default", 0.1),
        ('recipe = "default"\nlr = 0.1', {"recipe": "gpt2"}, "gpt2", FINE_TUNING["lr"]),
    ):
        s = resolve({"init": init, **given}, write(config, text))
        assert (s.recipe, s.lr, s.optimizer) == (recipe, lr, RECIPES[recipe]["optimizer"]), (text, given)
        assert s.model(model.vocab_size) == replace(model, dropout=0.0)
    assert resolve({}, write(config, f"init = {init!r}")).recipe == "gpt2"


# ------------------------------------------------------------- old names


def test_a_config_of_version_0_1_is_read_under_the_current_names(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", 'preset = "tiny"\nsteps = 7\nfinal_lr = 0.25\nbias = true\n')
    expected = {"preset": "tiny", "steps": 7, "attention_bias": True, "feed_forward_bias": True, "min_lr_ratio": 0.25}
    assert read_settings(path) == expected
    s = resolve({}, path)
    assert (s.min_lr_ratio, s.attention_bias, s.feed_forward_bias) == (0.25, True, True)
    s.save(tmp_path / "new.toml")
    assert resolve({}, tmp_path / "new.toml") == s


def test_current_names_are_not_translated() -> None:
    values = asdict(Settings())
    assert upgrade_settings(values) == values


def test_an_absolute_learning_rate_for_min_lr_ratio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        resolve({"min_lr_ratio": 6e-5, "lr": 6e-4})
    assert str(caught.value) == (
        "min_lr_ratio is 6e-05, but must be 0 or from 0.001 to 1, because it is a fraction of lr, not an absolute learning rate; "
        "for a minimum of 6e-05, give 6e-05 / 0.0006 = 0.1"
    )
    with pytest.raises(ValueError, match=r"for a minimum of 1e-09, give 0$"):
        resolve({"min_lr_ratio": 1e-9})
    with pytest.raises(ValueError, match=r"not an absolute learning rate$"):
        resolve({"min_lr_ratio": 6e-5, "lr": 1e-5})


@pytest.mark.parametrize("value", [0.0, 0.001, 0.1, 1.0])
def test_other_ratios_are_accepted(value: float) -> None:
    assert resolve({"min_lr_ratio": value}).min_lr_ratio == value


@pytest.mark.parametrize("name", ["final_lr", "min_lr_ratio"])
def test_an_absolute_learning_rate_in_a_file_is_a_warning(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "c.toml", f"{name} = 6e-5\n")
    with pytest.warns(UserWarning, match=r"c\.toml: min_lr_ratio is 6e-05, but it is a fraction of lr, not an absolute"):
        assert resolve({}, path).min_lr_ratio == 6e-5  # a run of version 0.1 can still be resumed


# ------------------------------------------------------------- the model


@pytest.mark.parametrize("warmup, steps, expected", [(0, 1000, 100), (0, 10**6, 100), (0, 50, 5), (0, 3, 1), (7, 1000, 7)])
def test_warmup_is_a_tenth_of_the_steps_by_default(warmup: int, steps: int, expected: int) -> None:
    assert Settings(warmup=warmup, steps=steps, optimizer="adamw").warmup_steps == expected
    assert Settings(warmup=warmup, steps=steps).warmup_steps == (warmup or min(expected, 10))


def test_every_setting_has_a_help_text() -> None:
    from dataclasses import fields

    assert all(field.metadata["help"].endswith(".") for field in fields(Settings))


def test_the_model_uses_the_vocabulary_size_of_the_tokenizer() -> None:
    config = Settings(vocab_size=5000, d_model=32, n_heads=2, norm_placement="post").model(vocab_size=300)
    assert (config.vocab_size, config.d_model, config.norm_placement) == (300, 32, "post")
