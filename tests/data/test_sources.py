from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from minigpt.data import sources, tinystories
from minigpt.data.corpus import END_OF_TEXT
from minigpt.data.sources import Files, Storybook, source
from minigpt.data.token_files import prepare


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A storybook of known stories, which counts the generated stories."""

    def stories(count: int, seed: int = 0, split: str = "train") -> Iterator[SimpleNamespace]:
        fake.generated += count
        return (SimpleNamespace(text=f"{split} story {seed}-{i} 🐈", bits=10.0 + i) for i in range(count))

    fake = SimpleNamespace(stories=stories, VERSION=1, EXACT=True, generated=0)
    monkeypatch.setattr("minigpt.data.storybook", fake, raising=False)
    return fake


def select(*data: str, val_data: str | None = None) -> Storybook | Files:
    return source(data, val_data, stories=30, seed=7, say=lambda line: None)


def test_the_storybook_is_generated_once_and_has_an_entropy_floor(book: SimpleNamespace, tmp_path: Path) -> None:
    prepared = prepare(["storybook"], tokenizer="bytes", stories=30, seed=7, cache=tmp_path)
    texts = prepared.tokenizer.decode(prepared.valid.tokens).split(END_OF_TEXT)
    assert texts[0] == "valid story 7-0 🐈" and len(texts) == 251
    assert (prepared.train.documents, prepared.valid.documents) == (30, 250)
    bits = sum(10 + i for i in range(250))
    size = sum(len(f"valid story 7-{i} 🐈".encode()) for i in range(250))
    assert prepared.floor_bits_per_byte == pytest.approx(bits / size, rel=1e-12)
    assert prepared.floor_is_exact
    assert prepared.name == "storybook (30 stories, seed 7)"
    assert book.generated == 280

    again = prepare(["storybook"], tokenizer="bytes", stories=30, seed=7, cache=tmp_path)
    assert book.generated == 280
    assert again.floor_bits_per_byte == prepared.floor_bits_per_byte


def test_the_stories_are_stored_as_text_next_to_the_tokens(book: SimpleNamespace, tmp_path: Path) -> None:
    prepared = prepare(["storybook"], tokenizer="bytes", stories=3, cache=tmp_path)
    text = (prepared.folder / "train.txt").read_text(encoding="utf-8")
    assert text.startswith(f"train story 0-0 🐈\n{END_OF_TEXT}\ntrain story 0-1")


def test_the_identity_depends_on_version_seed_and_number(book: SimpleNamespace) -> None:
    first = select("storybook").identity()
    assert select("storybook").identity() == first
    assert Storybook(30, 8).identity() != first != Storybook(31, 7).identity()
    book.VERSION = 2
    assert select("storybook").identity() != first


def test_an_upper_bound_is_not_called_exact(book: SimpleNamespace, tmp_path: Path) -> None:
    book.EXACT = False
    assert not prepare(["storybook"], tokenizer="bytes", stories=3, cache=tmp_path).floor_is_exact


def test_with_other_validation_text_the_storybook_has_no_floor(book: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("My own story.", encoding="utf-8")
    prepared = prepare(["storybook"], str(tmp_path / "mine.txt"), tokenizer="bytes", stories=3, cache=tmp_path / "c")
    assert prepared.floor_bits_per_byte is None and prepared.valid.documents == 1


def test_no_stories_are_refused(book: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text in"):
        prepare(["storybook"], stories=0, cache=tmp_path)


def test_tinystories_come_from_the_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = tmp_path / "train", tmp_path / "valid"
    monkeypatch.setattr(tinystories, "download", lambda: files)
    lines: list[str] = []
    assert source(["tinystories"], None, stories=1, seed=0, say=lines.append) == Files("tinystories", [files[0]], [files[1]])
    assert "2.2 GB" in lines[0]
    (tmp_path / "mine.txt").write_text("My own story.", encoding="utf-8")
    assert select("tinystories", val_data=str(tmp_path / "mine.txt")).valid == [tmp_path / "mine.txt"]


def test_a_file_named_like_a_built_in_corpus_can_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "storybook").write_text(f"a{END_OF_TEXT}b", encoding="utf-8")
    assert isinstance(select("./storybook"), Files)
    assert isinstance(select("storybook"), Storybook)


def test_validation_data_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        select("storybook", val_data=str(tmp_path / "absent"))


def test_the_real_storybook(tmp_path: Path) -> None:
    pytest.importorskip("minigpt.data.storybook")
    prepared = prepare(["storybook"], vocab_size=300, stories=40, cache=tmp_path)
    assert (prepared.train.documents, prepared.valid.documents) == (40, sources.N_VALID_STORIES)
    assert prepared.floor_bits_per_byte is not None and 0.05 < prepared.floor_bits_per_byte < 3
