"""Render a report as Markdown: plain CommonMark with tables, without HTML tags."""

import html
import re
from collections.abc import Sequence

from minigpt.data.printable import printable
from minigpt.report.elements import Content, FormattedSample, NormTable, Strong, Table, Text

FIGURE = "loss.svg"
NO_SAMPLES = "No samples have been generated yet."
TOKENS = " [report.html](report.html) shows the complete texts."
EXCERPT = 200
"The maximum length, in characters, of a sample that shows how the text changed."


def markdown(content: Content) -> str:
    """Render the report as Markdown, with a link to the figure in the same folder."""
    parts = [
        f"# {md_plain(content.title)}",
        md_text(content.summary),
        md_plain(content.explanation),
        f"![{md_plain(content.alt_text)}]({FIGURE})",
        *([f"## The floor\n\n{md_text(content.floor)}"] if content.floor else []),
        *_progress(content),
        f"## {md_plain(content.samples_title)}",
        *([_sample(sample) for sample in content.samples] or [NO_SAMPLES]),
        *([_norms(content.norms)] if content.norms else []),
        *[_titled_table(table) for table in content.tables],
        "## Commands",
        *[f"{md_plain(purpose)}\n\n{md_code(command)}" for purpose, command in content.commands],
    ]
    return "\n\n".join(parts) + "\n"


def md_plain(text: str) -> str:
    """Escape text so that Markdown displays it literally."""
    text = html.escape(printable(text), quote=False)
    return re.sub(r"([\\`*_\[\]~|$])", r"\\\1", text)


def md_text(text: Text) -> str:
    """Render a text with its bold parts."""
    return "".join(_bold_lines(part) if isinstance(part, Strong) else md_plain(part) for part in text)


def _bold_lines(text: str) -> str:
    return "\n".join(map(_bold, printable(text).split("\n")))


def _bold(line: str) -> str:
    """Render a line in bold, from its first letter or digit to its last.

    CommonMark does not recognize two asterisks next to some punctuation marks and spaces, so these remain outside.

    >>> _bold("Once upon a time,"), _bold("(*)")
    ('**Once upon a time**,', '(\\\\*)')
    """
    found = re.fullmatch(r"([\W_]*)(.*[^\W_])([\W_]*)", line, re.DOTALL)
    return f"{md_plain(found[1])}**{md_plain(found[2])}**{md_plain(found[3])}" if found else md_plain(line)


def md_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Render a table."""
    lines = [header, ("---",) * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in line) + "|" for line in lines)


def md_code(command: str) -> str:
    """Render a command as an indented code block, in which no character needs escaping."""
    return "\n".join(f"    {line}" for line in printable(command).split("\n"))


def _plain_start(line: str) -> str:
    """Escape the start of a line so that it does not become a heading, a rule or a list item."""
    return re.sub(r"^(\d*)([-+=#.)])", r"\1\\\2", line)


def _progress(content: Content) -> list[str]:
    """Render the samples that show how the text changed as a list of excerpts."""
    if not content.progress:
        return []
    items = "\n".join(f"- {_progress_item(sample)}" for sample in content.progress)
    return ["## How the text changed", md_plain(content.progress_note) + TOKENS, items]


def _progress_item(sample: FormattedSample) -> str:
    text = " ".join("".join(sample.text).split())
    excerpt = text if len(text) <= EXCERPT else f"{text[:EXCERPT].rsplit(' ', 1)[0]} …"
    note = f" ({sample.note})" if sample.note else ""
    return md_plain(f"{sample.title}{note}: {excerpt}")


def _sample(sample: FormattedSample) -> str:
    """Render a sample as a block quote, with its line breaks and paragraphs, after a line with its note."""
    lines = [_plain_start(line.strip()) for line in md_text(sample.text).strip().split("\n")]
    kept = [line + "\\" if line and following else line for line, following in zip(lines, [*lines[1:], ""], strict=True)]
    quote = "\n".join(f"> {line}".rstrip() for line in kept)
    note = sample.note[:1].upper() + sample.note[1:]
    return f"{md_plain(note)}:\n\n{quote}"


def _norms(norms: NormTable) -> str:
    rows = [(layer, *(series.text for series in columns)) for layer, columns in norms.rows]
    return f"## Norms of the layers\n\n{md_plain(norms.note)}\n\n{md_table(('layer', *norms.columns), rows)}"


def _titled_table(table: Table) -> str:
    return f"## {md_plain(table.title)}\n\n{md_table(('', ''), table.rows)}"


def _cell(text: str) -> str:
    return md_plain(" ".join(text.split()))
