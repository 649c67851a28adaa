"""Comparisons of runs: the table, the page, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.reports import Reader

from minigpt.cli import main
from minigpt.report.compare import compare, unique_names
from minigpt.report.compare_page import figure, page, write_page
from minigpt.report.files import load_run

MakeNamed = Callable[..., Path]
OTHER_DATA: dict[str, Any] = {
    "name": "notes.txt",
    "train": {"documents": 10, "bytes": 1_000_000, "tokens": 400_000},
    "valid": {"documents": 3, "bytes": 50_000, "tokens": 20_000},
    "floor_bits_per_byte": None,
    "floor_is_exact": False,
}


@pytest.fixture
def make(make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeNamed:
    """Return a function that writes a run folder with a name, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def named(name: str, **content: Any) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        make_run(**content).rename(path)
        return path

    return named


def steps(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Return records of some steps, without validation."""
    record = {"loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "tokens_per_s": 100.0}
    return [{"step": i, "tokens": 100 * i, "elapsed_s": 2.0 * i, **record, **changes} for i in range(1, count + 1)]


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, arguments)])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_only_the_settings_that_differ_are_listed(make: MakeNamed) -> None:
    a = make("a", config={"lr": 0.003, "prompt": "Once"})
    b = make("b", config={"lr": 0.001}, run={"version": "0.2.0"})
    settings = compare([a, b]).settings
    assert settings == [("lr", "0.003", "0.001"), ("prompt", "Once", "-"), ("version of minigpt", "0.1.0", "0.2.0")]


def test_the_results_are_those_of_the_runs(make: MakeNamed) -> None:
    metrics = steps(4)
    metrics[2] |= {"val_loss": 2.5, "val_bits_per_byte": 1.25}
    metrics[3] |= {"val_loss": 3.0, "val_bits_per_byte": 1.5}
    a, b = make("a"), make("b", metrics=metrics)
    results = {name.strip(): cells for name, *cells in compare([a, b]).results}
    loaded = load_run(a)
    assert loaded.final and loaded.best and loaded.above_floor
    assert results["steps"] == ["400", "4 of 400"]  # interrupted
    assert results["tokens"] == ["1,638,400", "400"]
    assert results["time"] == ["1 min 20 s", "8.0 s"]
    assert results["validation loss"] == [f"{loaded.final.loss:.4f}", "3.0000"]
    assert results["bits per byte"] == [f"{loaded.final.bits_per_byte:.4f}", "1.5000"]
    assert results["above the floor"] == [f"{loaded.above_floor:.4f}", "1.2000"]
    assert results["bits per byte (best)"] == [f"{loaded.best.bits_per_byte:.4f}", "1.2500"]
    assert results["best validation loss"] == [f"{loaded.best.loss:.4f}", "2.5000"]
    assert results["at step"] == [f"{loaded.best.step}", "3"]


def test_changes_at_a_resumption_are_listed(make: MakeNamed) -> None:
    change = {"step": 200, "settings": {"lr": [0.001, 0.01], "seed": [0, 1]}}
    runs = [make("a"), make("b", run={"changes": [change]})]
    assert compare(runs).settings == [("changed when resumed", "-", "lr, seed after 200")]


def test_runs_without_validation_and_with_a_loss_that_is_not_finite(make: MakeNamed) -> None:
    comparison = compare([make("a", metrics=steps(1)), make("b", metrics=steps(3, loss=None))])
    results = {name.strip(): cells for name, *cells in comparison.results}
    assert results["training loss"] == ["2.0000", "not finite"]
    assert "validation loss" not in results
    assert "No run has a validation loss yet." in Reader(page(comparison)).shown
    assert len(figure(comparison.runs).axes) == 2


def test_what_makes_runs_hard_to_compare_is_noted(make: MakeNamed) -> None:
    same = [make("a"), make("b")]
    assert compare(same).notes == []
    notes = " ".join(compare([same[0], make("c", run={"data": OTHER_DATA, "machine": {"processor": "Quill 7"}})]).notes)
    assert re.search("different texts.*different tokenizers.*different processors", notes)


def test_runs_with_the_same_name_are_told_apart(make: MakeNamed) -> None:
    assert compare([make("old/run"), make("new/run"), make("new/other")]).names == ["old/run", "new/run", "other"]
    assert unique_names([("x", "a", "r"), ("y", "a", "r"), ("z", "r")]) == ["x/a/r", "y/a/r", "z/r"]


def test_the_page_contains_the_table_and_two_drawings(make: MakeNamed) -> None:
    text = page(compare([make("<b>"), make("b", config={"lr": 0.02})]))
    reader = Reader(text)
    assert [cell for cell in ("<b>", "0.02", "4,213,248") if cell not in reader.shown] == []
    assert [attributes.get("class") for tag, attributes in reader.tags if tag == "div"][:2] == ["wide", "narrow"]
    assert text.count("var(--run-1)") > 2
    assert "prefers-color-scheme: dark" in text
    assert text.count("href=") == text.count('href="#')
    assert "src=" not in text and "<script" not in text


def test_the_curves_are_drawn_over_tokens_and_over_time(make: MakeNamed) -> None:
    """The second run has half as many bytes per token, so that its loss in bits per byte is twice as high."""
    halved = {**OTHER_DATA, "train": {"documents": 1, "bytes": 7_500_000, "tokens": 4_000_000}}
    runs = [load_run(make("a")), load_run(make("b", run={"data": halved}))]
    assert runs[0].data.train.bytes == 15_000_000
    panels = figure(runs).axes
    assert [panel.get_xlabel() for panel in panels] == ["tokens", "time (s)"] * 2
    validation, _, training, training_over_time = ([line.get_xydata() for line in panel.get_lines()] for panel in panels)
    assert validation[0][-1].tolist() == [1_638_400, runs[0].validations[-1].bits_per_byte]
    assert training[1][-1][1] == pytest.approx(2 * training[0][-1][1])
    assert training_over_time[0][-1].tolist() == [80.0, training[0][-1][1]]


def test_the_floor_is_drawn_if_it_is_near(make: MakeNamed) -> None:
    a = load_run(make("a"))
    assert a.final and a.data.floor_bits_per_byte and a.final.bits_per_byte < 5 * a.data.floor_bits_per_byte
    lines = [len(figure([a, a]).axes[0].get_lines())]
    far = load_run(make("b", run={"data": {**OTHER_DATA, "floor_bits_per_byte": 0.001}}))
    lines.append(len(figure([far, far]).axes[0].get_lines()))
    assert lines == [3, 2]


def test_more_runs_than_colors_differ_in_their_dashes(make: MakeNamed) -> None:
    run = load_run(make("a"))
    lines = figure([run] * 9).axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines[:9]}) == 9


def test_the_command_prints_the_table_and_writes_a_new_page(make: MakeNamed, capsys: pytest.CaptureFixture[str]) -> None:
    make("runs/first")
    make("runs/second", config={"lr": 0.02})
    for name in ("compare.html", "compare-2.html"):
        code, out, err = run_command(capsys, "first", "runs/second")
        assert (code, err) == (0, "")
        lines = [line.split() for line in out.splitlines()]
        assert lines[:2] == [["first", "second"], ["lr", "0.001", "0.02"]]
        assert out.endswith(f"\nPage: {name}\n")
        assert Path(name).is_file()


def test_the_command_refuses_what_cannot_be_compared(make: MakeNamed, capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    make("b")
    Path("empty").mkdir()
    Path("there.html").write_text("mine", encoding="utf-8")
    refused = {
        (): "give two or more runs to compare",
        ("a",): "give two or more runs to compare",
        ("a", "b", "./a"): "a is given twice: give different runs to compare",
        ("a", "empty"): "empty is not a run folder: it has no file config.toml",
        ("a", "b", "--out", "there.html"): "there.html already exists: choose another --out",
        ("a", "b", "--out", "none/page.html"): "none/page.html cannot be written: none is not a folder",
    }
    before = sorted(Path().iterdir())
    for arguments, message in refused.items():
        code, out, err = run_command(capsys, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"minigpt: {message}")
        assert len(err.splitlines()) == 1
    assert sorted(Path().iterdir()) == before
    assert Path("there.html").read_text(encoding="utf-8") == "mine"


def test_a_link_that_leads_nowhere_is_not_replaced(make: MakeNamed) -> None:
    comparison = compare([make("a"), make("b")])
    Path("compare.html").symlink_to("elsewhere")
    assert write_page(comparison, None) == Path("compare-2.html")
