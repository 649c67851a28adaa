"""Tests of text generation: its start, its chunks, and its end."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import GPT, ModelConfig
from minigpt.data.tokenizer import Tokenizer
from minigpt.generate.text import TextGenerator, TextRow, stream_text
from minigpt.np import generation
from minigpt.proof.inputs import draw

BYTES = Tokenizer.bytes()
LETTERS = Tokenizer.char(["abcdefgh "])
WORDS = Tokenizer.train([" the cat sat. the cats sat." * 50], 280)


def scripted_model(ids: Sequence[int], start: int, V: int = 257) -> GPT:
    """Return a model that generates `ids` for any prompt of `start` tokens.

    The output of its blocks is zero, so that the next token depends on the position only.
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


def chunks_of_ids(tokenizer: Tokenizer, ids: Sequence[int], prompt: str = "", **more: Any) -> list[str]:
    """Generate the given ids, and return the chunks of their text."""
    model = scripted_model(ids, start=1 + len(tokenizer.encode(prompt)), V=tokenizer.vocab_size)
    return list(stream_text(model, tokenizer, prompt, **{"max_new_tokens": len(ids), "temperature": 0, **more}))


def chunks_of(text: str, prompt: str = "", **more: Any) -> list[str]:
    """Generate the given text byte by byte, followed by an end-of-text token, and return its chunks."""
    return chunks_of_ids(BYTES, [*text.encode(), BYTES.end_of_text, *b"not reached"], prompt, **more)


def random_model(tokenizer: Tokenizer, **changes: Any) -> GPT:
    """Return a model with large random weights, whose texts are varied and long."""
    sizes: dict[str, Any] = {"context_length": 16, "d_model": 12, "n_layers": 2, "n_heads": 2, "tied": False, **changes}
    model = GPT(ModelConfig(vocab_size=tokenizer.vocab_size, **sizes))
    rng = np.random.default_rng(3)
    for name, array in model.parameters.items():
        array[...] = draw(rng, name, array.shape)
    return model


@pytest.fixture
def forward_inputs(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """The input tokens of each forward pass."""
    inputs: list[list[list[int]]] = []
    forward = generation.forward

    def recording_forward(tokens: np.ndarray, *arguments: Any, **more: Any) -> Any:
        inputs.append(tokens.tolist())
        return forward(tokens, *arguments, **more)

    monkeypatch.setattr(generation, "forward", recording_forward)
    return inputs


# -------------------------------------------------------------- the start


def test_a_begin_of_text_token_precedes_the_prompt(forward_inputs: list[list[list[int]]]) -> None:
    """As in training, where one precedes each document."""
    chunks_of_ids(BYTES, b"A", "Hi")
    assert forward_inputs == [[[BYTES.end_of_text, *b"Hi"]]]


def test_begin_of_text_may_differ_from_end_of_text(forward_inputs: list[list[list[int]]]) -> None:
    backend = Tokenizer.bytes()._backend
    backend.add_special_tokens(["<s>"])
    tokenizer = Tokenizer(backend, begin="<s>")
    begin, end = tokenizer.begin_of_text, tokenizer.end_of_text
    assert begin != end
    for stop in (begin, end):
        assert "".join(chunks_of_ids(tokenizer, [*b"abc", stop, *b"not reached"], "Hi")) == "abc"
        assert forward_inputs[0] == [[begin, *b"Hi"]]
        forward_inputs.clear()


def test_the_prompt_is_not_part_of_the_generated_text() -> None:
    assert "".join(chunks_of(" a time", prompt="Once upon")) == " a time"


def test_the_space_between_the_prompt_and_its_continuation_is_kept() -> None:
    """With a decoder that strips the space of the first token."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁a": 0, "▁b": 1}, unk_token=""))
    backend.pre_tokenizer, backend.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    tokenizer = Tokenizer(backend)
    assert "".join(chunks_of_ids(tokenizer, [1, tokenizer.end_of_text], "a")) == " b"
    assert "".join(chunks_of_ids(tokenizer, [1, tokenizer.end_of_text])) == "b"


def test_a_prompt_that_cannot_be_encoded_is_rejected() -> None:
    with pytest.raises(ValueError, match="'z'"):
        stream_text(random_model(LETTERS), LETTERS, "z")


def test_a_tokenizer_of_another_model_is_rejected() -> None:
    with pytest.raises(ValueError, match="tokens holds ids 97 to 256, but must hold ids from 0 to 9"):
        stream_text(random_model(LETTERS), BYTES, "a")


# ----------------------------------------------------------------- chunks


def test_chunks_have_complete_characters() -> None:
    chunks = chunks_of("Zoë 🐢!")
    assert "".join(chunks) == "Zoë 🐢!"
    assert "\ufffd" not in "".join(chunks)
    assert [chunk for chunk in chunks if chunk] == ["Z", "o", "ë", " ", "🐢", "!"]


def test_a_truncated_character_becomes_a_replacement_character() -> None:
    assert "".join(chunks_of("a🐢", max_new_tokens=3)) == "a\ufffd"


def test_max_new_tokens_limits_the_text() -> None:
    assert "".join(chunks_of("abcdef", max_new_tokens=3)) == "abc"
    assert "".join(chunks_of("abcdef", max_new_tokens=0)) == ""


# ------------------------------------------------------------ stop tokens


def test_the_text_ends_at_an_end_of_text_token() -> None:
    assert "".join(chunks_of("A cat.")) == "A cat."


def test_stop_tokens_replace_the_end_of_text_token() -> None:
    assert "".join(chunks_of("A cat.", stop_tokens=[ord("t"), ord("x")])) == "A ca"
    assert "".join(chunks_of("A cat.", stop_tokens=[])) == "A cat.<|endoftext|>not reached"


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
        ("abcd", ["bcd", "c"], "ab"),  # the one that is completed first
        ("aaab", ["aab"], "a"),
        ("abababc", ["ababc"], "ab"),
        ("one tw", ["two"], "one tw"),  # only its beginning occurs
        ("one twig, two twins", ["two"], "one twig, "),
        ("one\n\ntwo", ["\n\n"], "one"),
        ("naïve Zoë", ["Zoë"], "naïve "),
        ("Zoé, Zoë", ["ë"], "Zoé, Zo"),  # é and ë share their first byte
        ("a 🐱 and a 🐢!", ["🐢!"], "a 🐱 and a "),
    ],
)
def test_the_text_ends_before_a_stop_string(text: str, stop: list[str], expected: str) -> None:
    assert "".join(chunks_of(text, stop=stop)) == expected


def test_an_incomplete_stop_string_is_released_at_the_end() -> None:
    assert "".join(chunks_of("one two", stop=["two"], max_new_tokens=6)) == "one tw"
    assert "".join(chunks_of("one tw", stop=["two"], stop_tokens=[ord("w")])) == "one t"


def test_only_text_that_may_become_a_stop_string_is_held_back() -> None:
    assert chunks_of("a twig two", stop=["two"])[:7] == ["a", " ", "", "", "twi", "g", " "]


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
def test_text_after_a_stop_string_inside_a_token_is_not_part_of_the_text(text: str, stop: list[str], expected: str) -> None:
    ids = WORDS.encode(text)
    assert len(ids) <= 4  # tokens are entire words
    assert "".join(chunks_of_ids(WORDS, [*ids, WORDS.end_of_text], stop=stop)) == expected


def test_a_stop_string_in_the_prompt_has_no_effect() -> None:
    assert "".join(chunks_of("c two", prompt="two ab", stop=["two", "abc"])) == "c "


texts = st.text("abc", max_size=30)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(texts, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_where_the_first_stop_string_is_completed(text: str, stop: list[str]) -> None:
    """Also, the text that is held back is always the beginning of a stop string."""
    row = TextRow(LETTERS, [], stop, set())
    shown = ""
    for i, token in enumerate(LETTERS.encode(text)):
        ended, so_far = row.push(token), text[: i + 1]
        shown += row.take()
        indices = [so_far.find(s) for s in stop if s in so_far]
        assert ended == bool(indices)
        if ended:
            text = so_far[: min(indices)]
            break
        assert so_far.startswith(shown)
        held = so_far[len(shown) :]
        assert not held or any(s.startswith(held) for s in stop)
    assert shown + row.finish() == text


def test_an_empty_stop_string_is_rejected() -> None:
    with pytest.raises(ValueError, match="a stop string is empty"):
        stream_text(random_model(LETTERS), LETTERS, stop=["b", ""])


# ----------------------------------------------------------------- sampling


def test_the_text_depends_on_the_seed() -> None:
    model = random_model(BYTES)
    first, again, other = ("".join(stream_text(model, BYTES, "Tom", 40, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_sampling_has_defaults_that_arguments_override() -> None:
    model = random_model(BYTES)

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
    assert len({text(**options) for options in others}) == len(others)


def test_a_prompt_longer_than_the_context_is_continued_from_its_end() -> None:
    model = random_model(LETTERS)
    prompt = "a bad cab had a bad bed "
    window = [LETTERS.begin_of_text, *LETTERS.encode(prompt)][-16:]
    (ids,) = model.generate([window], 10, temperature=0.8)
    assert "".join(stream_text(model, LETTERS, prompt, 10, stop_tokens=[])) == LETTERS.decode(ids[16:])


def test_a_text_longer_than_the_context_can_be_rejected_at_the_call() -> None:
    model = random_model(LETTERS)
    with pytest.raises(ValueError, match="the longest prompt and 11 new tokens make 17, but the model's context_length is 16"):
        stream_text(model, LETTERS, "a cab", 11, overflow="refuse")
    refuse, slide = (stream_text(model, LETTERS, "a cab", 10, overflow=overflow) for overflow in ("refuse", "slide"))
    assert "".join(refuse) == "".join(slide) != ""


# ----------------------------------------------------- batches


PROMPTS = ["a bad cab", "", "a bad cab had a bad bed", "he", "a bad cab"]


@pytest.mark.parametrize("changes", [{}, {"positions": "rope", "norm": "rms", "n_kv_heads": 1}], ids=["learned", "rope"])
def test_each_text_of_a_batch_equals_the_text_generated_alone(changes: dict[str, Any]) -> None:
    """The prompts have different lengths, and only some of the texts reach a stop string or an end-of-text token."""
    model, seeds = random_model(LETTERS, **changes), [5, 1, 2, 3, 4]

    def alone(b: int, stop: Sequence[str]) -> str:
        return "".join(stream_text(model, LETTERS, PROMPTS[b], 20, seed=seeds[b], stop=stop))

    unstopped = [alone(b, []) for b in range(5)]
    stop = [unstopped[0][5:8], unstopped[3][3:5]]
    expected = [alone(b, stop) for b in range(5)]
    assert unstopped != expected
    assert len({len(text) for text in expected}) > 2
    rows = zip(*TextGenerator(model, LETTERS, PROMPTS, 20, seeds, stop).chunks(), strict=True)
    assert ["".join(chunks) for chunks in rows] == expected


def test_steps_can_be_consumed_instead_of_chunks() -> None:
    model = random_model(LETTERS)
    generator = TextGenerator(model, LETTERS, ["a", "bad"], 5, [0, 1], stop_tokens=[])
    columns = [step.tokens for step in generator.steps]
    for b, prompt in enumerate(["a", "bad"]):
        text = "".join(stream_text(model, LETTERS, prompt, 5, seed=b, stop_tokens=[]))
        assert LETTERS.decode(column[b] for column in columns) == text


@pytest.mark.parametrize("seeds", [[], [1], [1, 2, 3]])
def test_each_prompt_needs_a_seed(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match=f"seeds has {len(seeds)} elements, but must have one for each of the 2 prompts"):
        TextGenerator(random_model(LETTERS), LETTERS, ["a", "b"], 5, seeds)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda model: TextGenerator(model, LETTERS, [], 5, []), "must be a list of prompts"),
        (lambda model: TextGenerator(model, LETTERS, ["a"], -1, [0]), "max_new_tokens is -1"),
        (lambda model: TextGenerator(model, LETTERS, ["a"], 5, [0], top_p=2.0), "top_p is 2.0"),
        (lambda model: TextGenerator(model, LETTERS, ["a"], 5, [0], overflow="wrap"), "overflow is 'wrap'"),
    ],
)
def test_invalid_arguments_are_rejected_at_once(make: Callable[[GPT], TextGenerator], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(random_model(LETTERS))


def test_a_stop_string_before_a_truncated_character_is_not_part_of_the_text() -> None:
    tokenizer = Tokenizer.train([" 🐢 🐱 🐶 🐭 🐹" * 50], 262)
    partial = next(i for i in range(262) if tokenizer.decode([i]) == " \ufffd")
    assert "".join(chunks_of_ids(tokenizer, [*tokenizer.encode("a"), partial], stop=[" "])) == "a"
