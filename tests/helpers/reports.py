"""Records of a run, a small report, and a parser of its pages, for tests."""

from html.parser import HTMLParser
from typing import Any

from minigpt.report.elements import Content, FormattedSample, Strong, Table, Token

VOID = {"meta", "br", "img", "link"}
NASTY = "<b>bold</b> & <script>alert('x')</script> \"q\" </blockquote> `code` *star* _under_ [a](b) |pipe| $x$ \\ ~~no~~"
TOKENS = (Token(" it", 0.25), Token(" rained.", 6.5))


def content(**changes: Any) -> Content:
    """Return the contents of a small report."""
    parts: dict[str, Any] = {
        "title": "Training run r1",
        "summary": ["The loss is ", Strong("1.25"), "."],
        "explanation": "Lower is better.",
        "alt_text": "Loss over 5 steps",
        "floor": [],
        "progress_note": "",
        "progress": [],
        "samples_title": "Samples",
        "samples": [FormattedSample([Strong("One day"), " it rained."], "seed 0")],
        "norms": None,
        "tables": [Table("Data", [("documents", "20")])],
        "commands": [("This run:", "minigpt train")],
    }
    return Content(**(parts | changes))


def make_norms(scale: float) -> dict[str, dict[str, float]]:
    """Return the norms of two layers as metrics.jsonl has them."""
    return {
        "token_embedding": {"gradient": 0.5 * scale, "weight": 20.0, "update": 0.2 * scale},
        "blocks.0": {"gradient": 0.25 * scale, "weight": 10.0, "update": 0.01 * scale},
    }


def progress_sample(step: int, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a record of samples.jsonl with pieces and surprises."""
    record = {"step": step, "prompt": "Once", "seed": seed, "temperature": 0.8, "top_k": 40}
    pieces = [" upon", " step", f" {step}", ".", "", "é"]
    return record | {"text": "".join(pieces), "pieces": pieces, "surprises": [0.5, 2.0, 9.25, 0.0, 1.5, 1.25]} | changes


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

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.shown += data
