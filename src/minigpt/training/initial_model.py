"""The model at the first step of a run."""

from dataclasses import fields, replace
from typing import Any

from minigpt.interop.load import load
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, initialize, shapes
from minigpt.training.settings import Settings


def initial_model(settings: Settings, vocab_size: int) -> GPT:
    """Return a new model with random weights or, with the setting `init`, the model to start from.

    Raises `ValueError` if the model does not match the settings, or has fewer ids than the tokenizer (`vocab_size`).
    """
    if not settings.init:
        config = settings.model(vocab_size)
        initial = initialize(config, settings.seed, zero_outputs=settings.zero_init, embedding_std=settings.embedding_std)
        return GPT(config, parameters=initial)
    model, _ = load(settings.init)
    if vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {vocab_size:,} ids, but the model in {settings.init} has {model.config.vocab_size:,}"
        )
    return adapt_model(model, settings.model(model.config.vocab_size))


def adapt_model(model: GPT, config: ModelConfig) -> GPT:
    """Return a copy of a model with the context_length and the dropout of `config`.

    Raises
    ------
    ValueError
        If other fields of `config` differ, or if the model has fewer learned positions than the new context_length.
    """
    current = model.config
    adapted = replace(current, context_length=config.context_length, dropout=config.dropout)
    if difference := first_difference(config, adapted):
        name, value, other = difference
        raise ValueError(f"{name} is {value!r}, but the initial model has {other!r}: leave the option out")
    if config.positions == "learned" and config.context_length > current.context_length:
        limit = f"the initial model has only {current.context_length} learned positions"
        raise ValueError(f"context_length is {config.context_length}, but {limit}")
    p = Parameters(shapes(config), model.parameters.flat.dtype)
    for name, array in p.items():
        array[...] = model.parameters[name][: len(array)]
    return GPT(config, parameters=p)


def first_difference(config: ModelConfig, other: ModelConfig) -> tuple[str, Any, Any] | None:
    """Return the name of the first field that differs, and both values. Derived sizes come after those that determine them."""
    pairs = ((field.name, getattr(config, field.name), getattr(other, field.name)) for field in fields(ModelConfig))
    return next((pair for pair in pairs if pair[1] != pair[2]), None)
