"""Evaluate a model on text."""

import math
from dataclasses import dataclass

import numpy as np

from minigpt.data.batches import windows
from minigpt.data.splits import Split
from minigpt.training.parallel.data_parallel import DataParallel

BATCH_SIZE = 16


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`. Only bits per byte can be compared between models with different tokenizers."""

    loss: float
    "Mean cross-entropy in nats per token."
    perplexity: float
    "exp(loss)."
    bits_per_byte: float
    "Cross-entropy in bits per byte of UTF-8 text."
    accuracy: float
    "Fraction of tokens to which the model gave the highest probability (top-1 accuracy)."
    tokens: int
    "Number of tokens that were evaluated."


def evaluate(data_parallel: DataParallel, split: Split, limit: int | None = None) -> Evaluation:
    """Evaluate the first `limit` tokens of a split (None: all), in consecutive windows of the model's context_length.

    bits per byte = loss / ln 2 * tokens / bytes, with the tokens and bytes of the whole split. End-of-text tokens are included.
    """
    total, correct, count = 0.0, 0, 0
    for tokens, targets in windows(split, data_parallel.model.config.context_length, BATCH_SIZE, limit):
        loss, n_correct = data_parallel.score(tokens, targets)
        total, correct, count = total + loss * targets.size, correct + n_correct, count + targets.size
    loss = total / count
    bits_per_byte = loss / math.log(2) * split.n_tokens / split.bytes
    return Evaluation(loss, float(np.exp(loss)), bits_per_byte, correct / count, count)
