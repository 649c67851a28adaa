"""Text in, text out."""

from pathlib import Path

import pytest

from minigpt import GPT, ModelConfig, load
from minigpt.data.tokenizer import Tokenizer
from minigpt.generate.text import stream_text

BYTES = Tokenizer.bytes()


def scripted(ids: list[int], start: int) -> GPT:
    """A model that says one token after the other, whatever it is told: the token at each place is known in advance.

    Its blocks are silent; the position alone decides. `start` is the number of tokens before the first of `ids`.
    """
    config = ModelConfig(vocab_size=257, context_length=len(ids) + start, d_model=257, n_layers=1, n_heads=1, d_ff=1)
    model = GPT(config)
    p = model.parameters
    p.flat.fill(0)
    p["final_norm.gamma"].fill(1)
    for i in range(257):
        p["token_embedding"][i, i] = 1
    for i, token in enumerate(ids):
        p["position_embedding"][start - 1 + i, token] = 100
    return model


def told(text: str, prompt: str = "", **more: object) -> list[str]:
    ids = [*text.encode(), BYTES.end_of_text, *b"never said"]
    model = scripted(ids, start=1 + len(prompt.encode()))
    return list(stream_text(model, BYTES, prompt, **{"max_new_tokens": 200, "temperature": 0, **more}))  # type: ignore[arg-type]


def test_stops_at_the_end_of_the_text() -> None:
    assert "".join(told("A cat.")) == "A cat."


def test_goes_on_after_the_prompt_without_repeating_it() -> None:
    assert "".join(told(" a time", prompt="Once upon")) == " a time"


def test_comes_in_pieces_of_whole_characters() -> None:
    pieces = told("Zoë 🐢!")
    assert "".join(pieces) == "Zoë 🐢!"
    assert "\ufffd" not in "".join(pieces)
    assert [piece for piece in pieces if piece] == ["Z", "o", "ë", " ", "🐢", "!"]


def test_a_character_that_is_cut_off_shows_as_such() -> None:
    assert "".join(told("a🐢", max_new_tokens=3)) == "a\ufffd"


def test_no_more_tokens_than_asked_for() -> None:
    assert "".join(told("abcdef", max_new_tokens=3)) == "abc"
    assert "".join(told("abcdef", max_new_tokens=0)) == ""


def test_the_model_is_shown_an_end_of_text_first() -> None:
    """As in training, where one stands before each document."""
    seen = []

    class Spy(GPT):
        def stream(self, tokens, *arguments, **more):  # type: ignore[no-untyped-def]
            seen.append(tokens)
            return super().stream(tokens, *arguments, **more)

    model = scripted([65], start=3)
    list(stream_text(Spy(model.config, parameters=model.parameters), BYTES, "Hi", 1))
    assert seen == [[[BYTES.end_of_text, *b"Hi"]]]


def test_the_seed_decides(tiny_run: Path) -> None:
    model, tokenizer = load(tiny_run)
    first, again, other = ("".join(stream_text(model, tokenizer, "Tom", 40, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_prompt_longer_than_the_context_is_continued(tiny_run: Path) -> None:
    model, tokenizer = load(tiny_run)
    assert "".join(stream_text(model, tokenizer, "Tom saw a cat. " * 5, 10, temperature=0))


def test_a_prompt_the_tokenizer_cannot_express_is_refused() -> None:
    tokenizer = Tokenizer.char(["abc"])
    model = GPT(ModelConfig(vocab_size=tokenizer.vocab_size, context_length=4, d_model=4, n_layers=1, n_heads=1))
    with pytest.raises(ValueError, match="'z'"):
        list(stream_text(model, tokenizer, "z"))
