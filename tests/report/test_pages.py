"""Tests that the HTML page is complete, escaped and self-contained."""

import re
from typing import Any

import pytest
from helpers.reports import NASTY, TOKENS, Reader, content

from minigpt.report.elements import FormattedSample, NormTable, Series, Strong, Table, Token
from minigpt.report.pages import page
from minigpt.report.theme import PAGE_COLORS
from minigpt.report.tokens import LEVELS, level

SVG = '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg xmlns="http://www.w3.org/2000/svg"><text>curve</text></svg>\n'
NARROW = SVG.replace("curve", "narrow curve")
COLORED = FormattedSample([Strong("One day"), " it rained."], "seed 0", TOKENS)


def html_page(**changes: Any) -> str:
    return page(content(**changes), SVG, NARROW)


def spans(text: str) -> list[dict[str, str | None]]:
    """Return the attributes of the spans of tokens outside the legend."""
    return [attrs for tag, attrs in Reader(text).tags if tag == "span" and "title" in attrs]


def test_page_shows_the_same_in_the_same_order() -> None:
    shown = Reader(html_page()).shown
    order = ["Training run r1", "The loss is 1.25.", "Lower is better.", "curve", "Samples", "One day it rained."]
    order += ["seed 0", "Data", "documents", "20", "This run:", "minigpt train"]
    positions = [shown.index(part, shown.index("The loss")) for part in order[1:]]
    assert positions == sorted(positions)


def test_page_is_self_contained_and_without_scripts() -> None:
    text = html_page()
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
    assert "prefers-color-scheme: dark" in html_page()


@pytest.mark.parametrize(
    "part",
    [
        "title",
        "summary",
        "explanation",
        "alt_text",
        "floor",
        "samples_title",
        "samples",
        "tables",
        "commands",
        "progress",
        "norms",
    ],
)
def test_text_is_escaped_in_html(part: str) -> None:
    changes: Any = {
        "summary": [NASTY, Strong(NASTY)],
        "floor": [NASTY, Strong(NASTY)],
        "progress": [FormattedSample([Strong(NASTY), NASTY], NASTY, (Token(NASTY, 2.0),), NASTY)],
        "norms": NormTable(NASTY, (NASTY,), (1,), [(NASTY, [Series((1.0,), NASTY)])]),
        "samples": [FormattedSample([Strong(NASTY), NASTY], NASTY)],
        "tables": [Table(NASTY, [(NASTY, NASTY)])],
        "commands": [(NASTY, NASTY)],
    }.get(part, NASTY)
    text = html_page(**{part: changes})
    reader = Reader(text)
    assert not {"b", "script"} & {tag for tag, _ in reader.tags}
    label = next(attrs["aria-label"] for tag, attrs in reader.tags if tag == "figure")
    assert NASTY in (label if part == "alt_text" else reader.shown)


def test_a_page_without_samples_has_a_note() -> None:
    assert "No samples have been generated yet." in Reader(html_page(samples=[])).shown


def test_each_token_is_a_span_with_its_surprise() -> None:
    text = html_page(samples=[COLORED])
    assert spans(text) == [{"class": "token", "title": "0.25 bits"}, {"class": "token level-4", "title": "6.5 bits"}]
    assert '<strong>One day</strong><span class="token" title="0.25 bits"> it</span><span' in text
    assert "One day it rained." in Reader(text).shown


def test_a_legend_is_shown_once_and_only_with_tokens() -> None:
    legend = "Each box is a token."
    assert legend not in html_page()
    assert html_page(samples=[COLORED, COLORED], progress=[COLORED]).count(legend) == 1
    shown = Reader(html_page(samples=[COLORED])).shown
    assert all(bounds in shown for bounds in ("under 0.5", "0.5 to 1", "1 to 2", "2 to 4", "4 to 8", "8 and more"))


def test_a_line_break_in_a_token_is_visible() -> None:
    text = html_page(samples=[FormattedSample([Strong("")], "n", (Token(".\n", 1.0), Token("It", 1.0)))])
    assert '.<span class="newline"></span>\n</span>' in text
    assert "<strong></strong>" not in text


def test_every_level_of_surprise_has_a_color_and_an_underline_of_its_own() -> None:
    text = html_page()
    levels = range(1, len(LEVELS) + 1)
    assert [level(bound) for bound in LEVELS] == list(levels)
    assert len({PAGE_COLORS[f"level-{i}"] for i in (0, *levels)}) == len(LEVELS) + 1
    assert len(set(re.findall(r"\.level-\d \{[^}]*(border-bottom[^}]*)\}", text))) == len(LEVELS)


def luminance(color: str) -> float:
    """Return the relative luminance of a color, as WCAG 2 defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("background", ["background", *(f"level-{i}" for i in range(6))])
def test_text_has_enough_contrast(background: str, scheme: int) -> None:
    dark, light = sorted(luminance(PAGE_COLORS[name][scheme]) for name in ("text", background))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_the_texts_at_each_measuring_point_precede_the_final_samples() -> None:
    steps = [FormattedSample([Strong(""), f"text {i}"], f"note {i}", title=f"Step {i}") for i in (0, 50, 100)]
    text = html_page(progress=steps, progress_note="Always the same.")
    shown = Reader(text).shown
    parts = [
        "How the text changed",
        "Always the same.",
        "Step 0",
        "note 0",
        "text 0",
        "Step 50",
        "text 50",
        "Step 100",
        "Samples",
    ]
    assert [shown.index(part) for part in parts] == sorted(shown.index(part) for part in parts)
    assert ("div", {"class": "progress", "role": "region", "aria-label": "How the text changed", "tabindex": "0"}) in Reader(
        text
    ).tags
    assert "How the text changed" not in html_page()


def test_a_narrow_screen_shows_the_narrow_drawing() -> None:
    text = html_page()
    assert text.index('<div class="wide"><svg') < text.index('<div class="narrow"><svg') < text.index("narrow curve")
    narrow_screen = text[text.index("@media (max-width: 600px)") :]
    assert ".narrow { display: none; }" in text[: text.index("@media (max-width: 600px)")]
    assert ".wide { display: none; }" in narrow_screen
    assert ".narrow { display: block; }" in narrow_screen


def test_norms_are_a_table_of_plots_and_numbers() -> None:
    rows = [
        ("head", [Series((1.0, 10.0, 100.0), "1 → 100")]),
        ("blocks.0", [Series((100.0, 100.0, 100.0), "100 → 100")]),
    ]
    text = html_page(norms=NormTable("The norms.", ("gradient",), (10, 20, 40), rows))
    assert re.findall(r'points="([^"]*)"', text) == ["3.0,29.0 41.0,16.0 117.0,3.0", "3.0,3.0 41.0,3.0 117.0,3.0"]
    shown = Reader(text).shown
    assert all(part in shown for part in ("Norms of the layers", "The norms.", "gradient", "head", "1 → 100", "blocks.0"))
    assert "Norms of the layers" not in html_page()


def test_norms_without_a_logarithm_are_not_drawn() -> None:
    rows = [("head", [Series((0.0, float("nan"), float("inf")), "0 → inf")])]
    text = html_page(norms=NormTable("The norms.", ("gradient",), (1, 2, 3), rows))
    assert "polyline" not in text
    assert "0 → inf" in Reader(text).shown
