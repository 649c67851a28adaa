"""AdamW, on a part of the flat parameter vector (docs/derivations.md#adamw)."""

import math
from dataclasses import dataclass

import numpy as np

from minigpt.np.workspace import DEFAULT_WORKSPACE, Array, Workspace


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101).

    m <- beta1 m + (1 - beta1) g        moving average of the gradients
    v <- beta2 v + (1 - beta2) g^2      moving average of their squares
    p <- p - lr (weight_decay p + m_hat / (sqrt(v_hat) + epsilon)),   m_hat = m / (1 - beta1^step),  v_hat = v / (1 - beta2^step)
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1

    def update(
        self, p: Array, g: Array, m: Array, v: Array, lr: float, step: int, scale: float = 1.0, ws: Workspace = DEFAULT_WORKSPACE
    ) -> None:
        """Update p, m and v (arrays of the same shape) in place with the gradients g * scale. The first `step` is 1.

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
            if self.weight_decay:
                p *= 1 - lr * self.weight_decay
            p -= change
