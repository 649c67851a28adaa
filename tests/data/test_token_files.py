import json
import os
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from minigpt.data import token_files
from minigpt.data.corpus import END_OF_TEXT
from minigpt.data.token_files import default_cache, encode_files, open_split, prepare, write_split
from minigpt.data.tokenizer import Tokenizer

TEXTS = ["One cat.", "Two dogs\nran.", "Zoë has a 🐈."]


@pytest.fixture
def corpus(tmp_path):
    """40 documents, each unmistakable."""
    path = tmp_path / "stories.txt"
    path.write_text(END_OF_TEXT.join(f"This is story number {i}.\n" for i in range(40)), encoding="utf-8")
    return path


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def stories(split, tokenizer):
    """The documents of a split, from its ids."""
    return tokenizer.decode(split.tokens).split(END_OF_TEXT)[:-1]


# --- one split


def test_a_split_holds_documents_each_ended(tmp_path):
    tokenizer = Tokenizer.bytes()
    facts = write_split(tmp_path / "train.bin", iter(TEXTS), tokenizer)
    split = open_split(tmp_path / "train.bin", tokenizer)
    expected = [i for text in TEXTS for i in [*text.encode("utf-8"), tokenizer.end_of_text]]
    assert split.tokens.tolist() == expected
    assert split.n_tokens == facts.tokens == len(expected)
    assert split.documents == 3
    assert split.bytes == sum(len(text.encode("utf-8")) for text in TEXTS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train.bin", "train.json"]


def test_the_file_is_flat_little_endian_and_mapped_read_only(tmp_path):
    tokenizer = Tokenizer.bytes()
    write_split(tmp_path / "train.bin", TEXTS, tokenizer)
    split = open_split(tmp_path / "train.bin", tokenizer)
    assert isinstance(split.tokens, np.memmap) and split.tokens.dtype == "<u2"
    assert not split.tokens.flags.writeable
    assert (tmp_path / "train.bin").read_bytes()[:4] == b"O\x00n\x00"


class Wide:
    """A tokenizer with more ids than uint16 has numbers."""

    vocab_size, between, fingerprint = 65_537, [65_536], "wide"

    def encode_batch(self, texts):
        return [[65_535] * len(text) for text in texts]


def test_large_vocabularies_take_32_bits(tmp_path):
    write_split(tmp_path / "train.bin", ["ab"], Wide())
    split = open_split(tmp_path / "train.bin", Wide())
    assert split.tokens.dtype == "<u4" and split.tokens.tolist() == [65_535, 65_535, 65_536]


def test_the_largest_vocabulary_of_16_bits(tmp_path):
    class Brim(Wide):
        vocab_size, between = 65_536, [65_535]

    write_split(tmp_path / "train.bin", ["ab"], Brim())
    split = open_split(tmp_path / "train.bin", Brim())
    assert split.tokens.dtype == "<u2" and split.tokens.tolist() == [65_535] * 3


def test_an_empty_split_is_refused_by_name_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="the valid split is empty"):
        write_split(tmp_path / "valid.bin", [], Tokenizer.bytes())
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_middle_keeps_the_old_file(tmp_path):
    tokenizer = Tokenizer.char(["abc"])
    write_split(tmp_path / "train.bin", ["abc"], tokenizer)
    with pytest.raises(ValueError, match="'é'"):
        write_split(tmp_path / "train.bin", ["cab", "é"], tokenizer)
    assert stories(open_split(tmp_path / "train.bin", tokenizer), tokenizer) == ["abc"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("tokenizer", [Tokenizer.bytes(), Tokenizer.train(["One cat. Two dogs ran."] * 9, 290)])
def test_long_documents_are_encoded_in_pieces_without_a_trace(tmp_path, monkeypatch, tokenizer):
    text = "One cat.  Two dogs\n ran and ran, cat dogs One 🐈 Zoë. \n\n" * 20
    expected = [*tokenizer.encode(text), tokenizer.end_of_text]
    for piece in (11, 30, 200):
        monkeypatch.setattr(token_files, "_PIECE", piece)
        monkeypatch.setattr(token_files, "_BATCH", 3 * piece)
        write_split(tmp_path / "train.bin", [text], tokenizer)
        split = open_split(tmp_path / "train.bin", tokenizer)
        assert split.tokens.tolist() == expected
        assert (split.documents, split.bytes) == (1, len(text.encode("utf-8")))


def test_long_documents_without_any_space_come_back(tmp_path, monkeypatch):
    tokenizer = Tokenizer.train(["x" * 50 + "日本語" * 20], 290)
    monkeypatch.setattr(token_files, "_PIECE", 10)
    for text in ("x" * 55, "日本語" * 20, " " * 35 + "x", "x" + " " * 35):
        write_split(tmp_path / "train.bin", [text], tokenizer)
        assert stories(open_split(tmp_path / "train.bin", tokenizer), tokenizer) == [text]


def test_memory_is_flat(tmp_path):
    def peak(documents):
        tracemalloc.start()
        write_split(tmp_path / "train.bin", documents, Tokenizer.bytes())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small = peak("A little story. " * 50 for _ in range(2_000))
    assert peak("A little story. " * 50 for _ in range(10_000)) < 1.2 * small
    assert peak(["A little story. " * 500_000]) < 1.2 * small + 3 * 8_000_000  # the document itself is in memory


@pytest.fixture
def written(tmp_path):
    write_split(tmp_path / "train.bin", TEXTS, Tokenizer.bytes())
    return tmp_path / "train.bin"


def test_another_tokenizer_is_refused(written):
    with pytest.raises(ValueError, match=r"train\.bin was written with another tokenizer"):
        open_split(written, Tokenizer.train(TEXTS, 260))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0\0", lambda data: b""])
def test_a_file_of_the_wrong_size_is_refused(written, change):
    written.write_bytes(change(written.read_bytes()))
    with pytest.raises(ValueError, match=r"train\.bin has .* bytes, but should have .*prepare again"):
        open_split(written, Tokenizer.bytes())


def test_a_file_that_has_changed_is_refused(written):
    written.write_bytes(written.read_bytes()[:-2] + (65).to_bytes(2, "little"))
    with pytest.raises(ValueError, match=r"train\.bin has changed since it was written: .*prepare again"):
        open_split(written, Tokenizer.bytes())


def test_what_was_read_is_forgotten_with_the_map(written):
    split = open_split(written, Tokenizer.bytes())
    assert split.tokens is not split.tokens and len(split.tokens) == split.n_tokens


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"tokens": 1, "surprise": 2}'])
def test_a_damaged_description_is_refused(written, content):
    written.with_suffix(".json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.json is damaged"):
        open_split(written, Tokenizer.bytes())


@pytest.mark.parametrize("suffix", [".bin", ".json"])
def test_a_missing_file_is_refused(written, suffix):
    written.with_suffix(suffix).unlink()
    with pytest.raises(ValueError, match="no token file"):
        open_split(written, Tokenizer.bytes())


# --- a prepared corpus


def test_every_twentieth_document_is_for_validation(corpus, cache):
    prepared = prepare([str(corpus)], tokenizer="bytes", cache=cache)
    everything = [f"This is story number {i}." for i in range(40)]
    assert stories(prepared.valid, prepared.tokenizer) == [everything[1], everything[21]]
    assert stories(prepared.train, prepared.tokenizer) == [everything[i] for i in range(40) if i not in (1, 21)]
    assert (prepared.train.documents, prepared.valid.documents) == (38, 2)
    assert prepared.name == "stories.txt"
    assert prepared.floor_bits_per_byte is None and not prepared.floor_is_exact


def test_explicit_validation_data(corpus, cache, tmp_path):
    (tmp_path / "valid.jsonl").write_text('{"text": "Held out."}\n', encoding="utf-8")
    prepared = prepare([str(corpus)], str(tmp_path / "valid.jsonl"), tokenizer="bytes", cache=cache)
    assert prepared.train.documents == 40
    assert stories(prepared.valid, prepared.tokenizer) == ["Held out."]


@pytest.mark.parametrize("kind", [None, "char"])
def test_validation_text_never_reaches_the_tokenizer(corpus, cache, tmp_path, kind):
    valid = tmp_path / "valid.txt"
    valid.write_text("zzzzqqqq " * 1000, encoding="utf-8")
    fingerprints = set()
    for text in ("story", "i i i i " * 1000):
        valid.write_text(text, encoding="utf-8")
        fingerprints.add(prepare([str(corpus)], str(valid), tokenizer=kind, cache=cache).tokenizer.fingerprint)
    assert len(fingerprints) == 1
    held_out = tmp_path / "held.txt"
    held_out.write_text(END_OF_TEXT.join(["aaa", "Q" * 100, "bbb"]), encoding="utf-8")
    if kind == "char":
        with pytest.raises(ValueError, match="'Q'"):
            prepare([str(held_out)], tokenizer=kind, cache=cache)
    else:
        tokenizer = prepare([str(held_out)], tokenizer=kind, cache=cache).tokenizer
        assert len(tokenizer.encode("Q" * 100)) == 100 and len(tokenizer.encode("aaa")) < 3


def test_vocab_size_is_for_the_bpe(corpus, cache):
    assert prepare([str(corpus)], vocab_size=270, cache=cache).tokenizer.vocab_size == 270
    assert prepare([str(corpus)], vocab_size=280, cache=cache).tokenizer.vocab_size == 280
    char = prepare([str(corpus)], vocab_size=280, tokenizer="char", cache=cache)
    assert char.tokenizer.vocab_size == len(set("".join(f"This is story number {i}." for i in range(40)))) + 1
    with pytest.raises(ValueError, match="at least 257"):
        prepare([str(corpus)], vocab_size=256, cache=cache)


def test_an_existing_tokenizer_is_used(corpus, cache, tmp_path):
    mine = Tokenizer.train(["This is my own story number."] * 5, 275)
    mine.save(tmp_path / "mine.json")
    prepared = prepare([str(corpus)], tokenizer=str(tmp_path / "mine.json"), cache=cache)
    assert prepared.tokenizer.fingerprint == mine.fingerprint
    assert stories(prepared.valid, mine)[0] == "This is story number 1."
    Tokenizer.bytes().save(tmp_path / "mine.json")
    again = prepare([str(corpus)], tokenizer=str(tmp_path / "mine.json"), cache=cache)
    assert again.tokenizer.vocab_size == 257


def test_what_is_prepared_is_found_again(corpus, cache, monkeypatch):
    lines = []
    first = prepare([str(corpus)], tokenizer="bytes", cache=cache, say=lines.append)
    assert any("38 documents" in line for line in lines)
    monkeypatch.setattr(token_files, "write_split", None)  # would fail if anything were written again
    second = prepare([str(corpus)], tokenizer="bytes", cache=cache)
    monkeypatch.chdir(corpus.parent)
    third = prepare(["stories.txt"], tokenizer="bytes", cache=cache)
    assert first.folder == second.folder == third.folder
    assert second.train.tokens.tolist() == first.train.tokens.tolist()


def test_what_has_changed_is_prepared_anew(corpus, cache):
    def folder(**options):
        return prepare([str(corpus)], cache=cache, **options).folder

    folders = [folder(), folder(vocab_size=300), folder(tokenizer="char"), folder(tokenizer="bytes")]
    folders.append(prepare([str(corpus)], str(corpus), cache=cache).folder)
    with corpus.open("a", encoding="utf-8") as stream:
        stream.write(f"{END_OF_TEXT}One more.")
    folders.append(folder())
    assert len(set(folders)) == 6
    assert prepare([str(corpus)], cache=cache).train.documents == 39
    assert folder(tokenizer="bytes", vocab_size=300) == folder(tokenizer="bytes")


def test_a_failure_leaves_nothing_behind(corpus, cache):
    for error in (ValueError, KeyboardInterrupt):

        def interrupt(line, error=error):
            raise error("now")

        with pytest.raises(error, match="now"):
            prepare([str(corpus)], cache=cache, say=interrupt)
        assert list(cache.iterdir()) == []


def test_who_comes_second_waits_and_finds_what_the_first_prepared(corpus, cache):
    lines, building, waiting = [], threading.Event(), threading.Event()

    def first(line):
        building.set()
        assert waiting.wait(30)

    def second(line):
        lines.append(line)
        waiting.set()

    with ThreadPoolExecutor() as pool:
        one = pool.submit(prepare, [str(corpus)], cache=cache, say=first)
        assert building.wait(30)
        two = pool.submit(prepare, [str(corpus)], cache=cache, say=second)
        assert one.result().folder == two.result().folder
    assert lines == ["another process prepares the same: waiting for it"]
    assert list(cache.iterdir()) == [one.result().folder]


def test_what_a_killed_process_had_not_finished_is_prepared_anew(corpus, cache):
    name = prepare([str(corpus)], cache=cache).folder.name
    (cache / name).rename(cache / f"building-{name}")
    (cache / f"building-{name}" / "train.bin").write_bytes(b"half")
    (cache / f"{name}.lock").touch()
    assert prepare([str(corpus)], cache=cache).train.documents == 38
    assert [path.name for path in cache.iterdir()] == [name]


def test_two_processes_at_once(corpus, cache):
    code = "import sys; from minigpt.data.token_files import prepare; print(prepare([sys.argv[1]]).folder.name)"
    command = [sys.executable, "-c", code, str(corpus)]
    environment = {**os.environ, "MINIGPT_CACHE": str(cache)}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    names = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert [folder.name for folder in cache.iterdir()] == list(names)


def test_a_damaged_cache_is_refused_with_the_remedy(corpus, cache):
    prepared = prepare([str(corpus)], tokenizer="bytes", cache=cache)
    path = prepared.folder / "train.bin"
    del prepared
    path.unlink()
    path.write_bytes(b"\0\0")
    with pytest.raises(ValueError, match="delete its folder and prepare again"):
        prepare([str(corpus)], tokenizer="bytes", cache=cache)


def test_a_single_document_needs_validation_data(cache, tmp_path):
    path = tmp_path / "input.txt"
    path.write_text("To be or not to be.", encoding="utf-8")
    with pytest.raises(ValueError, match="--val-data FILE"):
        prepare([str(path)], cache=cache)
    assert prepare([str(path)], str(path), tokenizer="char", cache=cache).train.documents == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no data given"),
        (["storybook", "a.txt"], "storybook cannot be mixed with other data"),
        (["a.txt", "tinystories"], "tinystories cannot be mixed"),
        (["storybok"], "no such file or folder: storybok"),
    ],
)
def test_data_that_cannot_be_meant(cache, data, message):
    with pytest.raises(ValueError, match=message):
        prepare(data, cache=cache)


def test_a_cache_that_cannot_be_written(corpus, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"cannot write to the cache folder .*MINIGPT_CACHE"):
        prepare([str(corpus)], cache=tmp_path / "file" / "cache")


def test_names_show_no_folders(corpus, cache, tmp_path):
    many = []
    for i in range(5):
        many.append(str(tmp_path / f"{i}.txt"))
        Path(many[-1]).write_text("Some text.", encoding="utf-8")
    assert prepare(many, tokenizer="bytes", cache=cache).name == "0.txt, 1.txt, 2.txt and 2 more"


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("MINIGPT_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    for platform, folder in (
        ("linux", ".cache/minigpt"),
        ("darwin", "Library/Caches/minigpt"),
        ("win32", "AppData/Local/minigpt"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        assert default_cache() == tmp_path / folder
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "minigpt"
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"


# --- all of some files as one split, to evaluate on


def test_encode_files_takes_everything(corpus, cache, monkeypatch):
    tokenizer = Tokenizer.bytes()
    split = encode_files([str(corpus)], tokenizer, cache=cache)
    assert split.documents == 40 and stories(split, tokenizer)[1] == "This is story number 1."
    monkeypatch.setattr(token_files, "write_split", None)
    assert encode_files([str(corpus)], tokenizer, cache=cache).path == split.path


def test_real_stories(shared_data, cache):
    prepared = prepare([str(shared_data("tinystories/valid.txt"))], vocab_size=1000, cache=cache)
    about = json.loads((prepared.folder / "valid.json").read_text(encoding="utf-8"))
    assert about["tokens"] == prepared.valid.n_tokens == int(prepared.valid.tokens.size)
    assert (np.asarray(prepared.valid.tokens) == prepared.tokenizer.end_of_text).sum() == prepared.valid.documents
