"""What the tests of Hugging Face directories share: the library `transformers`, and models of both sides with lively weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.interop.hugging_face import export
from minigpt.np.config import LLAMA

SIZES: dict[str, dict[str, Any]] = {  # uneven: nothing is by chance as wide as something else
    "gpt2": {"vocab_size": 37, "n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_inner": 50},
    "llama": {
        **{"vocab_size": 37, "max_position_embeddings": 64, "hidden_size": 24, "intermediate_size": 50},
        **{"num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10},
    },
}
OURS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_heads": 3},
    "llama": {**LLAMA, "n_heads": 6, "n_kv_heads": 2, "d_head": 10, "rope_theta": 500.0, "norm_epsilon": 1e-3, "tied": False},
}


class Transformers:
    """The library, silent, and what the tests ask of it."""

    def __init__(self) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._torch, self._library = torch, transformers

    def model(self, family: str, **changes: Any) -> Any:
        """A model whose every parameter is away from 0 and 1, norms and biases too."""
        config = self._library.AutoConfig.for_model(
            family, **{**SIZES[family], "bos_token_id": None, "eos_token_id": None, **changes}
        )
        model = self._library.AutoModelForCausalLM.from_config(config).eval()
        rng = np.random.default_rng(3)
        for parameter in model.parameters():
            parameter.data += self._torch.from_numpy(rng.standard_normal(tuple(parameter.shape), np.float32) / 5)
        return model

    def to(self, model: Any, dtype: str) -> Any:
        return model.to(getattr(self._torch, dtype))

    def read(self, folder: Path) -> Any:
        """A directory's model in float32. Nothing in it may be missing, left over, or of another shape."""
        model, found = self._library.AutoModelForCausalLM.from_pretrained(
            folder, dtype=self._torch.float32, output_loading_info=True
        )
        assert not any(found.values()), found
        return model.eval()

    def tokenizer(self, folder: Path) -> Any:
        return self._library.AutoTokenizer.from_pretrained(folder)

    def logits(self, model: Any, tokens: Any) -> np.ndarray:
        with self._torch.no_grad():
            return np.asarray(model(self._torch.tensor(np.asarray(tokens))).logits.numpy())

    def generate(self, model: Any, tokens: Any, n: int, **more: Any) -> np.ndarray:
        """Each row with the likeliest tokens after it."""
        rows = self._torch.tensor(np.asarray(tokens))
        mask = self._torch.ones_like(rows)
        made = model.generate(rows, attention_mask=mask, do_sample=False, max_new_tokens=n, pad_token_id=0, **more)
        return np.asarray(made.numpy())

    def defaults(self, family: str) -> dict[str, Any]:
        """What a configuration holds of which nothing is said."""
        return dict(self._library.AutoConfig.for_model(family).to_dict())


@pytest.fixture(scope="session")
def hf() -> Transformers:
    pytest.importorskip("transformers")
    return Transformers()


@pytest.fixture(scope="session")
def ours() -> Callable[..., GPT]:
    """`ours("llama", tied=True)`: a model of our own in the form of a family, every parameter away from 0 and 1."""

    def make(family: str, **changes: Any) -> GPT:
        sizes = {"vocab_size": 37, "context_length": 64, "d_model": 24, "n_layers": 2, "d_ff": 50}
        model = GPT(ModelConfig(**{**sizes, **OURS[family], **changes}), seed=2)
        model.parameters.flat[...] += np.random.default_rng(4).standard_normal(model.parameters.flat.size, np.float32) / 5
        return model

    return make


@pytest.fixture
def directory(tmp_path: Path, ours: Callable[..., GPT]) -> Callable[..., Path]:
    """`directory("gpt2", n_inner=3)`: a new directory of our own making; values in config.json changed, or with None removed."""

    def make(family: str, **changes: Any) -> Path:
        folder = tmp_path / family
        export(ours(family), None, folder)
        content = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
        content = {name: value for name, value in content.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def tokens() -> np.ndarray:
    """Three rows of 64 tokens: the whole context."""
    return np.random.default_rng(0).integers(0, 37, (3, 64))
