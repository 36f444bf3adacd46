"""Forward mode: how a whole sequence moves with parameters and input, by tangents alone.

A derivation of its own: nothing in it is shared with the backward passes. In NumPy, whatever the
backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import (
    check_params,
    check_rng,
    checked_array,
    checked_input,
    states_of_cells,
)
from ..arrays import Array, Params
from ..cells import Cell
from ..cells.cell import Dual, input_product
from ..model import SequenceModel
from ..readout import Readout, features, real_numbers


@np.errstate(under="ignore")
def cell_jvp(
    cell: Cell,
    params: Mapping[str, Array],
    x: ArrayLike,
    params_dot: Mapping[str, Array],
    x_dot: ArrayLike | None = None,
    h0: Any = None,
    h0_dot: Any = None,
) -> tuple[Array, Array]:
    """Run a cell, and tell how its states move with params, x and h0.

    Parameters
    ----------
    cell : Cell
    params, x, h0
        As for :meth:`Cell.forward`.
    params_dot : mapping of str to ndarray
        How each of params moves: its keys, shapes and dtypes.
    x_dot : array_like, shape (T, D, B), optional
        How x moves; not at all if not given.
    h0_dot : as h0, optional
        How a given h0 moves; not at all if not given.

    Returns
    -------
    h, h_dot : ndarray, shapes (T, N, B)

    Raises
    ------
    ValueError, TypeError
        As :meth:`Cell.forward`, for tangents too; x_dot for integer x, h0_dot without h0.
    """
    params = check_params(params, cell.layout)
    params_dot = check_params(params_dot, cell.layout)
    x = checked_input(cell, x)
    if x_dot is not None:
        if x.ndim == 2:
            raise ValueError("integers x do not move: leave x_dot out")
        x_dot = checked_array("x_dot", x_dot, x.shape, np.dtype(cell.dtype))
    if h0 is None and h0_dot is not None:
        raise ValueError("h0_dot needs h0; the learned state moves by params_dot")
    state = cell.initial_states(params, x.shape[-1], h0)
    if h0 is not None and h0_dot is None:
        state_dot = tuple(np.zeros_like(part) for part in state)
    else:
        state_dot = cell.initial_states(params_dot, x.shape[-1], h0_dot)
    h = np.empty((len(x), *state[0].shape), cell.dtype)
    h_dot = np.empty_like(h)
    for t in range(len(x)):
        x_t_dot = None if x_dot is None else x_dot[t]
        state, state_dot = time_step_jvp(
            cell, (params, params_dot), x[t], x_t_dot, (state, state_dot)
        )
        h[t], h_dot[t] = state[0], state_dot[0]
    return h, h_dot


@np.errstate(under="ignore")
def model_jvp(
    model: SequenceModel,
    params: Mapping[str, Array],
    x: ArrayLike,
    params_dot: Mapping[str, Array],
    x_dot: ArrayLike | None = None,
    h0: Any = None,
    *,
    rng: np.random.Generator | None = None,
) -> tuple[Array, Array]:
    """Run a model, and tell how its logits move with params and x.

    Parameters
    ----------
    model : SequenceModel
    params, x, h0, rng
        As for :meth:`SequenceModel.forward`; a given h0 does not move.
    params_dot : mapping of str to ndarray
        How each of params moves: its keys, shapes and dtypes.
    x_dot : array_like, shape (T, D, B), optional
        How x moves; not at all if not given.

    Returns
    -------
    logits, logits_dot : ndarray, shape (T, M, B), or (1, M, B) with ``last_only``

    Raises
    ------
    ValueError, TypeError
        As :func:`cell_jvp`.
    """
    params = check_params(params, model.layout)
    params_dot = check_params(params_dot, model.layout)
    if rng is not None:
        check_rng(rng)
    all_params: list[Params] = model.cell_params(params)
    all_dots, given = model.cell_params(params_dot), states_of_cells(model, h0)
    for i, cell in enumerate(model.cells):
        h, h_dot = cell_jvp(cell, all_params[i], x, all_dots[i], x_dot, given[i])
        if i == len(model.cells) - 1:
            h, h_dot = pooled_jvp(model.readout, h, h_dot)
        if rng is not None and model.dropout:
            kept = model.draw_kept(h.shape, rng)
            h, h_dot = h * kept, h_dot * kept
        x, x_dot = features(h), features(h_dot)
    V, V_dot = params["readout.V"], params_dot["readout.V"]
    logits: Array = V @ x + params["readout.c"][:, None]
    logits_dot: Array = V_dot @ x + V @ x_dot + params_dot["readout.c"][:, None]
    return logits, logits_dot


def pooled_jvp(readout: Readout, h: Array, h_dot: Array) -> Dual:
    """Return what is read of states (T, N, B), and how it moves."""
    z, z_dot = readout.pool(h, ends=None), readout.pool(h_dot, ends=None)
    if "square" in readout.parts:  # the last of them, and alone not linear
        N, moves = h.shape[1], real_numbers(h) * real_numbers(h_dot)
        z_dot[:, -N:] = (2 * moves.mean(axis=0)).view(h.dtype)
    return z, z_dot


def time_step_jvp(
    cell: Cell,
    params: Dual,
    x_t: NDArray[Any],
    x_t_dot: NDArray[Any] | None,
    before: Dual,
) -> Dual:
    """Read x_t (D, B), or integers (B,); return the state after it and its tangent."""
    W, W_dot = (cell.matrices(p) for p in params)
    (h, *_), (h_dot, *_) = before
    products = (cell.matrix.jvp(W[k], h, W_dot[k], h_dot) for k in range(len(W)))
    Wh, Wh_dot = zip(*products, strict=True)
    U, U_dot = (p["U"] for p in params)
    moved = input_product(U_dot, x_t) + (0 if x_t_dot is None else U @ x_t_dot)
    Ux, Ux_dot = (np.split(u, len(W)) for u in (input_product(U, x_t), moved))
    return cell.step_jvp(params, (Wh, Wh_dot), (Ux, Ux_dot), before)
