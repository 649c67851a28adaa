"""The weights of a Hugging Face directory: their names and layouts there and here, and the files they lie in."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.interop.config import family_of, read_json
from minigpt.np.config import ModelConfig
from minigpt.np.parameters import Parameters, shapes
from minigpt.np.workspace import Array

Tensors = dict[str, Array]
STORED = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "<u2"}
"What is read, and as which NumPy type; bfloat16, which NumPy lacks, is the upper half of a float32."

PREFIX = {"gpt2": "transformer.", "llama": "model."}
"Before all names but the head's; a file that holds the network without its head has none."
NAMES = {
    "gpt2": {
        "token_embedding": "wte.weight",
        "position_embedding": "wpe.weight",
        "attention_norm.": "h.{i}.ln_1.",
        "attention.qkv.": "h.{i}.attn.c_attn.",
        "attention.out.": "h.{i}.attn.c_proj.",
        "feed_forward_norm.": "h.{i}.ln_2.",
        "feed_forward.up.": "h.{i}.mlp.c_fc.",
        "feed_forward.down.": "h.{i}.mlp.c_proj.",
        "final_norm.": "ln_f.",
    },
    "llama": {
        "token_embedding": "embed_tokens.weight",
        "attention_norm.": "layers.{i}.input_layernorm.",
        "attention.qkv.": "layers.{i}.self_attn.{qkv}_proj.",
        "attention.out.": "layers.{i}.self_attn.o_proj.",
        "feed_forward_norm.": "layers.{i}.post_attention_layernorm.",
        "feed_forward.gate.": "layers.{i}.mlp.gate_proj.",
        "feed_forward.up.": "layers.{i}.mlp.up_proj.",
        "feed_forward.down.": "layers.{i}.mlp.down_proj.",
        "final_norm.": "norm.",
    },
}
KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
IGNORED = re.compile(r"(.*\.)?(attn\.(masked_)?bias|rotary_emb\.inv_freq)$")  # constants that old files hold beside the weights


@dataclass(frozen=True)
class Place:
    """Where one of our parameters lies there: in several tensors side by side, or in one; as (outputs, inputs), or as here."""

    names: tuple[str, ...]
    transposed: bool


def places(config: ModelConfig, family: str) -> dict[str, Place]:
    """Our name -> where it lies."""
    return {name: _place(name, family) for name in shapes(config)}


def _place(name: str, family: str) -> Place:
    if name == "head":
        return Place(("lm_head.weight",), False)
    block = re.match(r"blocks\.(\d+)\.(.*)", name)
    inner = block[2] if block else name
    if inner in NAMES[family]:
        return Place((PREFIX[family] + NAMES[family][inner],), False)
    layer, kind = inner.rsplit(".", 1)
    pattern = PREFIX[family] + NAMES[family][f"{layer}."] + KINDS[kind]
    parts = "qkv" if "{qkv}" in pattern else "x"
    names = tuple(pattern.format(i=block[1] if block else "", qkv=part) for part in parts)
    return Place(names, transposed=family == "llama" and kind == "weight")


def parameters(tensors: Mapping[str, Array], config: ModelConfig, absent: re.Pattern[str] | None = None) -> Parameters:
    """Our parameters from the tensors of a directory; those that match `absent` are zero.

    Raises `ValueError` for a tensor that is missing, has another shape, or belongs to nothing here.
    """
    family = family_of(config)
    unused = {name for name in tensors if not IGNORED.match(name)}
    found = list(_found(tensors, config, absent))  # all of it, before there is memory for a model of any size
    p = Parameters(shapes(config), np.float32)
    for name, columns, stored, tensor in found:
        p[name][..., columns] = tensor
        unused.discard(stored)
    if config.tied and "lm_head.weight" in unused:
        if not np.array_equal(tensors["lm_head.weight"], p["token_embedding"]):
            raise ValueError("lm_head.weight is not the embedding, though the configuration says they are tied")
        unused.discard("lm_head.weight")
    if unused:
        raise ValueError(f"there are tensors that no {family} model of this configuration has: {', '.join(sorted(unused)[:3])}")
    return p


def _found(
    tensors: Mapping[str, Array], config: ModelConfig, absent: re.Pattern[str] | None
) -> Iterator[tuple[str, slice, str, Array]]:
    """Name of a parameter, columns of it, name of the tensor that holds them, and the tensor, as it lies here."""
    family = family_of(config)
    has_prefix = any(name.startswith(PREFIX[family]) for name in tensors)
    # A model of more blocks than there are tensors lacks one: this many blocks are enough to name it.
    some_blocks = replace(config, n_layers=min(config.n_layers, len(tensors) + 1))
    for name, (*rows, width) in shapes(some_blocks).items():
        place = _place(name, family)
        edges = [0, *_edges(config, len(place.names)), width]
        for stored, (start, stop) in zip(place.names, pairwise(edges), strict=True):
            stored = stored if has_prefix else stored.removeprefix(PREFIX[family])
            if absent and absent.search(stored):
                continue  # zero
            if stored not in tensors:
                raise ValueError(f"there is no tensor {stored}")
            tensor, shape = _turned(tensors[stored], place), (*rows, stop - start)
            if tensor.shape != shape:
                expected = shape[::-1] if place.transposed else shape
                raise ValueError(f"{stored} has shape {tensors[stored].shape}, but should have {expected}")
            yield name, slice(start, stop), stored, tensor


def _turned(array: Array, place: Place) -> Array:
    return array.T if place.transposed else array


def tensors(p: Mapping[str, Array], config: ModelConfig) -> Tensors:
    """The tensors of a directory from our parameters."""
    family = family_of(config)
    named: Tensors = {}
    for name, place in places(config, family).items():
        array = p[name]
        if config.rope_pairing == "interleaved" and ".qkv." in name:
            array = array[..., half_pairing(config)]
        for stored, part in zip(place.names, np.split(array, _edges(config, len(place.names)), axis=-1), strict=True):
            named[stored] = np.ascontiguousarray(_turned(part, place), dtype=np.float32)
    if family == "gpt2" and not config.bias:
        named |= {place.names[0]: np.zeros(shape, np.float32) for place, shape in _biases(config)}
    return named


def _biases(config: ModelConfig) -> Iterator[tuple[Place, tuple[int, ...]]]:
    """GPT-2 always has biases: where they lie, and their shapes, for a configuration without."""
    for name, shape in shapes(config).items():
        if name.endswith(".weight"):
            yield _place(name.removesuffix("weight") + "bias", "gpt2"), shape[1:]


def _edges(config: ModelConfig, parts: int) -> list[int]:
    q, kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    return [q, q + kv] if parts == 3 else []


def half_pairing(config: ModelConfig) -> Array:
    """The columns of qkv in another order: those that rope turns together, neighbours before, are half a head apart."""
    d, turned = config.d_head, config.n_heads + config.n_kv_heads
    head = np.concatenate([np.arange(0, d, 2), np.arange(1, d, 2)])
    order = (np.arange(turned)[:, None] * d + head).ravel()
    return np.concatenate([order, np.arange(turned * d, (turned + config.n_kv_heads) * d)])


def read(folder: Path) -> Tensors:
    """All tensors of a directory in float32: from model.safetensors or, without it, from the files that an index names."""
    index = folder / "model.safetensors.index.json"
    sharded = index.is_file() and not (folder / "model.safetensors").is_file()
    where = _weight_map(index) if sharded else {}
    files = sorted(set(where.values())) or ["model.safetensors"]
    found: Tensors = {}
    for name in files:
        if not (folder / name).is_file():
            others = [path.name for path in folder.glob("*.bin")]
            more = f", only {others[0]}: a format that can run code when it is read; convert it first" if others else ""
            raise ValueError(f"there is no {name}{more}")
        found |= read_file(folder / name)
    if missing := sorted(name for name in set(where) - set(found) if not IGNORED.match(name)):
        raise ValueError(f"{index.name} names {missing[0]}, which is not in {where[missing[0]]}")
    return found


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> name of the file that holds it."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(_is_file_name(name) for name in found.values()):
        raise ValueError(f"{index.name} has no weight_map of tensor names to file names")
    return found


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name


def read_file(path: Path) -> Tensors:
    """All tensors of one safetensors file, in float32."""
    from safetensors import SafetensorError, deserialize

    try:
        stored: list[tuple[str, Any]] = deserialize(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    found = {}
    for name, tensor in stored:
        kind = tensor["dtype"]
        if kind in STORED:
            try:
                array = np.frombuffer(tensor["data"], STORED[kind]).reshape(tensor["shape"])
            except ValueError as error:  # a shape without numbers may have any sizes, and any number of them
                raise ValueError(f"{path}: {name!r} cannot be read: {error}") from None
            upper_half = kind == "BF16"
            found[name] = (array.astype(np.uint32) << 16).view(np.float32) if upper_half else array.astype(np.float32, copy=False)
        elif not IGNORED.match(name):
            raise ValueError(f"{path}: {name} is stored as {kind}, but minigpt reads {', '.join(STORED)}")
    return found
