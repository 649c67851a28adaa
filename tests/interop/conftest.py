"""Fixtures for the tests of Hugging Face directories: the library `transformers`, and models of both libraries."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.interop.hugging_face import export
from minigpt.np.config import LLAMA, QWEN3
from minigpt.training.adamw import AdamW
from minigpt.training.optimizer import Optimizer
from minigpt.training.parallel.data_parallel import DataParallel

SIZES: dict[str, dict[str, Any]] = {  # no two sizes are equal by chance
    "gpt2": {"vocab_size": 37, "n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_inner": 50},
    "llama": {
        **{"vocab_size": 37, "max_position_embeddings": 64, "hidden_size": 24, "intermediate_size": 50},
        **{"num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10},
    },
    "qwen3": {  # the hidden size is not divisible by the number of heads
        **{"vocab_size": 37, "max_position_embeddings": 64, "hidden_size": 24, "intermediate_size": 50},
        **{"num_hidden_layers": 2, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 14},
    },
}
OURS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_heads": 3},
    "llama": {**LLAMA, "n_heads": 6, "n_kv_heads": 2, "d_head": 10, "rope_theta": 500.0, "norm_epsilon": 1e-3, "tied": False},
    "qwen3": {**QWEN3, "n_heads": 9, "n_kv_heads": 3, "d_head": 14, "rope_theta": 500.0, "norm_epsilon": 1e-3},
}


class Transformers:
    """The functions of the library `transformers` that the tests use, without its log messages."""

    def __init__(self) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._torch, self._library = torch, transformers

    def model(self, family: str, **changes: Any) -> Any:
        """Return a model in which no parameter is 0 or 1, not even a bias or gamma."""
        config = self._library.AutoConfig.for_model(
            family, **{**SIZES[family], "bos_token_id": None, "eos_token_id": None, **changes}
        )
        self._torch.manual_seed(0)
        model = self._library.AutoModelForCausalLM.from_config(config).eval()
        rng = np.random.default_rng(3)
        for parameter in model.parameters():
            parameter.data += self._torch.from_numpy(rng.standard_normal(tuple(parameter.shape), np.float32) / 5)
        return model

    def to(self, model: Any, dtype: str) -> Any:
        """Return the model converted to a dtype."""
        return model.to(getattr(self._torch, dtype))

    def read(self, folder: Path) -> Any:
        """Return the model of a directory in float32. No tensor may be missing, unused or of another shape."""
        model, found = self._library.AutoModelForCausalLM.from_pretrained(
            folder, dtype=self._torch.float32, output_loading_info=True
        )
        assert not any(found.values()), found
        return model.eval()

    def tokenizer(self, folder: Path) -> Any:
        """Return the tokenizer of a directory."""
        return self._library.AutoTokenizer.from_pretrained(folder)

    def logits(self, model: Any, tokens: Any) -> np.ndarray:
        """Return the logits (B, T, V) of tokens (B, T)."""
        with self._torch.no_grad():
            return np.asarray(model(self._torch.tensor(np.asarray(tokens))).logits.numpy())

    def generate(self, model: Any, tokens: Any, n: int, **more: Any) -> np.ndarray:
        """Return each row followed by `n` tokens of greedy decoding."""
        rows = self._torch.tensor(np.asarray(tokens))
        mask = self._torch.ones_like(rows)
        generated = model.generate(rows, attention_mask=mask, do_sample=False, max_new_tokens=n, pad_token_id=0, **more)
        return np.asarray(generated.numpy())

    def train(self, model: Any, batches: Sequence[np.ndarray], lr: float, optimizer: AdamW) -> list[float]:
        """Train on batches (B, T + 1) with AdamW, and return the loss of each step. Only matrices decay."""
        torch = self._torch
        groups = [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": optimizer.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, lr=lr, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.epsilon)
        losses = []
        for batch in map(torch.tensor, batches):
            logits = model(batch[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            adamw.zero_grad()
            loss.backward()
            adamw.step()
            losses.append(loss.item())
        return losses

    def defaults(self, family: str) -> dict[str, Any]:
        """Return the configuration of a family with the default of every key."""
        return dict(self._library.AutoConfig.for_model(family).to_dict())


@pytest.fixture(scope="session")
def hf() -> Transformers:
    """Return the library `transformers`, or skip the test if it is not installed."""
    pytest.importorskip("transformers")
    return Transformers()


@pytest.fixture(scope="session")
def ours() -> Callable[..., GPT]:
    """Return a function that makes a minigpt model of a family in which no parameter is 0 or 1: `ours("llama", tied=True)`."""

    def make(family: str, **changes: Any) -> GPT:
        sizes = {"vocab_size": 37, "context_length": 64, "d_model": 24, "n_layers": 2, "d_ff": 50}
        model = GPT(ModelConfig(**{**sizes, **OURS[family], **changes}), seed=2)
        model.parameters.flat[...] += np.random.default_rng(4).standard_normal(model.parameters.flat.size, np.float32) / 5
        return model

    return make


@pytest.fixture(scope="session")
def train() -> Callable[[GPT, Sequence[np.ndarray], float, AdamW], list[float]]:
    """Return a function that trains a minigpt model as `Transformers.train` does, and returns the loss of each step."""

    def train(model: GPT, batches: Sequence[np.ndarray], lr: float, optimizer: AdamW) -> list[float]:
        losses = []
        with DataParallel(model, threads=1, optimizer=Optimizer.uniform(optimizer, lr)) as trainer:
            for step, batch in enumerate(batches, start=1):
                losses.append(trainer.loss_and_grads(batch[:, :-1], batch[:, 1:])[0])
                trainer.update(1.0, step, 1.0)
        return losses

    return train


@pytest.fixture
def directory(tmp_path: Path, ours: Callable[..., GPT]) -> Callable[..., Path]:
    """Return a function that exports a model and changes its config.json: `directory("gpt2", n_inner=3)`. None removes a key."""

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
    """Return three rows of 64 tokens, the context length of the models."""
    return np.random.default_rng(0).integers(0, 37, (3, 64))
