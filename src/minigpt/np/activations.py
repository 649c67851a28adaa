"""Activations of the feed-forward network: ReLU and its square, GELU (tanh approximation and exact), and SwiGLU.

The derivative of GELU and SwiGLU shares most of its work with the value, so the forward pass computes both, and the cache is the
derivative. With `needs_grad=False` it computes only the value, and the cache is None. With `inplace=True` the arguments may be
overwritten.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import DTypeLike

from minigpt.np.ops import Cache, row_blocks
from minigpt.np.workspace import DEFAULT_WORKSPACE, Array, Workspace

GELU_C = math.sqrt(2 / math.pi)
GELU_A = 0.044715
# for exact GELU: the largest |x| at which the polynomial is fitted (the gate rounds to 0 or 1 beyond it), and its degree
GATE_FIT = {np.dtype(np.float32): (5.5, 12), np.dtype(np.float64): (8.0, 32)}


def relu(x: Array, ws: Workspace = DEFAULT_WORKSPACE, inplace: bool = False, needs_grad: bool = True) -> tuple[Array, Cache]:
    """y = max(x, 0).  The cache is y."""
    y = np.maximum(x, 0, out=x if inplace else ws.empty(x.shape, x.dtype))
    return y, y


def relu_backward(dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE, out: Array | None = None) -> Array:
    """dx = dy where y > 0, otherwise 0.  `out` may be dy."""
    y = cache
    return np.multiply(dy, y > 0, out=ws.empty(dy.shape, dy.dtype) if out is None else out)


def relu_squared(
    x: Array, ws: Workspace = DEFAULT_WORKSPACE, inplace: bool = False, needs_grad: bool = True
) -> tuple[Array, Cache]:
    """y = max(x, 0)^2.  The cache is max(x, 0). So et al. 2021, https://arxiv.org/abs/2109.08668."""
    r, _ = relu(x, ws, inplace)
    return np.multiply(r, r, out=ws.empty(x.shape, x.dtype) if needs_grad else r), r


def relu_squared_backward(dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE, out: Array | None = None) -> Array:
    """dx = 2 dy max(x, 0).  `out` may be dy."""
    dx = np.multiply(dy, cache, out=ws.empty(dy.shape, dy.dtype) if out is None else out)
    dx *= 2
    return dx


# --------------------------------------- GELU: docs/derivations.md#gelu


def gelu(x: Array, ws: Workspace = DEFAULT_WORKSPACE, inplace: bool = False, needs_grad: bool = True) -> tuple[Array, Cache]:
    """The tanh approximation of GELU that GPT-2 uses.  x (N, F) -> y (N, F).  With c = sqrt(2 / pi) and a = 0.044715:

    gate = (1 + tanh(c * (x + a * x^3))) / 2
    y = x * gate
    dy/dx = gate + y * (1 - gate) * 2 * c * (1 + 3 * a * x^2)

    The cache is dy/dx. Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.
    """
    y, dydx = _output_buffers(x, ws, inplace, needs_grad)
    for rows in row_blocks(*x.shape):
        xi, yi = x[rows], y[rows]
        with ws.scratch():
            inner, square, product = (ws.empty(xi.shape, x.dtype) for _ in range(3))
            np.multiply(xi, xi, out=square)
            np.multiply(square, GELU_C * GELU_A, out=inner)
            inner += GELU_C
            inner *= xi  # c * (x + a * x^3)
            gate = np.tanh(inner, out=inner)
            gate *= 0.5
            gate += 0.5
            np.multiply(xi, gate, out=yi)
            if not needs_grad:
                continue
            slope = np.multiply(square, 6 * GELU_C * GELU_A, out=square)
            slope += 2 * GELU_C  # 2 * c * (1 + 3 * a * x^2)
            slope *= yi
            np.multiply(slope, gate, out=product)
            slope -= product  # y * (1 - gate) * 2 * c * (1 + 3 * a * x^2)
            np.add(slope, gate, out=dydx[rows])
    return y, dydx if needs_grad else None


def gelu_backward(dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE, out: Array | None = None) -> Array:
    """dx = dy * dy/dx.  `out` may be dy."""
    dydx = cache
    return np.multiply(dy, dydx, out=ws.empty(dy.shape, dy.dtype) if out is None else out)


def gelu_exact(
    x: Array, ws: Workspace = DEFAULT_WORKSPACE, inplace: bool = False, needs_grad: bool = True
) -> tuple[Array, Cache]:
    """GELU with the normal distribution function as its gate.  x (N, F) -> y (N, F).

    gate = P(Z <= x) for a standard normal Z = (1 + tanh(x * p(x^2))) / 2
    y = x * gate
    dy/dx = gate + x * exp(-x^2 / 2) / sqrt(2 pi)

    `gelu` has p(t) = c + c * a * t; here p is a polynomial with as many terms as the precision of x requires
    (`gate_polynomial`). The cache is dy/dx.
    """
    y, dydx = _output_buffers(x, ws, inplace, needs_grad)
    largest, coefficients = gate_polynomial(x.dtype)
    for rows in row_blocks(*x.shape):
        xi, yi = x[rows], y[rows]
        with ws.scratch():
            polynomial, square, t = (ws.empty(xi.shape, x.dtype) for _ in range(3))
            np.multiply(xi, xi, out=square)
            np.multiply(square, 2 / largest**2, out=t)
            t -= 1
            np.minimum(t, 1, out=t)  # beyond `largest`, p is held constant, and tanh is 1 to rounding
            polynomial.fill(coefficients[0])
            for coefficient in coefficients[1:]:
                polynomial *= t
                polynomial += coefficient
            inner = np.multiply(polynomial, xi, out=polynomial)  # x * p(x^2)
            gate = np.tanh(inner, out=inner)
            gate *= 0.5
            gate += 0.5
            if needs_grad:
                exponent = np.multiply(square, -0.5, out=square)
                density = np.exp(exponent, out=exponent)
                density *= xi
                density *= 1 / math.sqrt(2 * math.pi)  # x * the density of the normal distribution
            np.multiply(xi, gate, out=yi)
            if needs_grad:
                np.add(density, gate, out=dydx[rows])
    return y, dydx if needs_grad else None


gelu_exact_backward = gelu_backward


@lru_cache
def gate_polynomial(dtype: DTypeLike) -> tuple[float, list[float]]:
    """Return X and the coefficients of p in `gelu_exact`, highest power first, as a polynomial of t = 2 (x / X)^2 - 1, |x| <= X.

    p = atanh(2 gate - 1) / x = log(gate / (1 - gate)) / (2 x) is a smooth, even function of x. Its interpolation at the
    Chebyshev points gives the gate to within 2e-8 in float32 (plus 8e-8 of rounding) and 1e-12 in float64.
    """
    largest, degree = GATE_FIT[np.dtype(dtype)]

    def p(t: float) -> float:
        z = largest * math.sqrt((t + 1) / 2)
        below, above = math.erfc(-z / math.sqrt(2)), math.erfc(z / math.sqrt(2))
        return math.log(below / above) / (2 * z)

    power_series = chebyshev.cheb2poly(chebyshev.chebinterpolate(np.vectorize(p), degree))
    return largest, power_series[::-1].tolist()


def _output_buffers(x: Array, ws: Workspace, inplace: bool, needs_grad: bool) -> tuple[Array, Array]:
    """Return the arrays for y and dy/dx. With `inplace`, x is reused: for dy/dx, or for y if no derivative is needed."""
    if not needs_grad:
        return (x if inplace else ws.empty(x.shape, x.dtype)), x
    y = ws.empty(x.shape, x.dtype)
    return y, x if inplace else ws.empty(x.shape, x.dtype)


# ------------------------------------ SwiGLU: docs/derivations.md#swiglu


def swiglu(
    gate: Array, up: Array, ws: Workspace = DEFAULT_WORKSPACE, inplace: bool = False, needs_grad: bool = True
) -> tuple[Array, Cache]:
    """The gated activation of Llama.  gate and up (N, F) -> y (N, F).

    s = 1 / (1 + exp(-gate))
    silu = gate * s
    y = silu * up
    dy/dgate = (s + silu * (1 - s)) * up,  dy/dup = silu

    The cache holds the two derivatives. Shazeer 2020, https://arxiv.org/abs/2002.05202.
    """
    y, dydgate = _output_buffers(gate, ws, inplace, needs_grad)
    dydup = up if inplace or not needs_grad else ws.empty(up.shape, up.dtype)
    for rows in row_blocks(*gate.shape):
        with ws.scratch():
            x, upi = gate[rows], up[rows]
            half, silu = ws.empty(x.shape, x.dtype), ws.empty(x.shape, x.dtype)
            np.multiply(x, 0.5, out=half)
            s = np.tanh(half, out=half)
            s *= 0.5
            s += 0.5  # 1 / (1 + exp(-gate)) = (1 + tanh(gate / 2)) / 2, which cannot overflow
            np.multiply(x, s, out=silu)
            np.multiply(silu, upi, out=y[rows])
            if not needs_grad:
                continue
            slope = np.subtract(1, s, out=dydgate[rows])
            slope *= silu
            slope += s
            slope *= upi
            dydup[rows] = silu
    return y, (dydgate, dydup) if needs_grad else None


def swiglu_backward(
    dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE, out: tuple[Array | None, Array | None] = (None, None)
) -> tuple[Array, Array]:
    """dgate = dy * dy/dgate,  dup = dy * dy/dup.  Each `out` may be an array of the cache."""
    dydgate, dydup = cache
    dgate, dup = (ws.empty(dy.shape, dy.dtype) if array is None else array for array in out)
    return np.multiply(dy, dydgate, out=dgate), np.multiply(dy, dydup, out=dup)
