"""Read and write the weights of Hugging Face directories: names, memory layouts, and the files of an index."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.json_files import read_json_object
from minigpt.data.safetensors_files import DTYPES, StoredTensor, read_header
from minigpt.interop.families import FAMILIES, Family, family_of
from minigpt.np.config import ModelConfig
from minigpt.np.parameters import Parameters, qkv_columns, shapes
from minigpt.np.workspace import Array

Tensors = dict[str, Array]
StoredTensors = Mapping[str, StoredTensor]

KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
IGNORED = re.compile(r"(.*\.)?(attn\.(masked_)?bias|rotary_emb\.inv_freq)$")  # constants that older files contain


@dataclass(frozen=True)
class StoredAs:
    """The tensors in which transformers stores a parameter of minigpt."""

    names: tuple[str, ...]
    "One name, or those of the query, key and value weights, which are the columns of one weight here."
    transposed: bool
    "Whether the shape is (outputs, inputs) in place of (inputs, outputs)."

    def transpose(self, array: Array) -> Array:
        """Convert an array from the layout of transformers to that of minigpt, or back."""
        return array.T if self.transposed else array


def _stored_as(name: str, family: Family) -> StoredAs:
    if name == "head":
        return StoredAs(("lm_head.weight",), False)
    block = re.match(r"blocks\.(\d+)\.(.*)", name)
    inner = block[2] if block else name
    if inner in family.names:
        return StoredAs((family.prefix + family.names[inner],), False)
    layer, kind = inner.rsplit(".", 1)
    pattern = family.prefix + family.names[f"{layer}."] + KINDS[kind]
    parts = "qkv" if "{qkv}" in pattern else "x"
    names = tuple(pattern.format(i=block[1] if block else "", qkv=part) for part in parts)
    return StoredAs(names, transposed=family.transposed and kind == "weight")


@dataclass(frozen=True)
class TensorOfParameter:
    """A stored tensor, and the parameter of which it is a part."""

    name: str
    "Its name in the file."
    parameter: str
    columns: slice
    "Its columns in the parameter."
    stored_as: StoredAs


def from_tensors(tensors: StoredTensors, config: ModelConfig) -> Parameters:
    """Return the parameters of a model from the tensors of a Hugging Face directory.

    Raises `ValueError` for a tensor that is missing, has another shape, or is not a part of the model.
    """
    found = match_tensors(tensors, config)  # checks every tensor before the memory for the model is allocated
    p = Parameters(shapes(config), np.float32)
    for part in found:
        tensors[part.name].read_into(part.stored_as.transpose(p[part.parameter][..., part.columns]))
    if config.tied and "lm_head.weight" in tensors and not _equal(tensors["lm_head.weight"], p["token_embedding"]):
        raise ValueError("lm_head.weight differs from the embedding, but the configuration says that they are tied")
    return p


def match_tensors(tensors: StoredTensors, config: ModelConfig) -> list[TensorOfParameter]:
    """Return the parameter of each tensor, without reading a weight. Raises `ValueError` as `from_tensors` does."""
    family = family_of(config)
    found = list(_find_tensors(tensors, config))
    used = {part.name for part in found} | ({"lm_head.weight"} if config.tied else set())
    unused = sorted(name for name in tensors if name not in used and not IGNORED.match(name))
    if unused:
        raise ValueError(f"there are tensors that no {family} model of this configuration has: {', '.join(unused[:3])}")
    return found


def _find_tensors(tensors: StoredTensors, config: ModelConfig) -> Iterator[TensorOfParameter]:
    """Yield the tensors of a model. Raises `ValueError` for one that is missing or has another shape."""
    family = FAMILIES[family_of(config)]
    has_prefix = any(name.startswith(family.prefix) for name in tensors)
    # If there are more blocks than tensors, one is missing: a model of this many blocks is enough to find out which.
    some_blocks = replace(config, n_layers=min(config.n_layers, len(tensors) + 1))
    for parameter, (*rows, width) in shapes(some_blocks).items():
        stored_as = _stored_as(parameter, family)
        for name, columns in zip(stored_as.names, _columns(stored_as, width, config), strict=True):
            name = name if has_prefix else name.removeprefix(family.prefix)
            if name not in tensors:
                raise ValueError(f"there is no tensor {name}")
            shape = (*rows, columns.stop - columns.start)
            expected = shape[::-1] if stored_as.transposed else shape
            if tensors[name].shape != expected:
                raise ValueError(f"{name} has shape {tensors[name].shape}, but must have {expected}")
            yield TensorOfParameter(name, parameter, columns, stored_as)


def _equal(tensor: StoredTensor, array: Array) -> bool:
    return tensor.shape == array.shape and all(
        np.array_equal(values, array[rows], equal_nan=True) for rows, values in tensor.chunks()
    )


def to_tensors(p: Mapping[str, Array], config: ModelConfig) -> Tensors:
    """Return the tensors of a Hugging Face directory from the parameters of a model."""
    family = FAMILIES[family_of(config)]
    tensors: Tensors = {}
    for name, array in p.items():
        if config.positions == "rope" and config.rope_pairing == "interleaved":
            array = array[..., half_pairing_columns(name, config)]
        stored_as = _stored_as(name, family)
        for stored, columns in zip(stored_as.names, _columns(stored_as, array.shape[-1], config), strict=True):
            tensors[stored] = np.ascontiguousarray(stored_as.transpose(array[..., columns]), dtype=np.float32)
    return tensors | (_missing_biases(config, family) if family.always_has_biases else {})


def _missing_biases(config: ModelConfig, family: Family) -> Tensors:
    """Return zeros for the biases that a model does not have, but a model of its family always has."""
    with_biases = replace(config, attention_bias=True, feed_forward_bias=True)
    missing = {name: shape for name, shape in shapes(with_biases).items() if name not in shapes(config)}
    return {_stored_as(name, family).names[0]: np.zeros(shape, np.float32) for name, shape in missing.items()}


def _columns(stored_as: StoredAs, width: int, config: ModelConfig) -> list[slice]:
    """Return the columns of a parameter of this width that each of its tensors holds."""
    return qkv_columns(config) if len(stored_as.names) == 3 else [slice(0, width)]


def half_pairing_columns(name: str, config: ModelConfig) -> Array | slice:
    """Return the order of the columns of a parameter that converts interleaved rope to half.

    The two columns that rope rotates together are adjacent before, and half a head apart after. This reorders the projections to
    queries and keys, head by head, and the parameters of their norms, which all heads share.
    """
    _, _, values = qkv_columns(config)
    if ".qkv." in name:
        order, rotated = np.arange(values.stop), values.start
    elif ".q_norm." in name or ".k_norm." in name:
        order, rotated = np.arange(config.d_head), config.d_head
    else:
        return slice(None)
    order[:rotated] = order[:rotated].reshape(-1, config.d_head // 2, 2).swapaxes(1, 2).ravel()
    return order


def read_tensors(folder: Path) -> StoredTensors:
    """Return all tensors of a directory, from model.safetensors or else from the files in its index."""
    index = folder / "model.safetensors.index.json"
    sharded = index.is_file() and not (folder / "model.safetensors").is_file()
    weight_map = _read_weight_map(index) if sharded else {}
    files = sorted(set(weight_map.values())) or ["model.safetensors"]
    tensors: dict[str, StoredTensor] = {}
    for name in files:
        if not (folder / name).is_file():
            pickled = [path.name for path in folder.glob("*.bin")]
            hint = f", only {pickled[0]}: a format that can run code when it is read; convert it first" if pickled else ""
            raise ValueError(f"there is no {name}{hint}")
        tensors |= read_safetensors(folder / name)
    if missing := sorted(name for name in set(weight_map) - set(tensors) if not IGNORED.match(name)):
        raise ValueError(f"{index.name} lists {missing[0]}, which is not in {weight_map[missing[0]]}")
    return tensors


def _read_weight_map(index: Path) -> dict[str, str]:
    """Return the file name of each tensor."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_file_name(name) for name in weight_map.values()):
        raise ValueError(f"{index.name} has no weight_map from tensor names to file names")
    return weight_map


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file. Raises `ValueError` for a dtype that minigpt does not support.

    Constants of older files may have any dtype; those of an unsupported one are left out.
    """
    tensors, _ = read_header(path)
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES and not IGNORED.match(name):
            raise ValueError(f"{path}: {name} has dtype {tensor.dtype}, but minigpt supports only {', '.join(DTYPES)}")
    return {name: tensor for name, tensor in tensors.items() if tensor.dtype in DTYPES}
