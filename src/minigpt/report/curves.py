"""Plot the loss, the learning rate and the gradient norm of a run over its steps."""

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpt.report.numbers import Run
from minigpt.report.theme import CHART_COLORS, color_variables
from minigpt.runs.columns import downsample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKGROUND, TRAINING, VALIDATION, FLOOR, GRAY, EDGE, GRID = (light for light, _ in CHART_COLORS.values())

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # keep text as text, which can be searched, copied and read by screen readers
    "svg.hashsalt": "minigpt",  # makes the ids, and therefore the file, reproducible
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # bundled with matplotlib, so the layout is the same on every machine
    "font.size": 9,
    "axes.labelcolor": GRAY,
    "text.color": GRAY,
    "figure.facecolor": BACKGROUND,
    "savefig.facecolor": BACKGROUND,
    "axes.facecolor": BACKGROUND,
    "axes.edgecolor": EDGE,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": GRID,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}

WIDE, NARROW = (8, 6.4), (3.7, 5.4)
"The sizes of the figure, in inches of 96 CSS pixels."

MAX_POINTS = 2000
"The maximum number of points of a curve. Longer runs are averaged over bins, to limit the size of the page."

TICK_DIGITS = [(1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 3), (1,)]
"Leading digits of round tick values, roughly evenly spaced on a logarithmic axis, from dense to sparse."


def draw(run: Run, narrow: bool = False) -> str:
    """Draw the curves of a run and return them as SVG; the same run always gives the same text.

    `narrow` gives a drawing for the width of a phone. Both can be used in the same HTML page.
    """
    return to_svg(figure(run, narrow), prefix="narrow-" if narrow else "")


def to_svg(figure: "Figure", prefix: str = "", colors: Mapping[str, tuple[str, str]] = CHART_COLORS) -> str:
    """Return a figure as SVG whose colors adapt to the color scheme of the reader, if they are among `colors`.

    Each of these colors is followed by a CSS variable, which a program without support for variables ignores. The ids in the
    drawing begin with `prefix`, so that a page can contain several drawings.
    """
    with report_style():
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = re.sub(r'(\bid="|\bhref="#|\burl\(#)', rf"\g<1>{prefix}", file.getvalue())
    for name, (light, _) in colors.items():
        svg = re.sub(rf"\b(fill|stroke): {light}\b", rf"\g<0>; \g<1>: var(--{name})", svg)
    return re.sub(r"<svg[^>]*>", rf"\g<0>\n<style>\n{color_variables(colors)}\n</style>", svg, count=1)


@contextmanager
def report_style() -> Iterator[None]:
    """Use the style of the reports inside the block, and ignore the user's matplotlibrc."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def figure(run: Run, narrow: bool = False) -> "Figure":
    """Return the figure of a run: three stacked panels with a common step axis. `narrow` is for the width of a phone."""
    with report_style():
        return _figure(run, narrow)


def _figure(run: Run, narrow: bool) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=NARROW if narrow else WIDE, layout="constrained")
    loss, lr, grad_norm = figure.subplots(3, 1, sharex=True, height_ratios=[4.4, 1, 1.3])
    _draw_loss(loss, run, narrow)
    _draw_lr(lr, run)
    _draw_grad_norm(grad_norm, run)
    for change in run.changes:
        _mark_change(loss, run, change.step)
    grad_norm.set_xlabel("step")
    grad_norm.set_xlim(0, run.steps_done)
    grad_norm.xaxis.set_major_locator(MaxNLocator(5 if narrow else 10, integer=True, min_n_ticks=1))
    grad_norm.xaxis.set_major_formatter("{x:,.0f}")
    _add_tokens_axis(loss, run, max_ticks=4 if narrow else 6)
    figure.align_ylabels()
    return figure


def smooth(values: np.ndarray, radius: int) -> np.ndarray:
    """Return the centered moving average of `values` over `radius` neighbors on each side, ignoring non-finite values.

    Near the start, where a loss falls steeply, the window shrinks on both sides and stays centered, so that the average
    follows the curve. Near the end it shrinks on the right side only.

    >>> smooth(np.array([8.0, 4.0, 3.0, 2.0]), radius=1).tolist()
    [8.0, 5.0, 3.0, 2.5]
    """
    index = np.arange(len(values))
    before = np.minimum(index, radius)
    after = np.minimum(before, len(values) - 1 - index)
    finite = np.isfinite(values)
    sums, counts = (np.concatenate([[0], np.cumsum(x)]) for x in (np.where(finite, values, 0), finite))
    start, stop = index - before, index + after + 1
    total, count = sums[stop] - sums[start], counts[stop] - counts[start]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def spread_labels(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions up as little as necessary until they are at least `gap` apart, without changing their order.

    >>> spread_labels([0.5, 0.1, 0.125], gap=0.25)
    [0.6, 0.1, 0.35]
    """
    result, lowest = list(positions), -math.inf
    for index in sorted(range(len(positions)), key=positions.__getitem__):
        result[index] = max(positions[index], lowest)
        lowest = result[index] + gap
    return result


def _draw_noisy_line(axes: "Axes", run: Run, values: np.ndarray, color: str) -> None:
    """Draw all values as a light line, and their moving average as a dark line above it."""
    axes.plot(downsample(run.history.step, MAX_POINTS), downsample(values, MAX_POINTS), color=color, alpha=0.3, linewidth=0.7)
    _draw_line(axes, run, smooth(values, radius=len(values) // 60), color)


def _draw_line(axes: "Axes", run: Run, values: np.ndarray, color: str) -> None:
    """Draw a line, or a dot if there is only one value."""
    marker = "o" if len(values) == 1 else ""
    steps, means = downsample(run.history.step, MAX_POINTS), downsample(values, MAX_POINTS)
    axes.plot(steps, means, color=color, linewidth=1.6, marker=marker, markersize=4, clip_on=not marker)


def _draw_loss(axes: "Axes", run: Run, narrow: bool) -> None:
    history, final, floor = run.history, run.final, run.data.floor_loss
    _draw_noisy_line(axes, run, history.loss, TRAINING)
    labels = [("training", TRAINING, smooth(history.loss, len(history.loss) // 60)[-1])]
    if final:
        steps, losses = zip(*((v.step, v.loss) for v in run.validations), strict=True)
        axes.plot(steps, losses, color=VALIDATION, linewidth=1.2, marker="o", markersize=4, clip_on=False, zorder=3)
        labels.append((f"validation {final.loss:.3f}", VALIDATION, final.loss))
    if floor:
        axes.axhline(floor, color=FLOOR, linewidth=1.2, dashes=(5, 3))
        labels.append((f"floor {'' if run.data.floor_is_exact else '≤ '}{floor:.3f}", FLOOR, floor))
    axes.set_ylabel("loss per token (nats)")
    use_log_scale(axes, [*history.loss, *(value for _, _, value in labels)], max_ticks=9)
    if narrow:
        _list_labels(axes, labels)
    else:
        _label_ends(axes, labels)


def use_log_scale(axes: "Axes", values: Iterable[float], max_ticks: int) -> None:
    """Use a logarithmic scale if the values span at least a factor of two, which shows the slow end of a curve in more detail."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0 or max(finite) < 2 * min(finite):
        return
    low, high = 0.94 * min(finite), 1.06 * max(finite)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_yticks(_round_ticks(low, high, max_ticks))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_yticks([], minor=True)


def _round_ticks(low: float, high: float, max_ticks: int) -> list[float]:
    """Return round numbers between `low` and `high`: at most `max_ticks`, unless even the powers of ten are more."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in TICK_DIGITS:
        ticks = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
        if len(ticks) <= max_ticks:
            break
    return ticks


def _label_ends(axes: "Axes", labels: list[tuple[str, str, float]]) -> None:
    """Label each line at its right end, outside the panel and in its color. A label is (text, color, value)."""
    labels = [label for label in labels if math.isfinite(label[2])]
    axes.autoscale_view()  # matplotlib defers this until it draws, but the positions below depend on it
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = spread_labels([to_axes.transform((0, value))[1] for _, _, value in labels], gap=0.055)
    for (text, color, _), height in zip(labels, heights, strict=True):
        axes.text(1.015, height, text, color=color, transform=axes.transAxes, va="center", fontweight="bold")


def _list_labels(axes: "Axes", labels: list[tuple[str, str, float]]) -> None:
    """List the labels in a line above the panels. A label is (text, color, value)."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, label=text, linewidth=1.6) for text, color, _ in labels]
    options: dict[str, Any] = {"handlelength": 0.9, "handletextpad": 0.4, "columnspacing": 1, "fontsize": 8}
    axes.figure.legend(
        handles=handles, loc="outside upper center", ncols=len(labels), frameon=False, labelcolor="linecolor", **options
    )


def _mark_change(axes: "Axes", run: Run, step: int) -> None:
    """Mark the step after which settings were changed, with a label above or below the curve, where there is more space."""
    axes.axvline(step, color=GRAY, linewidth=0.9, dashes=(1, 2))
    loss = np.interp(step, run.history.step, run.history.loss)
    low = (axes.transData + axes.transAxes.inverted()).transform((step, loss))[1] < 0.5
    options: dict[str, Any] = {"rotation": 90, "va": "top" if low else "bottom", "ha": "right", "fontsize": 7}
    where = (step, 0.97 if low else 0.1)
    coordinates = axes.get_xaxis_transform()
    axes.annotate("settings changed", where, (-3, 0), xycoords=coordinates, textcoords="offset points", **options)


def _draw_lr(axes: "Axes", run: Run) -> None:
    _draw_line(axes, run, run.history.lr, GRAY)
    axes.set_ylabel("learning\nrate")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=3)
    axes.yaxis.set_major_formatter("{x:g}")


def _draw_grad_norm(axes: "Axes", run: Run) -> None:
    _draw_noisy_line(axes, run, run.history.grad_norm, GRAY)
    axes.set_ylabel("gradient\nnorm")
    use_log_scale(axes, run.history.grad_norm, max_ticks=4)


def _add_tokens_axis(axes: "Axes", run: Run, max_ticks: int) -> None:
    """Add the number of tokens seen as a second axis at the top, with ticks at round numbers."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    locator = MaxNLocator(max_ticks, steps=[1, 2, 2.5, 5, 10])
    ticks = [tick for tick in locator.tick_values(0, run.tokens_seen) if 0 <= tick <= run.tokens_seen]
    steps = np.interp(ticks, [0, *run.history.tokens], [0, *run.history.step])
    top = axes.secondary_xaxis("top")
    top.set_xlabel("tokens seen")
    top.spines["top"].set_visible(False)
    top.set_xticks(steps, [EngFormatter(sep="")(tick) for tick in ticks])
