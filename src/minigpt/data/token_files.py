"""Token ids on disk, memory-mapped: written once for a corpus and a tokenizer, then found again."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minigpt.data.atomic import locked, replacing, sha256, sync
from minigpt.data.corpus import documents, pieces, text_files
from minigpt.data.ranks import ALONE, Ranks
from minigpt.data.sources import Source, Texts, file_identities, source
from minigpt.data.tokenizer import Tokenizer

FORMAT = 2  # of the prepared folders; a change makes the old ones invisible
_PIECE = 1 << 17  # characters: longer documents are encoded in pieces, so that memory stays flat
_BATCH = 1 << 19  # characters encoded at a time
_REPORT_EVERY = 100_000_000  # bytes of text between two lines of progress
Group = list[tuple[str, bool]]
_REMEDY = "delete its folder and prepare again"


@dataclass
class Facts:
    """What the JSON beside a token file says about it."""

    tokenizer: str  # its fingerprint
    dtype: str
    tokens: int = 0
    documents: int = 0
    bytes: int = 0
    sha256: str = ""  # of the token file


@dataclass(frozen=True, eq=False)
class Split:
    """A token file: ids of documents one after the other, each followed by the end of text, and by the beginning of the next
    where that is another token.
    """

    path: Path
    dtype: str
    n_tokens: int  # ends of text included
    documents: int
    bytes: int  # of UTF-8 text, without the ends of text
    sha256: str  # of the token file

    @property
    def tokens(self) -> np.ndarray:
        """The ids, memory-mapped and read-only, uint16 or uint32.

        Mapped anew each time: what was read counts as memory of the process until the map is forgotten.
        """
        return np.memmap(self.path, dtype=self.dtype, mode="r")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything training needs to know about its data."""

    tokenizer: Tokenizer
    train: Split
    valid: Split
    name: str  # what the data is, for people
    floor_bits_per_byte: float | None  # the entropy of the validation text, where its source knows it
    floor_is_exact: bool  # False: it is an upper bound of the entropy
    folder: Path


def prepare(
    data: Sequence[str],
    val_data: str | None = None,
    *,
    vocab_size: int = 4096,
    tokenizer: str | None = None,
    stories: int = 20_000,
    seed: int = 0,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    ranks: Ranks = ALONE,
) -> Prepared:
    """Read, tokenize and store a corpus, or find what was stored when nothing has changed since.

    `data` is ["storybook"], ["tinystories"] or files and folders; without `val_data` every 20th document of files is
    held out. `tokenizer` is "char", "bytes", or the path of one; None trains a byte-level BPE of `vocab_size` on the
    training split. `stories` and `seed` are the storybook's. `cache` is `default_cache()` unless given; `say` gets
    lines of progress; `ranks` help to encode. Raises ValueError for whatever is wrong with the data or the tokenizer.
    """
    origin = source(data, val_data, stories=stories, seed=seed, say=say)
    existing = None if tokenizer in (None, "char", "bytes") else Tokenizer.load(str(tokenizer))
    recipe = {
        "source": origin.identity(),
        "name": origin.name,
        "tokenizer": existing.fingerprint if existing else tokenizer or ["bpe", vocab_size],
    }

    def build(folder: Path) -> None:
        texts = origin.texts(folder)
        chosen = existing or _new_tokenizer(tokenizer, texts, vocab_size, say)
        _build(folder, origin, texts, chosen, say, ranks)

    return open_prepared(_cached(cache, recipe, build, say))


def encode_files(
    paths: Sequence[str],
    tokenizer: Tokenizer,
    *,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Split:
    """All of the given files and folders as one split, stored and found again like those of `prepare`.

    Raises ValueError for missing or empty files, and for text the tokenizer cannot express.
    """
    recipe = {"files": file_identities(text_files(paths)), "tokenizer": tokenizer.fingerprint}

    def build(folder: Path) -> None:
        write_split(folder / "text.bin", documents(paths), tokenizer, say)

    return open_split(_cached(cache, recipe, build, say) / "text.bin", tokenizer)


def default_cache() -> Path:
    """The folder for prepared data: the environment variable MINIGPT_CACHE, or where the platform keeps caches."""
    if chosen := os.environ.get("MINIGPT_CACHE"):
        return Path(chosen)
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "minigpt"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "minigpt"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "minigpt"


def write_split(
    path: Path,
    texts: Iterable[str],
    tokenizer: Tokenizer,
    say: Callable[[str], None] = lambda line: None,
    ranks: Ranks = ALONE,
) -> Facts:
    """Encode documents into the token file `path`, with a small JSON beside it; returns what the JSON holds.

    Other `ranks` follow with `help_encode`. Atomic, and in flat memory however long the corpus or one of its documents is.
    Raises ValueError if there are no documents, or if the tokenizer cannot express one.
    """
    facts = Facts(tokenizer.fingerprint, _dtype(tokenizer))
    with replacing(path) as temporary:
        with temporary.open("wb") as stream:
            _write(stream, _bytes_of(tokenizer.between[1:], tokenizer), facts)
            for group, ids in _encoded(texts, tokenizer, ranks):
                reported = facts.bytes // _REPORT_EVERY
                _write(stream, ids, facts)
                facts.documents += sum(ends for _, ends in group)
                facts.bytes += sum(len(text.encode("utf-8")) for text, _ in group)
                if facts.bytes // _REPORT_EVERY > reported:
                    say(f"{path.stem}: {facts.bytes / 1e6:,.0f} MB of text encoded")
        if not facts.documents:
            raise ValueError(f"the {path.stem} split is empty: it has no documents")
        facts.sha256 = sha256(temporary)
    _write_json(_facts_path(path), asdict(facts))
    say(f"{path.stem}: {facts.documents:,} documents, {facts.bytes:,} bytes, {facts.tokens:,} tokens")
    return facts


def open_split(path: Path, tokenizer: Tokenizer) -> Split:
    """The token file `path`, checked.

    Raises ValueError if it is missing, was written by another tokenizer, or is not what was written.
    """
    facts = _read_facts(path)
    if facts.tokenizer != tokenizer.fingerprint or facts.dtype != _dtype(tokenizer):
        raise ValueError(f"{path} was written with another tokenizer than the one given")
    size, expected = path.stat().st_size, facts.tokens * np.dtype(facts.dtype).itemsize
    if size != expected or not size:
        raise ValueError(f"{path} has {size:,} bytes, but should have {expected:,}: {_REMEDY}")
    if sha256(path) != facts.sha256:
        raise ValueError(f"{path} has changed since it was written: {_REMEDY}")
    return Split(path, facts.dtype, facts.tokens, facts.documents, facts.bytes, facts.sha256)


def _new_tokenizer(kind: str | None, texts: Texts, vocab_size: int, say: Callable[[str], None]) -> Tokenizer:
    """Made from the training documents only: validation text must be new to everything."""
    if kind == "bytes":
        return Tokenizer.bytes()
    if kind == "char":
        return Tokenizer.char(texts.documents("train"))
    say(f"training a tokenizer of {vocab_size:,} tokens")
    return Tokenizer.train(texts.documents("train"), vocab_size)


def _build(folder: Path, origin: Source, texts: Texts, tokenizer: Tokenizer, say: Callable[[str], None], ranks: Ranks) -> None:
    tokenizer.save(folder)
    train, valid = ([str(file.resolve()) for file in files or []] for files in (texts.train, texts.valid))
    for split in ("train", "valid"):
        with ranks.job("encode", tokenizer=str(folder.resolve()), split=split, train=train, valid=valid):
            facts = write_split(folder / f"{split}.bin", texts.documents(split), tokenizer, say, ranks)
    about = {
        "name": origin.name,
        "floor_bits_per_byte": None if texts.valid_bits is None else texts.valid_bits / facts.bytes,
        "floor_is_exact": texts.bits_are_exact,
    }
    _write_json(folder / "about.json", about)


def open_prepared(folder: Path) -> Prepared:
    """What `prepare` left in a folder. Raises `ValueError` if it is not there, or not what was written."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: all machines must see the same MINIGPT_CACHE")
    tokenizer = Tokenizer.load(folder)
    about = _read_about(folder / "about.json")
    train, valid = (open_split(folder / f"{split}.bin", tokenizer) for split in ("train", "valid"))
    return Prepared(tokenizer, train, valid, folder=folder, **about)


def _cached(cache: Path | None, recipe: dict[str, Any], build: Callable[[Path], None], say: Callable[[str], None]) -> Path:
    """The folder that `build` fills for this recipe, built now unless it exists.

    It is built beside its place and then renamed, so it is whole or absent; of two processes one waits for the other.
    """
    cache = default_cache() if cache is None else Path(cache)
    name = hashlib.sha256(json.dumps([FORMAT, recipe], sort_keys=True).encode("utf-8")).hexdigest()[:16]
    folder = cache / name
    lock = cache / f"{name}.lock"
    if folder.is_dir():
        with suppress(OSError):
            lock.unlink()  # of a process that was killed when it was done
        return folder
    _check_writable(cache)
    with locked(lock, wait=lambda: say("another process prepares the same: waiting for it")):
        if not folder.is_dir():
            _fill(folder, cache / f"building-{name}", build)
    return folder


def _fill(folder: Path, building: Path, build: Callable[[Path], None]) -> None:
    shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
    building.mkdir()
    try:
        build(building)
        sync(building)
        os.rename(building, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _check_writable(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"cannot write to the cache folder {cache} ({reason}): set MINIGPT_CACHE to another") from error


def _batches(texts: Iterable[str]) -> Iterator[Group]:
    """Pieces of text in groups of bounded size, each with whether its document ends there."""
    group: Group = []
    size = 0
    for text in texts:
        for piece in pieces(text, _PIECE):
            group.append(piece)
            size += len(piece[0])
            if size >= _BATCH:
                yield group
                group, size = [], 0
    if group:
        yield group


def _encoded(texts: Iterable[str], tokenizer: Tokenizer, ranks: Ranks) -> Iterator[tuple[Group, bytes]]:
    """Groups of pieces of text with their ids. All ranks read all of the text, and each encodes every n-th group."""
    groups = _batches(texts)
    while together := list(islice(groups, ranks.size)):
        own = together[ranks.rank] if ranks.rank < len(together) else []
        yield from zip(together, ranks.gather(_encode(own, tokenizer)), strict=False)


def help_encode(ranks: Ranks, tokenizer: str, split: str, train: list[str], valid: list[str]) -> None:
    """What every rank but the first does in `write_split`, with what that one says."""
    texts = Texts([Path(file) for file in train], [Path(file) for file in valid] or None)
    for _ in _encoded(texts.documents(split), Tokenizer.load(tokenizer), ranks):
        pass  # only the first has something to write


def _encode(group: Group, tokenizer: Tokenizer) -> bytes:
    encoded = tokenizer.encode_batch([text for text, _ in group])
    ends = [tokenizer.between if ends else [] for _, ends in group]
    return b"".join(_bytes_of([*ids, *end], tokenizer) for ids, end in zip(encoded, ends, strict=True))


def _bytes_of(ids: Sequence[int], tokenizer: Tokenizer) -> bytes:
    return np.array(ids, dtype=_dtype(tokenizer)).tobytes()


def _write(stream: BinaryIO, ids: bytes, facts: Facts) -> None:
    stream.write(ids)
    facts.tokens += len(ids) // np.dtype(facts.dtype).itemsize


def _dtype(tokenizer: Tokenizer) -> str:
    return "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"


def _facts_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_about(file: Path) -> dict[str, Any]:
    kinds: dict[str, Any] = {"name": str, "floor_bits_per_byte": (float, type(None)), "floor_is_exact": bool}
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        if about.keys() == kinds.keys() and all(isinstance(about[name], kind) for name, kind in kinds.items()):
            return dict(about)
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{file} is damaged: {_REMEDY}")


def _read_facts(path: Path) -> Facts:
    file = _facts_path(path)
    if not (path.is_file() and file.is_file()):
        raise ValueError(f"no token file {path} with its {file.name}")
    try:
        facts = Facts(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {_REMEDY}") from error
    for field in fields(Facts):
        value = getattr(facts, field.name)
        if type(value) is not field.type or (field.type is int and not 0 <= value < 1 << 63):
            raise ValueError(f"{file} is damaged, in {field.name}: {_REMEDY}")
    return facts


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")
