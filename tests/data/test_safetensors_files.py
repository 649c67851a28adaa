"""Tensors of safetensors files, read a part at a time."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minigpt.data import safetensors_files
from minigpt.data.safetensors_files import read_header

SHAPES = [(), (1,), (7,), (3, 4), (5, 2, 3), (4, 0), (0, 4)]


@pytest.mark.parametrize("chunk_size", [1, 5, 1 << 21])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_tensor_is_the_same_in_parts_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_size: int, dtype: type
) -> None:
    monkeypatch.setattr(safetensors_files, "CHUNK_SIZE", chunk_size)
    tensors = {str(shape): np.random.default_rng(0).standard_normal(shape).astype(dtype) for shape in SHAPES[1:]}
    tensors["()"] = np.array(1.5, dtype)
    save_file(tensors, tmp_path / "file", {"a": "b"})
    found, metadata = read_header(tmp_path / "file")
    assert (found.keys(), metadata) == (tensors.keys(), {"a": "b"})
    for name, tensor in tensors.items():
        out = np.full(tensor.shape or (1,), np.nan, np.float32)
        found[name].read_into(out)
        np.testing.assert_array_equal(out.reshape(tensor.shape), tensor.astype(np.float32))


def test_a_tensor_is_read_into_a_transposed_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_files, "CHUNK_SIZE", 8)
    tensor = np.arange(35, dtype=np.float32).reshape(7, 5)
    save_file({"a": tensor}, tmp_path / "file")
    out = np.zeros((5, 20), np.float32)
    read_header(tmp_path / "file")[0]["a"].read_into(out[:, 4:11].T)
    np.testing.assert_array_equal(out[:, 4:11], tensor.T)
    assert out.sum() == tensor.sum()


@pytest.mark.parametrize("change", ["truncated", "deleted"])
def test_a_file_that_changes_after_its_header_was_read(tmp_path: Path, change: str) -> None:
    save_file({"a": np.ones((100, 10), np.float32)}, tmp_path / "file")
    tensor = read_header(tmp_path / "file")[0]["a"]
    if change == "truncated":
        (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-1])
    else:
        (tmp_path / "file").unlink()
    with pytest.raises(ValueError, match=r"file (was truncated while it was read|cannot be read: No such file)"):
        tensor.read_into(np.zeros((100, 10), np.float32))


def test_another_dtype_is_not_read(tmp_path: Path) -> None:
    save_file({"a": np.ones(3, np.int64)}, tmp_path / "file")
    tensor = read_header(tmp_path / "file")[0]["a"]
    with pytest.raises(ValueError, match="the dtype is I64, but must be one of F32, F64, F16, BF16"):
        tensor.read_into(np.zeros(3, np.float32))
