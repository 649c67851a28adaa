"""Convert `config.json` of a Hugging Face directory to a `ModelConfig` and back.

Keys that are missing from the file have the defaults of the library `transformers`. Features that minigpt does not support are
refused with an error that names them.
"""

import math
from collections.abc import Mapping
from typing import Any

from minigpt.interop.families import FAMILIES, Family, family_of
from minigpt.np.config import ModelConfig

NULL_VALUES = {"n_inner": 0, "num_key_value_heads": 0, "head_dim": 0, "attention_bias": False, "mlp_bias": False}
"The keys that may be null, and what null means as a field of `ModelConfig`."


def model_config(content: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that a config.json describes.

    Raises `ValueError` for an architecture that is not in `FAMILIES`, and for a feature that minigpt does not support.
    """
    try:
        return _model_config(content)
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"a value has the wrong type: {error}") from None


def _model_config(content: Mapping[str, Any]) -> ModelConfig:
    model_type = content.get("model_type")
    if model_type not in list(FAMILIES):  # a list, because the value may be unhashable
        *others, last = map(repr, FAMILIES)
        raise ValueError(f"model_type is {model_type!r}, but minigpt supports only {', '.join(others)} and {last}")
    family = FAMILIES[model_type]
    c = {**family.defaults, **family.required, **content}
    _check_features(c, family)
    values = {name: _value(name, c, family) for name in family.keys}
    return ModelConfig(**{**family.form, **values})


def _check_features(c: Mapping[str, Any], family: Family) -> None:
    for name, value in {"quantization_config": None, **family.required}.items():
        _require(c.get(name) == value, name, c.get(name), "null" if value is None else repr(value))
    if c.get("use_sliding_window", True):  # if it is false, transformers ignores the width of the window
        _require(c.get("sliding_window") is None, "sliding_window", c.get("sliding_window"), "null, or use_sliding_window false")
    layers = set(c.get("layer_types") or ())
    _require(layers <= {"full_attention"}, "layer_types", sorted(layers), "'full_attention'")


def _value(name: str, c: Mapping[str, Any], family: Family) -> Any:
    """Return the value of a field of `ModelConfig`."""
    key = family.keys[name]
    value = c[key]
    if value is None and key in NULL_VALUES:
        return NULL_VALUES[key]
    if name == "activation":
        _require(value in family.activations, key, value, ", ".join(map(repr, family.activations)))
        return family.activations[value]
    if name == "rope_theta":
        return _rope_theta(c)
    return _number(value) if name == "norm_epsilon" else value


def _rope_theta(c: Mapping[str, Any]) -> float:
    theta = c["rope_theta"]
    for key in ("rope_scaling", "rope_parameters"):  # of transformers 4 and 5
        rope = c.get(key) or {}
        _require("full_attention" not in rope, key, rope, "one entry for all layers")
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        _require(rope_type == "default", "rope_type", rope_type, "'default' (no rope scaling)")
        factor = rope.get("partial_rotary_factor", c.get("partial_rotary_factor", 1.0))
        _require(factor in (1, None), "partial_rotary_factor", factor, "1.0")
        theta = rope.get("rope_theta", theta)
    return float(theta)


def _number(value: Any) -> Any:
    """Return `value`. Raises TypeError if it is not a number, and OverflowError if it is too large for a float."""
    math.isfinite(value)
    return value


def _require(condition: bool, name: str, value: Any, supported: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}, but minigpt supports only {supported}")


def config_json(config: ModelConfig, begin: int | None, end: int | None) -> dict[str, Any]:
    """Return the content of config.json, which transformers 4 and 5 read.

    `begin` and `end` are the ids of the tokens before and after a text.
    """
    model_type = family_of(config)
    family = FAMILIES[model_type]
    content = {key: getattr(config, name) for name, key in family.keys.items()}
    content[family.keys["activation"]] = next(theirs for theirs, ours in family.activations.items() if ours == config.activation)
    return {
        "architectures": [family.architecture],
        "model_type": model_type,
        **content,
        **family.also_written(config),
        "bos_token_id": begin,
        "eos_token_id": end,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
