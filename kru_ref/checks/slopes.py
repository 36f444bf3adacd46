"""Slopes of a function by moving its parameters: differences, Richardson's, an imaginary step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays import Array

Function = Callable[[dict[str, Array]], Any]
Method = Literal["central", "richardson", "complex-step"]

# Imaginary, so nothing is subtracted and it may be as small as it likes.
COMPLEX_STEP = 1e-20


@dataclass(frozen=True)
class Probe:
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


def probes_of(
    p: Array, entries: int | None, directions: int | None, rng: np.random.Generator | None
) -> Iterator[Probe]:
    """Yield what is moved of p: every real number, some of them, or random directions."""
    if directions is not None and rng is not None:
        yield from (_direction(p, rng) for _ in range(directions if p.size else 0))
        return
    flat = np.arange(p.size)
    if rng is not None and entries is not None and entries < p.size:
        flat = np.sort(rng.choice(p.size, entries, replace=False))
    parts = ("Re", "Im") if np.iscomplexobj(p) else ("",)
    for i, part in itertools.product(flat, parts):
        yield Probe(tuple(map(int, np.unravel_index(i, p.shape))), part)


def _direction(p: Array, rng: np.random.Generator) -> Probe:
    v = rng.standard_normal(p.shape)
    if np.iscomplexobj(p):
        v = v + 1j * rng.standard_normal(p.shape)
    # no entry moves further than it would alone
    return Probe((), "along v", v / np.abs(v).max())


class Estimate(NamedTuple):
    """A derivative, and how far the rounding of f may have moved it."""

    value: float
    noise: float


class Slope:
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

    def usual(self, name: str, probe: Probe) -> float:
        """Return the size of the first step: 1, or what moves where it is larger."""
        return max(1.0, probe.largest(self.params[name]))

    def closer(self, name: str, probe: Probe) -> Iterator[float]:
        """Yield smaller sizes: for a kink or a jump within the step, and of p's own size."""
        if self.method == "complex-step":
            return
        usual, p = self.usual(name, probe), self.params[name]
        yield from (usual * shrink for shrink in (1e-1, 1e-2, 1e-3)[: 2 if self.eps > 1e-9 else 3])
        for moved_by in sorted({probe.largest(p), largest(p)}):
            if 0 < moved_by < 1e-3 * usual:
                yield from (moved_by, moved_by / 10)

    def wider(self, name: str, probe: Probe) -> Iterator[float]:
        """Yield larger sizes, at which less of a difference is rounding."""
        if self.method == "complex-step":
            return
        usual, p = self.usual(name, probe), self.params[name]
        yield from (10 * usual, 100 * usual)
        if largest(p) > 100 * usual:
            yield largest(p)
        for moved_by in sorted({probe.largest(p), largest(p)}):
            if 0 < moved_by < 1e-3:
                yield from (10 * moved_by, 100 * moved_by)

    def __call__(self, name: str, probe: Probe, size: float) -> Estimate:
        """Return df/ds at p + s v, s = 0, by steps for a size."""
        p = self.params[name]
        if self.method == "complex-step":
            # relative to p: nothing is subtracted, but what is squared may over- or underflow
            moved_by = probe.largest(p) or 1.0
            step = max(COMPLEX_STEP * moved_by, min(COMPLEX_STEP, 1e-10 * moved_by))
            shifted = probe.moved(p, step * 1j)
            slope = _complex(self.f({**self.params, name: shifted})).imag / step
            return Estimate(slope, 0.0)
        if self.method == "central":
            return self._difference(name, probe, size * self.eps ** (1 / 3))
        steps = [size * self.eps ** (1 / 7) / k for k in (1, 2, 4)]
        D = [self._difference(name, probe, step) for step in steps]
        R_1, R_2 = ((4 * D[k + 1].value - D[k].value) / 3 for k in (0, 1))
        return Estimate((16 * R_2 - R_1) / 15, 2 * D[2].noise)

    def _difference(self, name: str, probe: Probe, step: float) -> Estimate:
        p = self.params[name]
        plus, minus = probe.moved(p, step), probe.moved(p, -step)
        # by what it was really moved, after rounding
        length = along(plus - minus, probe) / probe.length() ** 2
        if length == 0 or not math.isfinite(length):
            return Estimate(0.0, math.inf)
        losses = [self._loss(name, q) for q in (plus, minus)]
        size = max(abs(self.value), *(abs(loss) for loss in losses))
        noise = self.eps * (size + self.moved_by_rounding) / (length / 2)
        if not math.isfinite(noise):
            return Estimate(0.0, math.inf)
        return Estimate((losses[0] - losses[1]) / length, noise)

    def _loss(self, name: str, p: Array) -> float:
        """Return f at another value of a parameter; infinite where it overflows."""
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                value = _number(self.f({**self.params, name: p}))
        except OverflowError:  # of Python's own numbers
            return math.inf
        return value if math.isfinite(value) else math.inf

    def is_flat(self, name: str, probe: Probe) -> bool:
        """Tell whether f does not move at all when p moves by as much as its size."""
        if self.method == "complex-step":
            return True
        p, size = self.params[name], self.usual(name, probe)
        return all(
            self._loss(name, probe.moved(p, step)) == self.value
            for share in (1, self.eps ** (1 / 3))
            for step in (share * size, -share * size)
        )

    def defect(self, name: str, probe: Probe, resolution: float) -> str:
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

    def _jump(self, name: str, probe: Probe, step: float) -> tuple[float, float]:
        """Return the slopes behind and before the point."""
        p = self.params[name]
        slopes = []
        for s in (-step, step):
            moved = probe.moved(p, s)
            length = along(moved - p, probe) / probe.length() ** 2
            slopes.append((self._loss(name, moved) - self.value) / length if length else 0.0)
        return slopes[0] + 0.0, slopes[1] + 0.0  # no -0


def largest(a: Array) -> float:
    """Return the largest modulus of what is finite."""
    moduli = np.abs(a)
    return float(np.max(moduli, initial=0, where=np.isfinite(moduli)))


def along(g: Array, probe: Probe) -> float:
    """Return Re⟨g, v⟩: one real number of a gradient, or a sum of them."""
    if probe.direction is not None:
        return float(np.vdot(g, probe.direction).real)
    return float(g[probe.index].imag if probe.part == "Im" else g[probe.index].real)


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
