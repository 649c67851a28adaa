"""Fixtures that several test files use."""

import io
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TrainTiny = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]

# Set before NumPy and PyTorch are imported. On arrays as small as those of the tests, several threads are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Set before huggingface_hub is imported. No test may access the real hub.
os.environ["HF_HUB_OFFLINE"] = "1"

TINY: dict[str, Any] = {
    "tokenizer": "bytes",
    "context_length": 16,
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 2,
    "batch_size": 4,
    "steps": 8,
    "lr": 1e-2,
    "threads": 2,
    "eval_every": 4,
    "eval_tokens": 200,
    "checkpoint_every": 4,
    "sample_every": 0,
    "samples": 5,
}


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Restore the default handler of SIGINT, which a shell sets to be ignored in background jobs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("tinystories/train.txt")` returns the path of real data, or skips the test if the data is missing."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("MINIGPT_DATA", Path(__file__).parents[2] / "shared"))
        path = folder / name
        if not path.exists():
            pytest.skip(f"needs {name} in the folder MINIGPT_DATA (or beside the repository, in shared)")
        return path

    return find


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a temporary cache for prepared data, also in the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIGPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of sixty short documents."""
    rng = random.Random(0)
    names, things = ["Tom", "Mia", "Zoë"], ["cat", "kite", "bun"]
    documents = [
        " ".join(f"{rng.choice(names)} saw a {rng.choice(things)}." for _ in range(rng.randint(2, 5))) for _ in range(60)
    ]
    path = tmp_path_factory.mktemp("text") / "little.txt"
    path.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def train_tiny(text_file: Path) -> TrainTiny:
    """`train_tiny(out, steps=..., ...)` trains a tiny model in the folder `out`, and returns the printed text."""

    def train(out: Path, *, resume: bool = False, overwrite: bool = False, **changes: Any) -> str:
        from rich.console import Console

        from minigpt.training.settings import Settings
        from minigpt.training.train import train

        printed = io.StringIO()
        settings = Settings(**{"data": (str(text_file),), **TINY, **changes})
        train(
            settings,
            out,
            console=Console(file=printed),
            command="minigpt train",
            version="0.0.0",
            resume=resume,
            overwrite=overwrite,
        )
        return printed.getvalue()

    return train


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, train_tiny: TrainTiny) -> Path:
    """A run of sixty steps. Tests must not change it."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    train_tiny(path, steps=60, checkpoint_every=20, eval_every=20, sample_every=30, dropout=0.1)
    return path


@pytest.fixture
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training in this process generates samples of 4 tokens."""
    from helpers.runs import shorten_samples

    shorten_samples(monkeypatch)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """`command("sample", run, ...)` runs a command in this process; returns its exit code, stdout and stderr."""
    from minigpt import cli

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call
