"""No text that is printed can control the terminal."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from minigpt.data.printable import printable

BIDIRECTIONAL = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
"The bidirectional classes of the characters that change the order of those after them."


def test_control_characters_and_lone_surrogates_are_replaced() -> None:
    text = printable("a\x00b\x1b[0m\r\nc\td\ud800é🙂\x7f\x9b0m\r")
    assert text == "a\ufffdb\ufffd[0m\nc\td\ufffdé🙂\ufffd\ufffd0m\ufffd"
    assert text.encode("utf-8")


def test_bidirectional_overrides_are_replaced_and_marks_are_not() -> None:
    assert printable("a\u202eb\u2066c\u200f\u061cש") == "a\ufffdb\ufffdc\u200f\u061cש"


def test_every_character_that_unicode_gives_one_of_these_roles_is_replaced() -> None:
    replaced = {character for character in map(chr, range(0x110000)) if printable(character) != character}
    for character in map(chr, range(0x110000)):
        control = unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in BIDIRECTIONAL
        assert (character in replaced) == (control and character not in "\n\t")


@given(text=st.text(st.characters() | st.sampled_from("\r\n\t\x1b\u202e")))
def test_the_rest_of_a_text_stays(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    kept = text.replace("\r\n", "\n")
    assert len(shown) == len(kept) and all(a in (b, "\ufffd") for a, b in zip(shown, kept, strict=True))
