"""Launch minigpt as several MPI ranks with mpiexec, and relaunch a training run after a crash."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType

from minigpt.training.interrupt import IMMEDIATE, SIGNALS
from minigpt.training.parallel.mpi import INSTALL_HINT

SAVE_SIGNAL = getattr(signal, "SIGUSR1", signal.SIGTERM)  # mpiexec forwards it to the ranks; it ends them itself after SIGTERM
QUIT = getattr(signal, "SIGQUIT", None)
FINAL_EXIT_CODES = {0, 2, *(128 + number for number in SIGNALS)}  # finished, refused, stopped: launching again would not help
END_TIMEOUT_S = 5  # mpiexec needs less time than this to end its ranks after SIGTERM


def launch(command: Sequence[str], ranks: int, restarts: int = 0) -> int:
    """Run `minigpt COMMAND` as this number of ranks on this machine; return the exit code.

    If `train --out RUN` fails, launch it again from its last checkpoint, at most `restarts` times. Raises `ValueError` if
    mpi4py or mpiexec is missing.
    """
    out = _run_folder(command) if restarts else None
    launcher = [*mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "minigpt"]
    with Job() as job:
        code, arguments = job.run([*launcher, *command]), list(command)
        for attempt in range(1, restarts + 1):
            if code in FINAL_EXIT_CODES or job.received:
                break
            if out and (out / "config.toml").exists():
                arguments = _resume_command(command)
            print(f"minigpt: exit code {code}; restarting ({attempt} of {restarts})", file=sys.stderr, flush=True)
            code = job.run([*launcher, *arguments])
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


class Job:
    """Runs mpiexec and forwards the signals of this process to it. A context manager, which handles the signals.

    The first signal asks the ranks to save and stop. A second Ctrl-C or SIGTERM ends them, and so does SIGQUIT at any time.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._ending = False
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Job":
        handled = [number for number in (*SIGNALS, QUIT) if number and signal.getsignal(number) is not signal.SIG_IGN]  # nohup
        self._previous = {number: signal.signal(number, self._forward) for number in handled}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> int:
        """Run mpiexec and wait for it; return its exit code, or 128 plus the number of the first signal that was received."""
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        process = self._process = subprocess.Popen(
            command,
            env={**os.environ, **root},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with(os.getpid()) if sys.platform == "linux" else None,
        )
        try:
            if self.received:  # before the process was started
                self._signal_process()
            code = self._wait(process)
        finally:
            process.kill()  # after an error
        if self.received:
            return 128 + self.received[0]
        return code if code >= 0 else 128 - code

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        """Wait for mpiexec; kill it if it does not end within `END_TIMEOUT_S` after SIGTERM. The ranks end with it."""
        while True:
            try:
                return process.wait(timeout=END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                if self._ending:
                    process.kill()
                self._ending |= self._ended_by_signals()

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        self._signal_process()

    def _signal_process(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGTERM if self._ended_by_signals() else SAVE_SIGNAL)

    def _ended_by_signals(self) -> bool:
        """Return whether the signals that were received end the job without saving."""
        return QUIT in self.received or any(number in IMMEDIATE for number in self.received[1:])


def _end_with(parent: int) -> Callable[[], None]:
    """Return a function that makes Linux send SIGTERM to the process that calls it when its parent ends, even by SIGKILL."""
    import ctypes

    prctl, PR_SET_PDEATHSIG = ctypes.CDLL(None).prctl, 1

    def end_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)

    return end_with_parent
