"""What every boundary shares: arrays, taken from whatever the caller holds."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

# Real or complex, single or double precision: decided at run time, and decides what is computed.
Array = NDArray[Any]

DTYPES = ("float32", "float64", "complex64", "complex128")


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
        raise TypeError(
            f"expected numbers for {name}, got {what} of dtype {array.dtype}; convert it first, "
            "as a sparse matrix with .toarray()"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def divided(a: Array, size: Any) -> Array:
    """Return a / size part by part: NumPy's complex quotient overflows at tiny sizes."""
    return a.real / size + 1j * (a.imag / size) if np.iscomplexobj(a) else a / size


def check_dtype(dtype: DTypeLike) -> np.dtype:
    """Return the NumPy dtype, if it is one of the four we compute in."""
    try:
        checked = None if dtype is None else np.dtype(dtype)  # None would be float64 to NumPy
    except TypeError:
        checked = None
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


def checked_size(name: str, value: Any) -> int:
    """Return a size as an integer of at least 1."""
    try:
        size = operator.index(value)
    except TypeError:
        size = None
    if size is None or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")
    return size


def check_rng(rng: np.random.Generator) -> None:
    """Raise unless rng is a generator, not a seed."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator, such as np.random.default_rng(0), got {rng!r}"
        )
