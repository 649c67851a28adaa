"""Render a report as Markdown and as a self-contained HTML page."""

import html
import re

from minigpt.data.printable import printable
from minigpt.report.content import Content, FormattedSample, Strong, Table, Text
from minigpt.report.theme import CSS

FIGURE = "loss.svg"
NO_SAMPLES = "No samples have been generated yet."


def markdown(content: Content) -> str:
    """Render the report as Markdown, with a link to the figure in the same folder."""
    parts = [
        f"# {_plain(content.title)}",
        _md_text(content.summary),
        _plain(content.explanation),
        f"![{_plain(content.alt_text)}]({FIGURE})",
        f"## {_plain(content.samples_title)}",
        *([_md_sample(sample) for sample in content.samples] or [NO_SAMPLES]),
        *[_md_table(table) for table in content.tables],
        "## Commands",
        *[f"{_plain(purpose)}\n\n{_md_code(command)}" for purpose, command in content.commands],
    ]
    return "\n\n".join(parts) + "\n"


def page(content: Content, svg: str) -> str:
    """Render the report as an HTML page without scripts or external resources."""
    samples = "\n".join(map(_html_sample, content.samples)) or f"<p>{NO_SAMPLES}</p>"
    tables = "\n".join(map(_html_table, content.tables))
    commands = "\n".join(
        f"<p>{_escape(purpose)}</p>\n<pre><code>{_escape(command)}</code></pre>" for purpose, command in content.commands
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_escape(content.title)}</title>
<style>
{CSS}</style>
</head>
<body>
<main>
<h1>{_escape(content.title)}</h1>
<p>{_html_text(content.summary)}</p>
<p class="note">{_escape(content.explanation)}</p>
<figure role="img" aria-label="{_escape(content.alt_text)}">
{_inline(svg)}
</figure>
<h2>{_escape(content.samples_title)}</h2>
{samples}
<h2>Details</h2>
<div class="tables">
{tables}
</div>
<h2>Commands</h2>
{commands}
</main>
</body>
</html>
"""


def _plain(text: str) -> str:
    """Escape text so that Markdown displays it literally."""
    text = html.escape(printable(text), quote=False)
    return re.sub(r"([\\`*_\[\]~|$])", r"\\\1", text)


def _plain_start(line: str) -> str:
    """Escape the start of a line so that it does not become a heading, a rule or a list item."""
    return re.sub(r"^(\d*)([-+=#.)])", r"\1\\\2", line)


def _md_text(text: Text) -> str:
    # A tag instead of two asterisks, because CommonMark does not recognize those next to some punctuation marks.
    return "".join(_each_line(part, "<strong>{}</strong>") if isinstance(part, Strong) else _plain(part) for part in text)


def _each_line(text: str, tag: str) -> str:
    return "\n".join(tag.format(line) if line.strip() else line for line in _plain(text).split("\n"))


def _md_sample(sample: FormattedSample) -> str:
    """Render a sample as a block quote, with its line breaks and paragraphs."""
    lines = [_plain_start(line.strip()) for line in _md_text(sample.text).strip().split("\n")]
    kept = [line + "\\" if line and following else line for line, following in zip(lines, [*lines[1:], ""], strict=True)]
    return "\n".join(f"> {line}".rstrip() for line in [*kept, "", f"<sub>{_plain(sample.note)}</sub>"])


def _md_table(table: Table) -> str:
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in table.rows]
    return "\n".join([f"## {_plain(table.title)}", "", "| | |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return _plain(" ".join(text.split()))


def _md_code(command: str) -> str:
    """Render a command as an indented code block, in which no character needs escaping."""
    return "\n".join(f"    {line}" for line in printable(command).split("\n"))


def _escape(text: str) -> str:
    return html.escape(printable(text))


def _html_text(text: Text) -> str:
    return "".join(f"<strong>{_escape(part)}</strong>" if isinstance(part, Strong) else _escape(part) for part in text)


def _html_sample(sample: FormattedSample) -> str:
    return f"""<blockquote dir="auto">
<p>{_html_text(sample.text).strip()}</p>
<footer>{_escape(sample.note)}</footer>
</blockquote>"""


def _html_table(table: Table) -> str:
    rows = "\n".join(f'<tr><th scope="row">{_escape(name)}</th><td>{_escape(value)}</td></tr>' for name, value in table.rows)
    return f"<table>\n<caption>{_escape(table.title)}</caption>\n{rows}\n</table>"


def _inline(svg: str) -> str:
    """Return the `<svg>` element without the XML prolog, which is not allowed inside HTML."""
    return svg[svg.index("<svg") :].strip()
