"""The simple recurrent cell, h_t = σ(W h_{t-1} + U x_t), and KRU, its Kronecker form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import arguments
from ..activations import ACTIVATIONS
from ..arrays import Array, Params, ReadoutGradient
from ..kronecker import Backend
from ..matrices import Dense, DiagonalFactors, Kronecker, Matrix
from .cell import Cell, Dual, PerGate, Saved, State, States
from .eigenbasis import Eigenbasis, eigenbasis


@dataclass(frozen=True)
class RNN(Cell):
    """Simple recurrent cell, h_t = σ(W h_{t-1} + U x_t) with the bias b inside σ.

    Parameters
    ----------
    input_size, hidden_size, matrix, dtype, learned_h0
        As for :class:`~kru_ref.cells.Cell`.
    activation : {"modrelu", "tanh", "relu", "identity"}
        σ; tanh and relu are for real dtypes only.
    leak : float
        α in (0, 1]: how much of a state is new. Below 1, a state of single units that forget within
        some 1/α steps, as echo state networks have (Jaeger et al., 2007).
    eigenbasis : bool
        Of a complex cell with identity activation and square factors, keep h in the basis of W's
        eigenvectors, where a step is N multiply-adds; all that is returned is the same but for
        rounding. Factors whose eigenvectors are nearly dependent, or that are nearly singular, are
        multiplied by as always. See :mod:`kru_ref.cells.eigenbasis`.

    Raises
    ------
    ValueError, TypeError
        As :class:`~kru_ref.cells.Cell`; an unknown activation, a real one on a complex dtype, a
        leak outside (0, 1], an eigenbasis of another cell than it is for.

    Notes
    -----
    Its step is h_t = (1 - α) h_{t-1} + α s_t with s_t = σ(z_t) and z_t = W h_{t-1} + U x_t; without
    a leak (α = 1) h_t is s_t, otherwise s_t is kept too. Back through it, with dh_t the gradient of
    h_t and σ_backward the activation's own (activations.py),

        (dz_t, db_t) = σ_backward(α dh_t, s_t, b),   d = dz_t,   db = Σ_t db_t,

    and (1 - α) dh_t reaches h_{t-1} past the matrix.

    Parameters: "W" (dense) or "W.0", "W.1", … (Kronecker), "U", "b", and "h0" if learned.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> cell = kru.RNN(input_size=3, hidden_size=8, matrix=kru.Dense(), activation="tanh")
    >>> params = cell.init(np.random.default_rng(0))
    >>> sorted(params)
    ['U', 'W', 'b', 'h0']
    >>> x = np.random.default_rng(1).standard_normal((5, 3, 2))
    >>> h, saved = cell.forward(params, x)
    >>> grads, dx, dstate = cell.backward(params, saved, np.ones_like(h))
    >>> grads["W"].shape, dx.shape
    ((8, 8), (5, 3, 2))
    """

    gate_names: ClassVar[tuple[str, ...]] = ("",)
    on_complex: ClassVar[bool] = True
    d_of_W: ClassVar[tuple[int, ...]] = (0,)

    input_size: int
    hidden_size: int
    matrix: Matrix = field(default_factory=Dense)
    activation: str = "tanh"
    dtype: str = "float32"
    learned_h0: bool = True
    leak: float = 1.0
    eigenbasis: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "leak", arguments.checked_leak(self.leak))
        on_complex = {name: of.on_complex for name, of in ACTIVATIONS.items()}
        arguments.check_activation(self, self.activation, on_complex)
        arguments.check_eigenbasis(self)

    @property
    def kind(self) -> str:
        """The activation's name."""
        return self.activation

    @property
    def n_kept(self) -> int:
        """With a leak 1: s."""
        return int(self.leak < 1)

    def step(
        self, params: Params, Wh: PerGate, Ux: PerGate, before: States
    ) -> tuple[States, PerGate]:
        """Return h = s = σ(W h + U x); with a leak (1 - α) h + α s, and s."""
        s = ACTIVATIONS[self.activation].forward(Wh[0] + Ux[0], params["b"])
        return ((s,), ()) if self.leak == 1 else ((self._blend(before[0], s),), (s,))

    def step_backward(
        self, params: Params, before: States, after: States, gates: Array, dafter: States
    ) -> tuple[PerGate, Sequence[Array | float], Params]:
        """Return dz, (1 - α) dh and db from dh, s and b; z is not needed."""
        (s,), (dh,) = (after if self.leak == 1 else gates), dafter
        dz, db = ACTIVATIONS[self.activation].backward(self.leak * dh, s, params["b"])
        return (dz,), (0.0 if self.leak == 1 else (1 - self.leak) * dh,), {"b": db}

    def step_jvp(self, params: Dual, Wh: Dual, Ux: Dual, before: Dual) -> Dual:
        """Return h and its tangent."""
        (z, b), (z_dot, b_dot) = ((Wh[m][0] + Ux[m][0], params[m]["b"]) for m in (0, 1))
        s, s_dot = ACTIVATIONS[self.activation].jvp(z, b, z_dot, b_dot)
        (h,), (h_dot,) = before
        return (self._blend(h, s),), (self._blend(h_dot, s_dot),)

    def basis(self, params: Mapping[str, Array]) -> Eigenbasis | None:
        """Return the basis in which the states are kept, if it is not their own."""
        if not self.eigenbasis:
            return None
        return eigenbasis(self.matrix_names, self.matrices(params)[0])

    @cached_property
    def _in_basis(self) -> dict[bool, RNN]:
        """The same recurrence in W's eigenbasis; but for labels with one input more, the bias's."""
        rest = self.hidden_size, DiagonalFactors(self.matrix), "identity", self.dtype
        return {
            labels: RNN(self.input_size + (not labels), *rest, self.learned_h0)
            for labels in (False, True)
        }

    def run(
        self,
        params: Params,
        x: NDArray[Any],
        before: States,
        is_learned: bool,
        ends: NDArray[np.intp] | None = None,
    ) -> tuple[Array, Saved]:
        """Run as every cell does, in the eigenbasis where there is one."""
        basis = self.basis(params)
        if basis is None:
            return super().run(params, x, before, is_learned, ends)
        labels = x.ndim == 2
        inner = basis.params(params, labels), with_ones(x), (basis.into(before[0]),)
        g, saved = self._in_basis[labels].run(*inner, is_learned, ends)
        return g, saved._replace(x=x, basis=basis)

    def run_backward(
        self,
        params: Params,
        saved: Saved,
        dh: Array | ReadoutGradient,
        dc: Array | None = None,
        input_gradient: bool = True,
    ) -> tuple[Params, Array | None, State]:
        """Return to the parameters' own basis with what came of :meth:`run`'s."""
        basis = saved.basis
        if basis is None:
            return super().run_backward(params, saved, dh, dc, input_gradient)
        labels, inner = saved.x.ndim == 2, saved._replace(x=with_ones(saved.x), basis=None)
        grads, dx, dg0 = self._in_basis[labels].run_backward(
            basis.params(params, labels), inner, dh, dc, input_gradient
        )
        dx = None if dx is None else np.ascontiguousarray(dx[:, :-1])
        return basis.params_backward(grads, labels), dx, basis.into_backward(np.asarray(dg0))

    def _blend(self, h: Array, s: Array) -> Array:
        """Return (1 - α) h + α s."""
        return s if self.leak == 1 else (1 - self.leak) * h + self.leak * s


def with_ones(x: NDArray[Any]) -> NDArray[Any]:
    """Return x (T, D, B) with an input of ones behind it; labels as they are."""
    return x if x.ndim == 2 else np.concatenate([x, np.ones_like(x[:, :1])], axis=1)


def KRU(
    input_size: int,
    hidden_size: int,
    factors: Sequence[tuple[int, int]] | None = None,
    activation: str = "modrelu",
    dtype: str = "complex64",
    learned_h0: bool = True,
    backend: Backend = "auto",
    leak: float = 1.0,
    eigenbasis: bool = False,
) -> RNN:
    """Kronecker recurrent unit: an :class:`RNN` over a :class:`~kru_ref.Kronecker` matrix.

    From Jose, Cissé and Fleuret, "Kronecker Recurrent Units" (ICML 2018).

    Parameters
    ----------
    input_size, hidden_size, activation, dtype, learned_h0
        As for :class:`RNN`; a complex one by default.
    factors, backend
        As for :class:`~kru_ref.Kronecker`: without ``factors`` the prime factors of N.
    leak, eigenbasis
        As for :class:`RNN`.

    Returns
    -------
    cell : RNN

    Raises
    ------
    ValueError, TypeError, ImportError
        As :class:`RNN` and :class:`~kru_ref.Kronecker`.

    Examples
    --------
    >>> import kru_ref as kru
    >>> cell = kru.KRU(input_size=1, hidden_size=512)
    >>> cell.n_recurrent_parameters
    72
    >>> kru.RNN(1, 512, kru.Dense()).n_recurrent_parameters  # real
    262144
    """
    matrix = Kronecker(factors, backend)  # type: ignore[arg-type]
    return RNN(input_size, hidden_size, matrix, activation, dtype, learned_h0, leak, eigenbasis)
