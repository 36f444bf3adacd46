# The recurrence over time, forward and backward: part of _kernels.pyx.

# One loop for all cells, that of run_numpy and run_numpy_backward in cells/cell.py, whose line
# stands above each stage. A simple cell is the case of one gate with nothing kept but h. What
# belongs to several gates lies one directly under the other, as their rows of U do.

cdef struct ForwardScratch:   # where each array begins in a thread's scratch, and the end of all
    Py_ssize_t targets, Wh, x, Ux, before, after, gates, end


cdef struct BackwardScratch:  # the same in a block's
    Py_ssize_t targets, stages, through_W, from_loss, nothing, past, states, gates, d, x, columns
    Py_ssize_t db, G_of_W, G_of_U, end
    Py_ssize_t x_step         # from the x of one step to that of the next


cdef struct Sizes:
    int level, parts, is_double
    int kind, is_gated
    int is_dense              # one block, one matrix for each gate, d of all steps for the caller
    int is_diagonal           # W, of one gate, are N complex numbers;
    int of_factors            # the gradient wanted is that of whole factors, for which it stands
    int n_gates, n_states, n_kept, n_d  # see Kind in simd.h; with a leak s is kept
    int leaks
    double leak               # of a simple cell: how much of a state is new
    Py_ssize_t T, D, N, B
    Py_ssize_t M              # outputs, where the gradient of h is given behind a readout
    Py_ssize_t K              # last steps with a gradient from the loss
    Py_ssize_t steps_at_once  # whose d and x make one product dU
    Py_ssize_t numbers        # in the largest block's state, as it is in scratch
    Panels panels             # of a gate's product; a block is a panel
    ForwardScratch forward
    BackwardScratch backward


cdef struct Arrays:           # sums in double precision, the others in that of h
    const void* W[4]          # each gate's merged factors, or dense matrix
    const void* WH            # their adjoints
    const void* U             # of a gated cell with b as a column, or in all columns for labels,
    const void* b_of_U        # or this is b
    const void* UT            # without b
    const void* b             # inside the step: a nonlinearity's or b_h, for each column of a block
    const void* x             # or
    const int64_t* labels
    const void* before[2]     # h and c before the first step
    void* states[2]           # h and c after each
    void* gates               # what each step keeps of its gates
    const void* dh            # of the last K steps, or
    const void* C             # (N, M), for dh = C^T dy,
    const void* dy
    const void* dlast[2]      # of h and c after the last step, from whatever comes behind it
    void* dbefore[2]
    void* dx
    double* dW                # sums, of each block one row
    double* dU                # or
    double* dU_labels         # its transpose, added up label by label
    double* db
    void* d                   # of all steps, where W is dense


cdef class Recurrence:
    """The sizes of a recurrence, and what follows from them.

    cell says what it computes, B is the columns of an array, of which the product's are the first, M
    the number of outputs where the gradient of h comes through a readout; is_dense says that the
    product is one factor, for BLAS, is_diagonal that it is a diagonal matrix, and of_factors that
    this is the product of diagonal factors.
    """

    cdef Sizes n
    cdef Product product
    cdef readonly Py_ssize_t forward_scratch, backward_scratch  # parts for a thread, for a block
    cdef readonly Py_ssize_t block_biases  # numbers of b, once for each column of a block
    cdef readonly int n_kept

    def __init__(
        self, cell, Product product, bint is_double, Py_ssize_t T, Py_ssize_t B, Py_ssize_t M=0,
        bint is_dense=False, bint is_diagonal=False, bint of_factors=False,
    ):
        cdef int kind = KINDS[cell.kind].number
        cdef const KindOfStep* step = &kinds[kind]
        cdef Panels panels = product.n
        cdef Py_ssize_t E = widest_row(product.cuts, panels.parts, is_double)
        if panels.rows_in != panels.rows_out:
            raise ValueError(
                f"a recurrent matrix must be square, but its factors' product has the shape "
                f"({panels.rows_out}, {panels.rows_in})"
            )
        if panels.B > B:
            raise ValueError(f"{panels.B} columns are more than there are, {B}")
        self.product = product
        self.n.kind, self.n.parts, self.n.is_double = kind, panels.parts, is_double
        self.n.n_gates, self.n.n_states = step.n_gates, step.n_states
        self.n.leak, self.n.leaks, self.n.n_d = cell.leak, cell.leak < 1, step.n_d
        self.n_kept = self.n.n_kept = 1 if self.n.leaks else step.n_kept
        self.n.is_gated, self.n.is_dense = step.n_kept > 0, is_dense
        self.n.is_diagonal, self.n.of_factors = is_diagonal, of_factors
        self.n.T, self.n.D, self.n.N, self.n.B = T, cell.input_size, panels.rows_in, B
        self.n.M = M
        self.n.panels = panels
        self.n.panels.stride = whole_vectors(panels.most_rows * E)
        self.n.steps_at_once = steps_within(
            1 << 22 if self.n.is_gated else 1 << 18,
            (8 if is_double else 4) * (
                step.n_d * self.n.N * E if self.n.is_gated else self.n.panels.stride
            ), T,
        )
        self.n.numbers = self.block_biases = state_size(&self.n, E) // self.n.parts
        self.forward_scratch = lay_out_forward(&self.n, E)
        self.backward_scratch = lay_out_backward(&self.n, E)


cdef Py_ssize_t reserve(Py_ssize_t* end, Py_ssize_t n) noexcept nogil:
    """Return where n parts begin, and move the end behind them."""
    cdef Py_ssize_t begin = end[0]
    end[0] += whole_vectors(n)
    return begin


cdef Py_ssize_t lay_out_forward(Sizes* n, Py_ssize_t E) noexcept nogil:
    """Say where everything is in a thread's scratch; return its size."""
    cdef ForwardScratch* at = &n.forward
    cdef Py_ssize_t size = state_size(n, E)
    at.end = 0
    at.targets = reserve(&at.end, 2 * n.panels.stride)  # on the way to W h, in turn
    if n.is_gated:
        at.Wh = reserve(&at.end, n.n_gates * size)
    else:  # it stays where the last sweep of any number leaves it
        at.Wh = at.targets + (n.panels.F - 1) % 2 * n.panels.stride
    at.Ux = reserve(&at.end, n.n_gates * size)
    at.before = reserve(&at.end, n.n_states * size)     # copies of states and gates that do not
    at.after = reserve(&at.end, n.n_states * size)      # lie in memory as they do here; columns
    at.gates = reserve(&at.end, n.n_kept * size)        # beyond a block's own stay 0
    at.x = reserve(&at.end, (n.D + 1) * E)              # and a row of ones behind it
    return at.end


cdef Py_ssize_t lay_out_backward(Sizes* n, Py_ssize_t E) noexcept nogil:
    """Say where everything is in a block's scratch; return its size."""
    cdef BackwardScratch* at = &n.backward
    cdef Py_ssize_t size = state_size(n, E), steps = n.steps_at_once
    at.end, at.x_step = 0, 0 if n.is_dense else whole_vectors((n.D + 1) * E)
    at.targets = reserve(&at.end, 2 * n.panels.stride)  # on the way to W^H d, in turn
    at.stages = reserve(&at.end, n.panels.F * n.panels.stride)  # h before, after each sweep
    at.through_W = reserve(&at.end, n.n_gates * size)   # W_k^H d_k of the step after
    at.from_loss = reserve(&at.end, size)
    at.nothing = reserve(&at.end, size if n.leaks else 0)  # stays 0
    at.past = reserve(&at.end, 2 * size)                # dstate past the matrices, in turn
    at.states = reserve(&at.end, 2 * n.n_states * size)  # copies of each, before and after in turn
    at.gates = reserve(&at.end, n.n_kept * size)
    at.d = reserve(&at.end, 0 if n.is_dense else steps * n.n_d * size)
    at.x = reserve(&at.end, steps * at.x_step)          # each with a row of ones behind it
    # dy or dx of one step
    at.columns = reserve(&at.end, n.M * E if n.is_dense else max(n.D, n.M) * E)
    at.db = reserve(&at.end, size)                      # of steps_at_once, column by column
    at.G_of_W = reserve(
        &at.end, 0 if n.is_dense else n.n_gates * of_one_gate(n)
    )
    at.G_of_U = reserve(&at.end, 0 if n.is_dense else LARGEST_VECTOR * 4 * (n.D + 1))
    return at.end


cdef Py_ssize_t of_one_gate(const Sizes* n) noexcept nogil:
    """Return the parts that a gate's factors, or its diagonal, have in G_of_W."""
    if n.is_diagonal:
        return LARGEST_VECTOR * n.parts * n.panels.n_factors
    return sums_before(&n.panels, n.panels.n_factors)


cdef Py_ssize_t state_size(const Sizes* n, Py_ssize_t E) noexcept nogil:
    """Return the parts of a block's state in scratch; a nonlinearity takes whole vectors."""
    return n.N * E if n.is_gated else whole_vectors(n.N * E)


cdef void* data_of(arrays, name, Py_ssize_t n_parts, bint is_double) except NULL:
    """Return where the numbers of an array are: so many parts, in that precision."""
    a = arrays[name]
    if not cnp.PyArray_Check(a) or not cnp.PyArray_IS_C_CONTIGUOUS(a) or (
        cnp.PyArray_TYPE(a) not in (
            (cnp.NPY_DOUBLE, cnp.NPY_CDOUBLE) if is_double else (cnp.NPY_FLOAT, cnp.NPY_CFLOAT)
        )
    ) or cnp.PyArray_NBYTES(a) != n_parts * (8 if is_double else 4):
        raise ValueError(f"{name} is not of the size or dtype that the recurrence was made for")
    return cnp.PyArray_DATA(a)


cdef Arrays arrays_of(const Sizes* n, dict arrays) except *:
    """Return where the parameters, the input and the states are that both directions need."""
    cdef Arrays a
    cdef int is_double = n.is_double, part
    cdef Py_ssize_t size = n.parts * n.N * n.B, blocks = n.panels.n_cuts
    cdef char* W
    memset(&a, 0, sizeof(a))
    W = <char*>data_of(arrays, "W", n.parts * n.n_gates * n.panels.n_numbers, is_double)
    for part in range(n.n_gates):
        a.W[part] = W + part * n.parts * n.panels.n_numbers * (8 if is_double else 4)
    if arrays["b"] is not None:
        a.b = data_of(arrays, "b", blocks * n.numbers, is_double)
    x = arrays["x"]
    if x.dtype == "int64":
        if x.shape != (n.T, n.B) or not x.flags.c_contiguous:
            raise ValueError("x is not of the size that the recurrence was made for")
        a.labels = <const int64_t*>cnp.PyArray_DATA(x)
    else:
        a.x = data_of(arrays, "x", n.T * n.D * n.B, is_double)
    for part in range(n.n_states):
        a.before[part] = data_of(arrays["before"], part, size, is_double)
        a.states[part] = data_of(arrays["states"], part, n.T * size, is_double)
    a.gates = data_of(arrays, "gates", n.T * n.n_kept * size, is_double)
    return a


cdef real* state_at(
    const Sizes* n, const Arrays* a, int part, Py_ssize_t t, const real* scratch
) noexcept nogil:
    """Return h (part 0) or c after step t, or before the first; scratch tells the precision."""
    if t < 0:
        return <real*>a.before[part]
    return <real*>a.states[part] + t * n.N * n.parts * n.B


# Forward


def recurrence_forward(Recurrence recurrence, int level, int threads, dict arrays):
    """Fill states and gates; Cell.run_numpy in cells/cell.py."""
    cdef Sizes n = recurrence.n
    cdef Arrays a = arrays_of(&n, arrays)
    cdef Py_ssize_t columns = n.D + 1 if n.is_gated and a.labels == NULL else n.D
    a.U = data_of(arrays, "U", n.parts * n.n_gates * n.N * columns, n.is_double)
    cdef void* scratch = data_of(arrays, "scratch", threads * n.forward.end, n.is_double)
    n.level = n.panels.level = level
    with nogil:
        if n.is_double:
            forward_over_time(&n, &a, threads, <double*>scratch)
        else:
            forward_over_time(&n, &a, threads, <float*>scratch)


cdef void forward_over_time(
    const Sizes* n, const Arrays* a, int threads, real* scratch
) noexcept nogil:
    cdef Py_ssize_t thread, t, i, blocks = n.panels.n_cuts
    # A thread's blocks go through time side by side: together they write whole rows of h.
    for thread in prange(threads, schedule="static", num_threads=threads):
        for t in range(n.T):
            for i in range(blocks * thread // threads, blocks * (thread + 1) // threads):
                forward_step(
                    n, a, block_at(n.panels.cuts, i, n.parts, n.is_double), t,
                    scratch + thread * n.forward.end,
                )


cdef struct Step:             # a block's states and gates: in memory, where a step can read and
    int in_place              # write them there, or copied
    const void* before[2]
    void* after[2]
    void* gates


cdef void forward_step(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t t, real* scratch
) noexcept nogil:
    cdef Step here = begin_step(n, a, block, t, scratch)
    # Wh = [self.matrix.matvec(W_k, state[0]) for W_k in W]
    products(n, a, block, here, scratch)
    # Ux = np.split(input_product(params["U"], x[t]), len(W))
    input_product(n, a, block, t, scratch)
    # state, kept = self.step(params, Wh, Ux, state)
    step(n, a, block, here, scratch)
    # of_time[t] = part;  gates[t] = kept
    if not here.in_place:
        keep_step(n, a, block, t, scratch)


cdef Step begin_step(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t t, real* scratch
) noexcept nogil:
    """Say where the states before and after a step are, and copy those before where they must."""
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef Py_ssize_t row = n.parts * n.B, size = state_size(n, block.E), numbers = block.width
    cdef const real* before
    cdef Step here
    cdef int part
    if block.E == row:  # rows follow on one another
        numbers *= n.N
    if n.is_gated:
        here.in_place = block.E == block.used == row
    else:
        here.in_place = block.E == block.used and numbers >= K.lanes and not n.leaks
    here.gates = <real*>a.gates + t * n.n_kept * n.N * row
    here.after[1] = NULL
    for part in range(n.n_states):
        before = state_at(n, a, part, t - 1, scratch) + block.begin
        here.before[part] = before
        here.after[part] = state_at(n, a, part, t, scratch) + block.begin
        if not here.in_place:
            here.before[part] = scratch + n.forward.before + part * size
            here.after[part] = scratch + n.forward.after + part * size
            here.gates = scratch + n.forward.gates
            K.copy(n.N, block.used, before, row, <void*>here.before[part], block.E)
    return here


cdef void products(
    const Sizes* n, const Arrays* a, Block block, Step here, real* scratch
) noexcept nogil:
    cdef Py_ssize_t E = block.E, row = n.parts * n.B if here.in_place else E, k
    cdef const real* h = <const real*>here.before[0]
    cdef real* Wh = scratch + n.forward.Wh
    if n.is_dense:
        dense_products(n, a, block, h, row, Wh)
        return
    if n.is_diagonal:
        kernels_for(n.level, n.is_double).diagonal(n.N, E, a.W[0], h, row, Wh, E)
        return
    for k in range(n.n_gates):
        apply_sweeps(
            &n.panels, E, <const real*>a.W[k], h, row,
            scratch + n.forward.targets, Wh + k * state_size(n, E), E, <real*>NULL,
        )


cdef void input_product(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t t, real* scratch
) noexcept nogil:
    """Ux = U x[t], of a gated cell + b: that is the column of U for an input of 1, or by itself."""
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef Py_ssize_t E = block.E, rows = n.n_gates * n.N, D = n.D, i
    cdef real* x = scratch + n.forward.x
    cdef real* Ux = scratch + n.forward.Ux
    cdef Sweep s
    if a.labels != NULL:
        K.look_up(
            n.parts, rows, D, block.width, a.U, a.labels + t * n.B + block.first, Ux, E
        )
    else:
        K.spread(
            n.parts, D, block.width, <const real*>a.x + t * D * n.B + block.first, n.B, x, E
        )
        if n.is_gated and a.b_of_U == NULL:
            for i in range(E):
                x[D * E + i] = 1
            D += 1
        if n.is_dense and n.parts == 1:
            # Step by step: the columns of several steps would have to be copied together, and their
            # products apart, which takes longer than it saves but for batches of a few.
            gemm(1, False, rows, E, D, <const real*>a.U, D, x, E, False, Ux, E)
        else:
            s = plain_product(REALS if n.parts == 1 else PAIRS, rows, D, a.U, E)
            K.sweep(&s, x, E, Ux, E)
    if a.b_of_U != NULL:
        add_to_rows(rows, block.used, E, <const real*>a.b_of_U, Ux)


cdef void add_to_rows(
    Py_ssize_t rows, Py_ssize_t used, Py_ssize_t E, const real* b, real* Ux
) noexcept nogil:
    cdef Py_ssize_t row, i
    for row in range(rows):
        for i in range(used):
            Ux[row * E + i] += b[row]


cdef void step(
    const Sizes* n, const Arrays* a, Block block, Step here, real* scratch
) noexcept nogil:
    """Set the state after a step, and the gates, from Wh, Ux and the state before."""
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef Py_ssize_t size = state_size(n, block.E), row = n.parts * n.B
    cdef const real* b = <const real*>a.b + block.i * n.numbers
    cdef real* Wh = scratch + n.forward.Wh
    cdef real* Ux = scratch + n.forward.Ux
    if n.is_gated:  # the last part of the state is what a gate lets through: c, or a GRU's h
        K.open_gates(
            n.kind, size, Ux, Wh, b, here.before[n.n_states - 1], here.gates, here.after[1],
            here.after[0],
        )
    elif n.leaks:
        K.activate(n.kind, n.parts, 1, size // n.parts, Wh, Ux, b, here.gates, 0)
        blend(size, n.leak, here, Wh)
    elif not here.in_place:
        K.activate(n.kind, n.parts, 1, size // n.parts, Wh, Ux, b, here.after[0], 0)
    elif block.E == row:
        K.activate(n.kind, n.parts, 1, n.N * block.width, Wh, Ux, b, here.after[0], row)
    else:
        K.activate(n.kind, n.parts, n.N, block.width, Wh, Ux, b, here.after[0], row)


cdef void blend(Py_ssize_t size, double leak, Step here, const real* of_precision) noexcept nogil:
    """h = (1 - leak) h + leak s."""
    cdef const real* before = <const real*>here.before[0]
    cdef const real* s = <const real*>here.gates
    cdef real* after = <real*>here.after[0]
    cdef real new = <real>leak, old = <real>(1 - leak)
    cdef Py_ssize_t i
    for i in range(size):
        after[i] = old * before[i] + new * s[i]


cdef void keep_step(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t t, real* scratch
) noexcept nogil:
    """Copy the states after a step and the gates from scratch to where they are kept."""
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef Py_ssize_t E = block.E, size = state_size(n, E), row = n.parts * n.B
    cdef real* gates = <real*>a.gates + t * n.n_kept * n.N * row
    cdef int part
    for part in range(n.n_states):
        K.copy(
            n.N, block.used, scratch + n.forward.after + part * size, E,
            state_at(n, a, part, t, scratch) + block.begin, row,
        )
    K.copy(
        n.n_kept * n.N, block.used, scratch + n.forward.gates, E, gates + block.begin, row
    )


# Backward


def recurrence_backward(Recurrence recurrence, int level, int threads, dict arrays):
    """Fill dbefore and dx, and add to the sums; Cell.run_numpy_backward in cells/cell.py.

    Each block adds to its row of dW, db, and dU or its transpose dU_labels, whichever is there. Of
    a dense W these are left to the caller, but for db of a simple cell, and d is filled instead.
    """
    cdef Sizes n = recurrence.n
    cdef Arrays a = arrays_of(&n, arrays)
    cdef Py_ssize_t blocks = n.panels.n_cuts
    set_gradients(&n, &a, arrays)
    cdef void* scratch = data_of(arrays, "scratch", blocks * n.backward.end, n.is_double)
    n.level = n.panels.level = level
    with nogil:
        if n.is_double:
            backward_over_blocks(&n, &a, threads, <double*>scratch)
        else:
            backward_over_blocks(&n, &a, threads, <float*>scratch)


cdef set_gradients(Sizes* n, Arrays* a, dict arrays):
    """Find the adjoint parameters, and the gradients given and wanted."""
    cdef int is_double = n.is_double, part
    cdef Py_ssize_t size = n.parts * n.N * n.B, blocks = n.panels.n_cuts
    n.K = len(arrays["dh"] if "dh" in arrays else arrays["dy"])
    if "dh" in arrays:
        a.dh = data_of(arrays, "dh", n.K * size, is_double)
    else:
        a.C = data_of(arrays, "C", n.parts * n.N * n.M, is_double)
        a.dy = data_of(arrays, "dy", n.K * n.M * n.B, is_double)
    for part in range(n.n_states):
        if arrays["dlast"][part] is not None:
            a.dlast[part] = data_of(arrays["dlast"], part, size, is_double)
        a.dbefore[part] = data_of(arrays["dbefore"], part, size, is_double)
    a.db = <double*>data_of(arrays, "db", blocks * n.n_d * n.N, True)
    if n.is_dense:
        a.d = data_of(arrays, "d", n.parts * n.T * n.n_d * n.numbers, is_double)
    else:
        set_sums(n, a, arrays)
    if not 1 <= n.K <= n.T:
        raise ValueError("the gradients are not those that the recurrence was made for")


cdef set_sums(const Sizes* n, Arrays* a, dict arrays):
    """Find what the loop over time itself adds up, and what it needs for that."""
    cdef int is_double = n.is_double
    cdef Py_ssize_t blocks = n.panels.n_cuts, of_U = n.parts * n.n_gates * n.N * n.D
    a.WH = data_of(arrays, "WH", n.parts * n.n_gates * n.panels.n_numbers, is_double)
    a.UT = data_of(arrays, "UT", of_U, is_double)
    if arrays["dx"] is not None:
        a.dx = data_of(arrays, "dx", n.T * n.D * n.B, is_double)
    a.dW = <double*>data_of(
        arrays, "dW", blocks * n.parts * n.n_gates * n.panels.n_factors, True
    )
    if "dU" in arrays:
        a.dU = <double*>data_of(arrays, "dU", blocks * of_U, True)
    else:
        a.dU_labels = <double*>data_of(arrays, "dU_labels", blocks * of_U, True)
    if a.labels == NULL and a.dU == NULL:
        raise ValueError("the gradients are not those that the recurrence was made for")


cdef void backward_over_blocks(
    const Sizes* n, const Arrays* a, int threads, real* scratch
) noexcept nogil:
    cdef Py_ssize_t i
    for i in prange(n.panels.n_cuts, schedule="dynamic", num_threads=threads):
        backward_over_time(
            n, a, block_at(n.panels.cuts, i, n.parts, n.is_double), scratch + i * n.backward.end
        )


cdef void backward_over_time(
    const Sizes* n, const Arrays* a, Block block, real* scratch
) noexcept nogil:
    cdef Py_ssize_t t, slot = 0
    # dstate = [np.zeros_like(part) for part in before];  dstate[1] = dc
    begin_backward(n, a, block, scratch)
    for t in range(n.T - 1, -1, -1):
        # dstate[0] = dstate[0] + dh[t - (T - len(dh))]
        add_from_loss(n, a, block, t, scratch)
        # d[t], dpast, db = self.step_backward(params, at[t], at[t + 1], gates[t], dstate)
        step_backward(n, a, block, t, slot, scratch)
        # through_W = [self.matrix.adjoint(W_k, d[t, k]) for W_k, k in zip(W, self.d_of_W)]
        # dW = [matrix_gradient(self.matrix, W_k, before[0], states[0], d[:, k]) …]
        adjoint_and_gradient(n, a, block, t, slot, scratch)
        # dU, dx = input_gradients(params["U"], x, d_of_U, input_gradient)
        if not n.is_dense:
            input_gradients(n, a, block, t, slot, scratch)
        slot += 1
        if slot == n.steps_at_once or t == 0:
            add_up_steps(n, a, block, slot, scratch)
            slot = 0
    # dstate = [sum(through_W, dpast[0]), *dpast[1:]]: before, step_backward made that sum
    end_backward(n, a, block, scratch)


cdef real* d_of(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t t, Py_ssize_t slot, real* scratch
) noexcept nogil:
    """Return where d of step t is: in a slot among steps_at_once, or where the caller finds it."""
    cdef Py_ssize_t size = n.n_d * state_size(n, block.E)
    return <real*>a.d + t * size if n.is_dense else scratch + n.backward.d + slot * size


cdef real* dpast_after(
    const Sizes* n, Block block, Py_ssize_t t, real* scratch
) noexcept nogil:
    """Return what step t + 1 handed back past the matrices: dc of an LSTM, z dh of a GRU."""
    return scratch + n.backward.past + (t + 1) % 2 * state_size(n, block.E)


cdef real* state_here(
    const Sizes* n, const Arrays* a, Block block, int part, Py_ssize_t t, real* scratch
) noexcept nogil:
    """Return a block's h or c after step t: in memory if it lies there as in scratch, or a copy."""
    cdef Py_ssize_t size = state_size(n, block.E)
    if lies_as_in_memory(n, block):
        return state_at(n, a, part, t, scratch)
    return scratch + n.backward.states + (2 * part + (t + 1) % 2) * size


cdef bint lies_as_in_memory(const Sizes* n, Block block) noexcept nogil:
    return block.E == block.used == n.parts * n.B and state_size(n, block.E) == n.N * n.parts * n.B


cdef void copy_states(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t t, real* scratch
) noexcept nogil:
    """Copy the states after step t to where state_here() finds them."""
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef int part
    if not lies_as_in_memory(n, block):
        for part in range(n.n_states):
            K.copy(
                n.N, block.used, state_at(n, a, part, t, scratch) + block.begin, n.parts * n.B,
                state_here(n, a, block, part, t, scratch), block.E,
            )


cdef void begin_backward(
    const Sizes* n, const Arrays* a, Block block, real* scratch
) noexcept nogil:
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef real* ones = scratch + n.backward.x + n.D * block.E
    cdef Py_ssize_t slot, i
    for slot in range(0 if n.is_dense else n.steps_at_once):
        for i in range(block.E):
            ones[slot * n.backward.x_step + i] = 1
    if a.dlast[0] != NULL:
        K.copy(
            n.N, block.used, <const real*>a.dlast[0] + block.begin, n.parts * n.B,
            scratch + n.backward.through_W, block.E,
        )
    if a.dlast[1] != NULL:
        K.copy(
            n.N, block.used, <const real*>a.dlast[1] + block.begin, n.B,
            dpast_after(n, block, n.T - 1, scratch), block.E,
        )
    copy_states(n, a, block, n.T - 1, scratch)


cdef void add_from_loss(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t t, real* scratch
) noexcept nogil:
    """Set from_loss to dh[t]: as given, or C^T dy[t]; 0 before the last K steps."""
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef Py_ssize_t E = block.E, row = n.parts * n.B, i = t - (n.T - n.K)
    cdef real* from_loss = scratch + n.backward.from_loss
    cdef real* dy = scratch + n.backward.columns
    cdef Sweep s
    if i >= 0 and a.dh != NULL:
        K.copy(
            n.N, block.used, <const real*>a.dh + i * n.N * row + block.begin, row, from_loss, E
        )
    elif i >= 0:
        K.spread(
            n.parts, n.M, block.width, <const real*>a.dy + i * n.M * n.B + block.first, n.B, dy, E
        )
        s = plain_product(REALS if n.parts == 1 else PAIRS, n.N, n.M, a.C, E)
        K.sweep(&s, dy, E, from_loss, E)
    elif i == -1:
        memset(from_loss, 0, n.N * E * sizeof(real))


cdef void step_backward(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t t, Py_ssize_t slot, real* scratch
) noexcept nogil:
    """Set d, dpast and db of step t."""
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef Py_ssize_t size = state_size(n, block.E), row = n.parts * n.B
    cdef real* d = d_of(n, a, block, t, slot, scratch)
    cdef real* from_loss = scratch + n.backward.from_loss
    cdef real* through_W = scratch + n.backward.through_W
    cdef const real* gates = <const real*>a.gates + t * n.n_kept * n.N * row
    cdef int last = n.n_states - 1
    cdef const real* s
    copy_states(n, a, block, t - 1, scratch)
    if n.n_kept > 0 and not lies_as_in_memory(n, block):
        K.copy(
            n.n_kept * n.N, block.used, gates + block.begin, row, scratch + n.backward.gates,
            block.E,
        )
        gates = scratch + n.backward.gates
    if not n.is_gated:
        s = gates if n.leaks else state_here(n, a, block, 0, t, scratch)
        if n.leaks:
            part_gradient(
                size, n.leak, through_W, from_loss, dpast_after(n, block, t, scratch),
                dpast_after(n, block, t - 1, scratch),
            )
            from_loss = scratch + n.backward.nothing
        K.activate_backward(
            n.kind, n.parts, size // n.parts, through_W, from_loss, s,
            <const real*>a.b + block.i * n.numbers, d, scratch + n.backward.db,
        )
        return
    K.open_gates_backward(
        n.kind, size, from_loss, through_W, gates, state_here(n, a, block, last, t, scratch),
        state_here(n, a, block, last, t - 1, scratch), dpast_after(n, block, t, scratch), d,
        dpast_after(n, block, t - 1, scratch),
    )


cdef void part_gradient(
    Py_ssize_t size, double leak, real* dh, const real* from_loss, const real* past, real* dpast,
) noexcept nogil:
    """Part dh, with what comes to it otherwise, into leak dh and, past the matrix, the rest."""
    cdef real new = <real>leak, old = <real>(1 - leak), total
    cdef Py_ssize_t i
    for i in range(size):
        total = dh[i] + from_loss[i] + past[i]
        dh[i], dpast[i] = new * total, old * total


cdef void adjoint_and_gradient(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t t, Py_ssize_t slot, real* scratch
) noexcept nogil:
    """Set through_W to W_k^H d_k of each gate, and add the factors' gradients to G or dW."""
    cdef Py_ssize_t size = state_size(n, block.E), k
    cdef Py_ssize_t entries = n.parts * n.panels.n_factors, numbers = n.parts * n.panels.n_numbers
    cdef const real* h_before = state_here(n, a, block, 0, t - 1, scratch)
    cdef real* d = d_of(n, a, block, t, slot, scratch)
    cdef real* through_W = scratch + n.backward.through_W
    cdef double* dW = a.dW + block.i * n.n_gates * entries
    cdef Room room
    if n.is_dense:
        dense_adjoints(n, a, block, d, through_W)
        return
    if n.of_factors:
        kernels_for(n.level, n.is_double).diagonal(
            n.N, block.E, a.WH, d, block.E, through_W, block.E
        )
        grams_of_factors(n, block.E, through_W, h_before, scratch + n.backward.G_of_W)
        return
    if n.is_diagonal:
        kernels_for(n.level, n.is_double).diagonal_backward(
            n.N, block.E, a.WH, d, h_before, through_W, scratch + n.backward.G_of_W
        )
        return
    room.targets, room.stages = scratch + n.backward.targets, scratch + n.backward.stages
    room.A = NULL
    for k in range(n.n_gates):
        room.G = scratch + n.backward.G_of_W + k * of_one_gate(n)
        sweeps_backward(
            &n.panels, block.E, <const real*>a.W[k], <const real*>a.WH + k * numbers,
            h_before, d + kinds[n.kind].d_of_W[k] * size,
            through_W + k * size, room, dW + k * entries,
        )


cdef void grams_of_factors(
    const Sizes* n, Py_ssize_t E, const real* dy, const real* x, real* G
) noexcept nogil:
    """Add to G what each group of factors would have for gradient, were the others identities."""
    cdef Py_ssize_t i, R
    cdef Sweep s
    for i in range(n.panels.F):
        s = sweep_of(&n.panels, i, <const real*>NULL, E)
        R = s.right * E
        widest(n.level, R, n.is_double).accumulate(
            &s, dy, s.P * R, x, s.Q * R,
            G + LARGEST_VECTOR * n.parts * n.panels.plan[i * PLAN_ROW + OFFSET],
        )


cdef void input_gradients(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t t, Py_ssize_t slot, real* scratch
) noexcept nogil:
    """Set dx[t], and lay x[t] beside d for the product dU; or add that to dU_labels at once."""
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef Py_ssize_t E = block.E, rows = n.n_gates * n.N, column = t * n.B + block.first
    cdef Py_ssize_t first = t * n.D * n.B + block.first
    cdef real* d = d_of(n, a, block, t, slot, scratch)
    cdef real* x = scratch + n.backward.x + slot * n.backward.x_step
    cdef real* dx = scratch + n.backward.columns
    cdef Sweep s
    if a.dU_labels != NULL:
        K.look_up_backward(
            n.parts, rows, block.width, d, E, a.labels + column,
            a.dU_labels + block.i * n.parts * rows * n.D,
        )
    elif a.labels != NULL:
        one_hot(n.parts, n.D, block.width, a.labels + column, x, E)
    else:
        K.spread(n.parts, n.D, block.width, <const real*>a.x + first, n.B, x, E)
    if a.dx != NULL:
        s = plain_product(REALS if n.parts == 1 else PAIRS, n.D, rows, a.UT, E)
        K.sweep(&s, d, E, dx, E)
        K.gather(n.parts, n.D, block.width, dx, E, NULL, <real*>a.dx + first, n.B)


cdef void one_hot(
    int parts, Py_ssize_t D, Py_ssize_t width, const int64_t* labels, real* x, Py_ssize_t E,
) noexcept nogil:
    """x[labels, :width] = 1, in all parts, the rest 0."""
    cdef Py_ssize_t b, part
    memset(x, 0, D * E * sizeof(real))
    for b in range(width):
        for part in range(parts):
            x[labels[b] * E + parts * b + part] = 1


cdef void add_up_steps(
    const Sizes* n, const Arrays* a, Block block, Py_ssize_t steps, real* scratch
) noexcept nogil:
    """Add the gradients of so many steps to dW, dU and db, these in double precision."""
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef Py_ssize_t E = block.E, k, rows = n.n_gates * n.N
    cdef Py_ssize_t d_step = n.n_d * state_size(n, E), entries = n.parts * n.panels.n_factors
    cdef real* d = scratch + n.backward.d
    cdef real* x = scratch + n.backward.x
    cdef real* G = scratch + n.backward.G_of_U
    cdef double* db = a.db + block.i * n.n_d * n.N
    cdef Sweep s
    if not n.is_gated:
        fold_columns(n.N, E // n.parts, block.width, scratch + n.backward.db, db)
    if n.is_dense:
        return
    for k in range(n.N if n.is_diagonal and not n.of_factors else 0):
        K.fold(COMPLEXES, 1, scratch + n.backward.G_of_W + 2 * k * K.lanes, a.dW + (
            block.i * entries + 2 * k
        ))
    for k in range(0 if n.is_diagonal and not n.of_factors else n.n_gates):
        fold_sweeps(
            &n.panels, E, scratch + n.backward.G_of_W + k * of_one_gate(n),
            a.dW + (block.i * n.n_gates + k) * entries,
        )
    if a.dU != NULL:
        s = plain_product(REALS if n.parts == 1 else PAIRS, rows, n.D, NULL, E)
        s.left = steps
        gram_over_steps(
            K, &s, d, d_step, x, n.backward.x_step, G, a.dU + block.i * n.parts * rows * n.D
        )
    if n.is_gated:
        s = plain_product(REALS, n.n_d * n.N, 1, NULL, E)
        s.left = steps
        gram_over_steps(K, &s, d, d_step, x + n.D * E, n.backward.x_step, G, db)


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


cdef void end_backward(
    const Sizes* n, const Arrays* a, Block block, real* scratch
) noexcept nogil:
    """Set dbefore."""
    cdef const Kernels* K = kernels_for(n.level, n.is_double)
    cdef Py_ssize_t E = block.E, size = state_size(n, E), row = n.parts * n.B, k, i
    cdef real* dh = scratch + n.backward.through_W
    cdef real* dpast = dpast_after(n, block, -1, scratch)
    for k in range(1, n.n_gates):
        for i in range(size):
            dh[i] += dh[k * size + i]
    if n.kind == LSTM:
        K.copy(n.N, block.used, dpast, E, <real*>a.dbefore[1] + block.begin, row)
    elif n.is_gated or n.leaks:
        for i in range(size):
            dh[i] += dpast[i]
    K.copy(n.N, block.used, dh, E, <real*>a.dbefore[0] + block.begin, row)
