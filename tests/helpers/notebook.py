"""Run cells in the kernel of a notebook."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Cell:
    """What a cell showed, and whether it ended with an error."""

    error: str | None = None
    displays: list[dict[str, str]] = field(default_factory=list)
    "The objects that were displayed, as text, HTML, PNG and so on. The result of the cell is the last one."
    updates: list[dict[str, str]] = field(default_factory=list)
    "What a display was replaced by."
    streams: dict[str, str] = field(default_factory=lambda: {"stdout": "", "stderr": ""})

    def add(self, message: dict[str, Any]) -> None:
        """Add a message of the kernel."""
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "stream":
            self.streams[content["name"]] += content["text"]
        elif kind in ("display_data", "execute_result"):
            self.displays.append(content["data"])
        elif kind == "update_display_data":
            self.updates.append(content["data"])
        elif kind == "error":
            self.error = f"{content['ename']}: {content['evalue']}"


class Kernel:
    """A kernel in a folder of its own."""

    def __init__(self, manager: Any, client: Any) -> None:
        self._manager, self._client = manager, client

    def run(self, code: str, interrupt_at: str | None = None) -> Cell:
        """Run a cell. When it prints the text `interrupt_at`, interrupt the kernel as the stop button of a notebook does."""
        cell = Cell()
        interrupt: Callable[[], None] | None = self._manager.interrupt_kernel if interrupt_at else None

        def receive(message: dict[str, Any]) -> None:
            nonlocal interrupt
            cell.add(message)
            if interrupt and interrupt_at in cell.streams["stdout"]:
                interrupt()
                interrupt = None

        self._client.execute_interactive(code, output_hook=receive, timeout=120)
        return cell


def use_folder(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let Jupyter and IPython keep their files in a temporary folder, and ignore the user's kernels and settings."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        patch.setenv(name, str(folder / name.lower()))


@contextmanager
def start_kernel(folder: Path) -> Iterator[Kernel]:
    """Start a kernel that works in a folder, and end it after the block."""
    from jupyter_client.manager import KernelManager

    with pytest.MonkeyPatch.context() as patch:
        use_folder(folder, patch)
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(cwd=str(folder), extra_arguments=["--log-level=ERROR"])
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            yield Kernel(manager, client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
