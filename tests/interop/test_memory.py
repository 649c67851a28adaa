"""Small files that claim to contain a huge model are refused without allocating its memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process with Linux's setrlimit")
HUGE_SIZES = {
    "gpt2": {"vocab_size": 2**40, "n_positions": 2**62, "n_inner": 2**50, "n_layer": 10**9},
    "llama": {"vocab_size": 2**40, "intermediate_size": 2**62, "num_hidden_layers": 10**9, "hidden_size": 3 * 2**40},
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
import minigpt.interop.load, safetensors
with open("/proc/self/statm") as file:
    limit = int(file.read().split()[0]) * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    load(sys.argv[1])
except ValueError as error:
    print(error)
"""


def error_in_little_memory(folder: Path) -> str:
    """Return the error of `load` in a process that may allocate 256 MB after its imports."""
    finished = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-500:]
    return finished.stdout


@pytest.mark.parametrize("family, name", [(family, name) for family, sizes in HUGE_SIZES.items() for name in sizes])
def test_huge_sizes_in_a_configuration(directory: Callable[..., Path], family: str, name: str) -> None:
    error = error_in_little_memory(directory(family, **{name: HUGE_SIZES[family][name]}))
    assert "there is no tensor" in error or "but must have" in error


@pytest.mark.parametrize("case", HUGE_HEADERS)
def test_huge_sizes_in_a_header(directory: Callable[..., Path], case: str) -> None:
    folder = directory("gpt2")
    header, length = HUGE_HEADERS[case]
    length = len(header) if length is None else length
    (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + header)
    assert str(folder) in error_in_little_memory(folder)
