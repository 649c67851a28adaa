"""minigpt: a transformer language model in pure NumPy, with forward and backward passes written by hand.

>>> from minigpt import GPT, ModelConfig
>>> model = GPT(ModelConfig(vocab_size=50, context_length=16, d_model=16, n_layers=1, n_heads=2))
>>> model.logits([[3, 1, 4]]).shape
(1, 3, 50)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigpt.api.run import Run, open_run
    from minigpt.api.train import train
    from minigpt.data.tokenizer import Tokenizer
    from minigpt.interop.load import load
    from minigpt.np.config import ModelConfig, preset
    from minigpt.np.model import GPT

__all__ = ["GPT", "ModelConfig", "Run", "Tokenizer", "load", "open_run", "preset", "train"]
__version__ = "0.2.0"

_MODULES = {
    "GPT": "np.model",
    "ModelConfig": "np.config",
    "Run": "api.run",
    "Tokenizer": "data.tokenizer",
    "load": "interop.load",
    "open_run": "api.run",
    "preset": "np.config",
    "train": "api.train",
}


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` when it is first used, so that `minigpt --help` does not import NumPy."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names. Completion finds them before they are imported."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
