"""The memory that loading takes: that of the weights, once, and none for a model that a small file claims to contain."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from minigpt import GPT, ModelConfig
from minigpt.interop.hugging_face import export
from minigpt.np.config import LLAMA, QWEN3
from minigpt.np.parameters import Parameters, shapes
from minigpt.runs.checkpoint import save_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process with Linux's setrlimit")
HUGE_SIZES = {
    "gpt2": {"vocab_size": 2**40, "n_positions": 2**62, "n_inner": 2**50, "n_layer": 10**9},
    "llama": {"vocab_size": 2**40, "intermediate_size": 2**62, "num_hidden_layers": 10**9, "hidden_size": 3 * 2**40},
    "qwen3": {"head_dim": 2**40, "num_hidden_layers": 10**9},
}
HUGE_HEADERS = {
    "a tensor": (b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}', None),
    "a tensor without elements": (b'{"a": {"dtype": "F32", "shape": [0, 1099511627776], "data_offsets": [0, 0]}}', None),
    "a header": (b"{}", 99_999_999),
    "a header of 2**64 - 1 bytes": (b"{}", 2**64 - 1),
}
LOAD = """
import resource, sys
from minigpt import load
from minigpt.cli.models import info
import minigpt.interop.load, safetensors
with open("/proc/self/statm") as file:
    limit = int(file.read().split()[0]) * resource.getpagesize() + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for command in sys.argv[3:]:
    try:
        {"load": load, "info": info}[command](sys.argv[1])
    except ValueError as error:
        print(error)
"""


def output_in_little_memory(path: Path, *commands: str, memory: int = 256 << 20) -> str:
    """Return what `load` and `info` print, or their errors, in a process that may allocate so many bytes after its imports."""
    words = [sys.executable, "-c", LOAD, str(path), str(memory), *(commands or ("load", "info"))]
    finished = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-500:]
    return finished.stdout


@pytest.mark.parametrize("family, name", [(family, name) for family, sizes in HUGE_SIZES.items() for name in sizes])
def test_huge_sizes_in_a_configuration(directory: Callable[..., Path], family: str, name: str) -> None:
    errors = output_in_little_memory(directory(family, **{name: HUGE_SIZES[family][name]})).splitlines()
    assert len(errors) == 2
    assert all("there is no tensor" in error or "but must have" in error for error in errors)


@pytest.mark.parametrize("name", ["n_layers", "d_ff", "context_length"])
def test_huge_sizes_in_a_checkpoint(tmp_path: Path, name: str) -> None:
    model = GPT(ModelConfig(vocab_size=10, context_length=8, d_model=8, n_layers=1, n_heads=1))
    object.__setattr__(model.config, name, 10**9)
    save_model(model, tmp_path / "model.safetensors")
    errors = output_in_little_memory(tmp_path).splitlines()
    assert len(errors) == 2 and all("but must have shape" in error for error in errors)


def test_a_huge_context_without_learned_positions_takes_no_memory(directory: Callable[..., Path]) -> None:
    """No tensor depends on it: it is the largest length that the model may be used with."""
    output = output_in_little_memory(directory("llama", max_position_embeddings=10**8))
    assert output.startswith("model ") and "context_length   100000000" in output


@pytest.mark.parametrize("case", HUGE_HEADERS)
def test_huge_sizes_in_a_header(directory: Callable[..., Path], case: str) -> None:
    folder = directory("gpt2")
    header, length = HUGE_HEADERS[case]
    length = len(header) if length is None else length
    (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + header)
    errors = output_in_little_memory(folder).splitlines()
    assert len(errors) == 2 and all(error.startswith(str(folder)) for error in errors)


# ------------------------------------------------- the weights of a model of 100 MB

SIZES = {"vocab_size": 20_000, "context_length": 64, "d_model": 512, "n_layers": 5}
LARGE = {
    "gpt2": ModelConfig(**SIZES, n_heads=8),
    "llama": ModelConfig(**SIZES, **LLAMA | {"tied": False}, n_heads=8, n_kv_heads=4, d_ff=1024),
    "qwen3": ModelConfig(**SIZES, **QWEN3, n_heads=8, n_kv_heads=4, d_ff=1024),
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, int]]:
    """Return a function that writes a model in one of the forms, and returns its folder and the bytes of its parameters."""

    def make(family: str, form: str) -> tuple[Path, int]:
        config = LARGE[family]
        model = GPT(config, parameters=Parameters(shapes(config), np.float32))
        folder = tmp_path_factory.mktemp("large") / "model"
        if form == "checkpoint":
            folder.mkdir()
            save_model(model, folder / "model.safetensors")
            return folder, model.parameters.flat.nbytes
        export(model, None, folder)
        if form != "float32":
            half = {name: tensor.astype(np.float16) for name, tensor in load_file(folder / "model.safetensors").items()}
            write_half(half, folder, "bfloat16" if form == "bfloat16" else "float16")
        return folder, model.parameters.flat.nbytes

    return make


def write_half(tensors: dict[str, np.ndarray], folder: Path, dtype: str) -> None:
    """Write tensors of 0 as bfloat16, or as float16 in two files with an index."""
    path = folder / "model.safetensors"
    path.unlink()
    if dtype == "bfloat16":
        content = save(tensors)
        end = 8 + int.from_bytes(content[:8], "little")
        header = content[8:end].replace(b'"F16"', b'"BF16"')
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    else:
        parts = [dict(list(tensors.items())[i::2]) for i in (0, 1)]
        for i, part in enumerate(parts):
            save_file(part, folder / f"part-{i}.safetensors")
        weight_map = {name: f"part-{i}.safetensors" for i, part in enumerate(parts) for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")


FORMS = [("gpt2", "checkpoint"), ("llama", "float32"), ("qwen3", "bfloat16"), ("gpt2", "float16 in two files")]


@pytest.mark.parametrize("family, form", FORMS)
def test_a_model_is_in_memory_once_while_it_is_loaded(
    large: Callable[[str, str], tuple[Path, int]], family: str, form: str
) -> None:
    """The rest is for a part of 8 MB of a file, and its conversion."""
    folder, size = large(family, form)
    assert size > 90 << 20
    assert output_in_little_memory(folder, "load", memory=size + (48 << 20)) == ""
