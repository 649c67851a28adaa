"""The picture of a run: loss, learning rate and gradient norm, step by step."""

import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpt.report.numbers import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue and vermillion of Okabe and Ito's palette, told apart with any colour vision, also by their lightness.
TRAINING, VALIDATION, FLOOR, QUIET = "#0072b2", "#d55e00", "#333333", "#5f5f5f"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "minigpt",  # with no date in the metadata, equal runs give equal files
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so the layout is the same on every machine
    "font.size": 9,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": "#b5b5b5",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#ececec",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}

MOST_POINTS = 2000
"A longer run is drawn as the means of so many stretches, which keeps the page small."

TICK_DIGITS = [(1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 3), (1,)]
"First digits of round numbers, about as far from each other on a logarithmic axis: close, and ever wider apart."


def draw(run: Run) -> str:
    """Draw the curves of a run as an SVG document; equal runs give equal text."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own settings are
        matplotlib.rcParams.update(STYLE)
        file = io.StringIO()
        _figure(run).savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return file.getvalue()


def _figure(run: Run) -> "Figure":
    """The three panels, one above the other, over the same steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    picture = Figure(figsize=(8, 6.4), layout="constrained")
    loss, lr, grad_norm = picture.subplots(3, 1, sharex=True, height_ratios=[4.4, 1, 1.3])
    _draw_loss(loss, run)
    _draw_lr(lr, run)
    _draw_grad_norm(grad_norm, run)
    grad_norm.set_xlabel("step")
    grad_norm.set_xlim(0, run.steps_done)
    grad_norm.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    grad_norm.xaxis.set_major_formatter("{x:,.0f}")
    _add_tokens_axis(loss, run)
    picture.align_ylabels()
    return picture


def smooth(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of each value and those up to `reach` before and after it, passing over what is not finite.

    Near the start, where a loss falls steeply, as many values are taken after as there are before, which keeps the
    mean on the curve; near the end there are simply fewer after.

    >>> smooth(np.array([8.0, 4.0, 3.0, 2.0]), reach=1).tolist()
    [8.0, 5.0, 3.0, 2.5]
    """
    here = np.arange(len(values))
    before = np.minimum(here, reach)
    after = np.minimum(before, len(values) - 1 - here)
    finite = np.isfinite(values)
    sums, counts = (np.concatenate([[0], np.cumsum(x)]) for x in (np.where(finite, values, 0), finite))
    first, last = here - before, here + after + 1
    total, count = sums[last] - sums[first], counts[last] - counts[first]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move labels up, as little as needed, until they are at least `gap` apart; their order stays.

    >>> spread([0.5, 0.1, 0.125], gap=0.25)
    [0.6, 0.1, 0.35]
    """
    result, lowest = list(positions), -math.inf
    for index in sorted(range(len(positions)), key=positions.__getitem__):
        result[index] = max(positions[index], lowest)
        lowest = result[index] + gap
    return result


def _thin(values: np.ndarray) -> np.ndarray:
    starts = np.arange(0, len(values), math.ceil(len(values) / MOST_POINTS))
    return np.add.reduceat(values, starts) / np.diff(starts, append=len(values))


def _draw_noisy(axes: "Axes", run: Run, values: np.ndarray, color: str) -> None:
    """A light line of all values under a dark one of their running mean."""
    axes.plot(_thin(run.history.step), _thin(values), color=color, alpha=0.3, linewidth=0.7)
    _draw_line(axes, run, smooth(values, reach=len(values) // 60), color)


def _draw_line(axes: "Axes", run: Run, values: np.ndarray, color: str) -> None:
    """A line, or a dot where there is only one value."""
    marker = "o" if len(values) == 1 else ""
    axes.plot(_thin(run.history.step), _thin(values), color=color, linewidth=1.6, marker=marker, markersize=4, clip_on=not marker)


def _draw_loss(axes: "Axes", run: Run) -> None:
    history, final, floor = run.history, run.final, run.data.floor_loss
    _draw_noisy(axes, run, history.loss, TRAINING)
    labels = [("training", TRAINING, smooth(history.loss, len(history.loss) // 60)[-1])]
    if final:
        steps, losses = zip(*((v.step, v.loss) for v in run.validations), strict=True)
        axes.plot(steps, losses, color=VALIDATION, linewidth=1.2, marker="o", markersize=4, clip_on=False, zorder=3)
        labels.append((f"validation {final.loss:.3f}", VALIDATION, final.loss))
    if floor:
        axes.axhline(floor, color=FLOOR, linewidth=1.2, dashes=(5, 3))
        labels.append((f"floor {'' if run.data.floor_is_exact else '≤ '}{floor:.3f}", FLOOR, floor))
    axes.set_ylabel("loss per token (nats)")
    _use_log_scale(axes, [*history.loss, *(value for _, _, value in labels)], most_ticks=9)
    _label_ends(axes, labels)


def _use_log_scale(axes: "Axes", values: Iterable[float], most_ticks: int) -> None:
    """Where values span more than a factor of two, give the long, slow end of a curve the room it deserves."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0 or max(finite) < 2 * min(finite):
        return
    low, high = 0.94 * min(finite), 1.06 * max(finite)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_yticks(_round_ticks(low, high, most_ticks))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_yticks([], minor=True)


def _round_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`: as many as there are, but about `most` where the digits can be fewer."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in TICK_DIGITS:
        ticks = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
        if len(ticks) <= most:
            break
    return ticks


def _label_ends(axes: "Axes", labels: list[tuple[str, str, float]]) -> None:
    """Name each line where it ends, right of the panel, in its colour."""
    labels = [label for label in labels if math.isfinite(label[2])]
    axes.autoscale_view()  # matplotlib puts this off until it draws; the heights below need it now
    to_panel = axes.transData + axes.transAxes.inverted()
    heights = spread([to_panel.transform((0, value))[1] for _, _, value in labels], gap=0.055)
    for (text, color, _), height in zip(labels, heights, strict=True):
        axes.text(1.015, height, text, color=color, transform=axes.transAxes, va="center", fontweight="bold")


def _draw_lr(axes: "Axes", run: Run) -> None:
    _draw_line(axes, run, run.history.lr, QUIET)
    axes.set_ylabel("learning\nrate")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=3)
    axes.yaxis.set_major_formatter("{x:g}")


def _draw_grad_norm(axes: "Axes", run: Run) -> None:
    _draw_noisy(axes, run, run.history.grad_norm, QUIET)
    axes.set_ylabel("gradient\nnorm")
    _use_log_scale(axes, run.history.grad_norm, most_ticks=4)


def _add_tokens_axis(axes: "Axes", run: Run) -> None:
    """Tokens seen, along the top: round numbers at the steps where they were reached."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    marks = [
        mark for mark in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(0, run.tokens_seen) if 0 <= mark <= run.tokens_seen
    ]
    steps = np.interp(marks, [0, *run.history.tokens], [0, *run.history.step])
    top = axes.secondary_xaxis("top")
    top.set_xlabel("tokens seen")
    top.spines["top"].set_visible(False)
    top.set_xticks(steps, [EngFormatter(sep="")(mark) for mark in marks])
