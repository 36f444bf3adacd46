"""Checks that an adjoint is the adjoint: of a linear operator, or of an operation's tangent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from ..arguments import MOST_PROBES, as_array, check_rng, check_tolerance, checked_size
from ..arrays import Array, apart, as_one_vector, divided

Real = NDArray[np.floating]


@dataclass(frozen=True)
class AdjointReport:
    """What :func:`check_adjoint` found; true if it passed.

    Attributes
    ----------
    left, right : complex
        ⟨y, A x⟩ and ⟨A^H y, x⟩ of the probe that differs most.
    error : float
        |left - right| / (‖y‖ ‖A x‖ + ‖A^H y‖ ‖x‖).
    tolerance : float
    """

    left: complex
    right: complex
    error: float
    tolerance: float

    def __bool__(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return (
            f"{'passed' if self else 'FAILED'}: ⟨y, A x⟩ = {self.left:.12g}, "
            f"⟨A^H y, x⟩ = {self.right:.12g}, relative error {self.error:.1e}, "
            f"tolerance {self.tolerance:g}"
        )


def check_adjoint(
    operator: LinearOperator,
    rng: np.random.Generator,
    *,
    probes: int = 5,
    tolerance: float | None = None,
) -> AdjointReport:
    """Check that an operator's adjoint is its adjoint: ⟨y, A x⟩ = ⟨A^H y, x⟩.

    Parameters
    ----------
    operator : LinearOperator, or anything ``aslinearoperator`` takes
        A, with its ``matvec`` and ``rmatvec``.
    rng : numpy.random.Generator
        Draws complex Gaussian x and y (for a real A too: it is linear on both parts).
    probes : int
        How many pairs to draw.
    tolerance : float, optional
        Largest relative error that passes: 1e-12 in double and 1e-5 in single precision
        if not given.

    Returns
    -------
    report : AdjointReport
        Of the pair that differs most; ``assert report, report`` is a test.

    Raises
    ------
    ValueError
        probes below 1, a tolerance that is not finite and above 0, or an operator on nothing.
    TypeError
        No operator, or no generator.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> operator = kru.KroneckerProduct([np.array([[1, 2j], [3, 4]])] * 3)
    >>> report = kru.check_adjoint(operator, np.random.default_rng(0))
    >>> bool(report)
    True
    """
    check_rng(rng)
    probes = checked_size("probes", probes, most=MOST_PROBES)
    try:
        A = aslinearoperator(operator)
    except Exception as cause:  # SciPy's reasons are many
        raise TypeError(f"operator must be an operator or a matrix, got {operator!r}") from cause
    if np.dtype(A.dtype).kind not in "fciub":
        raise TypeError(f"operator must hold real or complex numbers, got {A.dtype}")
    if 0 in A.shape:
        raise ValueError(f"operator must not be empty, or nothing is checked; got {A.shape}")
    single = np.dtype(A.dtype).name in ("float32", "complex64")
    if tolerance is None:
        tolerance = 1e-5 if single else 1e-12
    check_tolerance(tolerance)
    dtype = np.dtype("complex64" if single else "complex128")
    found = [_compared(A, rng, dtype, tolerance) for _ in range(probes)]
    return max(found, key=lambda report: report.error)


def _compared(
    A: LinearOperator, rng: np.random.Generator, dtype: np.dtype, tolerance: float
) -> AdjointReport:
    """Compare both sides for one pair of random vectors."""
    x, y = (
        (rng.standard_normal(n) + 1j * rng.standard_normal(n)).astype(dtype)
        for n in (A.shape[1], A.shape[0])
    )
    Ax, AHy = (np.asarray(a, np.complex128) for a in (A.matvec(x), A.rmatvec(y)))
    # numbers of about 1, in double precision: squares of others over- or underflow
    size = max(float(np.abs(a).max()) for a in (Ax, AHy))
    if 0 < size < math.inf:
        Ax, AHy = divided(Ax, size), divided(AHy, size)
    left, right = complex(np.vdot(y, Ax)), complex(np.vdot(AHy, x))
    norm = np.linalg.norm
    scale = float(norm(y) * norm(Ax) + norm(AHy) * norm(x))
    error = abs(left - right) / scale if scale else 0.0
    error = math.inf if math.isnan(error) else error
    return AdjointReport(left * size, right * size, error, tolerance)


class Jacobian(LinearOperator):
    """How the results of an operation move with its arguments, as a SciPy linear operator.

    Complex arrays count as pairs of real numbers: most operations on them, like the real part or
    a modulus, are linear over real numbers only. ``matvec`` is the operation's tangent
    (forward mode), ``rmatvec`` its backward; that they are adjoint, ⟨v, J w⟩ = ⟨J^T v, w⟩, is what
    :func:`check_adjoint` then checks.

    Parameters
    ----------
    arguments, results : mapping of str to ndarray
        Real or complex arrays; only their names, shapes and dtypes count.
    jvp : callable
        Takes how the arguments move, a dict like arguments, and returns how the results do.
    backward : callable
        Takes gradients with respect to the results, a dict like results, and returns those with
        respect to the arguments.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> z = np.array([3 + 4j])  # r = |z|
    >>> J = kru.Jacobian(
    ...     {"z": z},
    ...     {"r": np.abs(z)},
    ...     jvp=lambda dot: {"r": (z.conj() * dot["z"]).real / np.abs(z)},
    ...     backward=lambda d: {"z": d["r"] * z / np.abs(z)},
    ... )
    >>> J @ np.array([1.0, 0.0])
    array([0.6])
    >>> bool(kru.check_adjoint(J, np.random.default_rng(0)))
    True
    """

    def __init__(
        self,
        arguments: Mapping[str, Array],
        results: Mapping[str, Array],
        jvp: Callable[[dict[str, Array]], Mapping[str, Array]],
        backward: Callable[[dict[str, Array]], Mapping[str, Array]],
    ) -> None:
        self._arguments, self._results = dict(arguments), dict(results)
        self._jvp, self._backward = jvp, backward
        shape = packed(self._results, self._results).size, packed(arguments, arguments).size
        super().__init__(
            np.result_type(*(np.finfo(a.dtype).dtype for a in arguments.values())), shape
        )

    def _matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        if np.iscomplexobj(x):
            return self._matvec(x.real) + 1j * self._matvec(x.imag)
        return packed(self._jvp(unpacked(x, self._arguments)), self._results)

    def _rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        if np.iscomplexobj(x):
            return self._rmatvec(x.real) + 1j * self._rmatvec(x.imag)
        return packed(self._backward(unpacked(x, self._results)), self._arguments)


def packed(arrays: Mapping[str, Array], like: Mapping[str, Array]) -> Real:
    """Return all real numbers of some arrays in one vector, in the order of ``like``.

    Raises
    ------
    ValueError, TypeError
        Other names or shapes than those of like, or a complex array for a real one.
    """
    if arrays.keys() != like.keys():
        raise ValueError(f"expected arrays {sorted(like)}, got {sorted(arrays)}")
    parts = []
    for name, pattern in like.items():
        a = as_array(name, arrays[name])
        if a.shape != pattern.shape:
            raise ValueError(f"{name} must have shape {pattern.shape}, got {a.shape}")
        if np.iscomplexobj(a) and not np.iscomplexobj(pattern):
            raise TypeError(f"{name} must be real, got {a.dtype}")
        parts.append(a.astype(pattern.dtype))
    return as_one_vector(parts)


def unpacked(vector: Real, like: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays whose real numbers a vector holds: :func:`packed`, undone."""
    return dict(zip(like, apart(np.ascontiguousarray(vector), like.values()), strict=True))
