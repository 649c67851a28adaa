"""The shape of a model: `ModelConfig`, and the presets."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Activation = Literal["gelu", "relu"]
NormPlacement = Literal["pre", "post"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a GPT-style transformer.

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
    "Attention heads in each block; d_model is divided among them."
    d_ff: int = 0
    "Width of the hidden layer of the feed-forward network (0: four times d_model)."
    activation: Activation = "gelu"
    "Activation of the feed-forward network: gelu (tanh form) or relu."
    norm_placement: NormPlacement = "pre"
    "Layer norm before each branch (pre, GPT-2) or after each residual sum (post, GPT-1)."
    bias: bool = True
    "Biases in the linear layers of the blocks."
    tied: bool = True
    "The head shares its weight with the token embedding."
    dropout: float = 0.0
    "Probability with which an activation is dropped in training: embeddings and the output of each branch."
    norm_epsilon: float = 1e-5
    "Added to the variance in the layer norms."

    def __post_init__(self) -> None:
        if self.d_ff == 0:
            object.__setattr__(self, "d_ff", 4 * self.d_model)
        for name in ("vocab_size", "context_length", "d_model", "n_layers", "n_heads", "d_ff"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 1")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model is {self.d_model}, which n_heads = {self.n_heads} does not divide")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but must be at least 0 and less than 1")
        if not self.norm_epsilon > 0:
            raise ValueError(f"norm_epsilon is {self.norm_epsilon}, but must be greater than 0")
        for name, choices in (("activation", get_args(Activation)), ("norm_placement", get_args(NormPlacement))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of: {', '.join(choices)}")

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads


MODEL_FIELDS = tuple(field.name for field in fields(ModelConfig))

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"context_length": 256, "d_model": 128, "n_layers": 4, "n_heads": 4},
    "nano": {"context_length": 64, "d_model": 128, "n_layers": 4, "n_heads": 4},
    "tiny": {"context_length": 128, "d_model": 128, "n_layers": 4, "n_heads": 4},
    "small": {"context_length": 256, "d_model": 256, "n_layers": 4, "n_heads": 8},
    "base": {"context_length": 256, "d_model": 512, "n_layers": 6, "n_heads": 8},
    "gpt2": {"context_length": 1024, "d_model": 768, "n_layers": 12, "n_heads": 12, "vocab_size": 50257},
}


def preset(name: str, **changes: Any) -> ModelConfig:
    """The `ModelConfig` of a preset, with some fields changed.

    >>> preset("small", vocab_size=4096).d_model
    256
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
    return ModelConfig(**{**PRESETS[name], **changes})
