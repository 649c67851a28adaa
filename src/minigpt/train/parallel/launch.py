"""Launch minigpt as several MPI ranks with mpiexec, and relaunch a training run after a crash."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from minigpt.train.parallel.mpi import INSTALL_HINT

FINAL_EXIT_CODES = {0, 2, 130, 143}  # finished, refused, stopped by a signal: launching again would not help
FORWARDED_SIGNAL = getattr(signal, "SIGUSR1", signal.SIGTERM)


def launch(command: Sequence[str], ranks: int, restarts: int = 0) -> int:
    """Run `minigpt COMMAND` as this number of ranks on this machine; return the exit code.

    If `train --out RUN` fails, launch it again from its last checkpoint, at most `restarts` times. Raises `ValueError` if
    mpi4py or mpiexec is missing.
    """
    out = _run_folder(command) if restarts else None
    launcher = [*mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "minigpt"]
    code, arguments = _run([*launcher, *command]), list(command)
    for attempt in range(1, restarts + 1):
        if code in FINAL_EXIT_CODES:
            break
        if out and (out / "config.toml").exists():
            arguments = _resume_command(command)
        print(f"minigpt: exit code {code}; restarting ({attempt} of {restarts})", file=sys.stderr, flush=True)
        code = _run([*launcher, *arguments])
    return code


def _run_folder(command: Sequence[str]) -> Path:
    """Return the run folder that a training command writes to."""
    for i, word in enumerate(command):
        name, _, value = word.partition("=")
        if name == "--out" and command[0] == "train" and (value or i + 1 < len(command)):
            return Path(value or command[i + 1])
    raise ValueError(f"--restarts requires the command train with --out RUN, but the command is: {shlex.join(command)}")


def _resume_command(command: Sequence[str]) -> list[str]:
    """Return the command that resumes a run: with --resume, and without --config, because the run has a config.toml."""
    words = iter(command)
    kept = []
    for word in words:
        if word == "--config":
            next(words, None)
        elif word not in ("--overwrite", "--resume") and not word.startswith("--config="):
            kept.append(word)
    return [*kept, "--resume"]


def mpiexec() -> list[str]:
    """Return the command mpiexec, with the options that keep Open MPI from binding each rank to one core.

    Several ranks on a machine have several workers each. Raises `ValueError` if mpi4py or mpiexec is missing.
    """
    try:
        import mpi4py  # noqa: F401
    except ImportError:
        raise ValueError(f"launch needs mpi4py: {INSTALL_HINT}") from None
    sibling = Path(sys.executable).with_name("mpiexec")
    path = str(sibling) if sibling.exists() else shutil.which("mpiexec")
    if not path:
        raise ValueError(f"launch needs mpiexec: {INSTALL_HINT}")
    version = subprocess.run([path, "--version"], capture_output=True, encoding="utf-8", errors="replace").stdout
    options = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"] if "open" in version.lower() else []
    return [path, *options]


def _run(command: Sequence[str]) -> int:
    """Run mpiexec and wait for it. The first Ctrl-C or SIGTERM asks the ranks to save and stop; the second one ends them."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM if received else FORWARDED_SIGNAL)
        received.append(number)

    process = subprocess.Popen(command, env={**os.environ, **root}, stdin=subprocess.DEVNULL, start_new_session=True)
    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        return 128 + received[0]
    return code if code >= 0 else 128 - code
