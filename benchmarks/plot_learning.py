"""Draw docs/learning.svg: loss over time in the race against PyTorch, and without single pieces of the recipe.

usage: python benchmarks/plot_learning.py RESULTS OUT

RESULTS is a folder with small.jsonl and short.jsonl (`learning.py small` and `short`) and pieces.jsonl (`recipe.py pieces`), the
files of `--out`. The figures of docs/learning.md are those in benchmarks/results.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.data.atomic import atomic_write_text
from minigpt.report.compare_page import COLORS, RUN_COLORS
from minigpt.report.curves import report_style, smooth, to_svg, use_log_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY, BLACK = (light for light, _ in RUN_COLORS.values())
RACES = {
    ("small", "torch-gpt2"): ("PyTorch, AdamW", VERMILLION),
    ("small", "minigpt"): ("minigpt, 880 steps", BLUE),
    ("short", "minigpt"): ("minigpt, 240 steps", SKY),
}
"The race and the side -> the label and the color."
PIECES = {
    "--recipe gpt2, learning rate 3e-3": ("the recipe gpt2", VERMILLION),
    "AdamW for the matrices, learning rate 3e-3": ("AdamW for the matrices", ORANGE),
    "learned positions": ("learned positions", PINK),
    "tied head": ("tied head", GREEN),
    "the default recipe": ("the default recipe", BLUE),
}
"The name in recipe.py -> the label and the color."


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw_races(axes: "Axes", records: list[dict[str, Any]]) -> None:
    """Draw the bits per byte on the validation text over the minutes of training; a line for each seed."""
    values = []
    for race, (label, color) in RACES.items():
        for i, record in enumerate(r for r in records if (r["race"], r["side"]) == race):
            _, seconds, _, bits = zip(*record["curve"], strict=True)
            axes.plot([s / 60 for s in seconds], bits, color=color, linewidth=1.4, label=label if i == 0 else None)
            values += bits
    best = min(r["curve"][-1][3] for r in records if r["side"] == "torch-gpt2")
    axes.axhline(best, color=VERMILLION, linewidth=0.9, dashes=(2, 2))
    axes.set_title("TinyStories, D256 L4 T256 V4,096, against PyTorch", fontsize=9)
    axes.set_xlabel("minutes of training, two threads")
    axes.set_ylabel("bits per byte, validation text")
    use_log_scale(axes, values, max_ticks=9)


def draw_pieces(axes: "Axes", records: list[dict[str, Any]]) -> None:
    """Draw the training loss over the seconds of processor time; the first seed of some of the pieces."""
    import numpy as np

    values: list[float] = []
    for name, (label, color) in PIECES.items():
        record = next(r for r in records if r["name"] == name)
        _, seconds, losses = map(np.array, zip(*record["curve"], strict=True))
        axes.plot(seconds, smooth(losses, radius=1), color=color, linewidth=1.4, label=label)
        values += losses[1:].tolist()
    axes.set_title("TinyStories, D128 L4 T128 V2,048, 524,288 tokens", fontsize=9)
    axes.set_xlabel("seconds of training, one thread")
    axes.set_ylabel("training loss (nats per token)")
    use_log_scale(axes, values, max_ticks=9)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    from matplotlib.figure import Figure

    results, out = map(Path, sys.argv[1:])
    with report_style():
        figure = Figure(figsize=(8, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_races(left, [*read(results / "small.jsonl"), *read(results / "short.jsonl")])
        draw_pieces(right, read(results / "pieces.jsonl"))
        for axes in (left, right):
            axes.set_xlim(left=0)
            axes.legend(frameon=False, labelcolor="linecolor", fontsize=8)
    atomic_write_text(out, to_svg(figure, colors=COLORS))


if __name__ == "__main__":
    main()
