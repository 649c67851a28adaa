"""The shape of a model: `ModelConfig`, and the presets."""

import sys
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Norm = Literal["layer", "rms"]
Positions = Literal["learned", "rope"]
RopePairing = Literal["half", "interleaved"]
Activation = Literal["gelu", "gelu_exact", "relu", "swiglu"]
NormPlacement = Literal["pre", "post"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a transformer: as GPT-2 by default; with rms, rope, swiglu and no biases, as Llama.

    Raises `ValueError`, naming the field, for a shape that cannot be built.

    >>> ModelConfig(vocab_size=100, context_length=16, d_model=8, n_layers=2, n_heads=2).d_ff
    32
    """

    vocab_size: int
    "Number of token ids."
    context_length: int = 256
    "Largest number of tokens the model looks at together."
    d_model: int = 256
    "Width of the residual stream."
    n_layers: int = 4
    "Number of blocks."
    n_heads: int = 8
    "Attention heads in each block."
    n_kv_heads: int = 0
    "Heads of keys and values, each shared by n_heads / n_kv_heads heads of queries (0: as many as n_heads)."
    d_head: int = 0
    "Width of one head (0: d_model divided among the heads)."
    d_ff: int = 0
    "Width of the hidden layer of the feed-forward network (0: four times d_model)."
    activation: Activation = "gelu"
    "Activation of the feed-forward network: gelu (tanh form), gelu_exact, relu, or swiglu (with a second layer as its gate)."
    positions: Positions = "learned"
    "How the model knows where a token stands: learned embeddings, or rope, which rotates queries and keys."
    rope_theta: float = 10_000.0
    "Base of the wave lengths of rope."
    rope_pairing: RopePairing = "half"
    "Which columns of a head rope rotates together: i and i + d_head / 2 (half), or neighbours (interleaved)."
    norm: Norm = "layer"
    "Layer norm, or rms: without mean and beta."
    norm_placement: NormPlacement = "pre"
    "Norm before each branch (pre, GPT-2) or after each residual sum (post, GPT-1)."
    qk_norm: bool = False
    "A norm of each query and each key, before their product."
    bias: bool = True
    "Biases in the linear layers of the blocks."
    tied: bool = True
    "The head shares its weight with the token embedding."
    dropout: float = 0.0
    "Probability with which an activation is dropped in training: embeddings and the output of each branch."
    norm_epsilon: float = 1e-5
    "Added to the variance (rms: to the mean square) in the norms."

    def __post_init__(self) -> None:
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.d_ff == 0:
            object.__setattr__(self, "d_ff", 4 * self.d_model)
        for name in ("vocab_size", "context_length", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff"):
            self._check_size(name)
        if self.d_head == 0:
            if self.d_model % self.n_heads:
                raise ValueError(f"d_model is {self.d_model}, which n_heads = {self.n_heads} does not divide; give d_head")
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        self._check_size("d_head")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads is {self.n_heads}, which n_kv_heads = {self.n_kv_heads} does not divide")
        if self.positions == "rope" and self.d_head % 2:
            raise ValueError(f"d_head is {self.d_head}, but rope rotates pairs of columns: it must be even")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but must be at least 0 and less than 1")
        for name in ("norm_epsilon", "rope_theta"):
            if not 0 < getattr(self, name) <= sys.float_info.max:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be greater than 0, and finite")
        for name in ("bias", "tied", "qk_norm"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be True or False")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of: {', '.join(choices)}")

    def _check_size(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 1")

    @property
    def heads_per_kv(self) -> int:
        """Heads of queries that share one head of keys and values."""
        return self.n_heads // self.n_kv_heads


CHOICES = {
    "activation": get_args(Activation),
    "positions": get_args(Positions),
    "rope_pairing": get_args(RopePairing),
    "norm": get_args(Norm),
    "norm_placement": get_args(NormPlacement),
}
MODEL_FIELDS = tuple(field.name for field in fields(ModelConfig))

LLAMA: dict[str, Any] = {"norm": "rms", "positions": "rope", "activation": "swiglu", "bias": False}

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"context_length": 256, "d_model": 128, "n_layers": 4, "n_heads": 4},
    "nano": {"context_length": 64, "d_model": 128, "n_layers": 4, "n_heads": 4},
    "tiny": {"context_length": 128, "d_model": 128, "n_layers": 4, "n_heads": 4},
    "small": {"context_length": 256, "d_model": 256, "n_layers": 4, "n_heads": 8},
    "base": {"context_length": 256, "d_model": 512, "n_layers": 6, "n_heads": 8},
    "gpt2": {"context_length": 1024, "d_model": 768, "n_layers": 12, "n_heads": 12, "vocab_size": 50257},
    "llama-tiny": {**LLAMA, "context_length": 128, "d_model": 128, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "d_ff": 344},
    "llama-15m": {**LLAMA, "context_length": 256, "d_model": 288, "n_layers": 6, "n_heads": 6, "d_ff": 768, "vocab_size": 32000},
}


def preset(name: str, **changes: Any) -> ModelConfig:
    """The `ModelConfig` of a preset, with some fields changed.

    >>> preset("small", vocab_size=4096).d_model
    256
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
    return ModelConfig(**{**PRESETS[name], **changes})
