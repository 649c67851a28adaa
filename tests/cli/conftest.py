"""Fixtures of the command line tests: ways to run a command, and a trained model."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from minigpt import GPT, ModelConfig, cli
from minigpt.interop.hugging_face import export

Result = tuple[int, str, str]
SETTINGS: dict[str, object] = {
    "tokenizer": "bytes",
    "context-length": 16,
    "d-model": 16,
    "n-layers": 1,
    "n-heads": 2,
    "batch-size": 4,
    "lr": 1e-2,
    "threads": 2,
    "eval-every": 4,
    "eval-tokens": 200,
    "checkpoint-every": 4,
    "sample-every": 0,
}


@pytest.fixture(scope="session")
def flags() -> Callable[..., list[object]]:
    """`flags(steps=2)` returns the settings of a tiny model as flags. A setting that is None is left out."""

    def make(**changes: object) -> list[object]:
        settings = SETTINGS | {name.replace("_", "-"): value for name, value in changes.items()}
        return [word for name, value in settings.items() if value is not None for word in (f"--{name}", value)]

    return make


@pytest.fixture(scope="session")
def minigpt() -> Callable[..., list[str]]:
    """`minigpt("sample", path)` returns the command line that runs the command in a new process."""
    return lambda *arguments: [sys.executable, "-c", "from minigpt.cli import main; main()", *map(str, arguments)]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`run("sample", path, ...)` runs the command in this process, and returns its exit code, stdout and stderr."""

    def call(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    text_file: Path,
    minigpt: Callable[..., list[str]],
    flags: Callable[..., list[object]],
) -> Path:
    """A run that was trained by the command line."""
    path = tmp_path_factory.mktemp("runs") / "cli"
    command = minigpt("train", "--data", text_file, *flags(steps=8, dropout=0.1), "--out", path)
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    return path


@pytest.fixture
def start(minigpt: Callable[..., list[str]]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start("sample", path, ...)` starts the command in a new process, which is killed at the end of the test."""
    processes = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(minigpt(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()
        for stream in filter(None, (process.stdout, process.stderr)):
            stream.close()


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory without a tokenizer. The model has 37 ids, a context of 32, and distinct logits."""
    model = GPT(ModelConfig(vocab_size=37, context_length=32, d_model=16, n_layers=2, n_heads=2), seed=1)
    model.parameters.flat[...] += np.random.default_rng(1).standard_normal(model.parameters.flat.size) / 4
    path = tmp_path_factory.mktemp("directories") / "ids-only"
    export(model, None, path)
    return path
