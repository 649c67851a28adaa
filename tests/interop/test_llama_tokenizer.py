"""Tokenizers like Llama's: a space before each word, bytes for unknown characters, different tokens before and after a text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from minigpt import GPT, ModelConfig, load
from minigpt.cli import main
from minigpt.data.tokenizer import Tokenizer
from minigpt.generate.text import stream_text
from minigpt.interop.hugging_face import export
from minigpt.interop.load import import_directory
from minigpt.runs.folder import RunFolder

STORY = "Once upon a time there was a little cat. The cat was happy.\nThe end."
TEXTS = [
    *[
        "",
        " ",
        "a",
        " a",
        "  two  spaces ",
        STORY,
        "tab\tnew\n\nline\r\n",
        "Zoë é e\u0301",
        "🐈👩‍👧 cat 🐈",
        "1234567 3.14",
        "日本 語",
    ],
    *["▁ is their space", "don't", "<0x41>", "\x00\x7f", "<unk >"],
]
SPACES = ["normalizer", "Metaspace"]
CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def backend(spaces: str) -> Backend:
    """Return a tokenizer with the vocabulary <unk>, <s>, </s>, the 256 bytes, and the tokens of a BPE trained on the story.

    `spaces` is the component that replaces spaces by "▁".
    """
    bpe = Backend(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.train_from_iterator([STORY] * 3, trainers.BpeTrainer(vocab_size=70, show_progress=False))
    trained = json.loads(bpe.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *trained["vocab"]]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(pair) for pair in trained["merges"]]
    result = Backend(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if spaces == "normalizer":
        result.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        result.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    result.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    result.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<unk>", "<s>", "</s>")])
    result.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return result


@pytest.fixture(params=SPACES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "llama").mkdir()
    backend(request.param).save(str(tmp_path / "llama" / "tokenizer.json"))
    return write(tmp_path / "llama", "tokenizer_config.json", CONFIG)


def write(folder: Path, name: str, content: Any) -> Path:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


# ------------------------------------------------------------------- ids


def test_ids_are_equal_to_those_of_transformers(hf: Any, folder: Path) -> None:
    tokenizer, theirs = Tokenizer.load(folder), hf.tokenizer(folder)
    assert (tokenizer.begin_of_text, tokenizer.end_of_text) == (theirs.bos_token_id, theirs.eos_token_id) == (1, 2)
    assert tokenizer.vocab_size == len(theirs)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
        assert theirs(text)["input_ids"] == [1, *ids]
        assert tokenizer.decode(ids) == theirs.decode(ids)
        if not text.startswith((" ", "▁")):  # Metaspace adds no space to these
            assert tokenizer.decode(ids) == text


def test_the_pieces_of_the_ids_are_the_bytes_of_the_text(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert b"".join(tokenizer.pieces(ids)) == tokenizer.decode(ids).encode(), text
    cat = tokenizer.pieces(tokenizer.encode("cat 🐈"))
    assert cat[-4:] == [b"\xf0", b"\x9f", b"\x90", b"\x88"] and b" " in cat


def test_special_tokens_within_a_text_are_encoded_as_text(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode("</s><s>")
    assert not {1, 2} & set(ids)
    assert tokenizer.decode(ids) == "</s><s>"


CONFIG_FILES: list[tuple[dict[str, Any], tuple[int, int]]] = [
    (
        {"tokenizer_config.json": {"bos_token": {"content": "<s>", "__type": "AddedToken"}, "eos_token": {"content": "</s>"}}},
        (1, 2),
    ),
    ({"tokenizer_config.json": {"bos_token": None, "eos_token": "</s>"}}, (2, 2)),
    ({"tokenizer_config.json": {"bos_token": "<s>", "eos_token": "<s>"}}, (1, 1)),
    ({"config.json": {"bos_token_id": 1, "eos_token_id": 2}, "tokenizer_config.json": {}}, (1, 2)),
    ({"config.json": {"bos_token_id": 1, "eos_token_id": [2, 0]}}, (1, 2)),
    ({"config.json": {"bos_token_id": 0, "eos_token_id": 0}, "tokenizer_config.json": CONFIG}, (1, 2)),
    ({"config.json": {"bos_token_id": 1, "eos_token_id": 2}, "tokenizer_config.json": {"eos_token": "<unk>"}}, (1, 0)),
    ({"config.json": {"bos_token_id": 1, "eos_token_id": 2}, "tokenizer_config.json": {"eos_token": "<|im_end|>"}}, (1, 2)),
    ({"config.json": {"bos_token_id": None, "eos_token_id": None}}, (-1, -1)),
    ({"config.json": {"bos_token_id": 99_999, "eos_token_id": 99_999}}, (-1, -1)),
    ({"tokenizer_config.json": {"bos_token": "<s>"}}, (-1, -1)),
    ({}, (-1, -1)),
]


@pytest.mark.parametrize("files, special_ids", CONFIG_FILES, ids=lambda value: str(value)[:60])
def test_special_tokens_are_read_from_the_configuration_files(
    tmp_path: Path, files: dict[str, Any], special_ids: tuple[int, int]
) -> None:
    """-1 stands for <|endoftext|>, which becomes the last id if the files give no special token."""
    backend("normalizer").save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        write(tmp_path, name, content)
    tokenizer = Tokenizer.load(tmp_path)
    last = tokenizer.vocab_size - 1
    assert (tokenizer.begin_of_text, tokenizer.end_of_text) == tuple(last if i == -1 else i for i in special_ids)
    assert (tokenizer.special_tokens[1] == "<|endoftext|>") == (special_ids[1] == -1)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"eos_token": [[]]}', b"\xff", b'{"eos_token": -1}', b'{"eos_token": {"a": 1}}']
)
def test_a_damaged_configuration_file_is_refused_or_ignored(tmp_path: Path, content: bytes) -> None:
    backend("normalizer").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    try:
        assert Tokenizer.load(tmp_path).special_tokens == ("<|endoftext|>", "<|endoftext|>")
    except ValueError as refusal:
        assert "no tokenizer can be read from" in str(refusal) and "\n" not in str(refusal)


# ---------------------------------------------------------------- stream


@pytest.mark.parametrize("text", TEXTS)
def test_the_streamed_text_after_any_prompt_is_complete(folder: Path, text: str) -> None:
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(text)
    for i in range(len(ids) + 1):
        shown = tokenizer.decode(ids[:i])
        if "\ufffd" in shown:  # within a character, where no prompt ends
            continue
        stream = tokenizer.stream(after=ids[:i])
        chunks = [stream.push(token) for token in ids[i:]]
        assert shown + "".join(chunks) + stream.finish() == tokenizer.decode(ids)
        assert "\ufffd" not in "".join(chunks)


def test_the_first_space_is_kept_only_after_a_prompt(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode("upon")
    with_prompt, without = tokenizer.stream(after=tokenizer.encode("Once")), tokenizer.stream()
    assert "".join(map(with_prompt.push, ids)) == " upon"
    assert "".join(map(without.push, ids)) == "upon"


# ------------------------------------------------------------ generation


def scripted(tokenizer: Tokenizer, text: str, prompt: str, end: int) -> GPT:
    """Return a model that continues the prompt to the end of the text, because it predicts each token from the position alone."""
    ids = [tokenizer.begin_of_text, *tokenizer.encode(text), end, *tokenizer.encode("never generated")]
    V, start = tokenizer.vocab_size, 1 + len(tokenizer.encode(prompt))
    model = GPT(ModelConfig(vocab_size=V, context_length=len(ids), d_model=V, n_layers=1, n_heads=1, d_ff=1))
    p = model.parameters
    p.flat.fill(0)
    p["final_norm.gamma"].fill(1)
    p["token_embedding"].flat[:: V + 1] = 1
    for i in range(start, len(ids)):
        p["position_embedding"][i - 1, ids[i]] = 100
    return model


@pytest.mark.parametrize("end", [1, 2], ids=["<s>", "</s>"])
@pytest.mark.parametrize("prompt", ["", "Once upon", "Once upon a time"])
def test_text_ends_before_either_special_token_and_keeps_its_spaces(folder: Path, prompt: str, end: int) -> None:
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode(STORY)[: len(tokenizer.encode(prompt))] == tokenizer.encode(prompt)
    model = scripted(tokenizer, STORY, prompt, end)
    generated = "".join(stream_text(model, tokenizer, prompt, temperature=0))
    assert generated == STORY.removeprefix(prompt)


def test_the_command_line_generates_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer.load(folder)
    for prompt in ("", "Once"):
        exported = folder.parent / f"model{prompt}"
        export(scripted(tokenizer, STORY, prompt, end=2), tokenizer, exported)
        with pytest.raises(SystemExit):
            main(["sample", str(exported), "--greedy", "--prompt", prompt])
        assert capsys.readouterr() == (f"{STORY}\n", "")


# ------------------------------------------------------------ round trip


def test_an_imported_run_keeps_the_special_tokens(hf: Any, folder: Path, ours: Callable[..., GPT], tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    export(ours("llama", vocab_size=tokenizer.vocab_size), tokenizer, tmp_path / "exported")
    import_directory(tmp_path / "exported", RunFolder(tmp_path / "run"), "")
    _, imported = load(tmp_path / "run")
    assert imported
    assert (imported.begin_of_text, imported.end_of_text) == (1, 2)
    assert imported.fingerprint == tokenizer.fingerprint
    assert [imported.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    export(*load(tmp_path / "run"), tmp_path / "again")
    theirs, config = hf.tokenizer(tmp_path / "again"), hf.read(tmp_path / "again").config
    assert (theirs.bos_token, theirs.eos_token) == ("<s>", "</s>")
    assert (config.bos_token_id, config.eos_token_id) == (1, 2)
    assert [theirs(text)["input_ids"] for text in TEXTS] == [[1, *tokenizer.encode(text)] for text in TEXTS]


def test_the_special_tokens_are_a_part_of_the_fingerprint(tmp_path: Path) -> None:
    """Data that was encoded with one end of text must not be used with another."""
    backend("normalizer").save(str(tmp_path / "tokenizer.json"))
    found = {Tokenizer.load(tmp_path).fingerprint}
    for config in ({"eos_token": "</s>"}, {"eos_token": "</s>", "bos_token": "<s>"}, {"eos_token": "<s>"}):
        found.add(Tokenizer.load(write(tmp_path, "tokenizer_config.json", config)).fingerprint)
    assert len(found) == 4


def test_training_data_has_the_special_tokens_around_each_text(tmp_path: Path) -> None:
    from minigpt.data.splits import open_split
    from minigpt.data.token_files import write_split
    from minigpt.data.tokenizer import TOKENIZER_CONFIG, Tokenizer

    Tokenizer.bytes().save(tmp_path / "tokenizer.json")
    (tmp_path / TOKENIZER_CONFIG).write_text('{"bos_token": "A", "eos_token": "B"}', encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.begin_of_text, tokenizer.end_of_text) == (65, 66)
    write_split(tmp_path / "train.bin", ["x", "yz"], tokenizer)
    assert bytes(open_split(tmp_path / "train.bin", tokenizer).tokens.tolist()) == b"AxBAyzBA"
