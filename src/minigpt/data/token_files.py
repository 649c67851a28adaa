"""Memory-mapped files of token ids, which are written once for each corpus and tokenizer and then reused."""

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

from minigpt.data.atomic import atomic_replace, atomic_write_text, file_lock, fsync, sha256
from minigpt.data.corpus import documents, text_chunks, text_files
from minigpt.data.json_files import read_json_object
from minigpt.data.ranks import SINGLE_PROCESS, Ranks
from minigpt.data.sources import Texts, file_identities, source
from minigpt.data.tokenizer import Tokenizer

FORMAT = 2  # of prepared folders: part of the cache key, so folders of other formats are not found
_CHUNK_SIZE = 1 << 17  # characters: longer documents are encoded in chunks, to bound the memory
_GROUP_SIZE = 1 << 19  # characters encoded at a time
_REPORT_EVERY = 100_000_000  # bytes of text between two lines of progress
_REMEDY = "delete its folder and prepare again"

Chunks = list[tuple[str, bool]]
"Chunks of text, each with a flag that is True if its document ends with it."


@dataclass
class SplitMetadata:
    """The content of the JSON file next to a token file."""

    tokenizer: str  # the fingerprint
    dtype: str
    tokens: int = 0
    documents: int = 0
    bytes: int = 0
    sha256: str = ""  # of the token file


@dataclass(frozen=True, eq=False)
class Split:
    """A token file: the ids of documents, each followed by `Tokenizer.separator_ids`.

    If begin-of-text and end-of-text are different ids, the file starts with begin-of-text.
    """

    path: Path
    dtype: str
    n_tokens: int  # including special tokens
    documents: int
    bytes: int  # of UTF-8 text
    sha256: str  # of the token file

    @property
    def tokens(self) -> np.ndarray:
        """The ids (n_tokens,) uint16 or uint32, memory-mapped and read-only.

        Each access creates a new map, because pages that were read count as memory of the process until the map is freed.
        """
        return np.memmap(self.path, dtype=self.dtype, mode="r")


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A tokenizer and the token files of both splits."""

    tokenizer: Tokenizer
    train: Split
    valid: Split
    name: str  # a description for reports
    floor_bits_per_byte: float | None  # the entropy of the validation text, if its source knows it
    floor_is_exact: bool  # False: the floor is an upper bound of the entropy
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
    ranks: Ranks = SINGLE_PROCESS,
) -> PreparedData:
    """Read and tokenize a corpus into the cache, or return what the cache has if nothing has changed.

    `data` is ["storybook"], ["tinystories"] or paths of files and folders; without `val_data`, every 20th document of files
    is held out for validation. `tokenizer` is "char", "bytes" or the path of a tokenizer; None trains a byte-level BPE of
    `vocab_size` ids on the training split. `stories` and `seed` are the number of stories and the seed of the storybook.
    `cache` defaults to `default_cache()`, `say` is called with lines of progress, and all `ranks` encode in parallel.
    Raises ValueError if the data or the tokenizer is missing or invalid.
    """
    text_source = source(data, val_data, stories=stories, seed=seed, say=say)
    existing = None if tokenizer in (None, "char", "bytes") else Tokenizer.load(str(tokenizer))
    recipe = {
        "source": text_source.identity(),
        "name": text_source.name,
        "tokenizer": existing.fingerprint if existing else tokenizer or ["bpe", vocab_size],
    }

    def build(folder: Path) -> None:
        texts = text_source.texts(folder)
        chosen = existing or _new_tokenizer(tokenizer, texts, vocab_size, say)
        _prepare(folder, text_source.name, texts, chosen, say, ranks)

    return open_prepared(_find_or_build(cache, recipe, build, say))


def encode_files(
    paths: Sequence[str],
    tokenizer: Tokenizer,
    *,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Split:
    """Return all documents of files and folders as one split, cached like those of `prepare`.

    Raises ValueError for missing or empty files, and for text that the tokenizer cannot encode.
    """
    recipe = {"files": file_identities(text_files(paths)), "tokenizer": tokenizer.fingerprint}

    def build(folder: Path) -> None:
        write_split(folder / "text.bin", documents(paths), tokenizer, say)

    return open_split(_find_or_build(cache, recipe, build, say) / "text.bin", tokenizer)


def default_cache() -> Path:
    """Return the folder for prepared data: the environment variable MINIGPT_CACHE, or the cache folder of the platform."""
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
    ranks: Ranks = SINGLE_PROCESS,
) -> SplitMetadata:
    """Encode documents into the token file `path` atomically, and write and return its metadata.

    Memory does not grow with the number of documents. The other `ranks` must call `encode_as_follower`. Raises ValueError if
    there are no documents, or if the tokenizer cannot encode one.
    """
    metadata = SplitMetadata(tokenizer.fingerprint, _dtype(tokenizer))
    with atomic_replace(path) as temporary:
        with temporary.open("wb") as stream:
            _write(stream, _to_bytes(tokenizer.separator_ids[1:], tokenizer), metadata)
            for chunks, ids in _encode_all(texts, tokenizer, ranks):
                reported = metadata.bytes // _REPORT_EVERY
                _write(stream, ids, metadata)
                metadata.documents += sum(ends for _, ends in chunks)
                metadata.bytes += sum(len(text.encode("utf-8")) for text, _ in chunks)
                if metadata.bytes // _REPORT_EVERY > reported:
                    say(f"{path.stem}: {metadata.bytes / 1e6:,.0f} MB of text encoded")
        if not metadata.documents:
            raise ValueError(f"the {path.stem} split is empty: it has no documents")
        metadata.sha256 = sha256(temporary)
    atomic_write_text(path.with_suffix(".json"), json.dumps(asdict(metadata), indent=1) + "\n")
    say(f"{path.stem}: {metadata.documents:,} documents, {metadata.bytes:,} bytes, {metadata.tokens:,} tokens")
    return metadata


def open_split(path: Path, tokenizer: Tokenizer) -> Split:
    """Open the token file `path` and verify it.

    Raises ValueError if it is missing, was written with another tokenizer, or has changed since it was written.
    """
    metadata = _read_metadata(path)
    if metadata.tokenizer != tokenizer.fingerprint or metadata.dtype != _dtype(tokenizer):
        raise ValueError(f"{path} was written with another tokenizer")
    size, expected = path.stat().st_size, metadata.tokens * np.dtype(metadata.dtype).itemsize
    if size != expected or not size:
        raise ValueError(f"{path} has {size:,} bytes, but must have {expected:,}: {_REMEDY}")
    if sha256(path) != metadata.sha256:
        raise ValueError(f"{path} has changed since it was written: {_REMEDY}")
    return Split(path, metadata.dtype, metadata.tokens, metadata.documents, metadata.bytes, metadata.sha256)


def _new_tokenizer(kind: str | None, texts: Texts, vocab_size: int, say: Callable[[str], None]) -> Tokenizer:
    """Make a tokenizer from the training documents only, so that no validation text is part of it."""
    if kind == "bytes":
        return Tokenizer.bytes()
    if kind == "char":
        return Tokenizer.char(texts.documents("train"))
    say(f"training a tokenizer of {vocab_size:,} tokens")
    return Tokenizer.train(texts.documents("train"), vocab_size)


def _prepare(folder: Path, name: str, texts: Texts, tokenizer: Tokenizer, say: Callable[[str], None], ranks: Ranks) -> None:
    tokenizer.save(folder)
    train, valid = ([str(file.resolve()) for file in files or []] for files in (texts.train, texts.valid))
    written = {}
    for split in ("train", "valid"):
        with ranks.job("encode", tokenizer=str(folder.resolve()), split=split, train=train, valid=valid):
            written[split] = write_split(folder / f"{split}.bin", texts.documents(split), tokenizer, say, ranks)
    about = {
        "name": name,
        "floor_bits_per_byte": None if texts.valid_bits is None else texts.valid_bits / written["valid"].bytes,
        "floor_is_exact": texts.bits_are_exact,
    }
    atomic_write_text(folder / "about.json", json.dumps(about, indent=1) + "\n")


def open_prepared(folder: Path) -> PreparedData:
    """Open a folder that `prepare` has written. Raises ValueError if it does not exist or has changed."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: all machines must see the same MINIGPT_CACHE")
    tokenizer = Tokenizer.load(folder)
    about = _read_about(folder / "about.json")
    train, valid = (open_split(folder / f"{split}.bin", tokenizer) for split in ("train", "valid"))
    return PreparedData(tokenizer, train, valid, folder=folder, **about)


def _find_or_build(cache: Path | None, recipe: dict[str, Any], build: Callable[[Path], None], say: Callable[[str], None]) -> Path:
    """Return the folder of `recipe` in the cache; if there is none, `build` writes it.

    It is written under a temporary name and then renamed, so it is complete or absent. A second process waits for the first.
    """
    cache = default_cache() if cache is None else Path(cache)
    name = hashlib.sha256(json.dumps([FORMAT, recipe], sort_keys=True).encode("utf-8")).hexdigest()[:16]
    folder = cache / name
    lock = cache / f"{name}.lock"
    if folder.is_dir():
        with suppress(OSError):
            lock.unlink()  # left by a process that was killed after the rename
        return folder
    _check_writable(cache)
    with file_lock(lock, wait=lambda: say("another process is preparing the same data: waiting for it")):
        if not folder.is_dir():
            _build_and_rename(folder, cache / f"building-{name}", build)
    return folder


def _build_and_rename(folder: Path, building: Path, build: Callable[[Path], None]) -> None:
    shutil.rmtree(building, ignore_errors=True)  # left by a process that was killed
    building.mkdir()
    try:
        build(building)
        fsync(building)
        os.rename(building, folder)
        fsync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _check_writable(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"cannot write to the cache folder {cache} ({reason}): set MINIGPT_CACHE to another") from error


def _group_chunks(texts: Iterable[str]) -> Iterator[Chunks]:
    """Yield the chunks of all texts in groups of bounded size."""
    group: Chunks = []
    size = 0
    for text in texts:
        for chunk in text_chunks(text, _CHUNK_SIZE):
            group.append(chunk)
            size += len(chunk[0])
            if size >= _GROUP_SIZE:
                yield group
                group, size = [], 0
    if group:
        yield group


def _encode_all(texts: Iterable[str], tokenizer: Tokenizer, ranks: Ranks) -> Iterator[tuple[Chunks, bytes]]:
    """Yield groups of chunks with their ids, on rank 0. Each of the n ranks reads all texts and encodes every n-th group."""
    groups = _group_chunks(texts)
    while next_groups := list(islice(groups, ranks.size)):
        own = next_groups[ranks.rank] if ranks.rank < len(next_groups) else []
        yield from zip(next_groups, ranks.gather_bytes(_encode(own, tokenizer)), strict=False)


def encode_as_follower(ranks: Ranks, tokenizer: str, split: str, train: list[str], valid: list[str]) -> None:
    """Take part in `write_split` on a rank other than 0, with the arguments that rank 0 has sent."""
    texts = Texts([Path(file) for file in train], [Path(file) for file in valid] or None)
    for _ in _encode_all(texts.documents(split), Tokenizer.load(tokenizer), ranks):
        pass  # nothing is yielded: rank 0 gathers the ids


def _encode(chunks: Chunks, tokenizer: Tokenizer) -> bytes:
    encoded = tokenizer.encode_batch([text for text, _ in chunks])
    separators = [tokenizer.separator_ids if ends else [] for _, ends in chunks]
    return b"".join(_to_bytes([*ids, *separator], tokenizer) for ids, separator in zip(encoded, separators, strict=True))


def _to_bytes(ids: Sequence[int], tokenizer: Tokenizer) -> bytes:
    return np.array(ids, dtype=_dtype(tokenizer)).tobytes()


def _write(stream: BinaryIO, ids: bytes, metadata: SplitMetadata) -> None:
    stream.write(ids)
    metadata.tokens += len(ids) // np.dtype(metadata.dtype).itemsize


def _dtype(tokenizer: Tokenizer) -> str:
    return "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"


def _read_about(file: Path) -> dict[str, Any]:
    kinds: dict[str, Any] = {"name": str, "floor_bits_per_byte": (float, type(None)), "floor_is_exact": bool}
    about = _read_json(file)
    if about.keys() == kinds.keys() and all(isinstance(about[name], kind) for name, kind in kinds.items()):
        return about
    raise ValueError(f"{file} is damaged: {_REMEDY}")


def _read_metadata(path: Path) -> SplitMetadata:
    file = path.with_suffix(".json")
    if not (path.is_file() and file.is_file()):
        raise ValueError(f"there is no token file {path} with its metadata {file.name}")
    try:
        metadata = SplitMetadata(**_read_json(file))
    except TypeError as error:
        raise ValueError(f"{file} is damaged: {_REMEDY}") from error
    for field in fields(SplitMetadata):
        value = getattr(metadata, field.name)
        if type(value) is not field.type or (field.type is int and not 0 <= value < 1 << 63):
            raise ValueError(f"{file} is damaged, in the field {field.name}: {_REMEDY}")
    return metadata


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {_REMEDY}") from error
