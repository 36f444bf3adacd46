# LSTM and GRU over time, with a Kronecker product for each gate; part of _kernels.pyx. All is real.
# Blocks, and how they share the work, are those of the simple recurrence.

cdef struct Gated:
    int level, kind
    int direct                # whether dh is given, not dy
    int scatter               # whether dU is summed label by label, in dU_labels
    Py_ssize_t n_gates
    Py_ssize_t T, D, N, B
    Py_ssize_t F              # sweeps
    Py_ssize_t M              # outputs, where the gradient is given as dy
    Py_ssize_t K              # last steps that have a gradient of their own
    Py_ssize_t stride         # numbers in an array that holds any stage of a product
    Py_ssize_t n_factors      # entries of all factors of one gate
    Py_ssize_t gathered       # time steps whose dz and x make one product dU


cdef Py_ssize_t OPEN = 4      # what a step saves of its gates: i, f, g, o or r, z, n, q


def gated_scratch_sizes(
    Py_ssize_t F, Py_ssize_t n_factors, Py_ssize_t n_gates, Py_ssize_t T, Py_ssize_t N,
    Py_ssize_t D, Py_ssize_t M, Py_ssize_t most_rows, Py_ssize_t width, int is_double,
):
    """Return the stride of a stage, how many steps to gather, and the numbers of elements of
    scratch that a thread needs forward and a block backward."""
    cdef Py_ssize_t E = row_parts(1, width, is_double), size = N * E, stride, gathered, inputs
    stride = whole_vectors(most_rows * E)
    inputs = whole_vectors((D + 1 + M) * E)
    gathered = min(T, 16, max(1, (1 << 22) // (OPEN * size * (8 if is_double else 4))))
    forward = 2 * stride + (2 * n_gates + OPEN + 4) * size + inputs
    backward = (
        (F + 2) * stride + (2 * OPEN + 8 + OPEN * gathered) * size + (gathered + 1) * inputs
        + LARGEST_VECTOR * (n_gates * n_factors + 4 * max(D + 1, M))
    )
    return stride, gathered, forward, backward


def gated_forward(
    int level, int kind, int threads, const Py_ssize_t[::1] columns,
    const Py_ssize_t[:, ::1] plan, const real[:, ::1] W, const real[:, ::1] U,
    const real[:, ::1] b_h, const real[:, :, ::1] x, const int64_t[:, ::1] labels,
    const real[:, ::1] h0, const real[:, ::1] c0, real[:, :, ::1] h, real[:, :, ::1] c,
    real[:, :, :, ::1] gates, real[:, ::1] scratch, Py_ssize_t stride,
):
    """Set h, gates, and c of an LSTM; LSTM.forward and GRU.forward in cells/.

    For real input the last column of U is the bias, for labels it is added to all of them. b_h
    stands once for each column of a block.
    """
    cdef Gated n
    n.level, n.kind, n.n_gates, n.F, n.stride = level, kind, W.shape[0], plan.shape[0], stride
    n.T, n.N, n.B, n.n_factors = h.shape[0], h.shape[1], h.shape[2], W.shape[1]
    n.D = U.shape[1] if labels.shape[0] else U.shape[1] - 1
    cdef Py_ssize_t thread, t, i, blocks = columns.shape[0] - 1, size = n.N * n.B
    cdef const real* inputs = &x[0, 0, 0] if x.shape[0] else NULL
    cdef const int64_t* classes = &labels[0, 0] if labels.shape[0] else NULL
    cdef const real* first_c = &c0[0, 0] if kind == LSTM else NULL
    cdef real* all_c = &c[0, 0, 0] if kind == LSTM else NULL
    # A thread's blocks go through time side by side: together they write whole rows.
    for thread in prange(threads, nogil=True, schedule="static", num_threads=threads):
        for t in range(n.T):
            for i in range(blocks * thread // threads, blocks * (thread + 1) // threads):
                gated_step(
                    n, gated_block(n, &columns[0], i, real is double), &plan[0, 0], &W[0, 0],
                    &U[0, 0], &b_h[i, 0] if kind == GRU else NULL,
                    inputs + t * n.D * n.B if inputs != NULL else NULL,
                    classes + t * n.B if classes != NULL else NULL,
                    &h[t - 1, 0, 0] if t else &h0[0, 0], all_c + (t - 1) * size if t else first_c,
                    &h[t, 0, 0], all_c + t * size, &gates[t, 0, 0, 0], &scratch[thread, 0],
                )


cdef Block gated_block(
    Gated n, const Py_ssize_t* columns, Py_ssize_t i, int is_double
) noexcept nogil:
    cdef Block block
    block.first, block.width = columns[i], columns[i + 1] - columns[i]
    block.E = row_parts(1, block.width, is_double)
    block.size = n.N * block.E
    block.whole = block.E == n.B
    return block


cdef void gated_step(
    Gated n, Block block, const Py_ssize_t* plan, const real* W, const real* U, const real* b_h,
    const real* x, const int64_t* labels, const real* h_before, const real* c_before,
    real* h, real* c, real* gates, real* scratch,
) noexcept nogil:
    cdef const Kernels* K = kernels_for(n.level, real is double)
    cdef Py_ssize_t E = block.E, size = block.size, width = block.width, first = block.first
    cdef Py_ssize_t k, b, rows = n.n_gates * n.N
    cdef real* targets = scratch               # two, on the way to W h
    cdef real* Wh = scratch + 2 * n.stride
    cdef real* a = Wh + n.n_gates * size       # U x + b
    cdef real* copied = a + n.n_gates * size   # h and c before, c and h now, the open gates
    cdef real* spread_x = copied + (4 + OPEN) * size
    cdef real* h_now = h
    cdef real* c_now = c
    cdef real* gates_now = gates
    if not block.whole:
        K.copy(n.N, width, h_before + first, n.B, copied, E)
        h_before = copied
        if n.kind == LSTM:
            K.copy(n.N, width, c_before + first, n.B, copied + size, E)
            c_before = copied + size
        c_now, h_now, gates_now = copied + 2 * size, copied + 3 * size, copied + 4 * size
    for k in range(n.n_gates):
        apply_sweeps(
            n.level, 1, E, plan, W + k * n.n_factors, n.F, h_before, E, targets, n.stride, 2,
            Wh + k * size, E, <real*>NULL,
        )
    if labels != NULL:
        K.look_up(1, rows, n.D, width, U, labels + first, a, E)
    else:
        K.spread(1, n.D, width, x + first, n.B, spread_x, E)
        for b in range(E):
            spread_x[n.D * E + b] = 1
        K.sweep(REALS, rows, n.D + 1, U, spread_x, E, a, E, 1, 1, E)
    K.open_gates(
        n.kind, size, a, Wh, b_h, c_before if n.kind == LSTM else h_before, gates_now, c_now,
        h_now,
    )
    if not block.whole:
        K.copy(n.N, width, h_now, E, h + first, n.B)
        K.copy(OPEN * n.N, width, gates_now, E, gates + first, n.B)
        if n.kind == LSTM:
            K.copy(n.N, width, c_now, E, c + first, n.B)


def gated_backward(
    int level, int kind, int threads, const Py_ssize_t[::1] columns,
    const Py_ssize_t[:, ::1] plan, const real[:, ::1] W, const real[:, ::1] WH,
    const real[:, ::1] UT, const real[:, :, ::1] x, const int64_t[:, ::1] labels,
    const real[:, ::1] h0, const real[:, ::1] c0, const real[:, :, ::1] h,
    const real[:, :, ::1] c, const real[:, :, :, ::1] gates, const real[:, :, ::1] dh,
    const real[::1] V, const real[:, :, ::1] dy, const real[:, ::1] dc,
    real[:, ::1] dh0, real[:, ::1] dc0, real[:, :, ::1] dx, double[:, ::1] dW,
    double[:, ::1] dU, double[:, ::1] dU_labels, double[:, ::1] db, real[:, ::1] scratch,
    Py_ssize_t stride, Py_ssize_t gathered,
):
    """Back-propagate through gated_forward; LSTM.backward and GRU.backward in cells/.

    The last steps' own gradient of h is dh, or V dy where dh is empty; dc is that of the last c.
    Each block adds to its row of dW, db (that of b_h behind b), and dU or its transpose dU_labels,
    whichever is not empty; dx is left alone where it is empty.
    """
    cdef Gated n
    n.level, n.kind, n.n_gates, n.F, n.stride = level, kind, W.shape[0], plan.shape[0], stride
    n.T, n.N, n.B, n.n_factors = h.shape[0], h.shape[1], h.shape[2], W.shape[1]
    n.D, n.gathered, n.M = UT.shape[0], gathered, dy.shape[1]
    n.direct, n.scatter = dh.shape[0] > 0, dU_labels.shape[1] > 1
    n.K = dh.shape[0] if n.direct else dy.shape[0]
    cdef const real* inputs = &x[0, 0, 0] if x.shape[0] else NULL
    cdef const int64_t* classes = &labels[0, 0] if labels.shape[0] else NULL
    cdef const real* gradient = &dh[0, 0, 0] if n.direct else &dy[0, 0, 0]
    cdef const real* readout = NULL if n.direct else &V[0]
    cdef real* dinputs = &dx[0, 0, 0] if dx.shape[0] else NULL
    cdef int is_lstm = kind == LSTM
    cdef const real* first_c = &c0[0, 0] if is_lstm else NULL
    cdef const real* all_c = &c[0, 0, 0] if is_lstm else NULL
    cdef const real* last_dc = &dc[0, 0] if is_lstm else NULL
    cdef real* first_dc = &dc0[0, 0] if is_lstm else NULL
    cdef Py_ssize_t i
    for i in prange(columns.shape[0] - 1, nogil=True, schedule="dynamic", num_threads=threads):
        gated_backward_block(
            n, gated_block(n, &columns[0], i, real is double), &plan[0, 0], &W[0, 0], &WH[0, 0],
            &UT[0, 0], inputs, classes, &h0[0, 0], first_c, &h[0, 0, 0], all_c,
            &gates[0, 0, 0, 0], gradient, readout, last_dc, &dh0[0, 0], first_dc, dinputs,
            &dW[i, 0], &dU[i, 0], &dU_labels[i, 0], &db[i, 0], &scratch[i, 0],
        )


cdef void gated_backward_block(
    Gated n, Block block, const Py_ssize_t* plan, const real* W, const real* WH, const real* UT,
    const real* x, const int64_t* labels, const real* h0, const real* c0, const real* h,
    const real* c, const real* gates, const real* gradient, const real* V, const real* dc,
    real* dh0, real* dc0, real* dx, double* dW, double* dU, double* dU_labels, double* db,
    real* scratch,
) noexcept nogil:
    cdef const Kernels* K = kernels_for(n.level, real is double)
    cdef Py_ssize_t E = block.E, size = block.size, width = block.width, first = block.first
    cdef Py_ssize_t rows = n.n_gates * n.N, inputs = whole_vectors((n.D + 1 + n.M) * E)
    cdef Py_ssize_t saved = n.N * n.B
    cdef real* targets = scratch                   # two, on the way to W^T dz
    cdef real* stages = targets + 2 * n.stride     # h before after each sweep but the last
    cdef real* g = stages + n.F * n.stride         # W_k^T dz_k of the step after, gate under gate
    cdef real* own = g + OPEN * size               # what h[t] gets from the loss directly
    cdef real* carried = own + size                # see open_gates_backward
    cdef real* carry = carried + size
    cdef real* copied = carry + size               # gates, c, c before and h before
    cdef real* dz_steps = copied + (OPEN + 3) * size
    cdef real* x_steps = dz_steps + OPEN * n.gathered * size
    cdef real* columns_t = x_steps + n.gathered * inputs
    cdef real* G = columns_t + inputs
    cdef real* G_product = G + LARGEST_VECTOR * n.n_gates * n.n_factors
    cdef real* dz
    cdef real* swap
    cdef const real* h_before
    cdef const real* c_before
    cdef const real* c_now
    cdef const real* open_now
    cdef const real* dz_k
    cdef Py_ssize_t t, i, j, k, step = 0
    for i in range(n.gathered):
        for j in range(E):
            x_steps[i * inputs + n.D * E + j] = 1
    if n.kind == LSTM:
        K.copy(n.N, width, dc + first, n.B, carried, E)
    for t in range(n.T - 1, -1, -1):
        i = t - (n.T - n.K)
        if i >= 0 and n.direct:
            K.copy(n.N, width, gradient + i * saved + first, n.B, own, E)
        elif i >= 0:
            K.spread(1, n.M, width, gradient + i * n.M * n.B + first, n.B, columns_t, E)
            K.sweep(REALS, n.N, n.M, V, columns_t, E, own, E, 1, 1, E)
        elif i == -1:
            memset(own, 0, size * sizeof(real))
        h_before = h + (t - 1) * saved if t else h0
        open_now = gates + t * OPEN * saved
        c_now, c_before = c, c
        if n.kind == LSTM:
            c_now, c_before = c + t * saved, c + (t - 1) * saved if t else c0
        if not block.whole:
            K.copy(OPEN * n.N, width, open_now + first, n.B, copied, E)
            open_now = copied
            K.copy(n.N, width, h_before + first, n.B, copied + (OPEN + 2) * size, E)
            h_before = copied + (OPEN + 2) * size
            if n.kind == LSTM:
                K.copy(n.N, width, c_now + first, n.B, copied + OPEN * size, E)
                K.copy(n.N, width, c_before + first, n.B, copied + (OPEN + 1) * size, E)
                c_now, c_before = copied + OPEN * size, copied + (OPEN + 1) * size
        dz = dz_steps + step * OPEN * size
        K.open_gates_backward(
            n.kind, size, own, g, open_now, c_now, c_before if n.kind == LSTM else h_before,
            carried, dz, carry,
        )
        swap = carried
        carried = carry
        carry = swap
        for k in range(n.n_gates):
            dz_k = dz + (3 if n.kind == GRU and k == 2 else k) * size
            apply_sweeps(
                n.level, 1, E, plan, W + k * n.n_factors, n.F - 1, h_before, E, stages, n.stride,
                n.F, <real*>NULL, E, <real*>NULL,
            )
            sweeps_backward(
                n.level, 1, E, n.F, plan, WH + k * n.n_factors, h_before, stages, dz_k, targets,
                n.stride, g + k * size, G + LARGEST_VECTOR * k * n.n_factors, <real*>NULL,
                dW + k * n.n_factors,
            )
        if n.scatter:
            K.look_up_backward(1, rows, width, dz, E, labels + t * n.B + first, dU_labels)
        elif labels != NULL:
            one_hot(1, n.D, width, labels + t * n.B + first, x_steps + step * inputs, E)
        else:
            K.spread(1, n.D, width, x + t * n.D * n.B + first, n.B, x_steps + step * inputs, E)
        if dx != NULL:
            K.sweep(REALS, n.D, rows, UT, dz, E, columns_t, E, 1, 1, E)
            K.gather(1, n.D, width, columns_t, E, NULL, dx + t * n.D * n.B + first, n.B)
        step += 1
        if step == n.gathered or t == 0:
            for k in range(n.n_gates):
                fold_sweeps(
                    n.level, 1, E, n.F, plan, G + LARGEST_VECTOR * k * n.n_factors,
                    dW + k * n.n_factors,
                )
            if not n.scatter:
                product(
                    K, REALS, rows, n.D, dz_steps, OPEN * size, x_steps, inputs, step, E,
                    G_product, dU,
                )
            product(
                K, REALS, OPEN * n.N, 1, dz_steps, OPEN * size, x_steps + n.D * E, inputs, step,
                E, G_product, db,
            )
            step = 0
    for k in range(1, n.n_gates):
        for i in range(size):
            g[i] += g[k * size + i]
    if n.kind == GRU:
        for i in range(size):
            g[i] += carried[i]
    else:
        K.copy(n.N, width, carried, E, dc0 + first, n.B)
    K.copy(n.N, width, g, E, dh0 + first, n.B)
