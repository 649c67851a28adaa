"""The cache folder, in which each entry is a folder that is named after everything that determines its content."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from minigpt.data.atomic import file_lock, fsync
from minigpt.data.text_files import Say

FORMAT = 3  # of the entries: part of their names, so entries of other formats are not found


def default_cache() -> Path:
    """Return the folder for prepared data: the environment variable MINIGPT_CACHE, or the cache folder of the platform."""
    if chosen := os.environ.get("MINIGPT_CACHE"):
        return Path(chosen)
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "minigpt"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "minigpt"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "minigpt"


def make_writable(cache: Path) -> None:
    """Create the cache folder. Raises ValueError if nothing can be written to it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"cannot write to the cache folder {cache} ({reason}): set MINIGPT_CACHE to another") from error


def find_or_build(cache: Path | None, recipe: dict[str, Any], build: Callable[[Path], None], say: Say) -> Path:
    """Return the folder of `recipe` in the cache; if there is none, `build` writes it.

    It is written under a temporary name and then renamed, so it is complete or absent. A second process waits for the first.
    """
    cache = default_cache() if cache is None else Path(cache)
    name = hashlib.sha256(json.dumps([FORMAT, recipe], sort_keys=True).encode("utf-8")).hexdigest()[:16]
    folder = cache / name
    lock = cache / f"{name}.lock"
    if folder.is_dir():
        with suppress(OSError):
            lock.unlink()  # left by a process that was killed after the rename
        return folder
    make_writable(cache)
    with file_lock(lock, wait=lambda: say("another process is preparing the same data: waiting for it")):
        if not folder.is_dir():
            _build_and_rename(folder, cache / f"building-{name}", build)
    return folder


def _build_and_rename(folder: Path, building: Path, build: Callable[[Path], None]) -> None:
    shutil.rmtree(building, ignore_errors=True)  # left by a process that was killed
    building.mkdir()
    try:
        build(building)
        fsync(building)
        os.rename(building, folder)
        fsync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
