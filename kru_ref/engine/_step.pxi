# One time step, again and again, and its readout: part of _kernels.pyx.

# What can be made once is made once. What comes with each call is taken only if it is exactly as
# expected, and answered with None if not: the caller then goes the way that converts it, or that
# says what is wrong.

cdef class OneStep:
    """A recurrence of one time step on B sequences; Cell.step.

    shapes are those of a gate's factors; b, x, gates and scratch are room for what their names say.
    """

    cdef Recurrence recurrence
    cdef tuple shapes
    cdef object merged, b, x, gates, scratch
    cdef bint is_busy  # whoever comes meanwhile, such as another thread, goes another way

    def __init__(self, Recurrence recurrence, tuple shapes, dict room):
        self.recurrence, self.shapes = recurrence, shapes
        self.merged, self.b, self.x = room["merged"], room["b"], room["x"]
        self.gates, self.scratch = room["gates"], room["scratch"]

    def __call__(self, int level, dict params, tuple names, x, tuple before):
        """Return the state after the step: h, or h and c.

        names are those of the factors, of U, of b and, of a GRU, of b_h.
        """
        if self.is_busy:
            return None
        self.is_busy = True
        try:
            return self.step(level, params, names, x, before)
        finally:
            self.is_busy = False

    cdef step(self, int level, dict params, tuple names, x, tuple before):
        cdef Sizes n = self.recurrence.n
        cdef Arrays a
        cdef Block block = block_at(n.panels.cuts, 0, n.parts, n.is_double)
        memset(&a, 0, sizeof(a))
        n.level = n.panels.level = level
        if not self.takes_params(&n, &a, params, names):
            return None
        if not (self.takes_labels(&n, &a, x) if x.ndim == 1 else self.takes_x(&n, &a, x)):
            return None
        after = self.takes_state(&n, &a, before)
        if after is not None and n.is_double:
            forward_step(&n, &a, block, 0, <double*>cnp.PyArray_DATA(self.scratch))
        elif after is not None:
            forward_step(&n, &a, block, 0, <float*>cnp.PyArray_DATA(self.scratch))
        return after

    cdef bint takes_params(self, Sizes* n, Arrays* a, dict params, tuple names) except -1:
        cdef Py_ssize_t F = len(self.shapes), G = n.n_gates, k, f
        cdef list W = [params.get(name) for name in names[: G * F]]
        for f in range(G * F):
            P, Q = self.shapes[f % F]
            if data_if(W[f], n.parts, n.is_double, P, Q) == NULL:
                return False
        for k in range(G):
            if n.is_dense:
                a.W[k] = cnp.PyArray_DATA(W[k])
            else:
                a.W[k] = cnp.PyArray_GETPTR1(self.merged, k * n.panels.n_numbers)
                merge_into(self.recurrence.product, W[k * F : (k + 1) * F], <void*>a.W[k])
        a.U = data_if(params.get(names[G * F]), n.parts, n.is_double, G * n.N, n.D)
        b = params.get(names[G * F + 1])
        a.b_of_U = data_if(b, 1, n.is_double, G * n.N, -1)
        if a.U == NULL or a.b_of_U == NULL:
            return False
        if not n.is_gated:
            a.b_of_U = NULL
        elif n.n_d > G:
            b = params.get(names[G * F + 2])
        if not n.is_gated or n.n_d > G:
            a.b = self.repeated(n, data_if(b, 1, n.is_double, n.N, -1))
            return a.b != NULL
        return True

    cdef void* repeated(self, const Sizes* n, const void* b):
        """Return b once for each column, as nonlinearities take it."""
        cdef void* to = cnp.PyArray_DATA(self.b)
        cdef Py_ssize_t row = row_parts(n.parts, n.B, n.is_double) // n.parts
        if b == NULL:
            return NULL
        if n.is_double:
            repeat_columns(n.N, row, n.B, <const double*>b, <double*>to)
        else:
            repeat_columns(n.N, row, n.B, <const float*>b, <float*>to)
        return to

    cdef bint takes_labels(self, const Sizes* n, Arrays* a, labels) except -1:
        cdef Py_ssize_t b
        if cnp.PyArray_TYPE(labels) != cnp.NPY_INT64 or not cnp.PyArray_ISCARRAY_RO(labels) or (
            cnp.PyArray_DIM(labels, 0) != n.B
        ):
            return False
        a.labels = <const int64_t*>cnp.PyArray_DATA(labels)
        for b in range(n.B):
            if not 0 <= a.labels[b] < n.D:
                return False
        return True

    cdef bint takes_x(self, const Sizes* n, Arrays* a, x) except -1:
        """Copy x in this precision; return whether it is real, and finite."""
        cdef void* to = cnp.PyArray_DATA(self.x)
        cdef Py_ssize_t size = n.D * n.B
        cdef const void* of_single = data_if(x, 1, False, n.D, n.B)
        cdef const void* of_double = data_if(x, 1, True, n.D, n.B)
        a.x = to
        if of_single == NULL and of_double == NULL:
            return False
        if n.is_double and of_single != NULL:
            return converts(size, <const float*>of_single, <double*>to)
        if n.is_double:
            return converts(size, <const double*>of_double, <double*>to)
        if of_single != NULL:
            return converts(size, <const float*>of_single, <float*>to)
        return converts(size, <const double*>of_double, <float*>to)

    cdef takes_state(self, const Sizes* n, Arrays* a, tuple before):
        """Return new arrays for the state after, if the one before is as expected."""
        cdef cnp.npy_intp[2] shape
        cdef int part, dtype = cnp.NPY_DOUBLE if n.is_double else cnp.NPY_FLOAT
        shape[0], shape[1] = n.N, n.B
        if n.parts == 2:
            dtype = cnp.NPY_CDOUBLE if n.is_double else cnp.NPY_CFLOAT
        if len(before) != n.n_states:
            return None
        after = []
        for part in range(n.n_states):
            a.before[part] = data_if(before[part], n.parts, n.is_double, n.N, n.B)
            if a.before[part] == NULL:
                return None
            after.append(cnp.PyArray_SimpleNew(2, shape, dtype))
            a.states[part] = cnp.PyArray_DATA(after[part])
        a.gates = cnp.PyArray_DATA(self.gates)
        return tuple(after)


cdef void* data_if(a, int parts, bint is_double, Py_ssize_t rows, Py_ssize_t columns):
    """Return an array's data if it is of this dtype and shape, and contiguous; or NULL.

    A vector has -1 columns.
    """
    if not is_ready(a) or cnp.PyArray_NDIM(a) != (1 if columns < 0 else 2) or (
        cnp.PyArray_DIM(a, 0) != rows or columns >= 0 and cnp.PyArray_DIM(a, 1) != columns
    ):
        return NULL
    if cnp.PyArray_ITEMSIZE(a) != parts * (8 if is_double else 4) or (
        cnp.PyArray_ISCOMPLEX(a) != (parts == 2)
    ):
        return NULL
    return cnp.PyArray_DATA(a)


cdef void repeat_columns(
    Py_ssize_t N, Py_ssize_t row, Py_ssize_t width, const real* b, real* to
) noexcept nogil:
    cdef Py_ssize_t i, column
    for i in range(N):
        for column in range(width):
            to[i * row + column] = b[i]


ctypedef fused other:
    float
    double


cdef bint converts(Py_ssize_t n, const other* x, real* to) noexcept nogil:
    """Copy numbers in another precision; return whether all are finite."""
    cdef Py_ssize_t i
    cdef bint is_finite = True
    for i in range(n):
        to[i] = <real>x[i]
        is_finite &= to[i] - to[i] == 0
    return is_finite


def read_out(V, c, h, Py_ssize_t M):
    """Return y = V h + c, or V [Re h; Im h] + c, (M, B), or None; SequenceModel.forward."""
    cdef cnp.npy_intp[2] shape
    cdef Py_ssize_t N, K
    if not is_ready(h) or cnp.PyArray_NDIM(h) != 2:
        return None
    cdef int parts = 1 + cnp.PyArray_ISCOMPLEX(h)
    cdef bint is_double = cnp.PyArray_ITEMSIZE(h) == 8 * parts
    N, shape[1] = cnp.PyArray_DIM(h, 0), cnp.PyArray_DIM(h, 1)
    shape[0], K = M, parts * N
    if data_if(V, 1, is_double, shape[0], K) == NULL or (
        data_if(c, 1, is_double, shape[0], -1) == NULL
    ):
        return None
    y = cnp.PyArray_SimpleNew(2, shape, cnp.PyArray_TYPE(c))
    if is_double:
        read_out_of[double](
            parts, N, shape[0], shape[1], <double*>cnp.PyArray_DATA(V),
            <double*>cnp.PyArray_DATA(c), <double*>cnp.PyArray_DATA(h), <double*>cnp.PyArray_DATA(y),
        )
    else:
        read_out_of[float](
            parts, N, shape[0], shape[1], <float*>cnp.PyArray_DATA(V),
            <float*>cnp.PyArray_DATA(c), <float*>cnp.PyArray_DATA(h), <float*>cnp.PyArray_DATA(y),
        )
    return y


cdef int read_out_of(
    int parts, Py_ssize_t N, Py_ssize_t M, Py_ssize_t B, const real* V, const real* c,
    const real* h, real* y,
) except -1:
    cdef Py_ssize_t i, part, size = N * B
    cdef real* features = <real*>h
    if parts == 2:
        features = <real*>malloc(2 * size * sizeof(real))
        if features == NULL:
            raise MemoryError("no memory for the parts of a state")
        for i in range(size):
            features[i], features[size + i] = h[2 * i], h[2 * i + 1]
    repeat_columns(M, B, B, c, y)
    gemm(1, False, M, B, parts * N, V, parts * N, features, B, True, y, B)
    if parts == 2:
        free(features)
    return 0
