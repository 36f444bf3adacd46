"""The Kronecker product, its backward, and the whole recurrence over time, compiled.

Each function is the twin of a NumPy one, named in its docstring, in kronecker.py, cells/ or
model.py; compiled.py prepares its arrays. The innermost loops are those of kernels.h.
"""

cimport numpy as cnp
from cython.parallel cimport prange, threadid
from libc.stdint cimport int64_t
from libc.stdlib cimport free, getenv, malloc
from libc.string cimport memcpy, memset

cnp.import_array()

cdef extern from "simd.h":
    ctypedef struct Kernels:
        Py_ssize_t lanes
        void (*sweep)(
            int mode, Py_ssize_t P, Py_ssize_t Q, const void* W, const void* x, Py_ssize_t x_row,
            void* y, Py_ssize_t y_row, Py_ssize_t left, Py_ssize_t right, Py_ssize_t E,
        ) noexcept nogil
        void (*accumulate)(
            int mode, Py_ssize_t P, Py_ssize_t Q, const void* dy, Py_ssize_t dy_left,
            const void* x, Py_ssize_t x_left, Py_ssize_t left, Py_ssize_t R, void* G,
        ) noexcept nogil
        void (*sweep_backward)(
            int mode, Py_ssize_t P, Py_ssize_t Q, const void* WH, const void* dy,
            const void* x, void* dx, Py_ssize_t left, Py_ssize_t R, void* G,
        ) noexcept nogil
        void (*fold)(int mode, Py_ssize_t n, void* G, double* sums) noexcept nogil
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
            int kind, int parts, Py_ssize_t n, const void* g, const void* direct,
            const void* h, const void* b, void* dz, void* db,
        ) noexcept nogil
        void (*open_gates)(
            int kind, Py_ssize_t n, const void* a, const void* wh, const void* b_h,
            const void* before, void* gates, void* c, void* h,
        ) noexcept nogil
        void (*open_gates_backward)(
            int kind, Py_ssize_t n, const void* direct, const void* g, const void* gates,
            const void* c, const void* before, const void* carried, void* dz, void* carry,
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

    enum:
        REALS
        COMPLEXES
        PAIRS
        LSTM
        GRU

    int best_level() noexcept nogil
    int openmp_threads() noexcept nogil
    const Kernels* kernels_for(int level, int is_double) noexcept nogil


ctypedef fused real:
    float
    double

# A number has one part, or two if it is complex: neighbours in memory. Sizes called E, R and
# stride count parts, all others numbers.


def supported_level():
    """Return 2 for AVX-512, 1 for AVX2 with FMA, 0 for the compiler's baseline."""
    return best_level()


def is_forced():
    """Return whether the environment asks for an instruction set; see backend.py."""
    return getenv("KRU_REF_SIMD") != NULL


def max_threads():
    """Return how many threads OpenMP would use here; 1 without it."""
    return openmp_threads()


def shapes_of(factors, x):
    """Return the factors' shapes if they and x are as the kernels need them, else None.

    That is non-empty matrices and an array, contiguous, of one of the four dtypes.
    """
    cdef list shapes = []
    if type(factors) is not list and type(factors) is not tuple or not is_ready(x):
        return None
    cdef int dtype = cnp.PyArray_TYPE(x)
    for W in factors:
        if not is_ready(W) or cnp.PyArray_TYPE(W) != dtype or cnp.PyArray_NDIM(W) != 2:
            return None
        if cnp.PyArray_SIZE(W) == 0:
            return None
        shapes.append((cnp.PyArray_DIM(W, 0), cnp.PyArray_DIM(W, 1)))
    return tuple(shapes) or None


cdef bint is_ready(a):
    if not cnp.PyArray_CheckExact(a) or not cnp.PyArray_ISCARRAY_RO(a):
        return False
    return cnp.PyArray_TYPE(a) in (
        cnp.NPY_FLOAT, cnp.NPY_DOUBLE, cnp.NPY_CFLOAT, cnp.NPY_CDOUBLE
    )


def merge(Product product, factors):
    """Return all groups of neighbouring factors multiplied out, one flat array."""
    cdef cnp.npy_intp size = product.n.n_factors
    merged = cnp.PyArray_SimpleNew(1, &size, cnp.PyArray_TYPE(factors[0]))
    cdef void* flat = malloc(cnp.PyArray_ITEMSIZE(factors[0]) * product.n_entries)
    if flat == NULL:
        raise MemoryError("no memory for the factors of a Kronecker product")
    try:
        concatenate(factors, cnp.PyArray_TYPE(factors[0]), product.n_entries, flat)
        if cnp.PyArray_TYPE(merged) in (cnp.NPY_FLOAT, cnp.NPY_CFLOAT):
            merge_groups[float](
                product.n.parts, &product.groups[0], <float*>flat,
                <float*>cnp.PyArray_DATA(merged),
            )
        else:
            merge_groups[double](
                product.n.parts, &product.groups[0], <double*>flat,
                <double*>cnp.PyArray_DATA(merged),
            )
    finally:
        free(flat)
    return merged


cdef concatenate(factors, int dtype, Py_ssize_t n_entries, void* flat):
    """Copy the entries of all factors, one after the other; n_entries of them."""
    cdef char* to = <char*>flat
    for W in factors:
        if not cnp.PyArray_IS_C_CONTIGUOUS(W) or cnp.PyArray_SIZE(W) > n_entries or (
            cnp.PyArray_TYPE(W) != dtype
        ):
            raise ValueError("the factors are not those that the product was made for")
        n_entries -= cnp.PyArray_SIZE(W)
        memcpy(to, cnp.PyArray_DATA(W), cnp.PyArray_NBYTES(W))
        to += cnp.PyArray_NBYTES(W)
    if n_entries:
        raise ValueError("the factors are not those that the product was made for")


cdef void merge_groups(
    int parts, const Py_ssize_t* groups, const real* W, real* merged,
) noexcept nogil:
    """Groups are given as how many there are, and each as its length and its factors' shapes."""
    cdef Py_ssize_t i, f, P, Q, n_groups = groups[0]
    groups += 1
    for i in range(n_groups):
        P, Q = groups[1], groups[2]
        memcpy(merged, W, parts * P * Q * sizeof(real))
        W += parts * P * Q
        for f in range(1, groups[0]):
            kron(parts, P, Q, merged, groups[1 + 2 * f], groups[2 + 2 * f], W)
            W += parts * groups[1 + 2 * f] * groups[2 + 2 * f]
            P, Q = P * groups[1 + 2 * f], Q * groups[2 + 2 * f]
        merged += parts * P * Q
        groups += 1 + 2 * groups[0]


cdef void kron(
    int parts, Py_ssize_t P, Py_ssize_t Q, real* A, Py_ssize_t R, Py_ssize_t S, const real* B,
) noexcept nogil:
    """A (P, Q) becomes A ⊗ B (P R, Q S), from the back: nothing is overwritten too early."""
    cdef Py_ssize_t p, q, r, s
    cdef real re, im
    cdef const real* b
    cdef real* to
    for p in range(P - 1, -1, -1):
        for r in range(R - 1, -1, -1):
            for q in range(Q - 1, -1, -1):
                re = A[parts * (p * Q + q)]
                im = A[parts * (p * Q + q) + parts - 1]
                for s in range(S - 1, -1, -1):
                    b = B + parts * (r * S + s)
                    to = A + parts * (((p * R + r) * Q + q) * S + s)
                    if parts == 1:
                        to[0] = re * b[0]
                    else:
                        to[1] = re * b[1] + im * b[0]
                        to[0] = re * b[0] - im * b[1]


# One product applied to panels: x (left, rows, columns) becomes y (left, rows, columns), each
# panel being all rows of one left index and of some columns. Panels are independent; for the
# gradient they are dealt to a fixed number of chunks, each with a sum of its own: results are
# the same for any number of threads.

cdef struct Panels:
    int level, parts
    Py_ssize_t F              # sweeps
    Py_ssize_t left, n_cuts   # panels: left × n_cuts
    Py_ssize_t B              # columns of x and y
    Py_ssize_t rows_in, rows_out
    Py_ssize_t stride         # parts of the largest panel between sweeps
    Py_ssize_t n_factors      # entries of all factors, merged
    Py_ssize_t form           # those of the largest real_form()


cdef class Product:
    """A product of factors applied to (left, rows, B): all that follows from shapes."""

    cdef Panels n
    cdef const Py_ssize_t[:, ::1] plan
    cdef const Py_ssize_t[::1] groups, cuts
    cdef Py_ssize_t n_entries  # of all factors, before they are merged

    def __init__(
        self, int parts, Py_ssize_t left, const Py_ssize_t[::1] cuts,
        const Py_ssize_t[:, ::1] plan, const Py_ssize_t[::1] groups, rows, Py_ssize_t n_entries,
        Py_ssize_t n_merged, Py_ssize_t stride, Py_ssize_t form,
    ):
        self.plan, self.groups, self.cuts, self.n_entries = plan, groups, cuts, n_entries
        self.n.parts, self.n.F, self.n.left = parts, plan.shape[0], left
        self.n.n_cuts, self.n.B = cuts.shape[0] - 1, cuts[cuts.shape[0] - 1]
        self.n.rows_out, self.n.rows_in = rows
        self.n.stride, self.n.n_factors, self.n.form = stride, n_merged, form


def matvec(Product product, int level, int threads, factors, x, bint in_place):
    """y = (W_0 ⊗ … ⊗ W_{F-1}) x for each left index; kronecker.numpy_matvec.

    In place, x itself becomes y, of the same size.
    """
    cdef Panels n = product.n
    cdef cnp.npy_intp[2] shape
    shape[0], shape[1] = n.left * n.rows_out, n.B
    if cnp.PyArray_SIZE(x) != n.left * n.rows_in * n.B or not cnp.PyArray_IS_C_CONTIGUOUS(x):
        raise ValueError("x is not of the size that the product was made for")
    y = x if in_place else cnp.PyArray_SimpleNew(2, shape, cnp.PyArray_TYPE(x))
    if n.B == 0:
        return y
    n.level = level
    if cnp.PyArray_TYPE(x) in (cnp.NPY_FLOAT, cnp.NPY_CFLOAT):
        matvec_of[float](
            product, n, threads, factors, cnp.PyArray_TYPE(x), <float*>cnp.PyArray_DATA(x),
            <float*>cnp.PyArray_DATA(y),
        )
    else:
        matvec_of[double](
            product, n, threads, factors, cnp.PyArray_TYPE(x), <double*>cnp.PyArray_DATA(x),
            <double*>cnp.PyArray_DATA(y),
        )
    return y


cdef matvec_of(
    Product product, Panels n, int threads, factors, int dtype, const real* x, real* y
):
    cdef Py_ssize_t panel, panels = n.left * n.n_cuts
    cdef Py_ssize_t size = 2 * n.stride + (n.form + 15) // 16 * 16
    if threads > panels:
        threads = panels
    cdef Py_ssize_t entries = n.parts * (product.n_entries + n.n_factors)
    cdef real* memory = <real*>malloc((threads * size + entries) * sizeof(real) + 64)
    if memory == NULL:
        raise MemoryError("no memory for the panels of a Kronecker product")
    cdef real* scratch = <real*>((<size_t>memory + 63) // 64 * 64)  # from a cache line on
    cdef real* flat = scratch + threads * size
    cdef real* W = flat + n.parts * product.n_entries
    cdef const Py_ssize_t* plan = &product.plan[0, 0]
    cdef const Py_ssize_t* cuts = &product.cuts[0]
    try:
        concatenate(factors, dtype, product.n_entries, flat)
        merge_groups(n.parts, &product.groups[0], flat, W)
        if threads == 1:
            with nogil:
                for panel in range(panels):
                    matvec_panel(n, panel, plan, W, x, y, cuts, scratch)
        else:
            for panel in prange(panels, nogil=True, schedule="static", num_threads=threads):
                matvec_panel(n, panel, plan, W, x, y, cuts, scratch + threadid() * size)
    finally:
        free(memory)


cdef void matvec_panel(
    Panels n, Py_ssize_t panel, const Py_ssize_t* plan, const real* W, const real* x, real* y,
    const Py_ssize_t* cuts, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t l = panel // n.n_cuts, first = cuts[panel % n.n_cuts]
    cdef Py_ssize_t width = cuts[panel % n.n_cuts + 1] - first, E = n.parts * width
    cdef Py_ssize_t row = n.parts * n.B
    cdef real* form = scratch + 2 * n.stride
    cdef const real* last
    # In place, one sweep alone would write over what it still has to read.
    cdef bint aside = x == y and n.F == 1
    x += n.parts * (l * n.rows_in * n.B + first)
    y += n.parts * (l * n.rows_out * n.B + first)
    last = apply_sweeps(
        n.level, n.parts, E, plan, W, n.F, x, row, scratch, n.stride, 2,
        <real*>NULL if aside else y, row, form,
    )
    if aside:
        kernels_for(n.level, real is double).copy(n.rows_out, E, last, E, y, row)


def matvec_backward(
    Product product, int level, int threads, const real[::1] W, const real[::1] WH,
    const real[::1] x, const real[::1] dy, double[:, ::1] dW, real[::1] dx, real[:, ::1] scratch,
):
    """Set dx, and add to each chunk's row of dW; kronecker.numpy_backward."""
    cdef Panels n = product.n
    n.level = level
    cdef const Py_ssize_t[:, ::1] plan = product.plan
    cdef const Py_ssize_t[::1] cuts = product.cuts
    cdef Py_ssize_t chunk, chunks = scratch.shape[0]
    for chunk in prange(chunks, nogil=True, schedule="dynamic", num_threads=threads):
        matvec_backward_chunk(
            n, chunk, chunks, &plan[0, 0], &W[0], &WH[0], &x[0], &dy[0], &dW[chunk, 0], &dx[0],
            &cuts[0], &scratch[chunk, 0],
        )


cdef void matvec_backward_chunk(
    Panels n, Py_ssize_t chunk, Py_ssize_t chunks, const Py_ssize_t* plan,
    const real* W, const real* WH, const real* x, const real* dy, double* dW, real* dx,
    const Py_ssize_t* cuts, real* scratch,
) noexcept nogil:
    cdef const Kernels* K = kernels_for(n.level, real is double)
    cdef Py_ssize_t panel, panels = n.left * n.n_cuts, l, first, width, E
    cdef real* dend = scratch + 2 * n.stride
    cdef real* dstart = dend + n.stride
    cdef real* stages = dstart + n.stride
    cdef real* G = stages + n.F * n.stride
    cdef real* form = G + LARGEST_VECTOR * n.parts * n.n_factors
    cdef const real* x_panel
    cdef const real* dy_panel
    cdef real* dx_panel
    for panel in range(panels * chunk // chunks, panels * (chunk + 1) // chunks):
        l, first = panel // n.n_cuts, cuts[panel % n.n_cuts]
        width = cuts[panel % n.n_cuts + 1] - first
        E = n.parts * width
        x_panel = x + n.parts * (l * n.rows_in * n.B + first)
        dy_panel = dy + n.parts * (l * n.rows_out * n.B + first)
        dx_panel = dx + n.parts * (l * n.rows_in * n.B + first)
        if width == n.B:
            panel_backward(
                n, E, plan, W, WH, x_panel, dy_panel, dx_panel, scratch, stages, G, form, dW
            )
        else:
            K.copy(n.rows_in, E, x_panel, n.parts * n.B, dstart, E)
            K.copy(n.rows_out, E, dy_panel, n.parts * n.B, dend, E)
            panel_backward(
                n, E, plan, W, WH, dstart, dend, dstart, scratch, stages, G, form, dW
            )
            K.copy(n.rows_in, E, dstart, E, dx_panel, n.parts * n.B)


cdef void panel_backward(
    Panels n, Py_ssize_t E, const Py_ssize_t* plan, const real* W, const real* WH, const real* x,
    const real* dy, real* dx, real* targets, real* stages, real* G, real* form, double* dW,
) noexcept nogil:
    apply_sweeps(
        n.level, n.parts, E, plan, W, n.F - 1, x, E, stages, n.stride, n.F, <real*>NULL, E, form
    )
    sweeps_backward(
        n.level, n.parts, E, n.F, plan, WH, x, stages, dy, targets, n.stride, dx, G, form, dW
    )
    fold_sweeps(n.level, n.parts, E, n.F, plan, G, dW)


# Sweeps over one panel. Rows of a sweep's (left, Q, R) shorter than a vector of the widest
# instruction set are left to a narrower one, in the end to plain loops; where R is a single number,
# a left index is one row of a small real matrix product, its matrix A made from W.

cdef enum:
    OFFSET, P_, Q_, LEFT, RIGHT, PLAN_ROW  # of W; sizes; right of a single column
    LARGEST_VECTOR = 16


cdef const Kernels* widest(int level, Py_ssize_t R, int is_double) noexcept nogil:
    """Return the kernels of the widest vectors that R elements fill; plain loops if none."""
    while level >= 0 and kernels_for(level, is_double).lanes > R:
        level -= 1
    return kernels_for(level, is_double)


cdef const real* apply_sweeps(
    int level, int parts, Py_ssize_t E, const Py_ssize_t* plan, const real* W,
    Py_ssize_t n_sweeps, const real* x, Py_ssize_t x_row,
    real* targets, Py_ssize_t stride, Py_ssize_t n_targets,
    real* last, Py_ssize_t last_row, real* form,
) noexcept nogil:
    """Sweep x into one array of targets after the other, and around; return the last.

    The last sweep of all goes to `last` unless that is NULL. Rows have E elements; those of x
    and `last` may lie further apart.
    """
    cdef Py_ssize_t s, P, Q, left, right, target_row = E
    cdef real* target
    cdef const real* factor
    cdef const Kernels* K
    for s in range(n_sweeps):
        P, Q, left, right = plan[P_], plan[Q_], plan[LEFT], plan[RIGHT]
        factor = W + parts * plan[OFFSET]
        target = targets + (s % n_targets) * stride
        if last != NULL and s == n_sweeps - 1:
            target, target_row = last, last_row
        if right * E == parts:
            real_form(parts, P, Q, right * E, factor, form)
            K = widest(level, P * right * E, real is double)
            K.row_sweep(Q * right * E, P * right * E, form, x, target, left)
        else:
            K = widest(
                level, right * E if x_row == E and target_row == E else E, real is double
            )
            K.sweep(
                REALS if parts == 1 else COMPLEXES, P, Q, factor, x, x_row, target, target_row,
                left, right, E,
            )
        x, x_row = target, target_row
        plan += PLAN_ROW
    return x


cdef void sweeps_backward(
    int level, int parts, Py_ssize_t E, Py_ssize_t F, const Py_ssize_t* plan, const real* WH,
    const real* x, const real* stages, const real* dy, real* targets, Py_ssize_t stride,
    real* last, real* G, real* form, double* dW,
) noexcept nogil:
    """Set last = W^H dy, and add the factors' gradients to G, lane by lane, or to dW."""
    cdef Py_ssize_t s, P, Q, left, R
    cdef const real* before
    cdef const real* factor
    cdef real* target
    cdef const Kernels* K
    plan += PLAN_ROW * (F - 1)
    for s in range(F - 1, -1, -1):
        P, Q, left, R = plan[P_], plan[Q_], plan[LEFT], plan[RIGHT] * E
        factor = WH + parts * plan[OFFSET]
        before = stages + (s - 1) * stride if s else x
        target = targets + (s % 2) * stride if s else last
        if R != parts:
            K = widest(level, R, real is double)
            K.sweep_backward(
                REALS if parts == 1 else COMPLEXES, P, Q, factor, dy, before, target, left, R,
                G + LARGEST_VECTOR * parts * plan[OFFSET],
            )
        else:
            K = widest(level, min(P, Q) * R, real is double)
            row_gradient(K, parts, P, Q, R, before, dy, left, form, dW + parts * plan[OFFSET])
            real_form(parts, Q, P, R, factor, form)
            K.row_sweep(P * R, Q * R, form, dy, target, left)
        dy = target
        plan -= PLAN_ROW


cdef void fold_sweeps(
    int level, int parts, Py_ssize_t E, Py_ssize_t F, const Py_ssize_t* plan, real* G, double* dW,
) noexcept nogil:
    """Add to dW what sweeps_backward left in G, and clear that."""
    cdef Py_ssize_t s
    cdef const Kernels* K
    for s in range(F):
        if plan[RIGHT] * E != parts:
            K = widest(level, plan[RIGHT] * E, real is double)
            K.fold(
                REALS if parts == 1 else COMPLEXES, plan[P_] * plan[Q_],
                G + LARGEST_VECTOR * parts * plan[OFFSET], dW + parts * plan[OFFSET],
            )
        plan += PLAN_ROW


cdef void real_form(
    int parts, Py_ssize_t P, Py_ssize_t Q, Py_ssize_t R, const real* W, real* A,
) noexcept nogil:
    """A = (W ⊗ I)^T as a real (Q R, P R) matrix; a complex entry is [[re, im], [-im, re]]."""
    cdef Py_ssize_t p, q, r, J = P * R
    cdef const real* w = W
    cdef real* a
    memset(A, 0, Q * R * J * sizeof(real))
    for p in range(P):
        for q in range(Q):
            for r in range(R // parts):
                a = A + (q * R + parts * r) * J + p * R + parts * r
                a[0] = w[0]
                if parts == 2:
                    a[1], a[J], a[J + 1] = w[1], -w[1], w[0]
            w += parts


cdef void row_gradient(
    const Kernels* K, int parts, Py_ssize_t P, Py_ssize_t Q, Py_ssize_t R, const real* x,
    const real* dy, Py_ssize_t left, real* form, double* dW,
) noexcept nogil:
    """Add to dW what real_form makes of a gradient of A."""
    cdef Py_ssize_t p, q, r, J = P * R
    cdef double* dA = <double*>form
    cdef double* a
    memset(dA, 0, Q * R * J * sizeof(double))
    K.row_accumulate(Q * R, J, x, dy, left, dA)
    for p in range(P):
        for q in range(Q):
            for r in range(R // parts):
                a = dA + (q * R + parts * r) * J + p * R + parts * r
                if parts == 2:
                    dW[0] += a[0] + a[J + 1]
                    dW[1] += a[1] - a[J]
                else:
                    dW[0] += a[0]
            dW += parts


# The recurrence over time. Sequences are independent, so a batch is cut into blocks of
# columns, and a block goes through all time steps by itself: its state stays in the cache,
# and blocks share nothing but their parameters. The cut depends on the sizes alone and
# each block sums its own gradients, so results are the same for any number of threads.
# A row of a block has E parts: those of its columns, and zeros if they do not fill a vector.

cdef struct Sizes:
    int level, parts
    int kind                  # of the nonlinearity
    int direct                # whether dh is given, not dy
    int scatter               # whether dU is summed label by label, in dU_labels
    Py_ssize_t T, D, N, B
    Py_ssize_t F              # sweeps
    Py_ssize_t M              # outputs, where the gradient is given as dy
    Py_ssize_t K              # last steps that have a gradient of their own
    Py_ssize_t stride         # parts of an array that holds any stage of a step
    Py_ssize_t n_factors      # entries of all factors
    Py_ssize_t gathered       # time steps whose dz and x make one product dU


cdef struct Block:
    Py_ssize_t first, width, E
    Py_ssize_t size           # numbers in a state, in whole vectors
    int whole                 # whether states in memory are as they are in scratch


cdef Block block_of(Sizes n, const Py_ssize_t* columns, Py_ssize_t i, int is_double) noexcept nogil:
    cdef Block block
    block.first, block.width = columns[i], columns[i + 1] - columns[i]
    block.E = row_parts(n.parts, block.width, is_double)
    block.size = whole_vectors(n.N * block.E) // n.parts
    block.whole = block.width == n.B and block.size * n.parts == n.N * n.B * n.parts
    return block


cpdef Py_ssize_t row_parts(int parts, Py_ssize_t width, int is_double) noexcept nogil:
    """Return E for a block of this width."""
    cdef Py_ssize_t least = LARGEST_VECTOR // 2 if is_double else LARGEST_VECTOR
    return max(parts * width, least)


cdef Py_ssize_t whole_vectors(Py_ssize_t n) noexcept nogil:
    """Round up to full vectors, two of them since complex numbers are activated by pairs."""
    return (n + 2 * LARGEST_VECTOR - 1) // (2 * LARGEST_VECTOR) * (2 * LARGEST_VECTOR)


def scratch_sizes(
    int parts, Py_ssize_t F, Py_ssize_t n_factors, Py_ssize_t D, Py_ssize_t M,
    Py_ssize_t most_rows, Py_ssize_t width, int is_double,
):
    """Return the stride of a block's arrays, how many steps to gather, and the numbers of
    elements of scratch that a block needs forward, backward and for its readout."""
    cdef Py_ssize_t E = row_parts(parts, width, is_double), gathered, stride, pairs
    stride = whole_vectors(most_rows * E)
    gathered = min(16, max(1, (1 << 18) // (stride * (8 if is_double else 4))))
    pairs = whole_vectors((D + M) * E)
    forward = 4 * stride + pairs
    backward = (
        (F + 6 + gathered) * stride + (gathered + 1) * pairs
        + LARGEST_VECTOR * parts * n_factors + LARGEST_VECTOR * 4 * max(D, M)
    )
    readout = (gathered + 1) * (stride + pairs) + LARGEST_VECTOR * 4 * max(D, M)
    return stride, gathered, forward, backward, readout


def recurrence_forward(
    int level, int kind, int parts, int threads,
    const Py_ssize_t[::1] columns, const Py_ssize_t[:, ::1] plan, const real[::1] W,
    const real[::1] U, const real[:, ::1] b,
    const real[:, :, ::1] x, const int64_t[:, ::1] labels, const real[:, ::1] h0,
    real[:, :, ::1] h, real[:, ::1] scratch, Py_ssize_t stride,
):
    """h[t] = sigma(W h[t-1] + U x[t], b) for all t; x is empty where labels are given."""
    cdef Sizes n
    n.level, n.parts, n.kind, n.F, n.stride = level, parts, kind, plan.shape[0], stride
    n.T, n.N, n.B = h.shape[0], h.shape[1], h.shape[2] // parts
    n.D = U.shape[0] // (parts * n.N)
    cdef const real* inputs = NULL
    cdef const int64_t* classes = NULL
    if x.shape[0]:
        inputs = &x[0, 0, 0]
    else:
        classes = &labels[0, 0]
    cdef Py_ssize_t thread, t, i, blocks = columns.shape[0] - 1
    cdef const real* previous
    # A thread's blocks go through time side by side: together they write whole rows of h.
    for thread in prange(threads, nogil=True, schedule="static", num_threads=threads):
        for t in range(n.T):
            previous = &h[t - 1, 0, 0] if t else &h0[0, 0]
            for i in range(blocks * thread // threads, blocks * (thread + 1) // threads):
                forward_step(
                    n, block_of(n, &columns[0], i, real is double), &plan[0, 0], &W[0], &U[0],
                    &b[i, 0], inputs + t * n.D * n.B if inputs != NULL else NULL,
                    classes + t * n.B if classes != NULL else NULL, previous, &h[t, 0, 0],
                    &scratch[thread, 0],
                )


cdef void forward_step(
    Sizes n, Block block, const Py_ssize_t* plan, const real* W, const real* U, const real* b,
    const real* x, const int64_t* labels, const real* previous, real* h, real* scratch,
) noexcept nogil:
    cdef const Kernels* K = kernels_for(n.level, real is double)
    cdef Py_ssize_t E = block.E, row = n.parts * n.B, used = n.parts * block.width
    cdef real* u = scratch
    cdef real* z = scratch + n.stride
    cdef real* padded = scratch + 3 * n.stride  # its last columns stay 0
    cdef real* spread_x = scratch + 4 * n.stride
    cdef const real* Wh
    cdef Py_ssize_t run = n.N * block.width if E == row else block.width, previous_row = row
    previous += n.parts * block.first
    h += n.parts * block.first
    if used < E:
        K.copy(n.N, used, previous, row, padded, E)
        previous, previous_row = padded, E
    Wh = apply_sweeps(
        n.level, n.parts, E, plan, W, n.F, previous, previous_row, z, n.stride, 2, <real*>NULL, E,
        <real*>NULL,
    )
    if labels != NULL:
        K.look_up(n.parts, n.N, n.D, block.width, U, labels + block.first, u, E)
    else:
        K.spread(n.parts, n.D, block.width, x + block.first, n.B, spread_x, E)
        K.sweep(REALS if n.parts == 1 else PAIRS, n.N, n.D, U, spread_x, E, u, E, 1, 1, E)
    if used == E and run >= K.lanes:
        K.activate(n.kind, n.parts, 1 if E == row else n.N, run, Wh, u, b, h, row)
    else:
        K.activate(n.kind, n.parts, 1, block.size, Wh, u, b, u, 0)
        K.copy(n.N, used, u, E, h, row)


def recurrence_backward(
    int level, int kind, int parts, int threads,
    const Py_ssize_t[::1] columns, const Py_ssize_t[:, ::1] plan, const real[::1] W,
    const real[::1] WH, const real[::1] U, const real[::1] UT, const real[:, ::1] b,
    const real[:, :, ::1] x, const int64_t[:, ::1] labels, const real[:, ::1] h0,
    const real[:, :, ::1] h, const real[:, :, ::1] dh, const real[::1] V,
    const real[:, :, ::1] dy,
    real[:, ::1] dh0, real[:, :, ::1] dx, double[:, ::1] dW, double[:, ::1] dU,
    double[:, ::1] dU_labels, double[:, ::1] db, real[:, ::1] scratch, Py_ssize_t stride,
    Py_ssize_t gathered,
):
    """Back-propagate through recurrence_forward.

    The last steps' own gradient of h is dh, or V dy where dh is empty. Each block adds to
    its row of dW, db, and dU or its transpose dU_labels, whichever is not empty; dx is left alone
    where it is empty.
    """
    cdef Sizes n
    n.level, n.parts, n.kind, n.F, n.stride = level, parts, kind, plan.shape[0], stride
    n.T, n.N, n.B = h.shape[0], h.shape[1], h.shape[2] // parts
    n.D = U.shape[0] // (parts * n.N)
    n.n_factors, n.gathered = W.shape[0] // parts, gathered
    n.direct = dh.shape[0] > 0
    n.scatter = dU_labels.shape[1] > 1
    n.M = dy.shape[1]
    n.K = dh.shape[0] if n.direct else dy.shape[0]
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
    cdef Py_ssize_t i
    for i in prange(columns.shape[0] - 1, nogil=True, schedule="dynamic", num_threads=threads):
        backward_block(
            n, block_of(n, &columns[0], i, real is double), &plan[0, 0], &W[0], &WH[0], &UT[0],
            &b[i, 0], inputs, classes, &h0[0, 0], &h[0, 0, 0], gradient, readout, &dh0[0, 0],
            dinputs, &dW[i, 0], &dU[i, 0], &dU_labels[i, 0], &db[i, 0], &scratch[i, 0],
        )


cdef void backward_block(
    Sizes n, Block block, const Py_ssize_t* plan, const real* W, const real* WH, const real* UT,
    const real* b, const real* x, const int64_t* labels, const real* h0, const real* h,
    const real* gradient, const real* V,
    real* dh0, real* dx, double* dW, double* dU, double* dU_labels, double* db, real* scratch,
) noexcept nogil:
    cdef const Kernels* K = kernels_for(n.level, real is double)
    cdef int mode = REALS if n.parts == 1 else PAIRS
    cdef Py_ssize_t E = block.E, row = n.parts * n.B, used = n.parts * block.width
    cdef Py_ssize_t pairs = whole_vectors((n.D + n.M) * E), stride = n.stride
    cdef real* g = scratch                     # W^H dz of the step after
    cdef real* targets = scratch + stride      # two, on the way there
    cdef real* own = scratch + 3 * stride      # what h[t] gets from the loss directly
    cdef real* copied = scratch + 4 * stride   # h[t] and h[t-1], in turn with the stages' spare
    cdef real* stages = scratch + 5 * stride   # h[t-1] after each sweep but the last
    cdef real* other = stages + (n.F - 1) * stride
    cdef real* dz_steps = other + stride
    cdef real* x_steps = dz_steps + n.gathered * stride
    cdef real* columns_t = x_steps + n.gathered * pairs
    cdef real* db_columns = columns_t + pairs  # of the steps gathered, column by column
    cdef real* G = db_columns + stride
    cdef real* G_product = G + LARGEST_VECTOR * n.parts * n.n_factors
    cdef real* dz
    cdef real* swap
    cdef const real* state = h + (n.T - 1) * n.N * row
    cdef const real* previous
    cdef Py_ssize_t t, i, k = 0
    if not block.whole:
        K.copy(n.N, used, state + n.parts * block.first, row, copied, E)
        state = copied
    for t in range(n.T - 1, -1, -1):
        i = t - (n.T - n.K)
        if i >= 0 and n.direct:
            K.copy(n.N, used, gradient + i * n.N * row + n.parts * block.first, row, own, E)
        elif i >= 0:
            K.spread(
                n.parts, n.M, block.width, gradient + i * n.M * n.B + block.first, n.B,
                columns_t, E,
            )
            K.sweep(mode, n.N, n.M, V, columns_t, E, own, E, 1, 1, E)
        elif i == -1:
            memset(own, 0, stride * sizeof(real))
        dz = dz_steps + k * stride
        K.activate_backward(n.kind, n.parts, block.size, g, own, state, b, dz, db_columns)

        previous = h + (t - 1) * n.N * row if t else h0
        if not block.whole:
            K.copy(n.N, used, previous + n.parts * block.first, row, other, E)
            previous = other
            swap = other
            other = copied
            copied = swap
        apply_sweeps(
            n.level, n.parts, E, plan, W, n.F - 1, previous, E, stages, stride, n.F, <real*>NULL, E,
            <real*>NULL,
        )
        sweeps_backward(
            n.level, n.parts, E, n.F, plan, WH, previous, stages, dz, targets, stride, g, G,
            <real*>NULL, dW,
        )

        if n.scatter:
            K.look_up_backward(
                n.parts, n.N, block.width, dz, E, labels + t * n.B + block.first, dU_labels
            )
        elif labels != NULL:
            one_hot(
                n.parts, n.D, block.width, labels + t * n.B + block.first, x_steps + k * pairs, E
            )
        else:
            K.spread(
                n.parts, n.D, block.width, x + t * n.D * n.B + block.first, n.B,
                x_steps + k * pairs, E,
            )
        if dx != NULL:
            K.sweep(mode, n.D, n.N, UT, dz, E, columns_t, E, 1, 1, E)
            K.gather(
                n.parts, n.D, block.width, columns_t, E, NULL,
                dx + t * n.D * n.B + block.first, n.B,
            )
        k += 1
        if k == n.gathered or t == 0:
            fold_sweeps(n.level, n.parts, E, n.F, plan, G, dW)
            fold_columns(n.N, E // n.parts, block.width, db_columns, db)
            if not n.scatter:
                product(
                    K, mode, n.N, n.D, dz_steps, stride, x_steps, pairs, k, E, G_product, dU
                )
            k = 0
        state = previous
    K.copy(n.N, used, g, E, dh0 + n.parts * block.first, row)


cdef void fold_columns(
    Py_ssize_t N, Py_ssize_t row, Py_ssize_t width, real* columns, double* sums,
) noexcept nogil:
    """sums += columns[:, :width].sum(axis=1), these in double precision; columns = 0."""
    cdef Py_ssize_t i, b
    cdef double total
    for i in range(N):
        total = 0
        for b in range(width):
            total += columns[i * row + b]
        sums[i] += total
    memset(columns, 0, N * row * sizeof(real))


cdef void one_hot(
    int parts, Py_ssize_t D, Py_ssize_t width, const int64_t* labels, real* x, Py_ssize_t E,
) noexcept nogil:
    """x[labels, :width] = 1, in all parts, the rest 0."""
    cdef Py_ssize_t b, part
    memset(x, 0, D * E * sizeof(real))
    for b in range(width):
        for part in range(parts):
            x[labels[b] * E + parts * b + part] = 1


cdef void product(
    const Kernels* K, int mode, Py_ssize_t rows, Py_ssize_t columns, const real* a,
    Py_ssize_t a_left, const real* b, Py_ssize_t b_left, Py_ssize_t left, Py_ssize_t R,
    real* G, double* sums,
) noexcept nogil:
    """sums += a @ b.T, over `left` indices and R, four rows at a time."""
    cdef Py_ssize_t i, count
    for i in range(0, rows, 4):
        count = min(<Py_ssize_t>4, rows - i)
        K.accumulate(mode, count, columns, a + i * R, a_left, b, b_left, left, R, G)
        K.fold(mode, count * columns, G, sums)
        sums += count * columns * (2 if mode == PAIRS else 1)


def readout_forward(
    int level, int parts, int threads, const Py_ssize_t[::1] columns,
    const real[::1] V, const real[::1] c, const real[:, :, ::1] h,
    real[:, :, ::1] y, real[:, ::1] scratch, Py_ssize_t stride,
):
    """y[t] = V [Re h[t]; Im h[t]] + c for all t; V in pairs (M, N)."""
    cdef Sizes n
    n.level, n.parts, n.stride, n.M = level, parts, stride, y.shape[1]
    n.T, n.N, n.B = h.shape[0], h.shape[1], h.shape[2] // parts
    cdef Py_ssize_t i
    for i in prange(columns.shape[0] - 1, nogil=True, schedule="dynamic", num_threads=threads):
        readout_block(
            n, block_of(n, &columns[0], i, real is double), &V[0], &c[0], &h[0, 0, 0],
            &y[0, 0, 0], &scratch[i, 0],
        )


cdef void readout_block(
    Sizes n, Block block, const real* V, const real* c, const real* h, real* y, real* scratch,
) noexcept nogil:
    cdef const Kernels* K = kernels_for(n.level, real is double)
    cdef Py_ssize_t row = n.parts * n.B, t
    cdef real* y_t = scratch + n.stride
    cdef const real* state
    for t in range(n.T):
        state = h + t * n.N * row
        if not block.whole:
            K.copy(
                n.N, n.parts * block.width, state + n.parts * block.first, row, scratch, block.E
            )
            state = scratch
        K.sweep(
            REALS if n.parts == 1 else PAIRS, n.M, n.N, V, state, block.E, y_t, block.E, 1, 1,
            block.E,
        )
        K.gather(
            n.parts, n.M, block.width, y_t, block.E, c, y + t * n.M * n.B + block.first, n.B
        )


def readout_backward(
    int level, int parts, int threads, const Py_ssize_t[::1] columns,
    const real[:, :, ::1] h, const real[:, :, ::1] dy, double[:, ::1] dV,
    real[:, ::1] scratch, Py_ssize_t stride, Py_ssize_t gathered,
):
    """dV^T = sum over t of [Re h[t]; Im h[t]] dy[t]^T in pairs (N, M); a block adds to its row."""
    cdef Sizes n
    n.level, n.parts, n.stride, n.M, n.gathered = level, parts, stride, dy.shape[1], gathered
    n.T, n.N, n.B = h.shape[0], h.shape[1], h.shape[2] // parts
    cdef Py_ssize_t i
    for i in prange(columns.shape[0] - 1, nogil=True, schedule="dynamic", num_threads=threads):
        readout_backward_block(
            n, block_of(n, &columns[0], i, real is double), &h[0, 0, 0], &dy[0, 0, 0], &dV[i, 0],
            &scratch[i, 0],
        )


cdef void readout_backward_block(
    Sizes n, Block block, const real* h, const real* dy, double* dV, real* scratch,
) noexcept nogil:
    cdef const Kernels* K = kernels_for(n.level, real is double)
    cdef Py_ssize_t row = n.parts * n.B, pairs = whole_vectors(n.M * block.E), t, k = 0
    cdef real* h_steps = scratch
    cdef real* dy_steps = scratch + n.gathered * n.stride
    cdef real* G = dy_steps + n.gathered * pairs
    cdef const real* states = h_steps
    cdef Py_ssize_t stride = n.N * row if block.whole else n.stride
    for t in range(n.T):
        if block.whole:
            states = h + (t - k) * stride
        else:
            K.copy(
                n.N, n.parts * block.width, h + t * n.N * row + n.parts * block.first, row,
                h_steps + k * stride, block.E,
            )
        K.spread(
            n.parts, n.M, block.width, dy + t * n.M * n.B + block.first, n.B,
            dy_steps + k * pairs, block.E,
        )
        k += 1
        if k == n.gathered or t == n.T - 1:
            product(
                K, REALS if n.parts == 1 else PAIRS, n.N, n.M, states, stride, dy_steps, pairs,
                k, block.E, G, dV,
            )
            k = 0


include "_gates.pxi"
