"""Nonlinearities h = σ(z) with their bias b, each with its backward and its tangent beneath.

======  ======  =========================================================
symbol  code    shape
======  ======  =========================================================
z       ``z``   (N, B), what enters: W h_{t-1} + U x_t
b       ``b``   (N,), real; inside the nonlinearity
h       ``h``   (N, B), what leaves
======  ======  =========================================================

Each backward reads only h, never z: a recurrence has to keep its hidden states anyway,
and they are all that back-propagation needs. Gradients of complex arrays are
dz = ∂L/∂Re z + i ∂L/∂Im z, so that δL = Re Σ conj(dz) δz.

Compiled, they are in engine/kernels.h.

The tangent (``_jvp``, Jacobian-vector product) derives the same from the other side: how h moves,
``h_dot``, when z and b move by ``z_dot`` and ``b_dot``. It reads z, and nothing the backward reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .arrays import Array


def logistic(z: Array) -> Array:
    """Return 1/(1 + e^-z), which opens the gates of LSTM and GRU; its derivative is σ(1-σ)."""
    # of e^z and e^-z the one that cannot overflow; a gate that is nearly closed keeps its digits
    closed = z.real < 0
    small = np.exp(np.where(closed, z, -z))
    return np.where(closed, small, 1) / (1 + small)


def logistic_jvp(z: Array, z_dot: Array) -> tuple[Array, Array]:
    """Return σ(z) and σ(z) (1 - σ(z)) z_dot."""
    opened = logistic(z)
    return opened, opened * (1 - opened) * z_dot


def modrelu(z: Array, b: Array) -> Array:
    """Shrink or grow the modulus by b and keep the phase: max(|z| + b, 0) z/|z|, 0 at z = 0.

    z may be real or complex; on real numbers it is the soft threshold. From Arjovsky, Shah and
    Bengio (2016).
    """
    modulus, u = _polar(z)
    return np.maximum(modulus + b[:, None], 0) * u


def modrelu_backward(dh: Array, h: Array, b: Array) -> tuple[Array, Array]:
    r"""Return dz (N, B) and db (N,) of :func:`modrelu`.

    Notes
    -----
    Write z = r u with r = |z| and |u| = 1. A change δz moves r by Re(conj(u) δz) and
    turns u by the rest, δu = (δz - u Re(conj(u) δz)) / r. On the active set, r + b > 0,

        h = (r + b) u,   δh = u (δr + δb) + (r + b) δu = δz + (b/r)(δz - u Re(conj(u) δz)) + u δb.

    The map on δz is its own adjoint, and Re(conj(dh) u δb) = Re(conj(u) dh) δb, so

        dz = dh + (b/r)(dh - u Re(conj(u) dh)),   db = Σ_B Re(conj(u) dh).

    Elsewhere h = 0 and both are 0. From h alone: u = h/|h| and r = |h| - b. That difference
    is known to one rounding of |h|, so for 0 < b the gradient across u has a relative error
    of about ε b/|z| (in single precision 1 % at |z| = 1e-5 b), and r is taken to be no
    smaller than that rounding.
    """
    modulus, u = _polar(h)
    active = modulus != 0
    along = (u.conj() * dh).real
    r = np.maximum(modulus - b[:, None], np.finfo(modulus.dtype).eps * modulus)
    stretch = np.divide(b[:, None], r, out=np.zeros_like(modulus), where=active)
    dz = np.where(active, dh + stretch * (dh - u * along), 0)
    return dz, along.sum(axis=1)


def modrelu_jvp(z: Array, b: Array, z_dot: Array, b_dot: Array) -> tuple[Array, Array]:
    """Return h and h_dot of :func:`modrelu`.

    On the active set, r + b > 0, with u = z/r turned by u_dot = (z_dot - u r_dot)/r and
    r_dot = Re(conj(u) z_dot), h = (r + b) u moves by (r_dot + b_dot) u + (r + b) u_dot.
    """
    r, u = _polar(z)
    longer = np.maximum(r + b[:, None], 0)
    active = (longer > 0) & (r != 0)
    r_dot = (u.conj() * z_dot).real
    u_dot = np.divide(z_dot - u * r_dot, r, out=np.zeros_like(z), where=active)
    return longer * u, np.where(active, (r_dot + b_dot[:, None]) * u + longer * u_dot, 0)


def _polar(z: Array) -> tuple[Array, Array]:
    """Return |z| and z/|z|, 0 at 0; part by part, for a complex quotient overflows at tiny |z|.

    Tiny numbers are scaled first: below the smallest normal one |z| has few digits.
    """
    modulus, u = np.abs(z), np.zeros_like(z)
    limits = np.finfo(modulus.dtype)
    scale = np.where(modulus < limits.tiny / limits.eps, 1 / limits.eps**2, 1)
    scaled = z * scale.astype(modulus.dtype)
    length = np.abs(scaled)
    np.divide(scaled.real, length, out=u.real, where=length != 0)
    if np.iscomplexobj(z):
        np.divide(scaled.imag, length, out=u.imag, where=length != 0)
    return modulus, u


def tanh(z: Array, b: Array) -> Array:
    """Return tanh(z + b); real z only. Shapes as in :func:`modrelu`."""
    return np.tanh(z + b[:, None])


def tanh_backward(dh: Array, h: Array, b: Array) -> tuple[Array, Array]:
    """Return dz = (1 - h²) dh, since tanh' = 1 - tanh², and db = Σ_B dz."""
    dz = (1 - h * h) * dh
    return dz, dz.sum(axis=1)


def tanh_jvp(z: Array, b: Array, z_dot: Array, b_dot: Array) -> tuple[Array, Array]:
    """Return h and h_dot = (z_dot + b_dot) / cosh²(z + b)."""
    h = tanh(z, b)
    return h, (1 - h * h) * (z_dot + b_dot[:, None])


def relu(z: Array, b: Array) -> Array:
    """Return max(z + b, 0); real z only. Shapes as in :func:`modrelu`."""
    return np.maximum(z + b[:, None], 0)


def relu_backward(dh: Array, h: Array, b: Array) -> tuple[Array, Array]:
    """Return dz = dh where h > 0, else 0, and db = Σ_B dz."""
    dz = np.where(h > 0, dh, 0)
    return dz, dz.sum(axis=1)


def relu_jvp(z: Array, b: Array, z_dot: Array, b_dot: Array) -> tuple[Array, Array]:
    """Return h, and h_dot = z_dot + b_dot where z + b > 0, else 0."""
    active = z + b[:, None] > 0
    return relu(z, b), np.where(active, z_dot + b_dot[:, None], 0)


def identity(z: Array, b: Array) -> Array:
    """Return z + b. Shapes as in :func:`modrelu`."""
    return z + b[:, None]


def identity_backward(dh: Array, h: Array, b: Array) -> tuple[Array, Array]:
    """Return dz = dh and db = Σ_B Re dh, for b is real."""
    return dh, dh.real.sum(axis=1)


def identity_jvp(z: Array, b: Array, z_dot: Array, b_dot: Array) -> tuple[Array, Array]:
    """Return h and h_dot = z_dot + b_dot."""
    return identity(z, b), z_dot + b_dot[:, None]


class Activation(NamedTuple):
    """A nonlinearity, its backward, its tangent, and whether it is defined on complex numbers."""

    forward: Callable[[Array, Array], Array]
    backward: Callable[[Array, Array, Array], tuple[Array, Array]]
    jvp: Callable[[Array, Array, Array, Array], tuple[Array, Array]]
    on_complex: bool


ACTIVATIONS = {
    "modrelu": Activation(modrelu, modrelu_backward, modrelu_jvp, on_complex=True),
    "tanh": Activation(tanh, tanh_backward, tanh_jvp, on_complex=False),
    "relu": Activation(relu, relu_backward, relu_jvp, on_complex=False),
    "identity": Activation(identity, identity_backward, identity_jvp, on_complex=True),
}
