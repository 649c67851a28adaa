"""The model at the first step of a run."""

from dataclasses import replace

from minigpt.interop.load import load
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.np.parameters import Parameters, shapes
from minigpt.training.settings import Settings


def initial_model(settings: Settings, vocab_size: int) -> GPT:
    """Return a new model with random weights or, with the setting `init`, the model to start from.

    Raises `ValueError` if the model does not match the settings, or has fewer ids than the tokenizer (`vocab_size`).
    """
    if not settings.init:
        return GPT(settings.model(vocab_size), settings.seed)
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
    if (adapted := replace(current, context_length=config.context_length, dropout=config.dropout)) != config:
        raise ValueError(f"the initial model has another configuration: {adapted}, but the settings specify {config}")
    if config.positions == "learned" and config.context_length > current.context_length:
        limit = f"the initial model has only {current.context_length} learned positions"
        raise ValueError(f"context_length is {config.context_length}, but {limit}")
    p = Parameters(shapes(config), model.parameters.flat.dtype)
    for name, array in p.items():
        array[...] = model.parameters[name][: len(array)]
    return GPT(config, parameters=p)
