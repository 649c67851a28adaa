"""The command that shows the tokens of a text, and the value "-" for standard input."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from minigpt.cli.app import Switch, app
from minigpt.data.printable import printable
from minigpt.data.standard_input import STANDARD_INPUT, standard_input

if TYPE_CHECKING:
    from minigpt.data.tokenizer import Tokenizer


class _Hyphen(str):
    """The word "-", which is a value here. cyclopts regards every word that starts with a hyphen as an option."""

    def startswith(self, *arguments: object) -> bool:
        """Return False."""
        return False


def hyphens_as_values(words: Sequence[str]) -> list[str]:
    """Return the words of a command line for cyclopts, which then accepts "-" (standard input) as a value.

    >>> hyphens_as_values(["train", "--data", "-"])
    ['train', '--data', '-']
    """
    return [_Hyphen(word) if word == STANDARD_INPUT else word for word in words]


@app.command
def tokens(
    *text: str,
    tokenizer: str | None = None,
    json_: Annotated[Switch, Parameter(name="--json")] = False,
) -> None:
    """Show how a tokenizer divides a text into tokens: the piece of text, the id and the bytes of each.

    Parameters
    ----------
    text
        The text, or - for standard input. Several words are joined by spaces.
    tokenizer
        Run, file or folder of a tokenizer, name on the Hugging Face hub, bytes, or char (the characters of the built-in
        stories). [default: the BPE tokenizer of the built-in stories]
    json_
        Print the result as JSON.
    """
    content = content_of(text, 'minigpt tokens "Once upon a time"')
    ids, pieces = _encode(_tokenizer(tokenizer), content)
    size = len(content.encode("utf-8"))
    if json_:
        rows = [{"id": i, "piece": _decoded(piece), "bytes": list(piece)} for i, piece in zip(ids, pieces, strict=True)]
        print(json.dumps({"tokens": len(ids), "bytes": size, "bytes_per_token": size / len(ids), "pieces": rows}))
        return
    for line in table(ids, pieces):
        print(printable(line))
    print(f"{len(ids):,} tokens, {size:,} bytes, {size / len(ids):.2f} bytes per token")


def table(ids: Sequence[int], pieces: Sequence[bytes]) -> list[str]:
    """Return the lines of a table of tokens.

    A piece is shown as a string literal, so that white space is visible, and as bytes if it is a part of a character.

    >>> print(*table([72, 300], [b"H", b"i \\xf0"]), sep="\\n")
     id  piece      bytes
     72  'H'        48
    300  b'i \\xf0'  69 20 f0
    """
    from rich.cells import cell_len

    shown = [*map(token_literal, pieces)]
    width = min(max(map(cell_len, ("piece", *shown))), 40)
    id_width = max(len(str(i)) for i in (*ids, 10))
    lines = [f"{'id':>{id_width}}  {'piece':{width}}  bytes"]
    for i, piece, literal in zip(ids, pieces, shown, strict=True):
        padding = " " * (width - cell_len(literal))
        lines.append(f"{i:{id_width}}  {literal}{padding}  {piece.hex(' ')}")
    return lines


def content_of(text: Sequence[str], example: str) -> str:
    """Return the text that a command is given. Raises `ValueError` if there is none, or if standard input is not UTF-8."""
    if tuple(text) == (STANDARD_INPUT,):
        try:
            content = standard_input().read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input is not UTF-8 text: invalid byte at position {error.start:,}") from None
    else:
        content = " ".join(text)
    if not content:
        raise ValueError(f"the text is empty; expected text, such as {example}, or - for standard input")
    return content


def _encode(tokenizer: "Tokenizer", content: str) -> tuple[list[int], list[bytes]]:
    ids = tokenizer.encode(content)
    if not ids:
        raise ValueError(f"the tokenizer has no token for {content[:40]!r}")
    return ids, tokenizer.pieces(ids)


def token_literal(piece: bytes) -> str:
    """Return a piece as a string literal, or as bytes if it begins or ends within a character."""
    return repr(piece if (text := _decoded(piece)) is None else text)


def _decoded(piece: bytes) -> str | None:
    """Return the text of a piece, or None if it begins or ends within a character."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _tokenizer(name: str | None) -> "Tokenizer":
    """Return the tokenizer that the option selects."""
    from minigpt.data.tokenizer import Tokenizer

    if name == "bytes":
        return Tokenizer.bytes()
    if name in (None, "char"):
        return _tokenizer_of_stories(name)
    return _existing_tokenizer(str(name))


def _tokenizer_of_stories(kind: str | None) -> "Tokenizer":
    """Return the tokenizer of a default training run, which is prepared and kept in the cache."""
    from minigpt.data.token_files import prepare
    from minigpt.training.settings import Settings

    def say(line: str) -> None:
        print(printable(line), file=sys.stderr)

    vocab_size, stories, seed = Settings.vocab_size, Settings.stories, Settings.seed
    return prepare(Settings.data, tokenizer=kind, vocab_size=vocab_size, stories=stories, seed=seed, say=say).tokenizer


def _existing_tokenizer(name: str) -> "Tokenizer":
    """Load the tokenizer of a run, a folder or file of a tokenizer, or a model on the hub."""
    from minigpt.data.tokenizer import Tokenizer
    from minigpt.interop.load import tokenizer_path
    from minigpt.runs.folder import find_run

    path: Path | None = find_run(name)
    if path and not (path.is_file() or (path / "tokenizer.json").is_file() or (path / "vocab.json").is_file()):
        path = tokenizer_path(name)
    if path is None:
        raise ValueError(f"{name} has no tokenizer")
    return Tokenizer.load(path)
