"""Recurrences and readouts over time by the compiled kernels: their arrays, and the calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, ReadoutGradient
from .backend import kernels, n_threads
from .memory import aligned_zeros
from .plans import BLOCK, LANES, Plan, columns_of, parts_of, plan_of, product_of
from .products import adjoint, as_complexes, as_reals, factor_gradients, level, merge

KINDS = ("modrelu", "tanh", "relu", "identity")
GATED = ("lstm", "gru")

# Up to so many, a product with one-hot columns is faster than adding up column by column.
FEW_LABELS = 16


def forward(
    factors: Sequence[Array],
    U: Array,
    b: Array,
    activation: str,
    x: NDArray[Any],
    h0: Array,
    h: Array,
) -> None:
    """Set h (T, N, B); see RNN.forward."""
    plan = plan_of(tuple(W.shape for W in factors), BLOCK, U.dtype.char)
    columns = columns_of(h0.shape[1])
    scratch, threads = _block_scratch(plan, columns, U, 0), _threads(columns)
    kernels.recurrence_forward(
        level(),
        KINDS.index(activation),
        _parts(U),
        threads,
        columns,
        plan.sweeps,
        merge(factors, product_of(plan, 1, columns, 0, U.dtype.char)),
        _flat(U),
        _bias(b, columns, scratch.stride, U),
        *_inputs(x, h.dtype),
        as_reals(h0),
        as_reals(h),
        scratch.forward(threads),
        scratch.stride,
    )


def backward(
    factors: Sequence[Array],
    U: Array,
    b: Array,
    activation: str,
    x: NDArray[Any],
    h0: Array,
    h: Array,
    dh: Array | ReadoutGradient,
    input_gradient: bool,
) -> tuple[list[Array], Array, Array, Array | None, Array]:
    """Return dfactors, dU, db, dx and dh0; see RNN.backward."""
    N, B = h0.shape
    D, parts = U.shape[1], _parts(U)
    plan = plan_of(tuple(W.shape for W in factors), BLOCK, U.dtype.char)
    columns, scatter = columns_of(B), x.ndim == 2 and D > FEW_LABELS
    n_blocks = len(columns) - 1
    direct, V, dy = _own_gradient(dh, b.dtype)
    scratch = _block_scratch(plan, columns, U, dy.shape[1])
    W = merge(factors, product_of(plan, 1, columns, 0, U.dtype.char))
    dh0 = np.empty(h0.shape, h0.dtype)
    dx = np.empty(x.shape if input_gradient and x.ndim == 3 else (0, 1, 1), b.dtype)
    dW = np.zeros((n_blocks, W.size))
    dU = np.zeros((n_blocks, 1 if scatter else parts * U.size))
    dU_labels = np.zeros((n_blocks, parts * U.size if scatter else 1))
    db = np.zeros((n_blocks, N))
    kernels.recurrence_backward(
        level(),
        KINDS.index(activation),
        parts,
        _threads(columns),
        columns,
        plan.sweeps,
        W,
        adjoint(W, plan, parts),
        _flat(U),
        _flat(U.T),
        _bias(b, columns, scratch.stride, U),
        *_inputs(x, h.dtype),
        as_reals(h0),
        as_reals(h),
        direct,
        V,
        dy,
        as_reals(dh0),
        dx,
        dW,
        dU,
        dU_labels,
        db,
        scratch.backward(),
        scratch.stride,
        scratch.gathered,
    )
    if scatter:
        dU_sum = as_complexes(dU_labels.sum(axis=0), parts).reshape(D, N).T
    else:
        dU_sum = as_complexes(dU.sum(axis=0), parts).reshape(N, D)
    return (
        factor_gradients(factors, plan, dW.sum(axis=0), U.dtype),
        np.ascontiguousarray(dU_sum, U.dtype),
        db.sum(axis=0).astype(b.dtype),
        dx if dx.size else None,
        dh0,
    )


def gated_forward(
    kind: str,
    W: Sequence[Sequence[Array]],
    U: Array,
    b: Array,
    b_h: Array | None,
    x: NDArray[Any],
    h0: Array,
    c0: Array | None,
    h: Array,
    c: Array | None,
    gates: Array,
) -> None:
    """Set h, c (T, N, B) and gates (T, 4, N, B); see LSTM.forward and GRU.forward."""
    plan, columns, merged = _gated_plan(W, h0.shape[1])
    D, (N, B) = U.shape[1], h0.shape
    stride, _, size, _ = _gated_scratch_sizes(plan, columns, len(W), len(h), N, D, 0, U.dtype)
    threads = _threads(columns)
    kernels.gated_forward(
        level(),
        GATED.index(kind),
        threads,
        columns,
        plan.sweeps,
        merged,
        np.ascontiguousarray(
            U + b[:, None] if x.ndim == 2 else np.concatenate([U, b[:, None]], axis=1)
        ),
        np.empty((1, 0), U.dtype) if b_h is None else _bias(b_h, columns, N * max(B, LANES), U),
        *_inputs(x, h.dtype),
        h0,
        h0 if c0 is None else c0,
        h,
        h if c is None else c,
        gates,
        aligned_zeros(threads, size, U.dtype),
        stride,
    )


def gated_backward(
    kind: str,
    W: Sequence[Sequence[Array]],
    U: Array,
    x: NDArray[Any],
    h0: Array,
    c0: Array | None,
    h: Array,
    c: Array | None,
    gates: Array,
    dh: Array | ReadoutGradient,
    dc: Array | None,
    input_gradient: bool,
) -> tuple[list[list[Array]], Array, Array, Array, Array | None, Array, Array]:
    """Return dW, dU, db, db_h, dx, dh0 and dc0; see LSTM.backward and GRU.backward.

    db_h is that of a GRU, dc0 that of an LSTM.
    """
    plan, columns, merged = _gated_plan(W, h0.shape[1])
    (rows, D), N, dtype = U.shape, len(h0), U.dtype
    scatter = x.ndim == 2 and D > FEW_LABELS
    n_blocks, n_gates = len(columns) - 1, len(W)
    direct, V, dy = _own_gradient(dh, dtype)
    stride, gathered, _, size = _gated_scratch_sizes(
        plan, columns, n_gates, len(h), N, D, dy.shape[1], dtype
    )
    dh0, dc0 = np.empty_like(h0), np.empty_like(h0)
    dx = np.empty(x.shape if input_gradient and x.ndim == 3 else (0, 1, 1), dtype)
    dW = np.zeros((n_blocks, merged.size))
    dU = np.zeros((n_blocks, 1 if scatter else U.size))
    dU_labels = np.zeros((n_blocks, U.size if scatter else 1))
    db = np.zeros((n_blocks, 4 * N))
    kernels.gated_backward(
        level(),
        GATED.index(kind),
        _threads(columns),
        columns,
        plan.sweeps,
        merged,
        np.stack([adjoint(W_k, plan, 1) for W_k in merged]),
        np.ascontiguousarray(U.T),
        *_inputs(x, dtype),
        h0,
        h0 if c0 is None else c0,
        h,
        h if c is None else c,
        gates,
        direct,
        V,
        dy,
        h0 if dc is None else dc,
        dh0,
        dc0,
        dx,
        dW,
        dU,
        dU_labels,
        db,
        aligned_zeros(n_blocks, size, dtype),
        stride,
        gathered,
    )
    if scatter:
        dU_sum = dU_labels.sum(axis=0).reshape(D, rows).T
    else:
        dU_sum = dU.sum(axis=0).reshape(rows, D)
    db_sum = db.sum(axis=0).astype(dtype)
    parts = dW.sum(axis=0).reshape(n_gates, -1)
    return (
        [factor_gradients(W_k, plan, d, dtype) for W_k, d in zip(W, parts, strict=True)],
        np.ascontiguousarray(dU_sum, dtype),
        db_sum[:rows],
        db_sum[rows:],
        dx if input_gradient and x.ndim == 3 else None,
        dh0,
        dc0,
    )


def _gated_plan(W: Sequence[Sequence[Array]], B: int) -> tuple[Plan, NDArray[np.intp], Array]:
    """Return the plan of each gate's product, the blocks, and the gates' merged factors."""
    dtype = W[0][0].dtype.char
    plan, columns = plan_of(tuple(w.shape for w in W[0]), BLOCK, dtype), columns_of(B)
    product = product_of(plan, 1, columns, 0, dtype)
    return plan, columns, np.stack([merge(W_k, product) for W_k in W])


def _gated_scratch_sizes(
    plan: Plan,
    columns: NDArray[np.intp],
    n_gates: int,
    T: int,
    N: int,
    D: int,
    M: int,
    dtype: np.dtype,
) -> tuple[int, int, int, int]:
    width, is_double = int(np.diff(columns).max()), dtype == np.float64
    return kernels.gated_scratch_sizes(
        len(plan.merged), plan.n_merged, n_gates, T, N, D, M, plan.most_rows, width, is_double
    )


def readout(C: Array, c: Array, h: Array) -> NDArray[np.floating]:
    """Return y_t = Re(conj(C) h_t) + c, (T, M, B); see SequenceModel.forward."""
    T, N, B = h.shape
    columns, y = columns_of(B), np.empty((T, len(C), B), c.dtype)
    scratch = BlockScratch(columns, N, h.dtype, M=len(C))
    kernels.readout_forward(
        level(),
        _parts(h),
        _threads(columns),
        columns,
        _flat(C),
        np.ascontiguousarray(c),
        as_reals(h),
        y,
        scratch.readout(),
        scratch.stride,
    )
    return y


def readout_backward(h: Array, dy: NDArray[np.floating]) -> Array:
    """Return dV, (M, N) or (M, 2N) for complex h; see SequenceModel.backward."""
    _, N, B = h.shape
    M, parts, columns = dy.shape[1], _parts(h), columns_of(B)
    scratch = BlockScratch(columns, N, h.dtype, M=M)
    dV = np.zeros((len(columns) - 1, parts * N * M))
    kernels.readout_backward(
        level(),
        parts,
        _threads(columns),
        columns,
        as_reals(h),
        dy,
        dV,
        scratch.readout(),
        scratch.stride,
        scratch.gathered,
    )
    by_part = dV.sum(axis=0).reshape(N, M, parts).transpose(1, 2, 0)
    return by_part.reshape(M, parts * N).astype(dy.dtype)


class BlockScratch:
    """Scratch memory for each block of a batch."""

    def __init__(
        self,
        columns: NDArray[np.intp],
        most_rows: int,
        dtype: np.dtype,
        D: int = 0,
        M: int = 0,
        n_sweeps: int = 0,
        n_factors: int = 0,
    ) -> None:
        self._dtype, self._n_blocks = np.finfo(dtype).dtype, len(columns) - 1
        self.stride, self.gathered, *self._sizes = kernels.scratch_sizes(
            parts_of(dtype),
            n_sweeps,
            n_factors,
            D,
            M,
            most_rows,
            int(np.diff(columns).max()),
            self._dtype == np.float64,
        )

    def forward(self, threads: int) -> Array:
        """For recurrence_forward."""
        return aligned_zeros(threads, self._sizes[0], self._dtype)

    def backward(self) -> Array:
        """For recurrence_backward."""
        return aligned_zeros(self._n_blocks, self._sizes[1], self._dtype)

    def readout(self) -> Array:
        """For readout_forward and readout_backward."""
        return aligned_zeros(self._n_blocks, self._sizes[2], self._dtype)


def _block_scratch(plan: Plan, columns: NDArray[np.intp], U: Array, M: int) -> BlockScratch:
    return BlockScratch(
        columns,
        plan.most_rows,
        U.dtype,
        U.shape[1],
        M,
        len(plan.merged),
        plan.n_merged,
    )


def _threads(columns: NDArray[np.intp]) -> int:
    """Return how many threads to use: no more than blocks."""
    return min(n_threads(), len(columns) - 1)


def _parts(a: Array) -> int:
    return parts_of(a.dtype)


def _flat(a: Array) -> Array:
    return as_reals(np.ascontiguousarray(a).reshape(-1))


def _inputs(x: NDArray[Any], dtype: np.dtype) -> tuple[Array, NDArray[np.int64]]:
    real = np.finfo(dtype).dtype
    if x.ndim == 2:
        return np.empty((0, 1, 1), real), np.ascontiguousarray(x, np.int64)
    return np.ascontiguousarray(x, real), np.empty((0, 1), np.int64)


def _own_gradient(
    dh: Array | ReadoutGradient, dtype: np.dtype
) -> tuple[Array, Array, NDArray[np.floating]]:
    """Return what h gets from the loss directly: itself, or V and dy; the others are empty."""
    if isinstance(dh, ReadoutGradient):
        return np.empty((0, 1, 1), dtype), _flat(dh.C.T), dh.dy
    return as_reals(dh), np.empty(0, dtype), np.empty((0, 0, 1), dtype)


def _bias(b: Array, columns: NDArray[np.intp], stride: int, U: Array) -> Array:
    """Repeat b for each column of each block."""
    repeated = np.zeros((len(columns) - 1, stride // _parts(U)), b.dtype)
    for i, width in enumerate(np.diff(columns)):
        row = kernels.row_parts(_parts(U), width, b.dtype == np.float64) // _parts(U)
        repeated[i, : len(b) * row].reshape(len(b), row)[:, :width] = b[:, None]
    return repeated


def recurrence_forward(
    kind: Any, W: Any, params: Any, x: Any, before: Any, states: Any, gates: Any
) -> None:
    if kind in GATED:
        c0 = before[1] if len(before) > 1 else None
        c = states[1] if len(states) > 1 else None
        gated_forward(
            kind,
            W,
            params["U"],
            params["b"],
            params.get("b_h"),
            x,
            before[0],
            c0,
            states[0],
            c,
            gates,
        )
    else:
        forward(W[0], params["U"], params["b"], kind, x, before[0], states[0])


def recurrence_backward(
    kind: Any,
    W: Any,
    params: Any,
    x: Any,
    before: Any,
    states: Any,
    gates: Any,
    dh: Any,
    dlast: Any,
    input_gradient: bool,
) -> Any:
    if kind in GATED:
        c0 = before[1] if len(before) > 1 else None
        c = states[1] if len(states) > 1 else None
        if c is not None and dlast is None:
            dlast = np.zeros_like(c0)
        dW, dU, db, db_h, dx, dh0, dc0 = gated_backward(
            kind, W, params["U"], x, before[0], c0, states[0], c, gates, dh, dlast, input_gradient
        )
        grads = {"U": dU, "b": db}
        if kind == "gru":
            return dW, grads | {"b_h": db_h}, dx, (dh0,)
        return dW, grads, dx, (dh0, dc0)
    dW_0, dU, db, dx, dh0 = backward(
        W[0], params["U"], params["b"], kind, x, before[0], states[0], dh, input_gradient
    )
    return [dW_0], {"U": dU, "b": db}, dx, (dh0,)
