"""The Kronecker product, its backward, and the whole recurrence over time, compiled.

Each function is the twin of a NumPy one, named in its docstring, in kronecker.py, cells/ or
model.py; products.py and recurrence.py prepare its arrays. The innermost loops are those of
kernels.h.
"""

from typing import NamedTuple

import numpy

from . import butterflies

cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cython.parallel cimport prange, threadid
from libc.math cimport HUGE_VAL
from libc.stdint cimport int64_t
from libc.stdlib cimport free, getenv, malloc
from libc.string cimport memcpy, memset
from scipy.linalg.cython_blas cimport (
    cgemm, cgemv, dgemm, dgemv, sgemm, sgemv, zgemm, zgemv,
)

cnp.import_array()

cdef extern from "simd.h":
    ctypedef struct Sweep:
        int mode
        Py_ssize_t P, Q
        const void* W
        Py_ssize_t left, right, E

    ctypedef struct Butterflies:
        int mode, k
        const void* entries
        int exchanged
        Py_ssize_t left, right, E
        const void* D
        const void* L
        Py_ssize_t lefts, rights, same, apart

    int DIAGONAL(int mode) noexcept nogil

    ctypedef struct Kernels:
        Py_ssize_t lanes
        void (*sweep)(
            const Sweep* s, const void* x, Py_ssize_t x_row, void* y, Py_ssize_t y_row,
        ) noexcept nogil
        void (*accumulate)(
            const Sweep* s, const void* dy, Py_ssize_t dy_left, const void* x, Py_ssize_t x_left,
            void* G,
        ) noexcept nogil
        void (*sweep_backward)(
            const Sweep* adjoint, const void* dy, const void* x, void* dx, void* G,
        ) noexcept nogil
        void (*fold)(int mode, Py_ssize_t n, void* G, double* sums) noexcept nogil
        void (*butterflies)(
            const Butterflies* s, const void* x, Py_ssize_t x_row, void* y, Py_ssize_t y_row,
        ) noexcept nogil
        void (*butterflies_backward)(
            const Butterflies* s, const void* dy, const void* x, void* dx, void* G,
        ) noexcept nogil
        void (*row_sweep)(
            Py_ssize_t K, Py_ssize_t J, const void* A, const void* x, void* y, Py_ssize_t left,
        ) noexcept nogil
        void (*row_accumulate)(
            Py_ssize_t K, Py_ssize_t J, const void* x, const void* dy, Py_ssize_t left,
            double* dA,
        ) noexcept nogil
        void (*activate)(
            int kind, int parts, Py_ssize_t rows, Py_ssize_t n,
            const void* z, const void* u, const void* b, void* h, Py_ssize_t h_row,
        ) noexcept nogil
        void (*activate_backward)(
            int kind, int parts, Py_ssize_t n, const void* through_W, const void* from_loss,
            const void* h, const void* b, void* dz, void* db,
        ) noexcept nogil
        void (*open_gates)(
            int kind, Py_ssize_t n, const void* a, const void* wh, const void* b_h,
            const void* before, void* gates, void* c, void* h,
        ) noexcept nogil
        void (*open_gates_backward)(
            int kind, Py_ssize_t n, const void* from_loss, const void* through_W,
            const void* gates, const void* c, const void* before, const void* past, void* d,
            void* dpast,
        ) noexcept nogil
        void (*copy)(
            Py_ssize_t rows, Py_ssize_t n, const void* x, Py_ssize_t x_row, void* to,
            Py_ssize_t to_row,
        ) noexcept nogil
        void (*spread)(
            int parts, Py_ssize_t rows, Py_ssize_t width, const void* x, Py_ssize_t B,
            void* to, Py_ssize_t R,
        ) noexcept nogil
        void (*gather)(
            int parts, Py_ssize_t rows, Py_ssize_t width, const void* x, Py_ssize_t R,
            const void* c, void* y, Py_ssize_t B,
        ) noexcept nogil
        void (*look_up)(
            int parts, Py_ssize_t N, Py_ssize_t D, Py_ssize_t width, const void* U,
            const int64_t* labels, void* u, Py_ssize_t R,
        ) noexcept nogil
        void (*look_up_backward)(
            int parts, Py_ssize_t N, Py_ssize_t width, const void* dz, Py_ssize_t R,
            const int64_t* labels, double* dUT,
        ) noexcept nogil
        void (*diagonal)(
            Py_ssize_t N, Py_ssize_t n, const void* lam, const void* x, Py_ssize_t x_row, void* y,
            Py_ssize_t y_row,
        ) noexcept nogil
        void (*diagonal_backward)(
            Py_ssize_t N, Py_ssize_t n, const void* adjoint, const void* dy, const void* x,
            void* dx, void* G,
        ) noexcept nogil

    ctypedef struct KindOfStep "Kind":
        const char* name
        int n_gates, n_states, n_kept, n_d
        int d_of_W[4]

    enum:
        REALS
        COMPLEXES
        PAIRS
        BUTTERFLIES
        LSTM
        GRU
        N_KINDS

    const KindOfStep* kinds
    int best_level() noexcept nogil
    int openmp_threads() noexcept nogil
    const Kernels* kernels_for(int level, int is_double) noexcept nogil


ctypedef fused real:
    float
    double

# A number has one part, or two if it is complex: neighbours in memory. Sizes called E, R, size and
# stride count parts, all others numbers.

cdef enum:
    LARGEST_VECTOR = 16  # parts


class Kind(NamedTuple):
    """What makes a time step, as simd.h describes it."""

    number: int
    n_gates: int  # matrices W_k, each with its rows of U
    n_states: int  # h, or h and c
    n_kept: int  # arrays that a step keeps of its gates
    n_d: int  # gradients that its adjoint returns; the first n_gates are those of U_k x
    d_of_W: tuple  # which of them is that of W_k h


KINDS = {
    kinds[i].name.decode(): Kind(
        i, kinds[i].n_gates, kinds[i].n_states, kinds[i].n_kept, kinds[i].n_d,
        tuple([kinds[i].d_of_W[k] for k in range(kinds[i].n_gates)]),
    )
    for i in range(N_KINDS)
}


def supported_level():
    """Return 2 for AVX-512, 1 for AVX2 with FMA, 0 for the compiler's baseline."""
    return best_level()


def has_vectors():
    """Return whether the compiler has vector types: without, there are no butterflies."""
    return kernels_for(0, True).butterflies != NULL


def is_forced():
    """Return whether the environment asks for an instruction set; see backend.py."""
    return getenv("KRU_REF_SIMD") != NULL


def max_threads():
    """Return how many threads OpenMP would use here; 1 without it."""
    return openmp_threads()


cdef Py_ssize_t whole_vectors(Py_ssize_t n) noexcept nogil:
    """Round up to full vectors, two of them since complex numbers are activated by pairs."""
    return (n + 2 * LARGEST_VECTOR - 1) // (2 * LARGEST_VECTOR) * (2 * LARGEST_VECTOR)


cdef Sweep plain_product(
    int mode, Py_ssize_t P, Py_ssize_t Q, const void* W, Py_ssize_t E
) noexcept nogil:
    """Return the sweep that is y = W x for x (Q, E)."""
    cdef Sweep s
    s.mode, s.P, s.Q, s.W, s.left, s.right, s.E = mode, P, Q, W, 1, 1, E
    return s


include "_products.pxi"
include "_blocks.pxi"
include "_recurrence.pxi"
include "_blas.pxi"
include "_readout.pxi"
include "_step.pxi"
include "_memory.pxi"
