"""Settings: the precedence of their sources, files, old names, and invalid values."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from minigpt.training.settings import PRESET_TRAINING, Settings, read_settings, resolve, translate_old_names


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
    assert (s.n_heads, s.lr) == (4, PRESET_TRAINING["base"]["lr"])


def test_the_default_is_the_quick_preset() -> None:
    s = resolve({})
    assert s == Settings()
    assert (s.preset, s.d_model, s.context_length, s.n_layers, s.n_heads) == ("quick", 128, 256, 4, 4)


def test_the_gpt2_preset_sets_its_vocabulary_size() -> None:
    assert resolve({"preset": "gpt2"}).vocab_size == 50257
    assert resolve({"preset": "gpt2", "vocab_size": 300}).vocab_size == 300


def test_the_widths_of_a_preset_are_not_used_with_another_d_model(tmp_path: Path) -> None:
    tiny = resolve({"preset": "llama-tiny"})
    assert (tiny.d_ff, tiny.n_kv_heads, tiny.norm, tiny.attention_bias, tiny.feed_forward_bias) == (344, 2, "rms", False, False)
    assert tiny.model(300).d_ff == 344
    assert resolve({"preset": "llama-tiny", "n_heads": 2}).d_ff == 344
    assert resolve({"preset": "llama-tiny", "d_model": 64}).model(300).d_ff == 256
    assert resolve({"preset": "llama-tiny", "d_model": 64, "d_ff": 100}).d_ff == 100
    config = write(tmp_path / "c.toml", 'preset = "llama-tiny"\nd_model = 48\nd_ff = 99\nd_head = 6\n')
    for given, d_ff, d_head in (
        ({}, 99, 6),
        ({"n_heads": 2}, 99, 24),
        ({"d_model": 64}, 256, 16),
        ({"preset": "small"}, 1024, 32),
    ):
        model = resolve(given, config).model(300)
        assert (model.d_ff, model.d_head) == (d_ff, d_head), given
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
        {"lr": 1e-5, "dropout": 0.1, "attention_bias": False, "tied": False, "activation": "relu", "tokenizer": "char"},
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
    ("data", (), "storybook, tinystories, or files and folders of text"),
    ("preset", "tinny", "one of: quick, nano, tiny, small, base, gpt2"),
    ("n_layers", 0, "a positive integer"),
    ("dropout", 1.0, "at least 0 and less than 1"),
    ("activation", "tanh", "one of: gelu, gelu_exact, relu, swiglu"),
    ("norm_epsilon", 0.0, "greater than 0"),
    ("vocab_size", 1 << 21, "at most 1,048,576"),
    ("threads", 1 << 11, "at most 1,024"),
    ("seed", 1 << 63, "less than 2**63"),
    ("weight_decay", float("inf"), "finite"),
    ("keep", 0, "at least 1"),
    ("watchdog", -1, "0 or more"),
    ("on_nonfinite", "skipp", "stop or skip"),
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


# ------------------------------------------------------------- old names


def test_a_config_of_version_0_1_is_read_under_the_current_names(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", 'preset = "tiny"\nsteps = 7\nfinal_lr = 0.25\nbias = false\n')
    expected = {"preset": "tiny", "steps": 7, "attention_bias": False, "feed_forward_bias": False, "min_lr_ratio": 0.25}
    assert read_settings(path) == expected
    s = resolve({}, path)
    assert (s.min_lr_ratio, s.attention_bias, s.feed_forward_bias) == (0.25, False, False)
    s.save(tmp_path / "new.toml")
    assert resolve({}, tmp_path / "new.toml") == s


def test_a_whole_config_of_version_0_1_gives_the_settings_of_today(tmp_path: Path) -> None:
    s = Settings(attention_bias=False, feed_forward_bias=False, min_lr_ratio=0.5, lr=1e-2)
    s.save(tmp_path / "new.toml")
    text = (tmp_path / "new.toml").read_text(encoding="utf-8").replace("min_lr_ratio", "final_lr")
    text = text.replace("attention_bias = false\n", "").replace("feed_forward_bias", "bias")
    assert resolve({}, write(tmp_path / "old.toml", text)) == s


def test_current_names_are_not_translated() -> None:
    values = asdict(Settings())
    assert translate_old_names(values) == values


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
    assert Settings(warmup=warmup, steps=steps).warmup_steps == expected


def test_every_setting_has_a_help_text() -> None:
    from dataclasses import fields

    assert all(field.metadata["help"].endswith(".") for field in fields(Settings))


def test_the_model_uses_the_vocabulary_size_of_the_tokenizer() -> None:
    config = Settings(vocab_size=5000, d_model=32, n_heads=2, norm_placement="post").model(vocab_size=300)
    assert (config.vocab_size, config.d_model, config.norm_placement) == (300, 32, "post")
