"""Text to token ids and back, on top of the Hugging Face `tokenizers` library.

Three recipes, one class: byte-level BPE (`Tokenizer.train`), characters (`Tokenizer.char`), bytes (`Tokenizer.bytes`).
All of them are stored as an ordinary `tokenizer.json`, which other tools can read.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.data.atomic import write_whole
from minigpt.data.corpus import END_OF_TEXT, SURROGATE, pieces

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_CONFIG = "tokenizer_config.json"
N_BYTES = 256
UNNAMED = {"llama": {"bos": 1, "eos": 2}, "gpt2": {"bos": 50256, "eos": 50256}}
"The ids that transformers takes where a config.json names none."
MOST_IDS = 1 << 22
"Ids from here on are damage: the library counts up to the largest, which takes half a minute and 16 GB for 32 bits."
_PIECE = 1 << 16  # characters
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what the library shows for bytes that are not (yet) a character


class Tokenizer:
    """Token ids for text; `decode(encode(text)) == text` for any text it was made for.

    `begin_of_text` is the id that a model is shown before a text, `end_of_text` the one after it: one and the same in what is
    made here, but not in everything that is loaded.

    BPE and bytes take any text at all; characters only those they have seen. `<|endoftext|>` inside a text is encoded
    as the plain characters it is made of: only `end_of_text`, the id, ends a document.

    >>> tokenizer = Tokenizer.bytes()
    >>> tokenizer.encode("Hi!")
    [72, 105, 33]
    >>> tokenizer.decode([72, 105, 33])
    'Hi!'
    >>> tokenizer.vocab_size, tokenizer.end_of_text
    (257, 256)
    """

    def __init__(self, backend: "tokenizers.Tokenizer", begin: str | None = None, end: str = END_OF_TEXT) -> None:
        """Wrap a tokenizer of the `tokenizers` library, which gains `end` as its last id if it lacks it.

        `begin` and `end` are the tokens before and after a text; without `begin` they are the same. Raises ValueError for ids
        that are too large, and where `end` has the id of another token.
        """
        backend.add_special_tokens([end])
        backend.encode_special_tokens = True  # text is only ever text: no document can end itself
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        vocab = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocab.values()) + 1  # ids may have gaps
        self.end_of_text: int = vocab[end]
        self.begin_of_text: int = vocab[begin or end]
        if self.vocab_size > MOST_IDS:
            raise ValueError(f"its largest id is {self.vocab_size - 1:,}, but must be less than {MOST_IDS:,}")
        if list(vocab.values()).count(self.end_of_text) > 1:  # the library gives it the number of tokens, whatever the ids are
            raise ValueError(f"{end} would have the id {self.end_of_text}, which another token has")

    @classmethod
    def train(cls, documents: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn a byte-level BPE of at most `vocab_size` ids (fewer if the text is too small for so many).

        Raises ValueError below 257 ids: the 256 bytes and the end of text.
        """
        if vocab_size <= N_BYTES:
            raise ValueError(f"vocab_size is {vocab_size}, but a byte-level vocabulary needs at least {N_BYTES + 1}")
        from tokenizers import models, trainers

        backend = _byte_level(models.BPE(), use_regex=True)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,  # one is left for the end of text
            initial_alphabet=list(_byte_letters()),
            show_progress=False,
        )
        backend.train_from_iterator(_short(documents), trainer)
        return cls(backend)

    @classmethod
    def bytes(cls) -> "Tokenizer":
        """The 257 ids that need no training: each byte of the UTF-8 text is its own id."""
        from tokenizers import models

        vocab = {letter: byte for byte, letter in enumerate(_byte_letters())}
        return cls(_byte_level(models.BPE(vocab=vocab, merges=[]), use_regex=False))

    @classmethod
    def char(cls, documents: Iterable[str]) -> "Tokenizer":
        """One id for each character that occurs in `documents`, sorted, then the end of text.

        >>> Tokenizer.char(["abba"]).encode("ab")
        [0, 1]
        """
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

        characters: set[str] = set()
        for document in documents:
            characters.update(document)
        vocab = {character: i for i, character in enumerate(sorted(characters))}
        # WordLevel and not BPE: it reports a character it does not know, where BPE would silently drop it.
        backend = Tokenizer(models.WordLevel(vocab=vocab, unk_token=""))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        backend.decoder = decoders.Fuse()
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a `tokenizer.json`, or a folder with one, or a folder with GPT-2's `vocab.json` and `merges.txt`.

        Which tokens begin and end a text is read in `tokenizer_config.json` or, failing that, `config.json` beside it; where
        neither says so, both are `<|endoftext|>`. Raises ValueError if there is no tokenizer, or if it cannot be read.
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
                json.loads(text, object_hook=_check_size_of_map)
                backend = Tokenizer.from_str(text)
            else:
                backend = _byte_level(models.BPE.from_file(str(vocab), str(merges)), use_regex=True)
            return cls(backend, *_begin_and_end(file.parent, backend))
        except BaseException as error:
            _pass_on_unless_of_the_library(error)
            raise ValueError(f"{path} holds no tokenizer that can be read: {_first_line(error)}") from error

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON to the file `path`, atomically (into `tokenizer.json` if it is a folder).

        `tokenizer_config.json` beside it says which tokens begin and end a text, where these are not `<|endoftext|>`.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if self.specials != (END_OF_TEXT, END_OF_TEXT):
            write_whole(file.with_name(TOKENIZER_CONFIG), json.dumps(self.config(), indent=2, ensure_ascii=False) + "\n")
        write_whole(file, self._backend.to_str(pretty=True))

    def config(self) -> dict[str, Any]:
        """What `tokenizer_config.json` says, for the library `transformers` too."""
        begin, end = self.specials
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": begin,
            "eos_token": end,
            "clean_up_tokenization_spaces": False,
        }

    @property
    def between(self) -> list[int]:
        """What stands between two texts: the end of one, and the beginning of the other where that is another token."""
        return [self.end_of_text] if self.begin_of_text == self.end_of_text else [self.end_of_text, self.begin_of_text]

    @property
    def specials(self) -> tuple[str, str]:
        """The tokens that begin and end a text, as they are written."""
        name = self._backend.id_to_token
        return str(name(self.begin_of_text)), str(name(self.end_of_text))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides which ids a text gets."""
        content = json.loads(self._backend.to_str())
        if self.specials != (END_OF_TEXT, END_OF_TEXT):
            content["specials"] = self.specials
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without an end of text.

        Raises ValueError on a character that the vocabulary cannot express.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, computed on all cores.

        Raises ValueError on a character that the vocabulary cannot express.
        """
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except BaseException as error:
            _pass_on_unless_of_the_library(error)
            raise ValueError(self._why_not(texts, error)) from error
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no valid UTF-8 show as U+FFFD, the end of text as `<|endoftext|>`.

        Raises ValueError for an id outside the vocabulary, and for ids that a damaged tokenizer cannot decode.
        """
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"token id {i} is outside the vocabulary of {self.vocab_size} ids")
        try:
            return self._backend.decode(ids, skip_special_tokens=False)
        except BaseException as error:
            _pass_on_unless_of_the_library(error)
            raise ValueError(f"the ids cannot be decoded: {_first_line(error)}") from error

    def stream(self, after: Sequence[int] = ()) -> "TextStream":
        """A decoder that takes one id at a time and never shows half a character; `after` are ids that are shown already."""
        return TextStream(self, after)

    def _why_not(self, texts: Sequence[str], error: BaseException) -> str:
        """One line on what kept `texts` from being encoded."""
        if half := next(filter(None, map(SURROGATE.search, texts)), None):
            return f"text holds U+{ord(half.group()):04X}, half of a surrogate pair, which is no character"
        known = self._backend.get_vocab(with_added_tokens=True)
        for character in (c for text in texts for c in text):
            if character not in known:
                return (
                    f"the character {character!r} (U+{ord(character):04X}) is not among the "
                    f"{self.vocab_size} tokens of this vocabulary"
                )
        return f"the text cannot be encoded: {_first_line(error)}"


class TextStream:
    """Text from token ids, as they come: `push` each id, then `finish`; the pieces add up to `decode` of them all.

    >>> stream = Tokenizer.bytes().stream()
    >>> [stream.push(byte) for byte in "né".encode()]
    ['n', '', 'é']
    >>> stream.finish()
    ''
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._decode = tokenizer.decode
        self._shown = list(after)  # the last ids already shown: some decoders treat a first token differently
        self._held: list[int] = []  # ids that so far end within a character

    def push(self, token: int) -> str:
        """The text that `token` completes: whole characters, or nothing yet."""
        text = self._new_text([*self._held, token])
        self._held.append(token)
        return "" if text.endswith(_UNFINISHED) else self._release(text)

    def finish(self) -> str:
        """What is left when no more ids come: a character that was never completed shows as U+FFFD."""
        return self._release(self._new_text(self._held))

    def _new_text(self, held: list[int]) -> str:
        return self._decode(self._shown + held)[len(self._decode(self._shown)) :]

    def _release(self, text: str) -> str:
        if self._held:
            self._shown, self._held = self._held, []
        return text


def _begin_and_end(folder: Path, backend: "tokenizers.Tokenizer") -> tuple[str | None, str]:
    """The tokens before and after a text, as the files beside a tokenizer name them."""
    found: dict[str, str | None] = {"bos": None, "eos": None}
    for file, key in ((folder / "config.json", "{}_token_id"), (folder / TOKENIZER_CONFIG, "{}_token")):
        content = _beside(file)
        unnamed = UNNAMED.get(str(content.get("model_type")), {})
        for which in found:
            token = content.get(key.format(which), unnamed.get(which))
            token = token[0] if isinstance(token, list) and token else token  # config.json may name several ends
            token = token.get("content") if isinstance(token, dict) else token
            token = backend.id_to_token(token) if isinstance(token, int) else token
            if token and backend.token_to_id(token) is not None:
                found[which] = token
    return (found["bos"], found["eos"]) if found["eos"] else (None, END_OF_TEXT)


def _beside(file: Path) -> dict[str, Any]:
    """The object in a JSON file beside a tokenizer; an empty one, where there is no such file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name}: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds a JSON {type(content).__name__}, but must hold an object")
    return content


def _byte_level(model: Any, use_regex: bool) -> "tokenizers.Tokenizer":
    """A tokenizer that sees text as bytes; `use_regex` cuts it into words first, as GPT-2 does."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    return backend


def _short(documents: Iterable[str]) -> Iterator[str]:
    """Long documents in pieces: the trainer takes 100 times the memory of the longest text it is given."""
    return (piece for document in documents for piece, _ in pieces(document, _PIECE))


def _byte_letters() -> str:
    """The letters by which byte-level vocabularies write the bytes 0 to 255: printable ones stand for themselves."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    substitutes = iter(range(N_BYTES, 2 * N_BYTES))
    return "".join(chr(byte if byte in printable else next(substitutes)) for byte in range(N_BYTES))


def _check_size_of_map(part: dict[str, Any]) -> None:
    """Raises ValueError for a map of characters that claims more bytes than it has: the library would ask for the memory."""
    name = "precompiled_charsmap"
    if isinstance(part.get(name), str):
        content = base64.b64decode(part[name])
        if int.from_bytes(content[:4], "little") > len(content):
            raise ValueError(f"its {name} has only {len(content):,} bytes")


def _pass_on_unless_of_the_library(error: BaseException) -> None:
    """Raise again what is no error of the library: it raises bare Exceptions, and panics, which are none, on odd files."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
