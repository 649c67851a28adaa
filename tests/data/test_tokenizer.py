import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.data import tokenizer as tokenizer_module
from minigpt.data.corpus import END_OF_TEXT
from minigpt.data.tokenizer import Tokenizer

STORIES = [
    "Once upon a time there was a little cat. The cat sat on the mat.",
    "Once upon a time there was a little dog.\nThe dog said: “Hello, cat!”",
    "Zoë saw a 🐈 and a 👩‍👧. They played all day.",
]
AWKWARD = [
    "",
    " ",
    "\n\n\t \r\n",
    "\x00",
    "e\u0301\u0301",
    "👩‍👧 🇫🇷",
    "naïve 日本語",
    END_OF_TEXT,
    f"a{END_OF_TEXT}b",
    "\ufffd",
    "\ufeffx",
]

bpe = Tokenizer.train(STORIES, 300)
raw = Tokenizer.bytes()
char = Tokenizer.char(STORIES)
any_text = st.text() | st.lists(st.sampled_from([*AWKWARD, "cat", " the"])).map("".join)


@pytest.fixture(params=[bpe, raw, char], ids=["bpe", "bytes", "char"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.param


@pytest.mark.parametrize("tokenizer", [bpe, raw], ids=["bpe", "bytes"])
@given(text=any_text)
@settings(deadline=None)
def test_any_text_is_restored(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_of_text not in ids


@given(text=any_text, known=st.text(alphabet=sorted(set("".join(STORIES)))))
@settings(deadline=None)
def test_the_pieces_of_the_ids_are_the_bytes_of_the_text(text: str, known: str) -> None:
    for tokenizer in (bpe, raw):
        assert b"".join(tokenizer.pieces(tokenizer.encode(text))) == text.encode()
    assert char.pieces(char.encode(known)) == [character.encode() for character in known]


def test_the_end_of_text_is_a_piece() -> None:
    for tokenizer in (bpe, raw, char):
        assert tokenizer.pieces([tokenizer.end_of_text]) == [END_OF_TEXT.encode()]
    assert bpe.pieces([]) == []


@given(text=st.text(alphabet=sorted(set("".join(STORIES)))))
@settings(deadline=None)
def test_known_characters_are_restored(text: str) -> None:
    ids = char.encode(text)
    assert char.decode(ids) == text and len(ids) == len(text)


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_is_restored(text: str) -> None:
    assert bpe.decode(bpe.encode(text)) == text == raw.decode(raw.encode(text))


@given(text=any_text)
@settings(deadline=None)
def test_bytes_are_the_utf8_bytes(text: str) -> None:
    assert raw.encode(text) == list(text.encode("utf-8"))


def test_characters_are_sorted_like_in_nanogpt() -> None:
    tokenizer = Tokenizer.char(["hello", "world"])
    assert tokenizer.decode(range(tokenizer.vocab_size)) == "dehlorw" + END_OF_TEXT


def test_the_end_of_text_is_one_id_that_no_text_contains(tokenizer: Tokenizer) -> None:
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1
    assert tokenizer.decode([tokenizer.end_of_text]) == END_OF_TEXT


def test_literal_end_mark_is_plain_text_also_in_a_character_vocabulary() -> None:
    tokenizer = Tokenizer.char([END_OF_TEXT])
    assert len(tokenizer.encode(END_OF_TEXT)) == len(END_OF_TEXT)


def test_bpe_merges_what_is_frequent() -> None:
    assert len(bpe.encode("Once upon a time")) < len("Once upon a time")
    assert bpe.vocab_size == 300


def test_bpe_of_little_text_has_fewer_ids_than_requested() -> None:
    assert 257 < Tokenizer.train(["aa aa aa"], 5000).vocab_size < 300
    assert Tokenizer.train([], 5000).vocab_size == 257


def test_training_is_deterministic() -> None:
    assert Tokenizer.train(STORIES * 50, 320).fingerprint == Tokenizer.train(iter(STORIES * 50), 320).fingerprint


def test_training_on_chunks_of_a_long_document_gives_the_same_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(STORIES * 20)
    expected = Tokenizer.train([text], 320).fingerprint
    monkeypatch.setattr(tokenizer_module, "_CHUNK_SIZE", 50)
    assert Tokenizer.train([text], 320).fingerprint == expected


def test_an_error_in_the_documents_is_not_swallowed() -> None:
    def broken() -> Iterator[str]:
        yield "some text"
        raise ValueError("line 2 is bad")

    with pytest.raises(ValueError, match="line 2 is bad"):
        Tokenizer.train(broken(), 300)


def test_batches_are_encoded_like_single_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(STORIES) == [tokenizer.encode(story) for story in STORIES]
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("tokenizer", [bpe, raw], ids=["bpe", "bytes"])
@given(data=st.data())
@settings(deadline=None)
def test_stream_adds_up_to_decode_for_any_ids(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.finish()]) == tokenizer.decode(ids)


@given(text=any_text)
@settings(deadline=None)
def test_stream_never_returns_part_of_a_character(text: str) -> None:
    stream = raw.stream()
    chunks = [stream.push(i) for i in raw.encode(text)]
    assert "".join([*chunks, stream.finish()]) == text
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(chunks)


def test_stream_returns_characters_as_soon_as_they_are_complete() -> None:
    stream = raw.stream()
    assert [stream.push(i) for i in "a🐈b".encode()] == ["a", "", "", "", "🐈", "b"]


def test_stream_replaces_an_incomplete_last_character() -> None:
    stream = raw.stream()
    assert [stream.push(i) for i in b"a\xf0\x9f"] == ["a", "", ""]
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_stream_of_characters(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    ids = tokenizer.encode(STORIES[2])
    assert "".join(map(stream.push, ids)) + stream.finish() == STORIES[2]


def test_a_saved_tokenizer_is_loaded_unchanged(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert (loaded.vocab_size, loaded.end_of_text) == (tokenizer.vocab_size, tokenizer.end_of_text)
        assert loaded.encode_batch(STORIES) == tokenizer.encode_batch(STORIES)
        assert loaded.decode(loaded.encode(STORIES[2])) == STORIES[2]
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_loaded_tokenizer_encodes_the_end_mark_as_text(tmp_path: Path) -> None:
    bpe.save(tmp_path / "mine.json")
    loaded = Tokenizer.load(tmp_path / "mine.json")
    assert loaded.encode(END_OF_TEXT) == bpe.encode(END_OF_TEXT) != [loaded.end_of_text]


def test_fingerprints_differ() -> None:
    assert len({bpe.fingerprint, raw.fingerprint, char.fingerprint, Tokenizer.train(STORIES, 299).fingerprint}) == 4


def gpt2_folder(folder: Path, with_end_of_text: bool) -> None:
    bpe.save(folder / "tokenizer.json")
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "tokenizer.json").unlink()
    vocab = model["vocab"] | ({END_OF_TEXT: len(model["vocab"])} if with_end_of_text else {})
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = "".join(" ".join(pair) + "\n" for pair in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")


@pytest.mark.parametrize("with_end_of_text", [True, False])
def test_gpt2_folder(tmp_path: Path, with_end_of_text: bool) -> None:
    gpt2_folder(tmp_path, with_end_of_text)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.vocab_size, loaded.end_of_text) == (300, 299)
    assert loaded.encode_batch(STORIES) == bpe.encode_batch(STORIES)
    assert loaded.decode(loaded.encode(STORIES[1])) == STORIES[1]
    assert loaded.end_of_text not in loaded.encode(END_OF_TEXT)


def test_truncation_and_templates_of_a_foreign_file_are_ignored(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import processors

    bpe.save(tmp_path)
    foreign = Backend.from_file(str(tmp_path / "tokenizer.json"))
    foreign.enable_truncation(3)
    foreign.enable_padding()
    foreign.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, bpe.end_of_text)]
    )
    foreign.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode_batch(STORIES) == bpe.encode_batch(STORIES)


# ------------------------------------------------- other special tokens


@pytest.fixture
def marked() -> Tokenizer:
    """A byte tokenizer with the special tokens <s> (256) and </s> (257)."""
    from tokenizers import Tokenizer as Backend

    content = json.loads(raw._backend.to_str()) | {"added_tokens": []}
    backend = Backend.from_str(json.dumps(content))
    backend.add_special_tokens(["<s>", "</s>"])
    return Tokenizer(backend, "<s>", "</s>")


def test_other_special_tokens_replace_the_end_of_text(marked: Tokenizer) -> None:
    assert (marked.begin_of_text, marked.end_of_text, marked.vocab_size) == (256, 257, 258)
    assert (raw.begin_of_text, raw.end_of_text, raw.special_tokens) == (256, 256, (END_OF_TEXT, END_OF_TEXT))
    assert marked.special_tokens == ("<s>", "</s>")
    assert marked.encode("<s></s>") == list(b"<s></s>")
    assert marked.decode([256, 72, 105, 257]) == "<s>Hi</s>"


def test_other_special_tokens_are_saved_and_loaded(marked: Tokenizer, tmp_path: Path) -> None:
    marked.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (config["bos_token"], config["eos_token"]) == ("<s>", "</s>")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert (loaded.special_tokens, loaded.fingerprint) == (marked.special_tokens, marked.fingerprint)
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.load(tmp_path).fingerprint != marked.fingerprint  # the same ids, but another end of text


def test_special_tokens_of_a_gpt2_folder_are_read_from_its_config(tmp_path: Path) -> None:
    gpt2_folder(tmp_path, with_end_of_text=True)
    (tmp_path / "config.json").write_text('{"bos_token_id": 1, "eos_token_id": 299}', encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.begin_of_text, loaded.end_of_text) == (1, 299)


@pytest.mark.parametrize("tokenizer", [bpe, raw], ids=["bpe", "bytes"])
@given(before=any_text, after=any_text)
@settings(deadline=None)
def test_a_stream_after_other_text_returns_the_new_text(tokenizer: Tokenizer, before: str, after: str) -> None:
    stream = tokenizer.stream(after=tokenizer.encode(before))
    assert "".join([*map(stream.push, tokenizer.encode(after)), stream.finish()]) == after


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("content", ["", "not json", "{}", '{"model": 3}', "[]"])
def test_invalid_files_are_refused_with_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="no tokenizer can be read from") as refusal:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="can be read"):
        Tokenizer.load(tmp_path)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer found: expected tokenizer.json, or vocab.json and merges.txt"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="no tokenizer found: expected the file"):
        Tokenizer.load(tmp_path / "absent.json")
    (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="no tokenizer found"):
        Tokenizer.load(tmp_path)


def test_unknown_characters_are_named() -> None:
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\)"):
        Tokenizer.char(["hello"]).encode("hé")
    with pytest.raises(ValueError, match=r"'é'"):
        Tokenizer.char(["hello"]).encode_batch(["h", "hé"])


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"U\+D83D"):
        tokenizer.encode("oh \ud83d")


@pytest.mark.parametrize("bad", [-1, 1_000_000])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, bad: int) -> None:
    with pytest.raises(ValueError, match=f"token id {bad} is outside"):
        tokenizer.decode([0, bad])
    with pytest.raises(ValueError, match="outside"):
        tokenizer.stream().push(tokenizer.vocab_size)


def test_ids_may_come_from_numpy() -> None:
    assert raw.decode(np.array([72, 105], dtype=np.uint16)) == "Hi"


@pytest.mark.parametrize("vocab_size", [-5, 0, 256])
def test_a_vocabulary_smaller_than_the_bytes_is_refused(vocab_size: int) -> None:
    with pytest.raises(ValueError, match=f"vocab_size is {vocab_size}.* at least 257"):
        Tokenizer.train(STORIES, vocab_size)


def test_real_stories_are_restored(shared_data: Callable[[str], Path]) -> None:
    text = shared_data("tinystories/valid.txt").read_text(encoding="utf-8")
    tokenizer = Tokenizer.train(text.split(END_OF_TEXT), 2000)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text) / 3
