"""Text in, text out: where it begins, in what pieces it comes, and where it ends."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import GPT, ModelConfig
from minigpt.data.tokenizer import Tokenizer
from minigpt.generate.text import Row, Telling, stream_text
from minigpt.np import generation
from minigpt.proof.cases import draw

BYTES = Tokenizer.bytes()
LETTERS = Tokenizer.char(["abcdefgh "])
WORDS = Tokenizer.train([" the cat sat. the cats sat." * 50], 280)


def scripted(ids: Sequence[int], start: int, V: int = 257) -> GPT:
    """A model that says one token after the other, whatever it is told: the token at each place is known in advance.

    Its blocks are silent; the position alone decides. `start` is the number of tokens before the first of `ids`.
    """
    config = ModelConfig(vocab_size=V, context_length=len(ids) + start, d_model=V, n_layers=1, n_heads=1, d_ff=1)
    model = GPT(config)
    p = model.parameters
    p.flat.fill(0)
    p["final_norm.gamma"].fill(1)
    p["token_embedding"][...] = np.eye(V)
    for i, token in enumerate(ids):
        p["position_embedding"][start - 1 + i, token] = 100
    return model


def said(tokenizer: Tokenizer, ids: Sequence[int], prompt: str = "", **more: Any) -> list[str]:
    """The pieces in which a model's ids come."""
    model = scripted(ids, start=1 + len(tokenizer.encode(prompt)), V=tokenizer.vocab_size)
    return list(stream_text(model, tokenizer, prompt, **{"max_new_tokens": len(ids), "temperature": 0, **more}))


def told(text: str, prompt: str = "", **more: Any) -> list[str]:
    """The same, byte by byte, with an end of text behind the text."""
    return said(BYTES, [*text.encode(), BYTES.end_of_text, *b"never said"], prompt, **more)


def lively(tokenizer: Tokenizer, **changes: Any) -> GPT:
    """A model that has much to say, and does not end."""
    sizes: dict[str, Any] = {"context_length": 16, "d_model": 12, "n_layers": 2, "n_heads": 2, "tied": False, **changes}
    model = GPT(ModelConfig(vocab_size=tokenizer.vocab_size, **sizes))
    rng = np.random.default_rng(3)
    for name, array in model.parameters.items():
        array[...] = draw(rng, name, array.shape)
    return model


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """The tokens that models are shown, pass by pass."""
    passes: list[list[list[int]]] = []
    forward = generation.forward

    def noted(tokens: np.ndarray, *arguments: Any, **more: Any) -> Any:
        passes.append(tokens.tolist())
        return forward(tokens, *arguments, **more)

    monkeypatch.setattr(generation, "forward", noted)
    return passes


# ------------------------------------------------------------ the beginning


def test_the_model_is_shown_the_beginning_of_a_text_first(shown: list[list[list[int]]]) -> None:
    """As in training, where one stands before each document."""
    said(BYTES, b"A", "Hi")
    assert shown == [[[BYTES.end_of_text, *b"Hi"]]]


def test_the_beginning_need_not_be_the_end(shown: list[list[list[int]]]) -> None:
    backend = Tokenizer.bytes()._backend
    backend.add_special_tokens(["<s>"])
    tokenizer = Tokenizer(backend, begin="<s>")
    begin, end = tokenizer.begin_of_text, tokenizer.end_of_text
    assert begin != end
    for stop in (begin, end):
        assert "".join(said(tokenizer, [*b"abc", stop, *b"never said"], "Hi")) == "abc"
        assert shown[0] == [[begin, *b"Hi"]]
        shown.clear()


def test_goes_on_after_the_prompt_without_repeating_it() -> None:
    assert "".join(told(" a time", prompt="Once upon")) == " a time"


def test_the_space_between_the_prompt_and_what_follows_is_not_lost() -> None:
    """With a decoder that takes it away from a first token."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁a": 0, "▁b": 1}, unk_token=""))
    backend.pre_tokenizer, backend.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    tokenizer = Tokenizer(backend)
    assert "".join(said(tokenizer, [1, tokenizer.end_of_text], "a")) == " b"
    assert "".join(said(tokenizer, [1, tokenizer.end_of_text])) == "b"


def test_a_prompt_the_tokenizer_cannot_express_is_refused() -> None:
    with pytest.raises(ValueError, match="'z'"):
        stream_text(lively(LETTERS), LETTERS, "z")


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens holds ids 97 to 256, but the model's are 0 to 9"):
        stream_text(lively(LETTERS), BYTES, "a")


# ----------------------------------------------------------------- pieces


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


# ------------------------------------------------------------ stop tokens


def test_stops_at_the_end_of_the_text() -> None:
    assert "".join(told("A cat.")) == "A cat."


def test_stop_tokens_take_the_place_of_the_end_of_text() -> None:
    assert "".join(told("A cat.", stop_tokens=[ord("t"), ord("x")])) == "A ca"
    assert "".join(told("A cat.", stop_tokens=[])) == "A cat.<|endoftext|>never said"


# ----------------------------------------------------------- stop strings


@pytest.mark.parametrize(
    "text, stop, expected",
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["t"], "one "),
        ("one two three", ["one"], ""),
        ("one two three", ["four"], "one two three"),
        ("one two three", ["three", "two"], "one "),  # the earliest of several
        ("one two three", ["wo th", "two"], "one "),
        ("abcd", ["bcd", "c"], "ab"),  # the one that is complete first
        ("aaab", ["aab"], "a"),
        ("abababc", ["ababc"], "ab"),
        ("one tw", ["two"], "one tw"),  # begun, but not completed before the end
        ("one twig, two twins", ["two"], "one twig, "),
        ("one\n\ntwo", ["\n\n"], "one"),
        ("naïve Zoë", ["Zoë"], "naïve "),
        ("Zoé, Zoë", ["ë"], "Zoé, Zo"),  # é and ë share their first byte
        ("a 🐱 and a 🐢!", ["🐢!"], "a 🐱 and a "),
    ],
)
def test_ends_before_a_stop_string(text: str, stop: list[str], expected: str) -> None:
    assert "".join(told(text, stop=stop)) == expected


def test_a_stop_string_that_is_not_completed_is_released_when_no_more_tokens_come() -> None:
    assert "".join(told("one two", stop=["two"], max_new_tokens=6)) == "one tw"
    assert "".join(told("one tw", stop=["two"], stop_tokens=[ord("w")])) == "one t"


def test_what_might_become_a_stop_string_waits_and_nothing_else_does() -> None:
    assert told("a twig two", stop=["two"])[:7] == ["a", " ", "", "", "twi", "g", " "]


@pytest.mark.parametrize(
    "text, stop, expected",
    [
        (" the cat sat.", ["at"], " the c"),
        (" the cat sat.", ["cat sat"], " the "),
        (" the cat sat.", ["s", "a", "t."], " the c"),
        (" the cats sat.", ["ca", "e"], " th"),
        (" the cat sat.", ["dog"], " the cat sat."),
    ],
)
def test_a_stop_string_may_stand_inside_a_token_and_what_is_behind_it_is_not_shown(
    text: str, stop: list[str], expected: str
) -> None:
    ids = WORDS.encode(text)
    assert len(ids) <= 4  # whole words
    assert "".join(said(WORDS, [*ids, WORDS.end_of_text], stop=stop)) == expected


def test_a_stop_string_in_the_prompt_ends_nothing() -> None:
    assert "".join(told("c two", prompt="two ab", stop=["two", "abc"])) == "c "


texts = st.text("abc", max_size=30)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(texts, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_where_the_first_stop_string_is_complete(text: str, stop: list[str]) -> None:
    """And never more of it is held back than could be the beginning of one."""
    row = Row(LETTERS, [], stop, set())
    shown = ""
    for i, token in enumerate(LETTERS.encode(text)):
        ended, so_far = row.push(token), text[: i + 1]
        shown += row.take()
        places = [so_far.find(s) for s in stop if s in so_far]
        assert ended == bool(places)
        if ended:
            text = so_far[: min(places)]
            break
        assert so_far.startswith(shown)
        held = so_far[len(shown) :]
        assert not held or any(s.startswith(held) for s in stop)
    assert shown + row.finish() == text


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="a stop string is empty"):
        stream_text(lively(LETTERS), LETTERS, stop=["b", ""])


# ----------------------------------------------------------------- sampling


def test_the_seed_decides() -> None:
    model = lively(BYTES)
    first, again, other = ("".join(stream_text(model, BYTES, "Tom", 40, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_tokens_are_drawn_as_usual_unless_told() -> None:
    model = lively(BYTES)

    def text(**sampling: Any) -> str:
        return "".join(stream_text(model, BYTES, "Tom", 40, **sampling))

    assert text() == text(temperature=0.8, top_k=40)
    assert text(temperature=3.0) == text(temperature=3.0, top_k=40)
    others: list[dict[str, Any]] = [
        {},
        {"temperature": 3.0},
        {"top_k": None},
        {"top_p": 0.3},
        {"min_p": 0.5},
        {"repetition_penalty": 3.0},
    ]
    assert len({text(**each) for each in others}) == len(others)


def test_a_prompt_longer_than_the_context_is_continued_from_its_end() -> None:
    model = lively(LETTERS)
    prompt = "a bad cab had a bad bed "
    model_sees = [LETTERS.begin_of_text, *LETTERS.encode(prompt)][-16:]
    (ids,) = model.generate([model_sees], 10, temperature=0.8)
    assert "".join(stream_text(model, LETTERS, prompt, 10, stop_tokens=[])) == LETTERS.decode(ids[16:])


def test_a_text_that_does_not_fit_can_be_refused_before_it_begins() -> None:
    model = lively(LETTERS)
    with pytest.raises(ValueError, match="with 11 new tokens has 17, but the model's context_length is 16"):
        stream_text(model, LETTERS, "a cab", 11, overflow="refuse")
    refusing, sliding = (stream_text(model, LETTERS, "a cab", 10, overflow=how) for how in ("refuse", "slide"))
    assert "".join(refusing) == "".join(sliding) != ""


# ----------------------------------------------------- several at once


PROMPTS = ["a bad cab", "", "a bad cab had a bad bed", "he", "a bad cab"]


@pytest.mark.parametrize("changes", [{}, {"positions": "rope", "norm": "rms", "n_kv_heads": 1}], ids=["learned", "rope"])
def test_each_of_several_texts_is_what_it_is_alone(changes: dict[str, Any]) -> None:
    """Of unequal prompts, with stop strings and an end of text that some of them come to, and some do not."""
    model, seeds = lively(LETTERS, **changes), [5, 1, 2, 3, 4]

    def alone(b: int, stop: Sequence[str]) -> str:
        return "".join(stream_text(model, LETTERS, PROMPTS[b], 20, seed=seeds[b], stop=stop))

    endless = [alone(b, []) for b in range(5)]
    stop = [endless[0][5:8], endless[3][3:5]]
    expected = [alone(b, stop) for b in range(5)]
    assert endless != expected
    assert len({len(text) for text in expected}) > 2
    rows = zip(*Telling(model, LETTERS, PROMPTS, 20, seeds, stop).pieces(), strict=True)
    assert ["".join(pieces) for pieces in rows] == expected


def test_steps_may_be_taken_in_place_of_pieces() -> None:
    model = lively(LETTERS)
    telling = Telling(model, LETTERS, ["a", "bad"], 5, [0, 1], stop_tokens=[])
    columns = [step.tokens for step in telling.steps]
    for b, prompt in enumerate(["a", "bad"]):
        text = "".join(stream_text(model, LETTERS, prompt, 5, seed=b, stop_tokens=[]))
        assert LETTERS.decode(column[b] for column in columns) == text


@pytest.mark.parametrize("seeds", [[], [1], [1, 2, 3]])
def test_each_prompt_needs_a_seed(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match=f"there are {len(seeds)} seeds for 2 prompts"):
        Telling(lively(LETTERS), LETTERS, ["a", "b"], 5, seeds)


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda model: Telling(model, LETTERS, [], 5, []), "must be a list of prompts"),
        (lambda model: Telling(model, LETTERS, ["a"], -1, [0]), "max_new_tokens is -1"),
        (lambda model: Telling(model, LETTERS, ["a"], 5, [0], top_p=2.0), "top_p is 2.0"),
        (lambda model: Telling(model, LETTERS, ["a"], 5, [0], overflow="wrap"), "overflow is 'wrap'"),
    ],
)
def test_what_cannot_be_is_refused_at_once(make: Callable[[GPT], Telling], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make(lively(LETTERS))


def test_a_stop_string_before_a_character_that_is_cut_off_is_not_shown() -> None:
    tokenizer = Tokenizer.train([" 🐢 🐱 🐶 🐭 🐹" * 50], 262)
    half = next(i for i in range(262) if tokenizer.decode([i]) == " \ufffd")
    assert "".join(said(tokenizer, [*tokenizer.encode("a"), half], stop=[" "])) == "a"
