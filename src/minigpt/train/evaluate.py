"""How well a model predicts a text it has not seen."""

import math
from dataclasses import dataclass

import numpy as np

from minigpt.data.batches import windows
from minigpt.data.token_files import Split
from minigpt.train.parallel import Team

WINDOWS_AT_A_TIME = 16


@dataclass(frozen=True)
class Evaluation:
    """How well a text was predicted. Bits per byte of text compare across tokenizers; the other figures do not."""

    loss: float
    "Nats per token."
    perplexity: float
    "exp(loss): among how many equally likely tokens the model was torn."
    bits_per_byte: float
    accuracy: float
    "Share of tokens that were the likeliest one."
    tokens: int


def evaluate(team: Team, split: Split, limit: int | None = None) -> Evaluation:
    """Predict the first `limit` tokens of a split (None: all), in windows of the model's context_length side by side.

    Bits per byte take the split's own bytes per token: loss / ln 2 * tokens / bytes, with the ends of text among the tokens.
    """
    total, correct, count = 0.0, 0, 0
    for tokens, targets in windows(split.tokens, team.model.config.context_length, WINDOWS_AT_A_TIME, limit):
        loss, right = team.score(tokens, targets)
        total, correct, count = total + loss * targets.size, correct + right, count + targets.size
    loss = total / count
    bits_per_byte = loss / math.log(2) * split.n_tokens / split.bytes
    return Evaluation(loss, float(np.exp(loss)), bits_per_byte, correct / count, count)
