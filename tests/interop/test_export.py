"""Models that are written here, read by transformers, and here again: the same numbers, the same ids."""

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
from minigpt.train.folder import RunFolder

CLOSE = 2e-5  # of logits up to 4
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"tied": False, "activation": "relu", "norm_epsilon": 1e-2}),
    ("gpt2", {"activation": "gelu_exact", "d_ff": 0}),
    ("llama", {}),
    ("llama", {"tied": True, "bias": True}),
    ("llama", {"n_kv_heads": 0, "d_head": 0, "rope_theta": 1e6}),
    ("llama", {"n_kv_heads": 1, "norm_epsilon": 1e-2}),
]
OTHER_LAYOUTS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"bias": False}),
    ("gpt2", {"bias": False, "tied": False}),
    ("llama", {"rope_pairing": "interleaved"}),
    ("llama", {"rope_pairing": "interleaved", "n_kv_heads": 0, "bias": True, "tied": True}),
]
NASTY = [
    *["", " ", "  a", "a  ", "\n\n", " \t\r\n x", "Zoë", "é e\u0301", "🐈 and 👩‍👧", "1234567 3.14", "don't I'll", "a , b . c !"],
    *["\x00", "<|endoftext", "日本語", "word\u00a0word", "x" * 300],
]


@pytest.mark.parametrize("family, changes", [*FORMS, *OTHER_LAYOUTS], ids=str)
def test_transformers_computes_the_same(
    hf: Any, ours: Callable[..., GPT], tmp_path: Path, tokens: np.ndarray, family: str, changes: dict[str, Any]
) -> None:
    model = ours(family, **changes)
    export(model, None, tmp_path / "there")
    theirs = hf.read(tmp_path / "there")  # with nothing missing and nothing left over
    expected = hf.logits(theirs, tokens)
    assert np.ptp(expected) > 3
    np.testing.assert_allclose(model.logits(tokens), expected, rtol=0, atol=CLOSE)
    assert theirs.config.model_type == family
    np.testing.assert_array_equal(hf.generate(theirs, tokens[:, :9], 12), model.generate(tokens[:, :9], 12))


@pytest.mark.parametrize("family, changes", FORMS, ids=str)
def test_what_is_exported_comes_back_bit_for_bit(
    ours: Callable[..., GPT], tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    model = ours(family, **changes)
    export(model, None, tmp_path / "there")
    again, tokenizer = load(tmp_path / "there")
    assert (again.config, tokenizer) == (model.config, None)
    np.testing.assert_array_equal(again.parameters.flat, model.parameters.flat)


@pytest.mark.parametrize("family, changes", OTHER_LAYOUTS, ids=str)
def test_another_layout_comes_back_as_the_same_function(
    ours: Callable[..., GPT], tmp_path: Path, tokens: np.ndarray, family: str, changes: dict[str, Any]
) -> None:
    model = ours(family, **changes)
    export(model, None, tmp_path / "there")
    again, _ = load(tmp_path / "there")
    assert (again.config.bias, again.config.rope_pairing) == (family == "gpt2" or model.config.bias, "half")
    np.testing.assert_allclose(again.logits(tokens), model.logits(tokens), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("family, changes", [FORMS[0], FORMS[3], *OTHER_LAYOUTS], ids=str)
def test_export_import_export_is_export(ours: Callable[..., GPT], tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    export(ours(family, vocab_size=257, **changes), Tokenizer.bytes(), tmp_path / "there")
    import_directory(tmp_path / "there", RunFolder(tmp_path / "run"), "0.0.0")
    export(*load(tmp_path / "run"), tmp_path / "again")
    files = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files
    assert len(files) == 5


def test_a_trained_run_is_exported(hf: Any, tiny_run: Path, tmp_path: Path) -> None:
    model, tokenizer = load(tiny_run)
    export(model, tokenizer, tmp_path / "there")
    rows = np.random.default_rng(0).integers(0, 257, (2, 16))
    theirs = hf.read(tmp_path / "there")
    np.testing.assert_allclose(hf.logits(theirs, rows), model.logits(rows), rtol=0, atol=CLOSE)
    assert (theirs.config.resid_pdrop, theirs.config.embd_pdrop, theirs.config.attn_pdrop) == (0.1, 0.1, 0.0)
    assert theirs.generation_config.eos_token_id == theirs.config.eos_token_id == 256


# -------------------------------------------------------------- tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": Tokenizer.bytes,
    "bpe": lambda: Tokenizer.train(["Once upon a time there was a cat, 1234567 of them.", *NASTY] * 3, 320),
    "char": lambda: Tokenizer.char(NASTY),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_transformers_gives_text_the_same_ids(hf: Any, ours: Callable[..., GPT], tmp_path: Path, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    export(ours("gpt2", vocab_size=tokenizer.vocab_size), tokenizer, tmp_path / "there")
    theirs = hf.tokenizer(tmp_path / "there")
    for text in NASTY:
        ids = theirs(text)["input_ids"]
        assert ids == tokenizer.encode(text), text
        assert theirs.decode(ids) == text
    assert theirs.bos_token_id == theirs.eos_token_id == tokenizer.end_of_text
    assert theirs.decode([tokenizer.end_of_text], skip_special_tokens=True) == ""
    assert theirs.model_max_length == 64
    assert load(tmp_path / "there")[1].fingerprint == tokenizer.fingerprint  # type: ignore[union-attr]


# ------------------------------------------------------- whole or not at all


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_something_is_left_alone(ours: Callable[..., GPT], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    before = content(tmp_path)
    for name in ("there", "file"):
        with pytest.raises(ValueError, match=f"{name} exists already and is not an empty folder: choose another"):
            export(ours("gpt2"), None, tmp_path / name)
    assert content(tmp_path) == before


def test_an_empty_folder_and_one_deep_down_are_filled(ours: Callable[..., GPT], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
        export(ours("llama"), None, folder)
        assert set(content(folder)) == {"config.json", "generation_config.json", "model.safetensors"}
        assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("where", ["safetensors.numpy.save_file", "minigpt.data.tokenizer.Tokenizer.save"])
def test_an_export_that_fails_leaves_nothing(
    ours: Callable[..., GPT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, exists: bool
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, full)
    if exists:
        (tmp_path / "there").mkdir()
    with pytest.raises(OSError, match="No space left"):
        export(ours("gpt2", vocab_size=257), Tokenizer.bytes(), tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"] * exists


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    (
        "gpt2",
        {"norm_placement": "post"},
        "for GPT-2 norm_placement is 'post'; for Llama norm is 'layer', positions is 'learned', ",
    ),
    ("llama", {"norm_placement": "post"}, "for Llama norm_placement is 'post'"),
    ("gpt2", {"qk_norm": True}, "for GPT-2 qk_norm is True; "),
    ("llama", {"qk_norm": True}, "for Llama qk_norm is True"),
    ("gpt2", {"norm": "rms"}, "for GPT-2 norm is 'rms'; for Llama positions is 'learned', activation is 'gelu'"),
    ("gpt2", {"positions": "rope"}, "for GPT-2 positions is 'rope'; "),
    ("gpt2", {"activation": "swiglu"}, "for GPT-2 activation is 'swiglu'; "),
    ("gpt2", {"n_kv_heads": 1}, "for GPT-2 the heads are not n_heads of width d_model / n_heads; "),
    ("gpt2", {"d_head": 4}, "for GPT-2 the heads are not n_heads of width d_model / n_heads; "),
    ("llama", {"activation": "relu"}, "for Llama activation is 'relu'"),
    ("llama", {"positions": "learned"}, "for Llama positions is 'learned'"),
    ("llama", {"norm": "layer"}, "for Llama norm is 'layer'"),
    ("llama", {"d_model": 22}, "for Llama n_heads does not divide d_model"),
]


@pytest.mark.parametrize("family, changes, reason", OTHERS, ids=str)
def test_a_model_of_another_form_is_refused_with_its_reasons(
    ours: Callable[..., GPT], tmp_path: Path, family: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        export(ours(family, **changes), None, tmp_path / "a" / "there")
    assert str(refusal.value).startswith("no model for transformers: for GPT-2 ")
    assert reason in str(refusal.value) and "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------- import


def test_an_import_is_a_run_of_one_checkpoint(directory: Callable[..., Path], tmp_path: Path) -> None:
    folder = directory("llama")
    model = import_directory(folder, RunFolder(tmp_path / "run"), "1.2.3")
    again, tokenizer = load(tmp_path / "run")
    assert (again.config, tokenizer) == (model.config, None)
    np.testing.assert_array_equal(again.parameters.flat, load(folder)[0].parameters.flat)
    assert set(content(tmp_path / "run")) == {"run.json", "checkpoints/step-000000/model.safetensors"}
    about = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert about == {"imported_from": "llama", "version": "1.2.3", "parameters": model.parameters.flat.size}


def test_an_import_goes_into_no_run_and_comes_from_a_directory(
    directory: Callable[..., Path], tiny_run: Path, tmp_path: Path
) -> None:
    before = content(tiny_run)
    with pytest.raises(ValueError, match="exists already"):
        import_directory(directory("gpt2"), RunFolder(tiny_run), "")
    assert content(tiny_run) == before
    (tmp_path / "empty").mkdir()
    nothing = [(tiny_run, "is no Hugging Face directory: it has no config.json"), (tmp_path / "empty", "holds no checkpoint")]
    for where, reason in [*nothing, (tmp_path / "none", "holds no checkpoint")]:
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
        files = [load_file(tmp_path / name / "model.safetensors") for name in (family, f"their {family}")]
        one, other = ({name: tensor.shape for name, tensor in file.items()} for file in files)
        assert one == other
