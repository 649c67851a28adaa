"""Tokenizers, which convert text to token ids and back, based on the Hugging Face `tokenizers` library.

There are three kinds: byte-level BPE (`Tokenizer.train`), characters (`Tokenizer.char`) and bytes (`Tokenizer.bytes`).
Each is stored as a standard `tokenizer.json`, which other tools can read.
"""

import builtins
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.data.atomic import atomic_write_text
from minigpt.data.corpus import END_OF_TEXT, SURROGATE, text_chunks
from minigpt.data.json_files import one_line, read_json_object
from minigpt.data.library_errors import (
    ANY_CHARACTER,
    can_panic,
    check_charsmap_size,
    no_panic_messages,
    reraise_unless_library_error,
)
from minigpt.data.text_stream import TextStream

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_CONFIG = "tokenizer_config.json"
N_BYTES = 256
DEFAULT_SPECIAL_IDS = {"llama": {"bos": 1, "eos": 2}, "gpt2": {"bos": 50256, "eos": 50256}}
"The ids of special tokens that transformers assumes if config.json does not give them."
MAX_IDS = 1 << 22
"The limit of the vocabulary. A damaged file may have ids up to 2**32 - 1, for which the library takes 30 s and 16 GB."
_CHUNK_SIZE = 1 << 16  # characters
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


class UnknownCharacterError(ValueError):
    """A text contains a character that is not in the vocabulary."""

    def __init__(self, message: str, character: str) -> None:
        super().__init__(message)
        self.character = character


class Tokenizer:
    """A tokenizer with `decode(encode(text)) == text` for every text that it can encode.

    BPE and byte tokenizers encode any text, character tokenizers only text of known characters.

    `begin_of_text` is the id before a text in the input of a model, `end_of_text` the one after it. They are equal for
    tokenizers made here, but not for all that can be loaded. The string `<|endoftext|>` within a text is encoded as ordinary
    characters: only the id `end_of_text` ends a document.

    >>> tokenizer = Tokenizer.bytes()
    >>> tokenizer.encode("Hi!")
    [72, 105, 33]
    >>> tokenizer.decode([72, 105, 33])
    'Hi!'
    >>> tokenizer.vocab_size, tokenizer.end_of_text
    (257, 256)
    """

    def __init__(self, backend: "tokenizers.Tokenizer", begin: str | None = None, end: str = END_OF_TEXT) -> None:
        """Wrap a tokenizer of the `tokenizers` library. If it has no token `end`, that is added as the last id.

        `begin` and `end` are the tokens before and after a text; without `begin`, `end` is used for both. Raises ValueError
        for ids of 2**22 or more, and if `end` would get the id of another token.
        """
        backend.add_special_tokens([end])
        backend.encode_special_tokens = True  # so that text which contains a special token is encoded as characters
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._can_panic = can_panic(backend)
        vocab = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocab.values()) + 1  # ids may have gaps
        self.end_of_text: int = vocab[end]
        self.begin_of_text: int = vocab[begin or end]
        if self.vocab_size > MAX_IDS:
            raise ValueError(f"the largest id is {self.vocab_size - 1:,}, but must be less than {MAX_IDS:,}")
        if list(vocab.values()).count(self.end_of_text) > 1:  # a new token gets the number of tokens as its id
            raise ValueError(f"{end} would get the id {self.end_of_text}, which belongs to another token")

    def __repr__(self) -> str:
        return f"Tokenizer({type(self._backend.model).__name__}, {self.vocab_size:,} ids)"

    @classmethod
    def train(cls, documents: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Train a byte-level BPE of `vocab_size` ids, or fewer if the text does not contain enough pairs to merge.

        Raises ValueError for fewer than 257 ids, which are the 256 bytes and the end of text.
        """
        if vocab_size <= N_BYTES:
            raise ValueError(f"vocab_size is {vocab_size}, but a byte-level vocabulary needs at least {N_BYTES + 1}")
        from tokenizers import models, trainers

        backend = _byte_level(models.BPE(), use_regex=True)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,  # the end of text is added later
            initial_alphabet=list(_byte_characters()),
            show_progress=False,
        )
        backend.train_from_iterator(_split_long_documents(documents), trainer)
        return cls(backend)

    @classmethod
    def bytes(cls) -> "Tokenizer":
        """Return the tokenizer whose ids are the bytes of the UTF-8 text, and 256 for the end of text."""
        from tokenizers import models

        vocab = {character: byte for byte, character in enumerate(_byte_characters())}
        return cls(_byte_level(models.BPE(vocab=vocab, merges=[]), use_regex=False))

    @classmethod
    def char(cls, documents: Iterable[str]) -> "Tokenizer":
        """Return a tokenizer with one id for each character in `documents`, sorted, followed by the end of text.

        >>> Tokenizer.char(["abba"]).encode("ab")
        [0, 1]
        """
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

        characters: set[str] = set()
        for document in documents:
            characters.update(document)
        vocab = {character: i for i, character in enumerate(sorted(characters))}
        # WordLevel instead of BPE, because it raises an error for an unknown character, which BPE silently drops.
        backend = Tokenizer(models.WordLevel(vocab=vocab, unk_token=""))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(ANY_CHARACTER), "isolated")
        backend.decoder = decoders.Fuse()
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Load a `tokenizer.json`, a folder with one, or a folder with GPT-2's `vocab.json` and `merges.txt`.

        The tokens before and after a text are read from `tokenizer_config.json`, or else `config.json`, in the same folder;
        without either, both are `<|endoftext|>`. Raises ValueError if there is no tokenizer, or if it cannot be read.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        vocab, merges = path / "vocab.json", path / "merges.txt"
        if not file.is_file() and not (vocab.is_file() and merges.is_file()):
            wanted = "tokenizer.json, or vocab.json and merges.txt, in the folder" if path.is_dir() else "the file"
            raise ValueError(f"no tokenizer found: expected {wanted} {path}")
        from tokenizers import Tokenizer, models

        try:
            if file.is_file():
                text = file.read_text(encoding="utf-8")
                json.loads(text, object_hook=check_charsmap_size)
                with no_panic_messages():
                    backend = Tokenizer.from_str(text)
            else:
                backend = _byte_level(models.BPE.from_file(str(vocab), str(merges)), use_regex=True)
            return cls(backend, *_begin_and_end(file.parent, backend))
        except BaseException as error:
            reraise_unless_library_error(error)
            raise ValueError(f"no tokenizer can be read from {path}: {one_line(error)}") from error

    def save(self, path: str | Path) -> None:
        """Write the tokenizer atomically as JSON to the file `path`, or to `tokenizer.json` in the folder `path`.

        Tokens before and after a text other than `<|endoftext|>` are written to `tokenizer_config.json` in the same folder.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if self.special_tokens != (END_OF_TEXT, END_OF_TEXT):
            atomic_write_text(file.with_name(TOKENIZER_CONFIG), json.dumps(self.config(), indent=2, ensure_ascii=False) + "\n")
        atomic_write_text(file, self._backend.to_str(pretty=True))

    def config(self) -> dict[str, Any]:
        """Return the content of `tokenizer_config.json`, which the library `transformers` reads as well."""
        begin, end = self.special_tokens
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": begin,
            "eos_token": end,
            "clean_up_tokenization_spaces": False,
        }

    @property
    def separator_ids(self) -> list[int]:
        """The ids between two texts: end-of-text, followed by begin-of-text if that is a different id."""
        return [self.end_of_text] if self.begin_of_text == self.end_of_text else [self.end_of_text, self.begin_of_text]

    @property
    def special_tokens(self) -> tuple[str, str]:
        """The tokens before and after a text, as strings."""
        id_to_token = self._backend.id_to_token
        return str(id_to_token(self.begin_of_text)), str(id_to_token(self.end_of_text))

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256, in hexadecimal, of everything that determines the ids of a text."""
        content = json.loads(self._backend.to_str())
        if self.special_tokens != (END_OF_TEXT, END_OF_TEXT):
            content["specials"] = self.special_tokens
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without the end of text.

        Raises ValueError for a character that is not in the vocabulary.
        """
        return self.encode_batch([text])[0]

    def input_ids(self, text: str) -> list[int]:
        """Return the ids of `text` after the begin-of-text token, as the model reads the beginning of a text in training.

        >>> Tokenizer.bytes().input_ids("Hi")
        [256, 72, 105]
        """
        return [self.begin_of_text, *self.encode(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, computed on all cores.

        Raises ValueError for a character that is not in the vocabulary.
        """
        try:
            with self._quietly():
                encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except BaseException as error:
            reraise_unless_library_error(error)
            raise self._encoding_error(texts, error) from error
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`. Invalid UTF-8 becomes U+FFFD, and the end of text `<|endoftext|>`.

        Raises ValueError for an id outside the vocabulary, and if a damaged tokenizer cannot decode the ids.
        """
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"token id {i} is outside the vocabulary of {self.vocab_size} ids")
        try:
            with self._quietly():
                return self._backend.decode(ids, skip_special_tokens=False)
        except BaseException as error:
            reraise_unless_library_error(error)
            raise ValueError(f"the ids cannot be decoded: {one_line(error)}") from error

    def pieces(self, ids: Sequence[int]) -> list[builtins.bytes]:
        """Return the UTF-8 bytes that each id stands for; joined, they are the decoded text.

        A token can end within a character if the tokenizer has tokens for bytes.

        >>> Tokenizer.bytes().pieces([72, 195, 169])
        [b'H', b'\\xc3', b'\\xa9']
        """
        from tokenizers import decoders

        tokens = [self._backend.id_to_token(i) or "" for i in ids]
        if isinstance(self._backend.decoder, decoders.ByteLevel):
            bytes_of = {character: bytes([byte]) for byte, character in enumerate(_byte_characters())}
            return [b"".join(bytes_of.get(character) or character.encode() for character in token) for token in tokens]
        stream = self.stream()
        texts = [stream.push(i) for i in ids]
        texts[-1:] = [text + stream.finish() for text in texts[-1:]]
        found = [_BYTE_TOKEN.fullmatch(token) for token in tokens]
        return [bytes.fromhex(byte[1]) if byte else text.encode() for byte, text in zip(found, texts, strict=True)]

    def merges(self) -> list[tuple[builtins.bytes, builtins.bytes]]:
        """Return the merges of a BPE tokenizer in the order in which they were learned: two pieces that become one token.

        >>> Tokenizer.train(["low lower lowest"], vocab_size=259).merges()
        [(b'l', b'o'), (b'lo', b'w')]
        """
        learned = json.loads(self._backend.to_str())["model"].get("merges", [])
        names = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in learned]
        vocabulary = self._backend.get_vocab(with_added_tokens=False)
        parts = [part for pair in names for part in pair]
        pieces = self.pieces([vocabulary[part] for part in parts])
        return list(zip(pieces[::2], pieces[1::2], strict=True))

    def stream(self, after: Sequence[int] = ()) -> TextStream:
        """Return a decoder that takes one id at a time. `after` are the ids of the text that it continues."""
        return TextStream(self.decode, after)

    def _quietly(self) -> AbstractContextManager[None]:
        """Suppress the messages of a panic, if this tokenizer can panic."""
        return no_panic_messages() if self._can_panic else nullcontext()

    def _encoding_error(self, texts: Sequence[str], error: BaseException) -> ValueError:
        """Return the reason why `texts` cannot be encoded, on one line."""
        if surrogate := next(filter(None, map(SURROGATE.search, texts)), None):
            code = f"U+{ord(surrogate.group()):04X}"
            return ValueError(f"the text contains {code}, a lone surrogate, which is not a character")
        known = self._backend.get_vocab(with_added_tokens=True)
        for character in (c for text in texts for c in text):
            if character not in known:
                named = f"{character!r} (U+{ord(character):04X})"
                message = f"the character {named} is not among the {self.vocab_size} tokens of the vocabulary"
                return UnknownCharacterError(message, character)
        return ValueError(f"the text cannot be encoded: {one_line(error)}")


def _begin_and_end(folder: Path, backend: "tokenizers.Tokenizer") -> tuple[str | None, str]:
    """Return the tokens before and after a text that the configuration files in the folder of a tokenizer give."""
    found: dict[str, str | None] = {"bos": None, "eos": None}
    for file, key in ((folder / "config.json", "{}_token_id"), (folder / TOKENIZER_CONFIG, "{}_token")):
        content = read_json_object(file) if file.is_file() else {}
        defaults = DEFAULT_SPECIAL_IDS.get(str(content.get("model_type")), {})
        for which in found:
            token = content.get(key.format(which), defaults.get(which))
            token = token[0] if isinstance(token, list) and token else token  # config.json may have several
            token = token.get("content") if isinstance(token, dict) else token
            token = backend.id_to_token(token) if isinstance(token, int) else token
            if token and backend.token_to_id(token) is not None:
                found[which] = token
    return (found["bos"], found["eos"]) if found["eos"] else (None, END_OF_TEXT)


def _byte_level(model: Any, use_regex: bool) -> "tokenizers.Tokenizer":
    """Return a tokenizer of bytes; with `use_regex` it first splits text into words, as GPT-2 does."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    return backend


def _split_long_documents(documents: Iterable[str]) -> Iterator[str]:
    """Split documents into chunks, because the trainer takes 100 times the memory of its longest text."""
    return (chunk for document in documents for chunk, _ in text_chunks(document, _CHUNK_SIZE))


def _byte_characters() -> str:
    """Return the 256 characters that stand for the bytes 0 to 255 in a byte-level vocabulary, as GPT-2 defines them."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    substitutes = iter(range(N_BYTES, 2 * N_BYTES))
    return "".join(chr(byte if byte in printable else next(substitutes)) for byte in range(N_BYTES))
