"""The families of models in the library transformers that minigpt reads and writes, as tables.

Each entry of `FAMILIES` says which form of `ModelConfig` a family has, and how transformers names its settings and tensors. The
rest of `minigpt.interop` is the same for all families.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from minigpt.np.config import GPT2, LLAMA, QWEN3, ModelConfig

BIASES = ("attention_bias", "feed_forward_bias")


@dataclass(frozen=True, kw_only=True)
class Family:
    """The models of one class of transformers."""

    title: str
    "The name in messages."
    architecture: str
    "The class in transformers."
    form: Mapping[str, Any]
    "The fields of `ModelConfig` in which families differ. Fields without a key in `keys` must have these values."
    keys: Mapping[str, str]
    "The key of config.json for each field of `ModelConfig` that it sets."
    activations: Mapping[str, str]
    "The activations: their names in config.json, and in `ModelConfig`. A `ModelConfig` is exported with the first that fits."
    defaults: Mapping[str, Any]
    "The values that transformers uses for keys that are missing from config.json."
    required: Mapping[str, Any] = field(default_factory=dict)
    "Keys that minigpt supports with one value only, which is also the default of transformers."
    also_written: Callable[[ModelConfig], dict[str, Any]]
    "Returns the keys that are written in addition to `keys`."
    exclusions: Mapping[str, Callable[[ModelConfig], bool]] = field(default_factory=dict)
    "Further differences that a `ModelConfig` must not have: a description, and a function that returns whether it applies."
    always_has_biases: bool = False
    "Whether all linear layers have biases in transformers. Those that a model does not have are exported as zeros."
    prefix: str
    "The prefix of all tensor names but the LM head's. Files of a model without an LM head do not have it."
    names: Mapping[str, str]
    "The name of the tensor of each parameter, or of each layer, for block `i`; `qkv` is replaced by q, k and v."
    transposed: bool
    "Whether the weights of linear layers have shape (outputs, inputs) in place of (inputs, outputs)."

    def fixed_fields(self) -> dict[str, Any]:
        """Return the values that fields of `ModelConfig` must have."""
        free = {*self.keys, *(BIASES if self.always_has_biases else ())}
        return {"norm_placement": "pre"} | {name: value for name, value in self.form.items() if name not in free}


def _rope_parameters(config: ModelConfig) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}}  # transformers 4 reads rope_theta


LLAMA_FAMILY = Family(
    title="Llama",
    architecture="LlamaForCausalLM",
    form=LLAMA,
    keys={
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "d_head": "head_dim",
        "d_ff": "intermediate_size",
        "activation": "hidden_act",
        "norm_epsilon": "rms_norm_eps",
        "rope_theta": "rope_theta",
        "attention_bias": "attention_bias",
        "feed_forward_bias": "mlp_bias",
        "tied": "tie_word_embeddings",
    },
    activations={"silu": "swiglu"},
    defaults={
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "intermediate_size": 11008,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
    also_written=_rope_parameters,
    exclusions={"d_model is not divisible by n_heads": lambda c: c.d_model % c.n_heads != 0},
    prefix="model.",
    names={
        "token_embedding": "embed_tokens.weight",
        "attention_norm.": "layers.{i}.input_layernorm.",
        "attention.qkv.": "layers.{i}.self_attn.{qkv}_proj.",
        "attention.out.": "layers.{i}.self_attn.o_proj.",
        "feed_forward_norm.": "layers.{i}.post_attention_layernorm.",
        "feed_forward.gate.": "layers.{i}.mlp.gate_proj.",
        "feed_forward.up.": "layers.{i}.mlp.up_proj.",
        "feed_forward.down.": "layers.{i}.mlp.down_proj.",
        "final_norm.": "norm.",
    },
    transposed=True,
)

FAMILIES = {
    "gpt2": Family(
        title="GPT-2",
        architecture="GPT2LMHeadModel",
        form=GPT2,
        keys={
            "vocab_size": "vocab_size",
            "context_length": "n_positions",
            "d_model": "n_embd",
            "n_layers": "n_layer",
            "n_heads": "n_head",
            "d_ff": "n_inner",
            "activation": "activation_function",
            "norm_epsilon": "layer_norm_epsilon",
            "tied": "tie_word_embeddings",
        },
        activations={"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_exact", "relu": "relu"},
        defaults={
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        },
        required={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
        also_written=lambda c: {"resid_pdrop": c.dropout, "embd_pdrop": c.dropout, "attn_pdrop": 0.0},
        exclusions={
            "the heads are not n_heads of width d_model / n_heads": lambda c: (
                c.n_kv_heads != c.n_heads or c.d_head * c.n_heads != c.d_model
            )
        },
        always_has_biases=True,
        prefix="transformer.",
        names={
            "token_embedding": "wte.weight",
            "position_embedding": "wpe.weight",
            "attention_norm.": "h.{i}.ln_1.",
            "attention.qkv.": "h.{i}.attn.c_attn.",
            "attention.out.": "h.{i}.attn.c_proj.",
            "feed_forward_norm.": "h.{i}.ln_2.",
            "feed_forward.up.": "h.{i}.mlp.c_fc.",
            "feed_forward.down.": "h.{i}.mlp.c_proj.",
            "final_norm.": "ln_f.",
        },
        transposed=False,
    ),
    "llama": LLAMA_FAMILY,
    "qwen3": Family(
        title="Qwen 3",
        architecture="Qwen3ForCausalLM",
        form=QWEN3,
        keys={name: key for name, key in LLAMA_FAMILY.keys.items() if key != "mlp_bias"},
        activations=LLAMA_FAMILY.activations,
        defaults={
            **LLAMA_FAMILY.defaults,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "intermediate_size": 22016,
            "sliding_window": 4096,
            "use_sliding_window": False,
        },
        also_written=_rope_parameters,
        prefix=LLAMA_FAMILY.prefix,
        names={
            **LLAMA_FAMILY.names,
            "attention.q_norm.": "layers.{i}.self_attn.q_norm.",
            "attention.k_norm.": "layers.{i}.self_attn.k_norm.",
        },
        transposed=True,
    ),
}
"The families, by `model_type` in config.json."


def family_of(config: ModelConfig) -> str:
    """Return the `model_type` in transformers that computes the same model.

    Raises `ValueError` if no family does. The message names the settings that differ from each family, the nearest one first.
    """
    differences = {name: _differences(config, family) for name, family in FAMILIES.items()}
    for name, reasons in differences.items():
        if not reasons:
            return name
    nearest_first = sorted(differences, key=lambda name: len(differences[name]))
    *others, last = (f"a {FAMILIES[name].title} ({', '.join(differences[name])})" for name in nearest_first)
    raise ValueError(f"the model is neither {', '.join(others)}, nor {last} of transformers")


def _differences(config: ModelConfig, family: Family) -> list[str]:
    fields = [name for name, value in family.fixed_fields().items() if getattr(config, name) != value]
    if config.activation not in family.activations.values():
        fields.append("activation")
    excluded = [description for description, applies in family.exclusions.items() if applies(config)]
    return [f"{name} is {getattr(config, name)!r}" for name in fields] + excluded
