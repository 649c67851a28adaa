"""minigpt.train in a notebook: one kernel for all tests, because it takes seconds to start."""

import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("jupyter_client")
pytest.importorskip("ipykernel")
from helpers.notebook import Kernel, start_kernel

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

SETUP = """
import os
from pathlib import Path
import minigpt

def workers():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

sizes = {"tokenizer": "bytes", "context_length": 8, "d_model": 8, "n_layers": 1, "n_heads": 2, "threads": 2}
settings = {**sizes, "stories": 30, "batch_size": 2, "eval_tokens": 64, "sample_every": 0, "samples": 0}
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel with the settings of a small model."""
    with start_kernel(tmp_path_factory.mktemp("notebook")) as kernel:
        assert kernel.run(SETUP).error is None
        yield kernel


def test_a_training_shows_one_live_line_and_returns_the_run(kernel: Kernel) -> None:
    cell = kernel.run("run = minigpt.train(**settings, steps=40)\nrun")
    assert (cell.error, cell.streams["stderr"]) == (None, "")
    _, result = cell.displays  # the line and the run
    assert "40/40" in cell.updates[-1]["text/plain"] and "loss" in cell.updates[-1]["text/html"]
    assert result["text/plain"].startswith("Run('runs/storybook-quick', 4,976 parameters, step 40 of 40, validation loss ")
    assert "loss" not in cell.streams["stdout"]  # no status lines besides


def test_a_quiet_training_shows_nothing(kernel: Kernel) -> None:
    cell = kernel.run("_ = minigpt.train(**settings, steps=2, quiet=True)")
    assert (cell.error, cell.displays, cell.streams) == (None, [], {"stdout": "", "stderr": ""})


@linux
def test_an_interrupted_cell_ends_normally_and_the_run_can_be_resumed(kernel: Kernel) -> None:
    cell = kernel.run(
        """
def callback(step, record, model):
    if step == 2:
        print("second step", flush=True)
        assert workers()

run = minigpt.train(**settings, steps=100_000_000, out="runs/it's", callback=callback)
""",
        interrupt_at="second step",
    )
    assert cell.error is None
    hint = """Stopped and saved. To resume: minigpt.train(out="runs/it's", resume=True)\n"""
    assert cell.streams["stdout"].endswith(hint)
    assert kernel.run("assert workers() == [] and not run.finished and run.model").error is None
    resume = hint.strip().partition("To resume: ")[2].replace(")", ", steps=steps + 2, quiet=True)")
    cell = kernel.run(f"steps = int(run.metrics['step'][-1])\nassert steps >= 2\nrun = {resume}\nassert run.finished, run")
    assert cell.error is None


@linux
def test_an_error_in_the_callback_is_shown_and_leaves_no_worker(kernel: Kernel) -> None:
    cell = kernel.run("minigpt.train(**settings, steps=5, callback=lambda step, record, model: 1 / 0, quiet=True)")
    assert cell.error == "ZeroDivisionError: division by zero"
    assert kernel.run("assert workers() == []").error is None


def test_a_plot_is_shown_as_a_picture(kernel: Kernel) -> None:
    (shown,) = kernel.run("minigpt.open_run('storybook-quick').plot()").displays
    assert shown["text/plain"].startswith("<Figure size ")
    assert shown["image/png"].startswith("iVBORw0KGgo")  # the signature of PNG in base64


@pytest.mark.parametrize(
    "expression",
    ["model", "model.parameters", "model.loss_and_grads([[1, 2]], [[2, 3]])", "run.tokenizer", "run", "model.config"],
)
def test_objects_are_shown_briefly(kernel: Kernel, expression: str) -> None:
    (shown,) = kernel.run(f"run = minigpt.open_run('storybook-quick')\nmodel = run.model\n{expression}").displays
    assert len(shown["text/plain"]) < 500
