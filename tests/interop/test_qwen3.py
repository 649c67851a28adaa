"""The default shape is that of Qwen 3: transformers loads what is trained by default, and minigpt loads and trains Qwen 3."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from minigpt import GPT, load
from minigpt.interop.hugging_face import export
from minigpt.interop.load import import_directory
from minigpt.interop.weights import half_pairing_columns
from minigpt.np.config import preset
from minigpt.runs.folder import RunFolder
from minigpt.training.adamw import AdamW

ATOL = 2e-5  # for logits up to 4
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("Once upon a time there was a cat. It slept all day.\n\n" * 100, encoding="utf-8")
    return tmp_path / "text.txt"


def test_a_run_with_the_default_recipe_has_the_same_logits_in_both_libraries(
    hf: Any, command: Command, text: Path, tmp_path: Path
) -> None:
    run, exported, imported = tmp_path / "run", tmp_path / "exported", tmp_path / "imported"
    sizes = ["--context-length", 16, "--d-model", 12, "--n-layers", 2, "--n-heads", 3, "--tokenizer", "bytes"]
    short = ["--steps", 3, "--batch-size", 4, "--threads", 1, "--sample-every", 0]
    code, _, error = command("train", text, "--out", run, *sizes, *short)
    assert code == 0, error
    code, output, _ = command("export", run, exported)
    assert code == 0 and "AutoModelForCausalLM" in output
    assert json.loads((exported / "config.json").read_text(encoding="utf-8"))["architectures"] == ["Qwen3ForCausalLM"]
    model, tokenizer = load(run)
    assert tokenizer is not None
    tokens = np.array([tokenizer.encode("Once upon a time")])
    expected = model.logits(tokens)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(hf.logits(hf.read(exported), tokens), expected, rtol=0, atol=ATOL)
    code, output, _ = command("import", exported, imported)
    assert code == 0 and "parameters written to" in output
    for where in (exported, imported):
        np.testing.assert_array_equal(load(where)[0].logits(tokens), expected)


@pytest.mark.parametrize("name", ["quick", "nano", "tiny", "small", "base"])
def test_presets_without_a_family_have_the_form_of_qwen3(hf: Any, tmp_path: Path, name: str) -> None:
    export(GPT(preset(name, vocab_size=11, n_layers=1)), None, tmp_path / "exported")
    assert hf.read(tmp_path / "exported").config.model_type == "qwen3"


def test_relu_squared_is_trained_but_not_exported(command: Command, text: Path, tmp_path: Path) -> None:
    sizes = ["--context-length", 8, "--d-model", 8, "--n-layers", 1, "--n-heads", 2, "--tokenizer", "bytes"]
    short = ["--steps", 1, "--batch-size", 2, "--threads", 1, "--sample-every", 0, "--activation", "relu_squared"]
    assert command("train", text, "--out", tmp_path / "run", *sizes, *short)[0] == 0
    code, _, error = command("export", tmp_path / "run", tmp_path / "exported")
    assert code == 2 and len(error.strip().splitlines()) == 1
    assert "the model is neither a Qwen 3 (activation is 'relu_squared'), a Llama (qk_norm is True, activation is 'relu_" in error
    assert not (tmp_path / "exported").exists()


# ------------------------------------------------------ training from a directory


def test_ten_training_steps_have_the_same_losses(
    hf: Any, train: Callable[..., list[float]], ours: Callable[..., GPT], tmp_path: Path
) -> None:
    export(ours("qwen3", attention_bias=True), None, tmp_path / "model")
    tokens = np.random.default_rng(5).integers(0, 37, (4, 33))
    losses = train(load(tmp_path / "model")[0], [tokens] * 10, 3e-3, AdamW())
    expected = hf.train(hf.read(tmp_path / "model"), [tokens] * 10, 3e-3, AdamW())
    assert expected[-1] < expected[0] - 0.5
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)


# ------------------------------------------------------ config.json of published models

TRANSFORMERS_4: dict[str, Any] = {  # the keys of Qwen 3 0.6B, which do not depend on the sizes
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
}
SPELLINGS: dict[str, dict[str, Any]] = {
    "as published": {},
    "a window that is not used": {"sliding_window": 4096, "max_window_layers": 0},
    "no window": {"use_sliding_window": True},
    "types of layers": {"layer_types": ["full_attention"] * 2},
    "a key of Llama, which Qwen 3 does not have": {"mlp_bias": True},
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_a_config_of_transformers_4(hf: Any, tmp_path: Path, tokens: np.ndarray, case: str) -> None:
    hf.model("qwen3", tie_word_embeddings=True).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    sizes = {name: value for name, value in content.items() if name.startswith(("num_", "vocab", "hidden_size", "inter", "head"))}
    path.write_text(json.dumps({**TRANSFORMERS_4, **sizes, "max_position_embeddings": 64, **SPELLINGS[case]}), encoding="utf-8")
    expected = hf.logits(hf.read(tmp_path), tokens)
    assert np.ptp(expected) > 3
    model, _ = load(tmp_path)
    assert (model.config.rope_theta, model.config.norm_epsilon, model.config.tied) == (1e6, 1e-6, True)
    np.testing.assert_allclose(model.logits(tokens), expected, rtol=0, atol=ATOL)


# ------------------------------------------------------ the pairs of columns that rope rotates


def test_the_norms_of_queries_and_keys_are_reordered_like_the_columns_of_a_head(
    ours: Callable[..., GPT], tmp_path: Path, tokens: np.ndarray
) -> None:
    model = ours("qwen3", rope_pairing="interleaved", n_heads=4, n_kv_heads=2, d_head=6)
    export(model, None, tmp_path / "exported")
    stored = load_file(tmp_path / "exported" / "model.safetensors")
    order = [0, 2, 4, 1, 3, 5]
    for i in (0, 1):
        here, there = f"blocks.{i}.attention.", f"model.layers.{i}.self_attn."
        for name in ("q_norm", "k_norm"):
            np.testing.assert_array_equal(stored[f"{there}{name}.weight"], model.parameters[f"{here}{name}.gamma"][order])
        queries = model.parameters[f"{here}qkv.weight"][:, :24].T.reshape(4, 6, -1)
        np.testing.assert_array_equal(stored[f"{there}q_proj.weight"].reshape(4, 6, -1), queries[:, order])
    import_directory(tmp_path / "exported", RunFolder(tmp_path / "run"), "")
    again, _ = load(tmp_path / "run")
    assert again.config.rope_pairing == "half"
    np.testing.assert_allclose(again.logits(tokens), model.logits(tokens), rtol=0, atol=ATOL)


def test_parameters_that_rope_does_not_rotate_keep_their_order(ours: Callable[..., GPT]) -> None:
    config = ours("qwen3", rope_pairing="interleaved").config
    names = ("token_embedding", "blocks.0.attention.out.weight", "blocks.0.attention_norm.gamma", "head")
    assert [half_pairing_columns(name, config) for name in names] == [slice(None)] * 4
    columns = half_pairing_columns("blocks.0.attention.qkv.weight", config)
    np.testing.assert_array_equal(columns[168:], np.arange(168, 210))  # the values
