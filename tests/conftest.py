"""What several test files share."""

import io
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TrainTiny = Callable[..., str]

# Before NumPy and PyTorch are loaded: on arrays as small as those of the tests, their threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before huggingface_hub is: no test asks the real hub, not even for a name that is a slip of the pen.
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
}


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Ctrl-C interrupts, also where the tests run in the background of a shell, which has them ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("tinystories/train.txt")`: real text to test on, or a skip that says what is missing."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("MINIGPT_DATA", Path(__file__).parents[2] / "shared"))
        path = folder / name
        if not path.exists():
            pytest.skip(f"needs {name} in the folder MINIGPT_DATA (or beside the repository, in shared)")
        return path

    return find


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared data goes to a temporary folder, and so for the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIGPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty little documents with something to learn."""
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
    """`train_tiny(out, steps=..., ...)` trains a tiny model in the folder `out`; returns what was printed."""

    def train(out: Path, *, resume: bool = False, overwrite: bool = False, **changes: Any) -> str:
        from rich.console import Console

        from minigpt.train.settings import Settings
        from minigpt.train.start import train

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
    """A run that was trained for sixty steps. To be read, not changed."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    train_tiny(path, steps=60, checkpoint_every=20, eval_every=20, sample_every=30, dropout=0.1)
    return path
