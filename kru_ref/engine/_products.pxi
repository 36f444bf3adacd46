# Kronecker products: part of _kernels.pyx.

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
    """Return all groups of neighbouring factors as the kernels take them, one flat array.

    None if the plan has butterflies and a factor is too near singular for them.
    """
    cdef cnp.npy_intp size = product.n.n_numbers
    merged = cnp.PyArray_ZEROS(1, &size, cnp.PyArray_TYPE(factors[0]), 0)
    return merged if merge_into(product, factors, cnp.PyArray_DATA(merged)) else None


cdef bint merge_into(Product product, factors, void* merged) except -1:
    """Set merged to what merge() returns; return whether it can be."""
    cdef bint fits
    cdef void* flat = malloc(cnp.PyArray_ITEMSIZE(factors[0]) * product.n_entries)
    if flat == NULL:
        raise MemoryError("no memory for the factors of a Kronecker product")
    try:
        concatenate(factors, cnp.PyArray_TYPE(factors[0]), product.n_entries, flat)
        if cnp.PyArray_TYPE(factors[0]) in (cnp.NPY_FLOAT, cnp.NPY_CFLOAT):
            fits = merge_groups[float](&product.n, <float*>flat, <float*>merged)
        else:
            fits = merge_groups[double](&product.n, <double*>flat, <double*>merged)
    finally:
        free(flat)
    return fits


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


# Groups are given as how many there are; each as its length, the numbers that it takes of W, where
# the diagonals of its run begin behind all groups (D, L; -1 for a group that is multiplied out, and
# D of real factors), how many factors of the run come before, and its factors' shapes.
cdef enum:
    LENGTH, SIZE, OF_D, OF_L, BEFORE, SHAPES


cdef bint merge_groups(const Panels* n, const real* W, real* merged) noexcept nogil:
    """Multiply out groups, or take butterflies apart; return whether all of these can be."""
    cdef Py_ssize_t i, f, n_groups = n.groups[0]
    cdef const Py_ssize_t* group = n.groups + 1
    cdef real* diagonals = merged + n.parts * n.n_factors
    cdef double least = 1, most = 1  # of |L|
    for i in range(n_groups):
        if group[OF_L] < 0:
            W = multiply_out(n.parts, group, W, merged)
        else:
            for f in range(group[LENGTH]):
                if not take_apart(n.parts, group, f, W, merged + 4 * f, diagonals, &least, &most):
                    return False
                W += 4 * n.parts
        merged += n.parts * group[SIZE]
        group += SHAPES + 2 * group[LENGTH]
    if real is float:
        return least > 1e-30 and most < 1e30
    return least > 1e-250 and most < 1e250


cdef const real* multiply_out(
    int parts, const Py_ssize_t* group, const real* W, real* merged
) noexcept nogil:
    """Set merged to the product of a group; return where the factors behind it begin."""
    cdef const Py_ssize_t* shapes = group + SHAPES
    cdef Py_ssize_t f, P = shapes[0], Q = shapes[1]
    memcpy(merged, W, parts * P * Q * sizeof(real))
    W += parts * P * Q
    for f in range(1, group[LENGTH]):
        kron(parts, P, Q, merged, shapes[2 * f], shapes[2 * f + 1], W)
        W += parts * shapes[2 * f] * shapes[2 * f + 1]
        P, Q = P * shapes[2 * f], Q * shapes[2 * f + 1]
    return W


cdef bint take_apart(
    int parts, const Py_ssize_t* group, Py_ssize_t f, const real* W, real* entry,
    real* diagonals, double* least, double* most,
) noexcept nogil:
    """Set u, v and the exchange of one factor, and add it to its run's diagonals.

    butterflies.butterfly says how. Return whether it is far enough from singular.
    """
    cdef double complex w[4]
    cdef double complex l[2]
    cdef double complex r[2]
    cdef double complex v
    cdef double u, largest = 0
    cdef int i, exchanged
    cdef Py_ssize_t before = group[BEFORE] + f
    for i in range(4):
        w[i] = W[parts * i] + 1j * W[parts * i + 1] if parts == 2 else W[i]
        largest = max(largest, abs(w[i]))
    exchanged = abs(w[1] * w[2]) > abs(w[0] * w[3])
    if exchanged:
        w[0], w[1], w[2], w[3] = w[1], w[0], w[3], w[2]
    if not HUGE_VAL > abs(w[0] * w[3]) >= LEAST_PRODUCT * largest * largest > 0:
        return False
    r[0], l[0] = 1, w[0]
    if parts == 1:
        u, r[1] = (w[1] / w[0]).real, 1
    else:
        u = abs(w[1] / w[0])
        r[1] = w[1] / w[0] / u if u > 0 else 1
    l[1] = w[3] / r[1]
    v = w[2] / l[1]
    entry[0], entry[1], entry[2], entry[3] = <real>u, <real>v.real, <real>v.imag, exchanged
    least[0] *= min(abs(l[0]), abs(l[1]))
    most[0] *= max(abs(l[0]), abs(l[1]))
    grow(parts, before, l[0], l[1], diagonals + group[OF_L])
    if group[OF_D] >= 0:
        grow(parts, before, r[exchanged], r[1 - exchanged], diagonals + group[OF_D])
    return True


cdef void grow(
    int parts, Py_ssize_t before, double complex first, double complex second, real* diagonal
) noexcept nogil:
    """A diagonal of 2^before entries becomes diagonal ⊗ (first, second), from the back."""
    cdef Py_ssize_t i, j, size = DIAGONAL(REALS if parts == 1 else COMPLEXES)
    cdef double complex old, value
    cdef real* entry
    for i in range((1 << before) - 1, -1, -1):
        entry = diagonal + i * size
        old = 1
        if before and parts == 1:
            old = entry[0]
        elif before:
            old = entry[0] + 1j * entry[3]
        for j in range(1, -1, -1):
            value = old * (second if j else first)
            entry = diagonal + (2 * i + j) * size
            entry[0] = <real>value.real
            if parts == 2:
                entry[1], entry[2], entry[3] = 0, -<real>value.imag, <real>value.imag


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

cdef enum:
    OFFSET, P_, Q_, LEFT, RIGHT  # of W; sizes; right of a single column
    PAIRS_                       # of butterflies how many factors, else 0
    OF_D_, OF_L_                 # where diagonals begin behind all groups, or -1
    LEFTS, RIGHTS, SAME          # see Butterflies in simd.h
    PLAN_ROW


# Of the entries whose product is divided by, relative to the largest |w|²; see butterflies.py.
cdef double LEAST_PRODUCT = butterflies.LEAST_PRODUCT


cdef struct Panels:
    int level, parts
    Py_ssize_t F                # sweeps, and of each one row of the plan
    const Py_ssize_t* plan
    const Py_ssize_t* groups    # see merge_groups
    Py_ssize_t left, n_cuts     # panels: left × n_cuts
    const Py_ssize_t* cuts      # the first column of each, and the end
    Py_ssize_t B                # columns of x and y
    Py_ssize_t rows_in, rows_out, most_rows
    Py_ssize_t stride           # parts of the largest panel between sweeps
    Py_ssize_t n_factors        # numbers of all groups
    Py_ssize_t n_numbers        # and of the diagonals behind them
    Py_ssize_t real_form        # those of the largest real_form()
    Py_ssize_t largest          # factor that is not left to BLAS


cdef class Product:
    """A product of factors applied to (left, rows, B): all that follows from shapes.

    Its plan is that of plans.py; cuts are the beginnings of panels in B, and the end; factors above
    the largest are left to BLAS.
    """

    cdef Panels n
    cdef const Py_ssize_t[:, ::1] sweeps
    cdef const Py_ssize_t[::1] groups, cuts
    cdef Py_ssize_t n_entries  # of all factors, before they are merged

    def __init__(
        self, int parts, Py_ssize_t left, const Py_ssize_t[::1] cuts, plan, Py_ssize_t stride,
        Py_ssize_t largest,
    ):
        self.sweeps, self.groups, self.cuts = plan.sweeps, plan.merging, cuts
        self.n_entries = plan.n_entries
        self.n.parts, self.n.left, self.n.stride = parts, left, stride
        self.n.F, self.n.plan = self.sweeps.shape[0], &self.sweeps[0, 0]
        self.n.groups = &self.groups[0]
        self.n.n_cuts, self.n.cuts = cuts.shape[0] - 1, &self.cuts[0]
        self.n.B = cuts[cuts.shape[0] - 1]
        self.n.rows_out, self.n.rows_in = plan.rows
        self.n.most_rows, self.n.n_factors = plan.most_rows, plan.n_merged
        self.n.n_numbers = plan.n_numbers
        self.n.real_form = plan.real_form
        self.n.largest = largest


def matvec(Product product, int level, int threads, factors, x, bint in_place):
    """y = (W_0 ⊗ … ⊗ W_{F-1}) x for each left index; kronecker.numpy_matvec.

    In place, x itself becomes y, of the same size. None, and x as it was, if the plan has
    butterflies and a factor is too near singular for them.
    """
    cdef bint fits
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
        fits = matvec_of[float](
            product, n, threads, factors, cnp.PyArray_TYPE(x), <float*>cnp.PyArray_DATA(x),
            <float*>cnp.PyArray_DATA(y),
        )
    else:
        fits = matvec_of[double](
            product, n, threads, factors, cnp.PyArray_TYPE(x), <double*>cnp.PyArray_DATA(x),
            <double*>cnp.PyArray_DATA(y),
        )
    return y if fits else None


cdef bint matvec_of(
    Product product, Panels n, int threads, factors, int dtype, const real* x, real* y
) except *:
    cdef Py_ssize_t panel, panels = n.left * n.n_cuts
    cdef Py_ssize_t size = 2 * n.stride + (n.real_form + 15) // 16 * 16
    if threads > panels:
        threads = panels
    cdef Py_ssize_t entries = n.parts * (product.n_entries + n.n_numbers)
    cdef real* memory = <real*>malloc((threads * size + entries) * sizeof(real) + 64)
    if memory == NULL:
        raise MemoryError("no memory for the panels of a Kronecker product")
    cdef real* scratch = <real*>((<size_t>memory + 63) // 64 * 64)  # from a cache line on
    cdef real* flat = scratch + threads * size
    cdef real* W = flat + n.parts * product.n_entries
    try:
        concatenate(factors, dtype, product.n_entries, flat)
        if not merge_groups(&n, flat, W):
            return False
        if threads == 1:
            with nogil:
                for panel in range(panels):
                    matvec_panel(&n, panel, W, x, y, scratch)
        else:
            for panel in prange(panels, nogil=True, schedule="static", num_threads=threads):
                matvec_panel(&n, panel, W, x, y, scratch + threadid() * size)
        return True
    finally:
        free(memory)


cdef void matvec_panel(
    const Panels* n, Py_ssize_t panel, const real* W, const real* x, real* y, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t l = panel // n.n_cuts, first = n.cuts[panel % n.n_cuts]
    cdef Py_ssize_t E = n.parts * (n.cuts[panel % n.n_cuts + 1] - first), row = n.parts * n.B
    cdef real* A = scratch + 2 * n.stride
    # In place, one sweep alone would write over what it still has to read.
    cdef bint aside = x == y and n.F == 1
    x += n.parts * (l * n.rows_in * n.B + first)
    y += n.parts * (l * n.rows_out * n.B + first)
    if aside:
        apply_sweeps(n, E, W, x, row, scratch, scratch, E, A)
        kernels_for(n.level, real is double).copy(n.rows_out, E, scratch, E, y, row)
    else:
        apply_sweeps(n, E, W, x, row, scratch, y, row, A)


def matvec_backward(
    Product product, int level, int threads, const real[::1] W, const real[::1] WH,
    const real[::1] x, const real[::1] dy, double[:, ::1] dW, real[::1] dx, real[:, ::1] scratch,
):
    """Set dx, and add to each chunk's row of dW; kronecker.numpy_backward."""
    cdef Panels n = product.n
    n.level = level
    cdef Py_ssize_t chunk, chunks = scratch.shape[0]
    for chunk in prange(chunks, nogil=True, schedule="dynamic", num_threads=threads):
        matvec_backward_chunk(
            &n, chunk, chunks, &W[0], &WH[0], &x[0], &dy[0], &dW[chunk, 0], &dx[0],
            &scratch[chunk, 0],
        )


cdef void matvec_backward_chunk(
    const Panels* n, Py_ssize_t chunk, Py_ssize_t chunks, const real* W, const real* WH,
    const real* x, const real* dy, double* dW, real* dx, real* scratch,
) noexcept nogil:
    cdef const Kernels* K = kernels_for(n.level, real is double)
    cdef Py_ssize_t panel, panels = n.left * n.n_cuts, l, first, E, row = n.parts * n.B
    cdef real* dy_here = scratch + 2 * n.stride
    cdef real* x_here = dy_here + n.stride
    cdef real* stages = x_here + n.stride
    cdef real* G = stages + n.F * n.stride
    cdef real* A = G + LARGEST_VECTOR * n.parts * n.n_factors
    cdef Room room
    room.targets, room.stages, room.G, room.A = scratch, stages, G, A
    for panel in range(panels * chunk // chunks, panels * (chunk + 1) // chunks):
        l, first = panel // n.n_cuts, n.cuts[panel % n.n_cuts]
        E = n.parts * (n.cuts[panel % n.n_cuts + 1] - first)
        first *= n.parts
        if E == row:
            sweeps_backward(
                n, E, W, WH, x + l * n.rows_in * row, dy + l * n.rows_out * row,
                dx + l * n.rows_in * row, room, dW,
            )
        else:
            K.copy(n.rows_in, E, x + l * n.rows_in * row + first, row, x_here, E)
            K.copy(n.rows_out, E, dy + l * n.rows_out * row + first, row, dy_here, E)
            # the last target is free when dx is written, and x is still read then
            sweeps_backward(n, E, W, WH, x_here, dy_here, scratch, room, dW)
            K.copy(n.rows_in, E, scratch, E, dx + l * n.rows_in * row + first, row)
        fold_sweeps(n, E, G, dW)


# Sweeps over one panel. Rows of a sweep's (left, Q, R) shorter than a vector of the widest
# instruction set are left to a narrower one, in the end to plain loops; where R is a single number,
# a left index is one row of a small real matrix product, its matrix A made from W: real_form().

cdef struct Room:
    void* targets  # two, which sweeps write in turn
    void* stages   # x after each sweep but the last
    void* G        # gradients of the factors, see sums_before()
    void* A        # for a real_form(); of rows that fill a vector NULL


cdef const Kernels* widest(int level, Py_ssize_t R, int is_double) noexcept nogil:
    """Return the kernels of the widest vectors that R elements fill; plain loops if none."""
    while level >= 0 and kernels_for(level, is_double).lanes > R:
        level -= 1
    return kernels_for(level, is_double)


cdef Sweep sweep_of(const Panels* n, Py_ssize_t i, const real* W, Py_ssize_t E) noexcept nogil:
    """Return the i-th sweep, on rows of E parts; W are all factors, or their adjoints."""
    cdef const Py_ssize_t* plan = n.plan + i * PLAN_ROW
    cdef Sweep s
    s.mode, s.P, s.Q = REALS if n.parts == 1 else COMPLEXES, plan[P_], plan[Q_]
    s.W, s.left, s.right, s.E = W + n.parts * plan[OFFSET], plan[LEFT], plan[RIGHT], E
    return s


cdef Butterflies butterflies_of(
    const Panels* n, Py_ssize_t i, const real* W, Py_ssize_t E
) noexcept nogil:
    """Return the i-th sweep where it is of butterflies, on rows of E parts."""
    cdef const Py_ssize_t* plan = n.plan + i * PLAN_ROW
    cdef const real* entries = W + n.parts * plan[OFFSET]
    cdef const real* diagonals = W + n.parts * n.n_factors
    cdef Butterflies s
    cdef int f
    s.mode, s.k, s.entries = REALS if n.parts == 1 else COMPLEXES, plan[PAIRS_], entries
    s.left, s.right, s.E, s.exchanged = plan[LEFT], plan[RIGHT], E, 0
    for f in range(s.k):
        s.exchanged = 2 * s.exchanged + (entries[4 * f + 3] != 0)
    s.D = diagonals + plan[OF_D_] if plan[OF_D_] >= 0 else NULL
    s.L = diagonals + plan[OF_L_] if plan[OF_L_] >= 0 else NULL
    s.lefts, s.rights, s.same = plan[LEFTS], plan[RIGHTS], plan[SAME]
    s.apart = s.rights * DIAGONAL(s.mode)
    return s


cdef Py_ssize_t row_of(const Panels* n, Py_ssize_t i, Py_ssize_t E) noexcept nogil:
    """Return how many neighbouring parts the i-th sweep takes for one row: E where a diagonal is."""
    cdef const Py_ssize_t* plan = n.plan + i * PLAN_ROW
    return E if plan[OF_D_] >= 0 or plan[OF_L_] >= 0 else plan[RIGHT] * E


cdef void apply_sweeps(
    const Panels* n, Py_ssize_t E, const real* W, const real* x, Py_ssize_t x_row, real* targets,
    real* y, Py_ssize_t y_row, real* A,
) noexcept nogil:
    """y = (W_0 ⊗ … ⊗ W_{F-1}) x: sweep x into one of two targets, from there into the other, …, y.

    Rows have E elements; those of x and y may lie further apart.
    """
    cdef Py_ssize_t i, target_row = E
    cdef real* target
    for i in range(n.F):
        target = targets + (i % 2) * n.stride
        if i == n.F - 1:
            target, target_row = y, y_row
        apply_sweep(n, i, E, W, x, x_row, target, target_row, A)
        x, x_row = target, target_row


cdef void apply_sweep(
    const Panels* n, Py_ssize_t i, Py_ssize_t E, const real* W, const real* x, Py_ssize_t x_row,
    real* y, Py_ssize_t y_row, real* A,
) noexcept nogil:
    cdef Sweep s = sweep_of(n, i, W, E)
    cdef Butterflies butterflies
    cdef Py_ssize_t R = s.right * E
    cdef const Kernels* K
    if n.plan[i * PLAN_ROW + PAIRS_]:
        butterflies = butterflies_of(n, i, W, E)
        R = row_of(n, i, E)
        K = widest(n.level, R if x_row == E and y_row == E else E, real is double)
        K.butterflies(&butterflies, x, x_row, y, y_row)
    elif is_large(n, i):
        large_sweep(n.parts, s, x, x_row, y, y_row)
    elif R == n.parts:
        real_form(n.parts, s.P, s.Q, R, <const real*>s.W, A)
        K = widest(n.level, s.P * R, real is double)
        K.row_sweep(s.Q * R, s.P * R, A, x, y, s.left)
    else:
        K = widest(n.level, R if x_row == E and y_row == E else E, real is double)
        K.sweep(&s, x, x_row, y, y_row)


cdef void sweeps_backward(
    const Panels* n, Py_ssize_t E, const real* W, const real* WH, const real* x, const real* dy,
    real* dx, Room room, double* dW,
) noexcept nogil:
    """Set dx = W^H dy, and add the factors' gradients to G, lane by lane, or to dW."""
    cdef real* stages = <real*>room.stages
    cdef const real* before = x
    cdef real* target
    cdef Py_ssize_t i
    for i in range(n.F - 1):
        apply_sweep(n, i, E, W, before, E, stages + i * n.stride, E, <real*>room.A)
        before = stages + i * n.stride
    for i in range(n.F - 1, -1, -1):
        if i > 0:
            before = stages + (i - 1) * n.stride
        else:
            before = x
        target = <real*>room.targets + (i % 2) * n.stride if i else dx
        sweep_backward(n, i, E, WH, before, dy, target, room, dW)
        dy = target


cdef void sweep_backward(
    const Panels* n, Py_ssize_t i, Py_ssize_t E, const real* WH, const real* x, const real* dy,
    real* dx, Room room, double* dW,
) noexcept nogil:
    cdef Sweep s = sweep_of(n, i, WH, E)
    cdef Py_ssize_t R = s.right * E, K, J
    cdef Py_ssize_t offset = n.parts * n.plan[i * PLAN_ROW + OFFSET]
    cdef real* G = <real*>room.G + sums_before(n, n.plan[i * PLAN_ROW + OFFSET])
    cdef Butterflies butterflies
    cdef const Kernels* kernels
    if is_large(n, i):
        large_sweep_backward(n.parts, s, dy, x, dx, G)
    elif n.plan[i * PLAN_ROW + PAIRS_]:
        butterflies = butterflies_of(n, i, WH, E)
        kernels = widest(n.level, row_of(n, i, E), real is double)
        kernels.butterflies_backward(&butterflies, dy, x, dx, G)
    elif R != n.parts:
        kernels = widest(n.level, R, real is double)
        kernels.sweep_backward(&s, dy, x, dx, G)
    else:
        kernels = widest(n.level, min(s.P, s.Q) * R, real is double)
        K, J = s.Q * R, s.P * R
        memset(room.A, 0, K * J * sizeof(double))
        kernels.row_accumulate(K, J, x, dy, s.left, <double*>room.A)
        real_form_backward(n.parts, s.P, s.Q, R, <const double*>room.A, dW + offset)
        real_form(n.parts, s.Q, s.P, R, <const real*>s.W, <real*>room.A)
        kernels.row_sweep(J, K, room.A, dy, dx, s.left)


cdef void fold_sweeps(const Panels* n, Py_ssize_t E, real* G, double* dW) noexcept nogil:
    """Add to dW what sweeps_backward left in G, and clear that."""
    cdef const Py_ssize_t* plan = n.plan
    cdef Py_ssize_t i, entry
    cdef real* of_sweep
    cdef double* sums
    cdef int mode
    for i in range(n.F):
        of_sweep, sums = G + sums_before(n, plan[OFFSET]), dW + n.parts * plan[OFFSET]
        if is_large(n, i):
            for entry in range(n.parts * n_sums(n, i)):
                sums[entry] += of_sweep[entry]
                of_sweep[entry] = 0
        elif plan[RIGHT] * E != n.parts or plan[PAIRS_]:
            mode = COMPLEXES
            if n.parts == 1:
                mode = REALS
            elif plan[PAIRS_]:
                mode = BUTTERFLIES
            widest(n.level, row_of(n, i, E), real is double).fold(
                mode, n_sums(n, i), of_sweep, sums
            )
        plan += PLAN_ROW


cdef Py_ssize_t n_sums(const Panels* n, Py_ssize_t i) noexcept nogil:
    """Return how many numbers the i-th sweep's gradient is."""
    cdef const Py_ssize_t* plan = n.plan + i * PLAN_ROW
    return 2 * plan[PAIRS_] + plan[P_] if plan[PAIRS_] else plan[P_] * plan[Q_]


cdef Py_ssize_t sums_before(const Panels* n, Py_ssize_t offset) noexcept nogil:
    """Return the parts of G in front of that of the factors from offset on.

    Sums are kept lane by lane, but for those of large factors, which BLAS has added up.
    """
    cdef Py_ssize_t i, before = 0
    for i in range(n.F):
        if n.plan[i * PLAN_ROW + OFFSET] < offset:
            before += n_sums(n, i) * (1 if is_large(n, i) else LARGEST_VECTOR)
    return n.parts * before


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


cdef void real_form_backward(
    int parts, Py_ssize_t P, Py_ssize_t Q, Py_ssize_t R, const double* dA, double* dW,
) noexcept nogil:
    """Back-propagate through real_form, adding to dW."""
    cdef Py_ssize_t p, q, r, J = P * R
    cdef const double* a
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
