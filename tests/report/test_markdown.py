"""Tests that the Markdown of a report is complete, without HTML tags, and displayed literally."""

import re

import pytest
from helpers.reports import NASTY, TOKENS, Reader, content
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from minigpt.data.printable import printable
from minigpt.report.elements import FormattedSample, NormTable, Series, Strong, Table
from minigpt.report.markdown import EXCERPT, markdown, md_text


def test_markdown_of_a_complete_report() -> None:
    norms = NormTable(
        "The norms.", ("gradient", "weights"), (1, 2), [("head", [Series((1.0, 2.0), "1 → 2"), Series((3.0, 4.0), "3 → 4")])]
    )
    step = FormattedSample([Strong("One day"), " it\n\nrained."], "9.1 bits", TOKENS, title="Step 0")
    assert markdown(content(floor=["The ", Strong("floor"), "."], progress=[step], progress_note="Always so.", norms=norms)) == (
        "# Training run r1\n\n"
        "The loss is **1.25**.\n\n"
        "Lower is better.\n\n"
        "![Loss over 5 steps](loss.svg)\n\n"
        "## The floor\n\nThe **floor**.\n\n"
        "## How the text changed\n\nAlways so. [report.html](report.html) shows the complete texts.\n\n"
        "- Step 0 (9.1 bits): One day it rained.\n\n"
        "## Samples\n\n"
        "Seed 0:\n\n> **One day** it rained.\n\n"
        "## Norms of the layers\n\nThe norms.\n\n"
        "| layer | gradient | weights |\n| --- | --- | --- |\n| head | 1 → 2 | 3 → 4 |\n\n"
        "## Data\n\n| | |\n| --- | --- |\n| documents | 20 |\n\n"
        "## Commands\n\nThis run:\n\n    minigpt train\n"
    )


def test_parts_that_a_run_does_not_have_are_left_out() -> None:
    headings = re.findall("^## .*", markdown(content()), re.MULTILINE)
    assert headings == ["## Samples", "## Data", "## Commands"]


def test_text_is_escaped_in_markdown() -> None:
    sample = FormattedSample([Strong(NASTY), NASTY], NASTY, title=NASTY)
    text = markdown(content(samples=[sample], progress=[sample], tables=[Table("T", [(NASTY, NASTY)])]))
    assert not re.search("<", text)
    assert not re.search(r"(?<!\\)[`_$~]", text)
    assert not re.search(r"(?<![\\*])\*(?!\*)", text)
    row = next(line for line in text.splitlines() if line.startswith("| &lt;b"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_line_breaks_and_paragraphs_of_a_sample_are_preserved() -> None:
    text = markdown(content(samples=[FormattedSample([Strong("One\n\nday"), "\nit\r\nrained\n\n\n  hard \n"], "n")]))
    assert "N:\n\n> **One**\n>\n> **day**\\\n> it\\\n> rained\n>\n>\n> hard\n\n" in text


@pytest.mark.parametrize(
    ("prompt", "bold"),
    [
        ("Once", "**Once**"),
        ("Once upon a time,", "**Once upon a time**,"),
        ('"No!"', '"**No**!"'),
        ("é1 ", "**é1** "),
        ("***", r"\*\*\*"),
    ],
)
def test_a_bold_text_ends_at_letters_or_digits(prompt: str, bold: str) -> None:
    assert md_text([Strong(prompt)]) == bold


def test_an_excerpt_ends_at_a_word() -> None:
    sample = FormattedSample([Strong("Go"), " abc" * 100], "", title="Step 7")
    line = next(line for line in markdown(content(progress=[sample])).splitlines() if line.startswith("- Step 7: Go abc"))
    assert line.endswith(" abc …")
    assert len(line) <= len("- Step 7: ") + EXCERPT + len(" …")


def rendered(text: str) -> Reader:
    """Render Markdown as GitHub does."""
    return Reader(MarkdownIt("commonmark", {"html": True, "xhtmlOut": False}).enable(["table", "strikethrough"]).render(text))


def without_space(text: str) -> str:
    return "".join(text.split())


def check_sample_is_displayed_literally(prompt: str, text: str) -> None:
    displayed = rendered(markdown(content(samples=[FormattedSample([Strong(prompt), text], "the note")])))
    text_shown = displayed.shown.split("The note:", 1)[1].split("Data\n", 1)[0]
    assert without_space(text_shown) == without_space(printable(prompt) + printable(text))
    expected = {"h1", "h2", "p", "strong", "img", "blockquote", "br", "table", "thead", "tbody", "tr", "th", "td"}
    assert {tag for tag, _ in displayed.tags} <= expected | {"pre", "code"}
    assert [tag for tag, _ in displayed.tags].count("h2") == 3
    assert [tag for tag, _ in displayed.tags].count("strong") == 1 + sum(
        any(map(str.isalnum, x)) for x in printable(prompt).split("\n")
    )
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


@given(st.text('ab1 \n\t#*_-+=.)(>[]<&;!`~|\\"\0🙂é'))
def test_any_excerpt_is_displayed_literally(text: str) -> None:
    sample = FormattedSample([Strong(""), text], "", title="Step 7")
    displayed = rendered(markdown(content(progress=[sample], samples=[])))
    assert without_space(displayed.shown.split("complete texts.", 1)[1].split("Samples\n", 1)[0]) == without_space(
        "Step 7:" + printable(text)
    )
    assert [tag for tag, _ in displayed.tags].count("li") == 1


def test_a_report_without_samples_has_a_note() -> None:
    assert "No samples have been generated yet." in markdown(content(samples=[]))
