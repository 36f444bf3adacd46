"""Long short-term memory over any recurrent matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..activations import logistic, logistic_jvp
from ..arrays import Array, Params, check_real
from ..matrices import Dense, Matrix
from .cell import Cell, Gates, Moving, Past, States


@dataclass(frozen=True)
class LSTM(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate.

    With W_k, U_k, b_k of each gate k and σ the logistic function,

        i = σ(W_i h + U_i x + b_i),   f = σ(W_f h + U_f x + b_f),
        g = tanh(W_g h + U_g x + b_g),   o = σ(W_o h + U_o x + b_o),
        c_t = f c_{t-1} + i g,   h_t = o tanh(c_t):

    what ``torch.nn.LSTM`` computes. Over :class:`Kronecker` it is KRU-LSTM.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    matrix : Dense, Kronecker, RestrictedUnitary or FullUnitary
        The kind of W_i, W_f, W_g and W_o.
    dtype : {"float32", "float64"}
    learned_h0 : bool
        Whether h_0 and c_0 are parameters; if not, they are 0 unless given.

    Raises
    ------
    ValueError, TypeError
        A size below 1, a complex dtype, a matrix that does not fit N.

    Notes
    -----
    Parameters: "W.i", "W.f", "W.g", "W.o" (dense) or "W.i.0", … (Kronecker); "U" (4N, D) and
    "b" (4N,) with the gates' rows in this order, as PyTorch stacks them; "h0" and "c0" if learned.
    The forget gate's bias starts at 1, so that a new network remembers.
    """

    gate_names: ClassVar[tuple[str, ...]] = (".i", ".f", ".g", ".o")
    states: ClassVar[tuple[str, ...]] = ("h0", "c0")
    n_kept: ClassVar[int] = 4
    behind_W: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    behind_bias: ClassVar[Mapping[str, slice]] = {"b": slice(4)}

    input_size: int
    hidden_size: int
    matrix: Matrix = field(default_factory=Dense)
    dtype: str = "float32"
    learned_h0: bool = True

    def __post_init__(self) -> None:
        self._check()
        check_real("LSTM", self.dtype)

    @property
    def kind(self) -> str:
        """Its name."""
        return "lstm"

    def init(self, rng: np.random.Generator) -> Params:
        """Draw parameters as :meth:`Cell.init`; the forget gate's bias is 1."""
        params = super().init(rng)
        N = self.hidden_size
        params["b"][N : 2 * N] = 1
        return params

    def step(self, params: Params, Wh: Gates, Ux: Gates, state: States) -> tuple[States, Gates]:
        """Return h and c, and the gates i, f, g, o; see :meth:`Cell.step`."""
        _, c = state
        b = params["b"].reshape(4, -1, 1)
        z_i, z_f, z_g, z_o = (Wh[k] + Ux[k] + b[k] for k in range(4))
        i, f, g, o = logistic(z_i), logistic(z_f), np.tanh(z_g), logistic(z_o)
        c = f * c + i * g
        return (o * np.tanh(c), c), (i, f, g, o)

    def step_backward(
        self, params: Params, before: States, after: States, gates: Array, dafter: States
    ) -> tuple[Gates, Past, Params]:
        """Return dz of each gate, and dc before.

        c_t = f c_{t-1} + i g and h_t = o tanh(c_t), with σ' = σ(1-σ) and tanh' = 1-tanh², so

            do = dh tanh(c_t),   dc = dc_t + dh o (1 - tanh²c_t),
            di = dc g,   df = dc c_{t-1},   dg = dc i,   dc_{t-1} = dc f,

        each times its gate's derivative gives dz.
        """
        (_, c_before), (_, c), (i, f, g, o), (dh, dc) = before, after, gates, dafter
        tanh_c = np.tanh(c)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        dz_i = dc * g * i * (1 - i)
        dz_f = dc * c_before * f * (1 - f)
        dz_g = dc * i * (1 - g * g)
        dz_o = dh * tanh_c * o * (1 - o)
        return (dz_i, dz_f, dz_g, dz_o), (0.0, dc * f), {}

    def step_jvp(self, params: Moving, Wh: Moving, Ux: Moving, state: Moving) -> Moving:
        """Return h and c, and how they move."""
        (_, c), (_, c_dot) = state
        z, z_dot = (
            np.stack(Wh[m]) + np.stack(Ux[m]) + params[m]["b"].reshape(4, -1, 1) for m in (0, 1)
        )
        (i, i_dot), (f, f_dot), (o, o_dot) = (logistic_jvp(z[k], z_dot[k]) for k in (0, 1, 3))
        g = np.tanh(z[2])
        g_dot = (1 - g * g) * z_dot[2]
        c, c_dot = f * c + i * g, f_dot * c + f * c_dot + i_dot * g + i * g_dot
        tanh_c = np.tanh(c)
        h_dot = o_dot * tanh_c + o * (1 - tanh_c * tanh_c) * c_dot
        return (o * tanh_c, c), (h_dot, c_dot)
