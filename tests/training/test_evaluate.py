"""Evaluation: loss, perplexity, accuracy, and bits per byte."""

import math

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.data.splits import Split, open_split
from minigpt.data.token_files import write_split
from minigpt.data.tokenizer import Tokenizer
from minigpt.training.evaluate import evaluate
from minigpt.training.parallel.data_parallel import DataParallel

MODEL = GPT(ModelConfig(vocab_size=257, context_length=8, d_model=16, n_layers=1, n_heads=2), seed=1)
DOCUMENTS = ["Tom saw a cat.", "Zoë saw a kite and a bun.", "“Hm,” said Mia."]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path, tokenizer = tmp_path_factory.mktemp("split") / "text.bin", Tokenizer.bytes()
    write_split(path, DOCUMENTS, tokenizer)
    return open_split(path, tokenizer)


def evaluate_directly(split: Split, limit: int) -> tuple[float, float]:
    """Return the mean loss and accuracy over targets, each predicted from the tokens of its window before it."""
    ids, losses, correct = split.tokens.astype(int), [], []
    for position in range(1, limit + 1):
        start = (position - 1) // 8 * 8
        logits = MODEL.logits(ids[None, start:position])[0, -1].astype(np.float64)
        losses.append(np.log(np.exp(logits).sum()) - logits[ids[position]])
        correct.append(logits.argmax() == ids[position])
    return float(np.mean(losses)), float(np.mean(correct))


@pytest.mark.parametrize("limit", [None, 1, 7, 8, 9, 20, 10**6])
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_a_direct_computation(split: Split, limit: int | None, threads: int) -> None:
    tokens = min(limit or 10**9, split.n_tokens - 1)
    with DataParallel(MODEL, threads) as data_parallel:
        result, again = evaluate(data_parallel, split, limit), evaluate(data_parallel, split, limit)
    assert result == again
    assert result.tokens == tokens
    loss, accuracy = evaluate_directly(split, tokens)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    assert result.accuracy == accuracy


def test_bits_per_byte_use_the_bytes_of_the_text(split: Split) -> None:
    n_bytes = sum(len(document.encode()) for document in DOCUMENTS)
    with DataParallel(MODEL, 1) as data_parallel:
        result = evaluate(data_parallel, split)
    assert split.n_tokens == n_bytes + len(DOCUMENTS)
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2) * split.n_tokens / n_bytes)


def test_the_loss_of_a_uniform_model_is_the_logarithm_of_the_vocabulary_size(split: Split) -> None:
    uniform = GPT(MODEL.config)
    uniform.parameters.flat.fill(0)
    with DataParallel(uniform, 1) as data_parallel:
        result = evaluate(data_parallel, split)
    assert result.loss == pytest.approx(math.log(257), rel=1e-6)
    assert result.perplexity == pytest.approx(257, rel=1e-5)


def test_the_accuracy_of_a_constant_prediction_is_its_frequency(split: Split) -> None:
    constant = GPT(MODEL.config)
    constant.parameters.flat.fill(0)
    constant.parameters["final_norm.beta"].fill(1)
    constant.parameters["token_embedding"][ord(" ")] = 1
    with DataParallel(constant, 2) as data_parallel:
        assert evaluate(data_parallel, split).accuracy == np.mean(split.tokens[1:] == ord(" ")) > 0
