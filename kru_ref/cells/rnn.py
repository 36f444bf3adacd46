"""The simple recurrent cell, h_t = σ(W h_{t-1} + U x_t), and KRU, its Kronecker form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ..activations import ACTIVATIONS
from ..arrays import Array, Params, checked_choice
from ..kronecker import Backend
from ..matrices import Dense, Kronecker, Matrix
from .cell import Cell, Gates, Moving, Past, States


@dataclass(frozen=True)
class RNN(Cell):
    """Simple recurrent cell, h_t = σ(W h_{t-1} + U x_t) with the bias b inside σ.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    matrix : Dense, Kronecker, RestrictedUnitary or FullUnitary
        The kind of W.
    activation : {"modrelu", "tanh", "relu", "identity"}
        tanh and relu are for real dtypes only.
    dtype : {"float32", "float64", "complex64", "complex128"}
        Of W, U, h_0 and the hidden states; b is real, of the same precision.
    learned_h0 : bool
        Whether h_0 is a parameter; if not, it is 0 unless given.

    Raises
    ------
    ValueError, TypeError
        A size below 1, a matrix whose factors do not multiply to N, an unknown
        activation or dtype, a real activation on a complex dtype.

    Notes
    -----
    Its step is h_t = σ(z_t) with z_t = W h_{t-1} + U x_t. Back through it, with dh_t the gradient
    of h_t and σ_backward the activation's own (activations.py),

        (dz_t, db_t) = σ_backward(dh_t, h_t, b),   d = dz_t,   db = Σ_t db_t.

    Parameters: "W" (dense) or "W.0", "W.1", … (Kronecker), "U", "b", and "h0" if learned.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("",)
    behind_W: ClassVar[tuple[int, ...]] = (0,)

    input_size: int
    hidden_size: int
    matrix: Matrix = field(default_factory=Dense)
    activation: str = "tanh"
    dtype: str = "float32"
    learned_h0: bool = True

    def __post_init__(self) -> None:
        self._check()
        checked_choice("activation", self.activation, ACTIVATIONS)
        if self.is_complex and not ACTIVATIONS[self.activation].on_complex:
            raise TypeError(
                f"activation {self.activation!r} is defined on real numbers only, dtype is "
                f"{self.dtype}; use 'modrelu' or 'identity', or a real dtype"
            )

    @property
    def kind(self) -> str:
        """The activation's name."""
        return self.activation

    def step(self, params: Params, Wh: Gates, Ux: Gates, state: States) -> tuple[States, Gates]:
        """Return h = σ(W h + U x); see :meth:`Cell.step`."""
        return (ACTIVATIONS[self.activation].forward(Wh[0] + Ux[0], params["b"]),), ()

    def step_backward(
        self, params: Params, before: States, after: States, gates: Array, dafter: States
    ) -> tuple[Gates, Past, Params]:
        """Return dz and db from dh, h and b; z is not needed."""
        (h,), (dh,) = after, dafter
        dz, db = ACTIVATIONS[self.activation].backward(dh, h, params["b"])
        return (dz,), (0.0,), {"b": db}

    def step_jvp(self, params: Moving, Wh: Moving, Ux: Moving, state: Moving) -> Moving:
        """Return h and how it moves."""
        (z, b), (z_dot, b_dot) = ((Wh[m][0] + Ux[m][0], params[m]["b"]) for m in (0, 1))
        h, h_dot = ACTIVATIONS[self.activation].jvp(z, b, z_dot, b_dot)
        return (h,), (h_dot,)


def KRU(
    input_size: int,
    hidden_size: int,
    factors: Sequence[tuple[int, int]] | None = None,
    activation: str = "modrelu",
    dtype: str = "complex64",
    learned_h0: bool = True,
    backend: Backend = "auto",
) -> RNN:
    """Kronecker recurrent unit: an :class:`RNN` over a :class:`~kru_ref.Kronecker` matrix.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    factors : sequence of (P_f, Q_f), optional
        Shapes of the factors; 2×2 (the prime factors of N) if not given.
    activation, dtype, learned_h0
        As for :class:`RNN`.
    backend : {"auto", "numpy", "cython"}

    Returns
    -------
    cell : RNN

    Raises
    ------
    ValueError, TypeError, ImportError
        As :class:`RNN` and :class:`~kru_ref.Kronecker`.

    Notes
    -----
    From Jose, Cissé and Fleuret, "Kronecker Recurrent Units" (ICML 2018).
    """
    matrix = Kronecker(factors, backend)  # type: ignore[arg-type]
    return RNN(input_size, hidden_size, matrix, activation, dtype, learned_h0)
