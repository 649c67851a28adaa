"""Convert `config.json` of a Hugging Face directory (GPT-2 or Llama) to a `ModelConfig` and back.

Keys that are missing from the file have the defaults of the library `transformers`. Features that minigpt does not support are
refused with an error that names them.
"""

import math
from collections.abc import Mapping
from typing import Any

from minigpt.np.config import LLAMA, ModelConfig

ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_exact", "relu": "relu"}
GPT2_DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}


def model_config(content: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that a config.json describes.

    Raises `ValueError` for an architecture other than GPT-2 and Llama, and for a feature that minigpt does not support.
    """
    try:
        return _model_config(content)
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"a value has the wrong type: {error}") from None


def _model_config(content: Mapping[str, Any]) -> ModelConfig:
    family = content.get("model_type")
    if family not in ("gpt2", "llama"):
        raise ValueError(f"model_type is {family!r}, but minigpt supports only 'gpt2' and 'llama'")
    for name in ("quantization_config", "sliding_window"):
        _require(content.get(name) is None, name, content.get(name), "null")
    return _gpt2({**GPT2_DEFAULTS, **content}) if family == "gpt2" else _llama({**LLAMA_DEFAULTS, **content})


def _gpt2(c: Mapping[str, Any]) -> ModelConfig:
    activation = c["activation_function"]
    _require(activation in ACTIVATIONS, "activation_function", activation, ", ".join(map(repr, ACTIVATIONS)))
    for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        _require(c[name] == GPT2_DEFAULTS[name], name, c[name], repr(GPT2_DEFAULTS[name]))
    return ModelConfig(
        vocab_size=c["vocab_size"],
        context_length=c["n_positions"],
        d_model=c["n_embd"],
        n_layers=c["n_layer"],
        n_heads=c["n_head"],
        d_ff=_null_to(0, c["n_inner"]),
        activation=ACTIVATIONS[activation],  # type: ignore[arg-type]
        norm_epsilon=_number(c["layer_norm_epsilon"]),
        tied=c["tie_word_embeddings"],
    )


def _llama(c: Mapping[str, Any]) -> ModelConfig:
    _require(c["hidden_act"] == "silu", "hidden_act", c["hidden_act"], "'silu'")
    layers = set(c.get("layer_types") or ())
    _require(layers <= {"full_attention"}, "layer_types", sorted(layers), "'full_attention'")
    return ModelConfig(
        **LLAMA
        | {
            "vocab_size": c["vocab_size"],
            "context_length": c["max_position_embeddings"],
            "d_model": c["hidden_size"],
            "n_layers": c["num_hidden_layers"],
            "n_heads": c["num_attention_heads"],
            "n_kv_heads": _null_to(0, c["num_key_value_heads"]),
            "d_head": _null_to(0, c["head_dim"]),
            "d_ff": c["intermediate_size"],
            "rope_theta": _rope_theta(c),
            "norm_epsilon": _number(c["rms_norm_eps"]),
            "tied": c["tie_word_embeddings"],
            "attention_bias": _null_to(False, c["attention_bias"]),
            "feed_forward_bias": _null_to(False, c["mlp_bias"]),
        }
    )


def _rope_theta(c: Mapping[str, Any]) -> float:
    theta = c.get("rope_theta", 10_000.0)
    for key in ("rope_scaling", "rope_parameters"):  # of transformers 4 and 5
        rope = c.get(key) or {}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        _require(rope_type == "default", "rope_type", rope_type, "'default' (no rope scaling)")
        factor = rope.get("partial_rotary_factor", c.get("partial_rotary_factor", 1.0))
        _require(factor in (1, None), "partial_rotary_factor", factor, "1.0")
        theta = rope.get("rope_theta", theta)
    return float(theta)


def _null_to(default: Any, value: Any) -> Any:
    """Return `value`, or `default` if it is null."""
    return default if value is None else value


def _number(value: Any) -> Any:
    """Return `value`. Raises TypeError if it is not a number, and OverflowError if it is too large for a float."""
    math.isfinite(value)
    return value


def _require(condition: bool, name: str, value: Any, supported: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}, but minigpt supports only {supported}")


GPT2_FORM = {"norm": "layer", "positions": "learned", "norm_placement": "pre", "qk_norm": False}
LLAMA_FORM = {"norm": "rms", "positions": "rope", "activation": "swiglu", "norm_placement": "pre", "qk_norm": False}


def family_of(config: ModelConfig) -> str:
    """Return the architecture in transformers that computes the same model: "gpt2" or "llama".

    Raises `ValueError` if neither does. The message names the settings that differ.
    """
    differences = {}
    for family, form in (("gpt2", GPT2_FORM), ("llama", LLAMA_FORM)):
        differences[family] = [f"{name} is {getattr(config, name)!r}" for name in form if getattr(config, name) != form[name]]
    if config.activation == "swiglu":
        differences["gpt2"].append("activation is 'swiglu'")
    if config.n_kv_heads != config.n_heads or config.d_head * config.n_heads != config.d_model:
        differences["gpt2"].append("the heads are not n_heads of width d_model / n_heads")
    if config.d_model % config.n_heads:
        differences["llama"].append("d_model is not divisible by n_heads")
    for family, reasons in differences.items():
        if not reasons:
            return family
    gpt2, llama = (", ".join(reasons) for reasons in differences.values())
    raise ValueError(f"the model is neither a GPT-2 ({gpt2}) nor a Llama ({llama}) of transformers")


def config_json(config: ModelConfig, begin: int | None, end: int | None) -> dict[str, Any]:
    """Return the content of config.json, which transformers 4 and 5 read.

    `begin` and `end` are the ids of the tokens before and after a text.
    """
    family = family_of(config)
    common = {
        "architectures": ["GPT2LMHeadModel" if family == "gpt2" else "LlamaForCausalLM"],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        "bos_token_id": begin,
        "eos_token_id": end,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    return common | (_gpt2_json(config) if family == "gpt2" else _llama_json(config))


def _gpt2_json(config: ModelConfig) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    return {
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.d_ff,
        "activation_function": names[config.activation],
        "layer_norm_epsilon": config.norm_epsilon,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
    }


def _llama_json(config: ModelConfig) -> dict[str, Any]:
    return {
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_head,
        "intermediate_size": config.d_ff,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": config.attention_bias,
        "mlp_bias": config.feed_forward_bias,
    }
