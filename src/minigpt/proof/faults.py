"""Negative controls: a checker that has never failed proves nothing.

Each fault changes one piece of the real source in memory, as a slip of the pen would, and the ladder must notice. A fault whose
text is no longer in the source is an error, so that the list cannot go stale.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt.np import activations, attention, block, head, heads, network, norms, ops, parameters, positions
from minigpt.proof.cases import Case, ladder
from minigpt.proof.checks import Check, against_differences, against_torch, has_torch
from minigpt.proof.training import check_adamw, check_clip
from minigpt.train import optimizer, parallel


@dataclass(frozen=True)
class Fault:
    """In `function`, the text `right` becomes `wrong`."""

    what: str
    function: Callable[..., Any]
    right: str
    wrong: str

    def __str__(self) -> str:
        return f"{self.function.__name__}: {self.what}"

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The fault is in the code inside the `with`."""
        function = inspect.unwrap(self.function)
        source = textwrap.dedent(inspect.getsource(function))
        if source.count(self.right) != 1:
            raise ValueError(f"{self}: {self.right!r} stands {source.count(self.right)} times in the source, expected once")
        namespace = dict(function.__globals__)
        exec(compile(source.replace(self.right, self.wrong), f"<fault: {self.what}>", "exec"), namespace)
        healthy = function.__code__
        function.__code__ = inspect.unwrap(namespace[function.__name__]).__code__
        forget = getattr(self.function, "cache_clear", lambda: None)  # what a cached function remembers from before, or from this
        forget()
        try:
            yield
        finally:
            function.__code__ = healthy
            forget()

    def caught_by(self) -> str | None:
        """The first check that fails with the fault planted, or None if all of them pass."""
        with self.planted(), np.errstate(all="ignore"):
            for name, check in _checks():
                try:
                    if not check().passed:
                        return name
                except (ValueError, IndexError, FloatingPointError):  # shapes that do not fit are noticed, too
                    return name
        return None


def _checks() -> Iterator[tuple[str, Callable[[], Check]]]:
    """The float64 rungs of the ladder, and the two of the update."""

    def rung(case: Case) -> Callable[[], Check]:
        return lambda: against_torch(case, np.float64) if has_torch() else against_differences(case)

    yield from ((str(case), rung(case)) for case in ladder())
    if has_torch():
        yield "clip", lambda: check_clip(np.float64)
        yield "AdamW", lambda: check_adamw(np.float64)


FAULTS = [
    Fault("weight gradient transposed", ops.linear_backward, "np.matmul(x.T, dy, out=out[0])", "(dy.T @ x)"),
    Fault("bias gradient averaged", ops.linear_backward, "column_sum(dy, out=out[1])", "column_sum(dy, out=out[1]) / len(dy)"),
    Fault("bias forgotten", ops.linear, "y += bias", "pass"),
    Fault(
        "repeated tokens counted once",
        ops.embedding_backward,
        "np.add.at(dweight.reshape(V * D), elements.reshape(-1), dy.reshape(-1))",
        "dweight[tokens] += dy",
    ),
    Fault(
        "head's share overwritten", ops.embedding_backward, "if out is None else out", "if out is None else out.fill(0) or out"
    ),
    Fault("positions shifted", positions.positions, "weight[places]", "weight[places.start - 1 : places.stop - 1]"),
    Fault("positions of one sequence only", positions.positions_backward, "np.sum(dy, axis=0,", "np.mean(dy, axis=0,"),
    Fault("Jacobian's rank-one part left out", ops.softmax_backward, "np.vecdot(dy, y)[..., None]", "0"),
    Fault("gamma dropped", norms.layer_norm_backward, "np.multiply(dy[rows], gamma,", "np.multiply(dy[rows], 1,"),
    Fault("mean not subtracted", norms.layer_norm_backward, "dxi -= mean_g[:, None]", "pass"),
    Fault("variance held constant", norms.layer_norm_backward, "dxi -= np.multiply(x_hat[rows],", "np.multiply(x_hat[rows],"),
    Fault("only the last piece's dgamma", norms.layer_norm_backward, "dgamma += column", "dgamma[:] = column"),
    Fault("rstd forgotten", norms.layer_norm_backward, "dxi *= rstd[rows]", "pass"),
    Fault("epsilon outside the root", norms.layer_norm, "/ D + epsilon)", "/ D) + epsilon"),
    Fault("dgamma from dy alone", norms.layer_norm_backward, "dgamma += column_sum(product)", "dgamma += column_sum(dy[rows])"),
    Fault("gradient where x < 0", activations.relu_backward, "(dy, y > 0,", "(dy, y <= 0,"),
    Fault("slope of the gate left out", activations.gelu, "square *= yi", "square *= 0"),
    Fault("factor 2 for 3 in the cube", activations.gelu, "6 * GELU_C", "4 * GELU_C"),
    Fault("target not subtracted", ops.cross_entropy_backward, "exps[rows, labels] -= dloss / count", "pass"),
    Fault("ignored rows counted", ops.cross_entropy_backward, "scale[rows] = dloss / count", "scale[...] = dloss / count"),
    Fault("incoming gradient ignored", ops.cross_entropy_backward, "scale[rows] = dloss / count", "scale[rows] = 1 / count"),
    Fault("largest logit not added back", ops.cross_entropy, "np.log(total) + shift", "np.log(total)"),
    Fault(
        "mean taken off by RMS norm",
        norms.rms_norm,
        "np.multiply(xi, ri,",
        "np.multiply(xi - xi.mean(-1, keepdims=True), ri,",
    ),
    Fault("mean square held constant", norms.rms_norm_backward, "dxi -= np.multiply(x[rows],", "np.multiply(x[rows],"),
    Fault("rstd once, not twice", norms.rms_norm_backward, "rstd[rows] ** 2", "rstd[rows]"),
    Fault("RMS norm's epsilon outside the root", norms.rms_norm, "+ D * epsilon)", ") + D * epsilon"),
    Fault("dgamma without rstd", norms.rms_norm_backward, "rstd[rows, 0] @ product", "column_sum(product)"),
    Fault("only the last piece's dgamma, RMS", norms.rms_norm_backward, "dgamma += rstd", "dgamma[:] = rstd"),
    Fault("density of the exact gate left out", activations.gelu_exact, "square *= 1 / math.sqrt(2 * math.pi)", "square *= 0"),
    Fault("density too wide", activations.gelu_exact, "square *= -0.5", "square *= -0.25"),
    Fault("polynomial one term short", activations.gelu_exact, "in coefficients[1:]", "in coefficients[1:-1]"),
    Fault("gate and value swapped", block.feed_forward, "swiglu(gate, up,", "swiglu(up, gate,"),
    Fault("slope of the sigmoid forgotten", activations.swiglu, "np.subtract(1, s,", "np.subtract(0, s,"),
    Fault("gate's gradient without the value", activations.swiglu, "slope *= upi", "pass"),
    Fault("gate's path to x forgotten", block.feed_forward_backward, "dx += dx_gate", "pass"),
    Fault("turned the wrong way", positions.rope, "np.multiply(b, sin_a", "np.multiply(b, -sin_a"),
    Fault("not turned back", positions.rope_backward, "-sin", "sin"),
    Fault("the other pairing", positions.pairs, 'pairing == "half"', 'pairing != "half"'),
    Fault("wave lengths one pair off", positions.angles, "np.arange(0, d, 2)", "np.arange(2, d + 2, 2)"),
    Fault("mask not applied", ops.dropout_backward, "np.multiply(dy, mask,", "np.multiply(dy, 1,"),
    Fault("mask off by one", attention.future, "k=1", "k=0"),
    Fault("mask one too late", attention.future, "k=1", "k=2"),
    Fault("backward recomputed unmasked", attention.attention_backward, ":end], causal, ws)", ":end], False, ws)"),
    Fault("1/sqrt(d) forgotten on the way back", attention.attention_backward, "1 / math.sqrt(d)", "1.0"),
    Fault("1/sqrt(d) forgotten", attention.attention, "1 / math.sqrt(d)", "1.0"),
    Fault("shift forgotten on the way back", attention.attention_backward, "exps -= shift[*box, rows]", "pass"),
    Fault("total forgotten on the way back", attention.attention_backward, "np.divide(dy, total, out", "np.multiply(dy, 1, out"),
    Fault(
        "softmax's sum left out",
        attention.attention_backward,
        "np.negative(np.vecdot(y, scaled), out=wide[..., d])",
        "wide[..., d] = 0",
    ),
    Fault("only the last block's dk and dv", attention.attention_backward, "to += np.matmul(", "to[...] = np.matmul("),
    Fault("the values' own gradient for the keys", attention.attention_backward, "(dk, dz, q)", "(dk, exps, q)"),
    Fault("sharing heads not summed", attention.summed, "np.sum(dx, axis=axes,", "np.mean(dx, axis=axes,"),
    Fault("keys with the queries' norm", heads.prepare, 'norm(before[H:], p, "k_norm."', 'norm(before[H:], p, "q_norm."'),
    Fault("turned before the norm's way back", heads.prepare_backward, "dy = rope_backward(", "rope_backward("),
    Fault("keys' norm skipped on the way back", heads.prepare_backward, "norm_caches[1], g", "norm_caches[0], g"),
    Fault("keys and values swapped", heads.multi_head_attention, "k[:, None], v[:, None]", "v[:, None], k[:, None]"),
    Fault("heads and columns mixed up", heads.heads_of, "x.shape[1] // d, d)", "d, x.shape[1] // d).swapaxes(2, 3)"),
    Fault("heads of queries in the wrong groups", heads.grouped, "q.reshape(K, -1,", "q[::-1].reshape(K, -1,"),
    Fault("residual skipped on the way back", block.residual_backward, "np.add(dx, dy,", "np.add(dx, 0,"),
    Fault("residual skipped", block.residual, "y += x", "pass"),
    Fault("post-norm's gradient not used", block.residual_backward, "dy = norm_backward(dy,", "norm_backward(dy,"),
    Fault("only the last chunk's dweight", head.head_loss_and_backward, "dweight += share", "dweight[...] = share"),
    Fault("only the last micro-batch", network.destination, "part.flat += fresh.flat", "part.flat[...] = fresh.flat"),
    Fault("final norm skipped", network.backward, "dx[...] = norm_backward(", "norm_backward("),
    Fault("blocks in the wrong order", network.backward, "reversed(range(len(blocks)))", "range(len(blocks))"),
    Fault(
        "names one place off", parameters.Parameters.under, "names[: names.index(inside[0])]", "names[1 : names.index(inside[0])]"
    ),
    Fault("a thread's gradients lost", parallel.Team.share_of_sum, "squares.append(float(np.vdot(g, g)))", "squares.append(0.0)"),
    Fault("no bias correction", optimizer.AdamW.update, "lr * root / (1 - self.beta1**step)", "lr"),
    Fault("decay mixed into the gradient", optimizer.AdamW.update, "m += np.multiply(g, (1", "m += np.multiply(g + p, (1"),
    Fault("everything decays", optimizer.AdamW.update, "for where in decaying:", "for where in [slice(None)]:"),
    Fault("epsilon inside the root", optimizer.AdamW.update, "change += self.epsilon * root", "change += self.epsilon**0.5"),
]
"The planted faults, from the smallest operation to the optimizer."
