"""Randomly damaged files give a ValueError with a message of one line or a correct result, never another exception."""

import copy
import json
import shutil
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
from minigpt.data.safetensors_files import StoredTensor
from minigpt.interop.config import config_json, model_config
from minigpt.interop.families import FAMILIES
from minigpt.interop.hugging_face import export, read_config
from minigpt.interop.weights import read_safetensors
from minigpt.np.config import LLAMA, QWEN3

ITEM_SIZES = {
    "F32": 4,
    "F64": 8,
    "F16": 2,
    "BF16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "I64": 8,
    "F8_E4M3": 1,
    "C64": 8,
    "F4": 1,
    "X": 4,
}
MODELS = {
    "gpt2": ModelConfig(vocab_size=11, context_length=8, d_model=6, n_layers=2, n_heads=2),
    "llama": ModelConfig(**LLAMA | {"tied": False}, vocab_size=11, context_length=8, d_model=6, n_layers=2, n_heads=3, d_head=4),
    "qwen3": ModelConfig(**QWEN3, vocab_size=11, context_length=8, d_model=6, n_layers=2, n_heads=4, n_kv_heads=2, d_head=4),
}
fuzz = settings(deadline=None, max_examples=150, database=None)
damage = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=3)), max_size=3)


def check_message(error: ValueError, *parts: object) -> None:
    """Check that the message of an error is one line and contains `parts`."""
    assert len(str(error).splitlines()) == 1
    assert all(str(part) in str(error) for part in parts)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module", params=["gpt2", "qwen3"])  # the names of Llama are among those of Qwen 3
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the weights in two files."""
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


def damaged(content: bytes, overwritten: list[tuple[float, bytes]], kept: float) -> bytes:
    """Return the content with some bytes overwritten, truncated to the fraction `kept`."""
    for position, new in overwritten:
        i = int(position * len(content))
        content = content[:i] + new[: len(content) - i] + content[i + len(new) :]
    return content[: int(kept * len(content))]


@given(data=st.data(), overwritten=damage, kept=st.sampled_from([1.0, 1.0, 0.9, 0.1]), printable=st.booleans())
@fuzz
def test_a_damaged_directory(
    intact: Path, scratch: Path, data: st.DataObject, overwritten: list[tuple[float, bytes]], kept: float, printable: bool
) -> None:
    name = data.draw(st.sampled_from(sorted(path.name for path in intact.iterdir())))
    if printable:  # these leave JSON valid more often
        overwritten = [(i, bytes(string.printable.encode()[byte % 95] for byte in new)) for i, new in overwritten]
    for file in intact.iterdir():
        content = file.read_bytes()
        (scratch / file.name).write_bytes(damaged(content, overwritten, kept) if file.name == name else content)
    try:
        model, tokenizer = load(scratch)
    except ValueError as error:
        return check_message(error, scratch)
    with np.errstate(all="ignore"):  # a damaged weight may be any number
        assert model.logits([[1, 2, 3]]).shape == (1, 3, model.config.vocab_size)
    assert tokenizer is None


@given(content=st.binary(max_size=300))
@fuzz
def test_random_bytes_are_not_weights(scratch: Path, content: bytes) -> None:
    (scratch / "random").write_bytes(content)
    with pytest.raises(ValueError, match="random cannot be read"):
        read_safetensors(scratch / "random")


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """Generate the header of a safetensors file, usually valid, and the data after it."""
    header: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(st.sampled_from(["a", "b.weight", "é", "", "h.0.attn.bias", "__metadata__"]), unique=True)):
        dtype, shape = draw(st.sampled_from(list(ITEM_SIZES))), draw(st.lists(st.integers(0, 3), max_size=3))
        begin, end = end, end + ITEM_SIZES[dtype] * int(np.prod(shape)) + draw(st.sampled_from([0] * 12 + [1, -1, 2**62]))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return header, draw(st.binary(min_size=max(0, min(end, 500)), max_size=max(0, min(end, 500))))


def tensor_values(tensor: StoredTensor) -> np.ndarray:
    """Return a tensor of a file, in the shape that the file gives."""
    chunks = [np.empty((0, *tensor.shape[1:]), np.float32), *(values for _, values in tensor.chunks())] if tensor.shape else []
    return np.concatenate(chunks) if chunks else next(tensor.chunks())[1].reshape(())


@given(file=files())
@fuzz
def test_the_tensors_are_those_of_the_header(scratch: Path, file: tuple[dict[str, Any], bytes]) -> None:
    header, data = file
    text = json.dumps(header).encode()
    (scratch / "weights").write_bytes(len(text).to_bytes(8, "little") + text + data)
    try:
        with np.errstate(over="ignore"):  # a float64 may be too large for float32
            found = {name: tensor_values(tensor) for name, tensor in read_safetensors(scratch / "weights").items()}
    except ValueError as error:
        assert "weights" in str(error)
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


@given(data=st.data(), family=st.sampled_from(list(MODELS)))
@fuzz
def test_any_value_in_a_config_is_refused_or_used(data: st.DataObject, family: str) -> None:
    content = config_json(MODELS[family], None, None)
    keys = data.draw(
        st.lists(st.sampled_from([*content, "rope_scaling", "sliding_window", "use_sliding_window", "layer_types"]), max_size=3)
    )
    for key in keys:
        content[key] = data.draw(rope if key.startswith("rope_") and key != "rope_theta" else anything | small, label=key)
    assume(content["tie_word_embeddings"] in (True, False))
    try:
        config = model_config(json.loads(json.dumps(content)))
    except ValueError:
        return
    for name in ("n_layers", "context_length", "d_model", "n_heads", "norm_epsilon", "vocab_size", "tied"):
        assert getattr(config, name) == content[FAMILIES[family].keys[name]]


# ------------------------------------------------------------- unusual values

deep = st.sampled_from([100, 10_000]) | st.integers(500, 3000)
unusual = (
    st.sampled_from(
        ["null", "true", "-1", "0", "1", "2", "1e308", "1e999", "NaN", '""', '"a"', '"a\\nb"', '"\\ud800"', "[]", "{}"]
    )
    | st.sampled_from([str(2**bits + more) for bits in (31, 32, 62, 63, 64) for more in (-1, 0)])
    | st.sampled_from(["9" * 5000, "9" * 400, '{"rope_type": "a\\nb"}', '["a\\nb"]', '{"rope_theta": 1e-320}', '"F32"', '"F\\n"'])
    | deep.map(lambda n: "[" * n + "]" * n)
    | deep.map(lambda n: '{"type":' * n + "0" + "}" * n)
)


@st.composite
def mutated(draw: st.DrawFn, content: dict[str, Any]) -> str:
    """Generate a JSON object in which one value is replaced by an unusual one, removed or repeated."""
    content, parent = copy.deepcopy(content), {}
    inner: Any = content
    while isinstance(inner, dict | list) and inner and (not parent or draw(st.booleans())):
        parent = inner
        key = draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
        inner = parent[key]
    how, new = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat"])), draw(unusual)
    if how == "remove":
        del parent[key]
        return json.dumps(content)
    parent[key] = "@"
    if how == "repeat":
        new = f"{json.dumps(inner)}, {json.dumps(key)}: {new}" if isinstance(parent, dict) else f"{json.dumps(inner)}, {new}"
    return json.dumps(content).replace('"@"', new)


def safetensors(header: str, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file, which begins with the length of its header."""
    text = header.encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


@st.composite
def weights(draw: st.DrawFn, content: bytes) -> bytes:
    """Generate a safetensors file with an unusual value in its header, or an unusual length of the header."""
    end = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:end]), content[end:]
    how = draw(st.sampled_from(["header", "tensor", "shape", "length"]))
    if how == "length":
        return safetensors(
            json.dumps(header), data, draw(st.sampled_from([0, 1, 10**8, 2**31, 2**63, 2**64 - 1]) | st.integers(0, 5000))
        )
    name = draw(st.sampled_from([name for name in header if name != "__metadata__"]))
    if how == "shape":
        shapes = st.lists(st.sampled_from([0, 1, 6, 2**32, 2**62, 2**63, 2**64 - 1, -1]), max_size=3) | st.just([1] * 70)
        offsets = st.lists(st.sampled_from([0, 4, 24, 2**63, 2**64 - 1, -1]), min_size=2, max_size=2)
        header[draw(st.sampled_from([name, "a\nb"]))] = {
            "dtype": draw(st.sampled_from([*ITEM_SIZES])),
            "shape": draw(shapes),
            "data_offsets": draw(offsets),
        }
    return safetensors(
        draw(mutated({name: header.pop(name)}))[:-1] + f", {json.dumps(header)[1:]}"
        if how == "tensor"
        else draw(mutated(header)),
        data,
    )


@given(data=st.data())
@fuzz
def test_a_directory_with_an_unusual_value_in_a_file(intact: Path, scratch: Path, data: st.DataObject) -> None:
    folder = scratch / "unusual"
    shutil.copytree(intact, folder, dirs_exist_ok=True)
    path = folder / data.draw(
        st.sampled_from([path.name for path in sorted(intact.iterdir()) if path.name != "generation_config.json"])
    )
    content = path.read_bytes()
    text = None if path.suffix == ".safetensors" else data.draw(mutated(json.loads(content)))
    path.write_bytes(data.draw(weights(content)) if text is None else text.encode())
    try:
        model, _ = load(folder)
    except ValueError as error:
        return check_message(error, folder)
    expected, _ = load(intact)
    if model.config == expected.config:
        np.testing.assert_array_equal(model.parameters.flat, expected.parameters.flat)


@given(data=st.data(), family=st.sampled_from(list(MODELS)))
@fuzz
def test_a_configuration_with_an_unusual_value(scratch: Path, data: st.DataObject, family: str) -> None:
    content = {
        **config_json(MODELS[family], None, None),
        "rope_scaling": None,
        "layer_types": ["full_attention"],
        "sliding_window": None,
        "use_sliding_window": True,
    }
    path = scratch / "config.json"
    path.write_text(data.draw(mutated(content) | unusual), encoding="utf-8")
    try:
        config = read_config(scratch)
    except ValueError as error:
        return check_message(error, path)
    assert type(config.norm_epsilon) in (int, float, bool) and float(config.norm_epsilon) and float(config.rope_theta)
    for name in ("vocab_size", "context_length", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_ff"):
        assert type(getattr(config, name)) is int and getattr(config, name) > 0


def tensor(name: str, shape: list[int], dtype: str = "F32", size: int = 0) -> str:
    return json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}})


TWO_LINES = {
    "a dtype": {"model.safetensors": safetensors(tensor("a", [], "F\n32", 4), bytes(4))},
    "a tensor of another dtype": {"model.safetensors": safetensors(tensor("a\nb", [], "I8", 1), bytes(1))},
    "a missing file": {"model.safetensors.index.json": json.dumps({"weight_map": {"a": "b\nc"}}).encode()},
    "a missing tensor": {
        "model.safetensors.index.json": json.dumps({"weight_map": {"a\nb": "c"}}).encode(),
        "c": safetensors("{}"),
    },
    "a family": {"config.json": b'{"model_type": "a\\nb"}'},
}


@pytest.mark.parametrize("case", TWO_LINES)
def test_a_name_of_two_lines_is_printed_on_one(tmp_path: Path, case: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_json(MODELS["gpt2"], None, None)), encoding="utf-8")
    for name, content in TWO_LINES[case].items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as refused:
        load(tmp_path)
    check_message(refused.value, tmp_path, "there is no b c" if case == "a missing file" else next(iter(TWO_LINES[case])))


def test_an_unexpected_tensor_is_reported_on_one_line(tmp_path: Path) -> None:
    export(GPT(MODELS["gpt2"]), None, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    save_file(load_file(path) | {"a\nb": np.zeros(1, np.float32)}, path)
    with pytest.raises(ValueError, match="there are tensors that no gpt2 model of this configuration has: a b") as refused:
        load(tmp_path / "model")
    check_message(refused.value, path.parent)


@pytest.mark.parametrize("shape", [[0, 2**64 - 1], [1] * 70], ids=["without elements", "of seventy dimensions"])
def test_a_shape_that_numpy_cannot_have_is_refused(tmp_path: Path, shape: list[int]) -> None:
    size = 4 * min(shape)
    (tmp_path / "config.json").write_text(json.dumps(config_json(MODELS["gpt2"], None, None)), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(safetensors(tensor("wte.weight", shape, size=size), bytes(size)))
    with pytest.raises(ValueError) as refused:
        load(tmp_path)
    check_message(refused.value, tmp_path, "wte.weight has shape (", "but must have (11, 6)")


WRONG_SIZES = [("gpt2", "n_inner"), ("llama", "head_dim"), ("llama", "num_key_value_heads"), ("qwen3", "intermediate_size")]


@pytest.mark.parametrize("family, name", WRONG_SIZES)
@pytest.mark.parametrize("value", ["", [], {}, -1, 1.5])
def test_an_invalid_size_is_not_replaced_by_the_default(family: str, name: str, value: Any) -> None:
    with pytest.raises(ValueError):
        model_config({**config_json(MODELS[family], None, None), name: value})


@pytest.mark.parametrize("family, name", [("gpt2", "layer_norm_epsilon"), ("llama", "rms_norm_eps"), ("llama", "rope_theta")])
def test_a_number_too_large_for_a_float_is_refused(family: str, name: str) -> None:
    with pytest.raises(ValueError):
        model_config({**config_json(MODELS[family], None, None), "rope_parameters": None, name: 10**400})


@pytest.mark.parametrize("name", ["model_type", "sliding_window", "n_embd", "activation_function"])
def test_a_deeply_nested_value_is_refused(tmp_path: Path, name: str) -> None:
    """Including the depths that json can parse but repr cannot print."""
    text = json.dumps({**config_json(MODELS["gpt2"], None, None), name: "@"})
    for depth in (10_000, *range(700, 1000)):
        (tmp_path / "config.json").write_text(text.replace('"@"', "[" * depth + "]" * depth), encoding="utf-8")
        with pytest.raises(ValueError) as refused:
            read_config(tmp_path)
        check_message(refused.value, tmp_path / "config.json")
