"""Tests that the Markdown and HTML pages are complete, escaped and self-contained."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from minigpt.data.printable import printable
from minigpt.report.content import Content, FormattedSample, Strong, Table
from minigpt.report.pages import markdown, page

SVG = '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg xmlns="http://www.w3.org/2000/svg"><text>curve</text></svg>\n'
VOID = {"meta", "br", "img", "path", "use", "link"}


def content(**changes: Any) -> Content:
    parts: dict[str, Any] = {
        "title": "Training run r1",
        "summary": ["The loss is ", Strong("1.25"), "."],
        "explanation": "Lower is better.",
        "alt_text": "Loss over 5 steps",
        "samples_title": "Samples",
        "samples": [FormattedSample([Strong("One day"), " it rained."], "seed 0")],
        "tables": [Table("Data", [("documents", "20")])],
        "commands": [("This run:", "minigpt train")],
    }
    return Content(**(parts | changes))


class Reader(HTMLParser):
    """Parser that collects the displayed text and the tags of a page, and checks that all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.shown = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.shown += data


NASTY = "<b>bold</b> & <script>alert('x')</script> \"q\" </blockquote> `code` *star* _under_ [a](b) |pipe| $x$ \\ ~~no~~"


def test_markdown_of_a_complete_report() -> None:
    assert markdown(content()) == (
        "# Training run r1\n\n"
        "The loss is <strong>1.25</strong>.\n\n"
        "Lower is better.\n\n"
        "![Loss over 5 steps](loss.svg)\n\n"
        "## Samples\n\n"
        "> <strong>One day</strong> it rained.\n>\n> <sub>seed 0</sub>\n\n"
        "## Data\n\n| | |\n|---|---|\n| documents | 20 |\n\n"
        "## Commands\n\nThis run:\n\n    minigpt train\n"
    )


def test_page_shows_the_same_in_the_same_order() -> None:
    shown = Reader(page(content(), SVG)).shown
    order = ["Training run r1", "The loss is 1.25.", "Lower is better.", "curve", "Samples", "One day it rained."]
    order += ["seed 0", "Data", "documents", "20", "This run:", "minigpt train"]
    positions = [shown.index(part, shown.index("The loss")) for part in order[1:]]
    assert positions == sorted(positions)


def test_page_is_self_contained_and_without_scripts() -> None:
    text = page(content(), SVG)
    assert text.startswith("<!doctype html>")
    assert "<?xml" not in text
    assert text.count("<!") == 1
    tags = Reader(text).tags
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {tag for tag, _ in tags}
    assert not [attrs for _, attrs in tags if {"src", "href"} & attrs.keys()]
    assert "@import" not in text
    assert "url(" not in text
    assert ("meta", {"charset": "utf-8"}) in tags


def test_page_has_a_dark_color_scheme() -> None:
    assert "prefers-color-scheme: dark" in page(content(), SVG)


@pytest.mark.parametrize(
    "part", ["title", "summary", "explanation", "alt_text", "samples_title", "samples", "tables", "commands"]
)
def test_text_is_escaped_in_html(part: str) -> None:
    changes: Any = {
        "summary": [NASTY, Strong(NASTY)],
        "samples": [FormattedSample([Strong(NASTY), NASTY], NASTY)],
        "tables": [Table(NASTY, [(NASTY, NASTY)])],
        "commands": [(NASTY, NASTY)],
    }.get(part, NASTY)
    text = page(content(**{part: changes}), SVG)
    reader = Reader(text)
    assert not {"b", "script"} & {tag for tag, _ in reader.tags}
    label = next(attrs["aria-label"] for tag, attrs in reader.tags if tag == "figure")
    assert NASTY in (label if part == "alt_text" else reader.shown)


def test_text_is_escaped_in_markdown() -> None:
    text = markdown(content(samples=[FormattedSample([Strong(NASTY), NASTY], NASTY)], tables=[Table("T", [(NASTY, NASTY)])]))
    assert set(re.findall(r"</?\w+>", text)) == {"<strong>", "</strong>", "<sub>", "</sub>"}
    assert not re.search(r"(?<!\\)[`*_$~]", text)
    row = next(line for line in text.splitlines() if line.startswith("| &lt;b"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_line_breaks_and_paragraphs_of_a_sample_are_preserved() -> None:
    text = markdown(content(samples=[FormattedSample([Strong("One\n\nday"), "\nit\r\nrained\n\n\n  hard \n"], "n")]))
    assert "> <strong>One</strong>\n>\n> <strong>day</strong>\\\n> it\\\n> rained\n>\n>\n> hard\n>\n> <sub>n</sub>\n" in text


def rendered(text: str) -> Reader:
    """Render Markdown as GitHub does."""
    return Reader(MarkdownIt("commonmark", {"html": True, "xhtmlOut": False}).enable(["table", "strikethrough"]).render(text))


def without_space(text: str) -> str:
    return "".join(text.split())


def check_sample_is_displayed_literally(prompt: str, text: str) -> None:
    displayed = rendered(markdown(content(samples=[FormattedSample([Strong(prompt), text], "the note")])))
    text_shown = displayed.shown.split("Samples\n", 1)[1].split("the note", 1)[0]
    assert without_space(text_shown) == without_space(printable(prompt + text))
    expected = {"h1", "h2", "p", "strong", "img", "blockquote", "sub", "br", "table", "thead", "tbody", "tr", "th", "td"}
    assert {tag for tag, _ in displayed.tags} <= expected | {"pre", "code"}
    assert [tag for tag, _ in displayed.tags].count("h2") == 3
    assert [tag for tag, _ in displayed.tags].count("code") == 1


LINES = ["# big", "- item", "+ item", "* item", "1. first", "12) twelfth", "---", "===", "> quote", "    far in", "```", "[a]: b"]


@pytest.mark.parametrize("line", LINES)
def test_no_line_of_a_sample_becomes_markup(line: str) -> None:
    check_sample_is_displayed_literally("Say", f"\n{line}\n\n{line}\nend")
    check_sample_is_displayed_literally(line, f"\n{line}")


@given(st.text('ab1 \n\r\t#*_-+=.)(>[]<&;!`~|\\"\0', min_size=1), st.text('ab1 \n#*_-+=.)(>[]<&;!`~|\\"\0🙂'))
def test_any_sample_is_displayed_literally(prompt: str, text: str) -> None:
    check_sample_is_displayed_literally(prompt, text)


def test_a_table_cell_is_one_line() -> None:
    assert "| a b | c |" in markdown(content(tables=[Table("T", [("a\nb", "c")])]))


def test_a_command_of_two_lines_is_one_code_block() -> None:
    assert "\n    minigpt 'a\n    b'\n" in markdown(content(commands=[("Run:", "minigpt 'a\nb'")]))


def test_a_report_without_samples_has_a_note() -> None:
    assert "No samples have been generated yet." in markdown(content(samples=[]))
    assert "No samples have been generated yet." in Reader(page(content(samples=[]), SVG)).shown
