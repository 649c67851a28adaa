import gzip
import json
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from minigpt.data import splits, token_files
from minigpt.data.cache import default_cache
from minigpt.data.corpus import END_OF_TEXT
from minigpt.data.ranks import SingleProcess
from minigpt.data.sources import Texts
from minigpt.data.splits import Split, open_split
from minigpt.data.token_files import encode_files, prepare, write_split
from minigpt.data.tokenizer import Tokenizer

TEXTS = ["One cat.", "Two dogs\nran.", "Zoë has a 🐈."]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A file of 40 different documents."""
    path = tmp_path / "stories.txt"
    path.write_text(END_OF_TEXT.join(f"This is story number {i}.\n" for i in range(40)), encoding="utf-8")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def stories(split: Split, tokenizer: Tokenizer) -> list[str]:
    """Decode the documents of a split."""
    return tokenizer.decode(split.tokens).split(END_OF_TEXT)[:-1]


# --- one split


def test_a_split_contains_documents_each_followed_by_the_end_of_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.bytes()
    metadata = write_split(tmp_path / "train.bin", iter(TEXTS), tokenizer)
    split = open_split(tmp_path / "train.bin", tokenizer)
    expected = [i for text in TEXTS for i in [*text.encode("utf-8"), tokenizer.end_of_text]]
    assert split.tokens.tolist() == expected
    assert split.n_tokens == metadata.tokens == len(expected)
    assert split.documents == 3
    assert split.bytes == sum(len(text.encode("utf-8")) for text in TEXTS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train.bin", "train.json"]


def test_the_file_is_flat_little_endian_and_mapped_read_only(tmp_path: Path) -> None:
    tokenizer = Tokenizer.bytes()
    write_split(tmp_path / "train.bin", TEXTS, tokenizer)
    split = open_split(tmp_path / "train.bin", tokenizer)
    assert isinstance(split.tokens, np.memmap) and split.tokens.dtype == "<u2"
    assert not split.tokens.flags.writeable
    assert (tmp_path / "train.bin").read_bytes()[:4] == b"O\x00n\x00"


def make_tokenizer(vocab_size: int) -> Tokenizer:
    """A tokenizer that encodes each character as 65,535, and whose last id is the end of text."""

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        return [[65_535] * len(text) for text in texts]

    tokenizer = SimpleNamespace(vocab_size=vocab_size, separator_ids=[vocab_size - 1], fingerprint="f", encode_batch=encode_batch)
    return cast(Tokenizer, tokenizer)


def test_large_vocabularies_take_32_bits(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(65_537)
    write_split(tmp_path / "train.bin", ["ab"], tokenizer)
    split = open_split(tmp_path / "train.bin", tokenizer)
    assert split.tokens.dtype == "<u4" and split.tokens.tolist() == [65_535, 65_535, 65_536]


def test_the_largest_vocabulary_of_16_bits(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(65_536)
    write_split(tmp_path / "train.bin", ["ab"], tokenizer)
    split = open_split(tmp_path / "train.bin", tokenizer)
    assert split.tokens.dtype == "<u2" and split.tokens.tolist() == [65_535] * 3


def test_an_empty_split_is_refused_by_name_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the valid split is empty"):
        write_split(tmp_path / "valid.bin", [], Tokenizer.bytes())
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_middle_keeps_the_old_file(tmp_path: Path) -> None:
    tokenizer = Tokenizer.char(["abc"])
    write_split(tmp_path / "train.bin", ["abc"], tokenizer)
    with pytest.raises(ValueError, match="'é'"):
        write_split(tmp_path / "train.bin", ["cab", "é"], tokenizer)
    assert stories(open_split(tmp_path / "train.bin", tokenizer), tokenizer) == ["abc"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("tokenizer", [Tokenizer.bytes(), Tokenizer.train(["One cat. Two dogs ran."] * 9, 290)])
def test_encoding_long_documents_in_chunks_gives_the_same_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    text = "One cat.  Two dogs\n ran and ran, cat dogs One 🐈 Zoë. \n\n" * 20
    expected = [*tokenizer.encode(text), tokenizer.end_of_text]
    for size in (11, 30, 200):
        monkeypatch.setattr(token_files, "_CHUNK_SIZE", size)
        monkeypatch.setattr(token_files, "_GROUP_SIZE", 3 * size)
        write_split(tmp_path / "train.bin", [text], tokenizer)
        split = open_split(tmp_path / "train.bin", tokenizer)
        assert split.tokens.tolist() == expected
        assert (split.documents, split.bytes) == (1, len(text.encode("utf-8")))


def test_long_documents_without_spaces_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.train(["x" * 50 + "日本語" * 20], 290)
    monkeypatch.setattr(token_files, "_CHUNK_SIZE", 10)
    for text in ("x" * 55, "日本語" * 20, " " * 35 + "x", "x" + " " * 35):
        write_split(tmp_path / "train.bin", [text], tokenizer)
        assert stories(open_split(tmp_path / "train.bin", tokenizer), tokenizer) == [text]


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def peak(documents: Iterable[str]) -> int:
        tracemalloc.start()
        write_split(tmp_path / "train.bin", documents, Tokenizer.bytes())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small = peak("A little story. " * 50 for _ in range(2_000))
    assert peak("A little story. " * 50 for _ in range(10_000)) < 1.2 * small
    assert peak(["A little story. " * 500_000]) < 1.2 * small + 3 * 8_000_000  # the document itself is in memory


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_split(tmp_path / "train.bin", TEXTS, Tokenizer.bytes())
    return tmp_path / "train.bin"


def test_another_tokenizer_is_refused(written: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.bin was written with another tokenizer"):
        open_split(written, Tokenizer.train(TEXTS, 260))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0\0", lambda data: b""])
def test_a_file_of_the_wrong_size_is_refused(written: Path, change: Callable[[bytes], bytes]) -> None:
    written.write_bytes(change(written.read_bytes()))
    with pytest.raises(ValueError, match=r"train\.bin has .* bytes, but must have .*prepare again"):
        open_split(written, Tokenizer.bytes())


def test_a_file_that_has_changed_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-2] + (65).to_bytes(2, "little"))
    with pytest.raises(ValueError, match=r"train\.bin has changed since it was written: .*prepare again"):
        open_split(written, Tokenizer.bytes())


def test_each_access_creates_a_new_map(written: Path) -> None:
    split = open_split(written, Tokenizer.bytes())
    assert split.tokens is not split.tokens and len(split.tokens) == split.n_tokens


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"tokens": 1, "surprise": 2}'])
def test_damaged_metadata_is_refused(written: Path, content: str) -> None:
    written.with_suffix(".json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.json is damaged"):
        open_split(written, Tokenizer.bytes())


@pytest.mark.parametrize("suffix", [".bin", ".json"])
def test_a_missing_file_is_refused(written: Path, suffix: str) -> None:
    written.with_suffix(suffix).unlink()
    with pytest.raises(ValueError, match="no token file"):
        open_split(written, Tokenizer.bytes())


# --- a token file that changes while it is open


def overwrite(path: Path) -> None:
    """Change the first id in place."""
    with path.open("r+b") as file:
        file.write(b"!\0")


def overwrite_and_keep_the_time(path: Path) -> None:
    status = path.stat()
    overwrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_file(path: Path) -> None:
    """Replace the file by another of the same size and modification time."""
    status, content = path.stat(), path.read_bytes()
    other = path.with_name("other")
    other.write_bytes(b"!\0" + content[2:])
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)


CHANGES: list[Any] = [
    lambda path: os.truncate(path, 2),
    lambda path: os.truncate(path, 0),
    lambda path: path.write_bytes(path.read_bytes() + b"!\0"),
    overwrite,
    pytest.param(overwrite_and_keep_the_time, marks=pytest.mark.skipif(os.name == "nt", reason="has no change time")),
    pytest.param(replace_file, marks=pytest.mark.skipif(os.name == "nt", reason="has no change time")),
]


@pytest.fixture
def opened(written: Path) -> Split:
    """A split that was read from, some time after it was written."""
    past = written.stat().st_mtime_ns - 10**9
    os.utime(written, ns=(past, past))
    split = open_split(written, Tokenizer.bytes())
    assert split.read(np.array([0, 4]), 3).tolist() == [[79, 110, 101], [99, 97, 116]]
    return split


def test_windows_are_read_as_from_the_map(opened: Split) -> None:
    starts = np.array([0, 7, len(opened) - 5])
    np.testing.assert_array_equal(opened.read(starts, 5), opened.tokens[starts[:, None] + np.arange(5)])
    assert opened.read(starts, 5).dtype == opened.dtype


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("length", [1, 8], ids=["within the rest", "beyond the rest"])
def test_a_change_of_an_open_token_file_is_an_error_that_names_it(
    opened: Split, change: Callable[[Path], object], length: int
) -> None:
    change(opened.path)
    with pytest.raises(OSError, match=r"train\.bin has changed since it was opened: delete its folder and prepare again"):
        opened.read(np.array([0]), length)


def test_a_change_while_reading_is_noticed(opened: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = splits._fill

    def fill_and_overwrite(row: np.ndarray, file: Any) -> bool:
        done = fill(row, file)
        overwrite(opened.path)
        return done

    monkeypatch.setattr(splits, "_fill", fill_and_overwrite)
    with pytest.raises(OSError, match=r"train\.bin has changed"):
        opened.read(np.array([0]), 3)


def test_a_token_file_with_the_same_content_has_not_changed(opened: Split) -> None:
    content = opened.path.read_bytes()
    for change in (Path.touch, lambda path: path.chmod(0o600), lambda path: path.write_bytes(content)):
        change(opened.path)
        assert opened.read(np.array([4]), 3).tolist() == [[99, 97, 116]]
    overwrite(opened.path)
    opened.path.write_bytes(content)
    assert opened.read(np.array([0]), 3).tolist() == [[79, 110, 101]]


def test_verify_reads_the_whole_file(opened: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    opened.verify()
    monkeypatch.setattr(splits, "_state", lambda file: opened._verified)  # a disk that does not update the times of files
    overwrite(opened.path)
    assert opened.read(np.array([0]), 1).tolist() == [[33]]
    with pytest.raises(OSError, match=r"train\.bin has changed since it was opened, but not its times, so what was read before"):
        opened.verify()


# --- a prepared corpus


def test_every_twentieth_document_is_for_validation(corpus: Path, cache: Path) -> None:
    prepared = prepare([str(corpus)], tokenizer="bytes", cache=cache)
    everything = [f"This is story number {i}." for i in range(40)]
    assert stories(prepared.valid, prepared.tokenizer) == [everything[1], everything[21]]
    assert stories(prepared.train, prepared.tokenizer) == [everything[i] for i in range(40) if i not in (1, 21)]
    assert (prepared.train.documents, prepared.valid.documents) == (38, 2)
    assert prepared.name == "stories.txt"
    assert prepared.floor_bits_per_byte is None and not prepared.floor_is_exact


def test_explicit_validation_data(corpus: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "valid.jsonl").write_text('{"text": "Held out."}\n', encoding="utf-8")
    prepared = prepare([str(corpus)], str(tmp_path / "valid.jsonl"), tokenizer="bytes", cache=cache)
    assert prepared.train.documents == 40
    assert stories(prepared.valid, prepared.tokenizer) == ["Held out."]


@pytest.mark.parametrize("kind", [None, "char"])
def test_the_tokenizer_is_not_trained_on_validation_text(corpus: Path, cache: Path, tmp_path: Path, kind: str | None) -> None:
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


def test_vocab_size_is_for_the_bpe(corpus: Path, cache: Path) -> None:
    assert prepare([str(corpus)], vocab_size=270, cache=cache).tokenizer.vocab_size == 270
    assert prepare([str(corpus)], vocab_size=280, cache=cache).tokenizer.vocab_size == 280
    char = prepare([str(corpus)], vocab_size=280, tokenizer="char", cache=cache)
    assert char.tokenizer.vocab_size == len(set("".join(f"This is story number {i}." for i in range(40)))) + 1
    with pytest.raises(ValueError, match="at least 257"):
        prepare([str(corpus)], vocab_size=256, cache=cache)


def test_an_existing_tokenizer_is_used(corpus: Path, cache: Path, tmp_path: Path) -> None:
    mine = Tokenizer.train(["This is my own story number."] * 5, 275)
    mine.save(tmp_path / "mine.json")
    prepared = prepare([str(corpus)], tokenizer=str(tmp_path / "mine.json"), cache=cache)
    assert prepared.tokenizer.fingerprint == mine.fingerprint
    assert stories(prepared.valid, mine)[0] == "This is story number 1."
    Tokenizer.bytes().save(tmp_path / "mine.json")
    again = prepare([str(corpus)], tokenizer=str(tmp_path / "mine.json"), cache=cache)
    assert again.tokenizer.vocab_size == 257


def test_prepared_data_is_reused(corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    first = prepare([str(corpus)], tokenizer="bytes", cache=cache, say=lines.append)
    assert any("38 documents" in line for line in lines)
    monkeypatch.setattr(token_files, "write_split", None)  # fails if anything is written again
    second = prepare([str(corpus)], tokenizer="bytes", cache=cache)
    monkeypatch.chdir(corpus.parent)
    third = prepare(["stories.txt"], tokenizer="bytes", cache=cache)
    assert first.folder == second.folder == third.folder
    assert second.train.tokens.tolist() == first.train.tokens.tolist()


def test_another_field_is_prepared_again(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one two three", "body": "four five six"}\n' * 2, encoding="utf-8")
    for field, text in (("text", "one two three"), ("body", "four five six")):
        prepared = prepare([str(path)], tokenizer="bytes", field=field, cache=cache)
        assert stories(prepared.train, prepared.tokenizer) == [text]
        split = encode_files([str(path)], Tokenizer.bytes(), field=field, cache=cache)
        assert stories(split, Tokenizer.bytes()) == [text] * 2


def test_changed_data_is_prepared_again(corpus: Path, cache: Path) -> None:
    def folder(**options: Any) -> Path:
        return prepare([str(corpus)], cache=cache, **options).folder

    folders = [folder(), folder(vocab_size=300), folder(tokenizer="char"), folder(tokenizer="bytes")]
    folders.append(prepare([str(corpus)], str(corpus), cache=cache).folder)
    with corpus.open("a", encoding="utf-8") as stream:
        stream.write(f"{END_OF_TEXT}One more.")
    folders.append(folder())
    assert len(set(folders)) == 6
    assert prepare([str(corpus)], cache=cache).train.documents == 39
    assert folder(tokenizer="bytes", vocab_size=300) == folder(tokenizer="bytes")


def test_a_failure_leaves_nothing_behind(corpus: Path, cache: Path) -> None:
    for error in (ValueError, KeyboardInterrupt):

        def interrupt(line: str, error: type[BaseException] = error) -> None:
            raise error("now")

        with pytest.raises(error, match="now"):
            prepare([str(corpus)], cache=cache, say=interrupt)
        assert list(cache.iterdir()) == []


TEXT_CHANGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, 300),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" More."),
    "overwritten": lambda path: path.write_bytes(path.read_bytes().replace(b"story", b"STORY")),
}


@pytest.mark.parametrize("change", TEXT_CHANGES.values(), ids=TEXT_CHANGES)
@pytest.mark.parametrize("when", ["training a tokenizer", "train: ", "valid: "])
def test_a_text_that_changes_while_it_is_tokenized_is_refused(
    corpus: Path, cache: Path, change: Callable[[Path], object], when: str
) -> None:
    os.utime(corpus, (0, 0))

    def say(line: str) -> None:
        if line.startswith(when):
            change(corpus)

    with pytest.raises(ValueError, match=r"stories\.txt has changed while it was read"):
        prepare([str(corpus)], vocab_size=270, cache=cache, say=say)
    assert list(cache.iterdir()) == []
    assert prepare([str(corpus)], vocab_size=270, cache=cache).valid.documents > 0


def test_a_text_that_changes_while_it_is_encoded_for_evaluation_is_refused(corpus: Path, cache: Path) -> None:
    os.utime(corpus, (0, 0))
    with pytest.raises(ValueError, match=r"stories\.txt has changed while it was read"):
        encode_files([str(corpus)], Tokenizer.bytes(), cache=cache, say=lambda line: os.truncate(corpus, 300))
    assert list(cache.iterdir()) == []


class ThreadRanks(SingleProcess):
    """A rank of a job whose ranks are threads of this process."""

    def __init__(self, rank: int, barrier: threading.Barrier, contents: list[bytes]) -> None:
        super().__init__()
        self.rank, self.size = rank, barrier.parties
        self._barrier, self._contents = barrier, contents

    def gather_bytes(self, content: bytes) -> list[bytes]:
        self._contents[self.rank] = content
        self._barrier.wait(30)
        gathered = list(self._contents)
        self._barrier.wait(30)
        return gathered if self.rank == 0 else []


def encode_on_ranks(path: Path, texts: Sequence[Sequence[str]]) -> None:
    """Write a split with as many ranks as there are texts, which each rank reads."""
    barrier, contents = threading.Barrier(len(texts)), [b""] * len(texts)
    ranks = [ThreadRanks(rank, barrier, contents) for rank in range(len(texts))]

    def follow(rank: int) -> None:
        for _ in token_files._encode_all(texts[rank], Tokenizer.bytes(), ranks[rank]):
            raise AssertionError("only rank 0 gets the ids")

    with ThreadPoolExecutor() as pool:
        others = [pool.submit(follow, rank) for rank in range(1, len(texts))]
        try:
            write_split(path, texts[0], Tokenizer.bytes(), ranks=ranks[0])
        finally:
            barrier.abort()
        assert [other.result() for other in others] == [None] * len(others)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "_GROUP_SIZE", 10)


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_that_read_the_same_text_write_the_file_of_one_process(tmp_path: Path, ranks: int) -> None:
    for number in range(1, 8):
        write_split(tmp_path / "alone.bin", TEXTS * number, Tokenizer.bytes())
        encode_on_ranks(tmp_path / "ranks.bin", [TEXTS * number] * ranks)
        assert (tmp_path / "ranks.bin").read_bytes() == (tmp_path / "alone.bin").read_bytes()


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize(
    "other",
    [TEXTS * 4 + ["More."], TEXTS * 3, [*TEXTS[:2], "Zoe has a dog.", *TEXTS * 3], [TEXTS[0] + TEXTS[1], TEXTS[2], *TEXTS * 3]],
    ids=["longer", "shorter", "changed", "joined"],
)
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_that_reads_another_text_is_named(tmp_path: Path, other: list[str], ranks: int) -> None:
    with pytest.raises(ValueError, match="rank 1 has read another text than rank 0"):
        encode_on_ranks(tmp_path / "train.bin", [TEXTS * 4, other, TEXTS * 4][:ranks])
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_waits_for_the_first(corpus: Path, cache: Path) -> None:
    lines, building, waiting = [], threading.Event(), threading.Event()

    def first(line: str) -> None:
        building.set()
        assert waiting.wait(30)

    def second(line: str) -> None:
        lines.append(line)
        waiting.set()

    with ThreadPoolExecutor() as pool:
        one = pool.submit(prepare, [str(corpus)], cache=cache, say=first)
        assert building.wait(30)
        two = pool.submit(prepare, [str(corpus)], cache=cache, say=second)
        assert one.result().folder == two.result().folder
    assert lines == ["another process is preparing the same data: waiting for it"]
    assert list(cache.iterdir()) == [one.result().folder]


def test_data_of_a_killed_process_is_prepared_again(corpus: Path, cache: Path) -> None:
    name = prepare([str(corpus)], cache=cache).folder.name
    (cache / name).rename(cache / f"building-{name}")
    (cache / f"building-{name}" / "train.bin").write_bytes(b"half")
    (cache / f"{name}.lock").touch()
    assert prepare([str(corpus)], cache=cache).train.documents == 38
    assert [path.name for path in cache.iterdir()] == [name]


def test_two_processes_at_once(corpus: Path, cache: Path) -> None:
    code = "import sys; from minigpt.data.token_files import prepare; print(prepare([sys.argv[1]]).folder.name)"
    command = [sys.executable, "-c", code, str(corpus)]
    environment = {**os.environ, "MINIGPT_CACHE": str(cache)}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    names = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert [folder.name for folder in cache.iterdir()] == list(names)


def test_a_damaged_cache_is_refused(corpus: Path, cache: Path) -> None:
    prepared = prepare([str(corpus)], tokenizer="bytes", cache=cache)
    path = prepared.folder / "train.bin"
    del prepared
    path.unlink()
    path.write_bytes(b"\0\0")
    with pytest.raises(ValueError, match="delete its folder and prepare again"):
        prepare([str(corpus)], tokenizer="bytes", cache=cache)


# --- a single document

BOOK = "\n\n".join(f"Chapter {i}: it was a dark night.\nThe end of {i}." for i in range(50))
CSV = "name,size\n" + "".join(f"cat {i},{i}\n" for i in range(100))
SINGLE = {
    "book.txt": (BOOK, BOOK),
    "marked.txt": (f"{BOOK}\n{END_OF_TEXT}\n", BOOK),
    "record.jsonl": (json.dumps({"text": BOOK}), BOOK),
    "table.csv": (CSV, CSV.strip()),
    "book.txt.gz": (BOOK, BOOK),
}


@pytest.mark.parametrize("name", SINGLE)
def test_of_a_single_document_the_last_tenth_is_held_out(cache: Path, tmp_path: Path, name: str) -> None:
    content, text = SINGLE[name]
    (tmp_path / name).write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    lines: list[str] = []
    prepared = prepare([str(tmp_path / name)], tokenizer="bytes", cache=cache, say=lines.append)
    (train,), (valid,) = (stories(split, prepared.tokenizer) for split in (prepared.train, prepared.valid))
    assert text.startswith(train) and text.endswith(valid)
    separator = text[len(train) : len(text) - len(valid)]
    assert separator == ("\n" if name == "table.csv" else "\n\n")
    assert 0.08 < len(valid) / len(text) < 0.12
    assert prepared.held_out == "the last tenth of the text"
    start = " ".join(valid.split())[:40].rstrip(" .")
    assert lines[0] == (
        f'{name} is a single document: its last tenth is held out for validation ({len(valid):,} bytes, from "{start}..." on)'
    )


def test_what_is_held_out_is_recorded(corpus: Path, cache: Path) -> None:
    lines: list[str] = []
    assert prepare([str(corpus)], cache=cache, say=lines.append).held_out == "every 20th document"
    assert not any("held out" in line for line in lines)
    assert prepare([str(corpus)], str(corpus), cache=cache).held_out is None


def test_a_text_of_a_few_characters_is_refused(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_text("To be.\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"input\.txt: a text of 6 characters is too short to hold out .*--val-data"):
        prepare([str(path)], cache=cache)
    assert prepare([str(path)], str(path), tokenizer="char", cache=cache).train.documents == 1


def test_a_single_document_is_in_memory_at_most_twice(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("Once upon a time there was a cat.\n" * 300_000, encoding="utf-8")
    size = path.stat().st_size
    for split in ("train", "valid"):
        tracemalloc.start()
        documents = Texts([path], None).documents(split)
        text = next(documents)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert next(documents, None) is None
        assert kept < 1.05 * len(text) + 3_000_000
        assert peak < 2.1 * size + 3_000_000


def test_a_follower_reads_what_rank_0_reads(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule, and the field, are the same on all ranks, for a single document and for several."""
    monkeypatch.setattr(token_files, "_GROUP_SIZE", 1000)
    for name, records in (("one", [BOOK]), ("many", [BOOK[i:] for i in range(30)])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"body": text}) + "\n" for text in records), encoding="utf-8")
        alone = prepare([str(path)], tokenizer="bytes", field="body", cache=cache)
        together = prepare_on_two_ranks(path, tmp_path / "other cache")
        for split in ("train", "valid"):
            assert getattr(together, split).sha256 == getattr(alone, split).sha256


class LeadingRank(ThreadRanks):
    """Rank 0 of two, which starts the jobs of rank 1 in another thread."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        super().__init__(0, threading.Barrier(2), [b"", b""])
        self._pool = pool

    @contextmanager
    def job(self, name: str, **arguments: Any) -> Iterator[None]:  # type: ignore[override]
        follower = ThreadRanks(1, self._barrier, self._contents)
        done = self._pool.submit(token_files.encode_as_follower, follower, **json.loads(json.dumps(arguments)))
        yield
        done.result(30)


def prepare_on_two_ranks(path: Path, cache: Path) -> token_files.PreparedData:
    with ThreadPoolExecutor() as pool:
        return prepare([str(path)], tokenizer="bytes", field="body", cache=cache, ranks=LeadingRank(pool))


# --- messages about tokenizers


def test_why_a_vocabulary_is_smaller_is_said(corpus: Path, cache: Path) -> None:
    lines: list[str] = []
    tokenizer = prepare([str(corpus)], vocab_size=2048, cache=cache, say=lines.append).tokenizer
    assert lines[:2] == [
        "training a tokenizer of 2,048 tokens",
        f"the vocabulary has only {tokenizer.vocab_size} tokens, because with them, each word of the training text is a single "
        "token, and tokens are not merged across words: a longer text would have more",
    ]
    words = re.findall(r" ?[A-Za-z]+| ?[0-9]+| ?[^\w\s]+", "This is story number 17.")
    assert [len(tokenizer.encode(word)) for word in words] == [1] * 6
    assert len(tokenizer.encode("This is story number 17.")) == 6
    lines.clear()
    prepare([str(corpus)], vocab_size=270, cache=cache, say=lines.append)
    assert not any("because" in line for line in lines)


@pytest.mark.parametrize("where", ["held out", "val_data", "given tokenizer", "encode_files"])
def test_an_unknown_character_is_named_by_file_and_line(cache: Path, tmp_path: Path, where: str) -> None:
    train, valid = tmp_path / "train.txt", tmp_path / "valid.txt"
    train.write_text(f"aaa bbb\n{END_OF_TEXT}\n\na\tb{END_OF_TEXT}c", encoding="utf-8")
    valid.write_text("aaa\n\nb\nbQb", encoding="utf-8")
    message, character, mine = r"valid\.txt, line 4: ", r"'Q' \(U\+0051\)", tmp_path / "mine.json"
    Tokenizer.char(["abc \n"]).save(mine)
    with pytest.raises(ValueError) as refused:
        if where == "held out":
            message, character = r"train\.txt, line 4: ", r"'\\t' \(U\+0009\)"
            prepare([str(train)], tokenizer="char", cache=cache)
        elif where == "val_data":
            train.write_text("a\nbc", encoding="utf-8")
            prepare([str(train)], str(valid), tokenizer="char", cache=cache)
        elif where == "given tokenizer":
            prepare([str(valid)], str(valid), tokenizer=str(mine), cache=cache)
        else:
            encode_files([str(valid)], Tokenizer.load(mine), cache=cache)
    message += rf"the character {character} is not among the \d tokens of the vocabulary: replace it, or train with"
    assert re.search(message + r" --tokenizer bytes or the default tokenizer \(BPE\), which encode any text$", str(refused.value))
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no data given"),
        (["storybook", "a.txt"], "storybook cannot be mixed with other data"),
        (["a.txt", "tinystories"], "tinystories cannot be mixed"),
        (["storybok"], "no such file or folder: storybok"),
    ],
)
def test_invalid_data_arguments(cache: Path, data: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(data, cache=cache)


def test_a_cache_that_cannot_be_written(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"cannot write to the cache folder .*MINIGPT_CACHE"):
        prepare([str(corpus)], cache=tmp_path / "file" / "cache")


def test_names_contain_no_folders(corpus: Path, cache: Path, tmp_path: Path) -> None:
    many = []
    for i in range(5):
        many.append(str(tmp_path / f"{i}.txt"))
        Path(many[-1]).write_text("Some text.", encoding="utf-8")
    assert prepare(many, tokenizer="bytes", cache=cache).name == "0.txt, 1.txt, 2.txt and 2 more"


def test_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


# --- files as one split, for evaluation


def test_encode_files_takes_everything(corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.bytes()
    split = encode_files([str(corpus)], tokenizer, cache=cache)
    assert split.documents == 40 and stories(split, tokenizer)[1] == "This is story number 1."
    monkeypatch.setattr(token_files, "write_split", None)
    assert encode_files([str(corpus)], tokenizer, cache=cache).path == split.path


def test_real_stories(shared_data: Callable[[str], Path], cache: Path) -> None:
    prepared = prepare([str(shared_data("tinystories/valid.txt"))], vocab_size=1000, cache=cache)
    about = json.loads((prepared.folder / "valid.json").read_text(encoding="utf-8"))
    assert about["tokens"] == prepared.valid.n_tokens == int(prepared.valid.tokens.size)
    assert (np.asarray(prepared.valid.tokens) == prepared.tokenizer.end_of_text).sum() == prepared.valid.documents


def test_a_large_share_of_validation_text_is_said(tmp_path: Path) -> None:
    lines: list[str] = []
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name} " * 500, encoding="utf-8")
    prepare([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], tokenizer="bytes", cache=tmp_path / "cache", say=lines.append)
    assert any(line.startswith("50% of the text is held out, because it has few documents") for line in lines)
