"""The settings of a run as a report shows them: those that had an effect, with the values that were used."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from minigpt.report.formats import format_value
from minigpt.training.settings import Settings

RATES = ("embedding_lr", "head_lr", "vector_lr")
MUON = ("momentum", "muon_weight_decay", "muon_iterations", "muon_coefficients", "muon_scale")


def shown_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings in a config.toml, in the order of `Settings`. A learning rate of 0 is replaced by lr, which it means.

    Settings of Muon, of the linear schedule and of an LM head that is not tied are left out in runs without these.

    >>> shown_settings({"lr": 0.001, "embedding_lr": 0.0, "momentum": 0.9, "optimizer": "adamw"})
    {'optimizer': 'adamw', 'lr': '0.001', 'embedding_lr': '0.001'}
    """
    unused = {
        *(MUON if config.get("optimizer") == "adamw" else ()),
        *(("decay",) if config.get("schedule") == "cosine" else ()),
        *(("head_lr",) if config.get("tied") is True else ()),
    }
    ordered = dict.fromkeys((*(field.name for field in fields(Settings)), *config))
    values = {name: config[name] for name in ordered if name in config and name not in unused}
    if "lr" in config:
        values |= {name: config["lr"] for name in RATES if name in values and values[name] == 0}
    return {name: format_value(value) for name, value in values.items()}
