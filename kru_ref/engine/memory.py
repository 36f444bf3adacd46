"""Memory for the kernels: at the beginning of a cache line, and used again where it is large.

Fresh memory is slow: the system hands it out page by page, at the first touch. A training step
needs the same large arrays every time, so those that nobody holds any longer are kept for the next.
"""

import math

import numpy as np

from ..arrays import Array
from .backend import kernels

# Bytes from which on memory is used again; below, the C library does that itself.
LARGE = 2**18

# Bytes that may wait to be used again: twice the states and gates of an LSTM of 512 units over 400
# steps of 50 sequences, the largest training step in benchmarks/. What does not fit is freed, the
# oldest first.
MOST_KEPT = 2**29

if kernels is not None:
    kernels.keep_at_most(MOST_KEPT)


def aligned_zeros(rows: int, columns: int, dtype: np.dtype) -> Array:
    """Return zeros (rows, at least columns), each row at the beginning of a cache line."""
    line = 64 // dtype.itemsize
    zeros = aligned_empty((rows, -(-columns // line) * line), dtype)
    zeros[...] = 0
    return zeros


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return an array that begins at the beginning of a cache line.

    It is the caller's as any array is: its memory goes to another only when neither it nor a view
    of it is held any longer.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes >= LARGE:
        return np.frombuffer(kernels.Memory(n_bytes), dtype).reshape(shape)
    memory = np.empty(n_bytes + 64, np.uint8)
    skipped = -memory.ctypes.data % 64
    return memory[skipped : skipped + n_bytes].view(dtype).reshape(shape)
