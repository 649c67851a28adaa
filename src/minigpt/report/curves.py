"""Plot the loss, the learning rate and the gradient norm of a run over its steps."""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpt.report.numbers import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue and vermillion of the Okabe-Ito palette can be distinguished with any color vision.
TRAINING, VALIDATION, FLOOR, GRAY = "#0072b2", "#d55e00", "#333333", "#5f5f5f"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # keep text as text, which can be searched, copied and read by screen readers
    "svg.hashsalt": "minigpt",  # makes the ids, and therefore the file, reproducible
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # bundled with matplotlib, so the layout is the same on every machine
    "font.size": 9,
    "axes.labelcolor": GRAY,
    "axes.edgecolor": "#b5b5b5",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#ececec",
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}

MAX_POINTS = 2000
"The maximum number of points of a curve. Longer runs are averaged over bins, to limit the size of the page."

TICK_DIGITS = [(1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 3), (1,)]
"Leading digits of round tick values, roughly evenly spaced on a logarithmic axis, from dense to sparse."


def draw(run: Run) -> str:
    """Draw the curves of a run and return them as SVG; the same run always gives the same text."""
    with _style():
        file = io.StringIO()
        figure(run).savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return file.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    """Use the style of the reports inside the block, and ignore the user's matplotlibrc."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def figure(run: Run) -> "Figure":
    """Return the figure of a run: three stacked panels with a common step axis."""
    with _style():
        return _figure(run)


def _figure(run: Run) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 6.4), layout="constrained")
    loss, lr, grad_norm = figure.subplots(3, 1, sharex=True, height_ratios=[4.4, 1, 1.3])
    _draw_loss(loss, run)
    _draw_lr(lr, run)
    _draw_grad_norm(grad_norm, run)
    grad_norm.set_xlabel("step")
    grad_norm.set_xlim(0, run.steps_done)
    grad_norm.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    grad_norm.xaxis.set_major_formatter("{x:,.0f}")
    _add_tokens_axis(loss, run)
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


def _downsample(values: np.ndarray) -> np.ndarray:
    """Return the means over bins of equal size, at most `MAX_POINTS` of them."""
    starts = np.arange(0, len(values), math.ceil(len(values) / MAX_POINTS))
    return np.add.reduceat(values, starts) / np.diff(starts, append=len(values))


def _draw_noisy_line(axes: "Axes", run: Run, values: np.ndarray, color: str) -> None:
    """Draw all values as a light line, and their moving average as a dark line above it."""
    axes.plot(_downsample(run.history.step), _downsample(values), color=color, alpha=0.3, linewidth=0.7)
    _draw_line(axes, run, smooth(values, radius=len(values) // 60), color)


def _draw_line(axes: "Axes", run: Run, values: np.ndarray, color: str) -> None:
    """Draw a line, or a dot if there is only one value."""
    marker = "o" if len(values) == 1 else ""
    steps, means = _downsample(run.history.step), _downsample(values)
    axes.plot(steps, means, color=color, linewidth=1.6, marker=marker, markersize=4, clip_on=not marker)


def _draw_loss(axes: "Axes", run: Run) -> None:
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
    _use_log_scale(axes, [*history.loss, *(value for _, _, value in labels)], max_ticks=9)
    _label_ends(axes, labels)


def _use_log_scale(axes: "Axes", values: Iterable[float], max_ticks: int) -> None:
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


def _draw_lr(axes: "Axes", run: Run) -> None:
    _draw_line(axes, run, run.history.lr, GRAY)
    axes.set_ylabel("learning\nrate")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=3)
    axes.yaxis.set_major_formatter("{x:g}")


def _draw_grad_norm(axes: "Axes", run: Run) -> None:
    _draw_noisy_line(axes, run, run.history.grad_norm, GRAY)
    axes.set_ylabel("gradient\nnorm")
    _use_log_scale(axes, run.history.grad_norm, max_ticks=4)


def _add_tokens_axis(axes: "Axes", run: Run) -> None:
    """Add the number of tokens seen as a second axis at the top, with ticks at round numbers."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    locator = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
    ticks = [tick for tick in locator.tick_values(0, run.tokens_seen) if 0 <= tick <= run.tokens_seen]
    steps = np.interp(ticks, [0, *run.history.tokens], [0, *run.history.step])
    top = axes.secondary_xaxis("top")
    top.set_xlabel("tokens seen")
    top.spines["top"].set_visible(False)
    top.set_xticks(steps, [EngFormatter(sep="")(tick) for tick in ticks])
