"""What the view "Follow the gradient" shows: the size of every gradient, any array as numbers, and the proof of a number."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt.np.parameters import qkv_columns
from minigpt.np.trace import Trace
from minigpt.np.watch import Patch
from minigpt.np.workspace import Array
from minigpt.page.arrays import as_matrix, matrix_part
from minigpt.page.nodes import nodes
from minigpt.page.subject import with_dtype
from minigpt.page.traced import Traced, Tracer, ablation, targets_of

Range = tuple[int, int]
QKV = ("queries", "keys", "values")


@dataclass(frozen=True)
class Element:
    """One number of the model: of an array of the trace, or of a parameter."""

    name: str
    index: tuple[int, ...]
    "Its indices: (row, column) of the matrix that the page shows, or (head, row, column) of an array of heads."


def gradient(traced: Traced) -> dict[str, Any]:
    """Return the tokens, the loss, the diagram, and the norm of the gradient of each array and on each edge."""
    t = traced.trace
    return {
        "tokens": traced.pieces,
        "surprise": traced.surprise,
        "loss": t.loss,
        "layers": t.config.n_layers,
        "nodes": nodes(t.config),
        "edges": edges(t),
        "norms": {name: float(np.linalg.norm(array)) for name, array in t.grad.items()},
        "parameters": list(t.parameters),
    }


def edges(t: Trace) -> dict[str, float]:
    """Return the norm of the gradient that flows from each node of the diagram to each of its inputs, as "input output".

    If an array has one use, this is its gradient. If it has several, its gradient is the sum over them, of which each is
    computed here. "stream.{i}" is the residual stream before block i, and "stream.after" that after the last one.
    """
    config, found = t.config, {}
    pre = config.norm_placement == "pre"
    for i in range(config.n_layers):
        block = f"blocks.{i}."
        before = "embedding" if i == 0 else f"blocks.{i - 1}.residual_post"
        for node in nodes(config):
            if node["part"] == "block" and "stream" not in node["inputs"] and node["kind"] != "sum":
                output = node["name"].replace("{i}", str(i))
                for source in (name.replace("{i}", str(i)) for name in node["inputs"]):
                    found[f"{source} {output}"] = _through(t, output, source)
        streams = [
            (f"stream.{i}", before, "residual_mid", "attention"),
            (f"{block}residual_mid", f"{block}residual_mid", "residual_post", "feed_forward"),
        ]
        for key, name, total, branch in streams:
            branch_grad = t.grad[block + branch]
            direct = t.grad[block + total] if pre else branch_grad  # a sum passes the gradient of its result to both terms
            found[f"{key} {block}{total}"] = float(np.linalg.norm(direct))
            found[f"{block}{branch} {block}{total}"] = float(np.linalg.norm(branch_grad))
            if pre:
                found[f"{key} {block}{branch}_norm"] = float(np.linalg.norm(t.grad[name] - direct))
            elif branch == "attention":
                found |= {f"{key} {block}attention.{x}": _through(t, f"{block}attention.{x}", name) for x in QKV}
    last = f"blocks.{config.n_layers - 1}.residual_post"
    return found | {
        "token_embedding embedding": float(np.linalg.norm(t.grad["token_embedding"])),
        "stream.after final_norm": float(np.linalg.norm(t.grad[last])),
        "final_norm logits": float(np.linalg.norm(t.grad["final_norm"])),
    }


def _through(t: Trace, output: str, source: str) -> float:
    """Return the norm of the gradient that flows from an array to one of its inputs."""
    part = output.rpartition(".")[2]
    block = output[: output.index(".", len("blocks."))] if output.startswith("blocks.") else ""
    if part in QKV:
        columns = qkv_columns(t.config)[QKV.index(part)]
        dy = t.grad[output][0].transpose(1, 0, 2).reshape(t.tokens.shape[1], -1)
        return float(np.linalg.norm(dy @ t.parameters[f"{block}.attention.qkv.weight"][:, columns].T))
    if part in ("up", "gate"):
        return float(np.linalg.norm(t.grad[output][0] @ t.parameters[f"{output}.weight"].T))
    return float(np.linalg.norm(t.grad[source]))


def array(t: Trace, name: str, index: int, rows: Range | None, columns: Range | None) -> dict[str, Any]:
    """Return a part of an array of the trace, or of a parameter, and of its gradient. Heads are selected by `index`."""
    value, grad = value_and_gradient(t, name)
    shown, shown_grad = as_matrix(value, index), as_matrix(grad, index)
    rows, columns = rows or (0, shown.shape[0]), columns or (0, shown.shape[1])
    return {
        "shape": list(value.shape if name in t.parameters else value.shape[1:]),
        "size": list(shown.shape),
        "value": matrix_part(shown, rows, columns),
        "gradient": matrix_part(shown_grad, rows, columns),
        "largest": [float(np.abs(x).max()) for x in (shown, shown_grad)],
    }


def value_and_gradient(t: Trace, name: str) -> tuple[Array, Array]:
    """Return an array of the trace or a parameter, and the gradient of the loss with respect to it."""
    assert t.parameter_grads is not None
    if name in t.parameters:
        return t.parameters[name], t.parameter_grads[name]
    if name not in t.values:
        raise ValueError(f"name is {name!r}, but must be that of an array of the trace, or of a parameter")
    return t[name], t.grad[name]


def nudge(tracer: Tracer, traced: Traced, element: Element, amount: float) -> dict[str, Any]:
    """Return what happens to the loss if one number of the model is changed a little, beside what the gradient says.

    Both are computed in float64, because in float32 rounding would hide most of so small a change.
    """
    if not 0 < abs(amount) <= 1:
        raise ValueError(f"amount is {amount}, but must be between -1 and 1, and not 0")
    value, _ = value_and_gradient(traced.trace, element.name)
    where = full_index(element, value, element.name in traced.trace.parameters)
    q, config = traced.question, traced.trace.config
    exact = tracer.subject.model(q.step, np.float64)
    targets, off = targets_of(traced.ids, q.target), ablation(q.off, config)
    before = exact.trace([traced.ids], targets, patch=off)
    x, grad = value_and_gradient(before, element.name)
    if element.name in exact.parameters:
        changed = with_dtype(exact, np.float64)
        changed.parameters[element.name][where] += amount
        after = changed.trace([traced.ids], targets, patch=off, gradients=False).loss
    else:
        patch = {**off, element.name: _added(where, amount, off.get(element.name))}
        after = exact.trace([traced.ids], targets, patch=patch, gradients=False).loss
    return {
        "value": float(x[where]),
        "gradient": float(grad[where]),
        "amount": amount,
        "loss": before.loss,
        "after": after,
        "change": after - before.loss,
        "predicted": amount * float(grad[where]),
    }


def full_index(element: Element, x: Array, is_parameter: bool) -> tuple[int, ...]:
    """Return the indices of an element in its array, which has a first dimension for the batch if it is not a parameter."""
    wanted = element.index if is_parameter else (0, *element.index)
    if is_parameter and x.ndim == 1 and len(wanted) == 2:  # shown as a matrix of one row
        wanted = wanted[1:]
    if len(wanted) != x.ndim or not all(0 <= i < n for i, n in zip(wanted, x.shape, strict=True)):
        sizes = list(x.shape if is_parameter else x.shape[1:])
        raise ValueError(f"index is {list(element.index)}, but {element.name} has the shape {sizes}")
    return wanted


def _added(where: tuple[int, ...], amount: float, first: Patch | None) -> Patch:
    """Return a patch that adds a number to one element, after another patch of the same array."""

    def add(x: Array) -> Array:
        x = x if first is None else np.asarray((first[0] if isinstance(first, tuple) else first)(x))
        x[where] += amount
        return x

    return add
