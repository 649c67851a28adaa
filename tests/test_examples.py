"""The examples run: four scripts and a notebook, each in a temporary folder."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import minigpt

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SMALL = {"preset": "nano", "vocab_size": 300, "stories": 20, "steps": 4, "eval_tokens": 256, "sample_every": 2}
"The settings of the notebook in the tests."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder, in which the examples run one after the other."""
    return tmp_path_factory.mktemp("examples")


def run(folder: Path, script: str, *words: str) -> str:
    """Run a script, and return what it printed. It must not print anything to stderr."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_train_and_generate(folder: Path, text_file: Path) -> None:
    out = run(folder, "train.py", str(text_file), "--steps", "3", "--prompt", "Tom saw")
    path = folder / "runs" / "little-quick"
    assert (path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "Run('runs/little-quick', " in out.replace("\\", "/") and "step 3 of 3" in out
    assert "A text after the last step:\n\nTom saw" in out
    out = run(folder, "generate.py", "little-quick", "--prompt", "Mia", "--tokens", "5")
    assert out.startswith("GPT(") and "Tokenizer(BPE, " in out
    assert out.count("%") == 5 and "\nMia" in out


def test_gradient(folder: Path) -> None:
    lines = run(folder, "gradient.py").splitlines()
    rows = [line.split() for line in lines if line.startswith(("token_", "position_", "blocks.", "final_"))]
    assert len(rows) == 28
    for name, derivative, quotient, error in rows:
        assert float(derivative) == pytest.approx(float(quotient), rel=1e-4, abs=2e-9), name
        assert float(error) < 1e-4 and float(derivative) != 0, name


def test_inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    sizes: dict[str, Any] = {"context_length": 64, "d_model": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 1000}
    minigpt.train(out="stories", stories=200, steps=3, samples=0, eval_tokens=256, threads=1, quiet=True, **sizes)
    out = run(folder, "inside.py", "stories", "--stories", "3", "--figure", "inside.svg")
    titles = ("without a head: bits more per known name", "attention to the earlier name", "prediction moved to the name of")
    assert all(title in out for title in titles)
    assert re.search(r"^3 stories; names: [1-9]\d* mentioned for the first time, [1-9]\d* mentioned again$", out, re.MULTILINE)
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["0", "1", "2", "3"]
    assert "nan" not in out
    assert (folder / "inside.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_notebook_runs_from_top_to_bottom(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    from helpers.notebook import use_folder

    use_folder(folder, monkeypatch)
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells), "the notebook has stored outputs"
    assert cells[0].source.startswith("settings = ")
    cells[0].source = f"settings = {SMALL | {'d_model': 16, 'n_layers': 1}}"
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    assert not [out for cell in cells for out in cell.outputs if out.get("name") == "stderr"]
    assert any("image/png" in out.get("data", {}) for cell in cells for out in cell.outputs)
    text = "".join(out.text for cell in cells for out in cell.outputs if out.output_type == "stream")
    derivative, quotient = (float(text.partition(f"{name}:")[2].split()[0]) for name in ("backward pass", "difference quotient"))
    assert derivative == pytest.approx(quotient, rel=1e-3, abs=1e-9)
    losses = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("step ") and ": loss " in line]
    assert len(losses) == 5 and losses == sorted(losses, reverse=True)


def test_every_example_has_a_line_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert names == {"train.py", "generate.py", "gradient.py", "inside.py", "tour.ipynb"}
    assert [name for name in names if f"]({name})" not in readme] == []


def test_the_source_distribution_has_the_examples() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "examples" in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
