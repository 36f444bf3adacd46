"""Long short-term memory over any recurrent matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..activations import logistic, logistic_jvp
from ..arrays import Array, Params
from ..matrices import Dense, Matrix
from .cell import Cell, Dual, PerGate, States


@dataclass(frozen=True)
class LSTM(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate (Gers et al.).

    With W_k, U_k, b_k of each gate k and σ the logistic function,

        i = σ(W_i h_{t-1} + U_i x_t + b_i),   f = σ(W_f h_{t-1} + U_f x_t + b_f),
        g = tanh(W_g h_{t-1} + U_g x_t + b_g),   o = σ(W_o h_{t-1} + U_o x_t + b_o),
        c_t = f c_{t-1} + i g,   h_t = o tanh(c_t):

    what ``torch.nn.LSTM`` computes, b being the sum of its two biases. Over :class:`Kronecker` it
    is KRU-LSTM.

    Parameters
    ----------
    input_size, hidden_size, matrix, dtype, learned_h0
        As for :class:`~kru_ref.cells.Cell`; a real dtype.

    Raises
    ------
    ValueError, TypeError
        As :class:`~kru_ref.cells.Cell`.

    Notes
    -----
    Parameters: "W.i", "W.f", "W.g", "W.o" (dense) or "W.i.0", … (Kronecker); "U" (4N, D) and
    "b" (4N,) with the gates' rows in this order, as PyTorch stacks them; "h0" and "c0" if learned.
    The forget gate's bias starts at 1, so that a new network remembers.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> cell = kru.LSTM(input_size=3, hidden_size=8, matrix=kru.Kronecker())
    >>> cell.state_names, cell.n_recurrent_parameters
    (('h0', 'c0'), 48)
    >>> params = cell.init(np.random.default_rng(0))
    >>> h, saved = cell.forward(params, np.zeros((5, 3, 2)))
    >>> h.shape, [state.shape for state in saved.last]
    ((5, 8, 2), [(8, 2), (8, 2)])
    """

    gate_names: ClassVar[tuple[str, ...]] = (".i", ".f", ".g", ".o")
    state_names: ClassVar[tuple[str, ...]] = ("h0", "c0")
    n_kept = 4
    d_of_W: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    d_of_bias: ClassVar[Mapping[str, slice]] = {"b": slice(4)}
    kind = "lstm"

    input_size: int
    hidden_size: int
    matrix: Matrix = field(default_factory=Dense)
    dtype: str = "float32"
    learned_h0: bool = True

    def init(self, rng: np.random.Generator) -> Params:
        """Draw parameters as :meth:`Cell.init`; the forget gate's bias is 1."""
        params, N = super().init(rng), self.hidden_size
        params["b"][N : 2 * N] = 1
        return params

    def step(
        self, params: Params, Wh: PerGate, Ux: PerGate, before: States
    ) -> tuple[States, PerGate]:
        """Return h and c, and the gates i, f, g, o."""
        (_, c), b = before, params["b"].reshape(4, -1, 1)
        z_i, z_f, z_g, z_o = (Wh[k] + Ux[k] + b[k] for k in range(4))
        i, f, g, o = logistic(z_i), logistic(z_f), np.tanh(z_g), logistic(z_o)
        c = f * c + i * g
        return (o * np.tanh(c), c), (i, f, g, o)

    def step_backward(
        self, params: Params, before: States, after: States, gates: Array, dafter: States
    ) -> tuple[PerGate, Sequence[Array | float], Params]:
        """Return dz of each gate, and dc before.

        c_t = f c_{t-1} + i g and h_t = o tanh(c_t), with σ' = σ(1-σ) and tanh' = 1-tanh², so

            do = dh tanh(c_t),   dc = dc_after + dh o (1 - tanh²c_t),
            di = dc g,   df = dc c_{t-1},   dg = dc i,   dc_{t-1} = dc f,

        and dz of each gate is its own times the gate's derivative, as dz_i = di i (1 - i). h_{t-1}
        enters through W_k h_{t-1} alone, hence the 0.
        """
        (_, c_before), (_, c), (i, f, g, o), (dh, dc_after) = before, after, gates, dafter
        tanh_c = np.tanh(c)
        dc = dc_after + dh * o * (1 - tanh_c * tanh_c)
        dz_i = dc * g * i * (1 - i)
        dz_f = dc * c_before * f * (1 - f)
        dz_g = dc * i * (1 - g * g)
        dz_o = dh * tanh_c * o * (1 - o)
        return (dz_i, dz_f, dz_g, dz_o), (0.0, dc * f), {}

    def step_jvp(self, params: Dual, Wh: Dual, Ux: Dual, before: Dual) -> Dual:
        """Return h and c, and their tangents."""
        (_, c), (_, c_dot) = before
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
