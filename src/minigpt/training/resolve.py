"""The values of the settings of a run: from command-line flags or arguments, a file, a preset, and a recipe."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minigpt.training.presets import FINE_TUNING, PRESET_RECIPES, RECIPES, preset_settings, recipe_settings
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings

MIN_LR_RATIO = 1e-3  # a smaller min_lr_ratio is probably meant as an absolute learning rate


def resolve(given: Mapping[str, Any], config: Path | None = None, resume: bool = False) -> Settings:
    """Return the settings of a run.

    A value that is not in `given` comes from the file `config`, else from the preset, else from the recipe. There are exceptions:
    a preset in `given` takes precedence over the file, and so does a recipe if the file has another one. The model settings of
    `init` take precedence over all of them. With `resume`, `config` belongs to the run itself and already contains them.

    Raises
    ------
    ValueError
        If a value is not allowed. The message names the setting, and the file if the value comes from it.

    Examples
    --------
    >>> resolve({"preset": "tiny", "d_model": 64}).n_layers
    4
    """
    for setting in ("tokenizer", "init", "field"):
        if given.get(setting) == "":
            raise ValueError(f"{setting} is empty: give a value, or leave the option out")
    from_file = read_settings(config) if config else {}
    init = None if resume else given.get("init", from_file.get("init"))
    preset = given.get("preset", from_file.get("preset", Settings.preset))
    recipe = _choose_recipe(given, from_file, bool(init))
    from_recipe, from_preset = recipe_settings(recipe, preset), preset_settings(preset, recipe)
    layers = [from_recipe, from_preset, from_file]
    if from_file.get("recipe", recipe) != recipe:
        layers.append(from_recipe)
    if "preset" in given:
        layers.append({"d_ff": 0, "d_head": 0, **from_preset})
    if init:
        layers.append(_values_for_init(init, given, from_file, recipe))
    values = _combine([*layers, given])
    try:
        settings = Settings(**values)
    except ValueError as error:
        if config and str(error).split(" ", 1)[0] in from_file.keys() - given.keys():
            raise ValueError(f"{config}: {error}") from None
        raise
    if not resume:  # a resumed run keeps its optimizer
        _check_lr([*layers, given], "" if "optimizer" in given or config is None else f"{config}: ")
    _check_min_lr_ratio(settings, "min_lr_ratio" in given, config)
    return settings


def _choose_recipe(given: Mapping[str, Any], from_file: Mapping[str, Any], fine_tuning: bool) -> str:
    """Return the recipe: that in `given`, of the preset in `given`, of the file, of fine-tuning, or of the preset in the file."""
    candidates = (
        given.get("recipe"),
        PRESET_RECIPES.get(given.get("preset", "")),
        from_file.get("recipe"),
        FINE_TUNING["recipe"] if fine_tuning else None,
        PRESET_RECIPES.get(from_file.get("preset", "")) if "preset" not in given else None,
    )
    return next((recipe for recipe in candidates if recipe is not None), Settings.recipe)


def _combine(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of all layers, of which the last one takes precedence.

    The widths d_ff and d_head suit the sizes and the activation of their own layer. With others, they become automatic.

    >>> _combine([{"d_model": 128, "d_ff": 344}, {"d_model": 64}])
    {'d_model': 64, 'd_ff': 0, 'd_head': 0}
    """
    values: dict[str, Any] = {}
    for layer in layers:
        changed = {name for name, value in layer.items() if values.get(name, value) != value}
        if changed & {"d_model", "activation"}:
            values["d_ff"] = 0
        if changed & {"d_model", "n_heads"}:
            values["d_head"] = 0
        values |= layer
    return values


def _values_for_init(init: str, given: Mapping[str, Any], from_file: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    """Return the settings for training from the model `init`. Raises `ValueError` if others were given."""
    from minigpt.interop.load import read_config

    values = asdict(read_config(init))
    del values["dropout"]
    for name, value in values.items():
        if name != "context_length" and given.get(name, value) != value:
            raise ValueError(f"{name} is {given[name]!r}, but the model in {init} has {value!r}")
    if from_file.get("init") == init and "context_length" in from_file:
        values["context_length"] = from_file["context_length"]  # it can be smaller than the model's
    if recipe == FINE_TUNING["recipe"] and not ("lr" in from_file and from_file.get("recipe", recipe) == recipe):
        values["lr"] = FINE_TUNING["lr"]
    return values


def _check_lr(layers: Iterable[Mapping[str, Any]], where: str) -> None:
    """Raise `ValueError` if the learning rate of the matrices was chosen for the other optimizer, whose rates differ by far."""
    values: dict[str, Any] = {}
    chosen_for = None
    for layer in layers:
        values |= layer
        if "lr" in layer:
            chosen_for = values["optimizer"]
    optimizer, lr = values["optimizer"], values["lr"]
    if optimizer != chosen_for:
        recipe = next(name for name, settings in RECIPES.items() if settings["optimizer"] == optimizer)
        problem = f"optimizer is {optimizer!r}, but lr is {lr:g}, the learning rate of {chosen_for}"
        raise ValueError(f"{where}{problem}: give lr, too, or the recipe {recipe}")


def _check_min_lr_ratio(settings: Settings, given: bool, config: Path | None) -> None:
    """Refuse a given `min_lr_ratio` that looks like an absolute learning rate, and warn about one in a file."""
    value, lr = settings.min_lr_ratio, settings.lr
    if not 0 < value < MIN_LR_RATIO:
        return
    meaning = "it is a fraction of lr, not an absolute learning rate"
    if not given:
        warnings.warn(f"{config}: min_lr_ratio is {value:g}, but {meaning}", stacklevel=3)
        return
    remedy = "0" if value < MIN_LR_RATIO * lr else f"{value:g} / {lr:g} = {value / lr:.3g}"
    hint = f"; for a minimum of {value:g}, give {remedy}" if value <= lr else ""
    raise ValueError(f"min_lr_ratio is {value:g}, but must be 0 or from {MIN_LR_RATIO} to 1, because {meaning}{hint}")
