"""Render a report as a self-contained HTML page."""

import html

from minigpt.data.printable import printable
from minigpt.report.elements import Content, FormattedSample, NormTable, Strong, Table, Text
from minigpt.report.markdown import NO_SAMPLES
from minigpt.report.sparklines import html_norms
from minigpt.report.theme import CSS
from minigpt.report.tokens import html_legend, html_tokens


def page(content: Content, svg: str, narrow_svg: str, story: str = "") -> str:
    """Render the report as an HTML page without external resources, and without scripts except those of the story.

    `narrow_svg` is shown instead of `svg` on narrow screens. `story` is HTML that shows what the model sees in a text.
    """
    tables = "\n".join(map(html_table, content.tables))
    commands = "\n".join(
        f"<p>{escape(purpose)}</p>\n<pre><code>{escape(command)}</code></pre>" for purpose, command in content.commands
    )
    body = f"""<p>{html_text(content.summary)}</p>
<p class="note">{escape(content.explanation)}</p>
{html_figure(svg, narrow_svg, content.alt_text)}
{_floor(content.floor)}{_samples(content)}{_norms(content.norms)}{story}<h2>Details</h2>
<div class="tables">
{tables}
</div>
<h2>Commands</h2>
{commands}"""
    return document(content.title, body)


def document(title: str, body: str) -> str:
    """Return an HTML page with a title and the style of the reports."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{CSS}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
"""


def escape(text: str) -> str:
    """Escape text for HTML, and replace control characters."""
    return html.escape(printable(text))


def html_text(text: Text) -> str:
    """Render a text with its bold parts."""
    return "".join(f"<strong>{escape(part)}</strong>" if isinstance(part, Strong) else escape(part) for part in text if part)


def html_table(table: Table) -> str:
    """Render a table of names and values."""
    rows = "\n".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in table.rows)
    return f"<table>\n<caption>{escape(table.title)}</caption>\n{rows}\n</table>"


def html_figure(svg: str, narrow_svg: str, alt_text: str) -> str:
    """Return a figure that shows one of two drawings, depending on the width of the screen."""
    return f"""<figure role="img" aria-label="{escape(alt_text)}">
<div class="wide">{_inline(svg)}</div>
<div class="narrow">{_inline(narrow_svg)}</div>
</figure>"""


def _inline(svg: str) -> str:
    """Return the `<svg>` element without the XML prolog, which is not allowed inside HTML."""
    return svg[svg.index("<svg") :].strip()


def _floor(floor: Text) -> str:
    return f"<h2>The floor</h2>\n<p>{html_text(floor)}</p>\n" if floor else ""


def _samples(content: Content) -> str:
    """Render the samples that show how the text changed, and the final ones, with a legend before the first tokens."""
    legend = html_legend() + "\n" if any(sample.tokens for sample in [*content.progress, *content.samples]) else ""
    final = "\n".join(map(_sample, content.samples)) or f"<p>{NO_SAMPLES}</p>"
    title = f"<h2>{escape(content.samples_title)}</h2>\n"
    if not content.progress:
        return f"{title}{legend}{final}\n"
    columns = "\n".join(map(_progress, content.progress))
    return f"""<h2>How the text changed</h2>
<p class="note">{escape(content.progress_note)}</p>
{legend}<div class="progress" role="region" aria-label="How the text changed" tabindex="0">
{columns}
</div>
{title}{final}
"""


def _progress(sample: FormattedSample) -> str:
    """Render a sample as a column with a heading."""
    note = f"<footer>{escape(sample.note)}</footer>\n" if sample.note else ""
    return f'<blockquote dir="auto">\n<h3>{escape(sample.title)}</h3>\n{note}{_sample_text(sample)}\n</blockquote>'


def _sample(sample: FormattedSample) -> str:
    return f'<blockquote dir="auto">\n{_sample_text(sample)}\n<footer>{escape(sample.note)}</footer>\n</blockquote>'


def _sample_text(sample: FormattedSample) -> str:
    """Render the text of a sample, in tokens if they were recorded. The first part of the text is the prompt."""
    if sample.tokens:
        return f'<p class="tokens">{html_text(sample.text[:1])}{html_tokens(sample.tokens)}</p>'
    return f"<p>{html_text(sample.text).strip()}</p>"


def _norms(norms: NormTable | None) -> str:
    if norms is None:
        return ""
    scale = "Each column has one logarithmic scale; the numbers are the first and the last value."
    return f'<h2>Norms of the layers</h2>\n<p class="note">{escape(norms.note)} {scale}</p>\n{html_norms(norms)}\n'
