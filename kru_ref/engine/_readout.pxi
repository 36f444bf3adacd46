# The readout of all time steps, for few outputs: part of _kernels.pyx.


def readout_scratch(
    int parts, const Py_ssize_t[::1] columns, Py_ssize_t T, Py_ssize_t N, Py_ssize_t M,
    int is_double,
):
    """Return how many parts of scratch a block needs, forward and backward."""
    cdef Py_ssize_t E = widest_row(columns, parts, is_double), size = whole_vectors(N * E)
    cdef Py_ssize_t steps = readout_steps(size, T, is_double)
    return (
        size + whole_vectors(M * E),
        steps * (size + whole_vectors(M * E)) + LARGEST_VECTOR * 4 * M,
    )


cdef Py_ssize_t readout_steps(Py_ssize_t size, Py_ssize_t T, int is_double) noexcept nogil:
    """Return of how many steps h, of this size in a block, and dy make one product dV."""
    return steps_within(1 << 18, size * (8 if is_double else 4), T)


def readout_forward(
    int level, int threads, const Py_ssize_t[::1] columns, const real[::1] V, const real[::1] c,
    const real[:, :, ::1] h, real[:, :, ::1] y, real[:, ::1] scratch,
):
    """y[t] = V [Re h[t]; Im h[t]] + c for all t; V in pairs (M, N)."""
    cdef const Kernels* K = kernels_for(level, real is double)
    cdef int parts = h.shape[2] // y.shape[2]
    cdef Py_ssize_t i
    for i in prange(columns.shape[0] - 1, nogil=True, schedule="dynamic", num_threads=threads):
        readout_block(
            K, block_at(&columns[0], i, parts, real is double), V, c, h, y, &scratch[i, 0]
        )


cdef void readout_block(
    const Kernels* K, Block block, const real[::1] V, const real[::1] c,
    const real[:, :, ::1] h, real[:, :, ::1] y, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t T = h.shape[0], N = h.shape[1], row = h.shape[2], M = y.shape[1], t
    cdef int parts = row // y.shape[2]
    cdef real* y_here = scratch + whole_vectors(N * block.E)
    cdef const real* h_t
    cdef Sweep s = plain_product(REALS if parts == 1 else PAIRS, M, N, &V[0], block.E)
    for t in range(T):
        h_t = &h[t, 0, 0]
        if block.E != row:
            K.copy(N, block.used, h_t + block.begin, row, scratch, block.E)
            h_t = scratch
        K.sweep(&s, h_t, block.E, y_here, block.E)
        K.gather(
            parts, M, block.width, y_here, block.E, &c[0], &y[t, 0, block.first], y.shape[2]
        )


def readout_backward(
    int level, int threads, const Py_ssize_t[::1] columns, const real[:, :, ::1] h,
    const real[:, :, ::1] dy, double[:, ::1] dV, real[:, ::1] scratch,
):
    """dV^T = sum over t of [Re h[t]; Im h[t]] dy[t]^T in pairs (N, M); a block adds to its row."""
    cdef const Kernels* K = kernels_for(level, real is double)
    cdef int parts = h.shape[2] // dy.shape[2]
    cdef Py_ssize_t E = widest_row(columns, parts, real is double)
    cdef Py_ssize_t size = whole_vectors(h.shape[1] * E), i
    for i in prange(columns.shape[0] - 1, nogil=True, schedule="dynamic", num_threads=threads):
        readout_backward_block(
            K, block_at(&columns[0], i, parts, real is double), size, h, dy, &dV[i, 0],
            &scratch[i, 0],
        )


cdef void readout_backward_block(
    const Kernels* K, Block block, Py_ssize_t size, const real[:, :, ::1] h,
    const real[:, :, ::1] dy, double* dV, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t T = h.shape[0], N = h.shape[1], row = h.shape[2], M = dy.shape[1]
    cdef Py_ssize_t t, n = 0, steps = readout_steps(size, T, real is double)
    cdef Py_ssize_t h_step = N * row if block.E == row else size
    cdef Py_ssize_t dy_step = whole_vectors(M * block.E)
    cdef int parts = row // dy.shape[2]
    cdef real* dy_steps = scratch + steps * size
    cdef real* G = dy_steps + steps * dy_step
    cdef const real* h_steps = scratch
    cdef Sweep s = plain_product(REALS if parts == 1 else PAIRS, N, M, NULL, block.E)
    for t in range(T):
        if block.E == row:
            h_steps = &h[t - n, 0, 0]
        else:
            K.copy(N, block.used, &h[t, 0, block.begin], row, scratch + n * size, block.E)
        K.spread(
            parts, M, block.width, &dy[t, 0, block.first], dy.shape[2], dy_steps + n * dy_step,
            block.E,
        )
        n += 1
        if n == steps or t == T - 1:
            s.left = n
            gram_over_steps(K, &s, h_steps, h_step, dy_steps, dy_step, G, dV)
            n = 0
