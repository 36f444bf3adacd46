"""Checks that a gradient is the gradient: finite differences, Richardson, complex step."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from .kronecker import DTYPES
from .sweeps import Array
from .unitary import check_rng

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
        Whether rounding would hide an error of this gradient.
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
            index = f"[{', '.join(map(str, c.index))}]" if c.part != "along v" else ""
            verdict = "  too small to check" if c.too_small else ""
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

    An error is relative to the largest entry of the parameter's gradient. Where that is
    below a thousandth of the largest of the whole gradient, or so small that the rounding
    of f alone would exceed the tolerance, a difference of two losses resolves nothing: the
    error is relative to that floor, and the report says "too small to check".

    Where an entry disagrees, smaller steps are tried too: a kink, as relu has one, may lie within
    the first.

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
    _check_arguments(params, grads, method, entries, directions, rng)
    single = any(p.dtype.name in ("float32", "complex64") for p in params.values())
    if tolerance is None:
        tolerance = TOLERANCES[method][single]
    if method == "complex-step":
        value = _complex(f({name: p.astype(np.complex128) for name, p in params.items()})).real
    else:
        value = _real(f(dict(params)))
    largest = {name: float(np.max(np.abs(g), initial=0)) for name, g in grads.items()}
    eps = max(float(np.finfo(p.dtype).eps) for p in params.values())
    rounding = {"central": eps ** (2 / 3), "richardson": eps ** (6 / 7), "complex-step": eps}
    floor = max(
        1e-3 * max((size for size in largest.values() if math.isfinite(size)), default=0.0),
        rounding[method] * abs(value) / tolerance if method != "complex-step" else 0.0,
    )
    checks = []
    for name, p in params.items():
        probes = list(_probes(p, entries, directions, rng))
        slope = _Slope(f, params, name, method)
        numerical = [slope(probe) for probe in probes]
        lengths = [probe.length() for probe in probes]
        sizes = np.abs(numerical) / lengths
        scale = max(largest[name], floor, float(sizes.max(initial=0)))
        analytic = [_along(grads[name], probe) for probe in probes]
        worst = ParameterCheck(name, (), "", 0.0, 0.0, 0.0, len(probes), largest[name] < floor)
        for k, probe in enumerate(probes):
            error = _relative(analytic[k], numerical[k], scale * lengths[k])
            for shrink in (1e-1, 1e-2) if single else (1e-1, 1e-2, 1e-3):
                # a kink or a jump within the step: look closer, as far as rounding allows
                if error <= tolerance or method == "complex-step":
                    break
                closer = slope(probe, shrink)
                if _relative(analytic[k], closer, scale * lengths[k]) < error:
                    numerical[k] = closer
                    error = _relative(analytic[k], closer, scale * lengths[k])
            if error >= worst.error:
                worst = dataclasses.replace(
                    worst,
                    index=probe.index,
                    part=probe.part,
                    analytic=analytic[k],
                    numerical=numerical[k],
                    error=error,
                )
        if not worst.error <= tolerance:
            hint = _hint(grads[name], probes, np.array(numerical), 10 * tolerance)
            worst = dataclasses.replace(worst, hint=hint)
        checks.append(worst)
    return GradientReport(tuple(checks), tolerance)


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


class _Slope:
    """The derivative of f as one parameter moves, by one of the methods."""

    def __init__(self, f: Function, params: Mapping[str, Array], name: str, method: Method) -> None:
        self.f, self.params, self.name, self.method = f, dict(params), name, method

    def __call__(self, probe: _Probe, shrink: float = 1.0) -> float:
        """Return df/ds at p + s v, s = 0, with steps shrunk."""
        p = self.params[self.name]
        if self.method == "complex-step":
            shifted = probe.moved(p, COMPLEX_STEP * 1j)
            return _complex(self.f({**self.params, self.name: shifted})).imag / COMPLEX_STEP
        eps = float(np.finfo(p.dtype).eps)
        size = shrink * max(1.0, probe.largest(p))
        if self.method == "central":
            return self._difference(probe, size * eps ** (1 / 3))
        D_1, D_2, D_3 = (self._difference(probe, size * eps ** (1 / 7) / k) for k in (1, 2, 4))
        R_1, R_2 = (4 * D_2 - D_1) / 3, (4 * D_3 - D_2) / 3
        return (16 * R_2 - R_1) / 15

    def _difference(self, probe: _Probe, step: float) -> float:
        p = self.params[self.name]
        plus, minus = probe.moved(p, step), probe.moved(p, -step)
        losses = [_real(self.f({**self.params, self.name: q})) for q in (plus, minus)]
        # by what it was really moved, after rounding
        length = _along(plus - minus, probe) / probe.length() ** 2
        return (losses[0] - losses[1]) / length


def _along(g: Array, probe: _Probe) -> float:
    """Return Re⟨g, v⟩: one real number of a gradient, or a sum of them."""
    if probe.direction is not None:
        return float(np.vdot(g, probe.direction).real)
    return float(g[probe.index].imag if probe.part == "Im" else g[probe.index].real)


def _relative(analytic: float, numerical: float, scale: float) -> float:
    """Return the error; one of a NaN is infinite, and does not compare false."""
    if analytic == numerical:
        return 0.0
    error = abs(analytic - numerical) / scale
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


def _real(value: Any) -> float:
    value = np.asarray(value)
    if value.shape != () or value.dtype.kind not in "fiu":
        raise TypeError(f"f must return a real number, got {value.dtype} of shape {value.shape}")
    if not np.isfinite(value):
        raise ValueError(f"f must be finite at and around params, got {value}")
    return float(value)


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
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    for name, number in {"entries": entries, "directions": directions}.items():
        if number is not None and (number < 1 or rng is None):
            raise ValueError(f"{name} must be at least 1 and needs rng, a numpy.random.Generator")
    if entries is not None and directions is not None:
        raise ValueError("give entries or directions, not both")
    if rng is not None:
        check_rng(rng)
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
