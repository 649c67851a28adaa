"""Make text safe to print."""

import re

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Replace characters that can control a terminal with U+FFFD. Newline and tab remain, and "\r\n" becomes a newline.

    Text from a model or a file can contain any character. An escape sequence can write to the clipboard or rename the window, and
    a bidirectional override can show a line in another order. The characters replaced are the control characters C0, DEL and C1,
    the bidirectional embeddings, overrides and isolates (the marks that right-to-left text needs remain), and lone surrogates,
    which UTF-8 cannot encode.

    >>> printable("caf\u00e9\t\x1b]52;c;QQ==\x07")
    'café\t�]52;c;QQ==�'
    """
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
