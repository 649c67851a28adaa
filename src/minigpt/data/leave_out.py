"""Find a document in a token file, and leave it out of the batches of a training."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from minigpt.data.batches import window_starts
from minigpt.data.splits import Split


@dataclass(frozen=True)
class Document:
    """A document in a token file: its tokens from `start` to `stop`, including the separator at its end."""

    number: int
    "Its index in the file."
    start: int
    stop: int


def documents(split: Split, end_of_text: int, begin_of_text: int) -> list[Document]:
    """Return where the documents of a token file are. The numbers count from 0, in the order of the training text."""
    tokens = np.asarray(split.tokens)
    first = int(begin_of_text != end_of_text)  # the file starts with begin-of-text, and each separator ends with one
    stops = np.flatnonzero(tokens == end_of_text) + 1 + first
    starts = [first, *stops[:-1].tolist()]
    return [
        Document(i, start, min(stop, len(tokens))) for i, (start, stop) in enumerate(zip(starts, stops.tolist(), strict=True))
    ]


@dataclass(eq=False)
class SplitWithoutDocument(Split):
    """A split from which a document is left out.

    All windows start where they started before, so that only those windows change that contained tokens of the document: they
    continue with the text after it. A window that started inside the document starts at its end.

    Raises `ValueError` if there are no `length` tokens on one side of the document.
    """

    left_out: Document = Document(0, 0, 0)

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return `length` ids from each of B positions, (B, length)."""
        document = self.left_out
        affected = (starts < document.stop) & (starts + length > document.start)
        rows = super().read(starts, length)
        for b in np.flatnonzero(affected):
            before = max(0, document.start - int(starts[b]))  # number of tokens that precede the document
            rows[b, before:] = super().read(np.array([self._after(length - before)]), length - before)[0]
        return rows

    def _after(self, length: int) -> int:
        """Return the end of the document or, if fewer than `length` tokens follow it, the start of the file."""
        start = self.left_out.stop if self.left_out.stop + length <= len(self) else 0
        if start == 0 and length > self.left_out.start:
            raise ValueError(f"the training text is too short to leave out document {self.left_out.number:,}")
        return start


def without(split: Split, document: Document) -> SplitWithoutDocument:
    """Return a split without one of its documents."""
    values = {field.name: getattr(split, field.name) for field in fields(Split)}
    return SplitWithoutDocument(**values, left_out=document)


def steps_of_documents(
    documents: Sequence[Document], n_tokens: int, last: int, seed: int, batch_size: int, context_length: int
) -> dict[int, list[int]]:
    """Return, for each document in the batches of the steps 1 to `last`, the steps at which the model sees some of its tokens.

    The keys are the indices of the documents.
    """
    starts, stops = (np.array([getattr(document, name) for document in documents]) for name in ("start", "stop"))
    steps: dict[int, list[int]] = {}
    for step in range(1, last + 1):
        windows = window_starts(n_tokens, seed, step, batch_size, context_length)
        first = np.searchsorted(stops, windows, side="right")
        end = np.searchsorted(starts, windows + context_length + 1, side="left")
        for i in sorted({int(i) for a, b in zip(first, end, strict=True) for i in range(a, b)}):
            steps.setdefault(i, []).append(step)
    return steps
