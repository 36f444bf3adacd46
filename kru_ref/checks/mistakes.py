"""What a wrong gradient looks like: which usual mistake would make it of the right one."""

from __future__ import annotations

import math

import numpy as np

from ..arrays import Array, divided
from .slopes import Probe, along, largest, probes_of


def likely_cause(got: Array, expected: Array, tolerance: float) -> str:
    """Say which usual mistake makes one array of another, or nothing.

    Parameters
    ----------
    got, expected : ndarray
        Of one shape.
    tolerance : float
        Largest relative error at which what is mended counts as right.
    """
    probes = list(probes_of(expected, None, None, None))
    return hint_at(got, probes, np.array([along(expected, p) for p in probes]), tolerance)


def hint_at(g: Array, probes: list[Probe], numerical: Array, tolerance: float) -> str:
    """Say which usual mistake makes g of the gradient whose slopes are known, or nothing."""

    def slopes(candidate: Array) -> Array:
        return np.array([along(candidate, probe) for probe in probes])

    # as numbers of about 1, lest a square over- or underflow
    size = max(largest(g), largest(numerical))
    if size > 0 and np.isfinite(g).all():
        g, numerical = divided(g.astype(np.result_type(g, float)), size), numerical / size
    scale = max(float(np.abs(numerical).max()), np.finfo(float).tiny)

    def fits(candidate: Array) -> bool:
        return bool(np.abs(slopes(candidate) - numerical).max() <= tolerance * scale)

    analytic = slopes(g)
    if not np.isfinite(analytic).all():
        return "it is not finite"
    if not np.any(analytic):
        return "it is 0: never computed, or overwritten?"
    if not np.any(np.abs(numerical) > tolerance * np.abs(analytic).max()):
        return "the loss does not depend on it: a gradient of something else?"
    if len(probes) < 2:
        return ""
    for what, candidate in _mistakes(g, probes, numerical).items():
        if fits(candidate):
            return what
    ratio = float(np.vdot(analytic, numerical) / np.vdot(analytic, analytic))
    return _of_a_factor(ratio) if fits(ratio * g) else ""


def _mistakes(g: Array, probes: list[Probe], numerical: Array) -> dict[str, Array]:
    """Return what would be right if g had a mistake, under the mistake's description."""
    mistakes, is_complex = {"it has the wrong sign": -g}, np.iscomplexobj(g)
    if is_complex:
        mistakes["its conjugate is right: ∂L/∂Re + i ∂L/∂Im is the convention"] = g.conj()
        for what, turned in (("i", 1j * g), ("-i", -1j * g)):
            mistakes[f"{what} times it is right: real and imaginary parts changed places?"] = turned
    if g.ndim == 2 and g.shape[0] == g.shape[1]:
        mistakes["its transpose is right"] = g.T
        if is_complex:
            mistakes["its conjugate transpose is right"] = g.conj().T
    if is_complex and not g.imag.any():
        mistakes["its imaginary part is missing"] = g + 1j * _imaginary(probes, numerical, g)
    return mistakes


def _of_a_factor(ratio: float) -> str:
    """Say why a gradient may be right but for a factor."""
    if abs(ratio - 1) < 1e-3:
        return ""  # off by a little everywhere: rounding, not a factor
    cause = "a mean for a sum" if abs(ratio) > 1 else "a sum for a mean"
    usual = {2.0: "a square's 2 missing, or ", 0.5: "a 2 too many, or "}
    for factor, more in usual.items():
        if math.isclose(ratio, factor, rel_tol=1e-4):
            cause = more + cause
    return f"{ratio:.6g} times it is right: {cause}, over the batch, time or outputs?"


def _imaginary(probes: list[Probe], numerical: Array, g: Array) -> Array:
    """Return the imaginary parts that the probes found, 0 where there was none."""
    parts = np.zeros(g.shape)
    for probe, value in zip(probes, numerical, strict=True):
        if probe.part == "Im":
            parts[probe.index] = value
    return parts
