"""The whole recurrence in compiled code: what its arrays look like there, and the calls.

The kernels take flat arrays of real numbers. A complex matrix is *planar*: its real parts,
then its imaginary parts. Neighbouring factors whose product costs no more than they do
apart (2×2 ones) are merged: the same arithmetic in half the passes over memory. A batch is
cut into blocks of columns that fit the cache, each of which goes through time by itself.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .backend import INSTRUCTION_SETS, instruction_set, kernels, n_threads
from .sweeps import Array, sweeps

KINDS = ("modrelu", "tanh", "relu", "identity")

# Real numbers in the widest vector.
LANES = 16

# Columns in a block: a state of a few hundred rows stays in the cache, and rows are no
# power of two apart, which would crowd them into a few of its lines.
BLOCK = 25

# Beyond factors of about this size a product by BLAS for each of them is as fast or faster.
LARGEST_FACTOR = 16


class ReadoutGradient(NamedTuple):
    """Gradient of h behind a readout, dh_t = C^T dy_t, which never stands in memory whole.

    Attributes
    ----------
    C : ndarray, shape (M, N)
    dy : ndarray, shape (K, M, B)
        Real; of the last K steps.
    """

    C: Array
    dy: NDArray[np.floating]


class Plan(NamedTuple):
    """Everything about a recurrence that follows from shapes."""

    groups: tuple[tuple[int, ...], ...]  # factors merged into one, in order
    sweeps: NDArray[np.intp]
    columns: NDArray[np.intp]  # where each block of the batch begins, and the end
    stride: int
    width: int


def supports(shapes: Iterable[tuple[int, ...]]) -> bool:
    """Tell whether factors of these shapes are small enough for the kernels."""
    return max(max(shape) for shape in shapes) <= LARGEST_FACTOR


def matvec(factors: Sequence[Array], x: Array) -> Array:
    """Return (W_0 ⊗ … ⊗ W_{F-1}) x; see kronecker.numpy_matvec."""
    B, planes = x.shape[1], _planes(x)
    y = np.empty((math.prod(len(W) for W in factors), B), x.dtype)
    if B == 0:
        return y
    plan = _plan(tuple(W.shape for W in factors), B, B)
    merged = _merge(factors, plan.groups)
    kernels.matvec(
        _level(),
        planes,
        plan.sweeps,
        _planar(*merged),
        _real(x),
        _real(y),
        np.empty(3 * planes * plan.stride, x.real.dtype),
        plan.stride,
    )
    return y


def matvec_backward(factors: Sequence[Array], x: Array, dy: Array) -> tuple[list[Array], Array]:
    """Return dfactors and dx; see kronecker.numpy_backward."""
    B, planes = x.shape[1], _planes(x)
    if B == 0:
        return [np.zeros_like(W) for W in factors], np.empty_like(x)
    plan = _plan(tuple(W.shape for W in factors), B, B)
    merged = _merge(factors, plan.groups)
    n_factors = planes * sum(W.size for W in merged)
    dW, dx = np.zeros(n_factors), np.empty_like(x)
    arrays = (4 + len(merged)) * planes * plan.stride
    scratch = np.empty(arrays + LANES * n_factors, x.real.dtype)
    scratch[arrays:] = 0
    kernels.matvec_backward(
        _level(),
        planes,
        plan.sweeps,
        _planar(*merged),
        _planar(*(W.conj().T for W in merged)),
        _real(x),
        _real(dy),
        dW,
        _real(dx),
        scratch,
        plan.stride,
    )
    return _dfactors(factors, plan, merged, dW, x.dtype), dx


def forward(
    factors: Sequence[Array], U: Array, b: Array, activation: str, x: NDArray[Any], h0: Array
) -> Array:
    """Return h (T, N, B); see RNN.forward."""
    N, B = h0.shape
    plan = _plan(tuple(W.shape for W in factors), B)
    merged = _merge(factors, plan.groups)
    h = np.empty((len(x), N, B), U.dtype)
    planes = _planes(U)
    size, _ = kernels.scratch_sizes(
        len(plan.sweeps), 0, N, U.shape[1], 0, plan.width, plan.stride, planes
    )
    kernels.recurrence_forward(
        _level(),
        KINDS.index(activation),
        planes,
        _threads(plan.columns),
        plan.columns,
        plan.sweeps,
        _planar(*merged),
        _planar(U),
        _bias(b, plan),
        *_inputs(x, h.dtype),
        _real(h0),
        _real(h),
        _scratch(plan, size, b.dtype),
        plan.stride,
    )
    return h


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
    D, planes = U.shape[1], _planes(U)
    plan = _plan(tuple(W.shape for W in factors), B)
    merged = _merge(factors, plan.groups)
    n_blocks, one_hot = len(plan.columns) - 1, x.ndim == 2
    if isinstance(dh, ReadoutGradient):
        direct, V, dy = np.empty((0, 1, 1), b.dtype), _planar(dh.C.T), dh.dy
    else:
        direct, V, dy = _real(dh), np.empty(0, b.dtype), np.empty((0, 0, 1), b.dtype)
    n_factors = sum(W.size for W in merged)
    _, size = kernels.scratch_sizes(
        len(plan.sweeps), n_factors, N, D, dy.shape[1], plan.width, plan.stride, planes
    )
    dh0 = np.empty(h0.shape, h0.dtype)
    dx = np.empty(x.shape if input_gradient and not one_hot else (0, 1, 1), b.dtype)
    dW = np.zeros((n_blocks, planes * n_factors))
    dU = np.zeros((n_blocks, 1 if one_hot else planes * U.size))
    dU_labels = np.zeros((n_blocks, planes * U.size if one_hot else 1), b.dtype)
    db = np.zeros((n_blocks, plan.stride), b.dtype)
    kernels.recurrence_backward(
        _level(),
        KINDS.index(activation),
        planes,
        _threads(plan.columns),
        plan.columns,
        plan.sweeps,
        _planar(*merged),
        _planar(*(W.conj().T for W in merged)),
        _planar(U),
        _planar(U.T),
        _bias(b, plan),
        *_inputs(x, h.dtype),
        _real(h0),
        _real(h),
        direct,
        V,
        dy,
        _real(dh0),
        dx,
        dW,
        dU,
        dU_labels,
        db,
        _scratch(plan, size, b.dtype),
        plan.stride,
    )
    if one_hot:
        by_label = dU_labels.sum(axis=0, dtype=np.float64).reshape(D, planes, N)
        dU_sum = by_label.transpose(1, 2, 0).reshape(-1)
    else:
        dU_sum = dU.sum(axis=0)
    db_sum = sum(
        db[i, : N * width].reshape(N, width).sum(axis=1, dtype=np.float64)
        for i, width in enumerate(np.diff(plan.columns))
    )
    return (
        _dfactors(factors, plan, merged, dW.sum(axis=0), U.dtype),
        _complex(dU_sum, U.shape, planes).astype(U.dtype),
        np.asarray(db_sum, b.dtype),
        dx if dx.size else None,
        dh0,
    )


def readout(V: Array, c: Array, h: Array) -> NDArray[np.floating]:
    """Return y_t = V [Re h_t; Im h_t] + c, (T, M, B); see SequenceModel.forward."""
    T, N, B = h.shape
    planes, columns = _planes(h), _columns(B)
    y = np.empty((T, len(V), B), c.dtype)
    size = (planes * N + len(V)) * int(np.diff(columns).max())
    scratch = np.empty((len(columns) - 1, size), c.dtype)
    flat_V, c = np.ravel(V), np.ascontiguousarray(c)
    kernels.readout_forward(
        _level(), planes, _threads(columns), columns, flat_V, c, _real(h), y, scratch
    )
    return y


def readout_backward(h: Array, dy: NDArray[np.floating]) -> Array:
    """Return dV, (M, N) or (M, 2N) for complex h; see SequenceModel.backward."""
    _, N, B = h.shape
    planes, columns, M = _planes(h), _columns(B), dy.shape[1]
    gathered = kernels.gathered() * int(np.diff(columns).max())
    size = (planes * N + M) * gathered + 4 * M * LANES
    scratch = np.zeros((len(columns) - 1, size), dy.dtype)
    dV = np.zeros((len(columns) - 1, planes * N * M))
    kernels.readout_backward(
        _level(), planes, _threads(columns), columns, _real(h), dy, dV, scratch
    )
    return dV.sum(axis=0).reshape(planes * N, M).T.astype(dy.dtype)


@functools.lru_cache(maxsize=256)
def _plan(shapes: tuple[tuple[int, int], ...], B: int, block: int = BLOCK) -> Plan:
    groups: list[tuple[int, ...]] = []
    for f, shape in enumerate(shapes):
        if groups and len(groups[-1]) == 1 and _pays(shapes[f - 1], shape):
            groups[-1] = (f - 1, f)
        else:
            groups.append((f,))
    merged = tuple(
        (math.prod(shapes[f][0] for f in group), math.prod(shapes[f][1] for f in group))
        for group in groups
    )
    offsets = np.cumsum([0] + [P * Q for P, Q in merged])
    rows = [(offsets[f], *merged[f], left, right) for f, left, right in sweeps(merged, 1)]
    largest = max(max(P, Q) * left * right for _, P, Q, left, right in rows)
    columns = _columns(B, block)
    width = int(np.diff(columns).max())
    stride = -(-largest * width // LANES) * LANES
    return Plan(tuple(groups), np.array(rows, np.intp), columns, stride, width)


def _pays(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Tell whether W_f ⊗ W_g costs no more multiplications than one after the other."""
    (P, Q), (R, S) = first, second
    return min(P * Q * S + P * R * S, R * S * Q + P * R * Q) >= P * Q * R * S


def _merge(factors: Sequence[Array], groups: tuple[tuple[int, ...], ...]) -> list[Array]:
    """Multiply out the groups; np.kron does the same, but slowly at these sizes."""
    merged = []
    for group in groups:
        W = factors[group[0]]
        for f in group[1:]:
            product = W[:, None, :, None] * factors[f][None, :, None, :]  # (P, R, Q, S)
            W = product.reshape(len(W) * len(factors[f]), -1)
        merged.append(W)
    return merged


def _merge_backward(
    factors: Sequence[Array], groups: tuple[tuple[int, ...], ...], dmerged: Sequence[Array]
) -> list[Array]:
    """Back-propagate M = A ⊗ B: dA[p, q] = Σ dM[p, r, q, s] conj(B[r, s]), and dB likewise."""
    dfactors: list[Array] = []
    for group, dM in zip(groups, dmerged, strict=True):
        if len(group) == 1:
            dfactors.append(dM)
            continue
        A, B = factors[group[0]], factors[group[1]]
        dM = dM.reshape(len(A), len(B), A.shape[1], B.shape[1])
        dfactors.append(np.einsum("prqs,rs->pq", dM, B.conj()))
        dfactors.append(np.einsum("prqs,pq->rs", dM, A.conj()))
    return dfactors


def _dfactors(
    factors: Sequence[Array], plan: Plan, merged: Sequence[Array], dW: Array, dtype: np.dtype
) -> list[Array]:
    planes = 2 if dtype.kind == "c" else 1
    ends = np.cumsum([planes * W.size for W in merged])[:-1]
    dmerged = [
        _complex(part, W.shape, planes) for part, W in zip(np.split(dW, ends), merged, strict=True)
    ]
    return [d.astype(dtype) for d in _merge_backward(factors, plan.groups, dmerged)]


def _columns(B: int, block: int = BLOCK) -> NDArray[np.intp]:
    """Cut a batch into blocks of nearly equal width."""
    n_blocks = max(1, -(-B // block))
    return np.array([B * i // n_blocks for i in range(n_blocks + 1)], np.intp)


def _threads(columns: NDArray[np.intp]) -> int:
    """Return how many threads to use: no more than blocks."""
    return min(n_threads(), len(columns) - 1)


def _level() -> int:
    return INSTRUCTION_SETS.index(instruction_set())


def _planes(a: Array) -> int:
    return 2 if np.iscomplexobj(a) else 1


def _planar(*matrices: Array) -> Array:
    if not np.iscomplexobj(matrices[0]):
        return np.concatenate([A.reshape(-1) for A in matrices])
    return np.concatenate([part.reshape(-1) for A in matrices for part in (A.real, A.imag)])


def _complex(planar: Array, shape: tuple[int, ...], planes: int) -> Array:
    parts = planar.reshape(planes, *shape)
    return parts[0] + 1j * parts[1] if planes == 2 else parts[0]


def _real(a: Array) -> Array:
    """View complex numbers as pairs of real ones; a view, for the kernels write into some."""
    return a.view(a.real.dtype)


def _inputs(x: NDArray[Any], dtype: np.dtype) -> tuple[Array, NDArray[np.int64]]:
    real = np.finfo(dtype).dtype
    if x.ndim == 2:
        return np.empty((0, 1, 1), real), np.ascontiguousarray(x, np.int64)
    return np.ascontiguousarray(x, real), np.empty((0, 1), np.int64)


def _bias(b: Array, plan: Plan) -> Array:
    """Repeat b for each column of each block."""
    repeated = np.zeros((len(plan.columns) - 1, plan.stride), b.dtype)
    for i, width in enumerate(np.diff(plan.columns)):
        repeated[i, : len(b) * width] = np.repeat(b, width)
    return repeated


def _scratch(plan: Plan, size: int, dtype: np.dtype) -> Array:
    return np.zeros((len(plan.columns) - 1, size), dtype)
