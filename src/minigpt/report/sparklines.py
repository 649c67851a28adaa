"""Render the norms of the layers as an HTML table of small plots."""

import html
import math

import numpy as np

from minigpt.report.elements import NormTable, Series

WIDTH, HEIGHT, MARGIN = 120, 32, 3


def html_norms(norms: NormTable) -> str:
    """Return a table with a plot and the first and last value for each layer and quantity.

    All plots of a column have the same logarithmic scale.
    """
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("layer", *norms.columns))
    limits = [_limits([columns[i] for _, columns in norms.rows]) for i in range(len(norms.columns))]
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(layer)}</th>'
        + "".join(_cell(norms.steps, series, limit) for series, limit in zip(columns, limits, strict=True))
        + "</tr>"
        for layer, columns in norms.rows
    )
    return f'<table class="norms">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>'


def _cell(steps: tuple[int, ...], series: Series, limits: tuple[float, float]) -> str:
    return f"<td>{sparkline(steps, series.values, limits)}{html.escape(series.text)}</td>"


def _limits(column: list[Series]) -> tuple[float, float]:
    """Return the smallest and the largest positive value of a column."""
    values = [value for series in column for value in series.values if 0 < value < math.inf]
    return (min(values), max(values)) if values else (1.0, 1.0)


def sparkline(steps: tuple[int, ...], values: tuple[float, ...], limits: tuple[float, float]) -> str:
    """Return a small SVG line of positive values on a logarithmic scale, with a dot at the last; other values are left out."""
    kept = [(step, value) for step, value in zip(steps, values, strict=True) if 0 < value < math.inf]
    if not kept:
        return ""
    x = MARGIN + (WIDTH - 2 * MARGIN) * _fractions([step for step, _ in kept], steps[0], steps[-1])
    low, high = map(math.log, limits)
    y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * _fractions([math.log(value) for _, value in kept], low, high)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true"><polyline points="{points}" fill="none" '
        f'stroke="currentColor" stroke-width="1.5"/><circle cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="2.5" fill="currentColor"/></svg>'
    )


def _fractions(values: list[float], low: float, high: float) -> np.ndarray:
    """Return the positions of values between `low` and `high`, from 0 to 1; 0.5 if both are the same."""
    return (np.array(values) - low) / (high - low) if high > low else np.full(len(values), 0.5)
