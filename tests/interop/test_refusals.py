"""Directories that minigpt cannot read: each is refused with an error of one line that names the reason."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minigpt import load
from minigpt.interop.load import read_config

Make = Callable[..., Path]


def refusal(folder: Path) -> str:
    """Return the message of the error that `load` raises for a directory."""
    with pytest.raises(ValueError) as refused:
        load(folder)
    text = str(refused.value)
    assert str(folder) in text and "\n" not in text
    return text


# ---------------------------------------------------------- config.json

CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"model_type": "mistral"}, "model_type is 'mistral', but minigpt supports only 'gpt2', 'llama' and 'qwen3'"),
    ("qwen3", {"model_type": "qwen3_moe"}, "model_type is 'qwen3_moe'"),
    ("gpt2", {"model_type": "gpt_neo"}, "model_type is 'gpt_neo'"),
    ("gpt2", {"model_type": None}, "model_type is None"),
    ("gpt2", {"model_type": ["gpt2"]}, "model_type is ['gpt2']"),
    ("gpt2", {"activation_function": "tanh"}, "activation_function is 'tanh', but minigpt supports only 'gelu_new', 'gelu_p"),
    ("gpt2", {"activation_function": "quick_gelu"}, "activation_function is 'quick_gelu'"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', but minigpt supports only 'silu'"),
    ("llama", {"sliding_window": 32}, "sliding_window is 32, but minigpt supports only null, or use_sliding_window false"),
    ("qwen3", {"hidden_act": "relu"}, "hidden_act is 'relu', but minigpt supports only 'silu'"),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 32}, "sliding_window is 32, but minigpt supports only null, or use"),
    ("qwen3", {"use_sliding_window": True}, "sliding_window is 4096"),
    ("qwen3", {"use_sliding_window": "false", "sliding_window": 32}, "sliding_window is 32"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is ['full_attention', 'sliding_attention']"),
    ("qwen3", {"rope_parameters": None, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
    ("qwen3", {"rope_parameters": {"full_attention": {"rope_theta": 77.0}}}, "rope_parameters is {'full_attention': "),
    ("qwen3", {"quantization_config": {"quant_method": "awq"}}, "quantization_config is {'quant_method': 'awq'"),
    ("qwen3", {"num_key_value_heads": 5}, "n_heads is 9, but must be divisible by n_kv_heads = 5"),
    ("qwen3", {"head_dim": 9}, "d_head is 9, but must be even, because rope rotates pairs of columns"),
    ("qwen3", {"attention_bias": "yes"}, "attention_bias is 'yes'"),
    ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config is {'quant_method': 'gptq'"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ("llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor is 0.25"),
    ("llama", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is ['full_attention', 'sliding_attention']"),
    *(
        (
            "llama",
            {"rope_parameters": None, "rope_scaling": rope},
            f"rope_type is '{name}', but minigpt supports only 'default' (no rope scaling)",
        )
        for name, rope in {
            "linear": {"type": "linear", "factor": 2.0},
            "dynamic": {"type": "dynamic", "factor": 2.0},
            "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "yarn": {"rope_type": "yarn", "type": "default", "factor": 2.0},
        }.items()
    ),
    ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}}, "rope_type is 'llama3'"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
    ("gpt2", {"n_head": 5}, "d_model is 24, but must be divisible by n_heads = 5"),
    ("llama", {"num_key_value_heads": 4}, "n_heads is 6, but must be divisible by n_kv_heads = 4"),
    ("gpt2", {"n_layer": 0}, "n_layers is 0"),
    ("gpt2", {"n_embd": "24"}, "d_model is '24'"),
    ("gpt2", {"n_embd": 24.0}, "d_model is 24.0"),
    ("gpt2", {"vocab_size": [37]}, "vocab_size is [37]"),
    ("gpt2", {"n_positions": True}, "context_length is True"),
    ("gpt2", {"layer_norm_epsilon": "small"}, "a value has the wrong type"),
    ("gpt2", {"layer_norm_epsilon": 0}, "norm_epsilon is 0, but must be"),
    ("gpt2", {"activation_function": ["gelu"]}, "a value has the wrong type"),
    ("llama", {"rope_parameters": {"rope_theta": "wide"}}, "could not convert string to float: 'wide'"),
    ("llama", {"rope_parameters": {"rope_theta": None}}, "a value has the wrong type"),
    ("llama", {"rope_parameters": {"rope_theta": -1}}, "rope_theta is -1.0, but must be"),
    ("llama", {"layer_types": 3}, "a value has the wrong type"),
]


@pytest.mark.parametrize("family, changes, reason", CONFIGS, ids=lambda value: str(value)[:50])
def test_unsupported_values_are_named(directory: Make, family: str, changes: dict[str, Any], reason: str) -> None:
    folder = directory(family, **changes)
    text = refusal(folder)
    assert text.startswith(f"{folder / 'config.json'}: ") and reason in text
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_config(folder)


WRONG_VALUES: dict[str, dict[str, Any]] = {
    "scaling beside parameters": {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "a list": {"rope_parameters": ["default"]},
    "a string": {"rope_scaling": "linear", "rope_parameters": None},
    "a number too large for a float": {"rope_parameters": {"rope_theta": 10**400}},
    "a string for a boolean": {"tie_word_embeddings": "false"},
}


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_values_of_the_wrong_type_are_refused(directory: Make, case: str) -> None:
    refusal(directory("llama", **WRONG_VALUES[case]))


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "cannot be read: Expecting value"),
        (b"{", "cannot be read: "),
        (b"model_type: gpt2", "cannot be read: "),
        (b"\xff\xfe{\x00}\x00", "cannot be read: "),
        (b'{"a": "\xe9"}', "cannot be read: "),
        (b"[]", "holds a JSON list, but must hold an object"),
        (b'"gpt2"', "holds a JSON str, but must hold an object"),
        (b"null", "holds a JSON NoneType, but must hold an object"),
        (b"{}", "model_type is None"),
        (b"[" * 10**5, "cannot be read"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_config_that_is_not_a_json_object(directory: Make, content: bytes, reason: str) -> None:
    folder = directory("gpt2")
    (folder / "config.json").write_bytes(content)
    assert reason in refusal(folder)


# --------------------------------------------------------------- tensors

Tensors = dict[str, np.ndarray]


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: array for name, array in tensors.items() if name not in names}


def with_(**arrays: np.ndarray) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name.replace("__", "."): array for name, array in arrays.items()}


ZEROS = np.zeros((24, 24), np.float32)
QKV = "model__layers__1__self_attn__"
TENSORS: list[tuple[str, Callable[[Tensors], Tensors], str]] = [
    ("gpt2", without("transformer.h.1.attn.c_attn.bias"), "there is no tensor transformer.h.1.attn.c_attn.bias"),
    ("gpt2", without("transformer.wte.weight"), "there is no tensor transformer.wte.weight"),
    ("llama", without("model.layers.0.self_attn.k_proj.weight"), "there is no tensor model.layers.0.self_attn.k_proj.weight"),
    ("llama", without("lm_head.weight"), "there is no tensor lm_head.weight"),
    ("llama", without("model.norm.weight"), "there is no tensor model.norm.weight"),
    (
        "gpt2",
        with_(transformer__h__0__mlp__c_fc__weight=ZEROS),
        "transformer.h.0.mlp.c_fc.weight has shape (24, 24), but must have (24",
    ),
    ("gpt2", with_(transformer__wpe__weight=ZEROS), "transformer.wpe.weight has shape (24, 24), but must have (64, 24)"),
    (
        "gpt2",
        with_(transformer__ln_f__weight=np.zeros((), np.float32)),
        "transformer.ln_f.weight has shape (), but must have (24,)",
    ),
    ("llama", with_(lm_head__weight=ZEROS), "lm_head.weight has shape (24, 24), but must have (37, 24)"),
    (
        "llama",
        with_(**{f"{QKV}v_proj__weight": ZEROS}),
        "v_proj.weight has shape (24, 24), but must have (20, 24)",
    ),
    ("gpt2", with_(transformer__h__2__ln_1__weight=ZEROS), "configuration has: transformer.h.2.ln_1.weight"),
    ("gpt2", with_(lm_head__bias=ZEROS), "there are tensors that no gpt2 model of this configuration has: lm_head.bias"),
    (
        "llama",
        with_(**{f"{QKV}q_proj__bias": ZEROS}),
        "no llama model of this configuration has: model.layers.1.self_attn.q_proj.bias",
    ),
    ("llama", with_(**{f"{QKV}q_norm__weight": ZEROS}), "model.layers.1.self_attn.q_norm.weight"),
    ("qwen3", without("model.layers.1.self_attn.k_norm.weight"), "there is no tensor model.layers.1.self_attn.k_norm.weight"),
    ("qwen3", with_(**{f"{QKV}q_norm__weight": ZEROS[0]}), "q_norm.weight has shape (24,), but must have (14,)"),
    (
        "qwen3",
        with_(model__layers__0__mlp__up_proj__bias=ZEROS[0]),
        "no qwen3 model of this configuration has: model.layers.0.mlp.up_proj.bias",
    ),
    ("llama", lambda tensors: {}, "there is no tensor embed_tokens.weight"),
]


@pytest.mark.parametrize("family, change, reason", TENSORS, ids=[reason[-40:] for *_, reason in TENSORS])
def test_missing_unexpected_and_misshapen_tensors_are_named(
    directory: Make, family: str, change: Callable[[Tensors], Tensors], reason: str
) -> None:
    folder = directory(family)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    assert reason in refusal(folder)


def test_keys_and_values_of_wrong_widths_that_add_up_are_refused(directory: Make) -> None:
    folder = directory("llama")
    tensors = load_file(folder / "model.safetensors")
    for part, width in (("k", 30), ("v", 10)):
        tensors[f"model.layers.1.self_attn.{part}_proj.weight"] = np.zeros((width, 24), np.float32)
    save_file(tensors, folder / "model.safetensors")
    assert "k_proj" in refusal(folder)


@pytest.mark.parametrize("biases", [("q",), ("q", "k", "o"), ("q", "k", "v")])
def test_incomplete_biases_are_refused(directory: Make, biases: tuple[str, ...]) -> None:
    folder = directory("llama", attention_bias=True)
    widths = {"q": 60, "k": 20, "v": 20, "o": 24}
    named = {f"model.layers.{i}.self_attn.{part}_proj.bias": np.ones(widths[part], np.float32) for i in (0, 1) for part in biases}
    save_file(load_file(folder / "model.safetensors") | named, folder / "model.safetensors")
    missing = next(part for part in "qkvo" if part not in biases)
    assert f"there is no tensor model.layers.0.self_attn.{missing}_proj.bias" in refusal(folder)


def test_biases_that_the_configuration_excludes_are_refused(directory: Make) -> None:
    folder = directory("llama", mlp_bias=True)
    attention = {"q": 60, "k": 20, "v": 20, "o": 24}
    widths = {f"self_attn.{part}": n for part, n in attention.items()} | {"mlp.gate": 50, "mlp.up": 50, "mlp.down": 24}
    named = {f"model.layers.{i}.{part}_proj.bias": np.ones(n, np.float32) for i in (0, 1) for part, n in widths.items()}
    save_file(load_file(folder / "model.safetensors") | named, folder / "model.safetensors")
    assert "model.layers.0.self_attn" in refusal(folder)


@pytest.mark.parametrize("dtype, bytes_each", [("I8", 1), ("F8_E4M3", 1), ("F8_E5M2", 1), ("I64", 8), ("BOOL", 1)])
def test_an_unsupported_dtype_is_named(directory: Make, dtype: str, bytes_each: int) -> None:
    folder = directory("gpt2")
    header = {"transformer.wte.weight": {"dtype": dtype, "shape": [37, 24], "data_offsets": [0, 37 * 24 * bytes_each]}}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(37 * 24 * bytes_each)
    (folder / "model.safetensors").write_bytes(content)
    assert f"transformer.wte.weight has dtype {dtype}, but minigpt supports only F32, F64, F16, BF16" in refusal(folder)


# ----------------------------------------------------------------- files


def test_weights_in_a_format_that_can_run_code_are_not_read(directory: Make) -> None:
    folder = directory("gpt2")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    reason = "there is no model.safetensors, only pytorch_model.bin: a format that can run code when it is read; convert it first"
    assert reason in refusal(folder)
    (folder / "pytorch_model.bin").unlink()
    assert refusal(folder).endswith("there is no model.safetensors")


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_truncated_weights(directory: Make, kept: int) -> None:
    folder = directory("gpt2")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:kept])
    assert "model.safetensors cannot be read" in refusal(folder)


def test_weights_that_are_not_a_safetensors_file(directory: Make) -> None:
    folder = directory("gpt2")
    for content in (np.random.default_rng(0).bytes(5000), b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 64):
        (folder / "model.safetensors").write_bytes(content)
        assert "model.safetensors cannot be read" in refusal(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    refusal(folder)


NAMED = {"transformer.wte.weight": "part.safetensors"}
NO_MAP = "model.safetensors.index.json has no weight_map from tensor names to file names"
INDEXES: list[tuple[Any, str]] = [
    (
        {"weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}},
        "there is no model-00001-of-00002.safetensors",
    ),
    ({"weight_map": {**NAMED, "extra.weight": "part.safetensors"}}, "lists extra.weight, which is not in part.safetensors"),
    *(
        ({"weight_map": {**NAMED, "x": name}}, NO_MAP)
        for name in ("../x.safetensors", "/etc/passwd", "a/b.safetensors", "./model.safetensors", ".", 3, None, ["a"])
    ),
    *(({"weight_map": {**NAMED, "x": name}}, "there is no ") for name in ("..", "")),
    ({"weight_map": ["model.safetensors"]}, NO_MAP),
    ({}, NO_MAP),
    ([], "model.safetensors.index.json holds a JSON list"),
]


@pytest.mark.parametrize("index, reason", INDEXES, ids=[f"{str(index)[-30:]}" for index, _ in INDEXES])
def test_a_wrong_index(directory: Make, index: Any, reason: str) -> None:
    folder = directory("gpt2")
    (folder / "model.safetensors").rename(folder / "part.safetensors")  # an index is read only if there is no model.safetensors
    (folder.parent / "x.safetensors").write_bytes((folder / "part.safetensors").read_bytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_an_index_that_is_not_json(directory: Make) -> None:
    folder = directory("gpt2")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_bytes(b"{")
    assert "model.safetensors.index.json cannot be read" in refusal(folder)
