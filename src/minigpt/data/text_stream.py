"""Incremental decoding: text from token ids as they are generated."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # decoded from bytes that are not (yet) a complete character


class TextStream:
    """An incremental decoder. `push` returns the text that each id completes, never a part of a character; `finish` the rest.

    The returned strings, joined, are equal to `decode` of all ids. `after` are the ids of the text that it continues.

    >>> stream = TextStream(lambda ids: bytes(ids).decode("utf-8", errors="replace"))
    >>> [stream.push(byte) for byte in "né".encode()]
    ['n', '', 'é']
    >>> stream.finish()
    ''
    """

    def __init__(self, decode: Callable[[list[int]], str], after: Sequence[int] = ()) -> None:
        self._decode = decode
        self._context = list(after)  # the ids decoded last: some decoders treat the first token of a text differently
        self._pending: list[int] = []  # ids that so far end within a character

    def push(self, token: int) -> str:
        """Return the text that `token` completes, or "" if it ends within a character."""
        text = self._new_text([*self._pending, token])
        self._pending.append(token)
        return "" if text.endswith(_REPLACEMENT) else self._flush(text)

    def finish(self) -> str:
        """Return the text of the remaining ids, in which an incomplete character becomes U+FFFD."""
        return self._flush(self._new_text(self._pending))

    def _new_text(self, ids: list[int]) -> str:
        return self._decode(self._context + ids)[len(self._decode(self._context)) :]

    def _flush(self, text: str) -> str:
        if self._pending:
            self._context, self._pending = self._pending, []
        return text
