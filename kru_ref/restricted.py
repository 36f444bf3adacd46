"""The restricted-capacity unitary matrix of RC-uRNN: each stage with its backward and tangent."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from . import arguments
from .arrays import Array, Layout, divided
from .matrices import Matrix
from .unitary import unitarity_defect


@dataclass(frozen=True)
class RestrictedUnitary(Matrix):
    """W = D_3 R_2 F^-1 D_2 Π R_1 F D_1, the unitary matrix of RC-uRNN (Arjovsky et al. 2016).

    D_k is diagonal with entries exp(i ω_k), R_k = I - 2 v_k v_k^H / ‖v_k‖² a reflection, F the
    unitary Fourier transform, Π a fixed random permutation. W h costs O(N log N), and W is
    unitary whatever the parameters. A real state (N,) stands for the complex one
    h[:N/2] + i h[N/2:], on which a unitary matrix is an orthogonal one.

    Parameters
    ----------
    permutation_seed : int
        Decides Π, which is no parameter.

    Raises
    ------
    ValueError
        A negative seed; from :meth:`layout`, an odd N with a real dtype.

    Notes
    -----
    Parameters, with n = N, or N/2 for a real state: "W.phases" (3, n), the angles ω_k, real;
    "W.reflections" (2, n), the vectors v_k, complex. 7n real numbers.

    Examples
    --------
    >>> import kru_ref as kru
    >>> kru.RNN(1, 512, kru.RestrictedUnitary()).n_recurrent_parameters  # real
    1792
    """

    permutation_seed: int = 0

    def __post_init__(self) -> None:
        seed = arguments.checked_size("permutation_seed", self.permutation_seed, 0, 2**128)
        object.__setattr__(self, "permutation_seed", seed)

    def layout(self, N: int, dtype: np.dtype) -> Layout:
        """Return the angles (3, n), real, and the reflections (2, n), complex."""
        if dtype.kind != "c":
            arguments.check_halves(N)
        n, real = N if dtype.kind == "c" else N // 2, np.finfo(dtype).dtype
        complex_ = np.result_type(real, np.complex64)
        return {".phases": ((3, n), real), ".reflections": ((2, n), complex_)}

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw angles from ±π, and vectors with parts from ±1."""
        ((_, n), real), (_, complex_) = self.layout(N, dtype).values()
        phases = rng.uniform(-math.pi, math.pi, (3, n))
        re, im = rng.uniform(-1, 1, (2, 2, n))
        return [phases.astype(real), (re + 1j * im).astype(complex_)]

    def matvec(self, W: Sequence[Array], h: Array) -> Array:
        """Return W h."""
        phases, (v_1, v_2) = W
        x = scipy.fft.fft(turn(phases[0], _as_complex(h)), axis=0, norm="ortho")
        x = reflect(v_1, x)[permutation(self.permutation_seed, len(x))]
        x = scipy.fft.ifft(turn(phases[1], x), axis=0, norm="ortho")
        return _as_state(turn(phases[2], reflect(v_2, x)), h)

    def adjoint(self, W: Sequence[Array], dy: Array) -> Array:
        """Return W^H dy: the adjoint of each stage, from the last to the first."""
        phases, (v_1, v_2) = W
        d = reflect(v_2, turn(-phases[2], _as_complex(dy)))
        d = turn(-phases[1], scipy.fft.fft(d, axis=0, norm="ortho"))
        d = reflect(v_1, d[np.argsort(permutation(self.permutation_seed, len(d)))])
        return _as_state(turn(-phases[0], scipy.fft.ifft(d, axis=0, norm="ortho")), dy)

    def gradient(self, W: Sequence[Array], h: Array, dy: Array) -> list[Array]:
        """Return the gradients of the angles and of the reflections.

        The stages are computed once more. The adjoint of the Fourier transform and that of the
        permutation are their inverses.
        """
        phases, (v_1, v_2) = W
        order = permutation(self.permutation_seed, len(v_1))
        turned_1 = turn(phases[0], _as_complex(h))
        spectrum = scipy.fft.fft(turned_1, axis=0, norm="ortho")
        turned_2 = turn(phases[1], reflect(v_1, spectrum)[order])
        back = scipy.fft.ifft(turned_2, axis=0, norm="ortho")
        turned_3 = turn(phases[2], reflect(v_2, back))

        d, dphase_3 = turn_backward(phases[2], turned_3, _as_complex(dy))
        d, dv_2 = reflect_backward(v_2, back, d)
        d = scipy.fft.fft(d, axis=0, norm="ortho")
        d, dphase_2 = turn_backward(phases[1], turned_2, d)
        d, dv_1 = reflect_backward(v_1, spectrum, d[np.argsort(order)])
        d = scipy.fft.ifft(d, axis=0, norm="ortho")
        _, dphase_1 = turn_backward(phases[0], turned_1, d)
        return [np.stack([dphase_1, dphase_2, dphase_3]), np.stack([dv_1, dv_2])]

    def jvp(
        self, W: Sequence[Array], h: Array, W_dot: Sequence[Array], h_dot: Array
    ) -> tuple[Array, Array]:
        """Return W h and how it moves, stage by stage."""
        (phases, (v_1, v_2)), (phases_dot, (v_1_dot, v_2_dot)) = W, W_dot
        order = permutation(self.permutation_seed, len(v_1))
        x, x_dot = turn_jvp(phases[0], _as_complex(h), phases_dot[0], _as_complex(h_dot))
        x, x_dot = (scipy.fft.fft(a, axis=0, norm="ortho") for a in (x, x_dot))
        x, x_dot = reflect_jvp(v_1, x, v_1_dot, x_dot)
        x, x_dot = turn_jvp(phases[1], x[order], phases_dot[1], x_dot[order])
        x, x_dot = (scipy.fft.ifft(a, axis=0, norm="ortho") for a in (x, x_dot))
        x, x_dot = reflect_jvp(v_2, x, v_2_dot, x_dot)
        x, x_dot = turn_jvp(phases[2], x, phases_dot[2], x_dot)
        return _as_state(x, h), _as_state(x_dot, h)

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return 0 and its gradient: W is unitary by construction."""
        return 0.0, [np.zeros_like(w) for w in W]

    def defect(self, W: Sequence[Array]) -> float:
        """Return ‖W^H W - I‖₂, which is rounding."""
        return unitarity_defect([self.matvec(W, np.eye(W[0].shape[1], dtype=W[1].dtype))])


def turn(phase: Array, x: Array) -> Array:
    """Return D x, D being diagonal with entries exp(i phase)."""
    return np.exp(1j * phase)[:, None] * x


def turn_backward(phase: Array, y: Array, dy: Array) -> tuple[Array, Array]:
    """Return dx and dphase for y = D x.

    δy = i y δphase, so dphase = Σ_B Re(conj(dy) i y) = Σ_B Im(dy conj(y)).
    """
    return turn(-phase, dy), np.sum((dy * y.conj()).imag, axis=1)


def turn_jvp(phase: Array, x: Array, phase_dot: Array, x_dot: Array) -> tuple[Array, Array]:
    """Return y = D x and y_dot = D (i phase_dot x + x_dot)."""
    return turn(phase, x), turn(phase, 1j * phase_dot[:, None] * x + x_dot)


def direction(v: Array) -> tuple[Array, float]:
    """Return v/‖v‖ and ‖v‖: R depends on the first alone, and ‖v‖² would over- or underflow.

    Of v = 0, where there is no direction, return v and 1: R is then the identity.
    """
    double = v.astype(np.complex128)
    largest = float(np.abs(double).max()) or 1.0
    scaled = divided(double, largest)
    length = float(np.linalg.norm(scaled)) or 1.0
    return (scaled / length).astype(v.dtype), largest * length


def reflect(v: Array, x: Array) -> Array:
    """Return R x, R = I - 2 v v^H / ‖v‖²."""
    u, _ = direction(v)
    return x - 2 * np.outer(u, u.conj() @ x)


def reflect_backward(v: Array, x: Array, dy: Array) -> tuple[Array, Array]:
    """Return dx and dv for y = R x.

    R is Hermitian, so dx = R dy. With u = v/‖v‖, a = u^H x and e = u^H dy (B,), y = x - 2 u a and

        δy = -2 (δu a + u (δu^H x)),   δu = (δv - u Re⟨u, δv⟩) / ‖v‖,
        du = -2 Σ_B (dy conj(a) + x conj(e)),   dv = (du - u Re⟨u, du⟩) / ‖v‖,

    where Re⟨u, du⟩ = -4 Re Σ_B conj(e) a.
    """
    (u, length), dx = direction(v), reflect(v, dy)
    a, e = u.conj() @ x, u.conj() @ dy
    du = -2 * (dy @ a.conj() + x @ e.conj()) + 4 * np.vdot(e, a).real * u
    return dx, divided(du.astype(np.complex128), length).astype(v.dtype)


def reflect_jvp(v: Array, x: Array, v_dot: Array, x_dot: Array) -> tuple[Array, Array]:
    """Return y = R x and y_dot.

    y = x - 2 u a with u = v/‖v‖ and a = u^H x. In units of ‖v‖, v moves by w = v_dot/‖v‖ and its
    length by Re u^H w, so u by u_dot = w - u Re u^H w; a moves by a_dot = u_dot^H x + u^H x_dot.
    """
    u, length = direction(v)
    w = divided(v_dot.astype(np.complex128), length)
    u_dot = (w - u * np.vdot(u, w).real).astype(v.dtype)
    a, a_dot = u.conj() @ x, u_dot.conj() @ x + u.conj() @ x_dot
    return x - 2 * np.outer(u, a), x_dot - 2 * (np.outer(u_dot, a) + np.outer(u, a_dot))


def _as_complex(h: Array) -> Array:
    """Return a complex state as it is, the two halves of a real one as real and imaginary parts."""
    if np.iscomplexobj(h):
        return h
    n = len(h) // 2
    return h[:n] + 1j * h[n:]


def _as_state(z: Array, h: Array) -> Array:
    """Return z as the kind of state that h is."""
    return z if np.iscomplexobj(h) else np.concatenate([z.real, z.imag])


@functools.lru_cache(maxsize=64)
def permutation(seed: int, n: int) -> NDArray[np.intp]:
    """Return the fixed permutation of RestrictedUnitary: (Π x)[k] = x[permutation[k]]."""
    return np.random.default_rng(seed).permutation(n)
