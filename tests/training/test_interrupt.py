"""Stop requests by Ctrl-C, SIGTERM, SIGHUP and SIGUSR1."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minigpt.training.interrupt import ERASE_LINE, IMMEDIATE, MESSAGE, SIGNALS, stop_request

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has neither SIGHUP nor SIGUSR1")


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in IMMEDIATE]


@pytest.fixture(autouse=True)
def unchanged_handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_no_stop_is_requested_without_a_signal() -> None:
    before = handlers()
    with stop_request() as stop:
        assert not stop()
    assert handlers() == before


def test_a_handler_of_a_program_that_embeds_python_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before, getsignal = handlers(), signal.getsignal
    monkeypatch.setattr("signal.getsignal", lambda number: None if number == signal.SIGTERM else getsignal(number))
    with stop_request():
        assert getsignal(signal.SIGTERM) == before[IMMEDIATE.index(signal.SIGTERM)]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_requests_a_stop_and_does_not_interrupt(number: signal.Signals, code: int) -> None:
    before = handlers()
    with stop_request() as stop:
        signal.raise_signal(number)
        assert stop()
        assert handlers() == before  # a second signal ends the process
    assert stop.exit_code == code


@posix
@pytest.mark.parametrize("name, code", [("SIGHUP", 129), ("SIGUSR1", 138)])
def test_a_hangup_may_come_several_times(name: str, code: int) -> None:
    before = handlers()
    with stop_request() as stop:
        for _ in range(3):
            signal.raise_signal(signal.Signals[name])
        assert stop()
        assert handlers() == before  # Ctrl-C or SIGTERM ends the process
    assert stop.exit_code == code


@posix
def test_an_ignored_hangup_remains_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_request() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_message_that_cannot_be_printed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full, stop_request() as stop:
        monkeypatch.setattr(sys, "stderr", full)
        monkeypatch.setattr(sys, "__stderr__", full)
        signal.raise_signal(signal.SIGTERM)
    assert stop()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], str]]:
    """Make stderr a terminal; `terminal(n)` returns the first n characters that it received."""
    import pty

    main, other = pty.openpty()
    with open(other, "w", encoding="utf-8") as stderr:
        monkeypatch.setattr(sys, "__stderr__", stderr)
        yield lambda n: b"".join(os.read(main, 1) for _ in range(n) if select.select([main], [], [], 1)[0]).decode()
    os.close(main)


@posix
def test_on_a_terminal_the_message_replaces_the_progress_line(terminal: Callable[[int], str]) -> None:
    with stop_request():
        os.write(sys.__stderr__.fileno(), b"step 1 ... ^C")  # type: ignore[union-attr]
        signal.raise_signal(signal.SIGINT)
    expected = f"step 1 ... ^C{ERASE_LINE}{MESSAGE}".replace("\n", "\r\n")
    assert terminal(len(expected)) == expected


@posix
def test_elsewhere_the_message_is_plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, message in (("default", MESSAGE), ("quiet", "")):
        with open(tmp_path / name, "w", encoding="utf-8") as stderr, stop_request(message):
            monkeypatch.setattr(sys, "__stderr__", stderr)
            signal.raise_signal(signal.SIGINT)
    assert (tmp_path / "default").read_text(encoding="utf-8") == f"\n{MESSAGE}"
    assert (tmp_path / "quiet").read_text(encoding="utf-8") == ""


def test_a_second_ctrl_c_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), stop_request():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


BUSY = """
import numpy as np
from minigpt.training.interrupt import forced_exit, stop_request
a = np.ones((6000, 6000), np.int8)
with forced_exit(), stop_request():
    print("ready", flush=True)
    a @ a  # minutes, because NumPy multiplies integers without a BLAS
"""


@posix
def test_a_second_ctrl_c_ends_a_process_in_a_long_call() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.3)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()


def test_handlers_are_restored_after_an_error() -> None:
    before = handlers()
    with pytest.raises(RuntimeError), stop_request():
        raise RuntimeError
    assert handlers() == before
