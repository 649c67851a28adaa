"""What a training run will need: memory, floating-point operations and time."""

import math
from dataclasses import replace

from minigpt.np.parameters import shapes
from minigpt.training.machine import machine_memory
from minigpt.training.settings import Settings

SIZES = ("vocab_size", "context_length", "d_model", "d_ff", "n_layers", "batch_size")


def check_memory(settings: Settings, vocab_size: int) -> None:
    """Raise `ValueError` if the machine cannot have enough memory, before anything is allocated or deleted."""
    model = settings.model(vocab_size)
    one, two = (sum(map(math.prod, shapes(replace(model, n_layers=n)).values())) for n in (1, 2))
    parameters = one + (model.n_layers - 1) * (two - one)
    needed = 16 * parameters + 16 * settings.batch_size * model.context_length  # weights, gradients, moments; tokens, targets
    memory = machine_memory()
    if memory and needed > memory:
        sizes = ", ".join(f"{name} {getattr(settings, name):,}" for name in SIZES)
        raise ValueError(
            f"training {parameters:,} parameters takes at least {needed / 1e9:,.0f} GB of memory, but this machine has "
            f"{memory / 1e9:,.0f} GB ({sizes})"
        )
