"""Documents in token files, and batches without one of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from minigpt.data.batches import batch, window_starts
from minigpt.data.leave_out import Document, documents, steps_of_documents, without
from minigpt.data.splits import Split, _digest

LENGTHS = [5, 1, 12, 7, 30]


def split_of(tokens: Sequence[int], path: Path) -> Split:
    path.write_bytes(np.array(tokens, "<u2").tobytes())
    digest, state = _digest(path)
    return Split(path, "<u2", len(tokens), len(LENGTHS), 0, digest, state)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Documents of the given lengths, whose tokens are all different; 0 is the end of text."""
    tokens: list[int] = []
    for length in LENGTHS:
        tokens += [*range(len(tokens) + 1, len(tokens) + 1 + length), 0]
    return split_of(tokens, tmp_path / "train.bin")


def test_documents_include_their_separator(split: Split) -> None:
    found = documents(split, 0, 0)
    assert [d.stop - d.start for d in found] == [length + 1 for length in LENGTHS]
    assert [d.number for d in found] == list(range(len(LENGTHS)))
    assert all((split.tokens[d.start : d.stop] == 0).tolist() == [False] * (d.stop - d.start - 1) + [True] for d in found)


def test_documents_with_a_token_at_their_beginning(tmp_path: Path) -> None:
    split = split_of([1, 5, 6, 0, 1, 7, 0, 1], tmp_path / "train.bin")  # 1: begin of text, 0: end of text
    assert documents(split, 0, 1) == [Document(0, 1, 5), Document(1, 5, 8)]


def test_windows_without_a_document_are_windows_of_the_other_text(split: Split) -> None:
    document = documents(split, 0, 0)[2]
    rest = np.concatenate([split.tokens[: document.start], split.tokens[document.stop :]])
    smaller, removed = without(split, document), document.stop - document.start
    for start in range(len(split) - 9):
        row = smaller.read(np.array([start]), 9)[0]
        inside = document.start <= start < document.stop
        expected = document.start if inside else start if start < document.start else start - removed
        np.testing.assert_array_equal(row, rest[expected : expected + 9])


def test_other_windows_of_the_batch_stay(split: Split) -> None:
    document = documents(split, 0, 0)[2]
    starts = window_starts(len(split), 3, 1, 6, 8)
    changed = (starts < document.stop) & (starts + 9 > document.start)
    assert 0 < changed.sum() < 6
    before, after = (batch(tokens, 3, 1, 6, 8) for tokens in (split, without(split, document)))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal((a != b).any(axis=1), changed)
    left = set(split.tokens[document.start : document.stop - 1].tolist())
    assert not left & set(after[0].ravel().tolist())


def test_after_the_last_document_comes_the_first(split: Split) -> None:
    document = documents(split, 0, 0)[4]
    row = without(split, document).read(np.array([document.start - 3]), 9)[0]
    np.testing.assert_array_equal(row, [*split.tokens[document.start - 3 : document.start], *split.tokens[:6]])


def test_a_text_of_one_document_cannot_do_without_it(tmp_path: Path) -> None:
    split = split_of([*range(1, 20), 0], tmp_path / "train.bin")
    with pytest.raises(ValueError, match="the training text is too short to leave out document 0"):
        without(split, documents(split, 0, 0)[0]).read(np.array([2]), 5)


def test_steps_of_documents(split: Split) -> None:
    """A step has a document if the batch without it is another one."""
    found = documents(split, 0, 0)
    steps = steps_of_documents(found, len(split), 20, 7, 2, 6)
    for document in found[:-1]:
        changed = [
            step
            for step in range(1, 21)
            if any(
                (a != b).any()
                for a, b in zip(batch(split, 7, step, 2, 6), batch(without(split, document), 7, step, 2, 6), strict=True)
            )
        ]
        assert steps.get(document.number, []) == changed
