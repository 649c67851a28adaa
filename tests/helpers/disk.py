"""Intercept the calls that change files and folders."""

import builtins
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

Half = Callable[[], object]


class DiskCalls:
    """Base class. `install` patches the functions that change files and folders to call `on_call` first."""

    def __init__(self) -> None:
        self.synced_bytes: dict[str, int] = {}
        "Of each file that was written to and not synced since: the number of bytes that are certainly on disk."

    def on_call(self, name: str, *arguments: object, half: Half = lambda: None) -> None:
        """Called before the function `name`. May raise or kill; `half` writes half of what the call would write."""
        raise NotImplementedError

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Patch this process."""
        for name in ("unlink", "remove", "rmdir", "mkdir"):
            patch.setattr(os, name, self._simple(getattr(os, name)))
        for name in ("replace", "rename"):
            patch.setattr(os, name, self._move(getattr(os, name)))
        patch.setattr(os, "fsync", self._fsync(os.fsync))
        patch.setattr(safetensors.numpy, "serialize_file", self._serialize_file(safetensors.numpy.serialize_file))
        opened = self._open(open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)

    def _simple(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def patched(*arguments: Any, **options: Any) -> Any:
            self.on_call(function.__name__, *arguments)
            return function(*arguments, **options)

        return patched

    def _move(self, function: Callable[..., None]) -> Callable[..., None]:
        def patched(source: Any, target: Any, **options: Any) -> None:
            self.on_call(function.__name__, source, target)
            function(source, target, **options)
            self.synced_bytes = {path.replace(str(source), str(target)): size for path, size in self.synced_bytes.items()}

        return patched

    def _fsync(self, function: Callable[[int], None]) -> Callable[[int], None]:
        def patched(file: int) -> None:
            path = os.readlink(f"/proc/self/fd/{file}")
            self.on_call("fsync", path)
            function(file)
            self.synced_bytes.pop(path, None)

        return patched

    def _serialize_file(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def patched(tensors: Any, path: Path, **options: Any) -> None:
            def half() -> None:
                function(tensors, path, **options)
                os.truncate(path, path.stat().st_size // 2)

            self.on_call("serialize_file", path, half=half)
            function(tensors, path, **options)
            self.synced_bytes[str(path)] = 0

        return patched

    def _open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = self

        class File(io.FileIO):
            def write(self, content: Any) -> int:
                write, path = super().write, str(self.name)
                calls.on_call("write", path, half=lambda: write(content[: len(content) // 2]))
                calls.synced_bytes.setdefault(path, os.fstat(self.fileno()).st_size)
                return write(content)

        def patched(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            **more: Any,
        ) -> Any:
            if more or isinstance(file, int) or not set(mode) & set("wax+"):
                return function(file, mode, buffering, encoding, errors, newline, **more)
            self.on_call("open", file)
            stream = io.BufferedWriter(File(file, mode.replace("t", "")))
            return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)

        return patched
