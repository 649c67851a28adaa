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


def directly(split: Split, limit: int) -> float:
    """The mean over targets, each predicted from the tokens of its window so far."""
    ids, losses = split.tokens.astype(int), []
    for place in range(1, limit + 1):
        start = (place - 1) // 8 * 8
        logits = MODEL.logits(ids[None, start:place])[0, -1].astype(np.float64)
        losses.append(np.log(np.exp(logits).sum()) - logits[ids[place]])
    return float(np.mean(losses))


@pytest.mark.parametrize("limit", [None, 1, 7, 8, 9, 20, 10**6])
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_a_direct_computation(split: Split, limit: int | None, threads: int) -> None:
    tokens = min(limit or 10**9, split.n_tokens - 1)
    with Team(MODEL, threads) as team:
        result, again = evaluate(team, split, limit), evaluate(team, split, limit)
    assert result == again
    assert result.tokens == tokens
    assert result.loss == pytest.approx(directly(split, tokens), rel=1e-5)


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
        assert evaluate(team, split).loss == pytest.approx(math.log(257), rel=1e-6)
