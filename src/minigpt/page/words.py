"""What the view "Tokens" shows: a text in tokens, and the merges of the tokenizer."""

from typing import Any

from minigpt.data.tokenizer import Tokenizer

MAX_PIECES = 5000


def pieces(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """Return the tokens of a text: the id, the text and the bytes of each. Raises `ValueError` if there are too many."""
    ids = tokenizer.encode(text)
    if len(ids) > MAX_PIECES:
        raise ValueError(f"the text has {len(ids):,} tokens, but must have at most {MAX_PIECES:,}")
    found = tokenizer.pieces(ids)
    return {
        "tokens": [
            {"id": i, "text": piece.decode(errors="replace"), "bytes": list(piece)} for i, piece in zip(ids, found, strict=True)
        ],
        "bytes": sum(map(len, found)),
    }


def merges(tokenizer: Tokenizer, start: int, count: int) -> dict[str, Any]:
    """Return some of the merges of a BPE tokenizer, in the order in which they were learned."""
    learned = tokenizer.merges()
    shown = [[part.decode(errors="replace") for part in pair] for pair in learned[start : start + count]]
    return {"total": len(learned), "start": start, "merges": shown}
