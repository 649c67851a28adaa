"""Tests of the plot of a run: its contents and its reproducibility."""

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.report.curves import MAX_POINTS, draw, figure, smooth, spread_labels
from minigpt.report.files import load_run
from minigpt.report.theme import CHART_COLORS


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def first_metrics(folder: Path, count: int, **changes: Any) -> None:
    """Truncate the run after `count` steps."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    records = [json.loads(line) | changes for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


def test_lines_and_axes_are_labeled_with_text(make_run) -> None:
    run = load_run(make_run())
    assert run.final is not None
    expected = {"training", f"validation {run.final.loss:.3f}", f"floor {0.3 * math.log(2) * 3.75:.3f}"}
    shown = set(texts(draw(run)))
    assert expected | {"tokens seen", "step", "loss per token (nats)", "400", "1.5M"} <= shown


def test_a_floor_that_is_a_bound_is_labeled_as_such(make_run) -> None:
    folder = make_run()
    text = (folder / "run.json").read_text(encoding="utf-8").replace('"floor_is_exact": true', '"floor_is_exact": false')
    (folder / "run.json").write_text(text, encoding="utf-8")
    assert "floor ≤ 0.780" in texts(draw(load_run(folder)))


def test_floor_and_validation_are_omitted_if_they_are_missing(make_run) -> None:
    folder = make_run()
    first_metrics(folder, 49)
    text = (folder / "run.json").read_text(encoding="utf-8").replace(': 0.3, "floor', ': null, "floor')
    (folder / "run.json").write_text(text, encoding="utf-8")
    shown = " ".join(texts(draw(load_run(folder))))
    assert "training" in shown
    assert "floor" not in shown
    assert "validation" not in shown


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shortest_runs_are_drawn_without_a_warning(make_run, count: int, recwarn: pytest.WarningsRecorder) -> None:
    folder = make_run()
    first_metrics(folder, count)
    shown = texts(draw(load_run(folder)))
    assert "training" in shown
    assert all(shown.count(str(step)) >= 1 for step in range(count + 1))
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("changes", [{"loss": math.nan, "grad_norm": math.nan}, {"loss": 0.0, "grad_norm": 0.0, "lr": 0.0}])
def test_values_without_a_logarithm_are_drawn(make_run, changes: dict[str, float], recwarn) -> None:
    folder = make_run()
    first_metrics(folder, 5, **changes)
    assert "step" in texts(draw(load_run(folder)))
    assert [str(warning.message) for warning in recwarn] == []


def test_same_run_gives_the_same_plot_regardless_of_matplotlibrc(make_run) -> None:
    run = load_run(make_run())
    first = draw(run)
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.facecolor": "black"}):
        assert draw(run) == first
        assert matplotlib.rcParams["font.size"] == 30
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", first)


def test_the_plot_of_a_long_run_is_not_larger(make_run) -> None:
    folder = make_run()
    record = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    losses = np.random.default_rng(0).normal(3, 0.1, 5 * MAX_POINTS + 1)
    lines = [json.dumps(record | {"step": i, "tokens": i, "loss": x}) for i, x in enumerate(losses, start=1)]
    (folder / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    points = [len(re.findall("[ML]", path)) for path in re.findall(r' d="([^"]*)"', draw(load_run(folder)))]
    assert MAX_POINTS / 2 < max(points) <= MAX_POINTS


def test_every_color_has_a_variable_with_a_value_in_both_color_schemes(make_run) -> None:
    svg = draw(load_run(make_run()))
    drawn, style = svg.split("</style>", 1)[1], svg.split("</style>", 1)[0]
    colors = re.findall(r"(fill|stroke): (#\w+)(; \1: var\(--[\w-]+\))?", drawn)
    assert len(colors) > 50
    assert [color for _, color, variable in colors if not variable] == []
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for name, values in CHART_COLORS.items():
        assert f"--{name}: {values[0]};" in light
        assert f"--{name}: {values[1]};" in dark
        assert f"var(--{name})" in drawn


def test_the_narrow_drawing_fits_a_phone_and_shares_no_id_with_the_wide_one(make_run) -> None:
    run = load_run(make_run())
    wide, narrow = draw(run), draw(run, narrow=True)
    sizes = [[float(x) for x in re.findall(r'(?:width|height)="([\d.]+)pt"', svg)] for svg in (wide, narrow)]
    assert sizes[0][0] > 500 > 300 > sizes[1][0] > 0
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (wide, narrow)]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', narrow)) <= ids[1]
    run_texts = {"training", f"validation {run.final.loss:.3f}", "floor 0.780", "step", "400"} if run.final else set()
    assert run_texts <= set(texts(narrow))
    assert draw(run, narrow=True) == narrow


def test_a_figure_for_a_notebook_has_ordinary_colors(make_run) -> None:
    axes = figure(load_run(make_run())).axes[0]
    assert {line.get_color() for line in axes.get_lines()} == {"#0072b2", "#d55e00", "#333333"}


def test_changed_settings_are_marked(make_run) -> None:
    changes = [{"step": 200, "settings": {"lr": [0.001, 0.002]}}]
    run = load_run(make_run(run={"changes": changes}))
    assert [text.strip() for text in texts(draw(run))].count("settings changed") == 1
    assert 200 in {line.get_xdata()[0] for line in figure(run).axes[0].get_lines()}


finite = st.floats(-100, 100)


@given(st.lists(finite, min_size=1, max_size=30), st.integers(0, 10))
def test_smooth_stays_within_the_values_it_averages(values: list[float], radius: int) -> None:
    result = smooth(np.array(values), radius)
    assert result.shape == (len(values),)
    assert result[0] == pytest.approx(values[0], abs=1e-9)
    for i, mean in enumerate(result):
        near = values[max(0, i - radius) : i + radius + 1]
        assert min(near) - 1e-9 <= mean <= max(near) + 1e-9


def test_smooth_follows_a_straight_line_without_lag() -> None:
    line = np.linspace(9, 4, 50)
    np.testing.assert_allclose(smooth(line, radius=5)[:45], line[:45])


def test_smooth_ignores_non_finite_values() -> None:
    assert smooth(np.array([1.0, np.nan, 3.0, np.inf]), radius=1).tolist() == [1.0, 2.0, 3.0, 3.0]
    assert np.isnan(smooth(np.array([np.nan, np.nan]), radius=1)).all()


@given(st.lists(st.floats(0, 1), max_size=6))
def test_spread_labels_keeps_the_gap_and_the_order_and_moves_none_down(positions: list[float]) -> None:
    moved = spread_labels(positions, gap=0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in zip(sorted(moved), sorted(moved)[1:], strict=False))
    assert all(new >= old for new, old in zip(moved, positions, strict=True))
    assert sorted(range(len(moved)), key=moved.__getitem__) == sorted(range(len(moved)), key=positions.__getitem__)
