"""minigpt.train: the bits of the command, the callback, interrupts, threads, and what it leaves behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import child_processes
from helpers.runs import TINY_MODEL, as_flags, differences, interrupted_at, outcome

import minigpt
from minigpt.np.model import GPT
from minigpt.runs.checkpoint import checkpoints
from minigpt.runs.folder import RunFolder

SETTINGS: dict[str, Any] = {
    **TINY_MODEL,
    **{"steps": 6, "batch_size": 4, "threads": 2, "eval_every": 3, "eval_tokens": 100, "sample_every": 3, "samples": 2},
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def of_the_command(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> dict[str, Any]:
    """The outcome of `minigpt train` with these settings."""
    run = tmp_path_factory.mktemp("runs") / "command"
    words = ["train", "--data", str(text_file), *as_flags(SETTINGS), "--out", str(run)]
    subprocess.run([sys.executable, "-m", "minigpt", *words], check=True, capture_output=True)
    return outcome(run)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Check after each test that no worker runs, and that the streams and the handler of Ctrl-C are those from before."""
    before = sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT), set(threading.enumerate())
    yield
    assert (sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT)) == before[:3]
    assert set(threading.enumerate()) <= before[3]
    if sys.platform == "linux":
        assert child_processes(os.getpid()) == []


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not write reports in this process, which takes longer than the training. The script writes one."""
    monkeypatch.setattr("minigpt.api.train.write_report", lambda run: run)


@contextmanager
def stopped_after(step: int, number: signal.Signals) -> Iterator[None]:
    """Raise a signal in the step after this one."""
    with interrupted_at(step + 1, number):
        yield


def test_the_command_and_python_give_the_same_bits_with_and_without_a_callback(
    of_the_command: dict[str, Any], text_file: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, dict[str, Any], bytes]] = []

    def callback(step: int, record: dict[str, Any], model: GPT) -> None:
        model.generate([[1, 2, 3], [4]], max_new_tokens=12, temperature=1.0)
        seen.append((step, dict(record), model.parameters.flat.tobytes()))

    run = minigpt.train(text_file, **SETTINGS, out=tmp_path / "run", callback=callback, quiet=True)
    assert differences(run.path, of_the_command) == []
    assert [step for step, _, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert [record for _, record, _ in seen] == RunFolder(run.path).records("metrics.jsonl")
    assert [step for step, record, _ in seen if "val_loss" in record] == [3, 6]
    assert len({weights for _, _, weights in seen}) == 6  # the model changes from step to step
    assert seen[-1][2] == run.model.parameters.flat.tobytes()


def test_after_an_exception_in_the_callback_no_step_is_lost(
    of_the_command: dict[str, Any], text_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def callback(step: int, record: dict[str, Any], model: GPT) -> None:
        if step == 4:
            raise KeyError("a mistake of the user")

    with pytest.raises(KeyError, match="a mistake of the user") as caught:
        minigpt.train(text_file, **SETTINGS, out=tmp_path / "run", callback=callback, quiet=True)
    assert caught.value.__notes__ == [f"The callback raised this after step 4 of {tmp_path / 'run'}, which is saved."]
    run = minigpt.open_run(tmp_path / "run")
    assert (run.metrics["step"][-1], run.finished) == (4, False)
    assert checkpoints(RunFolder(run.path))[-1].name == "step-000004"
    minigpt.train(out=run.path, resume=True, quiet=True)
    assert differences(run.path, of_the_command) == []
    assert run.finished
    assert capfd.readouterr() == ("", "")  # quiet


def test_an_interrupt_returns_the_run_and_says_how_to_resume(
    of_the_command: dict[str, Any], text_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run's"
    with stopped_after(2, signal.SIGINT):
        run = minigpt.train(text_file, **SETTINGS, out=path)
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == f"Stopped and saved. To resume: minigpt.train(out={str(path)!r}, resume=True)"
    assert err == "\nStopping after this step. Interrupt again (Ctrl-C) to stop immediately without saving.\n"
    assert (run.metrics["step"].tolist(), run.finished) == ([1, 2, 3], False)  # the step itself is completed
    with stopped_after(4, signal.SIGINT):
        minigpt.train(out=path, resume=True, quiet=True)
    assert (run.metrics["step"][-1], run.finished) == (5, False)
    resumed: minigpt.Run = eval(out.splitlines()[-1].partition("To resume: ")[2].replace("True)", "True, quiet=True)"))
    assert differences(resumed.path, of_the_command) == []
    assert capfd.readouterr() == ("", "")  # also when it was interrupted


def test_other_signals_have_their_effect_after_the_run_is_saved(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[list[str]] = []
    run = RunFolder(tmp_path / "run")
    previous = signal.signal(signal.SIGTERM, lambda number, frame: saved.append([path.name for path in checkpoints(run)]))
    try:
        with stopped_after(1, signal.SIGTERM):
            minigpt.train(text_file, **{**SETTINGS, "sample_every": 0}, out=run.path, quiet=True)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert saved == [["step-000002"]]


def test_a_second_training_at_the_same_time_is_refused(text_file: Path, tmp_path: Path) -> None:
    started, may_end = threading.Event(), threading.Event()
    runs: list[minigpt.Run] = []

    def callback(step: int, record: dict[str, Any], model: GPT) -> None:
        started.set()
        assert may_end.wait(60)

    def train() -> None:
        settings = {**SETTINGS, "sample_every": 0, "steps": 2}
        runs.append(minigpt.train(text_file, **settings, out=tmp_path / "first", callback=callback, quiet=True))

    thread = threading.Thread(target=train)
    thread.start()
    try:
        assert started.wait(60)
        with pytest.raises(RuntimeError, match="another training is running in this process: wait until it has ended"):
            minigpt.train(text_file, **SETTINGS, out=tmp_path / "second", quiet=True)
    finally:
        may_end.set()
        thread.join()
    assert runs[0].finished  # in another thread than the main one
    assert not (tmp_path / "second").exists()


def test_a_training_that_is_refused_or_fails_can_be_followed_by_another(text_file: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "sample_every": 0, "steps": 2, "quiet": True}
    with pytest.raises(ValueError, match="no such file"):
        minigpt.train(tmp_path / "missing.txt", **settings)
    with pytest.raises(ArithmeticError, match=r"is not finite \(loss .*\); a smaller lr may help, or on_nonfinite skip"):
        minigpt.train(text_file, **{**settings, "head_lr": 3e38}, out=tmp_path / "failed")
    wider = minigpt.train(text_file, **{**settings, "d_model": 16, "threads": 3}, out=tmp_path / "wider")
    assert wider.finished and wider.model.config.d_model == 16


SCRIPT = """
import os, sys
import minigpt

settings = {"tokenizer": "bytes", "context_length": 8, "d_model": 8, "n_layers": 1, "n_heads": 2, "steps": 2}
run = minigpt.train(sys.argv[1], **settings, threads=2)
print(run)
"""


@linux
def test_a_script_needs_no_main_guard_and_has_no_warnings(text_file: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-W", "error", "-c", SCRIPT, str(text_file)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("Run('runs/little-quick', 4,976 parameters, step 2 of 2, validation loss ")
    assert done.stdout.count("Preparing the data") == 1  # no worker runs the script again
    assert (tmp_path / "runs" / "little-quick" / "report.html").stat().st_size > 1000
    recorded = RunFolder(tmp_path / "runs" / "little-quick").read_json("run.json")["command"]
    assert recorded.startswith(f"minigpt train --data {text_file} --tokenizer bytes --context-length 8 ")


def train_in_pool(arguments: tuple[Path, Path]) -> bool:
    text, out = arguments
    return minigpt.train(text, **{**SETTINGS, "sample_every": 0, "steps": 1, "out": out, "quiet": True}).finished


@linux
def test_the_processes_of_a_pool_can_train(text_file: Path, tmp_path: Path) -> None:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(train_in_pool, [(text_file, tmp_path / "run")]) == [True]
    pool.join()
