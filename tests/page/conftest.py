"""Fixtures of the tests of the page: the tiny run, and ways to ask about it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigpt.page.subject import Subject
from minigpt.page.traced import Question, Traced, Tracer

TEXT = "Tom saw a cat."


@pytest.fixture(scope="session")
def tracer(tiny_run: Path) -> Tracer:
    """Traces texts with the tiny run."""
    return Tracer(Subject(tiny_run))


@pytest.fixture(scope="session")
def traced(tracer: Tracer) -> Callable[..., Traced]:
    """`traced(step=4, target=3)` returns the trace of a text."""

    def trace(text: str = TEXT, **options: Any) -> Traced:
        return tracer(Question(text, **options))

    return trace
