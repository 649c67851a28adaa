"""`GPT.trace` compared with the hidden states and attention weights of the library transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import GPT
from minigpt.interop.hugging_face import export


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_hidden_states_and_attentions_are_those_of_transformers(
    hf: Any, ours: Callable[..., GPT], tokens: np.ndarray, family: str, tmp_path: Path
) -> None:
    import torch

    model = ours(family)
    export(model, None, tmp_path / family)
    theirs = hf.read(tmp_path / family)
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        result = theirs(torch.tensor(tokens), output_hidden_states=True, output_attentions=True)
    t = model.trace(tokens)
    expected = [t["embedding"], t["blocks.0.residual_post"], t["final_norm"]]  # transformers normalizes the last one
    assert len(result.hidden_states) == len(expected) and len(result.attentions) == 2
    for array, state in zip(expected, result.hidden_states, strict=True):
        np.testing.assert_allclose(array, state.numpy(), rtol=0, atol=5e-5)
    for i, weights in enumerate(result.attentions):
        np.testing.assert_allclose(t[f"blocks.{i}.attention.weights"], weights.numpy(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(t["logits"], result.logits.numpy(), rtol=0, atol=5e-5)
