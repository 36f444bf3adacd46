"""Recurrences and readouts over time by the compiled kernels: their arrays, and the calls."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, Params, ReadoutGradient, kron_vector
from .backend import kernels, n_threads
from .memory import aligned_empty, aligned_zeros
from .plans import (
    AT_ONCE,
    AT_ONCE_IN_FEW_REGISTERS,
    BLOCK,
    LARGE_BLOCK,
    LARGEST_IN_RECURRENCE,
    are_small,
    columns_of,
    diagonal_plan,
    parts_of,
    plan_of,
    recurrence_product,
)
from .products import (
    AVX512,
    adjoint,
    as_complexes,
    as_reals,
    diagonal_factor_gradients,
    factor_gradients,
    level,
    merge,
    real_dtype,
)

# Up to so many, a product with one-hot columns is faster than adding up column by column.
FEW_LABELS = 16

# Each gate's Kronecker factors.
Gates = Sequence[Sequence[Array]]
States = tuple[Array, ...]

# Numbers of a state up to which single steps are made without the checks and calls of a forward
# pass, in memory that is kept; beyond, these are no longer what takes the time.
LARGEST_STEP = 2**16


def recurrence_forward(
    cell: CellKey,
    W: Gates,
    params: Mapping[str, Array],
    x: NDArray[Any],
    before: States,
    states: States,
    gates: Array,
    width: int,
) -> None:
    """Fill states and gates over time; see ``Cell.run_numpy``.

    Parameters
    ----------
    cell : CellKey
        Of the kind "modrelu", "tanh", "relu", "identity", "lstm" or "gru".
    W : list of lists of ndarray
        For each gate its Kronecker factors; or the diagonals of factors that are diagonal, or of W.
    params : mapping of str to ndarray
        "U", "b", and "b_h" of a GRU.
    x : ndarray, shape (T, D, B), or integers (T, B)
        Real, of the cell's precision.
    before : tuple of ndarray, shapes (N, B)
        h, or h and c, before the first step.
    states : tuple of ndarray, shapes (T, N, B)
        To be filled with h, or h and c, after each step.
    gates : ndarray, shape (T, n_kept, N, B)
        To be filled with what each step keeps of its gates: 4 arrays, of a simple cell none, or 1
        with a leak.
    width : int
        How many of the B columns there is something to do for, the first ones.

    Raises
    ------
    KeyError
        There is no such kind.
    ValueError
        An array is not contiguous, or not of the size or dtype that the others ask for.
    """
    loop = _Loop(cell, W, params, x, width)
    threads = min(n_threads(), loop.n_blocks)
    scratch = aligned_zeros(threads, loop.sizes.forward_scratch, loop.real)
    U = {"U": _input_weights(cell.kind, params, x)}
    states_kept = {"before": before, "states": states, "gates": gates, "scratch": scratch}
    kernels.recurrence_forward(loop.sizes, level(), threads, loop.arrays | U | states_kept)


def recurrence_backward(
    cell: CellKey,
    W: Gates,
    params: Mapping[str, Array],
    x: NDArray[Any],
    before: States,
    states: States,
    gates: Array,
    width: int,
    dstates: tuple[Array | ReadoutGradient, Sequence[Array | None]],
    input_gradient: bool,
) -> Backward:
    """Back-propagate through time; see ``Cell.run_numpy_backward``.

    Parameters
    ----------
    cell, W, params, x, before, states, gates, width
        As :func:`recurrence_forward` took and filled them.
    dstates : tuple
        Gradients of the last K h, (K, N, B) or a ReadoutGradient; and those, (N, B) or None, that
        come to the last h, or h and c, from whatever goes on from there.
    input_gradient : bool
        Whether to compute dx.

    Returns
    -------
    Backward

    Raises
    ------
    KeyError, ValueError
        As :func:`recurrence_forward`.
    """
    from_loss = _from_loss(dstates[0])
    M = from_loss["dy"].shape[1] if "dy" in from_loss else 0
    loop = _Loop(cell, W, params, x, width, M)
    dbefore = tuple(np.zeros_like(part) for part in before)
    sums, d, dx = loop.sums(), None, None
    if loop.is_dense:
        d = loop.empty_d()
    elif input_gradient and x.ndim == 3:
        dx = np.zeros(x.shape, loop.real)
    own = {"d": d} if loop.is_dense else loop.adjoints(params["U"]) | {"dx": dx}
    scratch = aligned_zeros(loop.n_blocks, loop.sizes.backward_scratch, loop.real)
    given: dict[str, Any] = {
        "before": before,
        "states": states,
        "gates": gates,
        "dlast": dstates[1],
    }
    given |= {"dlast": dstates[1], "dbefore": dbefore, "scratch": scratch}
    kernels.recurrence_backward(
        loop.sizes,
        level(),
        min(n_threads(), loop.n_blocks),
        loop.arrays | from_loss | given | own | sums,
    )
    total = {name: of_blocks.sum(axis=0) for name, of_blocks in sums.items()}
    if d is not None:
        db = {} if loop.is_gated else {"b": total["db"].astype(loop.real)}
        return Backward(dbefore, db, d=loop.without_padding(d))
    return Backward(dbefore, loop.gradients(params, total), loop.factor_gradients(W, total), dx)


class Backward(NamedTuple):
    """What back-propagation through time returns: all sums over time, or d, for them.

    Attributes
    ----------
    dbefore : tuple of ndarray, shapes (N, B)
        Gradients of the state before the first step.
    grads : dict of str to ndarray
        "U", "b", and "b_h" of a GRU; with d, biases within the step alone.
    dW : list of lists of ndarray
    dx : ndarray, shape (T, D, B), or None for integer x or without ``input_gradient``
    d : ndarray, shape (T, n_d, N, width), or None
        What ``Cell.step_backward`` returned of each step; dW and dx are then still to be made.
    """

    dbefore: States
    grads: Params
    dW: Sequence[Sequence[Array]] = ()
    dx: Array | None = None
    d: Array | None = None


def step(
    cell: CellKey, params: dict[str, Array], names: tuple[str, ...], x: NDArray[Any], before: States
) -> States | None:
    """Return the state after one step, (N, B) each, or None where something is not as expected.

    Parameters
    ----------
    cell : CellKey
    params : dict of str to ndarray
    names : tuple of str
        Of the factors of each gate, U, b, and b_h of a GRU.
    x : ndarray, shape (D, B), or int64 (B,)
        In either precision.
    before : tuple of ndarray, shapes (N, B)
    """
    if type(before) is not tuple or not before or type(before[0]) is not np.ndarray:
        return None
    shape = before[0].shape
    if shape != (cell.hidden_size, x.shape[-1]) or not 0 < before[0].size <= LARGEST_STEP:
        return None
    return _one_step(cell, shape[1])(level(), params, names, x, before)


def read_out(V: Array, c: Array, h: Array, M: int) -> Array | None:
    """Return y = V h + c of one step, (M, B), or None where something is not as expected."""
    return kernels.read_out(V, c, h, M)


class CellKey(NamedTuple):
    """What decides how a cell's steps are computed."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]  # of each gate's matrix parameters, such as factors
    input_size: int
    hidden_size: int
    dtype: str  # as NumPy abbreviates it
    leak: float


@functools.lru_cache(maxsize=16)
def _one_step(cell: CellKey, B: int) -> Any:
    """Return what makes one step on B sequences: their products have no butterflies."""
    kind, dtype = kernels.KINDS[cell.kind], np.dtype(cell.dtype)
    real, is_dense = np.dtype(dtype.char.lower()), _is_dense(cell.shapes)
    columns = columns_of(B, B)
    plan = plan_of(cell.shapes, BLOCK, cell.dtype, butterflies=0)
    product = recurrence_product(plan, columns, cell.dtype)
    D, N = cell.input_size, cell.hidden_size
    sizes = kernels.Recurrence(cell, product, real == np.float64, 1, B, 0, is_dense)
    room = {
        "merged": np.zeros(0 if is_dense else kind.n_gates * plan.n_numbers, dtype),
        "b": np.zeros(sizes.block_biases, real),
        "x": np.zeros((D, B), real),
        "gates": np.zeros((sizes.n_kept, N, B), dtype),
        "scratch": aligned_zeros(1, sizes.forward_scratch, real),
    }
    return kernels.OneStep(sizes, cell.shapes, room)


def _is_dense(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether W is one matrix, and a large one."""
    return len(shapes) == 1 and not are_small(shapes, LARGEST_IN_RECURRENCE)


class _Loop:
    """What both directions share: sizes, and parameters and input as the kernels take them."""

    def __init__(
        self,
        cell: CellKey,
        W: Gates,
        params: Mapping[str, Array],
        x: NDArray[Any],
        width: int,
        M: int = 0,
    ) -> None:
        U, step = params["U"], kernels.KINDS[cell.kind]
        self.parts, self.real, self.U_size = parts_of(U.dtype), real_dtype(U), U.size
        self.n_gates, self.dtype = len(W), U.dtype
        self.is_diagonal = W[0][0].ndim == 1
        self.of_factors = self.is_diagonal and len(cell.shapes[0]) == 2
        shapes = [W_f.shape for W_f in W[0]]
        self.is_dense = _is_dense(shapes) and not self.is_diagonal
        block = BLOCK if are_small(shapes, LARGEST_IN_RECURRENCE) else LARGE_BLOCK
        columns = columns_of(width, width if self.is_dense else block)
        product, stacked = self._product(W, columns, U.dtype.char, cell.shapes)
        self.sizes = kernels.Recurrence(
            cell,
            product,
            self.real == np.float64,
            len(x),
            x.shape[-1],
            M,
            self.is_dense,
            self.is_diagonal,
            self.of_factors,
        )
        self.n_blocks = len(columns) - 1
        self.adds_by_label = x.ndim == 2 and U.shape[1] > FEW_LABELS
        self.T, self.width, self.n_d, self.is_gated = len(x), width, step.n_d, step.n_kept > 0
        inner = params.get("b_h") if self.is_gated else params["b"]
        self.arrays: dict[str, Any] = {
            "W": stacked,
            "b": None if inner is None else self._repeated(inner, columns),
            "x": np.ascontiguousarray(x, np.int64 if x.ndim == 2 else self.real),
        }

    def _product(
        self,
        W: Gates,
        columns: NDArray[np.intp],
        dtype: str,
        of_params: tuple[tuple[int, ...], ...],
    ) -> tuple[Any, Array]:
        """Return the product that all gates share, and the numbers of each; set its plan.

        It has butterflies if all factors are far enough from singular.
        """
        if self.is_diagonal:
            diagonal = kron_vector(W[0])
            self.plan = diagonal_plan(len(diagonal), of_params if self.of_factors else (), dtype)
            return recurrence_product(self.plan, columns, dtype), as_reals(diagonal)
        shapes = tuple(W_f.shape for W_f in W[0])
        few_registers = self.parts == 2 and level() < AVX512
        for butterflies in (AT_ONCE_IN_FEW_REGISTERS if few_registers else AT_ONCE, 0):
            self.plan = plan_of(shapes, BLOCK, dtype, butterflies)
            product = recurrence_product(self.plan, columns, dtype)
            if self.is_dense:
                return product, as_reals(np.stack([W_k[0] for W_k in W]))
            merged = [of_gate for W_k in W if (of_gate := merge(W_k, product)) is not None]
            if len(merged) == len(W):
                break
        return product, np.stack(merged)

    def adjoints(self, U: Array) -> dict[str, Array]:
        """Return W_k^H of each gate, and U^T."""
        UT = np.ascontiguousarray(U.T)
        if self.is_diagonal:
            return {"WH": as_reals(as_complexes(self.arrays["W"], 2).conj()), "UT": UT}
        WH = [adjoint(W_k, self.plan, self.parts) for W_k in self.arrays["W"]]
        return {"WH": np.stack(WH), "UT": UT}

    def sums(self) -> dict[str, NDArray[np.float64]]:
        """Return zeros to which each block adds its gradients, a row for each."""
        db = {"db": np.zeros((self.n_blocks, self.n_d * self.plan.rows[0]))}
        if self.is_dense:
            return db
        dU = "dU_labels" if self.adds_by_label else "dU"
        of_W = self.n_gates * self.parts * self.plan.n_merged
        return db | {
            "dW": np.zeros((self.n_blocks, of_W)),
            dU: np.zeros((self.n_blocks, self.parts * self.U_size)),
        }

    def gradients(self, params: Mapping[str, Array], total: Mapping[str, Array]) -> Params:
        """Return the gradients of U and the biases from the sums over all blocks."""
        U, b = params["U"], params["b"]
        if "dU" in total:
            dU = as_complexes(total["dU"], self.parts).reshape(U.shape)
        else:
            dU = as_complexes(total["dU_labels"], self.parts).reshape(U.shape[::-1]).T
        db = np.split(total["db"].astype(self.real), [len(b)])
        inner = {"b_h": db[1]} if "b_h" in params else {}
        return {"U": np.ascontiguousarray(dU, U.dtype), "b": db[0], **inner}

    def factor_gradients(self, W: Gates, total: Mapping[str, Array]) -> list[Sequence[Array]]:
        """Return the gradients of each gate's factors, or of the diagonal."""
        if self.of_factors:
            return [diagonal_factor_gradients(W[0], self.plan, total["dW"], self.dtype)]
        if self.is_diagonal:
            return [[as_complexes(total["dW"], 2).astype(self.dtype)]]
        of_gates = zip(W, total["dW"].reshape(len(W), -1), strict=True)
        return [factor_gradients(W_k, self.plan, dW_k, self.dtype) for W_k, dW_k in of_gates]

    def empty_d(self) -> Array:
        """Return an array for d of all steps, as the kernels lay it out."""
        shape = (self.T, self.n_d * self.sizes.block_biases)
        return aligned_empty(shape, self.dtype)

    def without_padding(self, d: Array) -> Array:
        """Return d as (T, n_d, N, width)."""
        is_double = self.real == np.float64
        N, row = self.plan.rows[0], kernels.row_parts(self.parts, self.width, is_double)
        row //= self.parts
        return d[:, : self.n_d * N * row].reshape(self.T, self.n_d, N, row)[..., : self.width]

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
