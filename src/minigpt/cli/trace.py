"""The command that shows a forward and a backward pass."""

import json
import math
import shutil
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from minigpt.cli.app import Switch, app
from minigpt.cli.columns import cell
from minigpt.cli.data import content_of, token_literal
from minigpt.cli.models import RunName
from minigpt.data.printable import printable
from minigpt.data.text_files import plural

if TYPE_CHECKING:
    from minigpt.data.tokenizer import Tokenizer
    from minigpt.np.trace import Trace

BLOCKS = " ▏▎▍▌▋▊▉█"
BAR, TOKEN, CELL = 8, 14, 15
"The width of a bar, of a token, and of a prediction with its probability, in columns."


@app.command
def trace(
    run: RunName,
    *text: Annotated[str, Parameter(help="Text to trace, or - for standard input.", group="Parameters")],
    json_: Annotated[Switch, Parameter(name="--json")] = False,
) -> None:
    """Show what a model expects at each token of a text, how its blocks change that, and how the gradient flows.

    For each token: its surprise, -log2 of its probability, and what the model would have predicted in its place if the LM head
    followed after the embedding or after a block. The prediction after the last block is the model's. For a text of the
    storybook, the information content of each token is known; no model can have a lower surprise on average.

    Parameters
    ----------
    json_
        Print the numbers as JSON.
    """
    from minigpt.interop.load import load_finite

    words = content_of(text, 'minigpt trace RUN "Once upon a time"')
    model, tokenizer = load_finite(run)
    if tokenizer is None:
        raise ValueError(f"{run} has no tokenizer (tokenizer.json)")
    ids = tokenizer.input_ids(words)
    if len(ids) - 1 > model.config.context_length:
        limit = model.config.context_length
        raise ValueError(f"the text has {len(ids) - 1:,} tokens, but the model's context_length is {limit:,}")
    t = model.trace([ids[:-1]], [ids[1:]])
    report = _report(t, tokenizer)
    print(json.dumps(report, ensure_ascii=False) if json_ else printable(_page(t, report)))


def _report(t: "Trace", tokenizer: "Tokenizer") -> dict[str, Any]:
    """Return the numbers that are shown. Most lists have an element for each token of the text."""
    import numpy as np

    from minigpt.data.storybook.prefixes import token_bits
    from minigpt.np.ops import softmax

    tokens = [int(token) for token in t.targets[0]]
    probabilities, _ = softmax(t.logit_lens()[:, 0].astype(np.float64))
    likeliest = probabilities.argmax(-1)  # (L + 1, T)
    pieces = tokenizer.pieces(tokens)
    bits = token_bits(pieces)
    return {
        "loss": t.loss,
        "tokens": [tokenizer.decode([token]) for token in tokens],
        "literals": [*map(token_literal, pieces)],
        "surprise": t.surprise()[0].tolist(),
        "storybook": bits if all(map(math.isfinite, bits)) else None,
        "predictions": [
            [[tokenizer.decode([int(token)]), float(row[i, token])] for i, token in enumerate(best)]
            for row, best in zip(probabilities, likeliest, strict=True)
        ],
        "gradient_flow": [float((layer**2).sum() ** 0.5) for layer in t.gradient_flow()[:, 0]],
    }


def _page(t: "Trace", report: dict[str, Any]) -> str:
    """Return the report as text for the terminal."""
    per_token = f"{report['loss']:.3f} nats or {report['loss'] / math.log(2):.3f} bits per token"
    count = plural(len(report["tokens"]), "token")
    title = f"{count}, {per_token}; {len(t.names)} arrays, {t.nbytes / 2**20:,.1f} MiB with gradients"
    return "\n\n".join([title, "\n".join(_token_lines(t, report)), "\n".join(_flow_lines(report))])


def _token_lines(t: "Trace", report: dict[str, Any]) -> list[str]:
    """Return the table of the tokens. As many blocks as fit into the width of the terminal are shown, and always the last."""
    surprise, known = report["surprise"], report["storybook"]
    left = f"{'token':{TOKEN}} {'surprise':>8}  " + ("storybook  " if known else "") + " " * BAR
    shown = _evenly(t.config.n_layers + 1, (shutil.get_terminal_size().columns - len(left)) // CELL)
    lines = [left + "".join(f"{'embedding' if i == 0 else f'after block {i - 1}':>{CELL}}" for i in shown)]
    for n, token in enumerate(report["literals"]):
        truth = f"{known[n]:9.2f}  " if known else ""
        bar = _bar(surprise[n], max(surprise))
        predictions = "".join(_prediction(*report["predictions"][i][n]) for i in shown)
        lines.append(f"{cell(token, TOKEN)} {surprise[n]:8.2f}  {truth}{bar:{BAR}}{predictions}".rstrip())
    mean = f"{sum(known) / len(known):9.2f}  " if known else ""
    return [*lines, f"{'mean':{TOKEN}} {sum(surprise) / len(surprise):8.2f}  {mean}".rstrip()]


def _flow_lines(report: dict[str, Any]) -> list[str]:
    """Return the bar chart of the gradient of the residual stream."""
    flow = report["gradient_flow"]
    names = ["embedding", *(f"after block {i}" for i in range(len(flow) - 1))]
    lines = [
        f"{name:{TOKEN}} {norm:8.4f}  {_bar(norm, max(flow), 4 * BAR)}".rstrip() for name, norm in zip(names, flow, strict=True)
    ]
    return ["norm of the gradient of the loss with respect to the residual stream", *lines]


def _prediction(token: str, probability: float) -> str:
    return f" {cell(repr(token), CELL - 6, right=True)}{probability:5.0%}"


def _bar(value: float, largest: float, width: int = BAR) -> str:
    """Return a bar whose length is proportional to the value, in eighths of a column.

    >>> _bar(3, 8, width=4)
    '█▌'
    """
    eighths = round(8 * width * value / largest) if largest > 0 else 0
    return BLOCKS[8] * (eighths // 8) + BLOCKS[eighths % 8].strip()


def _evenly(n: int, count: int) -> list[int]:
    """Return at most `count` of the numbers below n, evenly spaced, with the last and, if there are two, the first.

    >>> _evenly(13, 4), _evenly(3, 9), _evenly(3, 0)
    ([0, 4, 8, 12], [0, 1, 2], [2])
    """
    count = max(1, min(n, count))
    return [n - 1] if count == 1 else [round(i * (n - 1) / (count - 1)) for i in range(count)]
