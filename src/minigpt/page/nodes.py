"""The nodes of the diagram of a model: what is computed from what, with formulas, derivatives and the code."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minigpt.np import attention, block, lm_head, multi_head_attention, norms, ops, positions
from minigpt.np.config import ModelConfig


@dataclass(frozen=True)
class Kind:
    """What a node computes, and how the gradient passes through it."""

    title: str
    meaning: str
    "One sentence for a reader who has not seen a transformer."
    forward: str
    backward: str
    "The formulas, in LaTeX. dx is the gradient of the loss with respect to x."
    code: tuple[Callable[..., Any], ...]
    "The function and its backward pass."
    derivation: str
    "The section of docs/derivations.md."


LINEAR = (ops.linear, ops.linear_backward)
KINDS = {
    "token_embedding": Kind(
        "Token embedding",
        "Each token of the vocabulary has a row of learned numbers. This node looks up the row of the token at each position.",
        r"x_t = W_{\mathrm{token}_t}",
        r"dW_v = \sum_{t:\ \mathrm{token}_t = v} dx_t",
        (ops.embedding, ops.embedding_backward),
        "embedding",
    ),
    "position_embedding": Kind(
        "Position embedding",
        "A learned row of numbers for the position is added, so that the model knows the order of the tokens.",
        r"y_t = x_t + P_t",
        r"dx_t = dy_t \qquad dP_t = dy_t",
        (positions.position_embedding, positions.position_embedding_backward),
        "positions",
    ),
    "stream": Kind(
        "Residual stream",
        "The vector of each position that every block reads, and to which it adds its results.",
        r"x_0 = \mathrm{embedding}",
        r"dx = dx_{\mathrm{sum}} + dx_{\mathrm{norm}}",
        (block.residual, block.residual_backward),
        "residual",
    ),
    "rms_norm": Kind(
        "RMS norm",
        "The vector of each position is divided by the root mean square of its elements, so that its scale does not matter.",
        r"y = \gamma\,\hat{x} \qquad \hat{x} = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}}",
        r"dx = \frac{1}{\sqrt{\mathrm{mean}(x^2) + \epsilon}}"
        r"\left(\gamma\,dy - \hat{x}\,\mathrm{mean}(\gamma\,dy\,\hat{x})\right)"
        r"\qquad d\gamma = \sum dy\,\hat{x}",
        (norms.rms_norm, norms.rms_norm_backward),
        "rms-norm",
    ),
    "layer_norm": Kind(
        "Layer norm",
        "Each vector is shifted and scaled to mean 0 and variance 1, so that neither its mean nor its scale matters.",
        r"y = \gamma\,\hat{x} + \beta \qquad \hat{x} = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}}",
        r"dx = \frac{1}{\sqrt{\mathrm{var}(x) + \epsilon}}\left(h - \mathrm{mean}(h) - \hat{x}\,\mathrm{mean}(h\,\hat{x})\right)"
        r"\qquad h = \gamma\,dy",
        (norms.layer_norm, norms.layer_norm_backward),
        "layer-norm",
    ),
    "linear": Kind(
        "Linear layer",
        "Each output is a weighted sum of the inputs; the weights are learned.",
        r"y = x W + b",
        r"dx = dy\,W^\top \qquad dW = x^\top dy \qquad db = \sum_t dy_t",
        LINEAR,
        "linear",
    ),
    "rope": Kind(
        "Rotary positions",
        "Pairs of elements are rotated by an angle that grows with the position, so that scores depend on distances.",
        r"\begin{pmatrix} y_1 \\ y_2 \end{pmatrix} ="
        r"\begin{pmatrix} \cos t\theta & -\sin t\theta \\ \sin t\theta & \cos t\theta \end{pmatrix}"
        r"\begin{pmatrix} x_1 \\ x_2 \end{pmatrix}",
        r"dx = \mathrm{rotate}(dy, -t\theta)",
        (positions.rope, positions.rope_backward),
        "rope",
    ),
    "scores": Kind(
        "Attention scores",
        "How well the query of each position matches the key of that position and of every earlier one.",
        r"S = \frac{Q K^\top}{\sqrt{d}}",
        r"dQ = \frac{dS\,K}{\sqrt{d}} \qquad dK = \frac{dS^\top Q}{\sqrt{d}}",
        (attention.attention, attention.attention_backward),
        "attention",
    ),
    "weights": Kind(
        "Attention weights",
        "The scores as shares that add up to 1. Positions that come later are masked: their share is 0.",
        r"A = \mathrm{softmax}(S + \mathrm{mask})",
        r"dS = A\left(dA - \sum_j A_j\,dA_j\right)",
        (attention.attention, attention.attention_backward),
        "attention",
    ),
    "heads": Kind(
        "Heads",
        "For each head, the average of the values of this and all earlier positions, weighted by the attention weights.",
        r"Y = A V",
        r"dA = dY\,V^\top \qquad dV = A^\top dY",
        (attention.attention, attention.attention_backward),
        "attention",
    ),
    "attention": Kind(
        "Attention",
        "The results of all heads side by side, mapped to the width of the residual stream.",
        r"y = [Y_1, \dots, Y_H]\,W_{\mathrm{out}}",
        r"dY = dy\,W_{\mathrm{out}}^\top \qquad dW_{\mathrm{out}} = Y^\top dy",
        (multi_head_attention.multi_head_attention, multi_head_attention.multi_head_attention_backward),
        "heads",
    ),
    "sum": Kind(
        "Sum",
        "The result of the branch is added to the residual stream. The gradient passes to both unchanged.",
        r"y = x + \mathrm{branch}(\mathrm{norm}(x))",
        r"dx = dy + \mathrm{norm}'\left(\mathrm{branch}'(dy)\right)",
        (block.residual, block.residual_backward),
        "residual",
    ),
    "swiglu": Kind(
        "SwiGLU",
        "Each hidden unit is multiplied by a gate: the SiLU of another linear function of the same input.",
        r"y = \mathrm{silu}(g)\,u \qquad \mathrm{silu}(g) = \frac{g}{1 + e^{-g}}",
        r"du = dy\,\mathrm{silu}(g) \qquad dg = dy\,u\,\sigma(g)\left(1 + g\,(1 - \sigma(g))\right)",
        (block.swiglu, block.swiglu_backward),
        "swiglu",
    ),
    "gelu": Kind(
        "GELU",
        "A smooth ReLU: large positive values pass almost unchanged, and large negative values become almost 0.",
        r"y = \frac{x}{2}\left(1 + \tanh u\right) \qquad u = \sqrt{\frac{2}{\pi}}\left(x + 0.044715\,x^3\right)",
        r"dx = dy\left(\frac{1 + \tanh u}{2} + \frac{x}{2}\left(1 - \tanh^2 u\right) u'\right)",
        (block.gelu, block.gelu_backward),
        "gelu",
    ),
    "gelu_exact": Kind(
        "GELU",
        "A smooth ReLU: large positive values pass almost unchanged, and large negative values become almost 0.",
        r"y = x\,\Phi(x)",
        r"dx = dy\left(\Phi(x) + x\,\varphi(x)\right)",
        (block.gelu_exact, block.gelu_exact_backward),
        "gelu",
    ),
    "relu": Kind(
        "ReLU",
        "Positive values pass, and negative ones become 0.",
        r"y = \max(x, 0)",
        r"dx = dy\,[x > 0]",
        (block.relu, block.relu_backward),
        "relu",
    ),
    "relu_squared": Kind(
        "Squared ReLU",
        "Positive values are squared, and negative ones become 0.",
        r"y = \max(x, 0)^2",
        r"dx = 2\,dy\,\max(x, 0)",
        (block.relu_squared, block.relu_squared_backward),
        "relu",
    ),
    "feed_forward": Kind(
        "Feed-forward network",
        "The hidden units, mapped back to the width of the residual stream.",
        r"y = h\,W_{\mathrm{down}}",
        r"dh = dy\,W_{\mathrm{down}}^\top \qquad dW_{\mathrm{down}} = h^\top dy",
        (block.feed_forward, block.feed_forward_backward),
        "feed-forward",
    ),
    "logits": Kind(
        "Logits and loss",
        "A score for every token. Softmax turns scores into probabilities; the loss is the mean of -ln of those of the targets.",
        r"z = x\,W_{\mathrm{head}}^\top \qquad L = -\frac{1}{n} \sum_t \log \mathrm{softmax}(z_t)_{\mathrm{target}_t}",
        r"dz_t = \frac{1}{n}\left(\mathrm{softmax}(z_t) - \mathrm{onehot}(\mathrm{target}_t)\right)",
        (lm_head.lm_head_loss, lm_head.lm_head_loss_and_backward),
        "cross-entropy",
    ),
}


def nodes(config: ModelConfig) -> list[dict[str, Any]]:
    """Return the nodes of a block, of what precedes the blocks, and of what follows them, from the input to the loss.

    `name` is that of the array in a trace; {i} stands for the number of the block. `inputs` are the nodes before it, `place` is
    its column and row in the diagram of its part, and `parameters` are those that it uses. `stream` stands for the residual
    stream before the block.

    >>> [node["name"] for node in nodes(ModelConfig(vocab_size=9, n_layers=1)) if node["part"] == "after"]
    ['final_norm', 'logits']
    """
    return [*_before(config), *_block(config), *_after(config)]


def _before(config: ModelConfig) -> list[dict[str, Any]]:
    learned = config.positions == "learned"
    kind = "position_embedding" if learned else "stream"
    return [
        _node("before", "token_embedding", "token_embedding", [], (0, 0), ["token_embedding"]),
        _node("before", "embedding", kind, ["token_embedding"], (0, 1), ["position_embedding"] if learned else []),
    ]


def _block(config: ModelConfig) -> list[dict[str, Any]]:
    norm, pre = f"{config.norm}_norm", config.norm_placement == "pre"
    attention_norm, qkv = _norm_of("attention_norm", config), _linear_of("attention.qkv", config.attention_bias)
    source = "attention_norm" if pre else "stream"
    found = [_branch_norm("attention_norm", norm, "stream", 0, attention_norm)] if pre else []
    found += [
        _node("block", f"attention.{x}", "linear", [source], (1 + i, 1), qkv) for i, x in enumerate(("queries", "keys", "values"))
    ]
    q, k, row = "attention.queries", "attention.keys", 2
    for there, names, kind in (
        (config.qk_norm, ("q_norm", "k_norm"), norm),
        (config.positions == "rope", ("rotated_queries", "rotated_keys"), "rope"),
    ):
        if there:
            for column, (name, before) in enumerate(zip(names, (q, k), strict=True)):
                parameters = _norm_of(f"attention.{name}", config) if kind == norm else []
                found.append(_node("block", f"attention.{name}", kind, [before], (1 + column, row), parameters))
            q, k, row = f"attention.{names[0]}", f"attention.{names[1]}", row + 1
    out = _linear_of("attention.out", config.attention_bias)
    found += [
        _node("block", "attention.scores", "scores", [q, k], (1, row), []),
        _node("block", "attention.weights", "weights", ["attention.scores"], (1, row + 1), []),
        _node("block", "attention.heads", "heads", ["attention.weights", "attention.values"], (1, row + 2), []),
        _node("block", "attention", "attention", ["attention.heads"], (1, row + 3), out),
        _sum("residual_mid", ["stream", "attention"], row + 4, [] if pre else attention_norm),
    ]
    return found + _feed_forward(config, row + 5)


def _feed_forward(config: ModelConfig, row: int) -> list[dict[str, Any]]:
    norm, pre, bias = f"{config.norm}_norm", config.norm_placement == "pre", config.feed_forward_bias
    parameters = _norm_of("feed_forward_norm", config)
    found = [_branch_norm("feed_forward_norm", norm, "residual_mid", row, parameters)] if pre else []
    source = "feed_forward_norm" if pre else "residual_mid"
    hidden = ["gate", "up"] if config.activation == "swiglu" else ["up"]
    found += [
        _node("block", f"feed_forward.{x}", "linear", [source], (1 + i, row + 1), _linear_of(f"feed_forward.{x}", bias))
        for i, x in enumerate(hidden)
    ]
    inputs = [f"feed_forward.{x}" for x in hidden]
    return [
        *found,
        _node("block", "feed_forward.active", config.activation, inputs, (1, row + 2), []),
        _node(
            "block", "feed_forward", "feed_forward", ["feed_forward.active"], (1, row + 3), _linear_of("feed_forward.down", bias)
        ),
        _sum("residual_post", ["residual_mid", "feed_forward"], row + 4, [] if pre else parameters),
    ]


def _after(config: ModelConfig) -> list[dict[str, Any]]:
    pre = config.norm_placement == "pre"
    head = ["token_embedding" if config.tied else "head"]
    norm = _norm_of("final_norm", config) if pre else []
    kind = f"{config.norm}_norm" if pre else "stream"
    return [
        _node("after", "final_norm", kind, ["stream"], (0, 0), norm),
        _node("after", "logits", "logits", ["final_norm"], (0, 1), head),
    ]


def _node(part: str, name: str, kind: str, inputs: list[str], place: tuple[int, int], parameters: list[str]) -> dict[str, Any]:
    prefix = "blocks.{i}." if part == "block" else ""
    return {
        "part": part,
        "name": prefix + name,
        "label": LABELS.get(name, name.rpartition(".")[2].replace("_", " ")),
        "kind": kind,
        "title": KINDS[kind].title,
        "inputs": [x if x == "stream" else prefix + x for x in inputs],
        "place": list(place),
        "parameters": [prefix + parameter for parameter in parameters],
    }


LABELS = {
    "attention": "attention",
    "residual_mid": "+",
    "residual_post": "+",
    "attention_norm": "norm",
    "feed_forward_norm": "norm",
    "feed_forward": "feed-forward",
    "attention.q_norm": "norm of q",
    "attention.k_norm": "norm of k",
    "attention.rotated_queries": "rotated q",
    "attention.rotated_keys": "rotated k",
    "feed_forward.active": "activation",
}


def _branch_norm(name: str, kind: str, source: str, row: int, parameters: list[str]) -> dict[str, Any]:
    return _node("block", name, kind, [source], (1, row), parameters)


def _sum(name: str, inputs: list[str], row: int, parameters: list[str]) -> dict[str, Any]:
    return _node("block", name, "sum", inputs, (0, row), parameters)


def _norm_of(name: str, config: ModelConfig) -> list[str]:
    return [f"{name}.gamma", *([f"{name}.beta"] if config.norm == "layer" else [])]


def _linear_of(name: str, bias: bool) -> list[str]:
    return [f"{name}.weight", *([f"{name}.bias"] if bias else [])]


def explanation(kind: str) -> dict[str, Any]:
    """Return the formulas of a kind of node as MathML, and its code. Raises `ValueError` if there is no such kind."""
    from latex2mathml.converter import convert

    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, but must be one of: {', '.join(KINDS)}")
    found = KINDS[kind]
    return {
        "title": found.title,
        "meaning": found.meaning,
        "forward": convert(found.forward, display="block"),
        "backward": convert(found.backward, display="block"),
        "code": [
            {
                "name": function.__name__,
                "file": function.__module__.rpartition(".")[2] + ".py",
                "text": inspect.getsource(function),
            }
            for function in found.code
        ],
        "derivation": found.derivation,
    }
