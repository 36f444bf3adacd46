# Blocks of a batch, what recurrence and readout share: part of _kernels.pyx.

# Sequences are independent, so a batch is cut into blocks of columns, and a block goes through all
# time steps by itself: its state stays in the cache, and blocks share nothing but their parameters.
# The cut depends on the sizes alone and each block sums its own gradients, so results are the same
# for any number of threads. A row of a block has E parts: those of its columns, and zeros if they
# do not fill a vector.

cdef struct Block:
    Py_ssize_t i              # which it is
    Py_ssize_t first, width   # columns
    Py_ssize_t begin, used    # parts of a row in memory: where its own begin, how many they are
    Py_ssize_t E


cdef Block block_at(
    const Py_ssize_t* columns, Py_ssize_t i, int parts, int is_double
) noexcept nogil:
    cdef Block block
    block.i, block.first, block.width = i, columns[i], columns[i + 1] - columns[i]
    block.begin, block.used = parts * block.first, parts * block.width
    block.E = row_parts(parts, block.width, is_double)
    return block


cpdef Py_ssize_t row_parts(int parts, Py_ssize_t width, int is_double) noexcept nogil:
    """Return E for a block of this width."""
    cdef Py_ssize_t least = LARGEST_VECTOR // 2 if is_double else LARGEST_VECTOR
    return max(parts * width, least)


cdef Py_ssize_t widest_row(const Py_ssize_t[::1] columns, int parts, int is_double):
    """Return the largest E."""
    cdef Py_ssize_t i, width = 0
    for i in range(columns.shape[0] - 1):
        width = max(width, columns[i + 1] - columns[i])
    return row_parts(parts, width, is_double)


cdef Py_ssize_t steps_within(Py_ssize_t n_bytes, Py_ssize_t of_one, Py_ssize_t T) noexcept nogil:
    """Return how many time steps to gather for one product: no more than fit into so many bytes."""
    return min(T, 16, max(1, n_bytes // of_one))


cdef void gram_over_steps(
    const Kernels* K, const Sweep* s, const real* a, Py_ssize_t a_step, const real* b,
    Py_ssize_t b_step, real* G, double* sums,
) noexcept nogil:
    """sums += a @ b.T, a (P, E) and b (Q, E) of each of `left` steps, four rows at a time."""
    cdef Sweep four = s[0]
    cdef Py_ssize_t i
    for i in range(0, s.P, 4):
        four.P = min(<Py_ssize_t>4, s.P - i)
        K.accumulate(&four, a + i * s.E, a_step, b, b_step, G)
        K.fold(s.mode, four.P * s.Q, G, sums)
        sums += four.P * s.Q * (2 if s.mode == PAIRS else 1)
