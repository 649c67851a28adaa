"""Models that transformers wrote have the same logits and greedy text here, in every format in which they can be stored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minigpt import load
from minigpt.interop.config import model_config
from minigpt.interop.families import FAMILIES

pytest.importorskip("transformers")
ATOL = 2e-5  # for logits up to 4
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"n_inner": None}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("gpt2", {"layer_norm_epsilon": 1e-2, "n_head": 1}),
    *(("gpt2", {"activation_function": name}) for name in FAMILIES["gpt2"].activations),
    ("llama", {}),
    ("llama", {"num_key_value_heads": None, "head_dim": None}),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("llama", {"attention_bias": True}),
    ("llama", {"mlp_bias": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"rms_norm_eps": 1e-2}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "num_attention_heads": 2, "head_dim": 6}),
    ("qwen3", {}),
    ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": None}),
    ("qwen3", {"attention_bias": True, "num_key_value_heads": 1}),
    ("qwen3", {"rms_norm_eps": 1e-2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ("qwen3", {"use_sliding_window": False, "sliding_window": 7, "max_window_layers": 0}),
]


def assert_equal_logits(hf: Any, theirs: Any, folder: Path, tokens: np.ndarray) -> None:
    """Check that minigpt loads a directory as a model with the logits of `theirs`."""
    expected = hf.logits(theirs, tokens)
    assert np.ptp(expected) > 3
    np.testing.assert_allclose(load(folder)[0].logits(tokens), expected, rtol=0, atol=ATOL)


def change_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    """Apply a function to the tensors of a directory."""
    path = folder / "model.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in change(load_file(path)).items()}, path)


def change_config(folder: Path, **changes: Any) -> None:
    """Change keys of config.json, or remove those with the value `...`."""
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}), encoding="utf-8")


@pytest.mark.parametrize("family, changes", SHAPES, ids=lambda value: value if isinstance(value, str) else str(value))
def test_logits_are_equal_to_those_of_transformers(
    hf: Any, tmp_path: Path, tokens: np.ndarray, family: str, changes: dict[str, Any]
) -> None:
    theirs = hf.model(family, **changes)
    theirs.save_pretrained(tmp_path)
    assert_equal_logits(hf, theirs, tmp_path, tokens)
    assert load(tmp_path)[1] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_equal_to_that_of_transformers(hf: Any, tmp_path: Path, tokens: np.ndarray, family: str) -> None:
    theirs = hf.model(family, tie_word_embeddings=False)  # a tied model would repeat one token
    theirs.save_pretrained(tmp_path)
    model, _ = load(tmp_path)
    expected = hf.generate(theirs, tokens[:, :5], 59)  # up to the last position
    assert len(np.unique(expected[:, 5:])) > 5
    np.testing.assert_array_equal(model.generate(tokens[:, :5], 59), expected)
    prompts = [tokens[0, :3], tokens[1, :17], tokens[2, :8]]
    for row, prompt in zip(model.generate(prompts, 20), prompts, strict=True):
        assert row.tolist() == hf.generate(theirs, prompt[None], 20)[0].tolist()
    stop = int(expected[0, 20])
    stopped = model.generate(tokens[:1, :5], 59, stop_tokens=[stop])[0]
    assert stopped.tolist() == hf.generate(theirs, tokens[:1, :5], 59, eos_token_id=stop)[0].tolist()


# ------------------------------------------------------ storage formats


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_dtypes_are_converted_to_float32(hf: Any, tmp_path: Path, tokens: np.ndarray, family: str, dtype: str) -> None:
    hf.to(hf.model(family), dtype).save_pretrained(tmp_path)
    assert_equal_logits(hf, hf.read(tmp_path), tmp_path, tokens)
    assert load(tmp_path)[0].parameters.flat.dtype == np.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_weights(hf: Any, tmp_path: Path, tokens: np.ndarray, family: str) -> None:
    theirs = hf.model(family)
    theirs.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 5
    assert not (tmp_path / "model.safetensors").exists()
    assert_equal_logits(hf, theirs, tmp_path, tokens)


def add_head(folder: Path, head: Callable[[np.ndarray], np.ndarray]) -> None:
    """Add an LM head to the stored tensors, computed from the token embedding."""

    def add(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        embedding = next(array for name, array in tensors.items() if name.endswith(("wte.weight", "embed_tokens.weight")))
        return tensors | {"lm_head.weight": head(embedding)}

    change_tensors(folder, add)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_head_may_be_stored_twice(hf: Any, tmp_path: Path, tokens: np.ndarray, family: str) -> None:
    theirs = hf.model(family, tie_word_embeddings=True)
    theirs.save_pretrained(tmp_path)
    add_head(tmp_path, lambda embedding: embedding)
    assert_equal_logits(hf, theirs, tmp_path, tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_head_that_differs_from_the_embedding_is_not_ignored(
    hf: Any, tmp_path: Path, tokens: np.ndarray, family: str
) -> None:
    hf.model(family, tie_word_embeddings=True).save_pretrained(tmp_path)
    add_head(tmp_path, lambda embedding: embedding[::-1])
    try:
        assert_equal_logits(hf, hf.read(tmp_path), tmp_path, tokens)
    except ValueError as refusal:
        assert "lm_head.weight" in str(refusal)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_names_without_their_prefix(hf: Any, tmp_path: Path, tokens: np.ndarray, family: str, tied: bool) -> None:
    prefix = FAMILIES[family].prefix
    theirs = hf.model(family, tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path)
    change_tensors(tmp_path, lambda tensors: {name.removeprefix(prefix): array for name, array in tensors.items()})
    assert not any(name.startswith(prefix) for name in load_file(tmp_path / "model.safetensors"))
    assert_equal_logits(hf, theirs, tmp_path, tokens)


MASK = np.tril(np.ones((1, 1, 64, 64), np.float32))
CONSTANTS: dict[str, dict[str, np.ndarray]] = {
    "gpt2": {"transformer.h.0.attn.bias": MASK, "transformer.h.1.attn.masked_bias": np.array(-1e4, np.float32)},
    "gpt2, stored as booleans": {"transformer.h.0.attn.bias": MASK > 0, "transformer.h.1.attn.bias": MASK.astype(np.uint8)},
    "gpt2, without prefix": {"h.0.attn.bias": MASK},
    "llama": {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(5, np.float32) for i in (0, 1)},
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants_in_older_files_are_ignored(hf: Any, tmp_path: Path, tokens: np.ndarray, case: str) -> None:
    theirs = hf.model(case[:5].removesuffix(","))
    theirs.save_pretrained(tmp_path)
    prefix = "transformer." if "without" in case else ""
    change_tensors(
        tmp_path, lambda tensors: {name.removeprefix(prefix): array for name, array in tensors.items()} | CONSTANTS[case]
    )
    assert_equal_logits(hf, theirs, tmp_path, tokens)


def test_constants_in_an_index_are_ignored(hf: Any, tmp_path: Path, tokens: np.ndarray) -> None:
    theirs = hf.model("gpt2")
    theirs.save_pretrained(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors | CONSTANTS["gpt2, stored as booleans"])
    names = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert_equal_logits(hf, theirs, tmp_path, tokens)


def test_a_single_file_has_precedence_over_an_index(hf: Any, tmp_path: Path, tokens: np.ndarray) -> None:
    """As in transformers."""
    theirs = hf.model("llama")
    theirs.save_pretrained(tmp_path)
    zeros = {name: np.zeros_like(array) for name, array in load_file(tmp_path / "model.safetensors").items()}
    save_file(zeros, tmp_path / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(zeros, "model-00001-of-00001.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    np.testing.assert_array_equal(hf.logits(hf.read(tmp_path), tokens), hf.logits(theirs, tokens))
    assert_equal_logits(hf, theirs, tmp_path, tokens)


# ---------------------------------------------------------- config.json


def test_defaults_are_those_of_transformers(hf: Any) -> None:
    for family in FAMILIES:
        assert model_config({"model_type": family}) == model_config(hf.defaults(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_keys_have_the_defaults(hf: Any, tmp_path: Path, tokens: np.ndarray, family: str) -> None:
    sizes: dict[str, dict[str, Any]] = {"gpt2": {"n_inner": None}, "llama": {"num_key_value_heads": None, "head_dim": None}}
    theirs = hf.model(family, **sizes.get(family, {}))
    theirs.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    kept = ["model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head"]
    kept += ["max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    kept += ["num_key_value_heads", "head_dim"] if family == "qwen3" else []  # the defaults are those of a large model
    change_config(tmp_path, **dict.fromkeys(content.keys() - set(kept), ...))
    assert_equal_logits(hf, theirs, tmp_path, tokens)


ROPE_SPELLINGS: dict[str, dict[str, Any]] = {
    "theta at the top level": {
        "rope_theta": 77.0,
        "rope_scaling": None,
        "rope_parameters": ...,
        "torch_dtype": "float32",
        "dtype": ...,
    },
    "theta at the top level, an integer": {"rope_theta": 77, "rope_parameters": ...},
    "no theta": {"rope_parameters": ...},
    "null": {"rope_parameters": None, "rope_scaling": None},
    "scaling of the default type": {"rope_theta": 77.0, "rope_scaling": {"type": "default"}, "rope_parameters": ...},
    "both": {"rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
    "new, without theta": {"rope_theta": 77.0, "rope_parameters": {"rope_type": "default"}},
}


@pytest.mark.parametrize("case", ROPE_SPELLINGS)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_spelling_of_rope(hf: Any, tmp_path: Path, tokens: np.ndarray, family: str, case: str) -> None:
    hf.model(family).save_pretrained(tmp_path)
    change_config(tmp_path, **ROPE_SPELLINGS[case])
    assert_equal_logits(hf, hf.read(tmp_path), tmp_path, tokens)
