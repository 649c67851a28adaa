"""The language model as its users hold it: a configuration, parameters, and what can be done with them."""

from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from minigpt.np.config import ModelConfig
from minigpt.np.generation import Ends, Overflow, Step, steps
from minigpt.np.head import count_targets, head_loss, head_loss_and_backward
from minigpt.np.network import Ready, backward, forward, head_weight, unheard
from minigpt.np.ops import IGNORE, NO_DROPOUT, Dropout
from minigpt.np.parameters import Parameters, initialise
from minigpt.np.sampling import Sampling, SamplingOptions
from minigpt.np.workspace import FRESH, Array, Fresh


def _count(labels: Array, count: int | None) -> int:
    return count_targets(labels) if count is None else count


class GPT:
    """A GPT: its configuration, its parameters, and what can be done with them.

    >>> model = GPT(ModelConfig(vocab_size=10, context_length=8, d_model=16, n_layers=2, n_heads=4), seed=0)
    >>> loss, grads = model.loss_and_grads([[1, 2, 3]], [[2, 3, 4]])
    >>> grads["token_embedding"].shape
    (10, 16)
    >>> [row.shape for row in model.generate([[1, 2, 3], [4]], max_new_tokens=2)]
    [(5,), (3,)]
    """

    def __init__(
        self,
        config: ModelConfig,
        seed: int = 0,
        dtype: DTypeLike = np.float32,
        parameters: Parameters | None = None,
    ) -> None:
        self.config = config
        self.parameters = initialise(config, seed, dtype) if parameters is None else parameters

    @property
    def head(self) -> Array:
        """Weight of the head, (V, D): the token embedding itself where they are tied."""
        return head_weight(self.parameters, self.config)

    def logits(self, tokens: ArrayLike) -> Array:
        """Scores of every possible next token after each token.  tokens (B, T) -> (B, T, V)."""
        x, _ = forward(self._check(tokens), self.parameters, self.config, keep=False)
        return x @ self.head.T

    def loss(self, tokens: ArrayLike, targets: ArrayLike, *, count: int | None = None, ws: Fresh = FRESH) -> float:
        """Mean cross-entropy, in nats per token.  tokens and targets (B, T); targets of `IGNORE` (-100) do not count.

        `count` divides the sum in place of the number of targets that count, for a batch that is part of a larger one.
        """
        return self.score(tokens, targets, count=count, ws=ws)[0]

    def score(self, tokens: ArrayLike, targets: ArrayLike, *, count: int | None = None, ws: Fresh = FRESH) -> tuple[float, int]:
        """The loss, and how many targets were the likeliest token."""
        ids, labels = self._check(tokens), self._check_targets(tokens, targets)
        with ws.scratch():
            x, _ = forward(ids, self.parameters, self.config, ws, keep=False)
            return head_loss(x.reshape(labels.size, -1), self.head, labels, _count(labels, count), ws)

    def loss_and_grads(
        self,
        tokens: ArrayLike,
        targets: ArrayLike,
        *,
        out: Parameters | None = None,
        add: bool = False,
        count: int | None = None,
        drop: Dropout = NO_DROPOUT,
        ws: Fresh = FRESH,
        ready: Ready = unheard,
    ) -> tuple[float, Parameters]:
        """The loss, and its gradient for every parameter (name -> array).

        The gradients are written into `out` where it is given, or added to it with `add` (more of the same batch); `count` is
        as in `loss`, `drop` gives the dropout masks; `ready` is told how far backward is, as `minigpt.np.network.backward` says.
        """
        ids, labels = self._check(tokens), self._check_targets(tokens, targets)
        g = self.parameters.like() if out is None else out
        with ws.scratch():
            D = self.config.d_model
            # before forward: on the stack, dx must lie below what backward gives back
            dx = ws.empty((*ids.shape, D), g.flat.dtype)
            x, cache = forward(ids, self.parameters, self.config, ws, drop)
            dhead = g["token_embedding" if self.config.tied else "head"]
            loss = head_loss_and_backward(
                x.reshape(-1, D), self.head, labels, _count(labels, count), dx.reshape(-1, D), dhead, add, ws
            )
            if not self.config.tied and not add:
                g["token_embedding"].fill(0)
            backward(dx, cache, g, add, ws, ready)
        return loss, g

    def generate(
        self,
        tokens: ArrayLike | Sequence[ArrayLike],
        max_new_tokens: int,
        *,
        seeds: Sequence[int] | int = 0,
        stop_tokens: Sequence[int] = (),
        overflow: Overflow = "slide",
        **sampling: Unpack[SamplingOptions],
    ) -> list[Array]:
        """Continue each row of token ids: prompts in, for each its prompt with the new tokens out (a stop token among them).

        `tokens` is (B, T), or B prompts of unequal length. See `stream` for the other arguments.
        """
        rows = self._check_prompts(tokens)
        new = list(self.stream(rows, max_new_tokens, seeds=seeds, stop_tokens=stop_tokens, overflow=overflow, **sampling))
        return [
            np.concatenate([row, [column[b] for column in new if column[b] >= 0]]).astype(np.intp) for b, row in enumerate(rows)
        ]

    def stream(
        self,
        tokens: ArrayLike | Sequence[ArrayLike],
        max_new_tokens: int,
        *,
        seeds: Sequence[int] | int = 0,
        stop_tokens: Sequence[int] = (),
        overflow: Overflow = "slide",
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[Array]:
        """Yield the next token of each row, (B,), up to `max_new_tokens` times, with -1 for a row that has ended.

        How a token is chosen: temperature (0, the default: the likeliest), top_k, top_p, min_p, repetition_penalty, as described
        at `Sampling`; row b draws with the seed seeds[b], or seeds + b. A row ends after one of the `stop_tokens`. Where a row
        would become longer than context_length, with overflow "slide" the model sees its last context_length tokens (all of
        them are computed again for each new one); "refuse" raises `ValueError` before anything is generated.
        """
        made = self.steps(tokens, max_new_tokens, seeds=seeds, stop_tokens=stop_tokens, overflow=overflow, **sampling)
        return (step.tokens for step in made)

    def steps(
        self,
        tokens: ArrayLike | Sequence[ArrayLike],
        max_new_tokens: int,
        *,
        seeds: Sequence[int] | int = 0,
        stop_tokens: Sequence[int] | Ends = (),
        overflow: Overflow = "slide",
        n_ids: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[Step]:
        """As `stream`, with the logits that each token was chosen by.

        In place of `stop_tokens` there may be a function of a row's number and its new token, which says whether the row ends.
        Only the first `n_ids` tokens of the vocabulary are chosen, where the tokenizer knows no more.
        """
        rows, chooser = self._check_prompts(tokens), Sampling(**sampling)
        seeds = [seeds + b for b in range(len(rows))] if isinstance(seeds, int | np.integer) else seeds
        if len(seeds) != len(rows):
            raise ValueError(f"there are {len(seeds)} seeds for {len(rows)} prompts")
        ends = stop_tokens if callable(stop_tokens) else lambda _, token: token in stop_tokens
        return steps(self.parameters, self.config, rows, max_new_tokens, chooser, seeds, ends, overflow, n_ids)

    def _check_prompts(self, tokens: ArrayLike | Sequence[ArrayLike]) -> list[Array]:
        """Prompts as a list of (T,) arrays."""
        try:
            rows = [np.asarray(row) for row in tokens]  # type: ignore[union-attr]
        except TypeError:
            rows = []
        if not rows:
            raise ValueError(f"tokens is {tokens!r}, but must be a list of prompts, each a list of token ids")
        return [self._check(row[None], any_length=True)[0] for row in rows]

    def _check(self, tokens: ArrayLike, any_length: bool = False) -> Array:
        ids, config = np.asarray(tokens), self.config
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or ids.size == 0:
            raise ValueError(f"tokens has shape {ids.shape} and dtype {ids.dtype}, but must be (B, T) whole numbers")
        if not any_length and ids.shape[1] > config.context_length:
            raise ValueError(f"tokens has shape {ids.shape}, but the model's context_length is {config.context_length}")
        if ids.min() < 0 or ids.max() >= config.vocab_size:
            raise ValueError(f"tokens holds ids {ids.min()} to {ids.max()}, but the model's are 0 to {config.vocab_size - 1}")
        return ids.astype(np.intp, copy=False)

    def _check_targets(self, tokens: ArrayLike, targets: ArrayLike) -> Array:
        labels, shape = np.asarray(targets), np.shape(tokens)
        if labels.shape != shape or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"targets has shape {labels.shape} and dtype {labels.dtype}, but tokens has shape {shape}")
        counted: Any = labels[labels != IGNORE]
        if counted.size and (counted.min() < 0 or counted.max() >= self.config.vocab_size):
            raise ValueError(
                f"targets holds ids {counted.min()} to {counted.max()}, "
                f"but the model's are 0 to {self.config.vocab_size - 1} (or {IGNORE}: does not count)"
            )
        return labels.reshape(-1).astype(np.intp, copy=False)
