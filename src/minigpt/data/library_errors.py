"""Errors and panics of the `tokenizers` library."""

import base64
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

ANY_CHARACTER = r"[\s\S]"
"The regular expression with which character tokenizers split a text."
_STDERR = 2
_STDERR_LOCK = threading.Lock()


def can_panic(backend: "tokenizers.Tokenizer") -> bool:
    """Return whether a tokenizer has other parts than those of the tokenizers made here, which cannot panic."""
    parts = [json.loads(part.__getstate__()) if part else {} for part in (backend.pre_tokenizer, backend.decoder)]
    types = tuple(part.get("type") for part in parts)
    is_char = types == ("Split", "Fuse") and parts[0]["pattern"] == {"Regex": ANY_CHARACTER}
    return backend.normalizer is not None or not (is_char or types == ("ByteLevel", "ByteLevel"))


def check_charsmap_size(part: dict[str, Any]) -> None:
    """Raise ValueError for a character map that claims to be larger than it is: the library would allocate that memory."""
    name = "precompiled_charsmap"
    if isinstance(part.get(name), str):
        content = base64.b64decode(part[name])
        if int.from_bytes(content[:4], "little") > len(content):
            raise ValueError(f"{name} has only {len(content):,} bytes, fewer than it declares")


@contextmanager
def no_panic_messages() -> Iterator[None]:
    """Discard what is written to standard error during the block.

    The library raises an exception when it panics, but its language also prints the message and, with RUST_BACKTRACE, a stack of
    60 lines for each thread. It does so below Python, so that only the file descriptor can be redirected.
    """
    with _STDERR_LOCK:
        try:
            saved = os.dup(_STDERR)
        except OSError:  # standard error is closed
            saved = None
        if saved is not None:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), _STDERR)
        try:
            yield
        finally:
            if saved is not None:
                os.dup2(saved, _STDERR)
                os.close(saved)


def reraise_unless_library_error(error: BaseException) -> None:
    """Re-raise an interrupt or exit. The library raises bare Exceptions and, outside their hierarchy, PanicException."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
