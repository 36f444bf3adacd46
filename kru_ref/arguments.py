"""The door: what a caller passes, checked where a public function takes it.

``check_…`` raises or does nothing; ``as_…`` and ``checked_…`` return what they were given, as a
plain object (so does ``check_params``, by its older name); ``settle_…`` puts plain objects in place
of what a frozen description holds. An error says what was expected, what came, and what to do.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import numbers
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .arrays import Array, Layout, Params, ReadoutGradient

if TYPE_CHECKING:
    from .cells import RNN, Cell, Saved
    from .model import SequenceModel
    from .optimizers import Optimizer

# More than fits any memory; factorising by trial division stays quick.
LARGEST_SIZE = 2**40

# Of a check: more would run for hours.
MOST_PROBES = 2**20

# Imaginary parts of logits above are no complex step, but a mistake.
LARGEST_COMPLEX_STEP = 1e-12

DTYPES = ("float32", "float64", "complex64", "complex128")

Shapes = tuple[tuple[int, int], ...]
Real = NDArray[np.floating]


# Numbers and words


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


def check_kind(name: str, value: Any, kind: type, what: str) -> None:
    """Raise for an object of another class."""
    if not isinstance(value, kind):
        is_class = isinstance(value, type)
        came = f"the class {value.__name__}" if is_class else type(value).__name__
        raise TypeError(f"{name} must be {what}, got {came}")


# Arrays


def checked_dtype(dtype: DTypeLike) -> np.dtype:
    """Return the NumPy dtype, if it is one of the four we compute in."""
    checked = None
    # to NumPy None is float64, and a number its own dtype
    if isinstance(dtype, str | type | np.dtype):
        with contextlib.suppress(TypeError), warnings.catch_warnings(action="ignore"):
            checked = np.dtype(dtype)
    if checked is None or checked.name not in DTYPES:
        raise TypeError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return checked.newbyteorder("=")


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


def as_arrays(name: str, arrays: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Return a dict of plain arrays; see :func:`as_array`."""
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{name} must be a dict of arrays by name, got {type(arrays).__name__}")
    return {key: as_array(key, a) for key, a in arrays.items()}


def checked_array(name: str, value: ArrayLike, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return value as a contiguous array of that shape and dtype; refuse complex for real."""
    array = as_array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if np.iscomplexobj(array) and dtype.kind != "c":
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


# Factors


def as_matrices(factors: Sequence[ArrayLike]) -> list[Array]:
    """Return the factors of a product as non-empty matrices."""
    if not isinstance(factors, Iterable) or getattr(factors, "ndim", 1) == 0:
        raise TypeError(f"factors must be a sequence of matrices, got {factors!r}")
    arrays = [as_array(f"factor {f}", W) for f, W in enumerate(factors)]
    if not arrays:
        raise ValueError("factors must hold at least one matrix, got none")
    for f, W in enumerate(arrays):
        if W.ndim != 2 or W.size == 0:
            raise ValueError(
                f"factor {f} must be a non-empty matrix of shape (P, Q), got shape {W.shape}"
            )
    return arrays


def as_factors(factors: Sequence[ArrayLike]) -> list[Array]:
    """Return the factors as non-empty matrices, each of a dtype we compute in."""
    return [W.astype(common_dtype(W), copy=False) for W in as_matrices(factors)]


def check_rows(x: Array, shapes: Shapes) -> None:
    """Raise unless factors of such shapes multiply x."""
    rows = _columns_of_product(shapes)
    if x.ndim not in (1, 2) or x.shape[0] != rows:
        raise ValueError(
            f"x must have shape ({rows},) or ({rows}, B), where {rows} = ∏Q_f "
            f"for factors {list(shapes)}; got {x.shape}"
        )


@functools.lru_cache(maxsize=256)
def _columns_of_product(shapes: Shapes) -> int:
    return math.prod(Q for _, Q in shapes)


def as_product(factors: Sequence[ArrayLike], x: ArrayLike) -> tuple[list[Array], Array, Shapes]:
    """Return factors as matrices, the x that they multiply, and their shapes."""
    matrices, columns = as_matrices(factors), as_array("x", x)
    shapes = tuple(W.shape for W in matrices)
    check_rows(columns, shapes)
    return matrices, columns, shapes


def as_gradient_of_product(dy: ArrayLike, x: Array, shapes: Shapes) -> Array:
    """Return dy, of the shape of the product y of factors and x."""
    array, expected = as_array("dy", dy), (math.prod(P for P, _ in shapes), *x.shape[1:])
    if array.shape != expected:
        raise ValueError(
            f"dy must have the shape of y, {expected}, got {array.shape}; factors are "
            f"{list(shapes)}"
        )
    return array


def as_tangents_of_product(
    factors_dot: Sequence[ArrayLike], x_dot: ArrayLike, x: Array, shapes: Shapes
) -> tuple[list[Array], Array]:
    """Return tangents of factors and x, of the shapes of these."""
    matrices, columns = as_matrices(factors_dot), as_array("x_dot", x_dot)
    if tuple(W.shape for W in matrices) != shapes or columns.shape != x.shape:
        raise ValueError(
            f"tangents must have the shapes of factors and x, {list(shapes)} and {x.shape}, "
            f"got {[W.shape for W in matrices]} and {columns.shape}"
        )
    return matrices, columns


def common_dtype(*arrays: Array) -> np.dtype:
    """Return NumPy's promotion of several dtypes, integers counting as real numbers."""
    try:
        dtype = np.result_type(np.float32, *(a.dtype for a in arrays))
    except TypeError as error:
        raise TypeError(f"expected real or complex numbers, got {_dtypes(arrays)}") from error
    if dtype.name not in DTYPES:
        raise TypeError(
            f"expected numbers that fit one of {', '.join(DTYPES)}, got {_dtypes(arrays)}; "
            "convert with .astype first"
        )
    return dtype


def _dtypes(arrays: Sequence[Array]) -> str:
    return ", ".join(sorted({str(a.dtype) for a in arrays}))


def checked_pair_of_sizes(shape: Any) -> tuple[int, int]:
    """Return the shape (P, Q) of a matrix; one size is that of a square one."""
    sizes = shape if isinstance(shape, tuple) else (shape, shape)
    if len(sizes) != 2:
        raise ValueError(f"shape must be a size or a pair (P, Q), got {shape!r}")
    P, Q = (checked_size("a size in shape", size) for size in sizes)
    return P, Q


def checked_spread(dtype: DTypeLike, sizes: Any) -> tuple[np.dtype, list[int]]:
    """Return the dtype and the sizes of factors whose product's eigenvalues are to be spread."""
    dtype = checked_dtype(dtype)
    if dtype.kind != "c":
        raise TypeError(
            f"equally spaced eigenvalues need a complex dtype, got {dtype}; draw real factors "
            "with the scheme 'haar'"
        )
    sizes = sizes.tolist() if isinstance(sizes, np.ndarray) else sizes
    if not isinstance(sizes, Sequence) or len(sizes) == 0:
        raise ValueError(f"sizes must be a sequence of at least one size, got {sizes!r}")
    return dtype, [checked_size("a size", size) for size in sizes]


def check_n_factors(N: int, n_factors: Any, primes: tuple[int, ...]) -> None:
    """Raise unless N, of these prime factors, has that many factors."""
    if checked_size("n_factors", n_factors) > max(1, len(primes)):
        raise ValueError(
            f"n_factors must be between 1 and {max(1, len(primes))} for N = {N} "
            f"(its prime factors are {primes}), got {n_factors}"
        )


def check_product_of_shapes(factors: Shapes, N: int) -> None:
    """Raise unless the product of such factors is (N, N)."""
    rows, columns = (math.prod(sizes) for sizes in zip(*factors, strict=True))
    if (rows, columns) != (N, N):
        raise ValueError(
            f"factors {list(factors)} multiply to {rows}×{columns}, "
            f"but hidden_size is {N}: rows and columns must both multiply to {N}"
        )


def checked_factor_shapes(factors: Any) -> Shapes:
    """Return the shapes (P_f, Q_f) of a Kronecker matrix."""
    try:
        shapes = tuple((operator.index(P), operator.index(Q)) for P, Q in factors)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"factors must be shapes (P, Q), such as [(4, 4), (8, 8)], got {factors!r}"
        ) from error
    if not shapes or min(min(sizes) for sizes in shapes) < 1:
        raise ValueError(f"factors must hold at least one shape, all sizes ≥ 1, got {shapes}")
    return shapes


# Parameters


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


# Cells


def settle_cell(cell: Cell) -> None:
    """Give a cell's description its plain types; raise for what no cell has."""
    for name in ("input_size", "hidden_size"):
        object.__setattr__(cell, name, checked_size(name, getattr(cell, name)))
    object.__setattr__(cell, "dtype", checked_dtype(cell.dtype).name)
    object.__setattr__(cell, "learned_h0", checked_flag("learned_h0", cell.learned_h0))
    if cell.is_complex and not cell.on_complex:
        raise TypeError(
            f"{type(cell).__name__} is defined on real numbers only, dtype is {cell.dtype}; "
            "use float32 or float64, or the simple cell"
        )


def check_activation(cell: Cell, name: Any, on_complex: Mapping[str, bool]) -> None:
    """Raise unless one of these activations is called that and defined on the cell's dtype."""
    checked_choice("activation", name, on_complex)
    if cell.is_complex and not on_complex[name]:
        raise TypeError(
            f"activation {name!r} is defined on real numbers only, dtype is {cell.dtype}; use "
            "'modrelu' or 'identity', or a real dtype"
        )


def checked_leak(leak: Any) -> float:
    """Return how much of a state is new."""
    value = checked_number("leak", leak)
    if not 0 < value <= 1:
        raise ValueError(f"leak must be above 0 and at most 1, got {leak!r}")
    return value


def check_eigenbasis(cell: RNN) -> None:
    """Raise where a recurrence asked for in its eigenbasis has none to go to, factor by factor."""
    if not checked_flag("eigenbasis", cell.eigenbasis):
        return
    if cell.activation != "identity" or not cell.is_complex or cell.leak < 1:
        raise ValueError(
            "eigenbasis is for a recurrence that is linear and complex: activation 'identity', a "
            f"complex dtype and no leak, got {cell.activation!r}, {cell.dtype}, leak {cell.leak:g}"
        )
    shapes = [shape for name, shape in cell.shapes().items() if name in cell.matrix_names]
    if any(len(shape) != 2 or shape[0] != shape[1] for shape in shapes):
        raise ValueError(
            f"eigenbasis needs a Dense, FullUnitary or Kronecker matrix of square factors, got "
            f"{cell.matrix} with {shapes}"
        )


def check_halves(N: int) -> None:
    """Raise unless a real state of RestrictedUnitary has two halves."""
    if N % 2:
        raise ValueError(
            f"a real state of RestrictedUnitary is half as many complex numbers: hidden_size must "
            f"be even, got {N}"
        )


def check_ring(r_min: Any, r_max: Any, max_phase: Any) -> None:
    """Raise unless eigenvalues can start between these radii, at angles up to that."""
    inner, outer = checked_number("r_min", r_min), checked_number("r_max", r_max)
    if not 0 <= inner <= outer < 1 or outer == 0:
        raise ValueError(
            f"r_min and r_max must be 0 ≤ r_min ≤ r_max < 1, r_max above 0, got {r_min!r} and "
            f"{r_max!r}"
        )
    if not 0 < checked_number("max_phase", max_phase) <= 2 * math.pi:
        raise ValueError(f"max_phase must be above 0 and at most 2π, got {max_phase!r}")


def check_complex(what: str, dtype: np.dtype) -> None:
    """Raise for a real dtype."""
    if dtype.kind != "c":
        raise TypeError(f"{what} has complex states: use complex64 or complex128, got {dtype}")


def is_labels(x: NDArray[Any]) -> bool:
    """Whether x (T, B) holds labels, which stand for one-hot columns."""
    return x.ndim == 2 and x.dtype.kind in "iu"


def checked_input(cell: Cell, x: ArrayLike) -> NDArray[Any]:
    """Return x (T, D, B) in the cell's precision, or integers (T, B)."""
    x, D = as_array("x", x), cell.input_size
    if not is_labels(x) and (x.ndim != 3 or x.shape[1] != D):
        raise ValueError(
            f"x must have shape (T, D, B) with D = input_size = {D}, or be integers of "
            f"shape (T, B); got {x.dtype} {x.shape}"
        )
    if 0 in x.shape:
        raise ValueError(f"x needs at least one time step and one sequence, got {x.shape}")
    if is_labels(x):
        _check_labels(x, D)
        return x
    if np.iscomplexobj(x) and not cell.is_complex:
        raise TypeError(f"x is complex, but the cell's dtype is {cell.dtype}")
    if x.dtype.kind in "fc" and not (is_finite := np.isfinite(x)).all():
        where = tuple(np.argwhere(~is_finite)[0].tolist())
        raise ValueError(f"x must be finite, but x[t, d, b] is {x[where]} at {where}")
    return converted("x", x, np.dtype(cell.dtype) if np.iscomplexobj(x) else cell.real_dtype)


def checked_step_input(cell: Cell, x_t: ArrayLike) -> NDArray[Any]:
    """Return x_t (D, B), or integers (B,), as the one step of a sequence."""
    x_t, D = as_array("x_t", x_t), cell.input_size
    is_label = x_t.ndim == 1 and x_t.dtype.kind in "iu"
    if not is_label and (x_t.ndim != 2 or x_t.shape[0] != D):
        raise ValueError(
            f"x_t must have shape (D, B) with D = input_size = {D}, or be integers of shape (B,); "
            f"got {x_t.dtype} {x_t.shape}"
        )
    return checked_input(cell, x_t[None])


def checked_padded_input(
    cell: Cell, x: ArrayLike, lengths: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[np.intp] | None, NDArray[np.intp] | None]:
    """Return x as :func:`checked_input`, and with lengths its sequences' ends and their order.

    x is then in that order, the longest first, and 0 behind the ends.
    """
    array = as_array("x", x)
    if lengths is None or array.ndim not in (2, 3) or 0 in array.shape:
        return checked_input(cell, array), None, None
    ends = _checked_lengths(lengths, len(array), array.shape[-1])
    order = np.argsort(-ends, kind="stable")
    array, ends = np.take(array, order, axis=-1), ends[order]
    for b, end in enumerate(ends):
        array[end:, ..., b] = 0
    return checked_input(cell, array), ends, order


def _checked_lengths(lengths: ArrayLike, T: int, B: int) -> NDArray[np.intp]:
    array = as_array("lengths", lengths)
    if array.shape != (B,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"lengths must be integers of shape ({B},), one for each sequence; got {array.dtype} "
            f"{array.shape}"
        )
    if not 1 <= array.min() <= array.max() <= T:
        raise ValueError(f"lengths must be from 1 to T = {T}, got {array.min()} to {array.max()}")
    return array.astype(np.intp)


def _check_labels(x: NDArray[Any], D: int) -> None:
    if x.size and not 0 <= x.min() <= x.max() < D:
        raise ValueError(
            f"integer x must hold labels from 0 to {D - 1} (input_size is {D}), "
            f"got {x.min()} to {x.max()}"
        )


def checked_state(cell: Cell, given: Any, B: int) -> tuple[Array, ...]:
    """Return each part of a state before the first step, (N, B)."""
    parts, names = (given,), cell.state_names
    if len(names) > 1:
        is_list = isinstance(given, tuple | list)
        if not is_list or len(given) != 2 or any(part is None for part in given):
            what = f"a {type(given).__name__} of {len(given)}" if is_list else type(given).__name__
            raise ValueError(f"h0 must be the pair (h, c), neither of them None, got {what}")
        parts = given
    shape, dtype = (cell.hidden_size, B), np.dtype(cell.dtype)
    return tuple(checked_array(*of, shape, dtype) for of in zip(names, parts, strict=True))


def checked_gradients(cell: Cell, h: Array, dh: Any, dc: Any) -> tuple[Any, Array | None]:
    """Return dh of h or of its last steps, and dc (N, B) of an LSTM's last c."""
    dtype = np.dtype(cell.dtype)
    if not isinstance(dh, ReadoutGradient):
        dh = as_array("dh", dh)
        if dh.ndim != 3 or dh.shape[1:] != h.shape[1:] or not 1 <= len(dh) <= len(h):
            raise ValueError(
                f"dh must have the shape of h, {h.shape}, or that of its last steps; got {dh.shape}"
            )
        dh = checked_array("dh", dh, dh.shape, dtype)
    if dc is not None and len(cell.state_names) == 1:
        raise TypeError("dc is the gradient of an LSTM's c: this cell has none, leave it out")
    return dh, None if dc is None else checked_array("dc", dc, h.shape[1:], dtype)


def check_sizes(cell: Cell, saved: Saved) -> None:
    """Raise unless what a forward saved is of this cell's sizes."""
    try:
        _check_sizes(cell, saved)
    except ValueError as error:
        raise ValueError(f"saved belongs to another cell: {error}") from error


def _check_sizes(cell: Cell, saved: Saved) -> None:
    x, names = np.asarray(saved.x), cell.state_names
    if is_labels(x):
        _check_labels(x, cell.input_size)
    elif x.shape[1:-1] != (cell.input_size,):
        raise ValueError(f"its x is {x.dtype} {x.shape}, input_size is {cell.input_size}")
    if not len(saved.before) == len(saved.states) == len(names):
        raise ValueError(f"its state has {len(saved.states)} parts, this cell's {len(names)}")
    T, shape = len(x), (cell.hidden_size, x.shape[-1])
    if saved.ends is not None and (saved.ends.shape != shape[1:] or saved.ends[0] > T):
        raise ValueError(f"its ends are {saved.ends}, of sequences in x {x.shape}")
    arrays: list[tuple[str, Any, tuple[int, ...]]] = []
    for name, before, of_time in zip(names, saved.before, saved.states, strict=True):
        arrays += [(name, before, shape), (name.removesuffix("0"), of_time, (T, *shape))]
    for name, given, expected in [*arrays, ("gates", saved.gates, (T, cell.n_kept, *shape))]:
        a = np.asarray(given)
        if a.shape != expected or a.dtype != cell.dtype:
            raise ValueError(f"{name} must be {cell.dtype} {expected}, got {a.dtype} {a.shape}")


# Models


def checked_cells(cells: Any, kind: type) -> tuple[Any, ...]:
    """Return a list or tuple of one cell at least as a tuple."""
    members = tuple(cells) if isinstance(cells, list | tuple) else ()
    if not members or not all(isinstance(cell, kind) for cell in members):
        raise ValueError(f"cell must be a cell or a sequence of cells, got {cells!r}")
    return members


def settle_model(model: SequenceModel, poolings: Iterable[str]) -> None:
    """Give a model's description its plain types; raise where its cells do not fit together."""
    for i, (below, above) in enumerate(itertools.pairwise(model.cells)):
        if above.input_size != below.n_features:
            raise ValueError(
                f"cell {i + 1} must have input_size {below.n_features}, the real numbers in a "
                f"state of cell {i}, got {above.input_size}"
            )
        if above.real_dtype != below.real_dtype:
            raise ValueError(f"cells must have one precision, got {below.dtype} and {above.dtype}")
    if model.pooling is not None:
        checked_choice("pooling", model.pooling, poolings)
    if checked_flag("last_only", model.last_only):
        if model.pooling not in (None, "last"):
            raise ValueError(f"pooling must be 'last' with last_only, got {model.pooling!r}")
        object.__setattr__(model, "pooling", "last")
    object.__setattr__(model, "last_only", model.pooling == "last")
    object.__setattr__(model, "output_size", checked_size("output_size", model.output_size))
    is_number = isinstance(model.dropout, numbers.Real) and not isinstance(model.dropout, bool)
    if not is_number or not 0 <= model.dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {model.dropout!r}")
    object.__setattr__(model, "dropout", float(model.dropout))


def states_of_cells(model: SequenceModel, h0: Any) -> tuple[Any, ...]:
    """Return the given state of each cell, or None."""
    n = len(model.cells)
    if h0 is None:
        return (None,) * n
    if model.prefixes == ("cell",):
        # one state, or the states of one cell: a state may be a list of one row
        is_wrapped = _depth(h0) == (3 if len(model.cells[0].state_names) == 1 else 4)
        h0 = tuple(h0) if is_wrapped else (h0,)
    if isinstance(h0, tuple | list) and len(h0) == n:
        return tuple(h0)
    got = f" of {len(h0)}" if isinstance(h0, tuple | list) else ""
    raise ValueError(f"h0 must hold a state for each of {n} cells, got {type(h0).__name__}{got}")


def _depth(nested: Any) -> int:
    """Return how many indices it takes: dimensions of an array, or of lists in lists."""
    if isinstance(nested, tuple | list):
        return 1 + (_depth(nested[0]) if nested else 0)
    return np.ndim(nested)


def check_model_saved(model: SequenceModel, saved: Any) -> None:
    """Raise unless it is what this model's forward returned."""
    n = len(model.cells)
    if not len(saved.cells) == len(saved.kept) == n:
        raise ValueError(
            f"saved belongs to another model: it holds {len(saved.cells)} cells, this one {n}"
        )
    for cell, of_cell in zip(model.cells, saved.cells, strict=True):
        cell.check_saved(of_cell)
    T, N, B = saved.cells[-1].states[0].shape
    read = (T, N, B) if model.pooling is None else (1, N * len(model.readout.parts), B)
    shapes = [*(of_cell.states[0].shape for of_cell in saved.cells[:-1]), read]
    for kept, shape in zip((*saved.kept, saved.read), (*shapes, read), strict=True):
        if kept is not None and kept.shape != shape:
            raise ValueError("saved belongs to another model: its dropout has another shape")


def checked_prefix(model: SequenceModel, prefix: ArrayLike) -> NDArray[Any]:
    """Return what a model's samples begin with: integers (T, B), or 0 and 1 (T, D, B)."""
    x, D = checked_input(model.cells[0], prefix), model.cells[0].input_size
    if model.output_size != D:
        raise ValueError(
            f"a model that goes on by itself has an output for each input, but output_size is "
            f"{model.output_size}, input_size {D}"
        )
    if model.pooling is not None:
        raise ValueError("a model that goes on by itself reads out every step: leave out pooling")
    if not is_labels(x) and not ((x == 0) | (x == 1)).all():
        raise ValueError("prefix must hold 0 and 1, or integers (T, B) that stand for symbols")
    return x


def check_sampling(length: Any, rng: Any, temperature: Any) -> None:
    """Raise unless so many steps can be drawn at this temperature."""
    checked_size("length", length)
    check_rng(rng)
    if not 0 <= checked_number("temperature", temperature) < math.inf:
        raise ValueError(f"temperature must be finite and at least 0, got {temperature}")


# Losses


def checked_steps(
    logits: ArrayLike,
    targets: ArrayLike,
    mask: ArrayLike | None,
    last_only: bool,
    are_classes: bool = False,
) -> tuple[Real, NDArray[Any], Real]:
    """Return the logits that have targets, with a time axis on these and weights of sum 1.

    What stands in a step of weight 0, logits or targets, becomes 0.
    """
    logits, targets = _checked_logits(logits), as_array("targets", targets)
    checked_flag("last_only", last_only)
    steps = logits[-1:] if last_only else logits
    shape = (len(steps), steps.shape[-1])
    weights = _checked_weights(mask, shape[1:] if last_only else shape)
    weights = (weights / weights.sum()).reshape(shape)
    expected = shape if are_classes else steps.shape
    _check_targets_shape(targets, expected[1:] if last_only else expected, last_only)
    targets = targets.reshape(expected)
    if mask is not None:
        counts = weights[:, None] > 0
        targets = np.where(counts[:, 0] if are_classes else counts, targets, 0)
        steps = np.where(counts, steps, 0)
    return steps, targets, weights


def _check_targets_shape(targets: NDArray[Any], expected: tuple[int, ...], last_only: bool) -> None:
    if targets.shape != expected:
        axes = "(B,)" if len(expected) == 1 else "(M, B)" if last_only else "(T, …)"
        axes += " with last_only" if last_only else ", without the time axis for last_only"
        # of an x in another layout cases were taken for steps, and channels for what they are
        layout = "x goes in as (T, D, B), time first and the batch last"
        hint = f"; {layout}" if targets.shape[-1:] != expected[-1:] else ""
        raise ValueError(f"targets must have shape {expected}, {axes}, got {targets.shape}{hint}")


def _checked_logits(logits: ArrayLike) -> Real:
    logits = as_array("logits", logits)
    if logits.ndim != 3 or logits.size == 0:
        raise ValueError(f"logits must be a non-empty (T, M, B), got shape {logits.shape}")
    is_step = np.iscomplexobj(logits) and np.abs(logits.imag).max() < LARGEST_COMPLEX_STEP
    if logits.dtype.kind != "f" and not is_step:
        raise TypeError(f"logits must be real floating-point numbers, got {logits.dtype}")
    return logits


def _checked_weights(mask: ArrayLike | None, shape: tuple[int, ...]) -> Real:
    """Return the weights of a mask, as they relate to the largest: their sum may overflow."""
    if mask is None:
        return np.ones(shape)
    weights = as_array("mask", mask)
    if weights.dtype.kind not in "fiub":
        raise TypeError(f"mask must hold real weights, got {weights.dtype}")
    weights = weights.astype(np.float64)
    if weights.shape != shape:
        raise ValueError(f"mask must have shape {shape}, got {weights.shape}")
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0):
        raise ValueError("mask must hold finite weights ≥ 0, with one step at least that counts")
    return weights / weights.max()


def check_classes(targets: NDArray[Any], steps: Real) -> None:
    """Raise unless targets (T, B) are classes of steps (T, M, B)."""
    M = steps.shape[1]
    if targets.dtype.kind not in "iu":
        raise TypeError(f"targets must be integer classes, got {targets.dtype}")
    if targets.min() < 0 or targets.max() >= M:
        raise ValueError(
            f"targets must be classes from 0 to {M - 1} ({M} outputs), "
            f"got {targets.min()} to {targets.max()}"
        )


def checked_outputs(targets: NDArray[Any], steps: Real, are_probabilities: bool = False) -> Real:
    """Return targets (T, M, B) in the precision of steps; probabilities lie in [0, 1]."""
    if targets.dtype.kind not in "fiub" or not np.isfinite(targets).all():
        raise ValueError(f"targets must be finite real numbers, got {targets.dtype}")
    if are_probabilities and (targets.min() < 0 or targets.max() > 1):
        raise ValueError(f"targets must lie in [0, 1], got {targets.min()} to {targets.max()}")
    return converted("targets", targets, np.finfo(steps.dtype).dtype)


# Optimizers


def settle_optimizer(optimizer: Optimizer) -> None:
    """Give an optimizer's constants their plain types; raise where one is out of its range."""
    unitary, rates = optimizer.unitary, optimizer.rates
    is_sequence = isinstance(unitary, list | tuple)
    if not is_sequence or not all(isinstance(name, str) for name in unitary):
        raise TypeError(f"unitary must be a sequence of names, got {unitary!r}")
    if not isinstance(rates, Mapping):
        raise TypeError(f"rates must be a dict of numbers by name, got {rates!r}")
    object.__setattr__(optimizer, "unitary", tuple(unitary))
    rates = {name: checked_number(f"rate of {name!r}", rate) for name, rate in rates.items()}
    object.__setattr__(optimizer, "rates", rates)
    for name, value in vars(optimizer).items():
        if name not in ("rates", "unitary"):
            object.__setattr__(optimizer, name, checked_number(name, value))
    _check_ranges(optimizer)


def _check_ranges(optimizer: Optimizer) -> None:
    for name, rate in {"rate": optimizer.rate, **optimizer.rates}.items():
        if not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"learning rate {name!r} must be finite and ≥ 0, got {rate}")
    for name in optimizer.decays:
        if not 0 <= (value := getattr(optimizer, name)) < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value}")
    if not 0 < (epsilon := getattr(optimizer, "epsilon", 1.0)) < math.inf:
        raise ValueError(f"epsilon must be finite and above 0, got {epsilon}")


def check_groups(optimizer: Optimizer, params: Mapping[str, Array]) -> None:
    """Raise for a group of rates that no parameter belongs to, or a name that is no matrix's."""
    for group in optimizer.rates:
        if not any(belongs(name, group) for name in params):
            raise ValueError(f"no parameter belongs to group {group!r}: {sorted(params)}")
    for name in optimizer.unitary:
        if name not in params or params[name].ndim != 2 or len(set(params[name].shape)) != 1:
            raise ValueError(f"no square matrix is called {name!r}: {sorted(params)}")


def belongs(name: str, group: str) -> bool:
    """Whether a parameter belongs to a group: "cell.W.0" to "cell.W"."""
    return name == group or name.startswith(f"{group}.")


def check_update(
    slots: Sequence[str], params: Params, grads: Params, state: Mapping[str, Any]
) -> None:
    """Raise unless gradients and an optimizer's state belong to the parameters."""
    check_kind("state", state, Mapping, "what init or update returned")
    if params.keys() != grads.keys():
        raise ValueError(f"grads must have the keys of params, {sorted(params)}")
    for slot in slots:
        held = {name: np.shape(a) for name, a in state.get(slot, {}).items()}
        if held != {name: p.shape for name, p in params.items()}:
            raise ValueError(
                f"state belongs to another optimizer or model: {slot!r} must hold an array of "
                "the shape of each parameter"
            )
    for name, p in params.items():
        _check_gradient(name, p, grads[name])


def _check_gradient(name: str, p: Array, g: Array) -> None:
    if g.shape != p.shape:
        raise ValueError(f"gradient of {name} must have shape {p.shape}, got {g.shape}")
    if p.dtype.kind not in "fc" or (p.dtype.kind == "f" and g.dtype.kind == "c"):
        raise TypeError(
            f"{name} must be real or complex floating point and its gradient likewise, "
            f"got {p.dtype} and {g.dtype}"
        )


def checked_count(steps: Any) -> int:
    """Return how many updates a state has seen; np.savez makes an array of a number."""
    array = np.asarray(steps)
    if array.size != 1 or array.dtype.kind not in "iu" or array.item() < 0:
        raise ValueError(f"state must hold the number of updates as 'steps', got {steps!r}")
    return int(array.item())


def checked_norm(grads: Params, max_norm: float) -> float:
    """Return a norm to clip gradients to."""
    max_norm = checked_number("max_norm", max_norm)
    for name, g in grads.items():
        if g.dtype.kind not in "fc":
            raise TypeError(
                f"gradient {name!r} must be real or complex floating point, got {g.dtype}"
            )
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}")
    return max_norm
