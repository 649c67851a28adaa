"""The language model: embed the tokens, pass them through the blocks, predict the next one.

Its way back is derived in docs/derivations.md#the-whole-model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from minigpt.np.attention import KeyValues
from minigpt.np.block import block, block_backward, norm, norm_backward
from minigpt.np.config import ModelConfig
from minigpt.np.head import count_targets, head_loss, head_loss_and_backward
from minigpt.np.ops import (
    IGNORE,
    NO_DROPOUT,
    Cache,
    Dropout,
    dropout,
    dropout_backward,
    embedding,
    embedding_backward,
    positions,
    positions_backward,
)
from minigpt.np.parameters import Parameters, initialise
from minigpt.np.sampling import check_sampling, next_token
from minigpt.np.workspace import FRESH, Array, Fresh


def forward(
    tokens: Array,
    p: Parameters,
    config: ModelConfig,
    ws: Fresh = FRESH,
    drop: Dropout = NO_DROPOUT,
    keep: bool = True,
    past: list[KeyValues] | None = None,
) -> tuple[Array, Cache]:
    """tokens (B, T) -> what the head reads, (B, T, D).  Without `keep`, caches are forgotten block by block: no backward.

    `past` holds the keys and values of each layer for the tokens before these, and receives those of these.
    """
    B, T = tokens.shape
    x, token_cache = embedding(tokens.reshape(B * T), p["token_embedding"], ws)
    x, position_cache = positions(x.reshape(B, T, -1), p["position_embedding"], past[0].length if past else 0)
    x, mask_cache = dropout(x, drop.mask(0, x.shape, x.dtype, ws))
    blocks = []
    for i in range(config.n_layers):
        mark = ws.mark()
        y, cache = block(x, p.under(f"blocks.{i}."), config, True, ws, drop, i, past[i] if past else None)
        if keep:
            x = y
            blocks.append((mark, cache))
        else:
            x[...] = y  # y lies above the mark, in memory that is about to be given back
            ws.release(mark)
    norm_cache = None
    if config.norm_placement == "pre":
        x, norm_cache = norm(x, p.under("final_norm."), config.norm_epsilon, ws)
    return x, (token_cache, position_cache, mask_cache, blocks, norm_cache)


def backward(dx: Array, cache: Cache, g: Parameters, add: bool = False, ws: Fresh = FRESH) -> None:
    """Writes the gradients of all parameters but the head's into g, or adds them with `add`.

    g["token_embedding"] is always added to: it holds the share of a tied head, or zeros. dx (B, T, D), the gradient of what
    `forward` returned, is overwritten: it follows the residual stream down to the embeddings. The cache is used up.
    """
    token_cache, position_cache, mask_cache, blocks, norm_cache = cache
    if not blocks:
        raise ValueError("this cache has been used: there is one backward for each forward")
    if norm_cache is not None:
        with destination(g, "final_norm.", add, ws) as part:
            dx[...] = norm_backward(dx, norm_cache, part, ws)
    for i in reversed(range(len(blocks))):
        mark, block_cache = blocks.pop()
        with destination(g, f"blocks.{i}.", add, ws) as part:
            block_backward(dx, block_cache, part, ws, out=dx)
        ws.release(mark)  # the block's cache lies on top of the stack, now that those above it are gone
    dx = dropout_backward(dx, mask_cache, ws)
    dposition = positions_backward(dx, position_cache)
    if add:
        g["position_embedding"] += dposition
    else:
        g["position_embedding"][...] = dposition
    embedding_backward(dx.reshape(-1, dx.shape[-1]), token_cache, ws, out=g["token_embedding"])


@contextmanager
def destination(g: Parameters, prefix: str, add: bool, ws: Fresh) -> Iterator[Parameters]:
    """Where the gradients of one part of the model are to be written: into g, or beside it and then added."""
    part = g.under(prefix)
    if not add:
        yield part
        return
    with ws.scratch():
        fresh = Parameters(part.shapes, part.flat.dtype, ws.empty(part.flat.shape, part.flat.dtype))
        yield fresh
        part.flat += fresh.flat


def _count(labels: Array, count: int | None) -> int:
    return count_targets(labels) if count is None else count


class GPT:
    """A GPT: its configuration, its parameters, and what can be done with them.

    >>> model = GPT(ModelConfig(vocab_size=10, context_length=8, d_model=16, n_layers=2, n_heads=4), seed=0)
    >>> loss, grads = model.loss_and_grads([[1, 2, 3]], [[2, 3, 4]])
    >>> grads["token_embedding"].shape
    (10, 16)
    >>> model.generate([[1, 2, 3]], max_new_tokens=2).shape
    (1, 5)
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
        return self.parameters["token_embedding" if self.config.tied else "head"]

    def logits(self, tokens: ArrayLike) -> Array:
        """Scores of every possible next token after each token.  tokens (B, T) -> (B, T, V)."""
        x, _ = forward(self._check(tokens), self.parameters, self.config, keep=False)
        return x @ self.head.T

    def loss(self, tokens: ArrayLike, targets: ArrayLike, *, count: int | None = None, ws: Fresh = FRESH) -> float:
        """Mean cross-entropy, in nats per token.  tokens and targets (B, T); targets of `IGNORE` (-100) do not count.

        `count` divides the sum in place of the number of targets that count, for a batch that is part of a larger one.
        """
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
    ) -> tuple[float, Parameters]:
        """The loss, and its gradient for every parameter (name -> array).

        The gradients are written into `out` where it is given, or added to it with `add` (more of the same batch); `count` is
        as in `loss`, `drop` gives the dropout masks.
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
            backward(dx, cache, g, add, ws)
        return loss, g

    def generate(
        self,
        tokens: ArrayLike,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        seeds: Sequence[int] | int = 0,
    ) -> Array:
        """Continue each row.  tokens (B, T) -> (B, T + max_new_tokens).  See `stream` for the arguments."""
        rows = self._check(tokens, any_length=True)
        new = list(self.stream(rows, max_new_tokens, temperature, top_k, seeds))
        return np.concatenate([rows, *(column[:, None] for column in new)], axis=1)

    def stream(
        self,
        tokens: ArrayLike,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        seeds: Sequence[int] | int = 0,
    ) -> Iterator[Array]:
        """Yield the next token of each row, (B,), `max_new_tokens` times.

        Temperature 0 takes the likeliest token, else tokens are drawn (among the `top_k` likeliest), row b with the seed
        seeds[b], or seeds + b. The model sees the last context_length tokens.
        """
        check_sampling(temperature, top_k)
        rows = self._check(tokens, any_length=True)
        seeds = [seeds + b for b in range(len(rows))] if isinstance(seeds, int | np.integer) else seeds
        rngs = [np.random.default_rng(seed) for seed in seeds]
        past = self._new_past(len(rows))
        for _ in range(max_new_tokens):
            logits = self._next_logits(rows, past)
            new = [next_token(row, temperature, top_k, rng) for row, rng in zip(logits, rngs, strict=True)]
            column = np.array(new, dtype=rows.dtype)
            rows = np.concatenate([rows, column[:, None]], axis=1)
            yield column

    def _new_past(self, B: int) -> list[KeyValues]:
        c = self.config
        dtype = self.parameters.flat.dtype
        return [KeyValues(B, c.n_heads, c.context_length, c.d_head, dtype) for _ in range(c.n_layers)]

    def _next_logits(self, rows: Array, past: list[KeyValues]) -> Array:
        """Scores for the token after each row, (B, V). Only tokens that `past` does not know yet are computed.

        Beyond context_length every position shifts with each new token, and with it every key: all is computed again.
        """
        if rows.shape[1] <= self.config.context_length:
            x, _ = forward(rows[:, past[0].length :], self.parameters, self.config, keep=False, past=past)
        else:
            x, _ = forward(rows[:, -self.config.context_length :], self.parameters, self.config, keep=False)
        return x[:, -1] @ self.head.T

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
