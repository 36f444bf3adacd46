"""Checks that a gradient is the gradient: finite differences, Richardson, complex step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from ..arguments import (
    DTYPES,
    MOST_PROBES,
    as_arrays,
    check_rng,
    check_tolerance,
    checked_choice,
    checked_size,
)
from ..arrays import Array
from .mistakes import hint_at
from .slopes import Estimate, Function, Method, Probe, Slope, along, largest, probes_of

# Largest relative error that passes, in double and in single precision.
TOLERANCES: dict[str, tuple[float, float]] = {
    "central": (1e-6, 2e-2),
    "richardson": (1e-9, 1e-2),
    "complex-step": (1e-12, 1e-4),
}
# What rounding may be of a gradient that counts as checked: a sign, a conjugate, a factor show.
LEAST = 1e-2


@dataclass(frozen=True)
class ParameterCheck:
    """The worst probe of one parameter's gradient.

    Attributes
    ----------
    name : str
    index : tuple of int
        The entry; empty for a random direction.
    part : str
        "Re" or "Im" of a complex entry, "along v" for a random direction, else "".
    analytic, numerical : float
    error : float
        Their difference, relative to the largest entry of the parameter's gradient.
    entries : int
        How many probes there were.
    too_small : bool
        Whether the rounding of f would hide an error of this gradient: it was not checked.
    hint : str
        What a wrong gradient looks like, if it looks like anything.
    """

    name: str
    index: tuple[int, ...]
    part: str
    analytic: float
    numerical: float
    error: float
    entries: int
    too_small: bool = False
    hint: str = ""


@dataclass(frozen=True)
class GradientReport:
    """What :func:`check_gradient` found; true if every parameter was checked and passed.

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
        return all(c.error <= self.tolerance and not c.too_small for c in self.checks)

    def __str__(self) -> str:
        width = max(len("parameter"), *(len(check.name) for check in self.checks))
        lines = [
            f"{'parameter':{width}}  entries  worst entry      "
            "analytic        numerical      relative error"
        ]
        for c in self.checks:
            index = f"[{', '.join(map(str, c.index))}]" if c.part != "along v" else ""
            verdict = "  <- too small to check" if c.too_small else ""
            verdict = verdict if c.error <= self.tolerance else "  <- wrong"
            lines.append(
                f"{c.name:{width}}  {c.entries:7d}  {f'{c.part} {index}':12}  {c.analytic:15.8e}  "
                f"{c.numerical:15.8e}  {c.error:14.1e}{verdict}"
            )
            if c.hint:
                lines.append(f"{'':{width}}  {c.hint}")
        verdict = "passed" if self else "FAILED"
        lines.append(
            f"{verdict}: largest relative error {self.max_error:.1e}, tolerance {self.tolerance:g}"
        )
        return "\n".join(lines)


def check_gradient(
    f: Function,
    params: Mapping[str, Array],
    grads: Mapping[str, Array],
    *,
    method: Method = "central",
    entries: int | None = None,
    directions: int | None = None,
    rng: np.random.Generator | None = None,
    tolerance: float | None = None,
) -> GradientReport:
    """Compare a gradient with what the function itself does when its arguments move.

    Parameters
    ----------
    f : callable
        The loss, a function of a dict of arrays that returns a real number; for "complex-step" one
        that takes complex numbers for real ones, and returns a complex one.
    params : mapping of str to ndarray
        Where the gradient was taken; any real or complex arrays.
    grads : mapping of str to ndarray
        The gradient to check, ∂L/∂Re p + i ∂L/∂Im p, with the keys and shapes of params.
    method : {"central", "richardson", "complex-step"}
        Central differences; those of three steps extrapolated to step 0; or the imaginary part of
        f at an imaginary step, to machine precision, for analytic f of real parameters.
    entries : int, optional
        How many entries of each parameter to check, drawn by rng; all if not given.
    directions : int, optional
        Check so many random directions of each parameter instead of entries: few calls of f, and
        no wrong entry goes unnoticed, but none is named.
    rng : numpy.random.Generator, optional
        Needed with ``entries`` and ``directions``.
    tolerance : float, optional
        Largest relative error that passes. If not given, 1e-6, 1e-9 or 1e-12 by method in double,
        2e-2, 1e-2 or 1e-4 in single precision.

    Returns
    -------
    report : GradientReport
        ``assert report, report`` is a test; ``print(report)`` is a table. A wrong gradient is
        shown with the parameter, the entry, both values, and a hint where it is wrong in a way
        that has a usual cause: a conjugate, a transpose, a sign, a factor.

    Raises
    ------
    ValueError
        Other keys or shapes, entries or directions without rng, or f not finite.
    TypeError
        f returns no real number (for "complex-step": no complex one), or a parameter is neither
        real nor complex (for "complex-step": not real).

    Notes
    -----
    *Central*: (f(+s) - f(-s)) / 2s for each real and each imaginary part. Its truncation error
    grows as s², its rounding error as ε/s; ``s = ∛ε max(1, |p|)`` makes them about equal, ε^(2/3),
    which is 4e-11 in double precision. *Richardson*: with steps s, s/2, s/4 from s = ε^(1/7) the
    terms in s² and s⁴ cancel, and ε^(6/7) is left, 4e-14. *Complex step* (Squire and Trapp 1998):
    Im f(p + is)/s differs from the derivative by s², and no two losses are subtracted.

    An error is relative to the largest entry of the parameter's gradient. A difference of two
    losses is known to about their rounding over the step, where f rounds as if its value and each
    of its arguments did: ``ε (|f| + Σ |p| |dp|)``. Where an error of this size would not pass,
    wider steps are tried, and else an error counts as far as it stands out from rounding. Of a
    gradient of which rounding does not leave two digits nothing is known: it is reported as "too
    small to check", and the report is false.

    Where an entry disagrees, smaller steps are tried too: a kink, as relu has one, may lie within
    the first. So are steps of the size of p itself, for f may know no other.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> params = {"z": np.array([3 + 4j])}
    >>> report = kru.check_gradient(lambda p: abs(p["z"][0]) ** 2, params, {"z": 2 * params["z"]})
    >>> bool(report)
    True
    """
    params, grads = as_arrays("params", params), as_arrays("grads", grads)
    if not callable(f):
        raise TypeError(f"f must be a function of params, got {f!r}")
    _check_arguments(params, grads, method, entries, directions, rng)
    single = any(p.dtype.name in ("float32", "complex64") for p in params.values())
    if tolerance is None:
        tolerance = TOLERANCES[method][single]
    check_tolerance(tolerance)
    slope = Slope(f, params, grads, method)
    checks = []
    for name, p in params.items():
        probes = list(probes_of(p, entries, directions, rng))
        checks.append(_check_parameter(slope, name, probes, grads[name], tolerance))
    return GradientReport(tuple(checks), float(tolerance))


def _check_parameter(
    slope: Slope, name: str, probes: list[Probe], g: Array, tolerance: float
) -> ParameterCheck:
    """Compare one parameter's gradient with its slopes, and return the worst probe."""
    analytic = [along(g, probe) for probe in probes]
    found = [slope(name, probe, slope.usual(name, probe)) for probe in probes]
    scale = max(largest(g), _largest_known(found, probes, tolerance))
    numerical: list[float] = []
    worst = ParameterCheck(name, (), "", 0.0, 0.0, 0.0, len(probes))
    for probe, a, usual in zip(probes, analytic, found, strict=True):
        n, error, resolved = _closest(slope, name, probe, a, usual, scale, tolerance)
        numerical.append(n)
        too_small = worst.too_small or not resolved
        if error >= worst.error:
            worst = dataclasses.replace(
                worst, index=probe.index, part=probe.part, analytic=a, numerical=n, error=error
            )
        worst = dataclasses.replace(worst, too_small=too_small)
    if worst.error <= tolerance:
        return worst
    guilty = next(q for q in probes if (q.index, q.part) == (worst.index, worst.part))
    hint = slope.defect(name, guilty, tolerance * scale * guilty.length())
    hint = hint or hint_at(g, probes, np.array(numerical), 10 * tolerance)
    return dataclasses.replace(worst, hint=hint)


def _largest_known(found: list[Estimate], probes: list[Probe], tolerance: float) -> float:
    """Return the largest slope, per length of its direction, that rounding does not hide."""
    known = [
        abs(n.value) / probe.length()
        for n, probe in zip(found, probes, strict=True)
        if n.noise <= tolerance * abs(n.value)
    ]
    return max(known, default=0.0)


def _closest(
    slope: Slope,
    name: str,
    probe: Probe,
    a: float,
    usual: Estimate,
    scale: float,
    tolerance: float,
) -> tuple[float, float, bool]:
    """Return a probe's slope by the step that agrees best, its error, and whether it was checked.

    Wider steps can confirm what the others leave open, but not refute it: there f may bend.
    """
    scale = scale * probe.length()
    sharp: list[tuple[float, float]] = []
    for size in (None, *slope.closer(name, probe)):
        n = usual if size is None else slope(name, probe, size)
        if n.noise <= tolerance * scale:
            sharp.append((_relative(a, n.value, scale), n.value))
            if sharp[-1][0] <= tolerance:
                break
    if sharp:
        error, value = min(sharp)
        return value, error, True
    for size in slope.wider(name, probe):
        n = slope(name, probe, size)
        error = _relative(a, n.value, scale)
        if n.noise <= tolerance * scale and error <= tolerance:
            return n.value, error, True
    error = _relative(a, usual.value, max(scale, usual.noise / tolerance))
    if usual.noise <= max(tolerance, LEAST) * scale:
        return usual.value, error, True
    return usual.value, error, a == usual.value == 0 and slope.is_flat(name, probe)


def assert_gradient(
    f: Function, params: Mapping[str, Array], grads: Mapping[str, Array], **options: Any
) -> None:
    """Raise AssertionError, with the report, if a gradient is wrong: a test in one line.

    Parameters
    ----------
    f, params, grads, **options
        As for :func:`check_gradient`.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> params = {"a": np.arange(3.0)}
    >>> kru.assert_gradient(lambda p: np.sum(p["a"] ** 2), params, {"a": 2 * params["a"]})
    """
    report = check_gradient(f, params, grads, **options)
    if not report:
        raise AssertionError(f"wrong gradient\n{report}")


def _relative(analytic: float, numerical: float, scale: float) -> float:
    """Return the error; one of a NaN is infinite, and does not compare false."""
    if analytic == numerical:
        return 0.0
    # halves: the difference of two large numbers may overflow
    error = 2 * abs(analytic / 2 - numerical / 2) / scale if scale else math.inf
    return math.inf if math.isnan(error) else error


def _check_arguments(
    params: Mapping[str, Array],
    grads: Mapping[str, Array],
    method: str,
    entries: int | None,
    directions: int | None,
    rng: np.random.Generator | None,
) -> None:
    checked_choice("method", method, get_args(Method))
    given = {"entries": entries, "directions": directions}
    for name, number in given.items():
        if number is not None and (checked_size(name, number, most=MOST_PROBES) < 1 or rng is None):
            raise ValueError(f"{name} must be at least 1 and needs rng, a numpy.random.Generator")
    if None not in given.values():
        raise ValueError("give entries or directions, not both")
    if rng is not None:
        check_rng(rng)
    if sum(p.size for p in params.values()) == 0:
        raise ValueError("params must hold at least one array with an entry, got none")
    _check_keys(params, grads)
    for name, p in params.items():
        _check_pair(name, p, grads[name], method)


def _check_keys(params: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
    if params.keys() != grads.keys():
        raise ValueError(
            f"grads must have the keys of params: missing {sorted(params.keys() - grads.keys())}, "
            f"unknown {sorted(grads.keys() - params.keys())}"
        )


def _check_pair(name: str, p: Array, g: Array, method: str) -> None:
    if p.dtype.name not in DTYPES:
        raise TypeError(f"{name} must be one of {', '.join(DTYPES)}, got {p.dtype}")
    if method == "complex-step" and np.iscomplexobj(p):
        raise TypeError(
            f"{name} is complex: an imaginary step shows the derivative of an analytic "
            "function of real numbers; use method='richardson'"
        )
    if np.shape(g) != p.shape:
        raise ValueError(f"gradient of {name} must have shape {p.shape}, got {np.shape(g)}")
    if np.iscomplexobj(g) and not np.iscomplexobj(p):
        raise TypeError(f"{name} is real, its gradient must be real, got {g.dtype}")
