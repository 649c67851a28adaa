"""Read the answers of the page."""

import base64
from typing import Any

import numpy as np


def decoded(value: dict[str, Any]) -> np.ndarray:
    """Return the array that `minigpt.page.arrays.encoded` has encoded."""
    return np.frombuffer(base64.b64decode(value["data"]), "<f4").reshape(value["shape"])
