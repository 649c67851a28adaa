"""The recorded numbers of a run, and the quantities derived from them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

TAIL = 50
"The maximum number of steps over which the final training loss is averaged, because the loss of a single step is noisy."


def last_steps(steps: int) -> int:
    """Return the number of last steps whose losses are averaged: a tenth of the run, but at least 5 and at most `TAIL`.

    >>> last_steps(3), last_steps(60), last_steps(1200)
    (3, 6, 50)
    """
    return min(steps, TAIL, max(5, steps // 10))


@dataclass(frozen=True)
class Split:
    """The size of the training or validation text; `bytes` is its size in UTF-8, without the end-of-text tokens."""

    documents: int
    bytes: int
    tokens: int

    def loss_per_token(self, bits_per_byte: float) -> float:
        """Convert bits per byte of this text to the equivalent loss in nats per token.

        >>> round(Split(documents=1, bytes=400, tokens=100).loss_per_token(0.5), 4)
        1.3863
        """
        return bits_per_byte * math.log(2) * self.bytes / self.tokens


@dataclass(frozen=True)
class Data:
    """The data of a run. The floor is the entropy of the validation text, or an upper bound on it, if either is known."""

    name: str
    train: Split
    valid: Split
    floor_bits_per_byte: float | None
    floor_is_exact: bool
    held_out: str | None = None
    "Which part of the text is the validation text, if the run recorded it."

    @property
    def floor_loss(self) -> float | None:
        """The floor as a loss in nats per token of the validation text."""
        return None if self.floor_bits_per_byte is None else self.valid.loss_per_token(self.floor_bits_per_byte)


@dataclass(frozen=True)
class Validation:
    """The result of one validation; the loss is in nats per token."""

    step: int
    loss: float
    bits_per_byte: float


@dataclass(frozen=True)
class Sample:
    """A generated continuation of a prompt, with the sampling options that reproduce it."""

    step: int
    prompt: str
    text: str
    seed: int
    temperature: float
    top_k: int | None
    tokens: tuple[tuple[str, float], ...] = ()
    "The text that each token completes, and its surprisal in bits. Older runs did not record them."

    @property
    def options(self) -> tuple[str, int, float, int | None]:
        """The prompt, the seed and the sampling options, which samples of different steps can have in common."""
        return self.prompt, self.seed, self.temperature, self.top_k


@dataclass(frozen=True)
class SettingsChange:
    """Settings that were changed when a run was resumed: name -> the old and the new value."""

    step: int
    "The last step before the change."
    settings: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class MeasuredNorms:
    """The norms of the gradient, the weights and the update of each layer at one step."""

    step: int
    layers: dict[str, dict[str, float]]


@dataclass(frozen=True)
class History:
    """The records of each step, as arrays of the same length (at least 1)."""

    step: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    lr: np.ndarray
    grad_norm: np.ndarray
    tokens_per_s: np.ndarray
    elapsed_s: np.ndarray


@dataclass(frozen=True)
class Run:
    """The data of a report. `minigpt.report.files.load_run` reads it from a run folder."""

    name: str
    path: str
    "The folder for commands: relative to the current folder if it is inside it, otherwise only its name."
    config: dict[str, Any]
    command: list[str]
    parameters: int
    data: Data
    machine: dict[str, Any]
    version: str
    history: History
    validations: list[Validation]
    all_samples: list[Sample]
    "The samples in the order in which they were generated."
    norms: list[MeasuredNorms]
    changes: list[SettingsChange]

    @property
    def samples(self) -> list[Sample]:
        """The samples of the last step that has any."""
        return [sample for sample in self.all_samples if sample.step == self.all_samples[-1].step]

    @property
    def steps_done(self) -> int:
        return int(self.history.step[-1])

    @property
    def tokens_seen(self) -> int:
        return int(self.history.tokens[-1])

    @property
    def epochs(self) -> float:
        """The number of passes over the training data: tokens seen per training token."""
        return self.tokens_seen / self.data.train.tokens

    @property
    def elapsed_s(self) -> float:
        return float(self.history.elapsed_s[-1])

    @property
    def tokens_per_s(self) -> float:
        """The median over the steps, which is robust to steps slowed down by other work on the machine."""
        return float(np.median(self.history.tokens_per_s))

    @property
    def final_training_loss(self) -> float:
        """The mean of the finite losses among the last steps; NaN if there are none."""
        last = self.history.loss[-last_steps(len(self.history.loss)) :]
        finite = last[np.isfinite(last)]
        return float(finite.mean()) if len(finite) else math.nan

    @property
    def final(self) -> Validation | None:
        """The last validation, or None if there was none."""
        return self.validations[-1] if self.validations else None

    @property
    def best(self) -> Validation | None:
        """The validation with the lowest loss (the earliest one in case of a tie), or None if there was none."""
        return min(self.validations, key=lambda validation: validation.loss, default=None)

    @property
    def above_floor(self) -> float | None:
        """The last validation minus the floor, in bits per byte, or None if either is unknown."""
        if self.final is None or self.data.floor_bits_per_byte is None:
            return None
        return self.final.bits_per_byte - self.data.floor_bits_per_byte
