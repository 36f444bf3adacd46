"""Checks that a gradient is the gradient: finite differences, Richardson, complex step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from ..arrays import (
    DTYPES,
    MOST_PROBES,
    Array,
    as_arrays,
    check_rng,
    check_tolerance,
    checked_choice,
    checked_size,
    divided,
)

Function = Callable[[dict[str, Array]], Any]
Method = Literal["central", "richardson", "complex-step"]

# Largest relative error that passes, in double and in single precision.
TOLERANCES: dict[str, tuple[float, float]] = {
    "central": (1e-6, 2e-2),
    "richardson": (1e-9, 1e-2),
    "complex-step": (1e-12, 1e-4),
}
# Imaginary, so nothing is subtracted and it may be as small as it likes.
COMPLEX_STEP = 1e-20
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
    grows as s², its rounding error as ε/s; s = ∛ε max(1, |p|) makes them about equal, ε^(2/3),
    which is 4e-11 in double precision. *Richardson*: with steps s, s/2, s/4 from s = ε^(1/7) the
    terms in s² and s⁴ cancel, and ε^(6/7) is left, 4e-14. *Complex step* (Squire and Trapp 1998):
    Im f(p + is)/s differs from the derivative by s², and no two losses are subtracted.

    An error is relative to the largest entry of the parameter's gradient. A difference of two
    losses is known to about their rounding over the step, where f rounds as if its value and each
    of its arguments did: ε (|f| + Σ |p| |dp|). Where an error of this size would not pass, wider
    steps are tried, and else an error counts as far as it stands out from rounding. Of a gradient
    of which rounding does not leave two digits nothing is known: it is reported as "too small to
    check", and the report is false.

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
    slope = _Slope(f, params, grads, method)
    checks = []
    for name, p in params.items():
        probes = list(_probes(p, entries, directions, rng))
        checks.append(_check_parameter(slope, name, probes, grads[name], tolerance))
    return GradientReport(tuple(checks), float(tolerance))


def _check_parameter(
    slope: _Slope, name: str, probes: list[_Probe], g: Array, tolerance: float
) -> ParameterCheck:
    """Compare one parameter's gradient with its slopes, and return the worst probe."""
    analytic = [_along(g, probe) for probe in probes]
    found = [slope(name, probe, slope.usual(name, probe)) for probe in probes]
    sizes = [abs(n.value) / probe.length() for n, probe in zip(found, probes, strict=True)]
    known = [s for s, n in zip(sizes, found, strict=True) if n.noise <= tolerance * abs(n.value)]
    scale = max(_largest(g), *known, 0.0)
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
    hint = hint or _hint(g, probes, np.array(numerical), 10 * tolerance)
    return dataclasses.replace(worst, hint=hint)


def _closest(
    slope: _Slope,
    name: str,
    probe: _Probe,
    a: float,
    usual: _Estimate,
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


@dataclass(frozen=True)
class _Probe:
    """What is moved: one real number of a parameter, or all of them in a random direction."""

    index: tuple[int, ...]
    part: str
    direction: Array | None = None

    def unit(self) -> complex:
        """Return the entry's direction."""
        return 1j if self.part == "Im" else 1

    def length(self) -> float:
        """Return how long the direction is."""
        return 1.0 if self.direction is None else float(np.linalg.norm(self.direction))

    def largest(self, p: Array) -> float:
        """Return the largest modulus among the entries that move."""
        return float(np.abs(p[self.index]).max(initial=0))

    def moved(self, p: Array, step: complex) -> Array:
        """Return p moved by step along the direction; an imaginary step makes it complex."""
        p = p.astype(np.result_type(p.dtype, np.complex64)) if isinstance(step, complex) else p
        if self.direction is not None:
            return p + p.dtype.type(step) * self.direction.astype(p.dtype)
        shifted = p.copy()
        shifted[self.index] += step * self.unit()
        return shifted


def _probes(
    p: Array, entries: int | None, directions: int | None, rng: np.random.Generator | None
) -> Iterator[_Probe]:
    is_complex = np.iscomplexobj(p)
    if directions is not None and rng is not None:
        for _ in range(directions if p.size else 0):
            v = rng.standard_normal(p.shape)
            if is_complex:
                v = v + 1j * rng.standard_normal(p.shape)
            # no entry moves further than it would alone
            yield _Probe((), "along v", v / np.abs(v).max())
        return
    flat = np.arange(p.size)
    if rng is not None and entries is not None and entries < p.size:
        flat = np.sort(rng.choice(p.size, entries, replace=False))
    for i in flat:
        index = tuple(int(k) for k in np.unravel_index(i, p.shape))
        for part in ("Re", "Im") if is_complex else ("",):
            yield _Probe(index, part)


class _Estimate(NamedTuple):
    """A derivative, and how far the rounding of f may have moved it."""

    value: float
    noise: float


class _Slope:
    """The derivative of f as one parameter moves, by one of the methods.

    Sizes are those of what moves; a step is the share of it that balances truncation and rounding.
    """

    def __init__(
        self, f: Function, params: Mapping[str, Array], grads: Mapping[str, Array], method: Method
    ) -> None:
        self.f, self.params, self.method = f, dict(params), method
        self.eps = max(float(np.finfo(p.dtype).eps) for p in params.values())
        if method == "complex-step":
            of = {name: p.astype(np.complex128) for name, p in params.items()}
            self.value = _complex(f(of)).real
        else:
            self.value = _real(f(dict(params)))
        with np.errstate(over="ignore"):  # then nothing is resolved, and the report says so
            self.moved_by_rounding = sum(
                float(np.abs(p).astype(float).ravel() @ np.nan_to_num(np.abs(grads[name])).ravel())
                for name, p in params.items()
            )

    def usual(self, name: str, probe: _Probe) -> float:
        """Return the size of the first step: 1, or what moves where it is larger."""
        return max(1.0, probe.largest(self.params[name]))

    def closer(self, name: str, probe: _Probe) -> Iterator[float]:
        """Yield smaller sizes: for a kink or a jump within the step, and of p's own size."""
        if self.method == "complex-step":
            return
        usual, p = self.usual(name, probe), self.params[name]
        yield from (usual * shrink for shrink in (1e-1, 1e-2, 1e-3)[: 2 if self.eps > 1e-9 else 3])
        for own in sorted({probe.largest(p), _largest(p)}):
            if 0 < own < 1e-3 * usual:
                yield from (own, own / 10)

    def wider(self, name: str, probe: _Probe) -> Iterator[float]:
        """Yield larger sizes, at which less of a difference is rounding."""
        if self.method == "complex-step":
            return
        usual, p = self.usual(name, probe), self.params[name]
        yield from (10 * usual, 100 * usual)
        if _largest(p) > 100 * usual:
            yield _largest(p)
        for own in sorted({probe.largest(p), _largest(p)}):
            if 0 < own < 1e-3:
                yield from (10 * own, 100 * own)

    def __call__(self, name: str, probe: _Probe, size: float) -> _Estimate:
        """Return df/ds at p + s v, s = 0, by steps for a size."""
        p = self.params[name]
        if self.method == "complex-step":
            # relative to p: nothing is subtracted, but what is squared may over- or underflow
            own = probe.largest(p) or 1.0
            step = max(COMPLEX_STEP * own, min(COMPLEX_STEP, 1e-10 * own))
            shifted = probe.moved(p, step * 1j)
            slope = _complex(self.f({**self.params, name: shifted})).imag / step
            return _Estimate(slope, 0.0)
        if self.method == "central":
            return self._difference(name, probe, size * self.eps ** (1 / 3))
        steps = [size * self.eps ** (1 / 7) / k for k in (1, 2, 4)]
        D = [self._difference(name, probe, step) for step in steps]
        R_1, R_2 = ((4 * D[k + 1].value - D[k].value) / 3 for k in (0, 1))
        return _Estimate((16 * R_2 - R_1) / 15, 2 * D[2].noise)

    def _difference(self, name: str, probe: _Probe, step: float) -> _Estimate:
        p = self.params[name]
        plus, minus = probe.moved(p, step), probe.moved(p, -step)
        # by what it was really moved, after rounding
        length = _along(plus - minus, probe) / probe.length() ** 2
        if length == 0 or not math.isfinite(length):
            return _Estimate(0.0, math.inf)
        losses = [self._loss(name, q) for q in (plus, minus)]
        size = max(abs(self.value), *(abs(loss) for loss in losses))
        noise = self.eps * (size + self.moved_by_rounding) / (length / 2)
        if not math.isfinite(noise):
            return _Estimate(0.0, math.inf)
        return _Estimate((losses[0] - losses[1]) / length, noise)

    def _loss(self, name: str, p: Array) -> float:
        """Return f at another value of a parameter; infinite where it overflows."""
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                value = _number(self.f({**self.params, name: p}))
        except OverflowError:  # of Python's own numbers
            return math.inf
        return value if math.isfinite(value) else math.inf

    def is_flat(self, name: str, probe: _Probe) -> bool:
        """Tell whether f does not move at all when p moves by as much as its size."""
        if self.method == "complex-step":
            return True
        p, size = self.params[name], self.usual(name, probe)
        return all(
            self._loss(name, probe.moved(p, step)) == self.value
            for share in (1, self.eps ** (1 / 3))
            for step in (share * size, -share * size)
        )

    def defect(self, name: str, probe: _Probe, resolution: float) -> str:
        """Say what of f itself keeps a difference from being its derivative, or nothing."""
        if self.method == "complex-step":
            return ""
        again = _number(self.f(dict(self.params)))
        if again != self.value:
            return (
                f"f is not deterministic: it returned {self.value:.17g} and then {again:.17g} at "
                "the same point; draw its random numbers once, outside"
            )
        size = self.usual(name, probe)
        wide, close = (self._jump(name, probe, size * s * self.eps ** (1 / 3)) for s in (1, 0.1))
        # where f bends, but smoothly, the two sides come closer as the step shrinks
        if abs(close[0] - close[1]) > max(0.5 * abs(wide[0] - wide[1]), 10 * resolution):
            return (
                f"f has a kink or a jump here: its slope is {close[0]:.6g} on one side and "
                f"{close[1]:.6g} on the other; move the parameter away from it"
            )
        return ""

    def _jump(self, name: str, probe: _Probe, step: float) -> tuple[float, float]:
        """Return the slopes behind and before the point."""
        p = self.params[name]
        slopes = []
        for s in (-step, step):
            moved = probe.moved(p, s)
            length = _along(moved - p, probe) / probe.length() ** 2
            slopes.append((self._loss(name, moved) - self.value) / length if length else 0.0)
        return slopes[0] + 0.0, slopes[1] + 0.0  # no -0


def _largest(a: Array) -> float:
    """Return the largest modulus of what is finite."""
    moduli = np.abs(a)
    return float(np.max(moduli, initial=0, where=np.isfinite(moduli)))


def _along(g: Array, probe: _Probe) -> float:
    """Return Re⟨g, v⟩: one real number of a gradient, or a sum of them."""
    if probe.direction is not None:
        return float(np.vdot(g, probe.direction).real)
    return float(g[probe.index].imag if probe.part == "Im" else g[probe.index].real)


def _relative(analytic: float, numerical: float, scale: float) -> float:
    """Return the error; one of a NaN is infinite, and does not compare false."""
    if analytic == numerical:
        return 0.0
    # halves: the difference of two large numbers may overflow
    error = 2 * abs(analytic / 2 - numerical / 2) / scale if scale else math.inf
    return math.inf if math.isnan(error) else error


def likely_cause(got: Array, expected: Array, tolerance: float) -> str:
    """Say which usual mistake makes one array of another, or nothing.

    Parameters
    ----------
    got, expected : ndarray
        Of one shape.
    tolerance : float
        Largest relative error at which what is mended counts as right.
    """
    probes = list(_probes(expected, None, None, None))
    return _hint(got, probes, np.array([_along(expected, p) for p in probes]), tolerance)


def _hint(g: Array, probes: list[_Probe], numerical: Array, tolerance: float) -> str:
    """Say what a wrong gradient looks like: which usual mistake would make it the numerical one."""

    def along(candidate: Array) -> Array:
        return np.array([_along(candidate, probe) for probe in probes])

    # as numbers of about 1, lest a square over- or underflow
    size = max(_largest(g), _largest(numerical))
    if size > 0 and np.isfinite(g).all():
        g, numerical = divided(g.astype(np.result_type(g, float)), size), numerical / size
    scale = max(float(np.abs(numerical).max()), np.finfo(float).tiny)

    def fits(candidate: Array) -> bool:
        return bool(np.abs(along(candidate) - numerical).max() <= tolerance * scale)

    analytic = along(g)
    if not np.isfinite(analytic).all():
        return "it is not finite"
    if not np.any(analytic):
        return "it is 0: never computed, or overwritten?"
    if not np.any(np.abs(numerical) > tolerance * np.abs(analytic).max()):
        return "the loss does not depend on it: a gradient of something else?"
    if len(probes) < 2:
        return ""
    if fits(-g):
        return "it has the wrong sign"
    if np.iscomplexobj(g):
        if fits(g.conj()):
            return "its conjugate is right: ∂L/∂Re + i ∂L/∂Im is the convention"
        for what, turned in (("i", 1j * g), ("-i", -1j * g)):
            if fits(turned):
                return f"{what} times it is right: real and imaginary parts changed places?"
    if g.ndim == 2 and g.shape[0] == g.shape[1]:
        if fits(g.T):
            return "its transpose is right"
        if np.iscomplexobj(g) and fits(g.conj().T):
            return "its conjugate transpose is right"
    if np.iscomplexobj(g) and not g.imag.any() and fits(g + 1j * _imaginary(probes, numerical, g)):
        return "its imaginary part is missing"
    ratio = float(np.vdot(analytic, numerical) / np.vdot(analytic, analytic))
    if abs(ratio - 1) < 1e-3 and fits(ratio * g):
        return ""  # off by a little everywhere: rounding, not a factor
    if fits(ratio * g):
        cause = "a mean for a sum" if abs(ratio) > 1 else "a sum for a mean"
        usual = {2.0: "a square's 2 missing, or ", 0.5: "a 2 too many, or "}
        for factor, other in usual.items():
            if math.isclose(ratio, factor, rel_tol=1e-4):
                cause = other + cause
        return f"{ratio:.6g} times it is right: {cause}, over the batch, time or outputs?"
    return ""


def _imaginary(probes: list[_Probe], numerical: Array, g: Array) -> Array:
    """Return the imaginary parts that the probes found, 0 where there was none."""
    parts = np.zeros(g.shape)
    for probe, value in zip(probes, numerical, strict=True):
        if probe.part == "Im":
            parts[probe.index] = value
    return parts


def _number(value: Any) -> float:
    value = np.asarray(value)
    if value.shape != () or value.dtype.kind not in "fiu":
        raise TypeError(f"f must return a real number, got {value.dtype} of shape {value.shape}")
    return float(value)


def _real(value: Any) -> float:
    number = _number(value)
    if not math.isfinite(number):
        raise ValueError(f"f must be finite at and around params, got {number}")
    return number


def _complex(value: Any) -> complex:
    value = np.asarray(value)
    if value.shape != () or value.dtype.kind != "c":
        raise TypeError(
            f"f must return a complex number for complex arguments, got {value.dtype} of shape "
            f"{value.shape}: with abs, real or conj in it it is not analytic"
        )
    if not np.isfinite(value):
        raise ValueError(f"f must be finite at and around params, got {value}")
    return complex(value)


def _check_arguments(
    params: Mapping[str, Array],
    grads: Mapping[str, Array],
    method: str,
    entries: int | None,
    directions: int | None,
    rng: np.random.Generator | None,
) -> None:
    checked_choice("method", method, get_args(Method))
    for name, number in {"entries": entries, "directions": directions}.items():
        if number is not None and (checked_size(name, number, most=MOST_PROBES) < 1 or rng is None):
            raise ValueError(f"{name} must be at least 1 and needs rng, a numpy.random.Generator")
    if entries is not None and directions is not None:
        raise ValueError("give entries or directions, not both")
    if rng is not None:
        check_rng(rng)
    if not any(p.size for p in params.values()):
        raise ValueError("params must hold at least one array with an entry, got none")
    if params.keys() != grads.keys():
        raise ValueError(
            f"grads must have the keys of params: missing {sorted(params.keys() - grads.keys())}, "
            f"unknown {sorted(grads.keys() - params.keys())}"
        )
    for name, p in params.items():
        if p.dtype.name not in DTYPES:
            raise TypeError(f"{name} must be one of {', '.join(DTYPES)}, got {p.dtype}")
        if method == "complex-step" and np.iscomplexobj(p):
            raise TypeError(
                f"{name} is complex: an imaginary step shows the derivative of an analytic "
                "function of real numbers; use method='richardson'"
            )
        if np.shape(grads[name]) != p.shape:
            raise ValueError(
                f"gradient of {name} must have shape {p.shape}, got {np.shape(grads[name])}"
            )
        if np.iscomplexobj(grads[name]) and not np.iscomplexobj(p):
            raise TypeError(f"{name} is real, its gradient must be real, got {grads[name].dtype}")
