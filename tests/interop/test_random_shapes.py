"""Models of random shapes have the same logits in transformers, and are read from the files that either library writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import GPT, ModelConfig, load
from minigpt.interop.families import FAMILIES
from minigpt.interop.hugging_face import export


@st.composite
def configurations(draw: st.DrawFn, family: str) -> ModelConfig:
    """Generate a configuration of a family."""
    size, flag, group = st.integers(1, 9), st.booleans(), st.integers(1, 3)
    fields = {name: draw(size) for name in ("context_length", "d_model", "d_ff")}
    fields |= {"vocab_size": draw(st.integers(2, 20)), "n_layers": draw(group), "n_kv_heads": draw(group)}
    fields |= {"n_heads": fields["n_kv_heads"] * draw(group), "d_head": 2 * draw(group)}
    fields |= {name: draw(flag) for name in ("attention_bias", "feed_forward_bias", "tied")}
    fields |= {"norm_epsilon": draw(st.sampled_from([1e-2, 1e-4])), "rope_theta": draw(st.sampled_from([10.0, 1e6]))}
    fields |= {"rope_pairing": draw(st.sampled_from(["half", "interleaved"]))}
    if family == "gpt2":
        fields |= {"n_kv_heads": 0, "d_head": draw(group)}
        fields |= {"d_model": fields["n_heads"] * fields["d_head"]}
        fields |= {"activation": draw(st.sampled_from(["gelu", "gelu_exact", "relu"]))}
    elif family == "llama":
        fields |= {"d_model": fields["n_heads"] * draw(group)}
    else:
        fields |= {"feed_forward_bias": False}
    return ModelConfig(**{**FAMILIES[family].form, **fields})


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(deadline=None, max_examples=20, database=None)
def test_the_logits_are_equal_in_both_directions(
    hf: Any, tmp_path_factory: pytest.TempPathFactory, family: str, data: st.DataObject
) -> None:
    folder: Path = tmp_path_factory.mktemp("random")
    model = GPT(data.draw(configurations(family)))
    model.parameters.flat[...] = np.random.default_rng(0).standard_normal(model.parameters.flat.size) / 2
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (2, model.config.context_length))
    expected = model.logits(tokens)
    export(model, None, folder / "ours")
    theirs = hf.read(folder / "ours")
    assert theirs.config.model_type == family
    np.testing.assert_allclose(hf.logits(theirs, tokens), expected, rtol=0, atol=1e-4)
    theirs.save_pretrained(folder / "theirs")
    for name in ("ours", "theirs"):
        np.testing.assert_allclose(load(folder / name)[0].logits(tokens), expected, rtol=0, atol=1e-4)
