"""The configuration of a model: `ModelConfig`, and the presets."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

Norm = Literal["layer", "rms"]
PositionEncoding = Literal["learned", "rope"]
RopePairing = Literal["half", "interleaved"]
Activation = Literal["gelu", "gelu_exact", "relu", "relu_squared", "swiglu"]
NormPlacement = Literal["pre", "post"]


def option(default: Any, help: str) -> Any:
    """Return a dataclass field with a default and a description, which `minigpt train --help` prints."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The fields that `ModelConfig` and the settings of a training run have in common."""

    context_length: int = option(256, "Maximum number of tokens in a sequence.")
    d_model: int = option(256, "Width of the residual stream.")
    n_layers: int = option(4, "Number of transformer blocks.")
    n_heads: int = option(8, "Number of attention (query) heads in each block.")
    n_kv_heads: int = option(
        0, "Number of key and value heads, each shared by n_heads / n_kv_heads query heads; 0 means n_heads."
    )
    d_head: int = option(0, "Width of one head; 0 means d_model / n_heads.")
    d_ff: int = option(
        0,
        "Width of the hidden layer of the feed-forward network; 0 means 4 * d_model, or with swiglu, which has a third matrix, "
        "8/3 * d_model rounded up to a multiple of 8.",
    )
    activation: Activation = option(
        "gelu",
        "Activation of the feed-forward network: gelu (tanh approximation), gelu_exact, relu, relu_squared, or swiglu (gated).",
    )
    positions: PositionEncoding = option(
        "learned", "Position encoding: learned embeddings, or rope (rotary embeddings of queries and keys)."
    )
    rope_theta: float = option(10_000.0, "Base of the rotation frequencies of rope.")
    rope_pairing: RopePairing = option(
        "half", "Columns of a head that rope rotates together: i and i + d_head / 2 (half), or 2 i and 2 i + 1 (interleaved)."
    )
    norm: Norm = option("layer", "Normalization: layer norm, or rms norm (no mean, no beta).")
    norm_placement: NormPlacement = option(
        "pre", "Normalize the input of each branch (pre, as GPT-2), or each residual sum (post, as GPT-1)."
    )
    qk_norm: bool = option(False, "Normalize queries and keys before their dot product.")
    attention_bias: bool = option(True, "Use biases in the linear layers of attention.")
    feed_forward_bias: bool = option(True, "Use biases in the linear layers of the feed-forward network.")
    tied: bool = option(True, "Tie the weight of the LM head to the token embedding.")
    dropout: float = option(0.0, "Dropout probability in training, applied to the embeddings and to the output of each branch.")
    norm_epsilon: float = option(1e-5, "Added to the variance (layer norm) or the mean square (rms norm).")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelOptions):
    """The configuration of a transformer. The defaults are those of GPT-2; `LLAMA` and `QWEN3` hold the fields of other families.

    `ModelOptions` describes the fields. Sizes of 0 are replaced by the defaults that they stand for.

    Raises
    ------
    ValueError
        If a field is invalid, or inconsistent with another field. The message names the field.

    Examples
    --------
    >>> ModelConfig(vocab_size=100, context_length=16, d_model=8, n_layers=2, n_heads=2).d_ff
    32
    """

    vocab_size: int
    "Number of token ids."

    def __post_init__(self) -> None:
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.d_ff == 0:
            object.__setattr__(self, "d_ff", -(-self.d_model // 3) * 8 if self.activation == "swiglu" else 4 * self.d_model)
        for name in ("vocab_size", "context_length", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff"):
            self._check_size(name)
        if self.d_head == 0:
            if self.d_model % self.n_heads:
                raise ValueError(f"d_model is {self.d_model}, but must be divisible by n_heads = {self.n_heads}; or give d_head")
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        self._check_size("d_head")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads is {self.n_heads}, but must be divisible by n_kv_heads = {self.n_kv_heads}")
        if self.positions == "rope" and self.d_head % 2:
            raise ValueError(f"d_head is {self.d_head}, but must be even, because rope rotates pairs of columns")
        self._check_values()

    def _check_values(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but must be at least 0 and less than 1")
        for name in ("norm_epsilon", "rope_theta"):
            if not 0 < getattr(self, name) <= sys.float_info.max:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be finite and greater than 0")
        for name in ("attention_bias", "feed_forward_bias", "tied", "qk_norm"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be True or False")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of: {', '.join(choices)}")

    def _check_size(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}, but must be a positive integer")

    @property
    def heads_per_kv(self) -> int:
        """Number of query heads that share one key and value head."""
        return self.n_heads // self.n_kv_heads


CHOICES = {
    "activation": get_args(Activation),
    "positions": get_args(PositionEncoding),
    "rope_pairing": get_args(RopePairing),
    "norm": get_args(Norm),
    "norm_placement": get_args(NormPlacement),
}
MODEL_FIELDS = tuple(f.name for f in fields(ModelConfig))

GPT2: dict[str, Any] = {
    "norm": "layer",
    "norm_epsilon": 1e-5,
    "positions": "learned",
    "activation": "gelu",
    "qk_norm": False,
    "attention_bias": True,
    "feed_forward_bias": True,
    "tied": True,
}
LLAMA: dict[str, Any] = {
    "norm": "rms",
    "norm_epsilon": 1e-5,
    "positions": "rope",
    "activation": "swiglu",
    "qk_norm": False,
    "attention_bias": False,
    "feed_forward_bias": False,
    "tied": True,
}
QWEN3: dict[str, Any] = {**LLAMA, "norm_epsilon": 1e-6, "qk_norm": True, "tied": False}
"The fields in which families of models differ. Models have the form of Qwen 3 unless the preset or an option selects another."

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"context_length": 256, "d_model": 128, "n_layers": 4, "n_heads": 2},
    "nano": {"context_length": 64, "d_model": 128, "n_layers": 4, "n_heads": 4},
    "tiny": {"context_length": 128, "d_model": 128, "n_layers": 4, "n_heads": 4},
    "small": {"context_length": 256, "d_model": 256, "n_layers": 4, "n_heads": 8},
    "base": {"context_length": 256, "d_model": 512, "n_layers": 6, "n_heads": 8},
    "gpt2": {**GPT2, "context_length": 1024, "d_model": 768, "n_layers": 12, "n_heads": 12, "vocab_size": 50257},
    "llama-tiny": {**LLAMA, "context_length": 128, "d_model": 128, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "d_ff": 344},
    "llama-15m": {**LLAMA, "context_length": 256, "d_model": 288, "n_layers": 6, "n_heads": 6, "d_ff": 768, "vocab_size": 32000},
}
"The sizes of models, and for a preset that is named after a family, the family's form."


def preset(name: str, **changes: Any) -> ModelConfig:
    """Return the `ModelConfig` of a preset, with the given fields changed.

    >>> preset("small", vocab_size=4096).d_model
    256
    """
    if name not in PRESETS:
        raise ValueError(f"preset is {name!r}, but must be one of: {', '.join(PRESETS)}")
    return ModelConfig(**{**QWEN3, **PRESETS[name], **changes})


RENAMED_FIELDS: dict[str, tuple[str, ...]] = {"bias": ("attention_bias", "feed_forward_bias")}
"The fields of version 0.1 that have been renamed, with their current names."


def upgrade_fields(values: Mapping[str, Any], renamed: Mapping[str, tuple[str, ...]] = RENAMED_FIELDS) -> dict[str, Any]:
    """Return values saved by an earlier version under their current names. Raises `ValueError` if both names are given.

    >>> upgrade_fields({"d_model": 8, "bias": False})
    {'d_model': 8, 'attention_bias': False, 'feed_forward_bias': False}
    """
    upgraded = dict(values)
    for old, new in renamed.items():
        if old in upgraded:
            if not upgraded.keys().isdisjoint(new):
                raise ValueError(f"{old} is the old name of {' and '.join(new)}; use only the new one")
            upgraded |= dict.fromkeys(new, upgraded.pop(old))
    return upgraded
