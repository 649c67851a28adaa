"""Stop requests by Ctrl-C and SIGTERM."""

import signal

import pytest

from minigpt.train.interrupt import stop_request


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_no_stop_is_requested_without_a_signal() -> None:
    before = handlers()
    with stop_request() as stop:
        assert not stop()
    assert handlers() == before


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_requests_a_stop_and_does_not_interrupt(number: signal.Signals, code: int) -> None:
    before = handlers()
    with stop_request() as stop:
        signal.raise_signal(number)
        assert stop()
        assert handlers() == before  # a second signal ends the process
    assert stop.exit_code == code


def test_a_second_ctrl_c_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), stop_request():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_restored_after_an_error() -> None:
    before = handlers()
    with pytest.raises(RuntimeError), stop_request():
        raise RuntimeError
    assert handlers() == before
