"""Layer norm and RMS norm: scale each row to unit variance or unit mean square.

Rows are independent of each other, so they are processed in blocks that stay in the cache.
"""

import math

import numpy as np

from minigpt.np.context import Context
from minigpt.np.ops import Cache, GradOut, column_sum, row_blocks, row_sum
from minigpt.np.parameters import NamedArrays
from minigpt.np.workspace import DEFAULT_WORKSPACE, Array, Workspace

# ------------------------------- layer norm: docs/derivations.md#layer-norm


def layer_norm(
    x: Array, gamma: Array, beta: Array, ws: Workspace = DEFAULT_WORKSPACE, epsilon: float = 1e-5
) -> tuple[Array, Cache]:
    """y = gamma * x_hat + beta,  x_hat = (x - mean) / sqrt(variance + epsilon), for each row.  x (N, D) -> y (N, D)."""
    N, D = x.shape
    y, x_hat, rstd = (ws.empty(shape, x.dtype) for shape in (x.shape, x.shape, (N, 1)))
    for rows in row_blocks(N, D):
        xi = np.subtract(x[rows], row_sum(x[rows]) / D, out=x_hat[rows])
        np.divide(1, np.sqrt(np.vecdot(xi, xi)[:, None] / D + epsilon), out=rstd[rows])
        xi *= rstd[rows]
        yi = np.multiply(xi, gamma, out=y[rows])
        yi += beta
    return y, (x_hat, rstd, gamma)


def layer_norm_backward(
    dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE, out: GradOut = (None, None)
) -> tuple[Array, Array, Array]:
    """dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat)),  g = gamma * dy;  dgamma = sum(dy * x_hat),  dbeta = sum(dy)."""
    x_hat, rstd, gamma = cache
    N, D = dy.shape
    dx = ws.empty(dy.shape, dy.dtype)
    dgamma = np.zeros(D, dy.dtype) if out[0] is None else out[0]
    dgamma.fill(0)
    for rows in row_blocks(N, D):
        with ws.scratch():
            product = np.multiply(dy[rows], x_hat[rows], out=ws.empty(dx[rows].shape, dy.dtype))
            dgamma += column_sum(product)
            mean_g, mean_g_x_hat = dy[rows] @ gamma / D, product @ gamma / D  # (n,) each
            dxi = np.multiply(dy[rows], gamma, out=dx[rows])
            dxi -= mean_g[:, None]
            dxi -= np.multiply(x_hat[rows], mean_g_x_hat[:, None], out=product)
            dxi *= rstd[rows]
    return dx, dgamma, column_sum(dy, out=out[1])


# ----------------------------------- RMS norm: docs/derivations.md#rms-norm


def rms_norm(x: Array, gamma: Array, ws: Workspace = DEFAULT_WORKSPACE, epsilon: float = 1e-5) -> tuple[Array, Cache]:
    """y = gamma * x_hat,  x_hat = x / sqrt(mean(x^2) + epsilon), for each row.  x (N, D) -> y (N, D).

    Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.
    """
    N, D = x.shape
    y, rstd = ws.empty(x.shape, x.dtype), ws.empty((N, 1), x.dtype)
    for rows in row_blocks(N, D):
        xi, ri, yi = x[rows], rstd[rows], y[rows]
        np.divide(math.sqrt(D), np.sqrt(np.vecdot(xi, xi)[:, None] + D * epsilon), out=ri)
        np.multiply(xi, ri, out=yi)
        yi *= gamma
    return y, (x, rstd, gamma)


def rms_norm_backward(
    dy: Array, cache: Cache, ws: Workspace = DEFAULT_WORKSPACE, out: Array | None = None
) -> tuple[Array, Array]:
    """dx = rstd * (g - x_hat * mean(g * x_hat)),  g = gamma * dy;  dgamma = sum(dy * x_hat)."""
    x, rstd, gamma = cache
    N, D = dy.shape
    dx = ws.empty(dy.shape, dy.dtype)
    dgamma = np.zeros(D, dy.dtype) if out is None else out
    dgamma.fill(0)
    for rows in row_blocks(N, D):
        with ws.scratch():
            product = np.multiply(dy[rows], x[rows], out=ws.empty(dx[rows].shape, dy.dtype))
            dgamma += rstd[rows, 0] @ product  # x_hat = x * rstd
            scale = (product @ gamma)[:, None] * rstd[rows] ** 2 / D  # rstd * mean(g * x_hat)
            dxi = np.multiply(dy[rows], gamma, out=dx[rows])
            dxi -= np.multiply(x[rows], scale, out=product)
            dxi *= rstd[rows]
    return dx, dgamma


# ------------------------------------------- the norm selected by the configuration


def norm(x: Array, p: NamedArrays, prefix: str, ctx: Context) -> tuple[Array, Cache]:
    """Normalize the last axis with the norm of the configuration.  x (..., D) -> y (..., D).

    The parameters, named with `prefix`, are gamma (D,) and, for layer norm, beta (D,).
    """
    rows, gamma = x.reshape(-1, x.shape[-1]), p[prefix + "gamma"]
    if ctx.config.norm == "rms":
        y, cache = rms_norm(rows, gamma, ctx.ws, ctx.config.norm_epsilon)
    else:
        y, cache = layer_norm(rows, gamma, p[prefix + "beta"], ctx.ws, ctx.config.norm_epsilon)
    return y.reshape(x.shape), cache


def norm_backward(dy: Array, cache: Cache, g: NamedArrays, prefix: str, ctx: Context) -> Array:
    """Return dx, and write dgamma and (for layer norm) dbeta to g."""
    rows, dgamma = dy.reshape(-1, dy.shape[-1]), g[prefix + "gamma"]
    if ctx.config.norm == "rms":
        dx, _ = rms_norm_backward(rows, cache, ctx.ws, dgamma)
    else:
        dx, *_ = layer_norm_backward(rows, cache, ctx.ws, (dgamma, g[prefix + "beta"]))
    return dx.reshape(dy.shape)
