"""The language model as a class: a configuration and parameters, with methods for the loss, the gradients and generation."""

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from minigpt.np.config import ModelConfig
from minigpt.np.context import Context
from minigpt.np.generation import GenerationStep, Overflow, StopCondition, generate_steps
from minigpt.np.lm_head import count_targets, lm_head_loss, lm_head_loss_and_backward
from minigpt.np.loss import IGNORE_INDEX
from minigpt.np.network import GradHook, backward, forward, lm_head_weight, no_hook
from minigpt.np.ops import NO_DROPOUT, Dropout
from minigpt.np.parameters import Parameters, initialize
from minigpt.np.sampling import Sampling, SamplingOptions
from minigpt.np.trace import Arrays, Trace, unknown_name
from minigpt.np.watch import NO_WATCH, Observer, Patch, Watch, check_patches
from minigpt.np.workspace import DEFAULT_WORKSPACE, Array, Workspace

if TYPE_CHECKING:
    from minigpt.data.tokenizer import Tokenizer

MAX_NEW_TOKENS = 200


def _count(labels: Array, count: int | None) -> int:
    return count_targets(labels) if count is None else count


class GPT:
    """A decoder-only transformer language model. The configuration selects the architecture: GPT-2, Llama, Qwen 3 or others.

    The parameters are initialized from `seed` unless they are given. `dtype` is float32 or float64.

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
        self.parameters = initialize(config, seed, dtype) if parameters is None else parameters

    @classmethod
    def from_pretrained(cls, where: str | Path) -> "GPT":
        """Return the model of a run, a checkpoint, a Hugging Face directory (GPT-2, Llama or Qwen 3), or a name on the hub.

        `minigpt.load` returns its tokenizer as well. Raises `ValueError` if there is no model, or if minigpt does not support it.
        """
        from minigpt.interop.load import load

        return load(where)[0]

    def save_pretrained(self, directory: str | Path, tokenizer: "Tokenizer | None" = None) -> None:
        """Write a Hugging Face directory, which `from_pretrained` and the library transformers load.

        Raises `ValueError` if the directory exists and is not empty, or if the model does not have the form of GPT-2, Llama or
        Qwen 3. The message names the settings that differ.
        """
        from minigpt.interop.hugging_face import export

        export(self, tokenizer, Path(directory))

    def num_parameters(self) -> int:
        """Return the number of parameters.

        >>> GPT(ModelConfig(vocab_size=10, context_length=8, d_model=16, n_layers=2, n_heads=4)).num_parameters()
        6880
        """
        return self.parameters.flat.size

    def __repr__(self) -> str:
        c = self.config
        sizes = f"vocab_size={c.vocab_size}, context_length={c.context_length}, d_model={c.d_model}, n_layers={c.n_layers}"
        return f"GPT({self.num_parameters():,} parameters, {self.parameters.flat.dtype}: {sizes}, n_heads={c.n_heads})"

    @property
    def head(self) -> Array:
        """The weight of the LM head, (V, D). If it is tied, this is the token embedding itself."""
        return lm_head_weight(self.parameters, self.config)

    def logits(self, tokens: ArrayLike) -> Array:
        """Return the logits of the next token at each position.  tokens (B, T) -> (B, T, V)."""
        x, _ = forward(self._check(tokens), self.parameters, Context(self.config, needs_grad=False))
        return x @ self.head.T

    def loss(
        self, tokens: ArrayLike, targets: ArrayLike, *, count: int | None = None, ws: Workspace = DEFAULT_WORKSPACE
    ) -> float:
        """Return the mean cross-entropy in nats per token.  tokens and targets (B, T).

        Targets equal to `IGNORE_INDEX` (-100) are left out. The sum is divided by `count`, by default the number of the
        other targets; if the batch is a part of a larger one, give the number in the larger one.
        """
        return self.score(tokens, targets, count=count, ws=ws)[0]

    def score(
        self,
        tokens: ArrayLike,
        targets: ArrayLike,
        *,
        count: int | None = None,
        ws: Workspace = DEFAULT_WORKSPACE,
        watch: Watch = NO_WATCH,
    ) -> tuple[float, int]:
        """Return the loss and the number of correct predictions (targets that are the most likely token)."""
        ids, labels = self._check(tokens), self._check_targets(tokens, targets)
        with ws.scratch():
            x, _ = forward(ids, self.parameters, Context(self.config, ws, needs_grad=False, watch=watch))
            return lm_head_loss(x.reshape(labels.size, -1), self.head, labels, _count(labels, count), ws, watch)

    def loss_and_grads(
        self,
        tokens: ArrayLike,
        targets: ArrayLike,
        *,
        out: Parameters | None = None,
        add: bool = False,
        count: int | None = None,
        dropout: Dropout = NO_DROPOUT,
        ws: Workspace = DEFAULT_WORKSPACE,
        grad_hook: GradHook = no_hook,
        watch: Watch = NO_WATCH,
    ) -> tuple[float, Parameters]:
        """Return the loss and its gradient with respect to every parameter, by name.

        The gradients are written to `out` if given, or added to it if `add` is true, to accumulate gradients over micro-batches.
        `count` is as in `loss`. `dropout` generates the dropout masks. `grad_hook` is called during the backward pass, as
        described in `minigpt.np.network.backward`. `watch` observes the intermediate arrays.
        """
        ids, labels = self._check(tokens), self._check_targets(tokens, targets)
        g = self.parameters.zeros_like() if out is None else out
        with ws.scratch():
            D, ctx = self.config.d_model, Context(self.config, ws, dropout, watch=watch)
            # allocated before the forward pass, so that releasing the caches does not release it
            dx = ws.empty((*ids.shape, D), g.flat.dtype)
            x, cache = forward(ids, self.parameters, ctx)
            dhead = g["token_embedding" if self.config.tied else "head"]
            loss = lm_head_loss_and_backward(
                x.reshape(-1, D), self.head, labels, _count(labels, count), dx.reshape(-1, D), dhead, add, ws, watch
            )
            if not self.config.tied and not add:
                g["token_embedding"].fill(0)
            backward(dx, cache, g, ctx, add, grad_hook)
        return loss, g

    def trace(
        self,
        tokens: ArrayLike,
        targets: ArrayLike | None = None,
        *,
        patch: Mapping[str, Patch] | None = None,
        gradients: bool = True,
    ) -> Trace:
        """Return every intermediate array of a forward and a backward pass, by name, with its gradient.

        These are the passes that train the model. They differ in one respect: attention and the LM head process all rows at once,
        because their intermediate arrays are kept as well. The memory is therefore quadratic in T.

        Parameters
        ----------
        tokens
            The tokens (B, T).
        targets
            The targets (B, T), as in `loss`. By default, the target of a token is the one that follows it.
        patch
            Functions that replace arrays on their way, by name. A function receives a copy of the array and returns the array of
            the same shape that is used instead. The backward pass treats the difference as a constant that was added. If the
            function changes the gradient as well, give a pair (function, backward) instead: `backward` receives the gradient with
            respect to the result, and returns that with respect to the argument.
        gradients
            Whether to run the backward pass, which takes about two thirds of the time.

        Raises
        ------
        ValueError
            If the tokens or targets are not valid, if there is no array with the name of a patch, or if a patch returns an array
            of another shape.

        Examples
        --------
        >>> model = GPT(ModelConfig(vocab_size=10, context_length=8, d_model=16, n_layers=2, n_heads=4), seed=0)
        >>> t = model.trace([[1, 2, 3, 4]])
        >>> t["blocks.0.attention.weights"].shape
        (1, 4, 4, 4)
        >>> def without_head_2(heads):
        ...     heads[:, 2] = 0
        ...     return heads
        >>> model.trace([[1, 2, 3, 4]], patch={"blocks.0.attention.heads": without_head_2}).loss != t.loss
        True
        """
        ids = self._check(tokens)
        if targets is None:
            targets = np.concatenate([ids[:, 1:], np.full((len(ids), 1), IGNORE_INDEX)], axis=1)
        check_patches(patch or {})
        observer, g = Observer((ids.shape[0], ids.shape[1]), patch or {}), None
        if gradients:
            loss, g = self.loss_and_grads(ids, targets, watch=observer)
        else:
            loss, _ = self.score(ids, targets, watch=observer)
        for name in patch or {}:
            if name not in observer.values:
                raise ValueError(f"patch: {unknown_name(name, observer.values)}")
        values, grads = Arrays(observer.values), Arrays(observer.grads)
        return Trace(self.config, self.parameters, ids, np.asarray(targets), loss, values, grads, g, frozenset(patch or {}))

    def generate(
        self,
        tokens: ArrayLike | Sequence[ArrayLike],
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        seeds: Sequence[int] | int = 0,
        stop_tokens: Sequence[int] = (),
        overflow: Overflow = "slide",
        **sampling: Unpack[SamplingOptions],
    ) -> list[Array]:
        """Continue prompts, and return each prompt followed by its new tokens (including a stop token).

        `tokens` is an array (B, T) or a list of B prompts of any lengths. `stream` describes the other arguments.
        """
        rows = self._check_prompts(tokens)
        new = list(self.stream(rows, max_new_tokens, seeds=seeds, stop_tokens=stop_tokens, overflow=overflow, **sampling))
        return [
            np.concatenate([row, [column[b] for column in new if column[b] >= 0]]).astype(np.intp) for b, row in enumerate(rows)
        ]

    def stream(
        self,
        tokens: ArrayLike | Sequence[ArrayLike],
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        seeds: Sequence[int] | int = 0,
        stop_tokens: Sequence[int] = (),
        overflow: Overflow = "slide",
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[Array]:
        """Yield the next token of each row, (B,), up to `max_new_tokens` times. Rows that have finished contain -1.

        Parameters
        ----------
        tokens
            An array (B, T) or a list of B prompts of any lengths.
        max_new_tokens
            Maximum number of new tokens in each row.
        seeds
            One seed for each row, or the seed of the first row, from which the others count up.
        stop_tokens
            A row finishes after generating one of these tokens.
        overflow
            What to do when a row becomes longer than context_length. With "slide", the model sees the last context_length tokens,
            and all of them are computed again for each new token. With "refuse", `ValueError` is raised at the start.
        sampling
            temperature (0, the default, always selects the most likely token), top_k, top_p, min_p and repetition_penalty, as
            described in `Sampling`.
        """
        generated = self.steps(tokens, max_new_tokens, seeds=seeds, stop_tokens=stop_tokens, overflow=overflow, **sampling)
        return (step.tokens for step in generated)

    def steps(
        self,
        tokens: ArrayLike | Sequence[ArrayLike],
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        seeds: Sequence[int] | int = 0,
        stop_tokens: Sequence[int] | StopCondition = (),
        overflow: Overflow = "slide",
        n_ids: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[GenerationStep]:
        """Yield the tokens that `stream` yields, with the logits from which they were chosen.

        `stop_tokens` may also be a function of a row's index and its new token that returns whether the row is finished. If the
        tokenizer has fewer ids than the model, only the first `n_ids` can be chosen.
        """
        rows, sampler = self._check_prompts(tokens), Sampling(**sampling)
        seeds = [seeds + b for b in range(len(rows))] if isinstance(seeds, int | np.integer) else seeds
        if len(seeds) != len(rows):
            raise ValueError(f"seeds has {len(seeds)} elements, but must have one for each of the {len(rows)} prompts")
        stop = stop_tokens if callable(stop_tokens) else lambda _, token: token in stop_tokens
        return generate_steps(self.parameters, self.config, rows, max_new_tokens, sampler, seeds, stop, overflow, n_ids)

    def _check_prompts(self, tokens: ArrayLike | Sequence[ArrayLike]) -> list[Array]:
        """Return the prompts as a list of (T,) arrays."""
        expected = "a list of prompts, each a list of token ids: [[1, 2, 3]]"
        if isinstance(tokens, str | bytes) or (isinstance(tokens, Sequence) and any(isinstance(row, str) for row in tokens)):
            raise ValueError(f"tokens is text, but must be {expected}; tokenizer.encode(text) returns the ids of a text")
        try:
            rows = [np.asarray(row) for row in tokens]  # type: ignore[union-attr]
        except TypeError:
            rows = []
        if not rows:
            raise ValueError(f"tokens is {tokens!r}, but must be {expected}")
        if all(row.ndim == 0 for row in rows):
            ids = reprlib.repr([*map(np.ndarray.tolist, rows)])
            raise ValueError(f"tokens is one prompt, {ids}, but must be a list of prompts: [{ids}]")
        if (b := next((b for b, row in enumerate(rows) if row.ndim == 0), None)) is not None:
            raise ValueError(f"tokens[{b}] is {rows[b]}, but must be a list of token ids")
        return [self._check(row[None], any_length=True)[0] for row in rows]

    def _check(self, tokens: ArrayLike, any_length: bool = False) -> Array:
        ids, config = np.asarray(tokens), self.config
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or ids.size == 0:
            raise ValueError(f"tokens has shape {ids.shape} and dtype {ids.dtype}, but must be (B, T) integers")
        if not any_length and ids.shape[1] > config.context_length:
            raise ValueError(f"tokens has shape {ids.shape}, but the model's context_length is {config.context_length}")
        if ids.min() < 0 or ids.max() >= config.vocab_size:
            raise ValueError(f"tokens holds ids {ids.min()} to {ids.max()}, but must hold ids from 0 to {config.vocab_size - 1}")
        return ids.astype(np.intp, copy=False)

    def _check_targets(self, tokens: ArrayLike, targets: ArrayLike) -> Array:
        labels, shape = np.asarray(targets), np.shape(tokens)
        if labels.shape != shape or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"targets has shape {labels.shape} and dtype {labels.dtype}, but must be integers of the shape of tokens, {shape}"
            )
        used: Any = labels[labels != IGNORE_INDEX]
        if used.size and (used.min() < 0 or used.max() >= self.config.vocab_size):
            raise ValueError(
                f"targets holds ids {used.min()} to {used.max()}, "
                f"but must hold ids from 0 to {self.config.vocab_size - 1} (or {IGNORE_INDEX} for an ignored target)"
            )
        return labels.reshape(-1).astype(np.intp, copy=False)
