"""Recipes and presets: the settings that one name selects."""

from typing import Any

from minigpt.np.config import GPT2, PRESETS, QWEN3

RECIPES: dict[str, dict[str, Any]] = {
    "default": {
        **QWEN3,
        "zero_init": True,
        "embedding_std": 0.3,
        "optimizer": "muon",
        "lr": 0.015,
        "embedding_lr": 0.05,
        "head_lr": 0.01,
        "vector_lr": 0.02,
        "schedule": "linear",
        "min_lr_ratio": 0.0,
        "weight_decay": 0.0,
        "beta1": 0.9,
        "beta2": 0.99,
        "clip": 1.0,
    },
    "gpt2": {
        **GPT2,
        "zero_init": False,
        "embedding_std": 0.02,
        "optimizer": "adamw",
        "lr": 1e-3,
        "embedding_lr": 0.0,
        "head_lr": 0.0,
        "vector_lr": 0.0,
        "schedule": "cosine",
        "min_lr_ratio": 0.1,
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "clip": 1.0,
    },
}
"The form of the model and the settings of the optimizer. gpt2 is that of GPT-2 and nanoGPT, and of earlier versions of minigpt."

_TIED = {"embedding_std": 0.02}  # the embedding is also the LM head, whose initial logits should be small
PRESET_TRAINING: dict[str, dict[str, Any]] = {
    "quick": {
        **{"steps": 2400, "eval_every": 400, "sample_every": 400, "batch_size": 4, "vocab_size": 2048},
        **{"lr": 0.01, "embedding_lr": 0.03},  # four sequences in a batch are few
    },
    "nano": {"steps": 2000, "batch_size": 12},
    "tiny": {"batch_size": 32},
    "small": {"batch_size": 16},
    "base": {"batch_size": 32},
    "gpt2": {**_TIED, "batch_size": 4},
    "llama-tiny": {**_TIED, "batch_size": 32},
    "llama-15m": {**_TIED, "batch_size": 16},
}
PRESET_TRAINING = {
    name: {"steps": 1000, "eval_every": 100, "sample_every": 200, "vocab_size": 4096, **values}
    for name, values in PRESET_TRAINING.items()
}
"The training settings of each preset."
PRESET_RECIPES = {"gpt2": "gpt2"}
"The recipe of a preset, if it is not the default one."

GPT2_TRAINING: dict[str, dict[str, Any]] = {
    "quick": {
        **{"steps": 1200, "eval_every": 200, "sample_every": 200, "batch_size": 8, "lr": 3e-3, "beta2": 0.99},
        **{"embedding_lr": 0.0, "n_heads": 4},
    },
    "nano": {"lr": 3e-3, "beta2": 0.99},
    "base": {"batch_size": 8},
    "gpt2": {"lr": 6e-4},
}
GPT2_TRAINING = {name: {"lr": 1e-3, "beta2": 0.95, **GPT2_TRAINING.get(name, {})} for name in PRESETS}
"The training settings of each preset with the recipe gpt2. Small batches use a larger beta2."

FINE_TUNING: dict[str, Any] = {"recipe": "gpt2", "lr": 3e-4}
"The recipe of training that starts from a model (`init`), and its learning rate."

QUICK: dict[str, Any] = {**RECIPES["default"], **PRESET_TRAINING["quick"], **PRESETS["quick"]}
"The settings of the preset quick, which are the defaults of `Settings`."


def preset_settings(preset: str, recipe: str) -> dict[str, Any]:
    """Return the settings of a preset with this recipe. They include the form of the family after which a preset is named.

    >>> preset_settings("tiny", "gpt2")["lr"], "lr" in preset_settings("tiny", "default")
    (0.001, False)
    """
    of_recipe = GPT2_TRAINING.get(preset, {}) if recipe == "gpt2" else {}
    return {**PRESET_TRAINING.get(preset, {}), **PRESETS.get(preset, {}), **of_recipe}


def recipe_settings(recipe: str, preset: str) -> dict[str, Any]:
    """Return the settings of a recipe. Those that the preset has, too, are the preset's.

    >>> recipe_settings("default", "llama-tiny")["tied"]
    True
    """
    values = RECIPES.get(recipe, {})
    of_preset = preset_settings(preset, recipe)
    return {**values, **{name: of_preset[name] for name in values if name in of_preset}, "recipe": recipe}
