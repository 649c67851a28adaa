"""Stories of the view "Write" are those of `minigpt sample`."""

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import cli
from minigpt.data.printable import printable
from minigpt.np.sampling import Sampling
from minigpt.page.subject import Subject
from minigpt.page.traced import Tracer
from minigpt.serve.app import story_of
from minigpt.serve.fields import Fields
from minigpt.serve.writing import write

Write = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def tracer(tiny_run: Path) -> Tracer:
    return Tracer(Subject(tiny_run))


@pytest.fixture
def story(tracer: Tracer) -> Write:
    """`story(prompt=..., seed=...)` returns the lines of a story."""
    return lambda **fields: list(write(tracer, story_of(Fields({"prompt": "", "max_new_tokens": 12, **fields}))))


def text_of(lines: list[dict[str, Any]]) -> str:
    return "".join(text for _, text in lines[0]["prompt"]) + "".join(line["text"] for line in lines[1:-1]) + lines[-1]["rest"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "Tom saw", "seed": 3},
        {"prompt": "Zoë -'$x\"", "temperature": 1.2345678, "top_k": 0, "top_p": 0.9},
        {"prompt": "--help", "step": 8, "min_p": 0.05},
        {"prompt": "-5 a", "temperature": 0},
        {"prompt": "Mia", "ids": [32, 115], "max_new_tokens": 30},
    ],
    ids=str,
)
def test_the_command_writes_the_same_story(story: Write, fields: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    lines = story(**fields)
    words = shlex.split(lines[0]["command"])
    assert words[0] == "minigpt"
    with pytest.raises(SystemExit) as ended:
        cli.main(words[1:])
    assert ended.value.code == 0
    assert capsys.readouterr().out.rstrip("\n") == printable(text_of(lines)).rstrip("\n")


def test_a_prompt_that_is_not_text(story: Write) -> None:
    for fields in ({"prompt": "a\0b"}, {"prompt": "", "ids": [0xC3]}):
        words = shlex.split(story(**fields)[0]["command"])
        assert "--prompt-ids" in words and "\0" not in "".join(words)


def test_a_story_goes_on_where_it_was_stopped(story: Write) -> None:
    whole = story(prompt="Tom", max_new_tokens=12, seed=1)
    ended = whole[-1]["end"] == "the story has ended"
    skip = 4
    rest = story(prompt="Tom", max_new_tokens=12, seed=1, skip=skip)
    assert rest[1:] == whole[1 + skip :] and (ended or len(whole) == 14)


def test_probabilities_before_and_after_the_cuts(story: Write, tracer: Tracer) -> None:
    lines = story(prompt="Tom", temperature=0.7, top_k=3)
    ids = [tracer.subject.tokenizer.begin_of_text, *b"Tom"]
    for line in lines[1:-1]:
        logits = tracer.subject.model().logits([ids[-16:]])[0, -1]
        p = np.exp(logits.astype(np.float64) - logits.max())
        p /= p.sum()
        kept, q = Sampling(temperature=0.7, top_k=3).probabilities(logits, ids)
        assert line["p"] == pytest.approx(p[line["id"]], rel=1e-4) and line["bits"] == pytest.approx(-math.log2(line["p"]))
        assert line["kept"] == 3 and [token for token, *_ in line["top"]][:3] == kept[np.argsort(-q)].tolist()
        assert [after for *_, after in line["top"]] == pytest.approx([*sorted(q, reverse=True), *[0] * 7], rel=1e-3)
        ids.append(line["id"])


def test_greedy_stories_keep_one_token(story: Write) -> None:
    for line in story(prompt="Tom", temperature=0)[1:-1]:
        assert line["kept"] == 1 and line["top"][0][0] == line["id"] and line["top"][0][3] == 1
