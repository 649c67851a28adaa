"""How well a model predicts a text it has not seen."""

import math
from dataclasses import dataclass

from minigpt.data.batches import windows
from minigpt.data.token_files import Split
from minigpt.train.parallel import Team

WINDOWS_AT_A_TIME = 16


@dataclass(frozen=True)
class Evaluation:
    """Loss in nats per token, and in bits per byte of text, which compares across tokenizers."""

    loss: float
    bits_per_byte: float
    tokens: int


def evaluate(team: Team, split: Split, limit: int | None = None) -> Evaluation:
    """Predict the first `limit` tokens of a split (None: all), in windows of the model's context_length side by side.

    Bits per byte take the split's own bytes per token: loss / ln 2 * tokens / bytes, with the ends of text among the tokens.
    """
    total, count = 0.0, 0
    for tokens, targets in windows(split.tokens, team.model.config.context_length, WINDOWS_AT_A_TIME, limit):
        total += team.loss(tokens, targets) * targets.size
        count += targets.size
    loss = total / count
    return Evaluation(loss, loss / math.log(2) * split.n_tokens / split.bytes, count)
