"""What the views show: everything equals what the public functions return."""

import base64
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.page import decoded

from minigpt import GPT, ModelConfig, load
from minigpt.data.storybook.prefixes import token_bits
from minigpt.data.tokenizer import Tokenizer
from minigpt.np.loss import IGNORE_INDEX
from minigpt.page import arrays
from minigpt.page.inside import attribution, inside
from minigpt.page.subject import Subject
from minigpt.page.traced import MAX_TOKENS, Question, Traced, Tracer, ablation
from minigpt.page.words import merges, pieces

Trace = Callable[..., Traced]


def test_look_inside(tracer: Tracer, traced: Trace, tiny_run: Path) -> None:
    found = inside(tracer, traced("Once upon a tim"))
    model, tokenizer = load(tiny_run)
    assert tokenizer is not None
    ids = [tokenizer.begin_of_text, *tokenizer.encode("Once upon a tim")]
    t = model.trace([ids])
    assert found["ids"] == tuple(ids) and found["tokens"][1:] == list("Once upon a tim")
    assert found["step"] == 60 and found["loss"] == t.loss
    assert found["surprise"][0] is None
    np.testing.assert_allclose(found["surprise"][1:], t.surprise()[0, :-1])
    assert found["storybook"][1:] == token_bits([bytes([i]) for i in ids[1:]])
    np.testing.assert_array_equal(decoded(found["attention"])[1], t["blocks.1.attention.weights"][0])
    np.testing.assert_allclose(
        decoded(found["residual_norms"])[-1], np.linalg.norm(t["blocks.1.residual_post"][0], axis=-1), rtol=1e-6
    )
    assert found["streams"] == ["embedding", *(f"blocks.{i}.residual_{part}" for i in (0, 1) for part in ("mid", "post"))]


def test_the_likeliest_tokens_and_the_logit_lens(tracer: Tracer, traced: Trace) -> None:
    example = traced()
    found, t = inside(tracer, example), example.trace
    p = t.probabilities()[0]
    for i, likeliest in enumerate(found["likeliest"][1:]):
        assert [token for token, _, _ in likeliest] == np.argsort(-p[i], kind="stable")[:10].tolist()
        assert [probability for *_, probability in likeliest] == sorted(p[i], reverse=True)[:10]
    lens = t.logit_lens()[:, 0].astype(np.float64)
    lens = np.exp(lens - lens.max(-1, keepdims=True))
    lens /= lens.sum(-1, keepdims=True)
    assert len(found["lens"]) == 3 and len(found["lens"][0]) == len(found["tokens"])
    for layer, cells in zip(lens, found["lens"], strict=True):
        for i, (row, cell) in enumerate(zip(layer, cells, strict=True)):
            assert cell["best"][0][1] == pytest.approx(row.max())
            if i + 1 < len(example.ids):
                target = example.ids[i + 1]
                assert cell["p"] == pytest.approx(row[target])
                assert cell["rank"] == 1 + (row > row[target]).sum()
            else:
                assert "p" not in cell


def test_attribution(tracer: Tracer, traced: Trace) -> None:
    example = traced()
    found = attribution(tracer, example, 4)
    assert found["token"] == example.pieces[5]
    assert found["logit"] == example.trace["logits"][0, 4, example.ids[5]]
    assert dict(found["shares"]) == example.trace.attribution(4, example.ids[5])
    last = len(example.ids) - 1
    likeliest = int(example.trace["logits"][0, last].argmax())
    assert attribution(tracer, example, last)["token"] == tracer.piece(likeliest)
    assert attribution(tracer, example, 4, ord("z"))["token"] == "z"
    with pytest.raises(ValueError, match="position is 99"):
        attribution(tracer, example, 99)


def test_text_that_is_not_of_the_storybook(tracer: Tracer, traced: Trace) -> None:
    assert inside(tracer, traced("xyz"))["storybook"] is None


def test_a_trace_of_one_target(traced: Trace) -> None:
    example, whole = traced(target=3), traced()
    targets = np.full((1, len(whole.ids)), IGNORE_INDEX)
    targets[0, 2] = whole.ids[3]
    np.testing.assert_array_equal(example.trace.targets, targets)
    assert example.trace.loss == pytest.approx(whole.trace.losses[0, 2])
    assert example.surprise == whole.surprise  # of all tokens
    for target in (0, len(whole.ids)):
        with pytest.raises(ValueError, match=f"target is {target}, but must be the position of a token, from 1 to 14"):
            traced(target=target)


def test_texts_that_are_too_short_or_too_long(traced: Trace) -> None:
    with pytest.raises(ValueError, match="the text has 0 tokens, but must have from 1 to 15"):
        traced("")
    with pytest.raises(ValueError, match="the text has 16 tokens, but must have from 1 to 15"):
        traced("x" * 16)


def test_long_contexts_are_limited(tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=257, context_length=1000, d_model=8, n_layers=1, n_heads=2)
    GPT(config).save_pretrained(tmp_path / "long", Tokenizer.bytes())
    tracer = Tracer(Subject(tmp_path / "long"))
    assert tracer.limit == MAX_TOKENS - 1
    with pytest.raises(ValueError, match=f"from 1 to {MAX_TOKENS - 1}"):
        tracer(Question("x" * MAX_TOKENS))


def test_parts_can_be_switched_off(tracer: Tracer, traced: Trace) -> None:
    off = traced(off=("blocks.1.attention.heads.0", "blocks.0.feed_forward"))
    assert not off.trace["blocks.1.attention.heads"][:, 0].any() and off.trace["blocks.1.attention.heads"][:, 1].all()
    assert not off.trace["blocks.0.feed_forward"].any()
    assert off.trace.loss != traced().trace.loss
    assert not off.trace.grad["blocks.0.feed_forward.active"].any()  # nothing passes through what is switched off
    shares = dict(attribution(tracer, off, 3)["shares"])
    assert shares["blocks.1.attention.heads.0"] == 0 and shares["blocks.1.attention.heads.1"] != 0


@pytest.mark.parametrize(
    "name",
    ["", "blocks", "blocks.2.attention", "blocks.0.attention.heads.2", "blocks.0.attention.heads.-1", "logits"],
)
def test_unknown_parts_are_refused(name: str) -> None:
    config = ModelConfig(vocab_size=9, d_model=8, n_layers=2, n_heads=2)
    with pytest.raises(ValueError, match=r"off has .*, but must have names of heads or branches, such as blocks.0.attention"):
        ablation([name], config)


def test_traces_are_kept(traced: Trace) -> None:
    assert traced() is traced() is traced(step=60)
    assert traced(step=8) is not traced()


def test_large_arrays_are_pictures_of_their_largest_elements() -> None:
    x = np.random.default_rng(0).standard_normal((arrays.MAX_ROWS * 2 - 1, arrays.MAX_COLUMNS + 1)).astype(np.float32)
    part = arrays.matrix_part(x, (0, x.shape[0]), (0, x.shape[1]))
    shown = decoded(part["values"])
    assert part["pool"] == [2, 2] and shown.shape == (arrays.MAX_ROWS, arrays.MAX_COLUMNS // 2 + 1)
    for i, j in ((0, 0), (7, 9), shown.shape):
        i, j = min(i, shown.shape[0] - 1), min(j, shown.shape[1] - 1)
        block = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(-1)
        assert shown[i, j] == block[np.abs(block).argmax()]
    part = arrays.matrix_part(x, (3, 5), (2, 9))
    np.testing.assert_array_equal(decoded(part["values"]), x[3:5, 2:9])
    for rows in ((2, 2), (-1, 4), (0, len(x) + 1)):
        with pytest.raises(ValueError, match="rows is"):
            arrays.matrix_part(x, rows, (0, 1))


def test_arrays_in_bytes() -> None:
    x = np.array([[0.0, 0.5], [1.0, 4.0]])
    found = arrays.encoded_bytes(x)
    values = np.frombuffer(base64.b64decode(found["bytes"]), np.uint8).reshape(found["shape"]) / 255 * found["largest"]
    np.testing.assert_allclose(values, x, atol=4 / 255)
    assert arrays.encoded_bytes(np.zeros((1, 2)))["bytes"] == base64.b64encode(bytes(2)).decode()


def test_tokens_and_merges() -> None:
    tokenizer = Tokenizer.train(["low lower lowest", "Zoë"], vocab_size=262)
    found = pieces(tokenizer, "lower Zoë")
    assert (
        "".join(token["text"] for token in found["tokens"][:2])
        == "lower"[: len(found["tokens"][0]["text"] + found["tokens"][1]["text"])]
    )
    assert bytes(byte for token in found["tokens"] for byte in token["bytes"]) == "lower Zoë".encode()
    assert found["bytes"] == len("lower Zoë".encode())
    assert [token["id"] for token in found["tokens"]] == tokenizer.encode("lower Zoë")
    learned = merges(tokenizer, 1, 2)
    assert learned["total"] == 5 and learned["merges"] == [[part.decode() for part in pair] for pair in tokenizer.merges()[1:3]]
    assert merges(Tokenizer.bytes(), 0, 10) == {"total": 0, "start": 0, "merges": []}
    with pytest.raises(ValueError, match="at most 5,000"):
        pieces(Tokenizer.bytes(), "x" * 5001)


def test_surprise_is_in_bits(traced: Trace) -> None:
    example = traced()
    assert sum(bits or 0 for bits in example.surprise) == pytest.approx(example.trace.loss * 14 / math.log(2))
