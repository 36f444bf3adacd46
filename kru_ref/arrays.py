"""Arrays: their kinds, sums in double precision, drawn initial values."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Real or complex, single or double precision: decided at run time, and decides what is computed.
Array = NDArray[Any]

# Parameters, or their gradients, by name.
Params = dict[str, Array]

# Shape and dtype of each parameter, by name.
Layout = dict[str, tuple[tuple[int, ...], np.dtype]]

# Columns whose products are added up in working precision before they go into a double.
COLUMNS = 4096


class ReadoutGradient(NamedTuple):
    """Gradient of h behind a readout, dh_t = C^T dy_t, which never stands in memory whole.

    Attributes
    ----------
    C : ndarray, shape (M, N)
    dy : ndarray, shape (K, M, B)
        Real; of the last K steps.
    """

    C: Array
    dy: NDArray[np.floating]

    def whole(self) -> Array:
        """Return dh of the last K steps, (K, N, B)."""
        return self.C.T @ self.dy


def divided(a: Array, size: Any) -> Array:
    """Return a / size part by part: NumPy's complex quotient overflows at tiny sizes."""
    return a.real / size + 1j * (a.imag / size) if np.iscomplexobj(a) else a / size


def count_real(layout: Layout) -> int:
    """Return how many real numbers parameters hold; a complex one counts as two."""
    return sum(math.prod(shape) * (1 + (dtype.kind == "c")) for shape, dtype in layout.values())


def glorot_uniform(shape: tuple[int, ...], rng: np.random.Generator, dtype: np.dtype) -> Array:
    """Draw a matrix from ±√(6 / (rows + columns)), of the same mean square if complex."""
    limit = math.sqrt(6 / sum(shape))
    if dtype.kind == "c":
        limit /= math.sqrt(2)
        real, imaginary = rng.uniform(-limit, limit, (2, *shape))
        return (real + 1j * imaginary).astype(dtype)
    return rng.uniform(-limit, limit, shape).astype(dtype)


def random_vector(N: int, rng: np.random.Generator, dtype: np.dtype) -> Array:
    """Draw a vector with uniform entries and an expected squared length of 1."""
    parts = 2 if dtype.kind == "c" else 1
    limit = math.sqrt(3 / (parts * N))
    entries = rng.uniform(-limit, limit, (parts, N))
    return (entries[0] + 1j * entries[1] if parts == 2 else entries[0]).astype(dtype)


def kron_vector(vectors: Sequence[Array]) -> Array:
    """Return v_0 ⊗ … ⊗ v_{F-1}."""
    return functools.reduce(lambda v, of_factor: np.outer(v, of_factor).ravel(), vectors)


def over_batch(a: NDArray[Any]) -> NDArray[Any]:
    """Sum (N, B) over the batch, in double precision."""
    return a.sum(axis=1, dtype=np.result_type(a, np.float64)).astype(a.dtype)


def over_time(a: NDArray[Any]) -> NDArray[Any]:
    """Sum (T, N, B) over time and batch, in double precision."""
    return a.sum(axis=(0, 2), dtype=np.result_type(a, np.float64)).astype(a.dtype)


def time_pieces(T: int, B: int) -> Iterator[slice]:
    """Cut time into pieces of some COLUMNS; their sums are then added in double precision."""
    steps = max(1, COLUMNS // B)
    for first in range(0, T, steps):
        yield slice(first, min(T, first + steps))


def as_one_vector(arrays: Iterable[Array]) -> NDArray[np.floating]:
    """Copy the numbers of arrays, one after the other, into a vector of real ones.

    It has the highest precision of them.
    """
    rows = [a.ravel() for a in arrays]
    return np.concatenate([row.view(row.real.dtype) for row in rows])


def apart(row: NDArray[np.floating], like: Iterable[Array]) -> list[Array]:
    """Return a vector as arrays like those it was made of: views, where the precision is theirs."""
    parts, first = [], 0
    for a in like:
        last = first + a.size * (1 + (a.dtype.kind == "c"))
        part = row[first:last].astype(a.real.dtype, copy=False)
        parts.append(part.view(a.dtype).reshape(a.shape))
        first = last
    return parts
