"""The same report as Markdown and as one self-contained HTML page."""

import html
import re

from minigpt.report.content import Content, Sample, Strong, Table, Text, printable
from minigpt.report.theme import CSS

PICTURE = "loss.svg"


def markdown(content: Content) -> str:
    """The report as Markdown, which links to the picture beside it."""
    parts = [
        f"# {_plain(content.title)}",
        _md_text(content.summary),
        _plain(content.explanation),
        f"![{_plain(content.picture)}]({PICTURE})",
        f"## {_plain(content.samples_title)}",
        *([_md_sample(sample) for sample in content.samples] or ["None was written yet."]),
        *[_md_table(table) for table in content.tables],
        "## Commands",
        *[f"{_plain(purpose)}\n\n{_md_code(command)}" for purpose, command in content.commands],
    ]
    return "\n\n".join(parts) + "\n"


def page(content: Content, svg: str) -> str:
    """The report as an HTML page, which holds all it needs: no script, and nothing to fetch."""
    stories = "\n".join(map(_html_sample, content.samples)) or "<p>None was written yet.</p>"
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
<figure role="img" aria-label="{_escape(content.picture)}">
{_inline(svg)}
</figure>
<h2>{_escape(content.samples_title)}</h2>
{stories}
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
    """Text that Markdown shows as it stands."""
    text = html.escape(printable(text), quote=False)
    return re.sub(r"([\\`*_\[\]~|$])", r"\\\1", text)


def _plain_start(line: str) -> str:
    """Keep a line from becoming a heading, a rule or an item of a list."""
    return re.sub(r"^(\d*)([-+=#.)])", r"\1\\\2", line)


def _md_text(text: Text) -> str:
    # The tag and not two asterisks, which mean nothing between some letters and punctuation marks.
    return "".join(_each_line(part, "<strong>{}</strong>") if isinstance(part, Strong) else _plain(part) for part in text)


def _each_line(text: str, tag: str) -> str:
    return "\n".join(tag.format(line) if line.strip() else line for line in _plain(text).split("\n"))


def _md_sample(sample: Sample) -> str:
    """A block quote that keeps the story's lines and paragraphs."""
    lines = [_plain_start(line.strip()) for line in _md_text(sample.text).strip().split("\n")]
    kept = [line + "\\" if line and following else line for line, following in zip(lines, [*lines[1:], ""], strict=True)]
    return "\n".join(f"> {line}".rstrip() for line in [*kept, "", f"<sub>{_plain(sample.note)}</sub>"])


def _md_table(table: Table) -> str:
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in table.rows]
    return "\n".join([f"## {_plain(table.title)}", "", "| | |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return _plain(" ".join(text.split()))


def _md_code(command: str) -> str:
    """An indented block, in which nothing needs escaping."""
    return "\n".join(f"    {line}" for line in printable(command).split("\n"))


def _escape(text: str) -> str:
    return html.escape(printable(text))


def _html_text(text: Text) -> str:
    return "".join(f"<strong>{_escape(part)}</strong>" if isinstance(part, Strong) else _escape(part) for part in text)


def _html_sample(sample: Sample) -> str:
    return f"""<blockquote dir="auto">
<p>{_html_text(sample.text).strip()}</p>
<footer>{_escape(sample.note)}</footer>
</blockquote>"""


def _html_table(table: Table) -> str:
    rows = "\n".join(f'<tr><th scope="row">{_escape(name)}</th><td>{_escape(value)}</td></tr>' for name, value in table.rows)
    return f"<table>\n<caption>{_escape(table.title)}</caption>\n{rows}\n</table>"


def _inline(svg: str) -> str:
    """The drawing without the XML prolog, which belongs to a file of its own."""
    return svg[svg.index("<svg") :].strip()
