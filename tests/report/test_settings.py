"""The settings that a report shows."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from minigpt.report.files import load_run
from minigpt.report.settings import MUON, RATES, shown_settings
from minigpt.training.presets import RECIPES
from minigpt.training.resolve import resolve


def test_all_settings_of_the_default_recipe_are_shown() -> None:
    config = asdict(resolve({"preset": "small"}))
    shown = shown_settings(config)
    assert list(shown) == list(config)
    assert [shown[name] for name in ("optimizer", "lr", *RATES)] == [
        "muon",
        *(f"{RECIPES['default'][name]:g}" for name in ("lr", *RATES)),
    ]


def test_settings_without_an_effect_are_left_out_and_rates_of_0_are_replaced() -> None:
    shown = shown_settings(asdict(resolve({"preset": "small", "recipe": "gpt2"})))
    assert (shown["recipe"], shown["optimizer"], shown["schedule"]) == ("gpt2", "adamw", "cosine")
    assert [shown[name] for name in ("lr", "embedding_lr", "vector_lr")] == ["0.001"] * 3
    assert shown.keys().isdisjoint((*MUON, "decay", "head_lr"))


def test_unknown_settings_are_shown_and_missing_ones_are_not_invented() -> None:
    assert shown_settings({"unknown": [1, 2], "embedding_lr": 0, "steps": 5}) == {
        "steps": "5",
        "embedding_lr": "0",
        "unknown": "1, 2",
    }


def test_a_run_of_an_earlier_version_has_the_recipe_gpt2(make_run: Callable[..., Path]) -> None:
    earlier = {"lr": 0.5, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "clip": 1.0, "warmup": 40, "final_lr": 0.1}
    shown = shown_settings(load_run(make_run(config=earlier)).config)
    assert (shown["recipe"], shown["optimizer"], shown["lr"], shown["embedding_lr"]) == ("gpt2", "adamw", "0.5", "0.5")
    assert shown["min_lr_ratio"] == "0.1"
    assert list(shown).index("data") < list(shown).index("recipe") < list(shown).index("lr")  # not those that were added first
