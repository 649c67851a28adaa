"""Muon: momentum whose matrix is replaced by the nearest orthogonal matrix (docs/derivations.md#muon)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Literal

import numpy as np

from minigpt.np.workspace import DEFAULT_WORKSPACE, Array, Workspace

Coefficients = Literal["polar_express", "jordan"]
Scale = Literal["spectral", "rms"]
COEFFICIENTS: dict[Coefficients, tuple[tuple[float, float, float], ...]] = {
    "jordan": ((3.4445, -4.7750, 2.0315),),
    "polar_express": (
        (8.205160, -22.901935, 16.460725),
        (4.066395, -2.861154, 0.518400),
        (3.909595, -2.823352, 0.525037),
        (3.285564, -2.415302, 0.485294),
        (2.277873, -1.619822, 0.398481),
        (1.872576, -1.230704, 0.358516),
        (1.856437, -1.213239, 0.356800),
        (1.875, -1.25, 0.375),
    ),
}
"""The coefficients (a, b, c) of the polynomial a s + b s^3 + c s^5 of each iteration. The last ones are repeated.

jordan is the set of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), the same polynomial in every iteration, which
was chosen to raise small singular values fast; it leaves them between 0.68 and 1.14. polar_express is that of Amsel et al.
2025 (https://arxiv.org/abs/2505.16932): in each iteration, the polynomial that brings all singular values as close to 1 as
possible, given how close the ones before have brought those that started at 0.001 or more. It includes their safety factor of
1.01. tests/training/test_muon.py computes it again.
"""
EPSILON = 1e-7
"The smallest norm by which a matrix is divided, as in PyTorch: the momentum of a matrix without gradients fades out."


@dataclass(frozen=True)
class Muon:
    """Momentum, orthogonalized by Newton-Schulz iterations (Jordan et al. 2024), for matrices of shape (inputs, outputs).

    m <- momentum m + (1 - momentum) g
    u  = momentum m + (1 - momentum) g                     Nesterov's momentum
    p <- p - lr (weight_decay p + scale(u) U V^T),         where u = U S V^T is the singular value decomposition

    Parameters
    ----------
    momentum
        Decay rate of the average of the gradients.
    iterations, coefficients
        Number of Newton-Schulz iterations, and the name of their coefficients in `COEFFICIENTS`.
    scale
        With "spectral", scale(u) = sqrt(max(1, outputs / inputs)), so that one learning rate suits all widths
        (Jordan et al. 2024). With "rms", it is 0.2 sqrt(max(inputs, outputs)), which gives the update the root mean square that
        AdamW's typically has (Liu et al. 2025, https://arxiv.org/abs/2502.16982).
    weight_decay
        Decoupled weight decay, as that of AdamW.
    """

    momentum: float = 0.9
    iterations: int = 3
    coefficients: Coefficients = "polar_express"
    scale: Scale = "spectral"
    weight_decay: float = 0.0

    def update(
        self, p: Array, g: Array, m: Array, v: Array, lr: float, step: int, scale: float = 1.0, ws: Workspace = DEFAULT_WORKSPACE
    ) -> None:
        """Update p and m (inputs, outputs) in place with the gradients g * scale. v and step, which AdamW needs, are not used."""
        with ws.scratch():
            fresh = np.multiply(g, (1 - self.momentum) * scale, out=ws.empty(p.shape, p.dtype))
            m *= self.momentum
            m += fresh
            u = np.multiply(m, self.momentum, out=ws.empty(p.shape, p.dtype))
            u += fresh
            change = orthogonalize(u, self.iterations, self.coefficients, ws)
            change *= lr * update_scale(p.shape[0], p.shape[1], self.scale)
            if self.weight_decay:
                p *= 1 - lr * self.weight_decay
            p -= change

    def flops(self, inputs: int, outputs: int) -> int:
        """Return the floating-point operations of the matrix products of an update. A symmetric product takes half of them."""
        n, m = sorted((inputs, outputs))
        return self.iterations * (n * n * m + n**3 + 2 * n * n * m)


def update_scale(inputs: int, outputs: int, scale: Scale) -> float:
    """Return the factor of the orthogonal matrix of an update, as described in `Muon`.

    >>> update_scale(64, 256, "spectral"), update_scale(256, 64, "spectral")
    (2.0, 1.0)
    """
    return math.sqrt(max(1, outputs / inputs)) if scale == "spectral" else 0.2 * math.sqrt(max(inputs, outputs))


def orthogonalize(
    x: Array, iterations: int, coefficients: Coefficients = "polar_express", ws: Workspace = DEFAULT_WORKSPACE
) -> Array:
    """Return approximately U V^T, where x = U S V^T is the singular value decomposition of a matrix. A matrix of zeros remains.

    Each Newton-Schulz iteration computes x <- a x + b (x x^T) x + c (x x^T)^2 x, which replaces each singular value s of x by
    a s + b s^3 + c s^5. Only matrix products are needed. Before the first one, x is divided by its norm, or by `EPSILON` if that
    is larger, because the iterations require singular values of at most 1. A tall matrix is transposed, so that x x^T is small.

    >>> x = np.random.default_rng(0).standard_normal((4, 8))
    >>> y = orthogonalize(x, iterations=8)
    >>> bool(np.allclose(y @ y.T, np.eye(4), atol=1e-3))
    True
    """
    if x.shape[0] > x.shape[1]:
        return orthogonalize(x.T, iterations, coefficients, ws).T
    n, dtype = x.shape[0], x.dtype
    y, z = ws.empty(x.shape, dtype), ws.empty(x.shape, dtype)
    gram, polynomial = ws.empty((n, n), dtype), ws.empty((n, n), dtype)
    norm = math.sqrt(np.vdot(x, x))
    np.multiply(x, 1 / max(norm, EPSILON), out=y)  # now, no singular value is larger than 1
    for a, b, c in _iterations(coefficients, iterations):
        np.matmul(y, y.T, out=gram)
        np.matmul(gram, gram.T, out=polynomial)  # gram is symmetric; a product with its own transpose takes half of the time
        polynomial *= c
        gram *= b
        polynomial += gram
        polynomial.ravel()[:: n + 1] += a
        np.matmul(polynomial, y, out=z)  # (a + b y y^T + c (y y^T)^2) y
        y, z = z, y
    return y


def _iterations(coefficients: Coefficients, iterations: int) -> Iterator[tuple[float, float, float]]:
    """Yield the coefficients of each iteration."""
    values = COEFFICIENTS[coefficients]
    return islice(chain(values, repeat(values[-1])), iterations)
