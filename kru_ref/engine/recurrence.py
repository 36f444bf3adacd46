"""Recurrences and readouts over time by the compiled kernels: their arrays, and the calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, Params, ReadoutGradient
from .backend import kernels, n_threads
from .memory import aligned_zeros
from .plans import BLOCK, columns_of, parts_of, plan_of, product_of
from .products import adjoint, as_complexes, as_reals, factor_gradients, level, merge, real_dtype

# Up to so many, a product with one-hot columns is faster than adding up column by column.
FEW_LABELS = 16

# Each gate's Kronecker factors.
Gates = Sequence[Sequence[Array]]
States = tuple[Array, ...]


def recurrence_forward(
    kind: str,
    W: Gates,
    params: Mapping[str, Array],
    x: NDArray[Any],
    before: States,
    states: States,
    gates: Array,
) -> None:
    """Fill states and gates over time; see ``Cell.run_numpy``.

    Parameters
    ----------
    kind : {"modrelu", "tanh", "relu", "identity", "lstm", "gru"}
    W : list of lists of ndarray
        For each gate its Kronecker factors.
    params : mapping of str to ndarray
        "U", "b", and "b_h" of a GRU.
    x : ndarray, shape (T, D, B), or integers (T, B)
        Real, of the cell's precision.
    before : tuple of ndarray, shapes (N, B)
        h, or h and c, before the first step.
    states : tuple of ndarray, shapes (T, N, B)
        To be filled with h, or h and c, after each step.
    gates : ndarray, shape (T, n_kept, N, B)
        To be filled with what each step keeps of its gates: 4 arrays, 0 of a simple cell.

    Raises
    ------
    KeyError
        There is no such kind.
    ValueError
        An array is not contiguous, or not of the size or dtype that the others ask for.
    """
    loop = _Loop(kind, W, params, x)
    threads = min(n_threads(), loop.n_blocks)
    scratch = aligned_zeros(threads, loop.sizes.forward_scratch, loop.real)
    U = {"U": _input_weights(kind, params, x)}
    states_kept = {"before": before, "states": states, "gates": gates, "scratch": scratch}
    kernels.recurrence_forward(loop.sizes, level(), threads, loop.arrays | U | states_kept)


def recurrence_backward(
    kind: str,
    W: Gates,
    params: Mapping[str, Array],
    x: NDArray[Any],
    before: States,
    states: States,
    gates: Array,
    dh: Array | ReadoutGradient,
    dlast: Array | None,
    input_gradient: bool,
) -> tuple[list[list[Array]], Params, Array | None, States]:
    """Back-propagate through time; see ``Cell.run_numpy_backward``.

    Parameters
    ----------
    kind, W, params, x, before, states, gates
        As :func:`recurrence_forward` took and filled them.
    dh : ndarray, shape (K, N, B), or ReadoutGradient
        Gradient of the last K h.
    dlast : ndarray, shape (N, B), optional
        Of an LSTM's last c.
    input_gradient : bool
        Whether to compute dx.

    Returns
    -------
    dW : list of lists of ndarray
    dparams : dict of str to ndarray
        "U", "b", and "b_h" of a GRU.
    dx : ndarray, shape (T, D, B), or None for integer x or without ``input_gradient``
    dbefore : tuple of ndarray, shapes (N, B)

    Raises
    ------
    KeyError, ValueError
        As :func:`recurrence_forward`.
    """
    from_loss = _from_loss(dh)
    loop = _Loop(kind, W, params, x, M=from_loss["dy"].shape[1] if "dy" in from_loss else 0)
    sums, U = loop.sums(), params["U"]
    dbefore = tuple(np.empty_like(part) for part in before)
    dx = np.empty(x.shape, loop.real) if input_gradient and x.ndim == 3 else None
    given = {
        "WH": np.stack([adjoint(W_k, loop.plan, loop.parts) for W_k in loop.arrays["W"]]),
        "UT": np.ascontiguousarray(U.T),
        "before": before,
        "states": states,
        "gates": gates,
        "dlast": dlast,
        "scratch": aligned_zeros(loop.n_blocks, loop.sizes.backward_scratch, loop.real),
    }
    wanted = {"dbefore": dbefore, "dx": dx}
    kernels.recurrence_backward(
        loop.sizes,
        level(),
        min(n_threads(), loop.n_blocks),
        loop.arrays | from_loss | given | wanted | sums,
    )
    total = {name: of_blocks.sum(axis=0) for name, of_blocks in sums.items()}
    dW = [
        factor_gradients(W_k, loop.plan, dW_k, U.dtype)
        for W_k, dW_k in zip(W, total["dW"].reshape(len(W), -1), strict=True)
    ]
    if "dU" in total:
        dU = as_complexes(total["dU"], loop.parts).reshape(U.shape)
    else:
        dU = as_complexes(total["dU_labels"], loop.parts).reshape(U.shape[::-1]).T
    db = np.split(total["db"].astype(loop.real), [len(params["b"])])
    dparams = {"U": np.ascontiguousarray(dU, U.dtype), "b": db[0]}
    return dW, dparams | ({"b_h": db[1]} if "b_h" in params else {}), dx, dbefore


class _Loop:
    """What both directions share: sizes, and parameters and input as the kernels take them."""

    def __init__(
        self, kind: str, W: Gates, params: Mapping[str, Array], x: NDArray[Any], M: int = 0
    ) -> None:
        U, step, B = params["U"], kernels.KINDS[kind], x.shape[-1]
        self.parts, self.real, self.U_size = parts_of(U.dtype), real_dtype(U), U.size
        self.n_gates = len(W)
        columns = columns_of(B)
        product, merged = self._product(W, columns, U.dtype.char)
        self.sizes = kernels.Recurrence(
            step.number, product, self.real == np.float64, len(x), U.shape[1], M
        )
        self.n_blocks = len(columns) - 1
        self.adds_by_label = x.ndim == 2 and U.shape[1] > FEW_LABELS
        self.n_biases = step.n_d * self.plan.rows[0]
        inner = params.get("b_h") if step.n_kept else params["b"]
        self.arrays: dict[str, Any] = {
            "W": np.stack(merged),
            "b": None if inner is None else self._repeated(inner, columns),
            "x": np.ascontiguousarray(x, np.int64 if x.ndim == 2 else self.real),
        }

    def _product(self, W: Gates, columns: NDArray[np.intp], dtype: str) -> tuple[Any, list[Any]]:
        """Return the product that all gates share, and their numbers; set its plan.

        It has butterflies if all factors are far enough from singular.
        """
        shapes = tuple(W_f.shape for W_f in W[0])
        for with_butterflies in (True, False):
            self.plan = plan_of(shapes, BLOCK, dtype, with_butterflies)
            product = product_of(self.plan, 1, columns, 0, dtype)
            merged = [merge(W_k, product) for W_k in W]
            if all(W_k is not None for W_k in merged):
                break
        return product, merged

    def sums(self) -> dict[str, NDArray[np.float64]]:
        """Return zeros to which each block adds its gradients, a row for each."""
        dU = "dU_labels" if self.adds_by_label else "dU"
        return {
            "dW": np.zeros((self.n_blocks, self.n_gates * self.parts * self.plan.n_merged)),
            dU: np.zeros((self.n_blocks, self.parts * self.U_size)),
            "db": np.zeros((self.n_blocks, self.n_biases)),
        }

    def _repeated(self, b: Array, columns: NDArray[np.intp]) -> Array:
        """Repeat b for each column of each block; what fills up vectors is 0."""
        repeated = np.zeros((self.n_blocks, self.sizes.block_biases), b.dtype)
        for of_block, width in zip(repeated, np.diff(columns), strict=True):
            row = kernels.row_parts(self.parts, width, b.dtype == np.float64) // self.parts
            of_block[: len(b) * row].reshape(len(b), row)[:, :width] = b[:, None]
        return repeated


def _input_weights(kind: str, params: Mapping[str, Array], x: NDArray[Any]) -> Array:
    """Return U; of a gated cell with b as one more column, or added to all columns for labels."""
    U, b = params["U"], params["b"]
    if kernels.KINDS[kind].n_kept > 0:
        U = U + b[:, None] if x.ndim == 2 else np.concatenate([U, b[:, None]], axis=1)
    return np.ascontiguousarray(U)


def _from_loss(dh: Array | ReadoutGradient) -> dict[str, Array]:
    """Return the gradient of h from the loss: dh itself, or C and dy."""
    if isinstance(dh, ReadoutGradient):
        return {"C": np.ascontiguousarray(dh.C.T), "dy": dh.dy}
    return {"dh": dh}


def readout(C: Array, c: Array, h: Array) -> NDArray[np.floating]:
    """Return y_t = Re(conj(C) h_t) + c, (T, M, B); see SequenceModel.forward."""
    T, _, B = h.shape
    columns, y = columns_of(B), np.empty((T, len(C), B), c.dtype)
    kernels.readout_forward(
        level(),
        min(n_threads(), len(columns) - 1),
        columns,
        as_reals(np.ascontiguousarray(C).reshape(-1)),
        np.ascontiguousarray(c),
        as_reals(h),
        y,
        _readout_scratch(columns, h, len(C), 0),
    )
    return y


def readout_backward(h: Array, dy: NDArray[np.floating]) -> Array:
    """Return dV, (M, N) or (M, 2N) for complex h; see SequenceModel.backward."""
    _, N, B = h.shape
    M, parts, columns = dy.shape[1], parts_of(h.dtype), columns_of(B)
    dV = np.zeros((len(columns) - 1, parts * N * M))
    kernels.readout_backward(
        level(),
        min(n_threads(), len(columns) - 1),
        columns,
        as_reals(h),
        dy,
        dV,
        _readout_scratch(columns, h, M, 1),
    )
    by_part = dV.sum(axis=0).reshape(N, M, parts).transpose(1, 2, 0)
    return by_part.reshape(M, parts * N).astype(dy.dtype)


def _readout_scratch(columns: NDArray[np.intp], h: Array, M: int, direction: int) -> Array:
    """Return scratch for each block, forward (0) or backward (1)."""
    T, N, _ = h.shape
    real = real_dtype(h)
    sizes = kernels.readout_scratch(parts_of(h.dtype), columns, T, N, M, real == np.float64)
    return aligned_zeros(len(columns) - 1, sizes[direction], real)
