# A dense recurrent matrix, by BLAS: part of _kernels.pyx.

# The whole batch is one block, for BLAS has threads of its own. Sums over time are left to it as
# well: each step's d stays where the caller finds it.

cdef void dense_products(
    const Sizes* n, const Arrays* a, Block block, const real* h, Py_ssize_t h_row, real* Wh
) noexcept nogil:
    """Wh = W_k h of all gates, one under the other: one product."""
    gemm(
        n.parts, False, n.n_gates * n.N, block.width, n.N, <const real*>a.W, n.N, h, h_row, 0, Wh,
        block.E,
    )


cdef void dense_adjoints(
    const Sizes* n, const Arrays* a, Block block, const real* d, real* through_W
) noexcept nogil:
    """through_W = Σ_k W_k^H d_k: a product for each run of gates whose d follow on one another."""
    cdef const KindOfStep* step = &kinds[n.kind]
    cdef Py_ssize_t size = state_size(n, block.E)
    cdef int first = 0, end
    while first < n.n_gates:
        end = first + 1
        while end < n.n_gates and step.d_of_W[end] == step.d_of_W[end - 1] + 1:
            end += 1
        gemm(
            n.parts, True, n.N, block.width, (end - first) * n.N,
            <const real*>a.W + first * n.parts * n.N * n.N, n.N, d + step.d_of_W[first] * size, block.E,
            first > 0, through_W, block.E,
        )
        first = end


cdef void gemm(
    int parts, bint adjoint, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t inner,
    const real* A, Py_ssize_t A_row, const real* x, Py_ssize_t x_row, bint adds, real* y,
    Py_ssize_t y_row,
) noexcept nogil:
    """y (rows, columns) = A x, or A^H x, or that is added to y; rows of x and y in parts.

    BLAS knows columns only: to it this is y^T = x^T A^T.
    """
    cdef int m = <int>columns, n = <int>rows, k = <int>inner, lda = <int>A_row
    cdef int ldx = <int>(x_row // parts), ldy = <int>(y_row // parts)
    cdef char* x_is = b"N"
    cdef char* A_is = b"C" if adjoint else b"N"
    cdef double complex one = 1, beta = 1 if adds else 0
    cdef float complex one_c = 1, beta_c = 1 if adds else 0
    cdef float one_s = 1, beta_s = 1 if adds else 0
    if real is float and parts == 1:
        sgemm(x_is, A_is, &m, &n, &k, &one_s, <float*>x, &ldx, <float*>A, &lda, &beta_s, y, &ldy)
    elif real is float:
        cgemm(
            x_is, A_is, &m, &n, &k, &one_c, <float complex*>x, &ldx, <float complex*>A, &lda,
            &beta_c, <float complex*>y, &ldy,
        )
    elif parts == 1:
        dgemm(
            x_is, A_is, &m, &n, &k, <double*>&one, <double*>x, &ldx, <double*>A, &lda,
            <double*>&beta, y, &ldy,
        )
    else:
        zgemm(
            x_is, A_is, &m, &n, &k, &one, <double complex*>x, &ldx, <double complex*>A, &lda, &beta,
            <double complex*>y, &ldy,
        )
