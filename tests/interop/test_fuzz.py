"""Files that are damaged at random: a ValueError or a right answer, never another exception."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from minigpt import GPT, ModelConfig, load
from minigpt.interop.config import config_json, model_config
from minigpt.interop.hugging_face import export
from minigpt.interop.weights import read_file
from minigpt.np.config import LLAMA

WIDTHS = {"F32": 4, "F64": 8, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1, "I64": 8, "F8_E4M3": 1, "C64": 8, "F4": 1, "X": 4}
MODELS = {
    "gpt2": ModelConfig(vocab_size=11, context_length=8, d_model=6, n_layers=2, n_heads=2),
    "llama": ModelConfig(**LLAMA, vocab_size=11, context_length=8, d_model=6, n_layers=2, n_heads=3, d_head=4, tied=False),
}
fuzz = settings(deadline=None, max_examples=150, database=None)
damage = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=3)), max_size=3)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module", params=MODELS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the weights in two files."""
    folder = tmp_path_factory.mktemp("fuzz") / request.param
    export(GPT(MODELS[request.param]), None, folder)
    tensors = load_file(folder / "model.safetensors")
    parts = [dict(list(tensors.items())[i::2]) for i in (0, 1)]
    (folder / "model.safetensors").unlink()
    for i, part in enumerate(parts):
        save_file(part, folder / f"model-{i}.safetensors")
    index = {"weight_map": {name: f"model-{i}.safetensors" for i, part in enumerate(parts) for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def damaged(content: bytes, where: list[tuple[float, bytes]], kept: float) -> bytes:
    """Bytes overwritten here and there, and the end cut off."""
    for place, new in where:
        i = int(place * len(content))
        content = content[:i] + new[: len(content) - i] + content[i + len(new) :]
    return content[: int(kept * len(content))]


@given(data=st.data(), where=damage, kept=st.sampled_from([1.0, 1.0, 0.9, 0.1]), letters=st.booleans())
@fuzz
def test_a_damaged_directory(
    whole: Path, scratch: Path, data: st.DataObject, where: list[tuple[float, bytes]], kept: float, letters: bool
) -> None:
    name = data.draw(st.sampled_from(sorted(path.name for path in whole.iterdir())))
    if letters:  # which leave JSON what it is more often than bytes do
        where = [(place, bytes(string.printable.encode()[byte % 95] for byte in new)) for place, new in where]
    for file in whole.iterdir():
        content = file.read_bytes()
        (scratch / file.name).write_bytes(damaged(content, where, kept) if file.name == name else content)
    try:
        model, tokenizer = load(scratch)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    with np.errstate(all="ignore"):  # a damaged weight may be any number
        assert model.logits([[1, 2, 3]]).shape == (1, 3, model.config.vocab_size)
    assert tokenizer is None


@given(content=st.binary(max_size=300))
@fuzz
def test_random_bytes_are_no_weights(scratch: Path, content: bytes) -> None:
    (scratch / "random").write_bytes(content)
    with pytest.raises(ValueError, match="random cannot be read"):
        read_file(scratch / "random")


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, mostly right, and what follows it."""
    header: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(st.sampled_from(["a", "b.weight", "é", "", "h.0.attn.bias", "__metadata__"]), unique=True)):
        dtype, shape = draw(st.sampled_from(list(WIDTHS))), draw(st.lists(st.integers(0, 3), max_size=3))
        begin, end = end, end + WIDTHS[dtype] * int(np.prod(shape)) + draw(st.sampled_from([0] * 12 + [1, -1, 2**62]))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return header, draw(st.binary(min_size=max(0, min(end, 500)), max_size=max(0, min(end, 500))))


@given(file=files())
@fuzz
def test_what_is_read_is_what_the_header_says(scratch: Path, file: tuple[dict[str, Any], bytes]) -> None:
    header, data = file
    text = json.dumps(header).encode()
    (scratch / "made").write_bytes(len(text).to_bytes(8, "little") + text + data)
    try:
        with np.errstate(over="ignore"):  # a float64 may be too large for what it becomes
            found = read_file(scratch / "made")
    except ValueError as error:
        assert "made" in str(error)
        return
    kinds: dict[str, Callable[[bytes], np.ndarray]] = {
        "F32": lambda b: np.frombuffer(b, "<f4"),
        "F64": lambda b: np.frombuffer(b, "<f8").astype(np.float32),
        "F16": lambda b: np.frombuffer(b, "<f2").astype(np.float32),
        "BF16": lambda b: np.frombuffer(b"".join(b"\0\0" + b[i : i + 2] for i in range(0, len(b), 2)), "<f4"),
    }
    with np.errstate(over="ignore"):
        expected = {
            name: kinds[entry["dtype"]](data[slice(*entry["data_offsets"])]).reshape(entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__" and entry["dtype"] in kinds
        }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.float32


small = st.integers(-1, 40)
anything = st.recursive(
    st.none() | st.booleans() | small | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["rope_type", "x"]), inner, max_size=2),
    max_leaves=4,
)
rope = st.none() | st.dictionaries(st.sampled_from(["rope_type", "type", "rope_theta", "partial_rotary_factor"]), anything)


@given(data=st.data(), family=st.sampled_from(["gpt2", "llama"]))
@fuzz
def test_any_value_in_a_config_is_refused_or_means_what_it_says(data: st.DataObject, family: str) -> None:
    content = config_json(MODELS[family], None, None)
    keys = data.draw(st.lists(st.sampled_from([*content, "rope_scaling", "sliding_window", "layer_types"]), max_size=3))
    for key in keys:
        content[key] = data.draw(rope if key.startswith("rope_") and key != "rope_theta" else anything | small, label=key)
    assume(content["tie_word_embeddings"] in (True, False))
    try:
        config = model_config(json.loads(json.dumps(content)))
    except ValueError:
        return
    names = {"n_layers": ("n_layer", "num_hidden_layers"), "context_length": ("n_positions", "max_position_embeddings")}
    names |= {"d_model": ("n_embd", "hidden_size"), "n_heads": ("n_head", "num_attention_heads")}
    names |= {"norm_epsilon": ("layer_norm_epsilon", "rms_norm_eps"), "vocab_size": ("vocab_size", "vocab_size")}
    for ours, theirs in names.items():
        assert getattr(config, ours) == content[theirs[family == "llama"]]
    assert config.tied == content["tie_word_embeddings"]
