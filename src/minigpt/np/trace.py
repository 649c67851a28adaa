"""The intermediate arrays of one forward and backward pass, by name, and what can be read from them (docs/trace.md)."""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from minigpt.np.config import ModelConfig
from minigpt.np.context import Context
from minigpt.np.loss import IGNORE_INDEX
from minigpt.np.network import final_norm, lm_head_weight
from minigpt.np.parameters import Parameters
from minigpt.np.workspace import Array


class Arrays(dict[str, Array]):
    """Arrays by name. The error for a name that does not exist gives the nearest names."""

    def __missing__(self, name: str) -> Array:
        raise KeyError(unknown_name(name, self) if self else "the trace has no gradients (gradients=False)")


def unknown_name(name: str, names: Mapping[str, object]) -> str:
    """Return the text of the error for a name that does not exist."""
    nearest = difflib.get_close_matches(name, names, n=3)
    return f"there is no {name!r} in the trace" + (f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else "")


@dataclass(frozen=True)
class Trace:
    """The result of `GPT.trace`.

    `trace[name]` is an array of the forward pass, and `trace.grad[name]` the gradient of the loss with respect to it, of the same
    shape. `trace.names` lists them in the order of the computation. docs/trace.md has a table with their shapes and formulas.

    >>> from minigpt import GPT, ModelConfig
    >>> model = GPT(ModelConfig(vocab_size=10, context_length=8, d_model=16, n_layers=2, n_heads=4), seed=0)
    >>> t = model.trace([[1, 2, 3, 4]])
    >>> t["blocks.1.attention.weights"].shape, t.grad["blocks.1.attention.weights"].shape
    ((1, 4, 4, 4), (1, 4, 4, 4))
    >>> t.names[:3]
    ['token_embedding', 'embedding', 'blocks.0.attention_norm']
    """

    config: ModelConfig
    parameters: Parameters
    "The parameters of the model."
    tokens: Array
    "The tokens (B, T)."
    targets: Array
    "The targets (B, T); -100 where there is none."
    loss: float
    "Mean cross-entropy in nats per token."
    values: Arrays
    grad: Arrays
    "The gradient of `loss` with respect to each array."
    parameter_grads: Parameters | None
    "The gradient of `loss` with respect to each parameter. None, and `grad` is empty, if the trace has no backward pass."
    patched: frozenset[str] = frozenset()
    "The names of the arrays that were replaced."

    def __getitem__(self, name: str) -> Array:
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        size = f"{len(self.values)} arrays of {self.tokens.shape} tokens, {self.nbytes / 2**20:,.1f} MiB"
        return f"Trace({size}, loss {self.loss:.4f})"

    @property
    def names(self) -> list[str]:
        """The names of the arrays, in the order of the computation."""
        return list(self.values)

    @property
    def nbytes(self) -> int:
        """The memory of the arrays and their gradients, in bytes, without the gradients of the parameters."""
        return sum(array.nbytes for arrays in (self.values, self.grad) for array in arrays.values())

    @property
    def losses(self) -> Array:
        """The cross-entropy of each target in nats, (B, T) in float64. NaN where there is no target. Their mean is `loss`."""
        used = self.targets != IGNORE_INDEX
        log_probabilities = _log_softmax(self["logits"])
        losses = -np.take_along_axis(log_probabilities, np.where(used, self.targets, 0)[..., None], -1)[..., 0]
        return np.where(used, losses, np.nan)

    def surprise(self) -> Array:
        """Return the surprisal of each target in bits, (B, T): -log2 of its probability. NaN where there is no target."""
        return self.losses / math.log(2)

    def probabilities(self) -> Array:
        """Return the probabilities of the next token at each position, (B, T, V) in float64."""
        return np.exp(_log_softmax(self["logits"]))

    def logit_lens(self, position: int | None = None) -> Array:
        """Return what the model would predict after each block: the final norm and the LM head, applied to the residual stream.

        The first element is that of the embedding, and the last element is `trace["logits"]`, unless the final norm or the logits
        are patched.  (L + 1, B, T, V), or with a position (L + 1, B, V). nostalgebraist 2020, "interpreting GPT: the logit lens".
        """
        where = slice(None) if position is None else [self._position(position)]
        ctx = Context(self.config)
        streams = [final_norm(np.ascontiguousarray(self[name][:, where]), self.parameters, ctx)[0] for name in self._streams()]
        logits = np.stack(streams) @ self._head.T
        return logits if position is None else logits[:, :, 0]

    def gradient_flow(self) -> Array:
        """Return the norm of the gradient of the residual stream at the embedding and after each block, (L + 1, B, T)."""
        return np.stack([np.linalg.norm(self.grad[name], axis=-1) for name in self._streams()])

    def attribution(self, position: int, token: int | None = None, row: int = 0) -> dict[str, float]:
        """Return the share of each part of the model in a logit. The shares add up to the logit.

        The residual stream is the sum of the embedding and of the results of all branches, and the logit is a linear function of
        it once the scale of the final norm is held at its value. The share of a part is its term of this sum. A branch of
        attention is divided further, into its heads and its bias. A patch after a sum has a share of its own, such as
        `blocks.0.attention.patch`: what it has added.

        Parameters
        ----------
        position
            The position whose prediction is explained; negative positions count from the end.
        token
            The token whose logit is explained; by default the target at the position or, if it has none, the most likely token.
        row
            The sequence of the batch.

        Raises
        ------
        ValueError
            If the position, the token or the row does not exist, if the model is post-norm, whose logits are not such a sum, or
            if the final norm or the logits are patched.

        Examples
        --------
        >>> from minigpt import GPT, ModelConfig
        >>> model = GPT(ModelConfig(vocab_size=10, context_length=8, d_model=16, n_layers=1, n_heads=2), seed=0)
        >>> t = model.trace([[1, 2, 3, 4]])
        >>> shares = t.attribution(position=2)
        >>> [name for name in shares if "heads" in name]
        ['blocks.0.attention.heads.0', 'blocks.0.attention.heads.1']
        >>> bool(abs(sum(shares.values()) - t["logits"][0, 2, 4]) < 1e-5)
        True
        """
        config = self.config
        if config.norm_placement != "pre":
            raise ValueError(
                "the model is post-norm, but attribution needs a pre-norm model: its logits must be a sum over the branches"
            )
        if self.patched & {"final_norm", "logits"}:
            raise ValueError("the final norm or the logits are patched, so the logits are not a sum over the branches")
        if not -len(self.tokens) <= row < len(self.tokens):
            raise ValueError(f"row is {row}, but the trace has {len(self.tokens)} sequences")
        t = self._position(position)
        if token is None:
            target = int(self.targets[row, t])
            token = target if target != IGNORE_INDEX else int(self["logits"][row, t].argmax())
        if not 0 <= token < config.vocab_size:
            raise ValueError(f"token is {token}, but must be from 0 to {config.vocab_size - 1}")
        p = self.parameters
        direction, constant = self._logit_direction(row, t, token)
        shares = {name: float(x @ direction) for name, x in self._parts(row, t).items()}
        return shares | ({"final_norm.beta": constant} if "final_norm.beta" in p else {})

    def _parts(self, row: int, t: int) -> dict[str, Array]:
        """Return the vectors (D,) whose sum is the residual stream after the last block."""
        config, p = self.config, self.parameters
        stream = self["embedding"][row, t]
        parts = {"embedding": stream}
        for i in range(config.n_layers):
            block, name = f"blocks.{i}.", f"blocks.{i}.attention"
            heads, weights = self[f"{name}.heads"][row, :, t], p[f"{name}.out.weight"].reshape(config.n_heads, config.d_head, -1)
            attention = {f"{name}.heads.{h}": heads[h] @ weights[h] for h in range(config.n_heads)}
            if f"{name}.out.bias" in p:
                attention[f"{name}.out.bias"] = p[f"{name}.out.bias"]
            parts |= attention | self._patch_of(name, sum(attention.values()), row, t)
            parts |= self._patch_of(f"{block}residual_mid", stream + self[name][row, t], row, t)
            feed_forward = self[f"{block}feed_forward"][row, t]
            parts[f"{block}feed_forward"] = feed_forward
            parts |= self._patch_of(f"{block}residual_post", self[f"{block}residual_mid"][row, t] + feed_forward, row, t)
            stream = self[f"{block}residual_post"][row, t]
        return parts

    def _patch_of(self, name: str, expected: Array, row: int, t: int) -> dict[str, Array]:
        """Return what the patch of an array has added to it, if there is one."""
        return {f"{name}.patch": self[name][row, t] - expected} if name in self.patched else {}

    def _logit_direction(self, row: int, t: int, token: int) -> tuple[Array, float]:
        """Return w (D,) and c: the logit of the token is w @ stream + c, if the scale of the final norm is held."""
        config, p = self.config, self.parameters
        x = self[self._streams()[-1]][row, t]
        w = self._head[token] * p["final_norm.gamma"]
        if config.norm == "rms":
            return w / math.sqrt(np.mean(x * x) + config.norm_epsilon), 0.0
        w = (w - w.mean()) / math.sqrt(x.var() + config.norm_epsilon)  # subtracting the mean of x is subtracting that of w
        return w, float(self._head[token] @ p["final_norm.beta"])

    @property
    def _head(self) -> Array:
        return lm_head_weight(self.parameters, self.config)

    def _streams(self) -> list[str]:
        return ["embedding", *(f"blocks.{i}.residual_post" for i in range(self.config.n_layers))]

    def _position(self, position: int) -> int:
        T = self.tokens.shape[1]
        if not -T <= position < T:
            raise ValueError(f"position is {position}, but the trace has {T} tokens")
        return position % T


def _log_softmax(logits: Array) -> Array:
    z = logits.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(-1, keepdims=True)))
