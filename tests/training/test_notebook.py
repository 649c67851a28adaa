"""A training in a notebook, in Python and as a command, shows its progress without flooding the output of the cell."""

import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = """
import minigpt
settings = dict(tokenizer="bytes", context_length=8, d_model=8, n_layers=1, n_heads=2, threads=2, eval_every=50, samples=1)
settings |= dict(data={data!r}, steps=100, sample_every=0)
run = minigpt.train(out={out!r} + "/shown", **settings)
---
run = minigpt.train(out={out!r} + "/quiet", quiet=True, **settings)
---
words = [f"--{{name.replace('_', '-')}}={{value}}" for name, value in settings.items()]
command = " ".join([{python!r}, "-m minigpt train --out", {out!r} + "/command", *words])
!{{command}}
"""


@pytest.fixture(scope="module")
def cells(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """The outputs of the cells of `NOTEBOOK`."""
    nbclient, nbformat = (pytest.importorskip(name) for name in ("nbclient", "nbformat"))
    pytest.importorskip("ipykernel")
    out = tmp_path_factory.mktemp("notebook")
    source = NOTEBOOK.format(data=str(text_file), out=str(out), python=sys.executable)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in source.split("---")])
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(out)}}).execute()
    return [cell.outputs for cell in notebook.cells]


def text_of(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_a_notebook_shows_one_live_line_in_its_final_state(cells: list[list[Any]]) -> None:
    (live,) = [output.data for output in cells[0] if output.output_type == "display_data"]
    assert "100%" in live["text/plain"] and "━" in live["text/plain"] and "\n" not in live["text/plain"].rstrip("\n")
    assert "100%" in live["text/html"] and "val" in live["text/html"]
    text = text_of(cells[0])
    assert text.count("Output folder: ") == text.count("Sample after step 100:") == 1
    assert "tokens/s" not in text  # the live line has it
    assert "\x1b" not in text


def test_a_quiet_run_shows_nothing_in_a_notebook(cells: list[list[Any]]) -> None:
    assert cells[1] == []


def test_a_command_in_a_notebook_prints_plain_lines(cells: list[list[Any]]) -> None:
    text = text_of(cells[2])
    assert "\x1b" not in text and "━" not in text
    assert text.count("tokens/s") == 1 + 2  # the first step and each validation
    assert all(output.output_type == "stream" for output in cells[2])
