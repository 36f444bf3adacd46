"""Recurrent matrices: descriptions of W (N, N), whose parameters are lists of arrays.

A matrix knows its kind but neither its size N nor its dtype; the cell it is part of
passes them in. ``W`` below is the list of its parameter arrays.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from . import backend as _backend
from . import plans
from .backend import Backend
from .kronecker import ENGINES, factor_sizes
from .sweeps import Array
from .unitary import random_unitary, soft_unitary, unitarity_defect


class Matrix(Protocol):
    """What a cell asks of its recurrent matrix."""

    def shapes(self, N: int) -> dict[str, tuple[int, ...]]:
        """Name each parameter array (the cell adds "W" before it) and give its shape."""
        ...

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw the parameter arrays."""
        ...

    def matvec(self, W: Sequence[Array], h: Array) -> Array:
        """Return W h, (N, B)."""
        ...

    def backward(self, W: Sequence[Array], h: Array, dy: Array) -> tuple[list[Array], Array]:
        """Return dW and dh for dy, the gradient of W h."""
        ...

    def is_compiled(self, N: int) -> bool:
        """Tell whether a recurrence over W runs in compiled code, all time steps in one call."""
        ...

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return how far W is from unitary, and the gradient of that."""
        ...

    def defect(self, W: Sequence[Array]) -> float:
        """Return ‖W^H W - I‖₂."""
        ...


@dataclass(frozen=True)
class Dense:
    """A plain matrix of N² entries.

    Parameters
    ----------
    init_scheme : {"haar", "glorot"}
        Start from a random unitary (orthogonal) matrix, or from uniform entries in
        ±√(6 / 2N) (on both parts of a complex matrix, divided by √2).

    Raises
    ------
    ValueError
        Another scheme.
    """

    init_scheme: Literal["haar", "glorot"] = "haar"

    def __post_init__(self) -> None:
        if self.init_scheme not in ("haar", "glorot"):
            raise ValueError(f"init_scheme must be 'haar' or 'glorot', got {self.init_scheme!r}")

    def shapes(self, N: int) -> dict[str, tuple[int, ...]]:
        """Return one array, "W" itself."""
        return {"": (N, N)}

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw W."""
        if self.init_scheme == "haar":
            return [random_unitary(N, rng, dtype)]
        return [glorot_uniform((N, N), rng, dtype)]

    def matvec(self, W: Sequence[Array], h: Array) -> Array:
        """Return W h."""
        return W[0] @ h

    def backward(self, W: Sequence[Array], h: Array, dy: Array) -> tuple[list[Array], Array]:
        """Return dW = dy h^H and dh = W^H dy."""
        return [dy @ h.conj().T], W[0].conj().T @ dy

    def is_compiled(self, N: int) -> bool:
        """Return False: a dense product is one call of BLAS a step."""
        return False

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return ‖W^H W - I‖²_F and its gradient."""
        return soft_unitary(W)

    def defect(self, W: Sequence[Array]) -> float:
        """Return ‖W^H W - I‖₂."""
        return unitarity_defect(W)


@dataclass(frozen=True)
class Kronecker:
    """W = W_0 ⊗ … ⊗ W_{F-1}, the matrix of a Kronecker recurrent unit.

    Parameters
    ----------
    factors : sequence of (P_f, Q_f), optional
        Shapes of the factors, with ∏P_f = ∏Q_f = N. Without it the prime factors of N:
        2×2 throughout for a power of two.
    backend : {"auto", "numpy", "cython"}

    Raises
    ------
    ValueError, ImportError
        An unknown or missing backend, or sizes below 1; from :meth:`shapes`, factors that
        do not multiply to N.
    """

    factors: tuple[tuple[int, int], ...] | None = None
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        _backend.resolve(self.backend)
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

    def shapes(self, N: int) -> dict[str, tuple[int, ...]]:
        """Return one array for each factor: "W.0", "W.1", …."""
        if self.factors is None:
            return {f".{f}": (size, size) for f, size in enumerate(factor_sizes(N))}
        rows, columns = (math.prod(sizes) for sizes in zip(*self.factors, strict=True))
        if (rows, columns) != (N, N):
            raise ValueError(
                f"factors {list(self.factors)} multiply to {rows}×{columns}, "
                f"but hidden_size is {N}: rows and columns must both multiply to {N}"
            )
        return {f".{f}": shape for f, shape in enumerate(self.factors)}

    def init(self, N: int, rng: np.random.Generator, dtype: np.dtype) -> list[Array]:
        """Draw Haar-random unitary factors, so that W starts unitary."""
        return [random_unitary((P, Q), rng, dtype) for P, Q in self.shapes(N).values()]

    def matvec(self, W: Sequence[Array], h: Array) -> Array:
        """Return W h, factor by factor."""
        return ENGINES[_backend.resolve(self.backend)].matvec(W, h)

    def backward(self, W: Sequence[Array], h: Array, dy: Array) -> tuple[list[Array], Array]:
        """Return dW_f and dh = W^H dy; see kron_matvec_backward."""
        return ENGINES[_backend.resolve(self.backend)].backward(W, h, dy)

    def is_compiled(self, N: int) -> bool:
        """Return whether the backend is compiled and all factors are small."""
        shapes = self.shapes(N).values()
        return _backend.resolve(self.backend) == "cython" and plans.are_small(
            shapes, plans.LARGEST_IN_RECURRENCE
        )

    def penalty(self, W: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return Σ_f ‖W_f^H W_f - I‖²_F and its gradient."""
        return soft_unitary(W)

    def defect(self, W: Sequence[Array]) -> float:
        """Return ‖W^H W - I‖₂ of the whole product."""
        return unitarity_defect(W)


def glorot_uniform(shape: tuple[int, ...], rng: np.random.Generator, dtype: np.dtype) -> Array:
    """Draw a matrix from ±√(6 / (rows + columns)), of the same mean square if complex."""
    limit = math.sqrt(6 / sum(shape))
    if dtype.kind == "c":
        limit /= math.sqrt(2)
        real, imaginary = rng.uniform(-limit, limit, (2, *shape))
        return (real + 1j * imaginary).astype(dtype)
    return rng.uniform(-limit, limit, shape).astype(dtype)
