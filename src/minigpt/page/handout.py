"""The views of one story for a report: one file that needs no server."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from minigpt.page import files
from minigpt.page.arrays import encoded_bytes
from minigpt.page.inside import attribution, inside, residual_norms
from minigpt.page.subject import Subject, blas_threads
from minigpt.page.traced import Question, Tracer
from minigpt.page.training import Training

TOKENS = 48
MOMENTS = 14
"The largest number of snapshots in a report."
MAX_BYTES = 1_500_000
"The largest size of the data of the views. Fewer snapshots are shown if they would need more."
EXAMPLE = "Once upon a time there was a fox named Pip. Pip"


def example(subject: Subject, limit: int) -> str:
    """Return a text to look at: the beginning of the last story that the run has told without a prompt, or `EXAMPLE`."""
    samples = [] if subject.trained is None else Training(subject.trained).samples()
    told = [sample["text"] for sample in samples if sample["text"] and not sample["prompt"]]
    for text in (*told[-1:], EXAMPLE):
        with suppress(ValueError):  # a tokenizer of characters may not know those of the example
            if ids := subject.tokenizer.encode(text)[: min(TOKENS, limit)]:
                return subject.tokenizer.decode(ids).rstrip("\ufffd")
    return EXAMPLE


def story(run: Path) -> str:
    """Return the views of a story of a run as HTML with a script, or nothing if its weights are missing.

    They show the model as it was after each snapshot: surprise, attention, the logit lens, attribution and the gradient.
    """
    try:
        tracer = Tracer(Subject(run))
        with threadpool_limits(blas_threads(tracer.subject.model())):
            return _story(tracer)
    except (ValueError, OSError, ArithmeticError):
        return ""


def _story(tracer: Tracer) -> str:
    last = tracer(Question(example(tracer.subject, tracer.limit)))
    config = last.trace.config
    model = {"layers": config.n_layers, "heads": config.n_heads, "post_norm": config.norm_placement != "pre"}
    moments = _moments(tracer, last.question)
    data = json.dumps({"model": model, "moments": moments}, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<h2>Look inside</h2>
<p class="note">The beginning of a story, as the model reads it. The slider shows the model as it was after earlier steps.
<code>minigpt serve</code> shows the same for any text.</p>
<style>
.views {{
{files.read("parts.css")}}}
</style>
<div class="views" id="story"><noscript>These views need JavaScript.</noscript></div>
<script type="application/json" id="story-data">{data}</script>
<script type="module">
{files.bundle("report.js")}
</script>
"""


def _moments(tracer: Tracer, question: Question) -> list[dict[str, Any]]:
    """Return what is shown at the snapshots, evenly chosen if there are many, and always at the last step."""
    last = _moment(tracer, question)
    room = max(1, min(MOMENTS, MAX_BYTES // len(json.dumps(last))))
    steps = [step for step in tracer.subject.steps if step != question.step]
    count = min(room - 1, len(steps))
    chosen = [steps[round(i * (len(steps) - 1) / max(1, count - 1))] for i in range(count)]
    return [*(_moment(tracer, Question(question.text, step)) for step in chosen), last]


def _moment(tracer: Tracer, question: Question) -> dict[str, Any]:
    """Return the view "Look inside" in few bytes."""
    traced = tracer(question)
    t = traced.trace
    attention = np.stack([t[f"blocks.{i}.attention.weights"][0] for i in range(t.config.n_layers)])
    shares = []
    if t.config.norm_placement == "pre":
        shares = [attribution(tracer, traced, position) for position in range(len(traced.ids) - 1)]
    return {
        **_rounded(inside(tracer, traced)),
        "attention": encoded_bytes(attention),
        "residual_norms": encoded_bytes(residual_norms(t)),
        "flow": encoded_bytes(t.gradient_flow()[:, 0]),
        "parts": [name for name, _ in shares[0]["shares"]] if shares else [],
        "attribution": [_rounded({**s, "shares": [share for _, share in s["shares"]]}) for s in shares],
    }


def _rounded(value: Any) -> Any:
    """Return a value for JSON with its numbers rounded to four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(x) for name, x in value.items()}
    return [_rounded(x) for x in value] if isinstance(value, list | tuple) else value
