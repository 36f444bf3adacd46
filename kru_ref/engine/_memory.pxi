# Large memory that is used again: part of _kernels.pyx.

# Fresh memory costs page faults, a tenth of a training step of 512 units. So memory that nobody holds
# any longer is kept on a shelf for the next who asks for as much. What stands there changes under
# the GIL alone, and no Python code runs meanwhile: that is safe with threads, inside the garbage
# collector, after a fork and at exit.

cdef enum:
    PLACES = 16

cdef PyObject* shelf[PLACES]  # arrays of bytes, the oldest first
cdef int n_on_shelf = 0
cdef Py_ssize_t most_bytes = 0


@cython.final
@cython.no_gc
cdef class Memory:
    """So many bytes, from the beginning of a cache line on; a writable buffer.

    They are its own until neither it nor an array over it, nor a view of one, is held.
    """

    cdef object owner
    cdef char* data
    cdef Py_ssize_t n_bytes

    def __cinit__(self, Py_ssize_t n_bytes):
        self.owner, self.n_bytes = taken_from_shelf(n_bytes + 64), n_bytes
        if self.owner is None:
            self.owner = numpy.empty(n_bytes + 64, numpy.uint8)
        self.data = <char*>((<size_t>cnp.PyArray_DATA(self.owner) + 63) // 64 * 64)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.n_bytes, False, flags)

    def __dealloc__(self):
        if self.owner is not None:
            put_on_shelf(self.owner)


cdef taken_from_shelf(Py_ssize_t n_bytes):
    """Return the smallest array that is large enough, or None; no more than a quarter too large."""
    cdef int i, best = -1
    cdef Py_ssize_t size, least = n_bytes + n_bytes // 4 + 1
    for i in range(n_on_shelf):
        size = cnp.PyArray_NBYTES(<object>shelf[i])
        if n_bytes <= size < least:
            best, least = i, size
    return None if best < 0 else removed(best)


cdef removed(int i):
    """Take the i-th array from the shelf, and close up."""
    global n_on_shelf
    taken = <object>shelf[i]
    n_on_shelf -= 1
    for i in range(i, n_on_shelf):
        shelf[i] = shelf[i + 1]
    Py_DECREF(taken)
    return taken


cdef put_on_shelf(owner):
    """Keep an array; those that stood there longest go, until there is room."""
    global n_on_shelf
    cdef Py_ssize_t size = cnp.PyArray_NBYTES(owner)
    if size > most_bytes:
        return
    while n_on_shelf == PLACES or bytes_on_shelf() + size > most_bytes:
        removed(0)
    Py_INCREF(owner)
    shelf[n_on_shelf] = <PyObject*>owner
    n_on_shelf += 1


cpdef Py_ssize_t bytes_on_shelf():
    """Return how many bytes wait to be used again."""
    cdef Py_ssize_t total = 0
    cdef int i
    for i in range(n_on_shelf):
        total += cnp.PyArray_NBYTES(<object>shelf[i])
    return total


def keep_at_most(Py_ssize_t n_bytes):
    """Set how many bytes may wait to be used again; at first 0."""
    global most_bytes
    most_bytes = n_bytes
    while bytes_on_shelf() > most_bytes:
        removed(0)
