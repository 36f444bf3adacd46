# Large matrices in a recurrence, by BLAS: part of _kernels.pyx.

# One factor among several: a sweep as any other, whose gradient BLAS adds up.


cdef bint is_large(const Panels* n, Py_ssize_t i) noexcept nogil:
    """Tell whether the i-th sweep is of a factor that is left to BLAS."""
    cdef const Py_ssize_t* plan = n.plan + i * PLAN_ROW
    return max(plan[P_], plan[Q_]) > n.largest


cdef void large_sweep(
    int parts, Sweep s, const real* x, Py_ssize_t x_row, real* y, Py_ssize_t y_row
) noexcept nogil:
    """y[l] = W x[l], (Q, right E) and (P, right E) of each left index l."""
    cdef Py_ssize_t l, r, columns = s.E // parts, rows_apart = s.right
    if x_row == y_row == s.E:  # rows follow on one another
        columns, s.right = columns * s.right, 1
    for l in range(s.left):
        for r in range(s.right):
            gemm(
                parts, False, s.P, columns, s.Q, <const real*>s.W, s.Q,
                x + (l * s.Q * rows_apart + r) * x_row, rows_apart * x_row, False,
                y + (l * s.P * rows_apart + r) * y_row, rows_apart * y_row,
            )


cdef void large_sweep_backward(
    int parts, Sweep s, const real* dy, const real* x, real* dx, real* G
) noexcept nogil:
    """dx[l] = W^H dy[l] and G += dy[l] x[l]^H; the sweep has W^H for its W."""
    cdef Py_ssize_t l, R = s.right * s.E
    for l in range(s.left):
        gemm(
            parts, False, s.Q, R // parts, s.P, <const real*>s.W, s.P, dy + l * s.P * R, R, False,
            dx + l * s.Q * R, R,
        )
        gram(parts, s.P, s.Q, R // parts, dy + l * s.P * R, x + l * s.Q * R, G)


# A dense W: the whole batch is one block, for BLAS has threads of its own. Sums over time are left
# to it as well: each step's d stays where the caller finds it.

cdef void dense_products(
    const Sizes* n, const Arrays* a, Block block, const real* h, Py_ssize_t h_row, real* Wh
) noexcept nogil:
    """Wh = W_k h of all gates, one under the other: one product if the W_k lie so, too."""
    cdef int first = 0, end
    while first < n.n_gates:
        end = end_of_run(n, a, first, False)
        gemm(
            n.parts, False, (end - first) * n.N, block.width, n.N, <const real*>a.W[first], n.N,
            h, h_row, False, Wh + first * state_size(n, block.E), block.E,
        )
        first = end


cdef void dense_adjoints(
    const Sizes* n, const Arrays* a, Block block, const real* d, real* through_W
) noexcept nogil:
    """through_W = Σ_k W_k^H d_k: one product of those gates whose W_k and d_k follow on one another."""
    cdef const KindOfStep* step = &kinds[n.kind]
    cdef int first = 0, end
    while first < n.n_gates:
        end = end_of_run(n, a, first, True)
        gemm(
            n.parts, True, n.N, block.width, (end - first) * n.N, <const real*>a.W[first], n.N,
            d + step.d_of_W[first] * state_size(n, block.E), block.E, first > 0, through_W, block.E,
        )
        first = end


cdef int end_of_run(const Sizes* n, const Arrays* a, int first, bint of_d) noexcept nogil:
    """Return behind which gate the W_k, and the d_k, no longer follow on one another."""
    cdef const KindOfStep* step = &kinds[n.kind]
    cdef int end = first + 1
    cdef Py_ssize_t n_bytes = n.parts * n.N * n.N * (8 if n.is_double else 4)
    while end < n.n_gates and <const char*>a.W[end] == <const char*>a.W[end - 1] + n_bytes:
        if of_d and step.d_of_W[end] != step.d_of_W[end - 1] + 1:
            break
        end += 1
    return end


cdef void gemm(
    int parts, bint adjoint, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t inner,
    const real* A, Py_ssize_t A_row, const real* x, Py_ssize_t x_row, bint adds, real* y,
    Py_ssize_t y_row,
) noexcept nogil:
    """y (rows, columns) = A x, or A^H x, or that is added to y; rows of x and y in parts.

    BLAS knows columns only: to it this is y^T = x^T A^T; of one column it has a product that does
    not first copy A.
    """
    cdef int m = <int>columns, n = <int>rows, k = <int>inner, lda = <int>A_row
    cdef int ldx = <int>(x_row // parts), ldy = <int>(y_row // parts)
    cdef char* x_is = b"N"
    cdef char* A_is = b"C" if adjoint else b"N"
    cdef double complex one = 1, beta = 1 if adds else 0
    cdef float complex one_c = 1, beta_c = 1 if adds else 0
    cdef float one_s = 1, beta_s = 1 if adds else 0
    if columns == 1 and not adjoint:
        gemv(parts, &n, &k, &lda, A, &ldx, x, adds, &ldy, y)
    elif real is float and parts == 1:
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


cdef void gram(
    int parts, Py_ssize_t P, Py_ssize_t Q, Py_ssize_t columns, const real* dy, const real* x,
    real* G,
) noexcept nogil:
    """G (P, Q) += dy x^H; to BLAS G^T += conj(x) dy^T."""
    cdef int m = <int>Q, n = <int>P, k = <int>columns
    cdef char* x_is = b"C"
    cdef char* dy_is = b"N"
    cdef double complex one = 1
    cdef float complex one_c = 1
    cdef float one_s = 1
    if real is float and parts == 1:
        sgemm(x_is, dy_is, &m, &n, &k, &one_s, <float*>x, &k, <float*>dy, &k, &one_s, G, &m)
    elif real is float:
        cgemm(
            x_is, dy_is, &m, &n, &k, &one_c, <float complex*>x, &k, <float complex*>dy, &k, &one_c,
            <float complex*>G, &m,
        )
    elif parts == 1:
        dgemm(
            x_is, dy_is, &m, &n, &k, <double*>&one, <double*>x, &k, <double*>dy, &k, <double*>&one,
            G, &m,
        )
    else:
        zgemm(
            x_is, dy_is, &m, &n, &k, &one, <double complex*>x, &k, <double complex*>dy, &k, &one,
            <double complex*>G, &m,
        )


cdef void gemv(
    int parts, int* rows, int* inner, int* A_row, const real* A, int* x_row, const real* x,
    bint adds, int* y_row, real* y,
) noexcept nogil:
    """y = A x of one column, or that is added to y; to BLAS A is its transpose."""
    cdef char* is_transposed = b"T"
    cdef double complex one = 1, beta = 1 if adds else 0
    cdef float complex one_c = 1, beta_c = 1 if adds else 0
    cdef float one_s = 1, beta_s = 1 if adds else 0
    if real is float and parts == 1:
        sgemv(
            is_transposed, inner, rows, &one_s, <float*>A, A_row, <float*>x, x_row, &beta_s, y,
            y_row,
        )
    elif real is float:
        cgemv(
            is_transposed, inner, rows, &one_c, <float complex*>A, A_row, <float complex*>x, x_row,
            &beta_c, <float complex*>y, y_row,
        )
    elif parts == 1:
        dgemv(
            is_transposed, inner, rows, <double*>&one, <double*>A, A_row, <double*>x, x_row,
            <double*>&beta, y, y_row,
        )
    else:
        zgemv(
            is_transposed, inner, rows, &one, <double complex*>A, A_row, <double complex*>x, x_row,
            &beta, <double complex*>y, y_row,
        )
