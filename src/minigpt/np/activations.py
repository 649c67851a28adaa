"""What makes the feed-forward network more than one big linear layer: ReLU, GELU in two forms, and SwiGLU.

Where the slope of a function costs little beside its value, forward computes both, and the slope is the cache. Without `keep`
there is no cache, because there will be no backward; without `keep_x` the arguments may be overwritten.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import DTypeLike

from minigpt.np.ops import Cache, pieces
from minigpt.np.workspace import FRESH, Array, Fresh

GELU_C = math.sqrt(2 / math.pi)
GELU_A = 0.044715
# exact GELU: up to which |x| a polynomial is fitted (beyond, the gate is 0 or 1 to rounding), and its degree
FIT = {np.dtype(np.float32): (5.5, 12), np.dtype(np.float64): (8.0, 32)}


def relu(x: Array, ws: Fresh = FRESH, keep_x: bool = True, keep: bool = True) -> tuple[Array, Cache]:
    """y = max(x, 0).  The cache is y."""
    y = np.maximum(x, 0, out=ws.empty(x.shape, x.dtype) if keep_x else x)
    return y, y


def relu_backward(dy: Array, cache: Cache, ws: Fresh = FRESH, out: Array | None = None) -> Array:
    """dx = dy where y > 0, else 0.  `out` may be dy."""
    y = cache
    return np.multiply(dy, y > 0, out=ws.empty(dy.shape, dy.dtype) if out is None else out)


# --------------------------------------- GELU: docs/derivations.md#gelu


def gelu(x: Array, ws: Fresh = FRESH, keep_x: bool = True, keep: bool = True) -> tuple[Array, Cache]:
    """y = x * g,  g = (1 + tanh(c * (x + a * x^3))) / 2,  with c = sqrt(2 / pi), a = 0.044715.  x (N, F) -> y (N, F).

    GPT-2's approximation of x * (probability that a normal variable is below x). The cache is the slope, computed along with y:
    dy/dx = g + x * dg/dx,  dg/dx = 2 * g * (1 - g) * c * (1 + 3 * a * x^2).
    """
    y, slope = _results(x, ws, keep_x, keep)
    for rows in pieces(*x.shape):
        xi, yi = x[rows], y[rows]
        with ws.scratch():
            g, square, product = (ws.empty(xi.shape, x.dtype) for _ in range(3))
            np.multiply(xi, xi, out=square)
            np.multiply(square, GELU_C * GELU_A, out=g)
            g += GELU_C
            g *= xi  # c * (x + a * x^3)
            np.tanh(g, out=g)
            g *= 0.5
            g += 0.5
            np.multiply(xi, g, out=yi)  # y
            if not keep:
                continue
            square *= 6 * GELU_C * GELU_A
            square += 2 * GELU_C
            square *= yi  # x * g * 2 * c * (1 + 3 * a * x^2)
            np.multiply(square, g, out=product)
            square -= product  # x * dg/dx
            np.add(square, g, out=slope[rows])
    return y, slope if keep else None


def gelu_backward(dy: Array, cache: Cache, ws: Fresh = FRESH, out: Array | None = None) -> Array:
    """dx = dy * slope.  `out` may be dy."""
    slope = cache
    return np.multiply(dy, slope, out=ws.empty(dy.shape, dy.dtype) if out is None else out)


def gelu_exact(x: Array, ws: Fresh = FRESH, keep_x: bool = True, keep: bool = True) -> tuple[Array, Cache]:
    """y = x * g,  g = probability that a normal variable is below x = (1 + tanh(x * p(x^2))) / 2.  x (N, F) -> y (N, F).

    The tanh form above takes p(t) = c + c * a * t; here p is a polynomial with as many terms as the precision of x asks for.
    The slope: dy/dx = g + x * exp(-x^2 / 2) / sqrt(2 pi).
    """
    y, slope = _results(x, ws, keep_x, keep)
    largest, coefficients = gate_polynomial(x.dtype)
    for rows in pieces(*x.shape):
        xi, yi = x[rows], y[rows]
        with ws.scratch():
            g, square, t = (ws.empty(xi.shape, x.dtype) for _ in range(3))
            np.multiply(xi, xi, out=square)
            np.multiply(square, 2 / largest**2, out=t)
            t -= 1
            np.minimum(t, 1, out=t)  # beyond `largest` p stays as it is, and tanh at 1
            g.fill(coefficients[0])
            for coefficient in coefficients[1:]:
                g *= t
                g += coefficient
            g *= xi
            np.tanh(g, out=g)
            g *= 0.5
            g += 0.5
            if keep:
                square *= -0.5
                np.exp(square, out=square)
                square *= xi
                square *= 1 / math.sqrt(2 * math.pi)
            np.multiply(xi, g, out=yi)
            if keep:
                np.add(square, g, out=slope[rows])
    return y, slope if keep else None


gelu_exact_backward = gelu_backward


@lru_cache
def gate_polynomial(dtype: DTypeLike) -> tuple[float, list[float]]:
    """(X, coefficients): p of `gelu_exact` as a polynomial of t = 2 (x / X)^2 - 1 for |x| <= X, the highest power first.

    p = atanh(2 g - 1) / x = log(g / (1 - g)) / (2 x) is smooth and even in x. Interpolated at Chebyshev's points it gives g to
    within 2e-8 (float32; rounding adds 8e-8) or 1e-12 (float64).
    """
    largest, degree = FIT[np.dtype(dtype)]

    def p(t: float) -> float:
        z = largest * math.sqrt((t + 1) / 2)
        below, above = math.erfc(-z / math.sqrt(2)), math.erfc(z / math.sqrt(2))
        return math.log(below / above) / (2 * z)

    power_series = chebyshev.cheb2poly(chebyshev.chebinterpolate(np.vectorize(p), degree))
    return largest, power_series[::-1].tolist()


def _results(x: Array, ws: Fresh, keep_x: bool, keep: bool) -> tuple[Array, Array]:
    """Where y and the slope go. The slope overwrites x; if none is wanted, y does."""
    if not keep:
        return (ws.empty(x.shape, x.dtype) if keep_x else x), x
    y = ws.empty(x.shape, x.dtype)
    return y, ws.empty(x.shape, x.dtype) if keep_x else x


# ------------------------------------ SwiGLU: docs/derivations.md#swiglu


def swiglu(gate: Array, up: Array, ws: Fresh = FRESH, keep_x: bool = True, keep: bool = True) -> tuple[Array, Cache]:
    """y = silu(gate) * up,  silu(x) = x * s,  s = 1 / (1 + exp(-x)).  gate and up (N, F) -> y (N, F).  Shazeer 2020.

    The cache is what dy is multiplied with: silu'(gate) * up, with silu' = s + silu * (1 - s), and silu(gate).
    """
    y, dgate = _results(gate, ws, keep_x, keep)
    dup = ws.empty(up.shape, up.dtype) if keep and keep_x else up
    for rows in pieces(*gate.shape):
        with ws.scratch():
            x, upi = gate[rows], up[rows]
            s, silu = ws.empty(x.shape, x.dtype), ws.empty(x.shape, x.dtype)
            np.multiply(x, 0.5, out=s)
            np.tanh(s, out=s)
            s *= 0.5
            s += 0.5  # 1 / (1 + exp(-x)), which cannot overflow this way
            np.multiply(x, s, out=silu)
            np.multiply(silu, upi, out=y[rows])
            if not keep:
                continue
            slope = np.subtract(1, s, out=dgate[rows])
            slope *= silu
            slope += s
            slope *= upi
            dup[rows] = silu
    return y, (dgate, dup) if keep else None


def swiglu_backward(
    dy: Array, cache: Cache, ws: Fresh = FRESH, out: tuple[Array | None, Array | None] = (None, None)
) -> tuple[Array, Array]:
    """dgate = dy * silu'(gate) * up,  dup = dy * silu(gate).  Each `out` may be a part of the cache."""
    gate_slope, silu = cache
    dgate, dup = (ws.empty(dy.shape, dy.dtype) if array is None else array for array in out)
    return np.multiply(dy, gate_slope, out=dgate), np.multiply(dy, silu, out=dup)
