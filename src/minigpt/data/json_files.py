"""Read JSON objects from files, with error messages of one line."""

import json
from pathlib import Path
from typing import Any


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises ValueError if the file cannot be read or does not contain an object. The message is one line and names `path`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, but must hold an object")
    return content


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, or the name of its class if it has none.

    Of an OSError, only the reason is returned ("No such file or directory"), because the message around it names the path.

    >>> one_line(ValueError("the first line\\nand the second")), one_line(MemoryError())
    ('the first line and the second', 'MemoryError')
    """
    reason = error.strerror if isinstance(error, OSError) else None
    return " ".join((reason or str(error)).splitlines()) or type(error).__name__
