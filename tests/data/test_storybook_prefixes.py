"""The information content of each token of a story."""

import math
import re
from itertools import accumulate

import pytest

from minigpt.data import storybook
from minigpt.data.storybook import engine, prefixes, stories
from minigpt.data.storybook.prefixes import token_bits


def pieces_of(text: str) -> list[bytes]:
    """Divide a text into words and single characters between them."""
    return [piece.encode() for piece in re.findall(r"\w+|.", text, re.DOTALL)]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_bits_of_a_story_add_up_to_its_bits(split: str) -> None:
    for story in stories(25, seed=3, split=split):
        bits = token_bits(pieces_of(story.text), complete=True)
        assert sum(bits) == pytest.approx(story.bits, abs=1e-6)
        assert min(bits) > -1e-9


def test_the_division_into_tokens_does_not_change_the_sum() -> None:
    text = next(stories(1, seed=5)).text.encode()
    parts = ([text], [text[:7], text[7:8], text[8:]], [bytes([byte]) for byte in text])
    sums = [sum(token_bits(part)) for part in parts]
    assert sums == pytest.approx([sums[0]] * 3)
    cumulative = dict(
        zip(accumulate(map(len, pieces_of(text.decode()))), accumulate(token_bits(pieces_of(text.decode()))), strict=True)
    )
    by_byte = list(accumulate(token_bits(parts[2])))
    assert all(by_byte[end - 1] == pytest.approx(bits, abs=1e-6) for end, bits in cumulative.items())


def test_in_a_small_grammar_the_bits_are_those_that_can_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the four options begin with "a", and one of them goes on with "b"."""
    words = {"toy": tuple(engine.Word({"word": word}) for word in ("kite", "ball", "drum", "doll"))}
    compiler = engine.Compiler(words, {})
    grammar = compiler.compile(engine.Plot("", "[ab|ac|b|] {toy}, {toy} [and {toy2}|]."))
    monkeypatch.setattr(prefixes, "_grammar", lambda: engine.Choice((grammar,)))
    bits = token_bits([b"a", b"b", b" d", b"ru", b"m, drum ", b"and", b" kite."], complete=True)
    expected = [1, 1, 1, 1, 0, 1, math.log2(3), 0]
    assert bits == pytest.approx(expected, abs=1e-9)
    assert token_bits([b"a", b"b ball, ball and ball"])[1] == math.inf  # the second toy is another one
    assert token_bits([b" ball, ball ."], complete=True) == pytest.approx([2 + 2 + 1, 0], abs=1e-9)
    assert token_bits([b" ball"], complete=True)[1] == math.inf  # no story ends here


def test_a_text_that_is_no_story_has_infinite_bits_from_the_first_impossible_token() -> None:
    bits = token_bits([b"Once", b" upon", b" xyz", b" a"])
    assert [math.isfinite(value) for value in bits] == [True, True, False, False]
    assert token_bits([]) == [] and token_bits([b""]) == [0]


def test_stories_are_ascii() -> None:
    """A token inside a character would be compared as bytes, which works as well, but is not needed."""
    assert all(story.text.isascii() for story in storybook.stories(200))
