"""The rule by which a part of a corpus is held out for validation, if there is no other text for it."""

from collections.abc import Iterable, Iterator

EVERY = 20
EVERY_20TH = f"every {EVERY}th document"
LAST_TENTH = "the last tenth of the text"
LARGE_SHARE = 0.2
_SHOWN_CHARACTERS = 40


class TooShortError(ValueError):
    """A text is too short to hold out a part of it."""


def hold_out(corpus: Iterable[str], split: str) -> Iterator[str]:
    """Yield the documents of the split "train" or "valid" of a corpus without a validation file.

    Every 20th document is held out for validation: the 2nd, 22nd, 42nd and so on. This takes one pass and never splits a
    document. Of a corpus that is a single document, the last tenth is held out: it is divided at the end of a paragraph (a blank
    line) near 9/10 of its length, or else at the end of a line, at a space, or at exactly 9/10. Raises TooShortError for a single
    document that is too short for this.

    >>> list(hold_out(["a", "b", "c"], "train")), list(hold_out(["a", "b", "c"], "valid"))
    (['a', 'c'], ['b'])
    >>> list(hold_out(["one two three four five six seven eight nine ten"], "valid"))
    ['ten']
    """
    if split not in ("train", "valid"):
        raise ValueError(f'split is {split!r}, but must be "train" or "valid"')
    return _hold_out(iter(corpus), split == "valid")


def describe_hold_out(corpus: Iterable[str]) -> tuple[str, str | None]:
    """Return what `hold_out` holds out of a corpus and, if it is a part of a single document, a line about that part.

    Raises TooShortError for the same reason as `hold_out`.
    """
    documents = iter(corpus)
    text = next(documents, "")
    if next(documents, None) is not None:
        return EVERY_20TH, None
    _, start = _last_tenth(text)
    held_out = text[start:].lstrip()
    size, words = len(held_out.encode("utf-8")), " ".join(held_out[: 4 * _SHOWN_CHARACTERS].split())
    shown = words if len(words) <= _SHOWN_CHARACTERS else words[:_SHOWN_CHARACTERS].rstrip(" .") + "..."
    return LAST_TENTH, f'a single document: its last tenth is held out for validation ({size:,} bytes, from "{shown}" on)'


def large_share(train: int, valid: int) -> str | None:
    """Return a line that says how much is held out of a text, if it is much, given the bytes of both parts.

    >>> large_share(53_483, 40_892)
    '43% of the text is held out, because it has few documents or a large one among them: --val-data FILE chooses another text'
    """
    share = valid / (train + valid)
    if share < LARGE_SHARE:
        return None
    reason = "because it has few documents or a large one among them"
    return f"{share:.0%} of the text is held out, {reason}: --val-data FILE chooses another text"


def _hold_out(documents: Iterator[str], valid: bool) -> Iterator[str]:
    first, second = next(documents, ""), next(documents, None)
    if second is None:
        end, start = _last_tenth(first)
        first = first[start:].lstrip() if valid else first[:end].rstrip()  # the other part is not kept in memory
        yield first
        return
    yield second if valid else first
    del first, second
    yield from (document for i, document in enumerate(documents, start=2) if (i % EVERY == 1) == valid)


def _last_tenth(text: str) -> tuple[int, int]:
    """Return the end of the training part of a text, and the start of the part that is held out, without white space between.

    The latter has from 1/20 to 3/20 of the characters. The text is stripped of surrounding white space.
    """
    tenth = len(text) // 10
    if not tenth:
        raise TooShortError(
            f"a text of {len(text)} characters is too short to hold out its last tenth for validation: "
            "use more text, or another text for validation with --val-data"
        )
    target = len(text) - tenth
    low, high = target - tenth // 2, target + tenth // 2
    cut = next((cut for mark in ("\n\n", "\n", " ") if (cut := _nearest(text, mark, low, target, high))), target)
    window = text[low:high]
    return low + len(window[: cut - low].rstrip()), high - len(window[cut - low :].lstrip())


def _nearest(text: str, mark: str, low: int, target: int, high: int) -> int:
    """Return the end of the occurrence of `mark` between `low` and `high` that is nearest to `target`, or 0."""
    before, after = text.rfind(mark, low, target + len(mark) - 1), text.find(mark, target, high)
    ends = [index + len(mark) for index in (before, after) if index >= 0]
    return min(ends, key=lambda end: abs(end - target), default=0)
