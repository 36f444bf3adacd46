"""The order in which the factors of a Kronecker product are applied."""

import functools
import math
from typing import NamedTuple

import numpy as np

from .arrays import COLUMNS, Array


class Sweep(NamedTuple):
    """One factor applied to its axis: (left, Q, right) becomes (left, P, right)."""

    factor: int
    left: int
    right: int


@functools.lru_cache(maxsize=256)
def sweeps(shapes: tuple[tuple[int, int], ...], B: int) -> tuple[Sweep, ...]:
    """Order the factors so that the whole product costs the fewest multiplications.

    Applying f before g costs (P_f Q_f Q_g + P_g Q_g P_f) × the other axes, g before f
    costs (P_g Q_g Q_f + P_f Q_f P_g) × the same. Divided by P_f Q_f P_g Q_g, the first
    is cheaper when 1/Q_f - 1/P_f < 1/Q_g - 1/P_g: sorting by that key is optimal, for
    if any two neighbours were the other way round, swapping them would pay. Square
    factors all have key 0 and stay in place.
    """
    order = sorted(range(len(shapes)), key=lambda f: 1 / shapes[f][1] - 1 / shapes[f][0])
    axes = [Q for _, Q in shapes]
    plan = []
    for f in order:
        plan.append(Sweep(f, math.prod(axes[:f]), math.prod(axes[f + 1 :]) * B))
        axes[f] = shapes[f][0]
    return tuple(plan)


def sweep_gradient(dy: Array, x: Array) -> Array:
    """Return dW (P, Q) of a sweep y = W x, for dy (left, P, right) and x (left, Q, right).

    dW[p, q] = Σ_{l, r} dy[l, p, r] conj(x[l, q, r]), the sums of many columns in double precision.
    """
    P, Q = dy.shape[1], x.shape[1]
    columns, before = np.moveaxis(dy, 1, 0).reshape(P, -1), np.moveaxis(x, 1, 0).reshape(Q, -1)
    dW = np.zeros((P, Q), np.result_type(dy, np.float64))
    for first in range(0, columns.shape[1], COLUMNS):
        piece = slice(first, first + COLUMNS)
        dW += columns[:, piece] @ before[:, piece].conj().T
    return dW.astype(dy.dtype)
