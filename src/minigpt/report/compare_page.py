"""The page that compares training runs."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpt.data.atomic import atomic_write_text
from minigpt.report.compare import Comparison, Row
from minigpt.report.curves import MAX_POINTS, report_style, smooth, to_svg, use_log_scale
from minigpt.report.numbers import Run
from minigpt.report.pages import document, escape, html_figure
from minigpt.report.theme import CHART_COLORS, color_variables
from minigpt.runs.columns import downsample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE = "compare.html"
RUN_COLORS = {
    "run-0": ("#0072b2", "#3fa0e6"),
    "run-1": ("#d55e00", "#f0813a"),
    "run-2": ("#009e73", "#2fc79b"),
    "run-3": ("#cc79a7", "#e39ac5"),
    "run-4": ("#e69f00", "#f3c04d"),
    "run-5": ("#56b4e9", "#a5daf8"),
    "run-6": ("#222222", "#f1ede6"),
}
"The Okabe-Ito palette, whose colors can be distinguished with any color vision, and lighter ones for the dark scheme."
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 2), (1, 1.5), (6, 2, 1, 2))
"The dash pattern of the first runs, and of those for which the colors are used again."
COLORS = {
    name: CHART_COLORS[name] for name in CHART_COLORS if name.rsplit("-")[-1] not in ("training", "validation")
} | RUN_COLORS
FLOOR = CHART_COLORS["chart-floor"][0]
FAR_ABOVE_FLOOR = 5.0  # times the floor: beyond it, the floor would leave little space for the curves
Draw = Callable[["Axes", Run, np.ndarray, dict[str, Any]], list[float]]
WIDE, NARROW = (8, 6.2), (3.7, 9.6)

STYLE = f"""\
<style>
{color_variables(RUN_COLORS)}
.runs {{ list-style: none; margin: 1.5rem 0 0; padding: 0; font: .9rem/1.6 system-ui, sans-serif; }}
.runs li {{ display: flex; align-items: center; gap: .6rem; overflow-wrap: anywhere; }}
.swatch {{ flex: none; width: 2.2rem; height: .8rem; }}
.scroll {{ overflow-x: auto; }}
.scroll table {{ width: auto; min-width: 100%; }}
.scroll th, .scroll td {{ width: auto; padding-right: 1.25rem; overflow-wrap: normal; white-space: pre; }}
.scroll thead th {{ border-top: 0; color: var(--text); font-weight: 600; }}
</style>"""

EXPLANATION = (
    "Bits per byte is the average number of bits that a model needs to encode one byte of text; lower is better. It does not "
    "depend on the tokenizer. The training loss is averaged over neighboring steps. Time is the time of training and validation."
)


def write_page(comparison: Comparison, out: Path | None) -> Path:
    """Write the page to `out`, by default an unused name in the current folder, and return its path.

    Raises `ValueError` if `out` exists or cannot be created.
    """
    path = out or next(path for path in _pages() if not os.path.lexists(path))
    if os.path.lexists(path):
        raise ValueError(f"{path} already exists: choose another --out")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: {path.parent} is not a folder")
    atomic_write_text(path, page(comparison))
    return path


def _pages() -> Iterator[Path]:
    """Yield compare.html, compare-2.html, compare-3.html, and so on."""
    name = Path(PAGE)
    return (name if number == 1 else name.with_stem(f"{name.stem}-{number}") for number in count(1))


def page(comparison: Comparison) -> str:
    """Return the page, without scripts or external resources."""
    names, runs = comparison.names, comparison.runs
    title = f"{' and '.join(names)}" if len(names) == 2 else f"{len(names)} training runs"
    settings = _table("Settings that differ", names, comparison.settings) if comparison.settings else ""
    alternative = f"Validation and training loss in bits per byte over tokens and over time, of {', '.join(names)}"
    wide, narrow = (to_svg(figure(runs, narrow), "narrow-" if narrow else "", COLORS) for narrow in (False, True))
    body = f"""{STYLE}
<p>{escape(summary(comparison))}</p>
{"".join(f"<p>{escape(note)}</p>" for note in comparison.notes)}
<p class="note">{EXPLANATION}</p>
<ul class="runs">
{_legend(names)}
</ul>
{html_figure(wide, narrow, alternative)}
<h2>Differences</h2>
{settings or "<p>The runs have the same settings.</p>"}
{_table("Results", names, comparison.results)}"""
    return document(f"Comparison of {title}", body)


def summary(comparison: Comparison) -> str:
    """Say which run has the lowest validation loss."""
    best = {name: run.best.bits_per_byte for name, run in zip(comparison.names, comparison.runs, strict=True) if run.best}
    finite = {name: value for name, value in best.items() if math.isfinite(value)}
    if not finite:
        return "No run has a validation loss yet."
    first, *others = sorted(finite, key=finite.__getitem__)
    text = f"The lowest validation loss is that of {first}: {finite[first]:.4f} bits per byte"
    return f"{text}, {finite[others[0]] - finite[first]:.4f} less than that of {others[0]}." if others else f"{text}."


def figure(runs: Sequence[Run], narrow: bool = False) -> "Figure":
    """Return the figure: the validation loss, if there is any, and the training loss, over tokens and over time."""
    from matplotlib.figure import Figure

    drawn = [*([("validation", _draw_validation)] if any(run.validations for run in runs) else []), ("training", _draw_training)]
    width, height = NARROW if narrow else WIDE
    with report_style():
        drawing = Figure(figsize=(width, height * len(drawn) / 2), layout="constrained")
        axes: Any = drawing.subplots(*((2 * len(drawn), 1) if narrow else (len(drawn), 2))).ravel()
        for i, (label, draw) in enumerate(drawn):
            tokens, time = axes[2 * i : 2 * i + 2]
            _draw_panels(tokens, time, runs, draw)
            for panel in (tokens, time) if narrow else (tokens,):
                panel.set_ylabel(f"{label} (bits per byte)")
    return drawing


def _draw_panels(tokens: "Axes", time: "Axes", runs: Sequence[Run], draw: Draw) -> None:
    """Draw the curves of all runs over tokens and over time."""
    from matplotlib.ticker import EngFormatter

    unit, seconds = _time_unit(max(run.elapsed_s for run in runs))
    values: list[float] = []
    for i, run in enumerate(runs):
        values += draw(tokens, run, run.history.tokens.astype(float), _line(i))
        draw(time, run, run.history.elapsed_s / seconds, _line(i))
    if draw is _draw_validation:
        values += _draw_floor((tokens, time), runs, values)
    for panel, label in ((tokens, "tokens"), (time, f"time ({unit})")):
        panel.set_xlabel(label)
        panel.set_xlim(left=0)
        use_log_scale(panel, values, max_ticks=8)
        panel.locator_params(axis="x", nbins=5)
    tokens.xaxis.set_major_formatter(EngFormatter(sep=""))


def _time_unit(seconds: float) -> tuple[str, float]:
    """Return a unit of time for an axis up to `seconds`, and its length in seconds.

    >>> _time_unit(50), _time_unit(1200), _time_unit(36_000)
    (('s', 1.0), ('min', 60.0), ('h', 3600.0))
    """
    return ("s", 1.0) if seconds < 180 else ("min", 60.0) if seconds < 10_800 else ("h", 3600.0)


def _line(i: int) -> dict[str, Any]:
    """Return the color and the dashes of a run."""
    light, _ = list(RUN_COLORS.values())[i % len(RUN_COLORS)]
    pattern = DASHES[i // len(RUN_COLORS) % len(DASHES)]
    return {"color": light, "linestyle": (0, pattern) if pattern else "solid"}


def _draw_validation(axes: "Axes", run: Run, x: np.ndarray, style: dict[str, Any]) -> list[float]:
    """Draw the validation loss of a run, and return the values. `x` has a value for each step."""
    steps = [validation.step for validation in run.validations]
    values = [validation.bits_per_byte for validation in run.validations]
    points = x[np.searchsorted(run.history.step, steps)]
    axes.plot(points, values, linewidth=1.4, marker="o", markersize=3.5, zorder=3, clip_on=False, **style)
    return values


def _draw_training(axes: "Axes", run: Run, x: np.ndarray, style: dict[str, Any]) -> list[float]:
    """Draw the moving average of the training loss of a run, and return its values. `x` has a value for each step."""
    values = smooth(run.history.loss, radius=len(run.history.loss) // 60) / run.data.train.loss_per_token(1.0)
    marker = "o" if len(values) == 1 else ""
    axes.plot(downsample(x, MAX_POINTS), downsample(values, MAX_POINTS), linewidth=1.4, marker=marker, markersize=3.5, **style)
    finite: list[float] = values[np.isfinite(values)].tolist()
    return finite


def _draw_floor(panels: Sequence["Axes"], runs: Sequence[Run], values: Sequence[float]) -> list[float]:
    """Draw the floor and return it, if all runs have the same and it is not far below the other values."""
    floors = {run.data.floor_bits_per_byte for run in runs}
    floor = floors.pop()
    if floors or floor is None or min(filter(math.isfinite, values), default=math.inf) > FAR_ABOVE_FLOOR * floor:
        return []
    for axes in panels:
        axes.axhline(floor, color=FLOOR, linewidth=1.1, dashes=(5, 3))
        axes.text(0.99, floor, "floor", color=FLOOR, transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=8)
    return [floor]


def _legend(names: list[str]) -> str:
    """Return list items with the names of the runs and samples of their lines."""
    items = []
    for i, name in enumerate(names):
        dashes = " ".join(f"{2 * length:g}" for length in DASHES[i // len(RUN_COLORS) % len(DASHES)])
        style = f"stroke: var(--run-{i % len(RUN_COLORS)}); stroke-width: 3; stroke-dasharray: {dashes or 'none'}"
        line = f'<svg class="swatch" viewBox="0 0 36 12" aria-hidden="true"><path d="M0 6H36" style="{style}"/></svg>'
        items.append(f"<li>{line}{escape(name)}</li>")
    return "\n".join(items)


def _table(title: str, names: list[str], rows: list[Row]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    )
    table = f"<table>\n<caption>{title}</caption>\n<thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">\n{table}\n</div>'
