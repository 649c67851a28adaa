"""config.json of a Hugging Face directory, and what it means here: GPT-2 and Llama.

What is not named in the file has the default of the library `transformers`. What minigpt does not compute is refused by name.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
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


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `ValueError`, naming it, where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, but must hold an object")
    return content


def one_line(error: Exception) -> str:
    """What an error says, in one line also where it quotes a name from a file that has several."""
    return " ".join(str(error).splitlines())


def model_config(content: Mapping[str, Any]) -> ModelConfig:
    """The shape of the model that a config.json describes.

    Raises `ValueError` for another architecture than GPT-2 and Llama, and for whatever in it minigpt does not compute.
    """
    try:
        return _model_config(content)
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"a value in it has the wrong type: {error}") from None


def _model_config(content: Mapping[str, Any]) -> ModelConfig:
    family = content.get("model_type")
    if family not in ("gpt2", "llama"):
        raise ValueError(f"model_type is {family!r}, but minigpt reads 'gpt2' and 'llama'")
    for name in ("quantization_config", "sliding_window"):
        _refuse_unless(content.get(name) is None, name, content.get(name), "none")
    return _gpt2({**GPT2_DEFAULTS, **content}) if family == "gpt2" else _llama({**LLAMA_DEFAULTS, **content})


def _gpt2(c: Mapping[str, Any]) -> ModelConfig:
    _refuse_unless(c["activation_function"] in ACTIVATIONS, "activation_function", c["activation_function"], [*ACTIVATIONS])
    for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        _refuse_unless(c[name] == GPT2_DEFAULTS[name], name, c[name], GPT2_DEFAULTS[name])
    return ModelConfig(
        vocab_size=c["vocab_size"],
        context_length=c["n_positions"],
        d_model=c["n_embd"],
        n_layers=c["n_layer"],
        n_heads=c["n_head"],
        d_ff=_or_zero(c["n_inner"]),
        activation=ACTIVATIONS[c["activation_function"]],  # type: ignore[arg-type]
        norm_epsilon=_number(c["layer_norm_epsilon"]),
        tied=c["tie_word_embeddings"],
    )


def _llama(c: Mapping[str, Any]) -> ModelConfig:
    _refuse_unless(c["hidden_act"] == "silu", "hidden_act", c["hidden_act"], "silu")
    theta = c.get("rope_theta", 10_000.0)
    for spelling in ("rope_scaling", "rope_parameters"):  # the older and the newer
        rope = c.get(spelling) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        _refuse_unless(kind == "default", "the rope scaling (rope_type)", kind, "default")
        part = rope.get("partial_rotary_factor", c.get("partial_rotary_factor", 1.0))
        _refuse_unless(part in (1, None), "partial_rotary_factor", part, 1.0)
        theta = rope.get("rope_theta", theta)
    layers = set(c.get("layer_types") or ())
    _refuse_unless(layers <= {"full_attention"}, "layer_types", sorted(layers), "full_attention")
    return ModelConfig(
        **LLAMA
        | {
            "vocab_size": c["vocab_size"],
            "context_length": c["max_position_embeddings"],
            "d_model": c["hidden_size"],
            "n_layers": c["num_hidden_layers"],
            "n_heads": c["num_attention_heads"],
            "n_kv_heads": _or_zero(c["num_key_value_heads"]),
            "d_head": _or_zero(c["head_dim"]),
            "d_ff": c["intermediate_size"],
            "rope_theta": float(theta),
            "norm_epsilon": _number(c["rms_norm_eps"]),
            "tied": c["tie_word_embeddings"],
            "bias": c["attention_bias"] or c["mlp_bias"],  # where only one part has them, the other's are zero
        }
    )


def _or_zero(size: Any) -> Any:
    """0, which is the default, for a size that is null."""
    return 0 if size is None else size


def _number(value: Any) -> Any:
    """The value; raises TypeError for what is no number, and OverflowError for what is beyond all floats."""
    math.isfinite(value)
    return value


def _refuse_unless(holds: bool, name: str, value: Any, expected: Any) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}, which minigpt does not compute (only {expected!r})")


GPT2_FORM = {"norm": "layer", "positions": "learned", "norm_placement": "pre", "qk_norm": False}
LLAMA_FORM = {"norm": "rms", "positions": "rope", "activation": "swiglu", "norm_placement": "pre", "qk_norm": False}


def family_of(config: ModelConfig) -> str:
    """ "gpt2" or "llama", as which a model can be written.

    Raises `ValueError`, naming what stands in the way, for a model that is neither.
    """
    differ = {}
    for family, form in (("gpt2", GPT2_FORM), ("llama", LLAMA_FORM)):
        differ[family] = [f"{name} is {getattr(config, name)!r}" for name in form if getattr(config, name) != form[name]]
    if config.activation == "swiglu":
        differ["gpt2"].append("activation is 'swiglu'")
    if config.n_kv_heads != config.n_heads or config.d_head * config.n_heads != config.d_model:
        differ["gpt2"].append("the heads are not n_heads of width d_model / n_heads")
    if config.d_model % config.n_heads:
        differ["llama"].append("n_heads does not divide d_model")
    for family, reasons in differ.items():
        if not reasons:
            return family
    raise ValueError(f"no model for transformers: for GPT-2 {', '.join(differ['gpt2'])}; for Llama {', '.join(differ['llama'])}")


def config_json(config: ModelConfig, begin: int | None, end: int | None) -> dict[str, Any]:
    """What config.json says of a model, in the spelling of transformers 5 and 4; begin and end are ids of the tokenizer."""
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
    if family == "gpt2":
        names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
        return common | {
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
    return common | {
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
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
    }
