"""The tables of a report: settings, model, data, training, machine, and the norms of the layers."""

import math

from minigpt.np.config import MODEL_FIELDS
from minigpt.report.elements import NormTable, Series, Table
from minigpt.report.formats import format_duration, format_value, strip_folders
from minigpt.report.numbers import MeasuredNorms, Run, Split, Validation, last_steps
from minigpt.report.settings import shown_settings


def tables(run: Run) -> list[Table]:
    """Return the tables of names and values of a run."""
    return [_configuration(run), _model(run), _data(run), _training(run), _machine(run)]


def training_loss(run: Run) -> tuple[str, str]:
    """Return the training loss at the end of a run, and how it was averaged (which may be empty)."""
    steps = last_steps(len(run.history.loss))
    return f"{run.final_training_loss:.3f} nats per token", f" (mean of the last {steps} steps)" if steps > 1 else ""


def _configuration(run: Run) -> Table:
    rows = [(name, value) for name, value in shown_settings(run.config).items() if name not in MODEL_FIELDS]
    return Table("Configuration", rows)


def _model(run: Run) -> Table:
    shape = [(name, format_value(run.config[name])) for name in MODEL_FIELDS if name in run.config]
    return Table("Model", [("parameters", f"{run.parameters:,}"), *shape])


def _data(run: Run) -> Table:
    data = run.data
    rows = [
        ("source", strip_folders(data.name)),
        *([("held out", strip_folders(data.held_out))] if data.held_out else []),
        *_split("training", data.train),
        *_split("validation", data.valid),
    ]
    if data.floor_bits_per_byte is not None:
        at_most = "" if data.floor_is_exact else "at most "
        rows.append(("floor", f"{at_most}{data.floor_bits_per_byte:.4f} bits per byte, {data.floor_loss:.4f} nats per token"))
    return Table("Data", rows)


def _split(name: str, split: Split) -> list[tuple[str, str]]:
    return [
        (f"{name} documents", f"{split.documents:,}"),
        (f"{name} text", f"{split.bytes:,} bytes"),
        (f"{name} tokens", f"{split.tokens:,} ({split.bytes / split.tokens:.2f} bytes per token)"),
    ]


def _training(run: Run) -> Table:
    rows = [
        ("steps", f"{run.steps_done:,}"),
        ("tokens seen", f"{run.tokens_seen:,}"),
        ("epochs", f"{run.epochs:.2f}"),
        ("time", format_duration(run.elapsed_s)),
        ("speed (median)", f"{run.tokens_per_s:,.0f} tokens/s"),
        ("training loss", "".join(training_loss(run))),
    ]
    if run.final and run.best:
        rows.append(("last validation", f"{_format_validation(run.final)}, step {run.final.step:,}"))
        rows.append(("best validation", f"{_format_validation(run.best)}, step {run.best.step:,}"))
    return Table("Training", rows)


def _format_validation(validation: Validation) -> str:
    return f"{validation.loss:.4f} nats per token, {validation.bits_per_byte:.4f} bits per byte"


def _machine(run: Run) -> Table:
    names = {
        "memory_gib": "memory (GiB)",
        "numpy": "NumPy",
        "python": "Python",
        "blas": "BLAS",
        "blas_threads": "BLAS threads",
    }
    rows = [(names.get(name, name.replace("_", " ")), format_value(value)) for name, value in run.machine.items()]
    return Table("Machine", [*rows, ("minigpt", run.version)])


def norm_table(run: Run) -> NormTable | None:
    """Return the norms of each layer at the measuring points, or None for a run of a version that did not record them."""
    if not run.norms:
        return None
    last = run.norms[-1]
    points = [point for point in run.norms if point.layers.keys() == last.layers.keys()]
    span = f"from step {points[0].step:,} to step {last.step:,}" if len(points) > 1 else f"at step {last.step:,}"
    note = (
        f"The norms of the gradient (before clipping) and of the weights of each layer {span}, and the norm of the update "
        "relative to that of the weights: a ratio of 0.001 means that one step changes the weights by a thousandth."
    )
    rows = [(layer.replace("_", " "), [_series(values) for values in _columns(points, layer)]) for layer in last.layers]
    return NormTable(note, ("gradient", "weights", "update / weights"), tuple(point.step for point in points), rows)


def _columns(points: list[MeasuredNorms], layer: str) -> list[list[float]]:
    norms = [point.layers[layer] for point in points]
    ratios = [n["update"] / n["weight"] if n["weight"] else math.nan for n in norms]
    return [[n["gradient"] for n in norms], [n["weight"] for n in norms], ratios]


def _series(values: list[float]) -> Series:
    ends = dict.fromkeys((0, len(values) - 1))
    return Series(tuple(values), " → ".join(_short(values[i]) for i in ends))


def _short(value: float) -> str:
    return f"{value:.3g}" if value >= 1 else f"{value:.2g}"
