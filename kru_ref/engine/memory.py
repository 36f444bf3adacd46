"""Memory for the kernels."""

import math

import numpy as np

from ..arrays import Array


def aligned_zeros(rows: int, columns: int, dtype: np.dtype) -> Array:
    """Return zeros (rows, at least columns), each row at the beginning of a cache line."""
    line = 64 // dtype.itemsize
    zeros = aligned_empty((rows, -(-columns // line) * line), dtype)
    zeros[...] = 0
    return zeros


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return an array that begins at the beginning of a cache line."""
    n_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(n_bytes + 64, np.uint8)
    skipped = -memory.ctypes.data % 64
    return memory[skipped : skipped + n_bytes].view(dtype).reshape(shape)
