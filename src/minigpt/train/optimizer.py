"""AdamW and clipping by global norm, piece by piece over the flat parameter vector.

Derived in docs/derivations.md#clipping and #adamw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from minigpt.np import ops
from minigpt.np.parameters import Parameters
from minigpt.np.workspace import FRESH, Array, Fresh


class Moments(NamedTuple):
    """The moments of AdamW: what it remembers beside the parameters."""

    m: Parameters
    v: Parameters


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    m <- beta1 m + (1 - beta1) g        the mean gradient of late
    v <- beta2 v + (1 - beta2) g^2      its mean square
    p <- p - lr (weight_decay p + m_hat / (sqrt(v_hat) + epsilon)),   m_hat = m / (1 - beta1^step),  v_hat = v / (1 - beta2^step)
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1

    def update(
        self,
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        lr: float,
        step: int,
        decaying: Sequence[slice] = (slice(None),),
        scale: float = 1.0,
        ws: Fresh = FRESH,
    ) -> None:
        """One step, counted from 1, by gradients g * scale, for vectors of equal size: p, m and v change in place.

        The places in the slices `decaying` decay.

        m_hat / (sqrt(v_hat) + epsilon) = root / (1 - beta1^step) * m / (sqrt(v) + epsilon * root),  root = sqrt(1 - beta2^step).
        """
        root = math.sqrt(1 - self.beta2**step)
        with ws.scratch():
            change = ws.empty(p.shape, p.dtype)
            m *= self.beta1
            m += np.multiply(g, (1 - self.beta1) * scale, out=change)
            v *= self.beta2
            np.multiply(g, g, out=change)
            change *= (1 - self.beta2) * scale**2
            v += change
            np.sqrt(v, out=change)
            change += self.epsilon * root
            np.divide(m, change, out=change)
            change *= lr * root / (1 - self.beta1**step)
            for where in decaying:
                p[where] *= 1 - lr * self.weight_decay
            p -= change


def pieces(p: Parameters, part: slice | None = None) -> list[tuple[slice, list[slice]]]:
    """(slice of the flat vector, what of it decays): pieces that fit in cache. Matrices decay, biases and norms do not.

    With `part`, those of a slice of the vector only.

    >>> pieces(Parameters({"weight": (2, 3), "bias": (3,), "head": (1, 2)}, np.float32))
    [(slice(0, 11, None), [slice(0, 6, None), slice(9, 11, None)])]
    """
    stops = list(accumulate(array.size for array in p.values()))
    matrices = [(stop - array.size, stop) for array, stop in zip(p.values(), stops, strict=True) if array.ndim >= 2]
    first, last = (part.start, part.stop) if part else (0, stops[-1])
    found = []
    for where in ops.pieces(last - first, 1):
        start, stop = first + where.start, first + where.stop
        inside = [slice(max(a, start) - start, min(b, stop) - start) for a, b in matrices if a < stop and b > start]
        found.append((slice(start, stop), inside))
    return found


def clip_scale(norm: float, max_norm: float) -> float:
    """What to multiply gradients of this global norm with so that it is at most max_norm (0: leave them), as PyTorch does it.

    >>> round(clip_scale(4.0, max_norm=1.0), 6), clip_scale(0.5, max_norm=1.0)
    (0.25, 1.0)
    """
    return min(1.0, max_norm / (norm + 1e-6)) if max_norm > 0 else 1.0
