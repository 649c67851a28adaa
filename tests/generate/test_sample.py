"""A sample ends at the end of its text or of a sentence, and its pieces and surprises belong to its tokens."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from minigpt.data.tokenizer import Tokenizer
from minigpt.generate.sample import GeneratedText, generate_text
from minigpt.np.generation import GenerationStep

BYTES = Tokenizer.bytes()
WORDS = Tokenizer.train(['He ran. "Go on!" said the cat\u2026 The end.' * 50], 330)


class ScriptedModel:
    """A model that generates given tokens, each with a probability of one half."""

    def __init__(self, tokens: Sequence[int], vocab_size: int) -> None:
        self.tokens, self.vocab_size = tokens, vocab_size

    def steps(
        self, prompts: Any, max_new_tokens: int, *, stop_tokens: Callable[[int, int], bool], **_: Any
    ) -> Iterator[GenerationStep]:
        for token in self.tokens[:max_new_tokens]:
            logits = np.zeros((1, self.vocab_size), np.float32)
            logits[0, token] = math.log(self.vocab_size - 1)
            yield GenerationStep(np.array([token]), np.array([0]), logits)
            if stop_tokens(0, token):
                return


def generated(tokens: Sequence[int], tokenizer: Tokenizer = BYTES, prompt: str = "", limit: int = 1000) -> GeneratedText:
    model: Any = ScriptedModel(tokens, tokenizer.vocab_size)
    return generate_text(model, tokenizer, prompt, limit)


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS], ids=["bytes", "words"])
@pytest.mark.parametrize(
    "text, end",
    [
        ("He ran. Then the", "He ran."),
        ("He ran! Then", "He ran!"),
        ("Who? Then", "Who?"),
        ('He said, "Go on." Then', 'He said, "Go on."'),
        ("\u201cGo on!\u201d said he. \u201cNo\u2026\u201d And the", "\u201cGo on!\u201d said he. \u201cNo\u2026\u201d"),
        ("(He ran.) And", "(He ran.)"),
        ('He ran. "And', "He ran."),
        ("He ran.\n\nThen the", "He ran.\n\n"),
        ("It cost 3.5 coins. But", "It cost 3.5 coins."),
        ("He ran.", "He ran."),
        ("\u4ed6\u8dd1\u4e86\u3002\u201c\u597d\uff01\u201d\u7136\u540e", "\u4ed6\u8dd1\u4e86\u3002\u201c\u597d\uff01\u201d"),
    ],
)  # fmt: skip
def test_an_unfinished_last_sentence_is_left_out(text: str, end: str, tokenizer: Tokenizer) -> None:
    sample = generated(tokenizer.encode(text), tokenizer)
    assert sample.text.rstrip(" ") == end.rstrip(" ")
    assert len(sample.tokens) == len(sample.pieces) == len(sample.surprises)


@pytest.mark.parametrize("text", ["He ran and ran and", "", " "])
def test_a_text_without_a_complete_sentence_is_kept(text: str) -> None:
    sample = generated(BYTES.encode(text))
    assert (sample.text, len(sample.tokens)) == (text, len(text))


@pytest.mark.parametrize("text", ["He ran. And then", "", "He ran."])
def test_a_text_that_ends_by_itself_is_kept_without_its_last_token(text: str) -> None:
    sample = generated([*BYTES.encode(text), BYTES.end_of_text, *BYTES.encode("More.")])
    assert (sample.text, len(sample.tokens)) == (text, len(text))


def test_the_prompt_is_not_part_of_the_sample() -> None:
    assert generated(BYTES.encode(" upon a time. He"), prompt="Once").text == " upon a time. "


def test_a_token_inside_a_character_completes_no_text() -> None:
    sample = generated([*BYTES.encode("Zo\u00eb ran."), BYTES.end_of_text])
    assert sample.pieces == ["Z", "o", "", "\u00eb", " ", "r", "a", "n", "."]
    assert sample.surprises == [1.0] * 9
    assert len(sample.tokens) == 9


def test_a_prompt_may_end_inside_a_character_and_so_may_the_text() -> None:
    head, tail = BYTES.encode("\u00eb")
    assert generated([tail, head], prompt="Zo").pieces[-1].endswith("\N{REPLACEMENT CHARACTER}")
    cut = generated([*BYTES.encode("Zo\u00eb ran. "), head])
    assert (cut.text, cut.pieces[3]) == ("Zo\u00eb ran. ", "\u00eb")
    assert len(cut.tokens) == len(cut.pieces) == 10


def test_the_text_ends_after_the_maximum_number_of_tokens() -> None:
    assert generated(BYTES.encode("abcdef"), limit=3).text == "abc"
    assert generated(BYTES.encode("a. b. c"), limit=4).text == "a. "
