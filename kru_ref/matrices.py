"""Recurrent matrices: descriptions of W (N, N), whose parameters are lists of arrays.

A matrix knows its kind but neither its size N nor its dtype; the cell it is part of
passes them in. ``W`` below is the list of its parameter arrays.

====================  ==========================================  =========================
matrix                W                                           real parameters
====================  ==========================================  =========================
Dense                 any                                         N², complex 2N²
Kronecker             W_0 ⊗ … ⊗ W_{F-1}                           Σ P_f Q_f, complex twice
RestrictedUnitary     D_3 R_2 F^-1 D_2 Π R_1 F D_1, restricted.py 7N complex, 7N/2 real
FullUnitary           any unitary matrix                          N², complex 2N²
Diagonal              diag(λ), λ = exp(-exp ν + i exp θ)          2N
====================  ==========================================  =========================
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar, Literal

import numpy as np

from . import arguments
from .arrays import Array, Layout, glorot_uniform, kron_vector
from .kronecker import (
    LARGEST_IN_RECURRENCE,
    Backend,
    adjoints,
    factor_sizes,
    kron_matvec,
    kron_matvec_backward,
    kron_matvec_jvp,
    recurrence_engine,
    resolve,
)
from .unitary import random_unitary, soft_unitary, spread_unitary, unitarity_defect

# Prime factors of N above it come with a warning: they are matrices that Kronecker products avoid.
LARGEST_WITHOUT_A_WORD = 32


class Matrix:
    """What a cell asks of its recurrent matrix; by itself one stored as its entries, "W"."""

    # Whether an optimizer must keep W unitary; see FullUnitary.
    kept_unitary: ClassVar[bool] = False
    # Whether compiled code makes single steps over it.
    has_compiled_step: ClassVar[bool] = True

    def layout(self, N: int, dtype: np.dtype) -> Layout:
        """Name each parameter array (the cell adds "W" before it); give its shape and dtype.

        ``dtype`` is that of the states.
        """
        return {"": ((N, N), dtype)}

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw the parameter arrays."""
        raise NotImplementedError

    def matvec(self, W: Sequence[Array], h: Array) -> Array:
        """Return W h, (N, B)."""
        return W[0] @ h

    def adjoint(self, W: Sequence[Array], dy: Array) -> Array:
        """Return W^H dy, the gradient of h for dy, that of W h."""
        return W[0].conj().T @ dy

    def gradient(self, W: Sequence[Array], h: Array, dy: Array) -> list[Array]:
        """Return dW for dy, the gradient of W h: dy h^H."""
        return [dy @ h.conj().T]

    def jvp(
        self, W: Sequence[Array], h: Array, W_dot: Sequence[Array], h_dot: Array
    ) -> tuple[Array, Array]:
        """Return W h, and how it moves with the parameters and with h: W_dot h + W h_dot."""
        return W[0] @ h, W_dot[0] @ h + W[0] @ h_dot

    def engine(self, N: int) -> ModuleType | None:
        """Return what runs a recurrence over W in compiled code, all steps in one call, if any."""
        return None

    def multipliers(self, W: Sequence[Array]) -> list[Array]:
        """Return what the compiled engine multiplies by: factors, a matrix, or a diagonal (N,)."""
        return list(W)

    def multipliers_backward(self, W: Sequence[Array], d: Sequence[Array]) -> Sequence[Array]:
        """Return dW for the gradients of what :meth:`multipliers` returned."""
        return d

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return ‖W^H W - I‖²_F, of each factor if there are several, and its gradient."""
        return soft_unitary(W)

    def defect(self, W: Sequence[Array]) -> float:
        """Return ‖W^H W - I‖₂."""
        return unitarity_defect(W)


@dataclass(frozen=True)
class Dense(Matrix):
    """A plain matrix of N² entries.

    Parameters
    ----------
    init_scheme : {"haar", "glorot", "identity"}
        Start from a random unitary (orthogonal) matrix, from uniform entries in
        ±√(6 / 2N) (on both parts of a complex matrix, divided by √2), or from the identity
        (Le, Jaitly and Hinton 2015).
    backend : {"auto", "numpy", "cython"}
        What runs the recurrence. Where N is above 32 each product is BLAS's in both.

    Raises
    ------
    ValueError, ImportError
        Another scheme; an unknown or missing backend.

    Examples
    --------
    >>> import kru_ref as kru
    >>> kru.RNN(1, 6, kru.Dense()).layout["W"]
    ((6, 6), dtype('float32'))
    """

    init_scheme: Literal["haar", "glorot", "identity"] = "haar"
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        resolve(self.backend)
        arguments.checked_choice("init_scheme", self.init_scheme, ("haar", "glorot", "identity"))

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw W."""
        if self.init_scheme == "haar":
            return [random_unitary(N, rng, dtype)]
        if self.init_scheme == "glorot":
            return [glorot_uniform((N, N), rng, dtype)]
        return [np.eye(N, dtype=dtype)]

    def engine(self, N: int) -> ModuleType | None:
        """Return the compiled engine, if it is there."""
        return recurrence_engine(self.backend)


@dataclass(frozen=True)
class Kronecker(Matrix):
    """W = W_0 ⊗ … ⊗ W_{F-1}, the matrix of a Kronecker recurrent unit.

    Parameters
    ----------
    factors : sequence of (P_f, Q_f), optional
        Shapes of the factors, with ∏P_f = ∏Q_f = N. Without it the prime factors of N (a warning
        names those above 32, and sizes near N that have none):
        2×2 throughout for a power of two.
    backend : {"auto", "numpy", "cython"}
    init_scheme : {"haar", "spread"}
        Start from Haar-random unitary (orthogonal) factors, or from unitary ones whose product
        has equally spaced eigenvalues (:func:`kru_ref.spread_unitary`; square factors and a
        complex dtype).

    Raises
    ------
    ValueError, ImportError
        An unknown scheme, an unknown or missing backend, or sizes below 1; from :meth:`layout`,
        factors that do not multiply to N; from :meth:`init`, rectangular ones to spread.

    Examples
    --------
    >>> import kru_ref as kru
    >>> cell = kru.KRU(1, 12, factors=[(3, 2), (4, 6)])
    >>> {name: shape for name, (shape, _) in cell.layout.items() if name[0] == "W"}
    {'W.0': (3, 2), 'W.1': (4, 6)}
    """

    factors: tuple[tuple[int, int], ...] | None = None
    backend: Backend = "auto"
    init_scheme: Literal["haar", "spread"] = "haar"

    def __post_init__(self) -> None:
        resolve(self.backend)
        arguments.checked_choice("init_scheme", self.init_scheme, ("haar", "spread"))
        if self.factors is not None:
            object.__setattr__(self, "factors", arguments.checked_factor_shapes(self.factors))

    def layout(self, N: int, dtype: np.dtype) -> Layout:
        """Return one array for each factor: "W.0", "W.1", …."""
        return {f".{f}": (shape, dtype) for f, shape in enumerate(self.factor_shapes(N))}

    @functools.lru_cache(maxsize=256)  # noqa: B019 (it is frozen, and small)
    def factor_shapes(self, N: int) -> tuple[tuple[int, int], ...]:
        """Return the shapes (P_f, Q_f)."""
        if self.factors is None:
            sizes = factor_sizes(N)
            if max(sizes) > LARGEST_WITHOUT_A_WORD:
                warn_of_a_large_prime(N, max(sizes))
            return tuple((size, size) for size in sizes)
        arguments.check_product_of_shapes(self.factors, N)
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
        return kron_matvec(adjoints(W), dy, self.backend)

    def gradient(self, W: Sequence[Array], h: Array, dy: Array) -> list[Array]:
        """Return each dW_f; see kron_matvec_backward."""
        return kron_matvec_backward(W, h, dy, self.backend)[0]

    def jvp(
        self, W: Sequence[Array], h: Array, W_dot: Sequence[Array], h_dot: Array
    ) -> tuple[Array, Array]:
        """Return W h and how it moves; see kron_matvec_jvp."""
        return kron_matvec_jvp(W, h, W_dot, h_dot)

    def engine(self, N: int) -> ModuleType | None:
        """Return the compiled engine, if it is there."""
        return recurrence_engine(self.backend)


@dataclass(frozen=True)
class FullUnitary(Matrix):
    """Any unitary (orthogonal) matrix, the full-capacity FC-uRNN of Wisdom et al. (2016).

    It is stored as its N² entries, and an optimizer moves it along the manifold of unitary
    matrices: give it the cell's ``unitary_names``. See :func:`kru_ref.optimizers.cayley`.

    Parameters
    ----------
    backend : {"auto", "numpy", "cython"}
        As for :class:`Dense`.

    Raises
    ------
    ValueError, ImportError
        An unknown or missing backend.

    Notes
    -----
    Parameters: "W" (N, N), N² real or complex numbers.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> cell = kru.RNN(1, 6, kru.FullUnitary())
    >>> W = cell.init(np.random.default_rng(0))["W"]
    >>> bool(np.allclose(W.conj().T @ W, np.eye(6), atol=1e-6))
    True
    """

    kept_unitary: ClassVar[bool] = True
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        resolve(self.backend)

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw W from the Haar distribution."""
        return [random_unitary(N, rng, dtype)]

    def engine(self, N: int) -> ModuleType | None:
        """Return the compiled engine, if it is there."""
        return recurrence_engine(self.backend)

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return 0 and its gradient: the optimizer keeps W unitary."""
        return 0.0, [np.zeros_like(W[0])]


@dataclass(frozen=True)
class Diagonal(Matrix):
    """W = diag(λ) with λ = exp(-exp ν + i exp θ), the matrix of a linear recurrent unit.

    Orvieto et al. 2023. ``|λ| < 1`` whatever the parameters, but for rounding. W h is N products.

    Parameters
    ----------
    r_min, r_max : float
        λ starts uniform on the ring ``r_min ≤ |λ| ≤ r_max``, within [0, 1).
    max_phase : float
        Its angles start uniform between 0 and this, in radians.
    backend : {"auto", "numpy", "cython"}

    Raises
    ------
    ValueError, TypeError, ImportError
        Numbers outside these ranges; an unknown or missing backend; from :meth:`layout`, a real
        dtype.

    Notes
    -----
    Parameters: "W.nu" and "W.theta" (N,), real.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> cell = kru.LRU(1, 6, kru.Diagonal(r_min=0.5, r_max=0.7))
    >>> params = cell.init(np.random.default_rng(0))
    >>> radii = np.exp(-np.exp(params["W.nu"]))
    >>> bool(0.5 <= radii.min() and radii.max() <= 0.7)
    True
    """

    has_compiled_step: ClassVar[bool] = False

    r_min: float = 0.9
    r_max: float = 0.999
    max_phase: float = 2 * math.pi
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        resolve(self.backend)
        arguments.check_ring(self.r_min, self.r_max, self.max_phase)

    def layout(self, N: int, dtype: np.dtype) -> Layout:
        """Return ν and θ, (N,), real."""
        arguments.check_complex("a Diagonal matrix goes with RNN and LRU: it", dtype)
        real = np.finfo(dtype).dtype
        return {".nu": ((N,), real), ".theta": ((N,), real)}

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw ``|λ|²`` uniform between r_min² and r_max², and angles."""
        share = (self.r_min / self.r_max) ** 2
        squares = share + (1 - share) * (1 - rng.uniform(size=N))  # above 0, of r_max²
        angles = self.max_phase * (1 - rng.uniform(size=N))
        real = np.finfo(dtype).dtype
        nu = np.log(-math.log(self.r_max) - 0.5 * np.log(squares))
        return [nu.astype(real), np.log(angles).astype(real)]

    def eigenvalues(self, W: Sequence[Array]) -> Array:
        """Return λ, (N,)."""
        nu, theta = W
        return np.exp(-np.exp(nu) + 1j * np.exp(theta))

    def matvec(self, W: Sequence[Array], h: Array) -> Array:
        """Return λ h."""
        return self.eigenvalues(W)[:, None] * h

    def adjoint(self, W: Sequence[Array], dy: Array) -> Array:
        """Return conj(λ) dy."""
        return self.eigenvalues(W).conj()[:, None] * dy

    def gradient(self, W: Sequence[Array], h: Array, dy: Array) -> list[Array]:
        """Return dν and dθ for dλ = Σ_b dy conj(h)."""
        return self.multipliers_backward(W, [np.sum(dy * h.conj(), axis=1)])

    def engine(self, N: int) -> ModuleType | None:
        """Return the compiled engine, if it is there."""
        return recurrence_engine(self.backend)

    def multipliers(self, W: Sequence[Array]) -> list[Array]:
        """Return λ."""
        return [self.eigenvalues(W)]

    def multipliers_backward(self, W: Sequence[Array], d: Sequence[Array]) -> list[Array]:
        """Return dν and dθ for dλ.

        δλ = λ (-e^ν δν + i e^θ δθ), so with a = conj(dλ) λ

            dν = -e^ν Re a,   dθ = -e^θ Im a.
        """
        nu, theta = W
        a = d[0].conj() * self.eigenvalues(W)
        return [-np.exp(nu) * a.real, -np.exp(theta) * a.imag]

    def jvp(
        self, W: Sequence[Array], h: Array, W_dot: Sequence[Array], h_dot: Array
    ) -> tuple[Array, Array]:
        """Return λ h and how it moves."""
        (nu, theta), (nu_dot, theta_dot), lam = W, W_dot, self.eigenvalues(W)
        lam_dot = lam * (-np.exp(nu) * nu_dot + 1j * np.exp(theta) * theta_dot)
        return lam[:, None] * h, lam_dot[:, None] * h + lam[:, None] * h_dot

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return 0 and its gradient: an LRU is to forget."""
        return 0.0, [np.zeros_like(w) for w in W]

    def defect(self, W: Sequence[Array]) -> float:
        """Return the largest ``1 - |λ|²``."""
        return float(np.max(1 - abs(self.eigenvalues(W)) ** 2))


@dataclass(frozen=True)
class DiagonalFactors(Matrix):
    """Factors that are diagonal, as a linear recurrence has them in its eigenbasis.

    W h is N products; the gradient is that of factors which might be any matrices.

    Parameters
    ----------
    of : Dense, FullUnitary or Kronecker
        Whose they are, (P_f, P_f) each.
    """

    of: Matrix

    def layout(self, N: int, dtype: np.dtype) -> Layout:
        """Return the whole factors, of which all but the diagonals is 0."""
        return self.of.layout(N, dtype)

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw factors, and keep their eigenvalues."""
        return [np.diag(np.linalg.eigvals(W_f)) for W_f in self.of.init(N, rng, dtype)]

    def eigenvalues(self, W: Sequence[Array]) -> Array:
        """Return the diagonal of W, (N,)."""
        return kron_vector([np.diagonal(W_f) for W_f in W])

    def matvec(self, W: Sequence[Array], h: Array) -> Array:
        """Return λ h."""
        return self.eigenvalues(W)[:, None] * h

    def adjoint(self, W: Sequence[Array], dy: Array) -> Array:
        """Return conj(λ) dy."""
        return self.eigenvalues(W).conj()[:, None] * dy

    def gradient(self, W: Sequence[Array], h: Array, dy: Array) -> list[Array]:
        """Return each dW_f, zeros or not."""
        return self.of.gradient(W, h, dy)

    def jvp(
        self, W: Sequence[Array], h: Array, W_dot: Sequence[Array], h_dot: Array
    ) -> tuple[Array, Array]:
        """Return λ h, and how it moves with factors that need not stay diagonal."""
        return self.of.jvp(W, h, W_dot, h_dot)

    def multipliers(self, W: Sequence[Array]) -> list[Array]:
        """Return the diagonals."""
        return [np.ascontiguousarray(np.diagonal(W_f)) for W_f in W]

    def engine(self, N: int) -> ModuleType | None:
        """Return the compiled engine, if it is there and all factors are small."""
        shapes = [shape for shape, _ in self.of.layout(N, np.dtype("complex64")).values()]
        is_small = max(P for P, _ in shapes) <= LARGEST_IN_RECURRENCE
        return self.of.engine(N) if is_small else None


def warn_of_a_large_prime(N: int, prime: int) -> None:
    """Warn that a factor is nearly, or wholly, a dense matrix; name sizes that have small ones."""
    remedy = "choose the shapes with factors"
    if N <= 2**16:  # beyond, sizes of small primes lie far apart
        near = [
            next(n for n in itertools.count(N, step) if max(factor_sizes(n)) <= 7)
            for step in (-1, 1)
        ]
        remedy = f"{near[0]} and {near[1]} have small ones; or {remedy}"
    warnings.warn(
        f"hidden_size {N} has the prime factor {prime}: a dense {prime}×{prime} factor. {remedy}",
        UserWarning,
        stacklevel=2,
    )
