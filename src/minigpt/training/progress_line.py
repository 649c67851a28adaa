"""The progress of a run as one line of text that fits any width."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions
from rich.text import Text

MAX_BAR, MIN_BAR = 40, 5
MARGIN = 3  # free columns on a terminal, so that the "^C" that it shows after Ctrl-C does not begin a new line
MIN_LOSSES = 5  # on each side of a trend
SLOW_STEP_S = 1.0
"From this duration on, the line shows the micro-batches of the current step."
STYLES = {"percent": "bold", "step": "dim", "time": "cyan", "loss": "bold", "floor": "magenta", "speed": "dim"}
SHORTEN = (
    *("validation", "floor", "speed", "step", "step", "validation", "speed", "floor", "validation"),
    *("validation", "step", "bar", "time", "percent", "loss", "loss"),
)
"The order in which the parts take their next shorter form until the line fits. The last form of all but the loss is empty."


@dataclass(frozen=True)
class Status:
    """The state of a run that its progress line shows."""

    steps: int
    step: int = 0
    "The number of steps that are complete."
    micro_batches: tuple[int, int] = (0, 0)
    "How many micro-batches of the current step are complete, and how many there are (0: unknown)."
    activity: str = ""
    "What the run does between two steps."
    elapsed_s: float = 0
    step_s: float = math.inf
    left_s: float | None = None
    "The estimated time to the end; None before the first step."
    loss: float | None = None
    "The loss of the last step, which may be NaN; None before the first step."
    trend: str = ""
    "An arrow: whether the loss falls, rises or stays the same."
    validation: tuple[int, float, float] | None = None
    "The step of the last validation, its loss, and its bits per byte."
    floor: float | None = None
    "The entropy of the text in bits per byte, if it is known."
    tokens_per_s: float = 0

    @property
    def fraction(self) -> float:
        """The completed fraction of the run. It grows within a step."""
        done, total = self.micro_batches
        return min(1.0, (self.step + (done / total if total else 0)) / max(1, self.steps))


@dataclass(frozen=True)
class ProgressLine:
    """The progress line as a renderable of rich, which fits the width of a terminal."""

    status: Status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield self.text(
            max(1, options.max_width - MARGIN), options.ascii_only, bool(console.color_system) and not console.no_color
        )

    def text(self, width: int, ascii_only: bool = False, colors: bool = True) -> Text:
        """Return the line in at most `width` columns, with a bar if there is room for it."""
        forms = _fit(_parts(self.status, ascii_only), width)
        if forms["bar"]:
            length = min(MAX_BAR, width - _width(forms.values()) + MIN_BAR)
        line = Text(no_wrap=True, overflow="crop", end="")
        for name, form in forms.items():
            if form:
                shown = (
                    _bar(self.status.fraction, length, ascii_only, colors) if name == "bar" else Text(form, STYLES.get(name, ""))
                )
                line.append("  " if line else "").append_text(shown)
        for arrow, color in (("↓", "green"), ("↑", "red"), ("not finite", "red")):
            line.highlight_words([arrow], color)
        return line


def plain_line(status: Status, width: float = math.inf) -> str:
    """Return the line with the step in place of the bar, if possible in at most `width` columns."""
    parts = {name: forms for name, forms in _parts(status).items() if name not in ("bar", "percent")}
    parts["step"] = parts["step"][:1]
    return "  ".join(filter(None, _fit(parts, width).values()))


def trend(losses: Sequence[float]) -> str:
    """Return whether the mean of the newer half of the losses is below, above or about that of the older half, as an arrow.

    Differences within the standard error are no trend. Without enough losses the result is empty.

    >>> trend([3.0, 2.9, 3.1, 2.8, 3.0, 2.5, 2.6, 2.4, 2.5, 2.3])
    '↓'
    """
    n = len(losses) // 2
    if n < MIN_LOSSES:
        return ""
    older, newer = np.array(losses[-2 * n : -n]), np.array(losses[-n:])
    difference = newer.mean() - older.mean()
    if abs(difference) <= math.sqrt((newer.var(ddof=1) + older.var(ddof=1)) / n):
        return "→"
    return "↓" if difference < 0 else "↑"


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss, or as m:ss below one hour.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def _parts(s: Status, ascii_only: bool = False) -> dict[str, tuple[str, ...]]:
    """Return the parts of the line from left to right, each with its forms from the longest to the shortest."""
    return {
        "bar": ("-" * MIN_BAR, ""),
        "percent": (f"{math.floor(100 * s.fraction)}%", ""),
        "step": _step_forms(s),
        "time": (_time(s), ""),
        "loss": _loss_forms(s, ascii_only),
        **dict(zip(("validation", "floor"), _validation_forms(s), strict=True)),
        "speed": (f"{s.tokens_per_s:,.0f} tokens/s", f"{_rounded(s.tokens_per_s)} tok/s", "") if s.tokens_per_s else ("",),
    }


def _step_forms(s: Status) -> tuple[str, ...]:
    if s.activity:
        return s.activity, ""
    done, total = s.micro_batches
    current = f"step {min(s.step + 1, s.steps):,}/{s.steps:,}"
    if total > 1 and s.step < s.steps and s.step_s >= SLOW_STEP_S:
        return f"{current}: {done} of {total} micro-batches", f"{current} ({done}/{total})", ""
    return current if s.loss is None else f"step {s.step:,}/{s.steps:,}", ""


def _time(s: Status) -> str:
    if s.step >= s.steps:
        return f"in {clock(s.elapsed_s)}"
    return clock(s.elapsed_s) if s.left_s is None else f"{clock(s.left_s)} left"


def _loss_forms(s: Status, ascii_only: bool) -> tuple[str, ...]:
    if s.loss is None:
        return ("",)
    if not math.isfinite(s.loss):
        return "loss not finite", "not finite", "nan"
    arrow = f" {s.trend}" if s.trend and not ascii_only else ""
    return f"loss {s.loss:.3f}{arrow}", f"{s.loss:.3f}{arrow}", f"{s.loss:.3f}"


def _validation_forms(s: Status) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the forms of the validation loss, and of its bits per byte: those above the floor, if the floor is known."""
    if s.validation is None:
        return ("",), ("",)
    step, loss, bits = s.validation
    forms = (
        f"validation {loss:.3f} at {step:,}",
        f"val {loss:.3f} at {step:,}",
        f"val {loss:.3f} @{step:,}",
        f"val {loss:.3f}",
        "",
    )
    if s.floor is None:
        return forms, (f"{bits:.3f} bits/byte", "")
    above = bits - s.floor
    return forms, (f"{bits:.3f} bits/byte, {above:.3f} above the floor", f"floor {above:+.2f}", "")


def _rounded(number: float) -> str:
    """Return a number in at most four characters.

    >>> _rounded(950), _rounded(1840), _rounded(18_124)
    ('950', '1.8k', '18k')
    """
    return f"{number:.0f}" if number < 1000 else f"{number / 1000:.{1 if number < 9950 else 0}f}k"


def _fit(parts: dict[str, tuple[str, ...]], width: float) -> dict[str, str]:
    """Return the longest forms of the parts that fit the width."""
    forms = {name: list(texts) for name, texts in parts.items()}
    for name in SHORTEN:
        if _width(texts[0] for texts in forms.values()) <= width:
            break
        if len(forms.get(name, "")) > 1:
            del forms[name][0]
    return {name: texts[0] for name, texts in forms.items()}


def _width(forms: Iterable[str]) -> int:
    """Return the columns of the forms that are not empty, joined by two spaces."""
    return len("  ".join(filter(None, forms)))


def _bar(fraction: float, width: int, ascii_only: bool, colors: bool) -> Text:
    """Return a bar with a resolution of half a column."""
    full, half, empty = "##-" if ascii_only else "━╸━" if colors else "━╸ "
    columns, rest = divmod(round(2 * width * fraction), 2)
    done = full * columns + half * rest
    return Text.assemble((done, "bar.finished" if fraction >= 1 else "bar.complete"), (empty * (width - len(done)), "bar.back"))
