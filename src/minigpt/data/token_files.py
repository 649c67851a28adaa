"""Prepare data: tokenize a corpus into token files, which are written once for each corpus and tokenizer and then reused."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minigpt.data.atomic import atomic_replace, atomic_write_text, sha256
from minigpt.data.cache import find_or_build
from minigpt.data.corpus import FIELD, documents, find_character, text_chunks
from minigpt.data.hold_out import large_share
from minigpt.data.ranks import SINGLE_PROCESS, Ranks
from minigpt.data.sources import Texts, check_unchanged, file_identities, source
from minigpt.data.splits import REMEDY, Split, SplitMetadata, open_split, read_prepared_json, token_dtype
from minigpt.data.text_files import Say, plural, text_files
from minigpt.data.tokenizer import Tokenizer, UnknownCharacterError

_CHUNK_SIZE = 1 << 17  # characters: longer documents are encoded in chunks, to bound the memory
_GROUP_SIZE = 1 << 19  # characters encoded at a time
_REPORT_EVERY = 100_000_000  # bytes of text between two lines of progress

Chunks = list[tuple[str, bool]]
"Chunks of text, each with a flag that is True if its document ends with it."


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A tokenizer and the token files of both splits."""

    tokenizer: Tokenizer
    train: Split
    valid: Split
    name: str  # a description for reports
    held_out: str | None  # what is held out of the training text for validation; None: the validation text is another one
    floor_bits_per_byte: float | None  # the entropy of the validation text, if its source knows it
    floor_is_exact: bool  # False: the floor is an upper bound of the entropy
    folder: Path

    def verify(self) -> None:
        """Compare the SHA-256 of both token files with those when they were opened. Raises OSError if one differs."""
        self.train.verify()
        self.valid.verify()


def prepare(
    data: Sequence[str],
    val_data: str | None = None,
    *,
    vocab_size: int = 4096,
    tokenizer: str | None = None,
    stories: int = 20_000,
    seed: int = 0,
    field: str = FIELD,
    cache: Path | None = None,
    say: Say = lambda line: None,
    ranks: Ranks = SINGLE_PROCESS,
) -> PreparedData:
    """Read and tokenize a corpus into the cache, or return what the cache has if nothing has changed.

    `data` is ["storybook"], ["tinystories"] or paths of files and folders; without `val_data`, every 20th document of files,
    or the last tenth of a single document, is held out for validation (`minigpt.data.hold_out`). Records of .jsonl files have
    the text in `field`. `tokenizer` is "char", "bytes" or the path of a tokenizer; None trains a byte-level BPE of `vocab_size`
    ids on the training split. `stories` and `seed` are the number of stories and the seed of the storybook.
    `cache` defaults to `default_cache()`, `say` is called with lines of progress, and all `ranks` encode in parallel.
    Raises ValueError if the data or the tokenizer is missing or invalid, or if the data changes while it is read.
    """
    text_source = source(data, val_data, stories=stories, seed=seed, say=say, field=field)
    existing = None if tokenizer in (None, "char", "bytes") else Tokenizer.load(str(tokenizer))
    identities = file_identities(text_source.files)
    recipe = {
        "source": text_source.identity(),
        "name": text_source.name,
        "tokenizer": existing.fingerprint if existing else tokenizer or ["bpe", vocab_size],
    }

    def build(folder: Path) -> None:
        texts = text_source.texts(folder, say)
        chosen = existing or _new_tokenizer(tokenizer, texts, vocab_size, say)
        _prepare(folder, text_source.name, texts, chosen, say, ranks)
        check_unchanged(text_source.files, identities)

    return open_prepared(find_or_build(cache, recipe, build, say))


def encode_files(
    paths: Sequence[str | Path],
    tokenizer: Tokenizer,
    *,
    field: str = FIELD,
    cache: Path | None = None,
    say: Say = lambda line: None,
) -> Split:
    """Return all documents of files and folders as one split, cached like those of `prepare`.

    Raises ValueError for missing or empty files, for files that change meanwhile, and for text that the tokenizer cannot encode.
    """
    files = text_files(paths, say)
    identities = file_identities(files)
    recipe = {"files": identities, "tokenizer": tokenizer.fingerprint, "field": field}

    def build(folder: Path) -> None:
        with _locate_unknown_characters(files, field):
            write_split(folder / "text.bin", documents(files, field), tokenizer, say)
        check_unchanged(files, identities)

    return open_split(find_or_build(cache, recipe, build, say) / "text.bin", tokenizer)


def write_split(
    path: Path,
    texts: Iterable[str],
    tokenizer: Tokenizer,
    say: Say = lambda line: None,
    ranks: Ranks = SINGLE_PROCESS,
) -> SplitMetadata:
    """Encode documents into the token file `path` atomically, and write and return its metadata.

    Memory does not grow with the number of documents. The other `ranks` must call `encode_as_follower`. Raises ValueError if
    there are no documents, or if the tokenizer cannot encode one.
    """
    metadata = SplitMetadata(tokenizer.fingerprint, token_dtype(tokenizer))
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
    say(f"{path.stem}: {plural(metadata.documents, 'document')}, {metadata.bytes:,} bytes, {metadata.tokens:,} tokens")
    return metadata


def _new_tokenizer(kind: str | None, texts: Texts, vocab_size: int, say: Say) -> Tokenizer:
    """Make a tokenizer from the training documents only, so that no validation text is part of it."""
    if kind == "bytes":
        return Tokenizer.bytes()
    if kind == "char":
        return Tokenizer.char(texts.documents("train"))
    say(f"training a tokenizer of {vocab_size:,} tokens")
    tokenizer = Tokenizer.train(texts.documents("train"), vocab_size)
    if tokenizer.vocab_size < vocab_size:  # the trainer merges pairs within words, also those that occur once
        say(
            f"the vocabulary has only {tokenizer.vocab_size:,} tokens, because with them, each word of the training text is a "
            "single token, and tokens are not merged across words: a longer text would have more"
        )
    return tokenizer


def _prepare(folder: Path, name: str, texts: Texts, tokenizer: Tokenizer, say: Say, ranks: Ranks) -> None:
    tokenizer.save(folder)
    train, valid = ([str(file.resolve()) for file in files or []] for files in (texts.train, texts.valid))
    written = {}
    for split in ("train", "valid"):
        job = {"tokenizer": str(folder.resolve()), "split": split, "train": train, "valid": valid, "field": texts.field}
        with ranks.job("encode", **job), _locate_unknown_characters(texts.files(split), texts.field):
            written[split] = write_split(folder / f"{split}.bin", texts.documents(split), tokenizer, say, ranks)
    if texts.held_out and (warning := large_share(written["train"].bytes, written["valid"].bytes)):
        say(warning)
    about = {
        "name": name,
        "held_out": texts.held_out,
        "floor_bits_per_byte": None if texts.valid_bits is None else texts.valid_bits / written["valid"].bytes,
        "floor_is_exact": texts.bits_are_exact,
    }
    atomic_write_text(folder / "about.json", json.dumps(about, indent=1) + "\n")


@contextmanager
def _locate_unknown_characters(files: Sequence[Path], field: str) -> Iterator[None]:
    """Add the file and the line of a character that the tokenizer cannot encode, and a remedy, to the error."""
    try:
        yield
    except UnknownCharacterError as error:
        where = find_character(files, error.character, field)
        if where is None:  # the files have changed
            raise
        remedy = "replace it, or train with --tokenizer bytes or the default tokenizer (BPE), which encode any text"
        raise ValueError(f"{where}: {error}: {remedy}") from None


def open_prepared(folder: Path) -> PreparedData:
    """Open a folder that `prepare` has written. Raises ValueError if it does not exist or has changed."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: all machines must see the same MINIGPT_CACHE")
    tokenizer = Tokenizer.load(folder)
    about = _read_about(folder / "about.json")
    train, valid = (open_split(folder / f"{split}.bin", tokenizer) for split in ("train", "valid"))
    return PreparedData(tokenizer, train, valid, folder=folder, **about)


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
    """Yield groups of chunks with their ids, on rank 0. Each of the n ranks reads all texts and encodes every n-th group.

    Raises ValueError on rank 0 if another rank reads another text. The ranks compare it up to the end, including the end.
    """
    groups = _group_chunks(texts)
    while True:
        next_groups = list(islice(groups, ranks.size))
        own = next_groups[ranks.rank] if ranks.rank < len(next_groups) else []
        digest = _digest(next_groups) if ranks.size > 1 else b""
        gathered = ranks.gather_bytes(digest + _encode(own, tokenizer))
        for rank, content in enumerate(gathered):
            if not content.startswith(digest):
                raise ValueError(f"rank {rank} has read another text than rank 0: all machines must see the same files")
        if not next_groups:
            return
        yield from zip(next_groups, (content[len(digest) :] for content in gathered), strict=False)


def _digest(groups: Sequence[Chunks]) -> bytes:
    """Return a checksum of the text in groups of chunks."""
    digest = hashlib.sha256()
    for text, ends in itertools.chain.from_iterable(groups):
        digest.update(text.encode("utf-8") + (b"\xff" if ends else b""))  # UTF-8 has no byte 0xff
    return digest.digest()


def encode_as_follower(ranks: Ranks, tokenizer: str, split: str, train: list[str], valid: list[str], field: str) -> None:
    """Take part in `write_split` on a rank other than 0, with the arguments that rank 0 has sent."""
    texts = Texts([Path(file) for file in train], [Path(file) for file in valid] or None, field)
    with _locate_unknown_characters(texts.files(split), field):
        for _ in _encode_all(texts.documents(split), Tokenizer.load(tokenizer), ranks):
            pass  # nothing is yielded: rank 0 gathers the ids


def _encode(chunks: Chunks, tokenizer: Tokenizer) -> bytes:
    encoded = tokenizer.encode_batch([text for text, _ in chunks])
    separators = [tokenizer.separator_ids if ends else [] for _, ends in chunks]
    return b"".join(_to_bytes([*ids, *separator], tokenizer) for ids, separator in zip(encoded, separators, strict=True))


def _to_bytes(ids: Sequence[int], tokenizer: Tokenizer) -> bytes:
    return np.array(ids, dtype=token_dtype(tokenizer)).tobytes()


def _write(stream: BinaryIO, ids: bytes, metadata: SplitMetadata) -> None:
    stream.write(ids)
    metadata.tokens += len(ids) // np.dtype(metadata.dtype).itemsize


def _read_about(file: Path) -> dict[str, Any]:
    kinds: dict[str, Any] = {
        "name": str,
        "held_out": (str, type(None)),
        "floor_bits_per_byte": (float, type(None)),
        "floor_is_exact": bool,
    }
    about = read_prepared_json(file)
    if about.keys() == kinds.keys() and all(isinstance(about[name], kind) for name, kind in kinds.items()):
        return about
    raise ValueError(f"{file} is damaged: {REMEDY}")
