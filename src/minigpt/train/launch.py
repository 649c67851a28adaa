"""Starting minigpt as several ranks, with mpiexec and the right environment, and starting it again after a crash."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from minigpt.train.mpi import HOW

WELL_MEANT = {0, 2, 130, 143}  # finished, refused, stopped: to start again would not help
FORWARDED = getattr(signal, "SIGUSR1", signal.SIGTERM)


def launch(command: Sequence[str], ranks: int, restarts: int = 0) -> int:
    """Run `minigpt COMMAND` as so many ranks on this machine; returns the exit code.

    A `train --out RUN` that ends badly is started again, at most `restarts` times, from its last checkpoint. Raises
    `ValueError` without mpi4py or mpiexec.
    """
    out = _run_of(command) if restarts else None
    start = [*mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "minigpt"]
    code, arguments = _run([*start, *command]), list(command)
    for again in range(1, restarts + 1):
        if code in WELL_MEANT:
            break
        if out and (out / "config.toml").exists():
            arguments = _resumed(command)
        print(f"minigpt: ended with exit code {code}; starting again ({again} of {restarts})", file=sys.stderr, flush=True)
        code = _run([*start, *arguments])
    return code


def _run_of(command: Sequence[str]) -> Path:
    """The folder of the run that a command trains in."""
    for i, word in enumerate(command):
        name, _, value = word.partition("=")
        if name == "--out" and command[0] == "train" and (value or i + 1 < len(command)):
            return Path(value or command[i + 1])
    raise ValueError(f"--restarts goes with train --out RUN, but the command is: {shlex.join(command)}")


def _resumed(command: Sequence[str]) -> list[str]:
    """The same command for a run that has begun: config.toml has the settings now."""
    words = iter(command)
    kept = []
    for word in words:
        if word == "--config":
            next(words, None)
        elif word not in ("--overwrite", "--resume") and not word.startswith("--config="):
            kept.append(word)
    return [*kept, "--resume"]


def mpiexec() -> list[str]:
    """How to start mpiexec, so that of several ranks on this machine none is bound to a core: they have workers of their own.

    Raises `ValueError` without mpi4py or mpiexec.
    """
    try:
        import mpi4py  # noqa: F401
    except ImportError:
        raise ValueError(f"launch needs mpi4py: {HOW}") from None
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not found:
        raise ValueError(f"launch needs mpiexec: {HOW}")
    told = subprocess.run([found, "--version"], capture_output=True, encoding="utf-8", errors="replace").stdout
    ours = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"] if "open" in told.lower() else []
    return [found, *ours]


def _run(command: Sequence[str]) -> int:
    """Run mpiexec to its end. Ctrl-C and SIGTERM ask the ranks to save and stop; a second time they end them."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM if asked else FORWARDED)
        asked.append(number)

    process = subprocess.Popen(command, env={**os.environ, **root}, stdin=subprocess.DEVNULL, start_new_session=True)
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + asked[0] if asked else code if code >= 0 else 128 - code
