"""A Kronecker product of small matrices, applied without ever being built.

======  ==================  ============================================
symbol  code                shape
======  ==================  ============================================
F       ``len(factors)``    number of factors
W_f     ``factors[f]``      (P_f, Q_f), f = 0 … F-1
B       ``x.shape[1]``      columns, one for each sequence in a batch
x       ``x``               (∏Q_f,) or (∏Q_f, B)
y       ``y``               (∏P_f,) or (∏P_f, B), y = (W_0 ⊗ … ⊗ W_{F-1}) x
======  ==================  ============================================

With x reshaped to (Q_0, …, Q_{F-1}, B) in C order, each factor multiplies its own
axis and leaves the others alone. One such multiplication is a *sweep*: the axes
before the factor's count as one ("left"), those after it and the batch as another
("right"), so that a sweep maps (left, Q_f, right) to (left, P_f, right).

A recurrence goes back by W^H dz, ``Kronecker.adjoint`` in matrices.py: the same product of the
factors W_f^H.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator

from . import arguments, engine
from .arrays import Array
from .engine import LARGEST_IN_RECURRENCE as LARGEST_IN_RECURRENCE
from .engine import Backend as Backend
from .engine import Backward as Backward
from .engine import CellKey as CellKey
from .engine import resolve as resolve
from .sweeps import sweep_gradient, sweeps


@np.errstate(under="ignore")
def kron_matvec(factors: Sequence[ArrayLike], x: ArrayLike, backend: Backend = "auto") -> Array:
    """Multiply (W_0 ⊗ … ⊗ W_{F-1}) x, factor by factor.

    Parameters
    ----------
    factors : sequence of array_like, shapes (P_f, Q_f)
        At least one; rectangular ones too, of any real or complex dtype.
    x : array_like, shape (∏Q_f,) or (∏Q_f, B)
        One column or a batch of them; B may be 0.
    backend : {"auto", "numpy", "cython"}

    Returns
    -------
    y : ndarray, shape (∏P_f,) or (∏P_f, B)
        float32, float64, complex64 or complex128: NumPy's promotion of all arguments,
        integers counting as real numbers.

    Raises
    ------
    ValueError
        Shapes that do not fit, no factor, an empty factor, an unknown backend.
    TypeError
        A dtype that is neither real nor complex, or wider than complex128.
    ImportError
        ``backend="cython"`` where it was not built.

    Notes
    -----
    For N = ∏Q_f = ∏P_f and q×q factors this costs N q log_q N multiplications a
    column instead of N². The factorisation is equation 4 of Jose, Cissé and Fleuret
    (ICML 2018).

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> draw = np.random.default_rng(0).standard_normal
    >>> factors, x = [draw((2, 3)), draw((4, 2)), draw((3, 3))], draw((18, 5))
    >>> dense = np.kron(np.kron(factors[0], factors[1]), factors[2])
    >>> bool(np.allclose(kru.kron_matvec(factors, x), dense @ x))
    True
    """
    matvec = ENGINES[resolve(backend)].matvec
    matrices, columns = _prepared(factors, x)
    if columns.ndim == 1:
        return matvec(matrices, columns[:, None]).reshape(-1)
    return matvec(matrices, columns)


@np.errstate(under="ignore")
def kron_matvec_backward(
    factors: Sequence[ArrayLike], x: ArrayLike, dy: ArrayLike, backend: Backend = "auto"
) -> tuple[list[Array], Array]:
    r"""Back-propagate through :func:`kron_matvec`.

    Parameters
    ----------
    factors, x, backend
        As given to :func:`kron_matvec`.
    dy : array_like, shape (∏P_f,) or (∏P_f, B)
        Gradient of a real loss with respect to y, ∂L/∂Re y + i ∂L/∂Im y.

    Returns
    -------
    dfactors : list of ndarray, shapes (P_f, Q_f)
    dx : ndarray, the shape of x
        A gradient lives in the space of what it belongs to: real where the factor or
        x is real, and of its precision.

    Raises
    ------
    ValueError, TypeError, ImportError
        As :func:`kron_matvec`, and where dy's shape is not that of y.

    Notes
    -----
    Let x^(f) be the array before factor f is applied and dy^(f) the gradient after it.
    The sweep y[l, p, r] = Σ_q W_f[p, q] x[l, q, r] is linear in both arguments, so

    - dW_f[p, q] = Σ_{l, r} dy^(f)[l, p, r] conj(x^(f)[l, q, r]),
    - dx^(f)[l, q, r] = Σ_p conj(W_f[p, q]) dy^(f)[l, p, r], which is W_f^H applied to
      the same axis, and is the dy of the factor applied before f.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> draw = np.random.default_rng(0).standard_normal
    >>> factors, x = [draw((2, 3)), draw((4, 2))], draw(6)
    >>> dfactors, dx = kru.kron_matvec_backward(factors, x, np.ones(8))
    >>> bool(np.allclose(dx, np.kron(*factors).T @ np.ones(8))), [dW.shape for dW in dfactors]
    (True, [(2, 3), (4, 2)])
    """
    factors, x, shapes = arguments.as_product(factors, x)
    dy = arguments.as_gradient_of_product(dy, x, shapes)
    dtype = arguments.common_dtype(*factors, x, dy)
    dfactors, dx = ENGINES[resolve(backend)].backward(
        _contiguous(factors, dtype), _columns(x, dtype), _columns(dy, dtype)
    )
    return (
        [_in_the_space_of(W, dW) for W, dW in zip(factors, dfactors, strict=True)],
        _in_the_space_of(x, dx.reshape(x.shape)),
    )


@np.errstate(under="ignore")
def kron_matvec_jvp(
    factors: Sequence[ArrayLike], x: ArrayLike, factors_dot: Sequence[ArrayLike], x_dot: ArrayLike
) -> tuple[Array, Array]:
    """Return y = (W_0 ⊗ … ⊗ W_{F-1}) x and how it moves with the factors and with x.

    Parameters
    ----------
    factors, x
        As given to :func:`kron_matvec`.
    factors_dot, x_dot
        Their tangents, of the same shapes.

    Returns
    -------
    y, y_dot : ndarray, shape (∏P_f,) or (∏P_f, B)

    Raises
    ------
    ValueError, TypeError
        As :func:`kron_matvec`, and tangents of other shapes.

    Notes
    -----
    Each sweep y = W_f x, linear in both, moves by y_dot = W_f_dot x + W_f x_dot.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> factors, x = [np.eye(2), np.eye(3)], np.arange(6.0)
    >>> y, y_dot = kru.kron_matvec_jvp(factors, x, [np.zeros((2, 2)), np.eye(3)], np.zeros(6))
    >>> y_dot  # the second factor grows along itself, and W x with it
    array([0., 1., 2., 3., 4., 5.])
    """
    factors, x, shapes = arguments.as_product(factors, x)
    factors_dot, x_dot = arguments.as_tangents_of_product(factors_dot, x_dot, x, shapes)
    dtype = arguments.common_dtype(*factors, x, *factors_dot, x_dot)
    factors, factors_dot = _contiguous(factors, dtype), _contiguous(factors_dot, dtype)
    y, y_dot = _columns(x, dtype), _columns(x_dot, dtype)
    for f, left, right in sweeps(shapes, y.shape[1]):
        before = (left, shapes[f][1], right)
        y, y_dot = y.reshape(before), y_dot.reshape(before)
        y_dot = np.matmul(factors_dot[f], y) + np.matmul(factors[f], y_dot)  # (left, P, right)
        y = np.matmul(factors[f], y)
    shape = (math.prod(P for P, _ in shapes), *x.shape[1:])
    return y.reshape(shape), y_dot.reshape(shape)


def numpy_matvec(factors: Sequence[Array], x: Array) -> Array:
    """Apply the factors to x (∏Q, B), all contiguous and of one dtype."""
    B = x.shape[1]
    for f, left, right in sweeps(tuple(W.shape for W in factors), B):
        Q = factors[f].shape[1]
        x = np.matmul(factors[f], x.reshape(left, Q, right))  # (left, P, right)
    return x.reshape(-1 if B else math.prod(len(W) for W in factors), B)


def numpy_backward(factors: Sequence[Array], x: Array, dy: Array) -> tuple[list[Array], Array]:
    """Return dfactors and dx (∏Q, B) for dy (∏P, B); derived in kron_matvec_backward."""
    shape = x.shape
    plan = sweeps(tuple(W.shape for W in factors), shape[1])
    before = []
    for f, left, right in plan:
        x = x.reshape(left, factors[f].shape[1], right)
        before.append(x)
        x = np.matmul(factors[f], x)  # (left, P, right)

    dfactors: list[Array] = [np.empty(0)] * len(factors)
    for (f, left, right), x in zip(reversed(plan), reversed(before), strict=True):
        dy = dy.reshape(left, factors[f].shape[0], right)
        dfactors[f] = sweep_gradient(dy, x)
        dy = np.matmul(factors[f].conj().T, dy)  # (left, Q, right)
    return dfactors, dy.reshape(shape)


class Engine(NamedTuple):
    """A backend's matrix-vector product and its backward."""

    matvec: Callable[[Sequence[Array], Array], Array]
    backward: Callable[[Sequence[Array], Array, Array], tuple[list[Array], Array]]


ENGINES = {
    "numpy": Engine(numpy_matvec, numpy_backward),
    "cython": Engine(engine.matvec, engine.matvec_backward),
}


def adjoints(factors: Sequence[Array]) -> list[Array]:
    """Return each factor's conjugate transpose, contiguous."""
    return [np.ascontiguousarray(W.conj().T) for W in factors]


def recurrence_engine(backend: Backend) -> ModuleType | None:
    """Return what runs a whole recurrence in compiled code, if that is to be."""
    return engine if resolve(backend) == "cython" else None


class KroneckerProduct(LinearOperator):
    """W_0 ⊗ … ⊗ W_{F-1} as a SciPy linear operator.

    Parameters
    ----------
    factors, backend
        As for :func:`kron_matvec`, which raises the same errors.

    Attributes
    ----------
    factors : tuple of ndarray
    shape : (∏P_f, ∏Q_f)
    dtype : NumPy's promotion of the factors' dtypes

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> K = kru.KroneckerProduct([np.diag([1.0, 2.0]), np.diag([1.0, 3.0])])
    >>> K @ np.ones(4)
    array([1., 3., 2., 6.])
    >>> K.cond()
    6.0
    """

    def __init__(self, factors: Sequence[ArrayLike], backend: Backend = "auto") -> None:
        arrays = arguments.as_factors(factors)
        self.factors: tuple[Array, ...] = tuple(W.copy() for W in arrays)
        self.backend = backend
        resolve(backend)
        shape = tuple(math.prod(sizes) for sizes in zip(*(W.shape for W in arrays), strict=True))
        super().__init__(arguments.common_dtype(*arrays), shape)

    def _matmat(self, x: Array) -> Array:
        return kron_matvec(self.factors, x, self.backend)

    _matvec = _matmat

    def _adjoint(self) -> KroneckerProduct:
        return KroneckerProduct([W.conj().T for W in self.factors], self.backend)

    def _transpose(self) -> KroneckerProduct:
        return KroneckerProduct([W.T for W in self.factors], self.backend)

    @property
    def n_parameters(self) -> int:
        """Real numbers stored: Σ P_f Q_f, twice that where a factor is complex."""
        return sum(W.size * (1 + np.iscomplexobj(W)) for W in self.factors)

    def to_dense(self) -> Array:
        """Return the matrix itself, (∏P_f, ∏Q_f): for small sizes and for checks."""
        return functools.reduce(np.kron, self.factors).astype(self.dtype, copy=False)

    def trace(self) -> complex:
        """Return tr W = ∏ tr W_f, for square factors."""
        for f, W in enumerate(self.factors):
            if W.shape[0] != W.shape[1]:
                raise ValueError(f"trace needs square factors, factor {f} is {W.shape}")
        return np.prod([np.trace(W) for W in self.factors])[()]

    def singular_values(self) -> NDArray[np.floating]:
        """Return all min(∏P_f, ∏Q_f) singular values, largest first.

        They are all products of the factors' singular values; where a tall and a wide
        factor meet, the matrix has further ones, which are 0.
        """
        values = functools.reduce(np.kron, factor_singular_values(self.factors))
        missing = min(self.shape) - values.size
        return np.append(np.sort(values)[::-1], np.zeros(missing, values.dtype))

    def cond(self) -> float:
        """Return the 2-norm condition number, σ_max / σ_min; infinite where σ_min is 0."""
        per_factor = factor_singular_values(self.factors)
        complete = math.prod(s.size for s in per_factor) == min(self.shape)
        if not complete or any(s[-1] == 0 for s in per_factor):
            return math.inf
        return float(math.prod(s[0] / s[-1] for s in per_factor))


def factor_sizes(N: int, n_factors: int | None = None) -> tuple[int, ...]:
    """Split N into the sizes of square Kronecker factors.

    Parameters
    ----------
    N : int
        Size of the whole product, at least 1.
    n_factors : int, optional
        How many factors. Without it, the prime factors of N: (2, 2, …, 2) for a power
        of two. With it, that many sizes ≥ 2 with the fewest parameters Σ size².

    Returns
    -------
    sizes : tuple of int
        Ascending, with product N.

    Raises
    ------
    ValueError
        N below 1 or above 2^40, n_factors below 1 or above the number of prime factors.
    TypeError
        A size that is no integer.

    Examples
    --------
    >>> factor_sizes(512)
    (2, 2, 2, 2, 2, 2, 2, 2, 2)
    >>> factor_sizes(300, n_factors=3)
    (5, 6, 10)
    """
    N = arguments.checked_size("N", N)
    primes = _prime_factors(N)
    if n_factors is None:
        return primes or (1,)
    arguments.check_n_factors(N, n_factors, primes)
    return _balanced(N, n_factors, 2 if N > 1 else 1, _divisors(primes))


def _prime_factors(N: int) -> tuple[int, ...]:
    primes, p = [], 2
    while p * p <= N:
        while N % p == 0:
            primes.append(p)
            N //= p
        p += 1
    return (*primes, N) if N > 1 else tuple(primes)


def _balanced(
    N: int, n_factors: int, smallest: int, divisors: Sequence[int], most: float = math.inf
) -> tuple[int, ...]:
    """Ascending sizes ≥ smallest with product N and the least sum of squares ≤ most; () if none.

    Of n numbers with a given product equal ones have the least sum of squares: with the smallest
    of them at most N^(1/n), the further below it is, the larger the least sum that is left.
    """
    if n_factors == 1:
        return (N,) if smallest <= N and most >= N * N else ()
    best: tuple[int, ...] = ()
    for size in reversed(divisors):
        if size**n_factors > N or N % size:
            continue
        rest = (n_factors - 1) * (N / size) ** (2 / (n_factors - 1))
        if size < smallest or size**2 + rest * (1 - 1e-9) > most:
            break
        found = _balanced(N // size, n_factors - 1, size, divisors, most - size**2)
        if found:
            best = (size, *found)
            most = sum(s * s for s in best)
    return best


def _divisors(primes: Sequence[int]) -> list[int]:
    divisors = {1}
    for p in primes:
        divisors |= {p * d for d in divisors}
    return sorted(divisors)


def factor_singular_values(factors: Sequence[Array]) -> list[NDArray[np.floating]]:
    """Return each factor's singular values, largest first."""
    return [np.linalg.svd(W, compute_uv=False) for W in factors]


def _prepared(factors: Sequence[ArrayLike], x: ArrayLike) -> tuple[Sequence[Array], Array]:
    """Return contiguous arrays of one dtype that fit together."""
    shapes = engine.shapes_of(factors, x)  # where they are all that already
    if shapes is not None:
        matrices, columns = cast(Sequence[Array], factors), cast(Array, x)
        arguments.check_rows(columns, shapes)
        return matrices, columns
    matrices, columns, _ = arguments.as_product(factors, x)
    dtype = arguments.common_dtype(*matrices, columns)
    return _contiguous(matrices, dtype), np.ascontiguousarray(columns, dtype)


def _contiguous(arrays: Sequence[Array], dtype: np.dtype) -> list[Array]:
    return [np.ascontiguousarray(a, dtype=dtype) for a in arrays]


def _columns(x: Array, dtype: np.dtype) -> Array:
    """View a vector as one column; (rows, B), contiguous."""
    return np.ascontiguousarray(x[:, None] if x.ndim == 1 else x, dtype=dtype)


def _in_the_space_of(value: Array, gradient: Array) -> Array:
    """Project a gradient on real numbers where its value is real; keep its precision."""
    if not np.iscomplexobj(value):
        gradient = gradient.real
    dtype = value.dtype if value.dtype.name in arguments.DTYPES else gradient.dtype
    return np.ascontiguousarray(gradient, dtype=dtype)
