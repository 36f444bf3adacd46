"""What every boundary shares: arrays, taken from whatever the caller holds."""

from __future__ import annotations

import contextlib
import math
import numbers
import operator
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

# Real or complex, single or double precision: decided at run time, and decides what is computed.
Array = NDArray[Any]

# Parameters, or their gradients, by name.
Params = dict[str, Array]

# Shape and dtype of each parameter, by name.
Layout = dict[str, tuple[tuple[int, ...], np.dtype]]

# More than fits any memory; factorising by trial division stays quick.
LARGEST_SIZE = 2**40

# Of a check: more would run for hours.
MOST_PROBES = 2**20

# Columns whose products are added up in working precision before they go into a double.
COLUMNS = 4096

DTYPES = ("float32", "float64", "complex64", "complex128")


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


def as_array(name: str, value: ArrayLike) -> Array:
    """Return a plain array of NumPy's own class, in this machine's byte order.

    Subclasses bring a meaning of their own to ``*``, ``[]`` and ``sum`` (np.matrix), or to
    entries (a mask); bytes in another order, to ``view``.

    Parameters
    ----------
    name : str
        What the caller calls it, for the error.
    value : array_like
        Its memory is shared where nothing has to be converted.

    Raises
    ------
    ValueError
        A ragged list, or an array with masked entries: they have no value.
    TypeError
        No array: a sparse matrix, a dict, None, a PyTorch tensor that requires its gradient.
    """
    if type(value) is np.ndarray and value.dtype.isnative and value.dtype.kind in "fciub":
        return value
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name} has masked entries, which have no value: replace them, as with .filled(0)"
        )
    what = type(value).__name__
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array, got a {what} that is none: {error}") from error
    except Exception as error:  # whatever another library's __array__ raises
        raise TypeError(f"{name} must be an array, got {what}: {error}") from error
    if array.dtype.kind not in "fciub":
        how = ".toarray()" if hasattr(value, "toarray") else ".astype"
        raise TypeError(
            f"{name}: expected real or complex numbers, got {array.dtype} in a {what}; convert "
            f"with {how} first"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def divided(a: Array, size: Any) -> Array:
    """Return a / size part by part: NumPy's complex quotient overflows at tiny sizes."""
    return a.real / size + 1j * (a.imag / size) if np.iscomplexobj(a) else a / size


def as_arrays(name: str, arrays: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Return a dict of plain arrays; see :func:`as_array`."""
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{name} must be a dict of arrays by name, got {type(arrays).__name__}")
    return {key: as_array(key, a) for key, a in arrays.items()}


def check_dtype(dtype: DTypeLike) -> np.dtype:
    """Return the NumPy dtype, if it is one of the four we compute in."""
    checked = None
    # to NumPy None is float64, and a number its own dtype
    if isinstance(dtype, str | type | np.dtype):
        with contextlib.suppress(TypeError), warnings.catch_warnings(action="ignore"):
            checked = np.dtype(dtype)
    if checked is None or checked.name not in DTYPES:
        raise TypeError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return checked.newbyteorder("=")


def checked_array(name: str, value: ArrayLike, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return value as a contiguous array of that shape and dtype; refuse complex for real."""
    array = as_array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.dtype.kind not in "fciub" or (np.iscomplexobj(array) and dtype.kind != "c"):
        raise TypeError(f"{name} must fit dtype {dtype}, got {array.dtype}")
    return converted(name, array, dtype)


def converted(name: str, array: Array, dtype: np.dtype) -> Array:
    """Return an array in another dtype, contiguous; refuse finite numbers too large for it."""
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    with np.errstate(over="ignore", under="ignore"):
        result = np.ascontiguousarray(array, dtype)
    if not np.can_cast(array.dtype, dtype):
        lost = np.isfinite(array) & ~np.isfinite(result)
        if lost.any():
            raise ValueError(
                f"{name} must fit {dtype}, but holds {array[lost][0]}: scale it, or use double "
                "precision"
            )
    return result


def checked_size(name: str, value: Any, least: int = 1, most: int = LARGEST_SIZE) -> int:
    """Return a whole number between two others."""
    try:
        size = operator.index(value)
    except TypeError:
        size = None
    if size is None or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if size < least:
        raise ValueError(f"{name} must be at least {least}, got {size}")
    if size > most:
        raise ValueError(f"{name} must be at most {most:,}, got {size:,}")
    return size


def checked_number(name: str, value: Any) -> float:
    """Return a real number as Python's own: one of NumPy's would decide a result's precision."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def checked_flag(name: str, value: Any) -> bool:
    """Return True or False; what only counts as one, such as "False", is a mistake."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def checked_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return one of a few words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_tolerance(tolerance: float) -> None:
    """Raise for a tolerance that passes everything or nothing."""
    number = checked_number("tolerance", tolerance)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"tolerance must be finite and above 0, got {tolerance}")


def check_rng(rng: np.random.Generator) -> None:
    """Raise unless rng is a generator, not a seed."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator, such as np.random.default_rng(0), got {rng!r}"
        )


def check_params(params: Mapping[str, Array], layout: Layout) -> Params:
    """Return params as plain arrays; raise unless they have these names, shapes and dtypes."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict of arrays by name, got {type(params).__name__}")
    missing, unknown = sorted(layout.keys() - params.keys()), sorted(params.keys() - layout.keys())
    if missing + unknown:
        raise ValueError(
            f"params do not belong to this model: missing {missing or 'none'}, "
            f"unknown {unknown or 'none'}"
        )
    plain = {}
    for name, value in params.items():
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{name} must be an array, got {type(value).__name__}")
        is_plain = type(value) is np.ndarray and value.dtype.isnative
        value = plain[name] = value if is_plain else as_array(name, value)
        shape, dtype = layout[name]
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
        if value.dtype != dtype:
            raise TypeError(f"{name} must have dtype {dtype}, got {value.dtype}")
    return plain


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


def over_batch(a: NDArray[Any]) -> NDArray[Any]:
    """Sum (N, B) over the batch, in double precision."""
    return a.sum(axis=1, dtype=np.result_type(a, np.float64)).astype(a.dtype)


def over_time(a: NDArray[Any]) -> NDArray[Any]:
    """Sum (T, N, B) over time and batch, in double precision."""
    return a.sum(axis=(0, 2), dtype=np.result_type(a, np.float64)).astype(a.dtype)


def as_real(p: Array) -> NDArray[np.floating]:
    """View a complex array as real numbers, (…, n) as (…, 2n); a real one as it is."""
    p = np.ascontiguousarray(p, p.dtype.newbyteorder("="))
    return p.view(np.finfo(p.dtype).dtype)
