"""Exported models have the same logits and token ids in transformers, and after an import."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from minigpt import GPT, load
from minigpt.data.tokenizer import Tokenizer
from minigpt.interop.hugging_face import export
from minigpt.interop.load import import_directory
from minigpt.runs.folder import RunFolder

ATOL = 2e-5  # for logits up to 4
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"tied": False, "activation": "relu", "norm_epsilon": 1e-2}),
    ("gpt2", {"activation": "gelu_exact", "d_ff": 0}),
    ("llama", {}),
    ("llama", {"tied": True, "attention_bias": True, "feed_forward_bias": True}),
    ("llama", {"attention_bias": True}),
    ("llama", {"feed_forward_bias": True}),
    ("llama", {"n_kv_heads": 0, "d_head": 0, "rope_theta": 1e6}),
    ("llama", {"n_kv_heads": 1, "norm_epsilon": 1e-2}),
    ("qwen3", {}),
    ("qwen3", {"tied": True, "attention_bias": True, "n_kv_heads": 1}),
    ("qwen3", {"n_heads": 4, "n_kv_heads": 0, "d_head": 0, "d_ff": 0, "rope_theta": 1e6}),
]
OTHER_LAYOUTS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"attention_bias": False, "feed_forward_bias": False}),
    ("gpt2", {"attention_bias": False, "feed_forward_bias": False, "tied": False}),
    ("gpt2", {"attention_bias": False}),
    ("gpt2", {"feed_forward_bias": False}),
    ("llama", {"rope_pairing": "interleaved"}),
    ("llama", {"rope_pairing": "interleaved", "n_kv_heads": 0, "attention_bias": True, "feed_forward_bias": True, "tied": True}),
    ("qwen3", {"rope_pairing": "interleaved"}),
    ("qwen3", {"rope_pairing": "interleaved", "n_kv_heads": 1, "attention_bias": True, "tied": True}),
]
UNUSUAL_TEXTS = [
    *["", " ", "  a", "a  ", "\n\n", " \t\r\n x", "Zoë", "é e\u0301", "🐈 and 👩‍👧", "1234567 3.14", "don't I'll", "a , b . c !"],
    *["\x00", "<|endoftext", "日本語", "word\u00a0word", "x" * 300],
]


@pytest.mark.parametrize("family, changes", [*FORMS, *OTHER_LAYOUTS], ids=str)
def test_logits_and_greedy_text_are_equal_in_transformers(
    hf: Any, ours: Callable[..., GPT], tmp_path: Path, tokens: np.ndarray, family: str, changes: dict[str, Any]
) -> None:
    model = ours(family, **changes)
    export(model, None, tmp_path / "exported")
    theirs = hf.read(tmp_path / "exported")  # raises if a tensor is missing or unused
    expected = hf.logits(theirs, tokens)
    assert np.ptp(expected) > 3
    np.testing.assert_allclose(model.logits(tokens), expected, rtol=0, atol=ATOL)
    assert theirs.config.model_type == family
    np.testing.assert_array_equal(hf.generate(theirs, tokens[:, :9], 12), model.generate(tokens[:, :9], 12))


@pytest.mark.parametrize("family, changes", FORMS, ids=str)
def test_an_exported_model_is_loaded_bit_for_bit(
    ours: Callable[..., GPT], tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    model = ours(family, **changes)
    export(model, None, tmp_path / "exported")
    again, tokenizer = load(tmp_path / "exported")
    assert (again.config, tokenizer) == (model.config, None)
    np.testing.assert_array_equal(again.parameters.flat, model.parameters.flat)


@pytest.mark.parametrize("family, changes", OTHER_LAYOUTS, ids=str)
def test_other_layouts_are_loaded_as_equivalent_models(
    ours: Callable[..., GPT], tmp_path: Path, tokens: np.ndarray, family: str, changes: dict[str, Any]
) -> None:
    model = ours(family, **changes)
    export(model, None, tmp_path / "exported")
    again, _ = load(tmp_path / "exported")
    assert again.config.rope_pairing == "half"
    assert again.config.attention_bias == (family == "gpt2" or model.config.attention_bias)
    assert again.config.feed_forward_bias == (family == "gpt2" or model.config.feed_forward_bias)
    np.testing.assert_allclose(again.logits(tokens), model.logits(tokens), rtol=0, atol=ATOL)


@pytest.mark.parametrize("family, changes", [FORMS[0], FORMS[3], FORMS[9], *OTHER_LAYOUTS], ids=str)
def test_a_second_export_after_an_import_has_the_same_bytes(
    ours: Callable[..., GPT], tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    export(ours(family, vocab_size=257, **changes), Tokenizer.bytes(), tmp_path / "exported")
    import_directory(tmp_path / "exported", RunFolder(tmp_path / "run"), "0.0.0")
    export(*load(tmp_path / "run"), tmp_path / "again")
    files = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files
    assert len(files) == 5


def test_a_trained_run_is_exported(hf: Any, tiny_run: Path, tmp_path: Path) -> None:
    model, tokenizer = load(tiny_run)
    export(model, tokenizer, tmp_path / "exported")
    rows = np.random.default_rng(0).integers(0, 257, (2, 16))
    theirs = hf.read(tmp_path / "exported")
    np.testing.assert_allclose(hf.logits(theirs, rows), model.logits(rows), rtol=0, atol=ATOL)
    assert theirs.generation_config.eos_token_id == theirs.config.eos_token_id == 256


def test_the_dropout_of_gpt2_is_exported(hf: Any, ours: Callable[..., GPT], tmp_path: Path) -> None:
    export(ours("gpt2", dropout=0.1), None, tmp_path / "exported")
    config = hf.read(tmp_path / "exported").config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.1, 0.1, 0.0)


# -------------------------------------------------------------- tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": Tokenizer.bytes,
    "bpe": lambda: Tokenizer.train(["Once upon a time there was a cat, 1234567 of them.", *UNUSUAL_TEXTS] * 3, 320),
    "char": lambda: Tokenizer.char(UNUSUAL_TEXTS),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_tokenizer_gives_the_same_ids_in_transformers(hf: Any, ours: Callable[..., GPT], tmp_path: Path, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    export(ours("gpt2", vocab_size=tokenizer.vocab_size), tokenizer, tmp_path / "exported")
    theirs = hf.tokenizer(tmp_path / "exported")
    for text in UNUSUAL_TEXTS:
        ids = theirs(text)["input_ids"]
        assert ids == tokenizer.encode(text), text
        assert theirs.decode(ids) == text
    assert theirs.bos_token_id == theirs.eos_token_id == tokenizer.end_of_text
    assert theirs.decode([tokenizer.end_of_text], skip_special_tokens=True) == ""
    assert theirs.model_max_length == 64
    assert load(tmp_path / "exported")[1].fingerprint == tokenizer.fingerprint  # type: ignore[union-attr]


# ------------------------------------------------------- complete or nothing


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_is_not_empty_is_not_changed(ours: Callable[..., GPT], tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    before = files(tmp_path)
    for name in ("exported", "file"):
        with pytest.raises(ValueError, match=f"{name} already exists and is not an empty folder: choose another"):
            export(ours("gpt2"), None, tmp_path / name)
    assert files(tmp_path) == before


def test_empty_and_nested_folders_are_written(ours: Callable[..., GPT], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
        export(ours("llama"), None, folder)
        assert set(files(folder)) == {"config.json", "generation_config.json", "model.safetensors"}
        assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("where", ["safetensors.numpy.save_file", "minigpt.data.tokenizer.Tokenizer.save"])
def test_a_failed_export_leaves_no_files(
    ours: Callable[..., GPT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, exists: bool
) -> None:
    def disk_full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, disk_full)
    if exists:
        (tmp_path / "exported").mkdir()
    with pytest.raises(OSError, match="No space left"):
        export(ours("gpt2", vocab_size=257), Tokenizer.bytes(), tmp_path / "exported")
    assert [path.name for path in tmp_path.rglob("*")] == (["exported"] if exists else [])


HEADS = "the heads are not n_heads of width d_model / n_heads"
UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [  # the nearest family, or all of them
    ("gpt2", {"norm_placement": "post"}, "a GPT-2 (norm_placement is 'post')"),
    ("gpt2", {"qk_norm": True}, "a GPT-2 (qk_norm is True)"),
    ("gpt2", {"norm": "rms"}, "a GPT-2 (norm is 'rms'), a Llama (positions is 'learned', activation is 'gelu'), nor a Qwen 3 ("),
    ("gpt2", {"positions": "rope"}, "a GPT-2 (positions is 'rope')"),
    ("gpt2", {"activation": "swiglu"}, "a GPT-2 (activation is 'swiglu')"),
    ("gpt2", {"activation": "relu_squared"}, "a GPT-2 (activation is 'relu_squared')"),
    ("gpt2", {"n_kv_heads": 1}, f"a GPT-2 ({HEADS})"),
    ("gpt2", {"d_head": 4}, f"a GPT-2 ({HEADS})"),
    ("llama", {"norm_placement": "post"}, "a Llama (norm_placement is 'post')"),
    ("llama", {"activation": "relu"}, "a Llama (activation is 'relu')"),
    ("llama", {"positions": "learned"}, "a Llama (positions is 'learned')"),
    ("llama", {"norm": "layer"}, "a Llama (norm is 'layer')"),
    (
        "llama",
        {"d_model": 22},
        "a Llama (d_model is not divisible by n_heads), a Qwen 3 (qk_norm is False), nor a GPT-2 (norm is",
    ),
    (
        "llama",
        {"qk_norm": True, "feed_forward_bias": True},
        "a Llama (qk_norm is True), a Qwen 3 (feed_forward_bias is True), nor",
    ),
    ("qwen3", {"activation": "relu_squared"}, "a Qwen 3 (activation is 'relu_squared')"),
    ("qwen3", {"norm": "layer"}, "a Qwen 3 (norm is 'layer')"),
    ("qwen3", {"norm_placement": "post", "positions": "learned"}, "a Qwen 3 (norm_placement is 'post', positions is 'learned')"),
    ("qwen3", {"qk_norm": False}, "a Llama (d_model is not divisible by n_heads), a Qwen 3 (qk_norm is False), nor"),
]


@pytest.mark.parametrize("family, changes, reason", UNSUPPORTED, ids=str)
def test_other_models_are_refused_with_the_reasons(
    ours: Callable[..., GPT], tmp_path: Path, family: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        export(ours(family, **changes), None, tmp_path / "a" / "exported")
    text = str(refusal.value)
    assert text.startswith(f"the model is neither {reason}") and text.endswith(") of transformers") and "\n" not in text
    assert all(f"a {name} (" in text for name in ("GPT-2", "Llama", "Qwen 3"))
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------- import


def test_an_import_creates_a_run_with_one_checkpoint(directory: Callable[..., Path], tmp_path: Path) -> None:
    folder = directory("llama")
    model = import_directory(folder, RunFolder(tmp_path / "run"), "1.2.3")
    again, tokenizer = load(tmp_path / "run")
    assert (again.config, tokenizer) == (model.config, None)
    np.testing.assert_array_equal(again.parameters.flat, load(folder)[0].parameters.flat)
    assert set(files(tmp_path / "run")) == {"run.json", "checkpoints/step-000000/model.safetensors"}
    run_json = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run_json == {"imported_from": "llama", "version": "1.2.3", "parameters": model.parameters.flat.size}


def test_an_import_into_a_run_or_from_something_else_is_refused(
    directory: Callable[..., Path], tiny_run: Path, tmp_path: Path
) -> None:
    before = files(tiny_run)
    with pytest.raises(ValueError, match="already exists"):
        import_directory(directory("gpt2"), RunFolder(tiny_run), "")
    assert files(tiny_run) == before
    (tmp_path / "empty").mkdir()
    sources = [(tiny_run, "is not a Hugging Face directory: it has no config.json"), (tmp_path / "empty", "holds no checkpoint")]
    for where, reason in [*sources, (tmp_path / "none", "holds no checkpoint")]:
        with pytest.raises(ValueError, match=reason):
            import_directory(where, RunFolder(tmp_path / "run"), "")
    (tmp_path / "gpt2" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be read"):
        import_directory(tmp_path / "gpt2", RunFolder(tmp_path / "run"), "")
    assert not (tmp_path / "run").exists()


def test_tensors_have_the_names_and_layouts_of_transformers(hf: Any, ours: Callable[..., GPT], tmp_path: Path) -> None:
    for family in ("gpt2", "llama"):
        hf.model(family).save_pretrained(tmp_path / f"their {family}")
        export(ours(family), None, tmp_path / family)
        stored = [load_file(tmp_path / name / "model.safetensors") for name in (family, f"their {family}")]
        ours_shapes, their_shapes = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in stored)
        assert ours_shapes == their_shapes
