"""Linear recurrent unit: a diagonal recurrence whose input is scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from .. import arguments
from ..arrays import Array, Layout, Params
from ..matrices import Diagonal
from .cell import Cell, Dual, PerGate, States


@dataclass(frozen=True)
class LRU(Cell):
    """Linear recurrent unit, h_t = λ h_{t-1} + e^γ (U x_t), entry by entry.

    Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences": a simple cell
    without nonlinearity or bias over a :class:`Diagonal` matrix. It is what a KRU with identity
    activation is in the basis of W's eigenvectors, but for e^γ, which starts at ``√(1 - |λ|²)`` so
    that states are of about the same size whatever their memory.

    Parameters
    ----------
    input_size, hidden_size, dtype, learned_h0
        As for :class:`~kru_ref.cells.Cell`; a complex dtype.
    matrix : Diagonal

    Raises
    ------
    ValueError, TypeError
        As :class:`~kru_ref.cells.Cell`; another matrix, a real dtype.

    Notes
    -----
    Parameters: "W.nu" and "W.theta" (N,) of λ = exp(-exp ν + i exp θ), "U" (N, D), "gamma" (N,),
    real, and "h0" if learned. The paper's feed-through D x_t is not part of a cell.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> cell = kru.LRU(input_size=3, hidden_size=8)
    >>> params = cell.init(np.random.default_rng(0))
    >>> h, saved = cell.forward(params, np.ones((5, 3, 2)))
    >>> h.shape, h.dtype
    ((5, 8, 2), dtype('complex64'))
    """

    gate_names: ClassVar[tuple[str, ...]] = ("",)
    on_complex: ClassVar[bool] = True
    # of du, dh
    d_of_W: ClassVar[tuple[int, ...]] = (1,)
    kind = "identity"

    input_size: int
    hidden_size: int
    matrix: Diagonal = field(default_factory=Diagonal)
    dtype: str = "complex64"
    learned_h0: bool = True

    def __post_init__(self) -> None:
        arguments.check_kind("matrix", self.matrix, Diagonal, "Diagonal()")
        super().__post_init__()

    @cached_property
    def layout(self) -> Layout:
        """Shape and dtype of each parameter: γ where others have a bias."""
        N, dtype = self.hidden_size, np.dtype(self.dtype)
        own = {"U": ((N, self.input_size), dtype), "gamma": ((N,), self.real_dtype)}
        return {**self._of_W, **own, **({"h0": ((N,), dtype)} if self.learned_h0 else {})}

    def init(self, rng: np.random.Generator) -> Params:
        """Draw ν and θ as :class:`Diagonal` does, and U normal of variance 1/D.

        γ is ``½ log(1 - |λ|²)``.
        """
        params = super().init(rng)
        parts = rng.standard_normal((2, *params["U"].shape)) / np.sqrt(2 * self.input_size)
        # of ν, for |λ|² may be 1 to rounding
        squares_below_1 = -np.expm1(-2 * np.exp(params["W.nu"].astype(np.float64)))
        own = {
            "U": (parts[0] + 1j * parts[1]).astype(self.dtype),
            "gamma": (0.5 * np.log(squares_below_1)).astype(self.real_dtype),
        }
        return {name: (params | own)[name] for name in self.layout}

    def step(
        self, params: Params, Wh: PerGate, Ux: PerGate, before: States
    ) -> tuple[States, PerGate]:
        """Return h = λ h + e^γ (U x)."""
        return (Wh[0] + np.exp(params["gamma"])[:, None] * Ux[0],), ()

    def step_backward(
        self, params: Params, before: States, after: States, gates: Array, dafter: States
    ) -> tuple[PerGate, Sequence[Array | float], Params]:
        """Return du and dh, the gradients of U x and of λ h; and dγ.

        With u = e^γ (U x): d(U x) = e^γ dh, and dγ = Σ_b Re(conj(dh) u), where u = h_t - λ h_{t-1}.
        """
        (h,), (h_before,), (dh,) = after, before, dafter
        u = h - self.matrix.matvec(self.matrices(params)[0], h_before)
        du = np.exp(params["gamma"])[:, None] * dh
        return (du, dh), (0.0,), {"gamma": (dh.conj() * u).real.sum(axis=1)}

    def for_engine(self, params: Params) -> Params:
        """Return e^γ U for U, and no bias: the step is then that of a simple cell."""
        U = np.exp(params["gamma"])[:, None] * params["U"]
        return params | {"U": U, "b": np.zeros_like(params["gamma"])}

    def for_engine_backward(self, params: Params, grads: Params) -> Params:
        """Return dU and dγ for the gradient of U' = e^γ U: e^γ dU', and Σ_d Re(conj(dU') U')."""
        scale, dU = np.exp(params["gamma"])[:, None], grads["U"]
        dgamma = (dU.conj() * (scale * params["U"])).real.sum(axis=1)
        return {"U": scale * dU, "gamma": dgamma}

    def step_jvp(self, params: Dual, Wh: Dual, Ux: Dual, before: Dual) -> Dual:
        """Return h and its tangent."""
        gamma, gamma_dot = (params[m]["gamma"][:, None] for m in (0, 1))
        ((w,), (w_dot,)), ((u,), (u_dot,)) = Wh, Ux
        scale = np.exp(gamma)
        return (w + scale * u,), (w_dot + scale * (u_dot + gamma_dot * u),)
