"""Planted faults: mutations of the source, each of which some check must detect.

A fault replaces some text in the source of one function, in memory. If the source no longer contains the text, planting the fault
raises an error, so an outdated fault is noticed.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from minigpt.np import (
    activations,
    attention,
    block,
    lm_head,
    loss,
    multi_head_attention,
    network,
    norms,
    ops,
    parameters,
    positions,
    trace,
    watch,
)
from minigpt.proof import tracing
from minigpt.proof.cases import all_cases
from minigpt.proof.checks import Check, compare_with_differences, compare_with_torch, has_torch
from minigpt.proof.orthogonalization import ITERATIONS, check_with_numpy, check_with_torch
from minigpt.proof.training import UPDATES, check_clip, check_updates
from minigpt.training import adamw, muon, optimizer
from minigpt.training.parallel import data_parallel


@dataclass(frozen=True)
class Fault:
    """A mutation: in the source of `function`, the text `original` is replaced by `mutated`."""

    description: str
    function: Callable[..., Any]
    original: str
    mutated: str

    def __str__(self) -> str:
        return f"{self.function.__qualname__}: {self.description}"

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Return a context manager inside which the function has the fault.

        Raises `ValueError` if the source does not contain `original` exactly once.
        """
        function = inspect.unwrap(self.function)
        source = textwrap.dedent(inspect.getsource(function))
        count = source.count(self.original)
        if count != 1:
            raise ValueError(f"{self}: the source contains {self.original!r} {count} times, but must contain it once")
        namespace = dict(function.__globals__)
        exec(compile(source.replace(self.original, self.mutated), f"<fault: {self.description}>", "exec"), namespace)
        code = function.__code__
        function.__code__ = inspect.unwrap(namespace[function.__name__]).__code__
        clear_cache = getattr(self.function, "cache_clear", lambda: None)  # discard cached results, here and after the fault
        clear_cache()
        try:
            yield
        finally:
            function.__code__ = code
            clear_cache()

    def caught_by(self) -> str | None:
        """Return the name of the first check that fails when the fault is planted, or None if all of them pass."""
        with self.planted(), np.errstate(all="ignore"):
            for name, check in _checks(training_first="training" in self.function.__module__):
                try:
                    if not check().passed:
                        return name
                except (ValueError, IndexError, FloatingPointError):  # mismatched shapes also count as detected
                    return name
        return None


def _checks(training_first: bool = False) -> Iterator[tuple[str, Callable[[], Check]]]:
    """Yield the name and the function of each check that must detect the faults: in float64, without training steps.

    A fault in the training is detected sooner if the checks of training are the first.
    """
    parts = (_case_checks, _trace_checks, _training_checks)
    return chain.from_iterable(part() for part in (reversed(parts) if training_first else parts))


def _case_checks() -> Iterator[tuple[str, Callable[[], Check]]]:
    for case in all_cases():
        yield str(case), partial(compare_with_torch, case, np.float64) if has_torch() else partial(compare_with_differences, case)


def _trace_checks() -> Iterator[tuple[str, Callable[[], Check]]]:
    for label in tracing.MODELS:
        if has_torch():
            yield f"trace, {label}", partial(tracing.compare_with_torch, label, np.float64)
        yield f"trace differences, {label}", partial(tracing.compare_with_differences, label)
        yield f"patched, {label}", partial(tracing.compare_patched_with_differences, label)
        yield f"sums, {label}", partial(tracing.check_sums, label)


def _training_checks() -> Iterator[tuple[str, Callable[[], Check]]]:
    check_orthogonalize = check_with_torch if has_torch() else check_with_numpy
    yield from ((f"orthogonalize, {name}", partial(check_orthogonalize, name, np.float64)) for name in ITERATIONS)
    if has_torch():
        yield "clip", partial(check_clip, np.float64)
        yield from ((name, partial(check_updates, name, np.float64)) for name in UPDATES)


FAULTS = [
    Fault("weight gradient transposed", ops.linear_backward, "np.matmul(x.T, dy, out=out[0])", "(dy.T @ x)"),
    Fault(
        "bias gradient averaged instead of summed",
        ops.linear_backward,
        "column_sum(dy, out=out[1])",
        "column_sum(dy, out=out[1]) / len(dy)",
    ),
    Fault("bias omitted", ops.linear, "y += bias", "pass"),
    Fault(
        "repeated tokens counted once",
        ops.embedding_backward,
        "np.add.at(dweight.reshape(V * D), elements.reshape(-1), dy.reshape(-1))",
        "dweight[tokens] += dy",
    ),
    Fault(
        "gradient of the tied LM head overwritten",
        ops.embedding_backward,
        "if out is None else out",
        "if out is None else out.fill(0) or out",
    ),
    Fault(
        "positions shifted by one",
        positions.position_embedding,
        "weight[positions]",
        "weight[positions.start - 1 : positions.stop - 1]",
    ),
    Fault("gradient averaged over the batch", positions.position_embedding_backward, "np.sum(dy, axis=0,", "np.mean(dy, axis=0,"),
    Fault("sum(y * dy) omitted", ops.softmax_backward, "np.vecdot(dy, y)[..., None]", "0"),
    Fault("gamma omitted", norms.layer_norm_backward, "np.multiply(dy[rows], gamma,", "np.multiply(dy[rows], 1,"),
    Fault("mean(g) not subtracted", norms.layer_norm_backward, "dxi -= mean_g[:, None]", "pass"),
    Fault(
        "gradient through the variance omitted",
        norms.layer_norm_backward,
        "dxi -= np.multiply(x_hat[rows],",
        "np.multiply(x_hat[rows],",
    ),
    Fault("dgamma of the last row block only", norms.layer_norm_backward, "dgamma += column", "dgamma[:] = column"),
    Fault("rstd omitted", norms.layer_norm_backward, "dxi *= rstd[rows]", "pass"),
    Fault("epsilon outside the square root", norms.layer_norm, "/ D + epsilon)", "/ D) + epsilon"),
    Fault("dgamma without x_hat", norms.layer_norm_backward, "dgamma += column_sum(product)", "dgamma += column_sum(dy[rows])"),
    Fault("gradient where x < 0", activations.relu_backward, "(dy, y > 0,", "(dy, y <= 0,"),
    Fault("factor 2 omitted", activations.relu_squared_backward, "dx *= 2", "pass"),
    Fault("square in the cache", activations.relu_squared, "if needs_grad else r", "if not needs_grad else r"),
    Fault("derivative of the gate omitted", activations.gelu, "slope *= yi", "slope *= 0"),
    Fault("derivative of x^3 taken as 2 x^2", activations.gelu, "6 * GELU_C", "4 * GELU_C"),
    Fault("one_hot(target) not subtracted", loss.cross_entropy_backward, "exps[rows, labels] -= dloss / count", "pass"),
    Fault("gradient in ignored rows", loss.cross_entropy_backward, "scale[rows] = dloss / count", "scale[...] = dloss / count"),
    Fault("dloss ignored", loss.cross_entropy_backward, "scale[rows] = dloss / count", "scale[rows] = 1 / count"),
    Fault("shift not added back", loss.cross_entropy, "np.log(total) + shift", "np.log(total)"),
    Fault(
        "mean subtracted",
        norms.rms_norm,
        "np.multiply(xi, ri,",
        "np.multiply(xi - xi.mean(-1, keepdims=True), ri,",
    ),
    Fault(
        "gradient through the mean square omitted", norms.rms_norm_backward, "dxi -= np.multiply(x[rows],", "np.multiply(x[rows],"
    ),
    Fault("rstd instead of rstd^2", norms.rms_norm_backward, "rstd[rows] ** 2", "rstd[rows]"),
    Fault("epsilon outside the square root", norms.rms_norm, "+ D * epsilon)", ") + D * epsilon"),
    Fault("dgamma without rstd", norms.rms_norm_backward, "rstd[rows, 0] @ product", "column_sum(product)"),
    Fault("dgamma of the last row block only", norms.rms_norm_backward, "dgamma += rstd", "dgamma[:] = rstd"),
    Fault("derivative of the gate omitted", activations.gelu_exact, "density *= 1 / math.sqrt(2 * math.pi)", "density *= 0"),
    Fault("normal density too wide", activations.gelu_exact, "np.multiply(square, -0.5,", "np.multiply(square, -0.25,"),
    Fault("polynomial one term short", activations.gelu_exact, "in coefficients[1:]", "in coefficients[1:-1]"),
    Fault("gate and up swapped", block.feed_forward, "swiglu(gate, up,", "swiglu(up, gate,"),
    Fault("-s instead of 1 - s in the derivative", activations.swiglu, "np.subtract(1, s,", "np.subtract(0, s,"),
    Fault("dy/dgate not multiplied by up", activations.swiglu, "slope *= upi", "pass"),
    Fault("gradient through the gate omitted", block.feed_forward_backward, "dx += dx_gate", "pass"),
    Fault("rotated in the wrong direction", positions.rope, "np.multiply(b, sin_a", "np.multiply(b, -sin_a"),
    Fault("rotated forward instead of back", positions.rope_backward, "-sin", "sin"),
    Fault("half and interleaved pairing swapped", positions.pairs, 'pairing == "half"', 'pairing != "half"'),
    Fault("frequencies shifted by one pair", positions.rope_table, "np.arange(0, d, 2)", "np.arange(2, d + 2, 2)"),
    Fault("mask not applied", ops.dropout_backward, "np.multiply(dy, mask,", "np.multiply(dy, 1,"),
    Fault("token's own key masked", attention.causal_mask, "k=1", "k=0"),
    Fault("next token's key not masked", attention.causal_mask, "k=1", "k=2"),
    Fault("weights recomputed without the mask", attention.attention_backward, ":end], causal, ws)", ":end], False, ws)"),
    Fault("1 / sqrt(d) omitted", attention.attention_backward, "1 / math.sqrt(d)", "1.0"),
    Fault("1 / sqrt(d) omitted", attention.attention, "1 / math.sqrt(d)", "1.0"),
    Fault("shift omitted", attention.attention_backward, "exps -= shift[*heads, rows]", "pass"),
    Fault("dy not divided by the total", attention.score_gradient_factors, "np.divide(dy, total, out", "np.multiply(dy, 1, out"),
    Fault(
        "sum(y * dy) omitted",
        attention.score_gradient_factors,
        "np.negative(np.vecdot(y, dy_by_total), out=left[..., d])",
        "left[..., d] = 0",
    ),
    Fault("dk and dv of one query block only", attention.accumulate_product, "out += np.matmul(", "out[...] = np.matmul("),
    Fault(
        "dk computed from P instead of dZ",
        attention.attention_backward,
        "accumulate_product(dz.mT,",
        "accumulate_product(exps.mT,",
    ),
    Fault(
        "gradient of shared heads averaged instead of summed",
        attention.sum_shared_heads,
        "np.sum(dx, axis=axes,",
        "np.mean(dx, axis=axes,",
    ),
    Fault(
        "keys normalized with the queries' gamma",
        multi_head_attention.normalize_and_rotate,
        'norm(raw[H:], p, "k_norm."',
        'norm(raw[H:], p, "q_norm."',
    ),
    Fault(
        "result of rope_backward discarded",
        multi_head_attention.normalize_and_rotate_backward,
        "dy = rope_backward(",
        "rope_backward(",
    ),
    Fault(
        "queries' cache used for the keys",
        multi_head_attention.normalize_and_rotate_backward,
        "norm_caches[1], g",
        "norm_caches[0], g",
    ),
    Fault(
        "keys and values swapped", multi_head_attention.multi_head_attention, "k[:, None], v[:, None]", "v[:, None], k[:, None]"
    ),
    Fault(
        "heads and columns swapped",
        multi_head_attention.split_heads,
        "x.shape[1] // d, d)",
        "d, x.shape[1] // d).swapaxes(2, 3)",
    ),
    Fault("query heads in the wrong groups", multi_head_attention.group_queries, "q.reshape(K, -1,", "q[::-1].reshape(K, -1,"),
    Fault("gradient of the residual connection omitted", block.residual_backward, "np.add(dx, dy,", "np.add(dx, 0,"),
    Fault("residual connection omitted", block.residual, "y += x", "pass"),
    Fault("result of the post-norm's backward discarded", block.residual_backward, "dy = norm_backward(dy,", "norm_backward(dy,"),
    Fault(
        "dweight of the last chunk only",
        lm_head.lm_head_loss_and_backward,
        "dweight += chunk_dweight",
        "dweight[...] = chunk_dweight",
    ),
    Fault(
        "gradients of the last micro-batch only",
        network.gradient_buffer,
        "part.flat += buffer.flat",
        "part.flat[...] = buffer.flat",
    ),
    Fault("result of the final norm's backward discarded", network.backward, "dx[...] = norm_backward(", "norm_backward("),
    Fault("blocks in forward order", network.backward, "reversed(range(len(blocks)))", "range(len(blocks))"),
    Fault(
        "offset omits the first parameter",
        parameters.Parameters.with_prefix,
        "names[: names.index(selected[0])]",
        "names[1 : names.index(selected[0])]",
    ),
    Fault(
        "sum of squares omitted",
        data_parallel.DataParallel.sum_shard,
        "squares.append(float(np.vdot(g, g)))",
        "squares.append(0.0)",
    ),
    Fault("bias correction omitted", adamw.AdamW.update, "lr * root / (1 - self.beta1**step)", "lr"),
    Fault("weight decay added to the gradient", adamw.AdamW.update, "m += np.multiply(g, (1", "m += np.multiply(g + p, (1"),
    Fault(
        "weight decay applied to vectors",
        vars(optimizer.Optimizer)["uniform"],
        "replace(rule, weight_decay=0.0)",
        "rule",
    ),
    Fault("epsilon inside the square root", adamw.AdamW.update, "change += self.epsilon * root", "change += self.epsilon**0.5"),
    Fault("clip scale not squared", adamw.AdamW.update, "scale**2", "scale"),
    Fault("coefficient b in place of c", muon.orthogonalize, "polynomial *= c", "polynomial *= b"),
    Fault("cubic term omitted", muon.orthogonalize, "polynomial += gram", "pass"),
    Fault("a added to the first row only", muon.orthogonalize, "ravel()[:: n + 1] += a", "ravel()[:n] += a"),
    Fault("normalization omitted", muon.orthogonalize, "1 / max(norm, EPSILON)", "1"),
    Fault(
        "gradient of the residual stream reported before the sum",
        block.block_backward,
        'ctx.watch.grad("residual_mid", dx)',
        'ctx.watch.grad("residual_mid", dx - dy)',
    ),
    Fault(
        "residual stream reported before the branch",
        block.block,
        'ctx.watch.value("residual_post", x)',
        'ctx.watch.value("residual_post", x - ctx.config.d_model)',
    ),
    Fault(
        "gradient of the branch reported after its backward pass",
        block.residual_backward,
        'ctx.watch.grad(f"{name}_norm", dx)',
        'ctx.watch.grad(f"{name}_norm", dx + dy)',
    ),
    Fault(
        "patch of a branch changes the residual stream",
        block.residual_backward,
        "dy.copy() if ctx.watch.active else dy",
        "dy",
    ),
    Fault(
        "units reported before the activation", block.feed_forward, 'watch.value("active", hidden)', 'watch.value("active", up)'
    ),
    Fault("cache of relu patched", block.feed_forward, "hidden = hidden.copy()", "pass"),
    Fault(
        "gradients of gate and up exchanged", block.feed_forward_backward, 'watch.grad("gate", dgate)', 'watch.grad("gate", dup)'
    ),
    Fault(
        "heads mislabelled",
        watch.Observer._view,
        "copy=False).swapaxes(0, 1)",
        "copy=False)[::-1].swapaxes(0, 1)",
    ),
    Fault(
        "sequences and heads exchanged", watch.Observer._view, "(-1, *x.shape[-3:]), copy=False).swapaxes(0, 1)", "x.shape)[0]"
    ),
    Fault(
        "gradient after the backward pass of the patch",
        watch.Observer.grad,
        "view[...] = _apply(",
        "self.grads[name] = view[...] = _apply(",
    ),
    Fault("patch not applied", watch.Observer.value, "view[...] = _apply(", "_apply("),
    Fault(
        "scores after the mask",
        attention.block_scores,
        'observe("scores", scores)',
        'observe("scores", scores + causal_mask(scores.shape[-2], scores.dtype) if causal else scores)',
    ),
    Fault("weights before the division", attention.attention, "exps /= sums", "sums[...] = 1"),
    Fault(
        "gradient of the scores times the scale",
        attention.watched_backward,
        'watch.grad("scores", dz)',
        'watch.grad("scores", dz * scale)',
    ),
    Fault(
        "gradient of the weights after the softmax",
        attention.watched_backward,
        'watch.grad("weights", dweights)',
        'watch.grad("weights", weights * dweights)',
    ),
    Fault("patched weights forgotten", attention.watched_backward, 'watch.recall("weights", weights)', "pass"),
    Fault("patched scores forgotten", attention.attention_backward, "ws, watch.recall)", "ws)"),
    Fault(
        "queries reported after the norm",
        multi_head_attention.normalize_and_rotate_backward,
        'watch.grad("q_norm", dy[:H])',
        'watch.grad("q_norm", out[:H])',
    ),
    Fault(
        "rotated keys reported before the rotation",
        multi_head_attention.normalize_and_rotate_backward,
        'watch.grad("rotated_keys", dy[H:])',
        'watch.grad("rotated_keys", rope_backward(dy, rope_cache)[H:])',
    ),
    Fault(
        "gradients of keys and values exchanged",
        multi_head_attention.multi_head_attention_backward,
        "(dheads[:H], dheads[H : H + K], dheads[H + K :])",
        "(dheads[:H], dheads[H + K :], dheads[H : H + K])",
    ),
    Fault(
        "gradient of the logits not divided by the number of targets",
        lm_head.lm_head_loss_and_backward,
        'watch.grad("logits", dlogits)',
        'watch.grad("logits", dlogits * count)',
    ),
    Fault("gradient of the embedding reported before dropout", network.backward, 'ctx.watch.grad("embedding", dx)', "pass"),
    Fault("bias of the norm forgotten", trace.Trace.attribution, "constant} if", "0.0} if"),
    Fault("mean of the stream not subtracted", trace.Trace._logit_direction, "(w - w.mean())", "w"),
    Fault("heads in the wrong order", trace.Trace._parts, "heads[h] @ weights[h]", "heads[h] @ weights[-1 - h]"),
    Fault(
        "embedding instead of the last block",
        trace.Trace.logit_lens,
        "for name in self._streams()",
        "for name in self._streams()[::-1]",
    ),
    Fault("normalized with the squared norm", muon.orthogonalize, "math.sqrt(np.vdot(x, x))", "float(np.vdot(x, x))"),
    Fault("result of a tall matrix not transposed back", muon.orthogonalize, "coefficients, ws).T", "coefficients, ws)"),
    Fault("last iteration omitted", muon._iterations, "iterations)", "iterations - 1)"),
    Fault("coefficients not repeated", muon._iterations, "chain(values, repeat(values[-1]))", "values"),
    Fault("first coefficients in every iteration", muon._iterations, "chain(values, repeat(values[-1]))", "repeat(values[0])"),
    Fault("inputs and outputs swapped", muon.update_scale, "outputs / inputs", "inputs / outputs"),
    Fault(
        "the smaller size instead of the larger",
        muon.update_scale,
        "math.sqrt(max(inputs, outputs))",
        "math.sqrt(min(inputs, outputs))",
    ),
    Fault("momentum without Nesterov", muon.Muon.update, "u += fresh", "u[...] = m"),
    Fault("gradient not weighted in Nesterov's sum", muon.Muon.update, "u += fresh", "u += fresh / (1 - self.momentum)"),
    Fault("momentum not decayed", muon.Muon.update, "m *= self.momentum", "pass"),
    Fault("clip scale not applied", muon.Muon.update, "(1 - self.momentum) * scale", "1 - self.momentum"),
    Fault("scale of the shape omitted", muon.Muon.update, "lr * update_scale(p.shape[0], p.shape[1], self.scale)", "lr"),
    Fault("weight decay after the update", muon.Muon.update, "p -= change", "p -= change * (1 - lr * self.weight_decay)"),
    Fault("weight decay without the learning rate", muon.Muon.update, "1 - lr * self.weight_decay", "1 - self.weight_decay"),
    Fault("weight decay added to the gradient", muon.Muon.update, "orthogonalize(u,", "orthogonalize(u + self.weight_decay * p,"),
    Fault("q, k and v orthogonalized together", optimizer._pieces_of, 'if name.endswith("qkv.weight")', "if False"),
    Fault("head updated as the embedding", optimizer.group_of, 'return "head"', 'return "embedding"'),
    Fault("head updated as the matrices", optimizer.group_of, 'return "head"', 'return "matrices"'),
    Fault("learning rate of the group omitted", data_parallel.DataParallel.update_shard, "lr * piece.group.lr", "lr"),
    Fault("keys as wide as queries", parameters.qkv_columns, "slice(queries, queries + keys)", "slice(queries, 2 * queries)"),
]
"The planted faults, from single operations to the optimizer."
