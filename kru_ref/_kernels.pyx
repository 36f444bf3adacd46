# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""The Kronecker product, its backward, and the whole recurrence over time, compiled.

Each function is the twin of a NumPy one, named in its docstring, in kronecker.py, cells.py or
model.py; compiled.py prepares its arrays. The innermost loops are those of kernels.h.
"""

from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memset

cdef extern from "simd.h":
    ctypedef struct Kernels:
        Py_ssize_t lanes
        void (*sweep)(
            int planes, Py_ssize_t P, Py_ssize_t Q, const void* W,
            const void* x, Py_ssize_t x_stride, void* y, Py_ssize_t y_stride,
            Py_ssize_t left, Py_ssize_t R, Py_ssize_t r0, Py_ssize_t r1,
        ) noexcept nogil
        void (*accumulate)(
            int planes, Py_ssize_t P, Py_ssize_t Q, const void* dy, Py_ssize_t dy_stride,
            const void* x, Py_ssize_t x_stride,
            Py_ssize_t left, Py_ssize_t R, Py_ssize_t r0, Py_ssize_t r1, void* G,
        ) noexcept nogil
        void (*fold)(Py_ssize_t n, void* G, double* sums) noexcept nogil
        void (*activate)(
            int kind, int planes, Py_ssize_t n,
            const void* z, const void* u, const void* b, void* h,
        ) noexcept nogil
        void (*activate_backward)(
            int kind, int planes, Py_ssize_t n, const void* g, const void* direct,
            const void* h, const void* b, void* dz, void* db,
        ) noexcept nogil
        void (*split)(
            int planes, Py_ssize_t rows, Py_ssize_t width, const void* array, Py_ssize_t B,
            void* planar, Py_ssize_t stride, Py_ssize_t row_stride,
        ) noexcept nogil
        void (*join)(
            int planes, Py_ssize_t rows, Py_ssize_t width, const void* planar, Py_ssize_t stride,
            void* array, Py_ssize_t B,
        ) noexcept nogil
        void (*look_up)(
            int planes, Py_ssize_t N, Py_ssize_t D, Py_ssize_t width, const void* U,
            const int64_t* labels, void* u, Py_ssize_t stride,
        ) noexcept nogil
        void (*look_up_backward)(
            int planes, Py_ssize_t N, Py_ssize_t width, const void* dz,
            Py_ssize_t stride, const int64_t* labels, void* dUT,
        ) noexcept nogil

    int best_level() noexcept nogil
    int openmp_threads() noexcept nogil
    const Kernels* kernels_for(int level, int is_double) noexcept nogil


# Arrays are planar: (N, width) real parts and `stride` elements further (N, width) imaginary
# ones; so are the factors in W, one after the other. A row of plan is one sweep:
# (offset in W, P, Q, left, right of a single column).

cdef struct Sizes:
    int planes            # 2 for complex numbers, 1 for real ones
    int kind              # of the nonlinearity
    int direct            # whether dh is given, not dy
    Py_ssize_t T, D, N, B
    Py_ssize_t F          # sweeps
    Py_ssize_t M          # outputs, where the gradient is given as dy
    Py_ssize_t K          # last steps that have a gradient of their own
    Py_ssize_t stride     # of a plane in scratch
    Py_ssize_t n_factors  # entries of all factors


def supported_level():
    """Return 2 for AVX-512, 1 for AVX2 with FMA, 0 for the compiler's baseline."""
    return best_level()


def max_threads():
    """Return how many threads OpenMP would use here; 1 without it."""
    return openmp_threads()


ctypedef fused real:
    float
    double


def matvec(
    int level, int planes, const Py_ssize_t[:, ::1] plan, const real[::1] W,
    const real[:, ::1] x, real[:, ::1] y, real[::1] scratch, Py_ssize_t stride,
):
    """y = (W_0 ⊗ … ⊗ W_{F-1}) x; kronecker.numpy_matvec."""
    cdef Sizes n
    n.planes, n.F, n.stride, n.B = planes, plan.shape[0], stride, x.shape[1] // planes
    cdef const Kernels* K = kernels_for(level, real is double)
    cdef Py_ssize_t size = planes * stride
    cdef real* planar = &scratch[0]
    cdef const real* last
    with nogil:
        K.split(planes, x.shape[0], n.B, &x[0, 0], n.B, planar, stride, n.B)
        last = apply_sweeps(K, n, n.B, &plan[0, 0], &W[0], n.F, planar, planar + size, size, 2)
        K.join(planes, y.shape[0], n.B, last, stride, &y[0, 0], n.B)


def matvec_backward(
    int level, int planes, const Py_ssize_t[:, ::1] plan, const real[::1] W, const real[::1] WH,
    const real[:, ::1] x, const real[:, ::1] dy, double[::1] dW, real[:, ::1] dx,
    real[::1] scratch, Py_ssize_t stride,
):
    """Add to dW and set dx; kronecker.numpy_backward."""
    cdef Sizes n
    n.planes, n.F, n.stride, n.B = planes, plan.shape[0], stride, x.shape[1] // planes
    cdef const Kernels* K = kernels_for(level, real is double)
    cdef Py_ssize_t size = planes * stride
    cdef real* before = &scratch[0]
    cdef real* dlast = before + size
    cdef real* g = before + 2 * size
    cdef real* stages = before + 4 * size
    cdef real* G = stages + n.F * size
    with nogil:
        K.split(planes, x.shape[0], n.B, &x[0, 0], n.B, before, stride, n.B)
        K.split(planes, dy.shape[0], n.B, &dy[0, 0], n.B, dlast, stride, n.B)
        apply_sweeps(K, n, n.B, &plan[0, 0], &W[0], n.F - 1, before, stages, size, n.F)
        sweeps_backward(K, n, n.B, &plan[0, 0], &WH[0], before, stages, dlast, g, G)
        K.fold(W.shape[0], G, &dW[0])
        K.join(planes, x.shape[0], n.B, g, stride, &dx[0, 0], n.B)


# The recurrence over time. Sequences are independent, so a batch is cut into blocks of
# columns, and a block goes through all time steps by itself: its state stays in the cache,
# and blocks share nothing but their parameters. The cut depends on the sizes alone and
# each block sums its own gradients, so results are the same for any number of threads.

cdef Py_ssize_t GATHERED = 16  # time steps whose dz and x make one product dU


def gathered():
    """Return how many time steps are gathered for one product."""
    return GATHERED


def scratch_sizes(Py_ssize_t F, Py_ssize_t n_factors, Py_ssize_t N, Py_ssize_t D, Py_ssize_t M,
                  Py_ssize_t width, Py_ssize_t stride, int planes):
    """Return how much scratch a block needs in each direction, in real numbers."""
    cdef Py_ssize_t lanes = 16, size = planes * stride
    forward = 4 * size + D * width
    backward = (
        (F + 6) * size + (planes * N + D) * GATHERED * width + (M + 2 * D) * width
        + lanes * (planes * n_factors + 4 * D)
    )
    return forward, backward


def recurrence_forward(
    int level, int kind, int planes, int threads,
    const Py_ssize_t[::1] columns, const Py_ssize_t[:, ::1] plan, const real[::1] W,
    const real[::1] U, const real[:, ::1] b,
    const real[:, :, ::1] x, const int64_t[:, ::1] labels, const real[:, ::1] h0,
    real[:, :, ::1] h, real[:, ::1] scratch, Py_ssize_t stride,
):
    """h[t] = sigma(W h[t-1] + U x[t], b) for all t; x is empty where labels are given."""
    cdef Sizes n
    n.planes, n.kind, n.F, n.stride = planes, kind, plan.shape[0], stride
    n.T, n.N, n.B = h.shape[0], h.shape[1], h.shape[2] // planes
    n.D = U.shape[0] // (planes * n.N)
    cdef const Kernels* K = kernels_for(level, real is double)
    cdef const real* inputs = NULL
    cdef const int64_t* classes = NULL
    if x.shape[0]:
        inputs = &x[0, 0, 0]
    else:
        classes = &labels[0, 0]
    cdef Py_ssize_t block
    for block in prange(columns.shape[0] - 1, nogil=True, schedule="dynamic", num_threads=threads):
        forward_block(
            K, n, columns[block], columns[block + 1] - columns[block], &plan[0, 0], &W[0], &U[0],
            &b[block, 0], inputs, classes, &h0[0, 0], &h[0, 0, 0], &scratch[block, 0],
        )


cdef void forward_block(
    const Kernels* K, Sizes n, Py_ssize_t first, Py_ssize_t width,
    const Py_ssize_t* plan, const real* W, const real* U, const real* b,
    const real* x, const int64_t* labels, const real* h0, real* h, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t size = n.planes * n.stride, t
    cdef real* state = scratch
    cdef real* u = scratch + size
    cdef real* z = scratch + 2 * size
    cdef real* x_t = scratch + 4 * size
    cdef const real* Wh
    K.split(n.planes, n.N, width, h0 + n.planes * first, n.B, state, n.stride, width)
    for t in range(n.T):
        Wh = apply_sweeps(K, n, width, plan, W, n.F, state, z, size, 2)
        if labels != NULL:
            K.look_up(n.planes, n.N, n.D, width, U, labels + t * n.B + first, u, n.stride)
        else:
            K.split(1, n.D, width, x + t * n.D * n.B + first, n.B, x_t, 0, width)
            dense(K, n, n.N, n.D, width, U, x_t, u)
        K.activate(n.kind, n.planes, n.stride, Wh, u, b, state)
        K.join(
            n.planes, n.N, width, state, n.stride,
            h + n.planes * (t * n.N * n.B + first), n.B,
        )


def recurrence_backward(
    int level, int kind, int planes, int threads,
    const Py_ssize_t[::1] columns, const Py_ssize_t[:, ::1] plan, const real[::1] W,
    const real[::1] WH, const real[::1] U, const real[::1] UH, const real[:, ::1] b,
    const real[:, :, ::1] x, const int64_t[:, ::1] labels, const real[:, ::1] h0,
    const real[:, :, ::1] h, const real[:, :, ::1] dh, const real[::1] V,
    const real[:, :, ::1] dy,
    real[:, ::1] dh0, real[:, :, ::1] dx, double[:, ::1] dW, double[:, ::1] dU,
    real[:, ::1] dU_labels, real[:, ::1] db, real[:, ::1] scratch, Py_ssize_t stride,
):
    """Back-propagate through recurrence_forward.

    The last steps' own gradient of h is dh, or V dy where dh is empty. Each block adds to
    its row of dW, dU (its transpose dU_labels for labels) and db; dx is left alone where it is empty.
    """
    cdef Sizes n
    n.planes, n.kind, n.F, n.stride = planes, kind, plan.shape[0], stride
    n.T, n.N, n.B = h.shape[0], h.shape[1], h.shape[2] // planes
    n.D = U.shape[0] // (planes * n.N)
    n.n_factors = W.shape[0] // planes
    n.direct = dh.shape[0] > 0
    n.M = dy.shape[1]
    n.K = dh.shape[0] if n.direct else dy.shape[0]
    cdef const Kernels* K = kernels_for(level, real is double)
    cdef const real* inputs = NULL
    cdef const int64_t* classes = NULL
    cdef const real* gradient
    cdef const real* readout = NULL
    cdef real* dinputs = NULL
    if x.shape[0]:
        inputs = &x[0, 0, 0]
    else:
        classes = &labels[0, 0]
    if n.direct:
        gradient = &dh[0, 0, 0]
    else:
        gradient = &dy[0, 0, 0]
        readout = &V[0]
    if dx.shape[0]:
        dinputs = &dx[0, 0, 0]
    cdef Py_ssize_t block
    for block in prange(columns.shape[0] - 1, nogil=True, schedule="dynamic", num_threads=threads):
        backward_block(
            K, n, columns[block], columns[block + 1] - columns[block], &plan[0, 0],
            &W[0], &WH[0], &U[0], &UH[0], &b[block, 0], inputs, classes, &h0[0, 0], &h[0, 0, 0],
            gradient, readout, &dh0[0, 0], dinputs, &dW[block, 0], &dU[block, 0],
            &dU_labels[block, 0], &db[block, 0], &scratch[block, 0],
        )


cdef void backward_block(
    const Kernels* K, Sizes n, Py_ssize_t first, Py_ssize_t width,
    const Py_ssize_t* plan, const real* W, const real* WH, const real* U, const real* UH,
    const real* b, const real* x, const int64_t* labels, const real* h0, const real* h,
    const real* gradient, const real* V,
    real* dh0, real* dx, double* dW, double* dU, real* dU_labels, real* db, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t size = n.planes * n.stride, R = GATHERED * width, NR = n.N * R
    cdef real* state = scratch
    cdef real* previous = scratch + size
    cdef real* dz = scratch + 2 * size
    cdef real* g = scratch + 3 * size       # W^H dz of the step after, and a spare behind it
    cdef real* own = scratch + 5 * size     # what h[t] gets from the loss directly
    cdef real* stages = scratch + 6 * size  # h[t-1] after each sweep but the last
    cdef real* gathered_dz = stages + n.F * size
    cdef real* gathered_x = gathered_dz + n.planes * NR
    cdef real* columns_t = gathered_x + n.D * R
    cdef real* G = columns_t + (n.M + 2 * n.D) * width
    cdef real* swap
    cdef Py_ssize_t t, i, plane, k = 0
    K.split(
        n.planes, n.N, width, h + n.planes * ((n.T - 1) * n.N * n.B + first), n.B,
        state, n.stride, width,
    )
    for t in range(n.T - 1, -1, -1):
        i = t - (n.T - n.K)
        if i >= 0 and n.direct:
            K.split(
                n.planes, n.N, width, gradient + n.planes * (i * n.N * n.B + first), n.B,
                own, n.stride, width,
            )
        elif i >= 0:
            K.split(1, n.M, width, gradient + i * n.M * n.B + first, n.B, columns_t, 0, width)
            dense(K, n, n.N, n.M, width, V, columns_t, own)
        elif i == -1:
            memset(own, 0, size * sizeof(real))
        K.activate_backward(n.kind, n.planes, n.stride, g, own, state, b, dz, db)

        K.split(
            n.planes, n.N, width,
            h + n.planes * ((t - 1) * n.N * n.B + first) if t else h0 + n.planes * first, n.B,
            previous, n.stride, width,
        )
        apply_sweeps(K, n, width, plan, W, n.F - 1, previous, stages, size, n.F)
        sweeps_backward(K, n, width, plan, WH, previous, stages, dz, g, G)

        if labels != NULL:
            K.look_up_backward(
                n.planes, n.N, width, dz, n.stride, labels + t * n.B + first, dU_labels
            )
        else:
            for plane in range(n.planes):
                K.split(
                    1, n.N, width, dz + plane * n.stride, width,
                    gathered_dz + plane * NR + k * width, 0, R,
                )
            K.split(1, n.D, width, x + t * n.D * n.B + first, n.B, gathered_x + k * width, 0, R)
            if dx != NULL:
                input_gradient(K, n, width, UH, dz, columns_t, dx + t * n.D * n.B + first)
        k += 1
        if k == GATHERED or t == 0:
            K.fold(n.planes * n.n_factors, G, dW)
            if labels == NULL:
                for plane in range(n.planes):
                    product(
                        K, n.N, n.D, gathered_dz + plane * NR, gathered_x, R, k * width,
                        G + K.lanes * n.planes * n.n_factors, dU + plane * n.N * n.D,
                    )
            k = 0
        swap = state
        state = previous
        previous = swap
    K.join(n.planes, n.N, width, g, n.stride, dh0 + n.planes * first, n.B)


cdef const real* apply_sweeps(
    const Kernels* K, Sizes n, Py_ssize_t width, const Py_ssize_t* plan, const real* W,
    Py_ssize_t n_sweeps, const real* x, real* targets, Py_ssize_t size, Py_ssize_t n_targets,
) noexcept nogil:
    """Sweep x into one array of targets after the other, and around; return the last."""
    cdef Py_ssize_t s
    cdef real* target
    for s in range(n_sweeps):
        target = targets + (s % n_targets) * size
        K.sweep(
            n.planes, plan[1], plan[2], W + n.planes * plan[0], x, n.stride, target, n.stride,
            plan[3], plan[4] * width, 0, plan[4] * width,
        )
        x = target
        plan += 5
    return x


cdef void sweeps_backward(
    const Kernels* K, Sizes n, Py_ssize_t width, const Py_ssize_t* plan, const real* WH,
    const real* x, const real* stages, const real* dz, real* g, real* G,
) noexcept nogil:
    """Add dW to G, lane by lane, and set g = W^H dz; kronecker.numpy_backward."""
    cdef Py_ssize_t size = n.planes * n.stride, s, P, Q, left, right
    cdef const real* dy = dz
    cdef const real* before
    cdef real* target
    plan += 5 * (n.F - 1)
    for s in range(n.F - 1, -1, -1):
        P, Q, left, right = plan[1], plan[2], plan[3], plan[4] * width
        before = stages + (s - 1) * size if s else x
        target = g + (s % 2) * size
        K.accumulate(
            n.planes, P, Q, dy, n.stride, before, n.stride, left, right, 0, right,
            G + K.lanes * n.planes * plan[0],
        )
        K.sweep(
            n.planes, Q, P, WH + n.planes * plan[0], dy, n.stride, target, n.stride,
            left, right, 0, right,
        )
        dy = target
        plan -= 5


cdef void dense(
    const Kernels* K, Sizes n, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t width,
    const real* A, const real* x, real* y,
) noexcept nogil:
    """y = A x for a real x, plane by plane."""
    cdef Py_ssize_t plane
    for plane in range(n.planes):
        K.sweep(
            1, rows, columns, A + plane * rows * columns, x, 0, y + plane * n.stride, 0,
            1, width, 0, width,
        )


cdef void input_gradient(
    const Kernels* K, Sizes n, Py_ssize_t width, const real* UH, const real* dz,
    real* parts, real* dx,
) noexcept nogil:
    """dx = Re(U^H dz), the sum over planes of each plane's transpose times dz's."""
    cdef Py_ssize_t plane, i
    for plane in range(n.planes):
        K.sweep(
            1, n.D, n.N, UH + plane * n.N * n.D, dz + plane * n.stride, 0,
            parts + plane * n.D * width, 0, 1, width, 0, width,
        )
    if n.planes == 2:
        for i in range(n.D * width):
            parts[i] = parts[i] + parts[n.D * width + i]
    K.join(1, n.D, width, parts, 0, dx, n.B)


cdef void product(
    const Kernels* K, Py_ssize_t rows, Py_ssize_t columns, const real* a, const real* b,
    Py_ssize_t R, Py_ssize_t used, real* G, double* sums,
) noexcept nogil:
    """sums += a @ b.T over the first `used` of R columns, four rows at a time."""
    cdef Py_ssize_t row, count
    for row in range(0, rows, 4):
        count = min(<Py_ssize_t>4, rows - row)
        K.accumulate(1, count, columns, a + row * R, 0, b, 0, 1, R, 0, used, G)
        K.fold(count * columns, G, sums + row * columns)


def readout_forward(
    int level, int planes, int threads, const Py_ssize_t[::1] columns,
    const real[::1] V, const real[::1] c, const real[:, :, ::1] h,
    real[:, :, ::1] y, real[:, ::1] scratch,
):
    """y[t] = V [Re h[t]; Im h[t]] + c for all t."""
    cdef const Kernels* K = kernels_for(level, real is double)
    cdef Py_ssize_t T = h.shape[0], N = h.shape[1], B = h.shape[2] // planes, M = y.shape[1]
    cdef Py_ssize_t block, t, first, width
    cdef real* state
    cdef real* y_t
    for block in prange(columns.shape[0] - 1, nogil=True, schedule="dynamic", num_threads=threads):
        first = columns[block]
        width = columns[block + 1] - first
        state = &scratch[block, 0]
        y_t = state + planes * N * width
        for t in range(T):
            # the planes follow each other without a gap: [Re h; Im h]
            K.split(
                planes, N, width, &h[t, 0, planes * first], B, state, N * width, width
            )
            K.sweep(1, M, planes * N, &V[0], state, 0, y_t, 0, 1, width, 0, width)
            add_bias(M, width, y_t, &c[0])
            K.join(1, M, width, y_t, 0, &y[t, 0, first], B)


cdef void add_bias(Py_ssize_t M, Py_ssize_t width, real* y, const real* c) noexcept nogil:
    cdef Py_ssize_t m, r
    for m in range(M):
        for r in range(width):
            y[m * width + r] += c[m]


def readout_backward(
    int level, int planes, int threads, const Py_ssize_t[::1] columns,
    const real[:, :, ::1] h, const real[:, :, ::1] dy, double[:, ::1] dV,
    real[:, ::1] scratch,
):
    """dV^T = sum over t of [Re h[t]; Im h[t]] dy[t]^T; a block adds to its row of dV."""
    cdef const Kernels* K = kernels_for(level, real is double)
    cdef Py_ssize_t T = h.shape[0], N = h.shape[1], B = h.shape[2] // planes, M = dy.shape[1]
    cdef Py_ssize_t block, t, first, width, R, k
    cdef real* gathered_h
    cdef real* gathered_dy
    for block in prange(columns.shape[0] - 1, nogil=True, schedule="dynamic", num_threads=threads):
        first = columns[block]
        width = columns[block + 1] - first
        R = GATHERED * width
        gathered_h = &scratch[block, 0]
        gathered_dy = gathered_h + planes * N * R
        for t in range(T):
            k = t % GATHERED
            K.split(
                planes, N, width, &h[t, 0, planes * first], B, gathered_h + k * width, N * R, R
            )
            K.split(1, M, width, &dy[t, 0, first], B, gathered_dy + k * width, 0, R)
            if k == GATHERED - 1 or t == T - 1:
                product(
                    K, planes * N, M, gathered_h, gathered_dy, R, (k + 1) * width,
                    gathered_dy + M * R, &dV[block, 0],
                )
