"""The measure of a model: the same tokens each time, bits per byte of the text."""

import math

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.data.token_files import Split, open_split, write_split
from minigpt.data.tokenizer import Tokenizer
from minigpt.train.evaluate import evaluate
from minigpt.train.parallel import Team

MODEL = GPT(ModelConfig(vocab_size=257, context_length=8, d_model=16, n_layers=1, n_heads=2), seed=1)
DOCUMENTS = ["Tom saw a cat.", "Zoë saw a kite and a bun.", "“Hm,” said Mia."]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path, tokenizer = tmp_path_factory.mktemp("split") / "text.bin", Tokenizer.bytes()
    write_split(path, DOCUMENTS, tokenizer)
    return open_split(path, tokenizer)


def directly(split: Split, limit: int) -> tuple[float, float]:
    """Loss and accuracy, the means over targets, each predicted from the tokens of its window so far."""
    ids, losses, right = split.tokens.astype(int), [], []
    for place in range(1, limit + 1):
        start = (place - 1) // 8 * 8
        logits = MODEL.logits(ids[None, start:place])[0, -1].astype(np.float64)
        losses.append(np.log(np.exp(logits).sum()) - logits[ids[place]])
        right.append(logits.argmax() == ids[place])
    return float(np.mean(losses)), float(np.mean(right))


@pytest.mark.parametrize("limit", [None, 1, 7, 8, 9, 20, 10**6])
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_a_direct_computation(split: Split, limit: int | None, threads: int) -> None:
    tokens = min(limit or 10**9, split.n_tokens - 1)
    with Team(MODEL, threads) as team:
        result, again = evaluate(team, split, limit), evaluate(team, split, limit)
    assert result == again
    assert result.tokens == tokens
    loss, accuracy = directly(split, tokens)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    assert result.accuracy == accuracy


def test_bits_per_byte_count_the_bytes_of_the_text(split: Split) -> None:
    n_bytes = sum(len(document.encode()) for document in DOCUMENTS)
    with Team(MODEL, 1) as team:
        result = evaluate(team, split)
    assert split.n_tokens == n_bytes + len(DOCUMENTS)
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2) * split.n_tokens / n_bytes)


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary(split: Split) -> None:
    blank = GPT(MODEL.config)
    blank.parameters.flat.fill(0)
    with Team(blank, 1) as team:
        result = evaluate(team, split)
    assert result.loss == pytest.approx(math.log(257), rel=1e-6)
    assert result.perplexity == pytest.approx(257, rel=1e-5)


def test_a_model_that_always_says_the_same_is_right_as_often_as_it_occurs(split: Split) -> None:
    stubborn = GPT(MODEL.config)
    stubborn.parameters.flat.fill(0)
    stubborn.parameters["final_norm.beta"].fill(1)
    stubborn.parameters["token_embedding"][ord(" ")] = 1
    with Team(stubborn, 2) as team:
        assert evaluate(team, split).accuracy == np.mean(split.tokens[1:] == ord(" ")) > 0
