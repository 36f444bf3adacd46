"""Kronecker products by the compiled kernels: their arrays, and the calls.

plans.py says how the work is cut. A complex number is to the kernels two neighbouring real ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import Array, kron_vector
from ..sweeps import sweep_gradient
from . import butterflies
from .backend import INSTRUCTION_SETS, instruction_set, kernels, n_threads
from .memory import aligned_zeros
from .plans import (
    LANES,
    LARGEST_FACTOR,
    LARGEST_IN_LONG_VECTORS,
    Phase,
    Plan,
    parts_of,
    phases_of,
)

# Chunks of panels, each with its own scratch and its own gradient.
CHUNKS = 8

AVX512 = INSTRUCTION_SETS.index("avx512")

_REAL_DTYPES = {char: np.dtype(char.lower()) for char in "fdFD"}


def shapes_of(factors: Any, x: Any) -> tuple[tuple[int, int], ...] | None:
    """Return the factors' shapes if they and x are contiguous arrays of one dtype; quickly."""
    return None if kernels is None else kernels.shapes_of(factors, x)


def matvec(factors: Sequence[Array], x: Array) -> Array:
    """Return (W_0 ⊗ … ⊗ W_{F-1}) x; see kronecker.numpy_matvec."""
    B, vectors = x.shape[1], level()
    largest = LARGEST_IN_LONG_VECTORS if vectors == AVX512 else LARGEST_FACTOR
    phases = phases_of(tuple([W.shape for W in factors]), B, x.dtype.char, largest)
    if len(phases) == 1 and (product := phases[0].product) is not None:
        y = kernels.matvec(product, vectors, n_threads(), factors, x, False)
        if y is not None or phases[0].plain is None:
            return y
        phases = (phases[0].plain,)
    for phase in phases:
        chosen = [factors[f] for f in phase.factors]
        x = _phase_matvec(phase, chosen, x, in_place=phase is not phases[0])
    return x.reshape(-1 if B else math.prod(len(W) for W in factors), B)


def _phase_matvec(phase: Phase, factors: list[Array], x: Array, in_place: bool = False) -> Array:
    if phase.plan is None:
        return _blas_matvec(phase, factors[0], x)
    rows_out, rows_in = phase.plan.rows
    in_place = in_place and rows_in == rows_out
    y = kernels.matvec(phase.product, level(), n_threads(), factors, x, in_place)
    return y if phase.plain is None or y is not None else _phase_matvec(phase.plain, factors, x)


def matvec_backward(factors: Sequence[Array], x: Array, dy: Array) -> tuple[list[Array], Array]:
    """Return dfactors and dx; see kronecker.numpy_backward."""
    shape, before = x.shape, []
    phases = phases_of(tuple([W.shape for W in factors]), shape[1], x.dtype.char)
    for phase in phases:
        before.append(x)
        if phase is not phases[-1]:
            x = _phase_matvec(phase, [factors[f] for f in phase.factors], x)
    dfactors: list[Array] = [np.empty(0)] * len(factors)
    for phase, x in zip(reversed(phases), reversed(before), strict=True):
        dphase, dy = _phase_backward(phase, [factors[f] for f in phase.factors], x, dy)
        for f, dW in zip(phase.factors, dphase, strict=True):
            dfactors[f] = dW
    return dfactors, dy.reshape(shape)


def _phase_backward(
    phase: Phase, factors: list[Array], x: Array, dy: Array
) -> tuple[list[Array], Array]:
    plan = phase.plan
    if plan is None:
        return _blas_backward(phase, factors[0], x, dy)
    dx = np.empty(x.size, x.dtype)
    if dx.size == 0:
        return [np.zeros_like(W) for W in factors], dx
    W: Any = merge(factors, phase.product)
    if phase.plain is not None and W is None:
        return _phase_backward(phase.plain, factors, x, dy)
    chunks = min(CHUNKS, phase.left * (len(phase.cuts) - 1))
    sums = parts_of(x.dtype) * plan.n_merged
    size = (4 + len(plan.groups)) * phase.stride + LANES * sums + 2 * plan.real_form
    scratch = aligned_zeros(chunks, size, W.dtype)
    dW = np.zeros((chunks, sums))
    kernels.matvec_backward(
        phase.product,
        level(),
        min(chunks, n_threads()),
        W,
        adjoint(W, plan, parts_of(x.dtype)),
        as_reals(x.reshape(-1)),
        as_reals(dy.reshape(-1)),
        dW,
        as_reals(dx),
        scratch,
    )
    return factor_gradients(factors, plan, dW.sum(axis=0), x.dtype), dx


def _blas_matvec(phase: Phase, W: Array, x: Array) -> Array:
    left, Q, B = phase.left, W.shape[1], phase.B
    if B == 1:
        return x.reshape(left, Q) @ W.T
    if left == 1:
        return W @ x.reshape(Q, B)
    return np.matmul(W, x.reshape(left, Q, B))


def _blas_backward(phase: Phase, W: Array, x: Array, dy: Array) -> tuple[list[Array], Array]:
    x = x.reshape(phase.left, W.shape[1], phase.B)
    dy = dy.reshape(phase.left, W.shape[0], phase.B)
    dW = sweep_gradient(dy, x)
    if phase.B == 1:
        return [dW], dy[..., 0] @ W.conj()
    return [dW], np.matmul(W.conj().T, dy)


def merge(factors: Sequence[Array], product: Any) -> Array | None:
    """Return the groups, and the diagonals of butterflies, as one flat array for the kernels.

    None if the product has butterflies and a factor is too near singular for them.
    """
    merged = kernels.merge(product, [np.ascontiguousarray(W) for W in factors])
    return None if merged is None else as_reals(merged)


def adjoint(W: Array, plan: Plan, parts: int) -> Array:
    """Return W with the conjugate transposes of what is multiplied out, flat as it is."""
    flat, first = as_complexes(W, parts).copy(), 0
    for group in plan.groups:
        if not group.run:
            entries = flat[first : first + group.size]
            entries[:] = entries.reshape(group.shape).conj().T.reshape(-1)
        first += group.size
    return as_reals(flat)


def factor_gradients(
    factors: Sequence[Array], plan: Plan, dW: Array, dtype: np.dtype
) -> list[Array]:
    """Cut dW into the gradients of the groups, and those into the factors'."""
    ends = np.cumsum([group.size for group in plan.groups])[:-1]
    dfactors = []
    for group, sums in zip(
        plan.groups, np.split(as_complexes(dW, parts_of(dtype)), ends), strict=True
    ):
        backward = butterflies.factor_gradients if group.run else _merge_backward
        dfactors += backward([factors[f] for f in group.factors], sums)
    return [d.astype(dtype) for d in dfactors]


def diagonal_factor_gradients(
    diagonals: Sequence[Array], plan: Plan, dW: Array, dtype: np.dtype
) -> list[Array]:
    """Return the factors' gradients for those that groups would have by themselves, from λ^H dy.

    The others' part of λ^H is λ^H without the group's own, entry (i, j) of whose gradient is of
    dy's row i.
    """
    scaled, first = as_complexes(dW, 2).copy(), 0
    for group in plan.groups:
        own = kron_vector([diagonals[f] for f in group.factors])
        entries = scaled[first : first + group.size].reshape(group.shape)
        entries /= own.conj()[:, None]
        first += group.size
    factors = [np.diag(of_factor) for of_factor in diagonals]
    return factor_gradients(factors, plan, as_reals(scaled), dtype)


def _merge_backward(factors: Sequence[Array], dM: Array) -> list[Array]:
    """Back-propagate M = A ⊗ B: dA[p, q] = Σ dM[p, r, q, s] conj(B[r, s]), and dB likewise."""
    if len(factors) == 1:
        return [dM.reshape(factors[0].shape)]
    A, B = factors[0], functools.reduce(np.kron, factors[1:])
    dM = dM.reshape(len(A), len(B), A.shape[1], B.shape[1])
    dA = np.einsum("prqs,rs->pq", dM, B.conj())
    return [dA, *_merge_backward(factors[1:], np.einsum("prqs,pq->rs", dM, A.conj()))]


def level() -> int:
    """Return the instruction set that the kernels are to use, as they number them."""
    if kernels.is_forced():
        return INSTRUCTION_SETS.index(instruction_set())
    return int(kernels.supported_level())


def real_dtype(a: Array) -> np.dtype:
    """Return the dtype of an array's real numbers."""
    return _REAL_DTYPES[a.dtype.char]


def as_reals(a: Array) -> Array:
    """View complex numbers as pairs of real ones; a view, for the kernels write into some."""
    return a.view(real_dtype(a)) if a.dtype.kind == "c" else a


def as_complexes(a: Array, parts: int) -> Array:
    """View pairs of real numbers as complex ones."""
    return a.view(f"c{2 * a.itemsize}") if parts == 2 else a
