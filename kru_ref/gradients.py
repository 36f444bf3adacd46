"""Checks that a gradient is the gradient, and an adjoint the adjoint."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from .kronecker import DTYPES
from .sweeps import Array
from .unitary import check_rng


@dataclass(frozen=True)
class ParameterCheck:
    """The worst entry of one parameter's gradient."""

    name: str
    index: tuple[int, ...]
    part: str
    analytic: float
    numerical: float
    error: float
    entries: int
    too_small: bool = False


@dataclass(frozen=True)
class GradientReport:
    """What :func:`check_gradient` found; true if every parameter passed.

    Attributes
    ----------
    checks : tuple of ParameterCheck
        One for each parameter.
    tolerance : float
        Largest relative error that passes.
    """

    checks: tuple[ParameterCheck, ...]
    tolerance: float

    @property
    def max_error(self) -> float:
        """The largest relative error of all."""
        return max(check.error for check in self.checks)

    def __bool__(self) -> bool:
        return all(check.error <= self.tolerance for check in self.checks)

    def __str__(self) -> str:
        width = max(len("parameter"), *(len(check.name) for check in self.checks))
        lines = [
            f"{'parameter':{width}}  entries  worst entry      "
            "analytic        numerical      relative error"
        ]
        for c in self.checks:
            where = f"{c.part} [{', '.join(map(str, c.index))}]"
            verdict = "  too small to check" if c.too_small else ""
            verdict = verdict if c.error <= self.tolerance else "  <- wrong"
            lines.append(
                f"{c.name:{width}}  {c.entries:7d}  {where:12}  {c.analytic:15.8e}  "
                f"{c.numerical:15.8e}  {c.error:14.1e}{verdict}"
            )
        verdict = "passed" if self else "FAILED"
        lines.append(
            f"{verdict}: largest relative error {self.max_error:.1e}, tolerance {self.tolerance:g}"
        )
        return "\n".join(lines)


def check_gradient(
    f: Callable[[dict[str, Array]], float],
    params: Mapping[str, Array],
    grads: Mapping[str, Array],
    *,
    entries: int | None = None,
    rng: np.random.Generator | None = None,
    tolerance: float | None = None,
) -> GradientReport:
    """Compare a gradient with central finite differences.

    Parameters
    ----------
    f : callable
        The loss, a function of a parameter dict that returns a real number.
    params : mapping of str to ndarray
        Where the gradient was taken; any real or complex arrays.
    grads : mapping of str to ndarray
        The gradient to check, ∂L/∂Re p + i ∂L/∂Im p, with the keys and shapes of params.
    entries : int, optional
        How many entries of each parameter to check, drawn by rng; all if not given.
    rng : numpy.random.Generator, optional
        Needed with ``entries``.
    tolerance : float, optional
        Largest relative error that passes: 1e-6 in double and 2e-2 in single precision
        if not given.

    Returns
    -------
    report : GradientReport
        ``assert report, report`` is a test; ``print(report)`` is a table.

    Raises
    ------
    ValueError
        Other keys or shapes, entries without rng, or f not finite.
    TypeError
        f returns no real number, or a parameter is neither real nor complex.

    Notes
    -----
    Each real and each imaginary part is moved by ±s, and (f(+s) - f(-s)) / 2s compared.
    Its truncation error grows as s², its rounding error as ε/s; s = ∛ε max(1, |p|) makes
    them about equal, ε^(2/3), which is 4e-11 in double precision.

    An error is relative to the largest entry of the parameter's gradient. Where that is
    below a thousandth of the largest of the whole gradient, or so small that the rounding
    of f alone would exceed the tolerance, a difference of two losses resolves nothing: the
    error is relative to that floor, and the report says "too small to check".

    Where an entry disagrees, steps down to a thousandth of s (a hundredth in single
    precision) are tried too: a kink, as relu has one, may lie within the first.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> params = {"z": np.array([3 + 4j])}
    >>> report = kru.check_gradient(lambda p: abs(p["z"][0]) ** 2, params, {"z": 2 * params["z"]})
    >>> bool(report)
    True
    """
    params = {name: np.asarray(p) for name, p in params.items()}
    grads = {name: np.asarray(g) for name, g in grads.items()}
    _check_keys(params, grads)
    if entries is not None and (entries < 1 or rng is None):
        raise ValueError("entries must be at least 1 and needs rng, a numpy.random.Generator")
    value = _loss(f, params)
    single = any(p.dtype.name in ("float32", "complex64") for p in params.values())
    if tolerance is None:
        tolerance = 2e-2 if single else 1e-6
    largest = {name: float(np.max(np.abs(g), initial=0)) for name, g in grads.items()}
    eps = max(float(np.finfo(p.dtype).eps) for p in params.values())
    floor = max(
        1e-3 * max((size for size in largest.values() if math.isfinite(size)), default=0.0),
        eps ** (2 / 3) * abs(value) / tolerance,
    )
    checks = []
    for name, p in params.items():
        probes = _entries(p, entries, rng)
        numerical = [_difference(f, params, name, *probe) for probe in probes]
        scale = max(largest[name], floor, *(abs(n) for n in numerical), 0.0)
        worst = ParameterCheck(name, (), "", 0.0, 0.0, 0.0, len(probes), largest[name] < floor)
        for (index, part), n in zip(probes, numerical, strict=True):
            analytic = float((grads[name][index].imag, grads[name][index].real)[part == 0])
            error = _relative(analytic, n, scale)
            for shrink in (1e-1, 1e-2) if single else (1e-1, 1e-2, 1e-3):
                # a kink or a jump within the step: look closer, as far as rounding allows
                if error <= tolerance:
                    break
                closer = _difference(f, params, name, index, part, shrink)
                if _relative(analytic, closer, scale) < error:
                    n, error = closer, _relative(analytic, closer, scale)
            if error >= worst.error:
                label = ("Re", "Im")[part] if np.iscomplexobj(p) else ""
                worst = dataclasses.replace(
                    worst, index=index, part=label, analytic=analytic, numerical=n, error=error
                )
        checks.append(worst)
    return GradientReport(tuple(checks), tolerance)


def _relative(analytic: float, numerical: float, scale: float) -> float:
    """Return the error; one of a NaN is infinite, and does not compare false."""
    if analytic == numerical:
        return 0.0
    error = abs(analytic - numerical) / scale
    return math.inf if math.isnan(error) else error


def _entries(
    p: Array, entries: int | None, rng: np.random.Generator | None
) -> list[tuple[tuple[int, ...], int]]:
    """Return (index, part) of all entries of a parameter, or of a sample: part 1 is imaginary."""
    flat = np.arange(p.size)
    if rng is not None and entries is not None and entries < p.size:
        flat = np.sort(rng.choice(p.size, entries, replace=False))
    indices = [tuple(int(k) for k in np.unravel_index(i, p.shape)) for i in flat]
    return [(index, part) for index in indices for part in range(1 + np.iscomplexobj(p))]


def _difference(
    f: Callable[[dict[str, Array]], float],
    params: Mapping[str, Array],
    name: str,
    index: tuple[int, ...],
    part: int,
    shrink: float = 1.0,
) -> float:
    """Return (f(+s) - f(-s)) / 2s for one real or imaginary part."""
    p, unit = params[name], (1, 1j)[part]
    step = shrink * np.cbrt(np.finfo(p.dtype).eps) * max(1.0, abs(p[index]))
    losses, moved = [], []
    for sign in (1, -1):
        shifted = p.copy()
        shifted[index] += sign * step * unit
        moved.append((shifted[index] / unit).real)
        losses.append(_loss(f, {**params, name: shifted}))
    # by what it was really moved, after rounding
    return (losses[0] - losses[1]) / float(moved[0] - moved[1])


def _loss(f: Callable[[dict[str, Array]], float], params: dict[str, Array]) -> float:
    value: Any = np.asarray(f(params))
    if value.shape != () or value.dtype.kind not in "fiu":
        raise TypeError(f"f must return a real number, got {value.dtype} of shape {value.shape}")
    if not np.isfinite(value):
        raise ValueError(f"f must be finite at and around params, got {value}")
    return float(value)


def _check_keys(params: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
    if not params:
        raise ValueError("params must hold at least one array, got none")
    if params.keys() != grads.keys():
        raise ValueError(
            f"grads must have the keys of params: missing {sorted(params.keys() - grads.keys())}, "
            f"unknown {sorted(grads.keys() - params.keys())}"
        )
    for name, p in params.items():
        if p.dtype.name not in DTYPES:
            raise TypeError(f"{name} must be one of {', '.join(DTYPES)}, got {p.dtype}")
        if np.shape(grads[name]) != p.shape:
            raise ValueError(
                f"gradient of {name} must have shape {p.shape}, got {np.shape(grads[name])}"
            )
        if np.iscomplexobj(grads[name]) and not np.iscomplexobj(p):
            raise TypeError(f"{name} is real, its gradient must be real, got {grads[name].dtype}")


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
        probes below 1.
    """
    check_rng(rng)
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    A = aslinearoperator(operator)
    single = np.dtype(A.dtype).name in ("float32", "complex64")
    if tolerance is None:
        tolerance = 1e-5 if single else 1e-12
    found = []
    for _ in range(probes):
        x, y = (
            (rng.standard_normal(n) + 1j * rng.standard_normal(n)).astype(
                "complex64" if single else "complex128"
            )
            for n in (A.shape[1], A.shape[0])
        )
        Ax, AHy = A.matvec(x), A.rmatvec(y)
        left, right = complex(np.vdot(y, Ax)), complex(np.vdot(AHy, x))
        scale = float(
            np.linalg.norm(y) * np.linalg.norm(Ax) + np.linalg.norm(AHy) * np.linalg.norm(x)
        )
        error = abs(left - right) / scale if scale else 0.0
        error = math.inf if math.isnan(error) else error
        found.append(AdjointReport(left, right, error, tolerance))
    return max(found, key=lambda report: report.error)
