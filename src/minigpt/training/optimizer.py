"""AdamW and clipping by global norm, on slices of the flat parameter vector.

See docs/derivations.md#clipping and #adamw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from minigpt.np import ops
from minigpt.np.parameters import Parameters
from minigpt.np.workspace import DEFAULT_WORKSPACE, Array, Workspace


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    m <- beta1 m + (1 - beta1) g        moving average of the gradients
    v <- beta2 v + (1 - beta2) g^2      moving average of their squares
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
        ws: Workspace = DEFAULT_WORKSPACE,
    ) -> None:
        """Update p, m and v (all of shape (n,)) in place with the gradients g * scale. The first `step` is 1.

        Weight decay applies to the slices `decaying` of p.

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
            for part in decaying:
                p[part] *= 1 - lr * self.weight_decay
            p -= change


def update_slices(p: Parameters, part: slice | None = None) -> list[tuple[slice, list[slice]]]:
    """Divide the flat parameter vector, or a `part` of it, into slices that fit in the cache.

    Returns pairs of a slice of the vector and the slices of it that decay: matrices do, biases and norms do not.

    >>> update_slices(Parameters({"weight": (2, 3), "bias": (3,), "head": (1, 2)}, np.float32))
    [(slice(0, 11, None), [slice(0, 6, None), slice(9, 11, None)])]
    """
    stops = list(accumulate(array.size for array in p.values()))
    matrices = [(stop - array.size, stop) for array, stop in zip(p.values(), stops, strict=True) if array.ndim >= 2]
    first, last = (part.start, part.stop) if part else (0, stops[-1])
    slices = []
    for block in ops.row_blocks(last - first, 1):
        start, stop = first + block.start, first + block.stop
        decaying = [slice(max(a, start) - start, min(b, stop) - start) for a, b in matrices if a < stop and b > start]
        slices.append((slice(start, stop), decaying))
    return slices


def clip_scale(norm: float, max_norm: float) -> float:
    """Return the factor that scales gradients of this global norm to at most `max_norm`, as in PyTorch. 0 disables clipping.

    >>> round(clip_scale(4.0, max_norm=1.0), 6), clip_scale(0.5, max_norm=1.0)
    (0.25, 1.0)
    """
    return min(1.0, max_norm / (norm + 1e-6)) if max_norm > 0 else 1.0
