"""What several test files share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


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
