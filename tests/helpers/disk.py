"""Intercept the calls that change files and folders, and simulate power cuts."""

import builtins
import io
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.numpy

Half = Callable[[], object]


class DiskCalls:
    """Base class. `install` patches the functions that change files and folders to call `on_call` first."""

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
        def patched(path: Any, *arguments: Any, dir_fd: int | None = None, **options: Any) -> Any:
            parent = "" if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")  # shutil.rmtree gives names in a folder
            self.on_call(function.__name__, os.path.join(parent, path), *arguments)
            return function(path, *arguments, dir_fd=dir_fd, **options)

        return patched

    def _move(self, function: Callable[..., None]) -> Callable[..., None]:
        def patched(source: Any, target: Any, **options: Any) -> None:
            self.on_call(function.__name__, source, target)
            function(source, target, **options)

        return patched

    def _fsync(self, function: Callable[[int], None]) -> Callable[[int], None]:
        def patched(file: int) -> None:
            self.on_call("fsync", os.readlink(f"/proc/self/fd/{file}"))
            function(file)

        return patched

    def _serialize_file(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def patched(tensors: Any, path: Path, **options: Any) -> None:
            def half() -> None:
                function(tensors, path, **options)
                os.truncate(path, path.stat().st_size // 2)

            self.on_call("serialize_file", path, half=half)
            function(tensors, path, **options)

        return patched

    def _open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = self

        class File(io.FileIO):
            def write(self, content: Any) -> int:
                write, path = super().write, str(self.name)
                calls.on_call("write", path, half=lambda: write(content[: len(content) // 2]))
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
            if more or isinstance(file, int) or file == os.devnull or not set(mode) & set("wax+"):
                return function(file, mode, buffering, encoding, errors, newline, **more)
            self.on_call("open", file)
            stream = io.BufferedWriter(File(file, mode.replace("t", "")))
            return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)

        return patched


@dataclass(eq=False)
class Node:
    """A file or a folder on a simulated disk."""

    content: bytes = b""  # of a file: the bytes at the last fsync
    entries: dict[str, "Node"] | None = None  # of a folder: its current entries; None for a file
    synced: dict[str, "Node"] = field(default_factory=dict)  # of a folder: the entries at the last fsync


class Cut(NamedTuple):
    """A power cut."""

    call: str
    "The call before which it happens."
    reported: int
    "The value of `PowerCuts.reported` at that moment."
    loses_all: bool
    "Whether everything is lost that was not flushed, or only some of it."


Tree = tuple[tuple[str, bytes | None], ...]
"The paths of files, each with its content, and of folders, each with None. A folder precedes what it contains."


class PowerCuts(DiskCalls):
    """Determines what remains below `root` after a power cut between any two calls.

    POSIX guarantees the bytes of a file as of its last fsync, and the names in a folder (after creating, renaming and deleting)
    as of the last fsync of that folder. What is newer may be lost or not. For each moment there are three power cuts: all of it
    is lost; new names remain, but new bytes are lost; and for each file and folder, a random choice.
    """

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.found: dict[Tree, Cut] = {}
        "What remains, and the last of the power cuts that leave it."
        self.reported = 0  # set by the caller: something that a power cut must not undo, such as the step of a checkpoint
        self._root_path = os.path.realpath(root)
        self._root = _read(self._root_path)
        self._random = random.Random(seed)

    def on_call(self, name: str, *arguments: object, half: Half = lambda: None) -> None:
        """Add the power cuts before a call, and simulate the call."""
        paths = [os.path.abspath(str(argument)) for argument in arguments if not isinstance(argument, int)]
        if any(not path.startswith(self._root_path) for path in paths):
            return
        self.cut(" ".join([name, *(os.path.relpath(path, self._root_path) for path in paths)]))
        if name == "fsync":
            self._sync(paths[0])
        elif name in ("replace", "rename"):
            (folder, source), (other, target) = map(self._find, paths)
            other[target] = folder.pop(source)
        elif name in ("unlink", "remove", "rmdir"):
            folder, entry = self._find(paths[0])
            if entry in folder and not folder[entry].entries:  # a folder that is not empty remains
                del folder[entry]
        else:  # mkdir, open, write, serialize_file
            folder, entry = self._find(paths[0])
            folder.setdefault(entry, Node(entries={} if name == "mkdir" else None))

    def cut(self, call: str) -> None:
        """Add the power cuts at this moment."""
        for loses_names, loses_bytes in ((0.0, 1.0), (0.5, 0.5), (1.0, 1.0)):
            tree = tuple(self._remaining(self._root, "", loses_names, loses_bytes))
            self.found[tree] = Cut(call, self.reported, loses_all=loses_names == 1)

    def write(self, folder: Path) -> list[Cut]:
        """Write what remains after each power cut to folder/0, folder/1, and so on; return the power cuts."""
        for number, tree in enumerate(self.found):
            (folder / str(number)).mkdir(parents=True)
            for name, content in tree:
                path = folder / str(number) / name
                path.mkdir() if content is None else path.write_bytes(content)
        return list(self.found.values())

    def _find(self, path: str) -> tuple[dict[str, Node], str]:
        """Return the current entries of the folder of a path (empty if there is none: the call will fail), and the name."""
        node = self._root
        *parents, name = os.path.relpath(path, self._root_path).split(os.sep)
        for parent in parents:
            node = (node.entries or {}).get(parent, Node(entries={}))
        assert node.entries is not None
        return node.entries, name

    def _sync(self, path: str) -> None:
        entries, name = self._find(path)
        node = self._root if path == self._root_path else entries[name]
        if node.entries is None:
            node.content = Path(path).read_bytes()
        else:
            node.synced = dict(node.entries)

    def _remaining(self, folder: Node, path: str, loses_names: float, loses_bytes: float) -> Iterator[tuple[str, bytes | None]]:
        """Yield what remains of a folder, if its new names and the new bytes of its files are lost with some probability."""
        assert folder.entries is not None
        entries = folder.synced if self._random.random() < loses_names else folder.entries
        for name, node in sorted(entries.items()):
            below = os.path.join(path, name)
            if node.entries is not None:
                yield below, None
                yield from self._remaining(node, below, loses_names, loses_bytes)
            elif self._random.random() < loses_bytes or folder.entries.get(name) is not node:
                yield below, node.content
            else:
                yield below, Path(self._root_path, below).read_bytes()


def _read(path: str) -> Node:
    """Return the node of an existing file or folder, which is on disk."""
    if not os.path.isdir(path):
        return Node(Path(path).read_bytes())
    entries = {name: _read(os.path.join(path, name)) for name in os.listdir(path)}
    return Node(entries=entries, synced=dict(entries))
