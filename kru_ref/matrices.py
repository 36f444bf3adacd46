"""Recurrent matrices: descriptions of W (N, N), whose parameters are lists of arrays.

A matrix knows its kind but neither its size N nor its dtype; the cell it is part of
passes them in. ``W`` below is the list of its parameter arrays.

====================  ==========================================  =========================
matrix                W                                           real parameters
====================  ==========================================  =========================
Dense                 any                                         N², complex 2N²
Kronecker             W_0 ⊗ … ⊗ W_{F-1}                           Σ P_f Q_f, complex twice
RestrictedUnitary     D_3 R_2 F^-1 D_2 Π R_1 F D_1                7N complex, 7N/2 real
FullUnitary           any unitary matrix                          N², complex 2N²
====================  ==========================================  =========================
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar, Literal, Protocol

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from .arrays import Array, checked_choice, checked_size, divided, glorot_uniform
from .kronecker import (
    Backend,
    engine_for,
    factor_sizes,
    kron_matvec,
    kron_matvec_backward,
    kron_matvec_jvp,
    resolve,
)
from .unitary import random_unitary, soft_unitary, spread_unitary, unitarity_defect


class Matrix(Protocol):
    """What a cell asks of its recurrent matrix."""

    # Whether an optimizer must keep W unitary; see FullUnitary.
    kept_unitary: ClassVar[bool]

    def shapes(self, N: int, dtype: np.dtype) -> dict[str, tuple[int, ...]]:
        """Name each parameter array (the cell adds "W" before it) and give its shape."""
        ...

    def dtypes(self, N: int, dtype: np.dtype) -> dict[str, np.dtype]:
        """Give the dtype of each parameter array of a matrix for states of a dtype."""
        ...

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw the parameter arrays."""
        ...

    def matvec(self, W: Sequence[Array], h: Array) -> Array:
        """Return W h, (N, B)."""
        ...

    def adjoint(self, W: Sequence[Array], dy: Array) -> Array:
        """Return W^H dy, the gradient of h for dy, that of W h."""
        ...

    def gradient(self, W: Sequence[Array], h: Array, dy: Array) -> list[Array]:
        """Return dW for dy, the gradient of W h."""
        ...

    def jvp(
        self, W: Sequence[Array], h: Array, W_dot: Sequence[Array], h_dot: Array
    ) -> tuple[Array, Array]:
        """Return W h, and how it moves with the parameters and with h."""
        ...

    def engine(self, N: int) -> ModuleType | None:
        """Return what runs a recurrence over W in compiled code, all steps in one call, if any."""
        ...

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return how far W is from unitary, and the gradient of that."""
        ...

    def defect(self, W: Sequence[Array]) -> float:
        """Return ‖W^H W - I‖₂."""
        ...


class Entries:
    """A matrix stored as its entries, "W" itself: what Dense and FullUnitary share."""

    def shapes(self, N: int, dtype: np.dtype) -> dict[str, tuple[int, ...]]:
        """Return one array, "W" itself."""
        return {"": (N, N)}

    def dtypes(self, N: int, dtype: np.dtype) -> dict[str, np.dtype]:
        """Return the states' dtype."""
        return {"": dtype}

    def matvec(self, W: Sequence[Array], h: Array) -> Array:
        """Return W h."""
        return W[0] @ h

    def adjoint(self, W: Sequence[Array], dy: Array) -> Array:
        """Return W^H dy."""
        return W[0].conj().T @ dy

    def gradient(self, W: Sequence[Array], h: Array, dy: Array) -> list[Array]:
        """Return dW = dy h^H."""
        return [dy @ h.conj().T]

    def jvp(
        self, W: Sequence[Array], h: Array, W_dot: Sequence[Array], h_dot: Array
    ) -> tuple[Array, Array]:
        """Return W h and W_dot h + W h_dot."""
        return W[0] @ h, W_dot[0] @ h + W[0] @ h_dot

    def engine(self, N: int) -> None:
        """Return None: a dense product is one call of BLAS a step."""

    def defect(self, W: Sequence[Array]) -> float:
        """Return ‖W^H W - I‖₂."""
        return unitarity_defect(W)


@dataclass(frozen=True)
class Dense(Entries):
    """A plain matrix of N² entries.

    Parameters
    ----------
    init_scheme : {"haar", "glorot", "identity"}
        Start from a random unitary (orthogonal) matrix, from uniform entries in
        ±√(6 / 2N) (on both parts of a complex matrix, divided by √2), or from the identity
        (Le, Jaitly and Hinton 2015).

    Raises
    ------
    ValueError
        Another scheme.
    """

    kept_unitary: ClassVar[bool] = False

    init_scheme: Literal["haar", "glorot", "identity"] = "haar"

    def __post_init__(self) -> None:
        checked_choice("init_scheme", self.init_scheme, ("haar", "glorot", "identity"))

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw W."""
        if self.init_scheme == "haar":
            return [random_unitary(N, rng, dtype)]
        if self.init_scheme == "glorot":
            return [glorot_uniform((N, N), rng, dtype)]
        return [np.eye(N, dtype=dtype)]

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return ‖W^H W - I‖²_F and its gradient."""
        return soft_unitary(W)


@dataclass(frozen=True)
class Kronecker:
    """W = W_0 ⊗ … ⊗ W_{F-1}, the matrix of a Kronecker recurrent unit.

    Parameters
    ----------
    factors : sequence of (P_f, Q_f), optional
        Shapes of the factors, with ∏P_f = ∏Q_f = N. Without it the prime factors of N:
        2×2 throughout for a power of two.
    backend : {"auto", "numpy", "cython"}
    init_scheme : {"haar", "spread"}
        Start from Haar-random unitary (orthogonal) factors, or from unitary ones whose product
        has equally spaced eigenvalues (:func:`kru_ref.spread_unitary`; square factors and a
        complex dtype).

    Raises
    ------
    ValueError, ImportError
        An unknown scheme, an unknown or missing backend, or sizes below 1; from :meth:`shapes`,
        factors that do not multiply to N; from :meth:`init`, rectangular ones to spread.
    """

    kept_unitary: ClassVar[bool] = False

    factors: tuple[tuple[int, int], ...] | None = None
    backend: Backend = "auto"
    init_scheme: Literal["haar", "spread"] = "haar"

    def __post_init__(self) -> None:
        resolve(self.backend)
        checked_choice("init_scheme", self.init_scheme, ("haar", "spread"))
        if self.factors is None:
            return
        try:
            factors = tuple((operator.index(P), operator.index(Q)) for P, Q in self.factors)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"factors must be shapes (P, Q), such as [(4, 4), (8, 8)], got {self.factors!r}"
            ) from error
        if not factors or min(min(sizes) for sizes in factors) < 1:
            raise ValueError(f"factors must hold at least one shape, all sizes ≥ 1, got {factors}")
        object.__setattr__(self, "factors", factors)

    def shapes(self, N: int, dtype: np.dtype) -> dict[str, tuple[int, ...]]:
        """Return one array for each factor: "W.0", "W.1", …."""
        return {f".{f}": shape for f, shape in enumerate(self.factor_shapes(N))}

    def dtypes(self, N: int, dtype: np.dtype) -> dict[str, np.dtype]:
        """Return the states' dtype for each factor."""
        return dict.fromkeys(self.shapes(N, dtype), dtype)

    def factor_shapes(self, N: int) -> tuple[tuple[int, int], ...]:
        """Return the shapes (P_f, Q_f)."""
        if self.factors is None:
            return tuple((size, size) for size in factor_sizes(N))
        rows, columns = (math.prod(sizes) for sizes in zip(*self.factors, strict=True))
        if (rows, columns) != (N, N):
            raise ValueError(
                f"factors {list(self.factors)} multiply to {rows}×{columns}, "
                f"but hidden_size is {N}: rows and columns must both multiply to {N}"
            )
        return self.factors

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw unitary factors, so that W starts unitary."""
        shapes = self.factor_shapes(N)
        if self.init_scheme == "haar":
            return [random_unitary((P, Q), rng, dtype) for P, Q in shapes]
        if any(P != Q for P, Q in shapes):
            raise ValueError(f"init_scheme 'spread' needs square factors, got {list(shapes)}")
        return spread_unitary([P for P, _ in shapes], rng, dtype)

    def matvec(self, W: Sequence[Array], h: Array) -> Array:
        """Return W h, factor by factor."""
        return kron_matvec(W, h, self.backend)

    def adjoint(self, W: Sequence[Array], dy: Array) -> Array:
        """Return W^H dy, factor by factor."""
        adjoints = [np.ascontiguousarray(W_f.conj().T) for W_f in W]
        return kron_matvec(adjoints, dy, self.backend)

    def gradient(self, W: Sequence[Array], h: Array, dy: Array) -> list[Array]:
        """Return each dW_f; see kron_matvec_backward."""
        return kron_matvec_backward(W, h, dy, self.backend)[0]

    def jvp(
        self, W: Sequence[Array], h: Array, W_dot: Sequence[Array], h_dot: Array
    ) -> tuple[Array, Array]:
        """Return W h and how it moves; see kron_matvec_jvp."""
        return kron_matvec_jvp(W, h, W_dot, h_dot)

    def engine(self, N: int) -> ModuleType | None:
        """Return the compiled engine, if it is there and all factors are small."""
        return engine_for(self.factor_shapes(N), self.backend)

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return Σ_f ‖W_f^H W_f - I‖²_F and its gradient."""
        return soft_unitary(W)

    def defect(self, W: Sequence[Array]) -> float:
        """Return ‖W^H W - I‖₂ of the whole product."""
        return unitarity_defect(W)


@dataclass(frozen=True)
class RestrictedUnitary:
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
        A negative seed; from :meth:`shapes`, an odd N with a real dtype.

    Notes
    -----
    Parameters, with n = N, or N/2 for a real state: "W.phases" (3, n), the angles ω_k, real;
    "W.reflections" (2, n), the vectors v_k, complex. 7n real numbers.
    """

    kept_unitary: ClassVar[bool] = False

    permutation_seed: int = 0

    def __post_init__(self) -> None:
        seed = checked_size("permutation_seed", self.permutation_seed, least=0, most=2**128)
        object.__setattr__(self, "permutation_seed", seed)

    def shapes(self, N: int, dtype: np.dtype) -> dict[str, tuple[int, ...]]:
        """Return the angles (3, n) and the reflections (2, n)."""
        if dtype.kind != "c" and N % 2:
            raise ValueError(
                f"a real state of RestrictedUnitary is half as many complex numbers: "
                f"hidden_size must be even, got {N}"
            )
        n = N if dtype.kind == "c" else N // 2
        return {".phases": (3, n), ".reflections": (2, n)}

    def dtypes(self, N: int, dtype: np.dtype) -> dict[str, np.dtype]:
        """Return a real and a complex dtype of the states' precision."""
        real = np.finfo(dtype).dtype
        return {".phases": real, ".reflections": np.result_type(real, np.complex64)}

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw angles from ±π, and vectors with parts from ±1."""
        (_, n), (real, complex_) = self.shapes(N, dtype)[".phases"], self.dtypes(N, dtype).values()
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

    def engine(self, N: int) -> None:
        """Return None: the Fourier transform is SciPy's."""

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


@dataclass(frozen=True)
class FullUnitary(Entries):
    """Any unitary (orthogonal) matrix, the full-capacity FC-uRNN of Wisdom et al. (2016).

    It is stored as its N² entries, and an optimizer moves it along the manifold of unitary
    matrices: give it the cell's ``unitary_names``. See :func:`kru_ref.optimizers.cayley`.

    Notes
    -----
    Parameters: "W" (N, N), N² real or complex numbers.
    """

    kept_unitary: ClassVar[bool] = True

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw W from the Haar distribution."""
        return [random_unitary(N, rng, dtype)]

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return 0 and its gradient: the optimizer keeps W unitary."""
        return 0.0, [np.zeros_like(W[0])]
