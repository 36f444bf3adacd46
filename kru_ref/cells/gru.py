"""Gated recurrent unit over any recurrent matrix."""

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
class GRU(Cell):
    """Gated recurrent unit (Cho et al. 2014), the reset gate after the matrix.

    With W_k, U_k, b_k of each gate k, σ the logistic function and b_h a bias of its own,

        r = σ(W_r h_{t-1} + U_r x_t + b_r),   z = σ(W_z h_{t-1} + U_z x_t + b_z),
        q = W_n h_{t-1} + b_h,   n = tanh(U_n x_t + b_n + r q),
        h_t = (1 - z) n + z h_{t-1}:

    what ``torch.nn.GRU`` computes, b_r and b_z being the sums of its two biases. Over
    :class:`Kronecker` it is KRU-GRU.

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
    Parameters: "W.r", "W.z", "W.n" (dense) or "W.r.0", … (Kronecker); "U" (3N, D) and "b" (3N,)
    with the gates' rows in this order, as PyTorch stacks them; "b_h" (N,); and "h0" if learned.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> cell = kru.GRU(input_size=3, hidden_size=8, matrix=kru.Kronecker())
    >>> cell.n_recurrent_parameters  # three gates of three real 2×2 factors
    36
    >>> params = cell.init(np.random.default_rng(0))
    >>> h, saved = cell.forward(params, np.zeros((5, 3, 2)))
    >>> h.shape
    (5, 8, 2)
    """

    gate_names: ClassVar[tuple[str, ...]] = (".r", ".z", ".n")
    n_kept = 4
    # of dr, dz, a, dq
    d_of_W: ClassVar[tuple[int, ...]] = (0, 1, 3)
    d_of_bias: ClassVar[Mapping[str, slice]] = {"b": slice(3), "b_h": slice(3, 4)}
    kind = "gru"

    input_size: int
    hidden_size: int
    matrix: Matrix = field(default_factory=Dense)
    dtype: str = "float32"
    learned_h0: bool = True

    def init(self, rng: np.random.Generator) -> Params:
        """Draw parameters as :meth:`Cell.init`; b_h is 0."""
        return super().init(rng) | {"b_h": np.zeros(self.hidden_size, self.dtype)}

    def step(
        self, params: Params, Wh: PerGate, Ux: PerGate, before: States
    ) -> tuple[States, PerGate]:
        """Return h, and r, z, n, q."""
        (h,), b = before, params["b"].reshape(3, -1, 1)
        r = logistic(Wh[0] + (Ux[0] + b[0]))
        z = logistic(Wh[1] + (Ux[1] + b[1]))
        q = Wh[2] + params["b_h"][:, None]
        n = np.tanh(Ux[2] + b[2] + r * q)
        return ((1 - z) * n + z * h,), (r, z, n, q)

    def step_backward(
        self, params: Params, before: States, after: States, gates: Array, dafter: States
    ) -> tuple[PerGate, Sequence[Array | float], Params]:
        """Return dr, dz, a and dq, and z dh, what reaches h_{t-1} past the matrices.

        h_t = (1 - z) n + z h_{t-1} and n = tanh(U_n x_t + b_n + r q), with σ' = σ(1-σ) and
        tanh' = 1-tanh², so

            dn = dh (1 - z),   dz = dh (h_{t-1} - n),   a = dn (1 - n²),   dr = a q,   dq = a r:

        a is the gradient of U_n x_t + b_n, dq that of W_n h_{t-1} + b_h; the code multiplies dr and
        dz with their gate's derivative, too.
        """
        (h_before,), (r, z, n, q), (dh,) = before, gates, dafter
        a = dh * (1 - z) * (1 - n * n)
        dr = a * q * r * (1 - r)
        dz = dh * (h_before - n) * z * (1 - z)
        return (dr, dz, a, a * r), (dh * z,), {}

    def step_jvp(self, params: Dual, Wh: Dual, Ux: Dual, before: Dual) -> Dual:
        """Return h and its tangent."""
        ((h,), (h_dot,)), (w, w_dot) = before, Wh
        u, u_dot = (np.stack(Ux[m]) + params[m]["b"].reshape(3, -1, 1) for m in (0, 1))
        r, r_dot = logistic_jvp(w[0] + u[0], w_dot[0] + u_dot[0])
        z, z_dot = logistic_jvp(w[1] + u[1], w_dot[1] + u_dot[1])
        q, q_dot = (Wh[m][2] + params[m]["b_h"][:, None] for m in (0, 1))
        n = np.tanh(u[2] + r * q)
        n_dot = (1 - n * n) * (u_dot[2] + r_dot * q + r * q_dot)
        h_dot = (1 - z) * n_dot + z * h_dot + z_dot * (h - n)
        return ((1 - z) * n + z * h,), (h_dot,)
