"""Markdown and HTML: complete, escaped, self-contained."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from minigpt.report.content import Content, Sample, Strong, Table, printable
from minigpt.report.pages import markdown, page

SVG = '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg xmlns="http://www.w3.org/2000/svg"><text>curve</text></svg>\n'
VOID = {"meta", "br", "img", "path", "use", "link"}


def content(**changes: Any) -> Content:
    parts: dict[str, Any] = {
        "title": "Training run r1",
        "summary": ["The loss is ", Strong("1.25"), "."],
        "explanation": "Lower is better.",
        "picture": "Loss over 5 steps",
        "samples_title": "Stories",
        "samples": [Sample([Strong("One day"), " it rained."], "seed 0")],
        "tables": [Table("Data", [("documents", "20")])],
        "commands": [("This run:", "minigpt train")],
    }
    return Content(**(parts | changes))


class Reader(HTMLParser):
    """Collects the shown text and the tags of a page, and checks that each tag is closed."""

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


def test_markdown_as_a_whole() -> None:
    assert markdown(content()) == (
        "# Training run r1\n\n"
        "The loss is <strong>1.25</strong>.\n\n"
        "Lower is better.\n\n"
        "![Loss over 5 steps](loss.svg)\n\n"
        "## Stories\n\n"
        "> <strong>One day</strong> it rained.\n>\n> <sub>seed 0</sub>\n\n"
        "## Data\n\n| | |\n|---|---|\n| documents | 20 |\n\n"
        "## Commands\n\nThis run:\n\n    minigpt train\n"
    )


def test_page_shows_the_same_in_the_same_order() -> None:
    shown = Reader(page(content(), SVG)).shown
    order = ["Training run r1", "The loss is 1.25.", "Lower is better.", "curve", "Stories", "One day it rained."]
    order += ["seed 0", "Data", "documents", "20", "This run:", "minigpt train"]
    places = [shown.index(part, shown.index("The loss")) for part in order[1:]]
    assert places == sorted(places)


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


def test_page_follows_the_readers_light_or_dark() -> None:
    assert "prefers-color-scheme: dark" in page(content(), SVG)


@pytest.mark.parametrize(
    "place", ["title", "summary", "explanation", "picture", "samples_title", "samples", "tables", "commands"]
)
def test_text_stays_text_in_html(place: str) -> None:
    changes: Any = {
        "summary": [NASTY, Strong(NASTY)],
        "samples": [Sample([Strong(NASTY), NASTY], NASTY)],
        "tables": [Table(NASTY, [(NASTY, NASTY)])],
        "commands": [(NASTY, NASTY)],
    }.get(place, NASTY)
    text = page(content(**{place: changes}), SVG)
    reader = Reader(text)
    assert not {"b", "script"} & {tag for tag, _ in reader.tags}
    label = next(attrs["aria-label"] for tag, attrs in reader.tags if tag == "figure")
    assert NASTY in (label if place == "picture" else reader.shown)


def test_text_stays_text_in_markdown() -> None:
    text = markdown(content(samples=[Sample([Strong(NASTY), NASTY], NASTY)], tables=[Table("T", [(NASTY, NASTY)])]))
    assert set(re.findall(r"</?\w+>", text)) == {"<strong>", "</strong>", "<sub>", "</sub>"}
    assert not re.search(r"(?<!\\)[`*_$~]", text)
    row = next(line for line in text.splitlines() if line.startswith("| &lt;b"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_lines_and_paragraphs_of_a_story_stay() -> None:
    text = markdown(content(samples=[Sample([Strong("One\n\nday"), "\nit\r\nrained\n\n\n  hard \n"], "n")]))
    assert "> <strong>One</strong>\n>\n> <strong>day</strong>\\\n> it\\\n> rained\n>\n>\n> hard\n>\n> <sub>n</sub>\n" in text


def rendered(text: str) -> Reader:
    """Markdown as GitHub would show it."""
    return Reader(MarkdownIt("commonmark", {"html": True, "xhtmlOut": False}).enable(["table", "strikethrough"]).render(text))


def without_space(text: str) -> str:
    return "".join(text.split())


def check_story_is_shown_as_it_is(prompt: str, text: str) -> None:
    whole = rendered(markdown(content(samples=[Sample([Strong(prompt), text], "the note")])))
    shown = whole.shown.split("Stories\n", 1)[1].split("the note", 1)[0]
    assert without_space(shown) == without_space(printable(prompt + text))
    usual = {"h1", "h2", "p", "strong", "img", "blockquote", "sub", "br", "table", "thead", "tbody", "tr", "th", "td"}
    assert {tag for tag, _ in whole.tags} <= usual | {"pre", "code"}
    assert [tag for tag, _ in whole.tags].count("h2") == 3
    assert [tag for tag, _ in whole.tags].count("code") == 1


LINES = ["# big", "- item", "+ item", "* item", "1. first", "12) twelfth", "---", "===", "> quote", "    far in", "```", "[a]: b"]


@pytest.mark.parametrize("line", LINES)
def test_no_line_of_a_story_becomes_markup(line: str) -> None:
    check_story_is_shown_as_it_is("Say", f"\n{line}\n\n{line}\nend")
    check_story_is_shown_as_it_is(line, f"\n{line}")


@given(st.text('ab1 \n\r\t#*_-+=.)(>[]<&;!`~|\\"\0', min_size=1), st.text('ab1 \n#*_-+=.)(>[]<&;!`~|\\"\0🙂'))
def test_any_story_is_shown_as_it_is(prompt: str, text: str) -> None:
    check_story_is_shown_as_it_is(prompt, text)


def test_a_table_cell_is_one_line() -> None:
    assert "| a b | c |" in markdown(content(tables=[Table("T", [("a\nb", "c")])]))


def test_a_command_of_two_lines_stays_code() -> None:
    assert "\n    minigpt 'a\n    b'\n" in markdown(content(commands=[("Run:", "minigpt 'a\nb'")]))


def test_no_story_yet_is_said() -> None:
    assert "None was written yet." in markdown(content(samples=[]))
    assert "None was written yet." in Reader(page(content(samples=[]), SVG)).shown
