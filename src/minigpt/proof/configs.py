"""The sizes and model configurations of the cases. Most sizes differ, so that exchanged dimensions raise errors."""

from typing import Any

from minigpt.np.config import LLAMA, QWEN3, ModelConfig

B, T, D, H, F, V = 3, 11, 12, 3, 20, 17
NO_BIAS = {"attention_bias": False, "feed_forward_bias": False}
ALL_BIASES = {"attention_bias": True, "feed_forward_bias": True}

# fields that differ from GPT-2, by label
MULTI_HEAD_ATTENTION: dict[str, dict[str, Any]] = {
    "": {},
    ", no biases": NO_BIAS,
    ", 1 kv head": {"n_kv_heads": 1},
    ", 2 kv heads, d_head 5": {"n_kv_heads": 2, "n_heads": 4, "d_head": 5},
    ", rope": {"positions": "rope"},
    ", rope interleaved, 1 kv head": {
        "positions": "rope",
        "n_kv_heads": 1,
        "rope_pairing": "interleaved",
        "rope_theta": 50.0,
    },
    ", rope, qk_norm": {"qk_norm": True, "positions": "rope"},
    ", Llama, qk_norm, 2 kv heads": {**LLAMA, "qk_norm": True, "n_heads": 4, "n_kv_heads": 2, "d_head": 6},
}
BLOCKS: dict[str, dict[str, Any]] = {
    "": {},
    ", Llama, 1 kv head": {**LLAMA, "n_kv_heads": 1},
    ", rms, swiglu, qk_norm": {"activation": "swiglu", "norm": "rms", "qk_norm": True},
}
MODELS: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "post-norm": {"norm_placement": "post"},
    "relu, no biases, untied": {"tied": False, **NO_BIAS, "activation": "relu"},
    "post-norm, untied": {"norm_placement": "post", "tied": False},
    "Llama": LLAMA,
    "Qwen 3": QWEN3,
    "Llama, attention_bias": {**LLAMA, "attention_bias": True},
    "Llama, interleaved, 2 kv heads, untied": {
        **LLAMA,
        "n_heads": 4,
        "n_kv_heads": 2,
        "d_head": 10,
        "rope_pairing": "interleaved",
        "tied": False,
    },
    "Llama, post-norm, qk_norm, biases": {**LLAMA, "qk_norm": True, **ALL_BIASES, "norm_placement": "post"},
    "gelu_exact, qk_norm, 1 kv head": {"activation": "gelu_exact", "n_kv_heads": 1, "qk_norm": True},
}


def config_with(**changes: Any) -> ModelConfig:
    """Return a small configuration with the given fields changed."""
    sizes = {"vocab_size": V, "context_length": T + 1, "d_model": D, "n_layers": 2, "n_heads": H, "d_ff": F}
    return ModelConfig(**{**sizes, **changes})
