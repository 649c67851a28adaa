"""A run as numbers: what was recorded, and what follows from it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

TAIL = 50
"The training loss of a single step is noisy: the final one is the mean over this many last steps."


@dataclass(frozen=True)
class Split:
    """The size of the training or validation text; `bytes` counts it in UTF-8, without the end-of-text marks."""

    documents: int
    bytes: int
    tokens: int

    def loss_per_token(self, bits_per_byte: float) -> float:
        """The loss per token (in nats) which is as good, on this text, as so many bits per byte.

        >>> round(Split(documents=1, bytes=400, tokens=100).loss_per_token(0.5), 4)
        1.3863
        """
        return bits_per_byte * math.log(2) * self.bytes / self.tokens


@dataclass(frozen=True)
class Data:
    """What the model was trained on; the floor is the entropy of the validation text, where it is known."""

    name: str
    train: Split
    valid: Split
    floor_bits_per_byte: float | None
    floor_is_exact: bool

    @property
    def floor_loss(self) -> float | None:
        """The floor as loss per token on the validation text."""
        return None if self.floor_bits_per_byte is None else self.valid.loss_per_token(self.floor_bits_per_byte)


@dataclass(frozen=True)
class Validation:
    """One measurement on the validation text."""

    step: int
    loss: float
    bits_per_byte: float


@dataclass(frozen=True)
class Story:
    """What the model wrote after a prompt, and how to make it write the same again."""

    step: int
    prompt: str
    text: str
    seed: int
    temperature: float
    top_k: int | None


@dataclass(frozen=True)
class History:
    """What was recorded at each step, as arrays of one length (at least 1); `elapsed_s` never falls."""

    step: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    lr: np.ndarray
    grad_norm: np.ndarray
    tokens_per_s: np.ndarray
    elapsed_s: np.ndarray


@dataclass(frozen=True)
class Run:
    """All that a report tells of a run; `minigpt.report.files.load_run` reads it from a run folder."""

    name: str
    config: dict[str, Any]
    command: list[str]
    parameters: int
    data: Data
    machine: dict[str, Any]
    version: str
    history: History
    validations: list[Validation]
    stories: list[Story]

    @property
    def steps_done(self) -> int:
        return int(self.history.step[-1])

    @property
    def tokens_seen(self) -> int:
        return int(self.history.tokens[-1])

    @property
    def epochs(self) -> float:
        """How often the training data was seen, on average."""
        return self.tokens_seen / self.data.train.tokens

    @property
    def elapsed_s(self) -> float:
        return float(self.history.elapsed_s[-1])

    @property
    def tokens_per_s(self) -> float:
        """The median over the steps, which a pause for validation or a busy moment does not move."""
        return float(np.median(self.history.tokens_per_s))

    @property
    def final_training_loss(self) -> float:
        """The mean over the last steps, at most `TAIL` of them, without one that was not finite; NaN if none was."""
        last = self.history.loss[-TAIL:]
        finite = last[np.isfinite(last)]
        return float(finite.mean()) if len(finite) else math.nan

    @property
    def final(self) -> Validation | None:
        """The last validation, if there was one."""
        return self.validations[-1] if self.validations else None

    @property
    def best(self) -> Validation | None:
        """The validation with the lowest loss, the earliest of equals."""
        return min(self.validations, key=lambda validation: validation.loss, default=None)

    @property
    def above_floor(self) -> float | None:
        """Bits per byte between the last validation and the floor, where both are known."""
        if self.final is None or self.data.floor_bits_per_byte is None:
            return None
        return self.final.bits_per_byte - self.data.floor_bits_per_byte
