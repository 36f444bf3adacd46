"""Gated recurrent unit over any recurrent matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..activations import logistic, logistic_jvp
from ..arrays import Array, ReadoutGradient, checked_flag
from ..engine import recurrence
from ..matrices import Dense, Matrix
from .cell import (
    Cell,
    Params,
    check_params,
    check_real,
    input_gradients,
    input_product,
    input_product_jvp,
    matrix_gradient,
    over_time,
    read_only,
)

# Of the gradients dr, dz, a, dq those behind W_r, W_z and W_n.
BEHIND_W = (0, 1, 3)


class GRUSaved(NamedTuple):
    """What back-propagation through time needs: input, states, and r, z, n, q (T, 4, N, B)."""

    x: NDArray[Any]
    h0: Array
    h: Array
    gates: Array
    h0_is_learned: bool

    @property
    def last(self) -> Array:
        """The state after the last step, (N, B): a copy, of which nothing here depends."""
        return self.h[-1].copy()


@dataclass(frozen=True)
class GRU(Cell):
    """Gated recurrent unit (Cho et al. 2014), the reset gate behind the matrix.

    With W_k, U_k, b_k of each gate k, σ the logistic function and b_h a bias of its own,

        r = σ(W_r h + U_r x + b_r),   z = σ(W_z h + U_z x + b_z),
        q = W_n h + b_h,   n = tanh(U_n x + b_n + r q),
        h_t = (1 - z) n + z h_{t-1}:

    what ``torch.nn.GRU`` computes. Over :class:`Kronecker` it is KRU-GRU.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    matrix : Dense, Kronecker, RestrictedUnitary or FullUnitary
        The kind of W_r, W_z and W_n.
    dtype : {"float32", "float64"}
    learned_h0 : bool
        Whether h_0 is a parameter; if not, it is 0 unless given.

    Raises
    ------
    ValueError, TypeError
        A size below 1, a complex dtype, a matrix that does not fit N.

    Notes
    -----
    Parameters: "W.r", "W.z", "W.n" (dense) or "W.r.0", … (Kronecker); "U" (3N, D) and "b" (3N,)
    with the gates' rows in this order, as PyTorch stacks them; "b_h" (N,); and "h0" if learned.
    """

    gate_names: ClassVar[tuple[str, ...]] = (".r", ".z", ".n")
    saved_type: ClassVar[type[Any]] = GRUSaved

    input_size: int
    hidden_size: int
    matrix: Matrix = field(default_factory=Dense)
    dtype: str = "float32"
    learned_h0: bool = True

    def __post_init__(self) -> None:
        self._check()
        check_real("GRU", self.dtype)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter."""
        return super().shapes() | {"b_h": (self.hidden_size,)}

    def init(self, rng: np.random.Generator) -> Params:
        """Draw parameters as :meth:`Cell.init`; b_h is 0."""
        return super().init(rng) | {"b_h": np.zeros(self.hidden_size, self.dtype)}

    @np.errstate(under="ignore")
    def forward(
        self,
        params: Mapping[str, Array],
        x: ArrayLike,
        h0: ArrayLike | None = None,
        *,
        reuse: GRUSaved | None = None,
    ) -> tuple[Array, GRUSaved]:
        """Run the cell over a batch of sequences.

        Parameters
        ----------
        params : mapping of str to ndarray
            As :meth:`init` returns them.
        x : array_like, shape (T, D, B), or integers (T, B)
            Converted to the cell's precision. Integers in 0 … D-1 stand for one-hot columns.
        h0 : array_like, shape (N, B), optional
            State before the first step, such as ``saved.last`` of the chunk before (truncated
            BPTT); it takes the place of the learned one.
        reuse : GRUSaved, optional
            What an earlier call returned and nobody needs any longer: its memory is used again.

        Returns
        -------
        h : ndarray, shape (T, N, B)
            Read-only, for backward reads it too: change a copy.
        saved : GRUSaved
            For :meth:`backward`: five numbers for each one of h. Leave them and x as they are
            until then.

        Raises
        ------
        ValueError, TypeError
            Parameters, x or h0 of another shape or dtype, labels out of range, or x not
            finite.
        """
        params = check_params(params, self.shapes(), self.dtypes())
        x = self.checked_input(x)
        if reuse is not None:
            self._check_type("reuse", reuse)
        is_learned = self.learned_h0 and h0 is None
        (first_h,) = self.initial_states(params, x.shape[-1], h0)
        T, N, B = len(x), self.hidden_size, x.shape[-1]
        h = self._memory((T, N, B), None if reuse is None else reuse.h, x, h0)
        gates = self._memory((T, 4, N, B), None if reuse is None else reuse.gates, x, h0)
        W, U, b, b_h = self.matrices(params), params["U"], params["b"], params["b_h"]
        if self._is_compiled(x):
            recurrence.gated_forward("gru", W, U, b, b_h, x, first_h, None, h, None, gates)
        else:
            self._forward(W, U, b, b_h, x, first_h, h, gates)
        return read_only(h), GRUSaved(x, first_h, h, gates, is_learned)

    def _forward(
        self,
        W: list[list[Array]],
        U: Array,
        b: Array,
        b_h: Array,
        x: NDArray[Any],
        h_t: Array,
        h: Array,
        gates: Array,
    ) -> None:
        """Step through time from the state h_t, into h and gates."""
        W_r, W_z, W_n = W
        for t in range(len(x)):
            u_r, u_z, u_n = np.split(input_product(U, x[t]) + b[:, None], 3)  # (N, B) each
            r = logistic(self.matrix.matvec(W_r, h_t) + u_r)
            z = logistic(self.matrix.matvec(W_z, h_t) + u_z)
            q = self.matrix.matvec(W_n, h_t) + b_h[:, None]
            n = np.tanh(u_n + r * q)
            h_t = (1 - z) * n + z * h_t
            gates[t], h[t] = (r, z, n, q), h_t

    @np.errstate(under="ignore")
    def backward(
        self,
        params: Mapping[str, Array],
        saved: GRUSaved,
        dh: ArrayLike | ReadoutGradient,
        *,
        input_gradient: bool = True,
    ) -> tuple[Params, Array | None, Array]:
        """Back-propagate through time.

        Parameters
        ----------
        params : mapping of str to ndarray
            The very ones given to :meth:`forward`.
        saved : GRUSaved
            As :meth:`forward` returned it.
        dh : array_like, shape (T, N, B), or (K, N, B) with K < T
            Gradient with respect to h. A shorter one belongs to the last K steps; that of the
            steps before is 0.
        input_gradient : bool
            Whether to compute dx.

        Returns
        -------
        grads : dict of str to ndarray
            The keys and shapes of params. "h0" is 0 where h0 was given to ``forward``.
        dx : ndarray, shape (T, D, B), or None for integer x or without ``input_gradient``
        dh0 : ndarray, shape (N, B)
            Gradient with respect to the state before the first step.

        Raises
        ------
        ValueError, TypeError
            dh of another shape; params or saved of another cell.

        Notes
        -----
        σ' = σ(1-σ) and tanh' = 1-tanh². From the last step to the first, with dh_t from the loss
        and from the step after,

            dn = dh_t (1 - z),   dz = dh_t (h_{t-1} - n),   a = dn (1 - n²),
            dr = a q,   dq = a r,

        dr and dz times their gate's derivative give the gradients behind the gates; a is that of
        U_n x + b_n, dq that of W_n h + b_h. Then dh_{t-1} = z dh_t + W_r^T dr + W_z^T dz +
        W_n^T dq, and dU, db and the matrices' own gradients are sums over time as in :class:`RNN`.
        """
        params = check_params(params, self.shapes(), self.dtypes())
        checked_flag("input_gradient", input_gradient)
        self.check_saved(saved)
        x, h0, h, gates, h0_is_learned = saved
        dh = self._checked_gradient(dh, h)
        W, U = self.matrices(params), params["U"]
        if self._is_compiled(x):
            dW, dU, db, db_h, dx, dh0, _ = recurrence.gated_backward(
                "gru", W, U, x, h0, None, h, None, gates, dh, None, input_gradient
            )
        else:
            dW, dU, db, db_h, dx, dh0 = self._backward(W, U, x, h0, h, gates, dh, input_gradient)
        own = {"U": dU, "b": db, "b_h": db_h}
        return self._gradients(params, dW, own, (dh0,), h0_is_learned), dx, dh0

    def _backward(
        self,
        W: list[list[Array]],
        U: Array,
        x: NDArray[Any],
        h0: Array,
        h: Array,
        gates: Array,
        dh: Array | ReadoutGradient,
        input_gradient: bool,
    ) -> tuple[list[list[Array]], Array, Array, Array, Array | None, Array]:
        """Step back through time; d holds dr, dz, a and dq of each step."""
        if isinstance(dh, ReadoutGradient):
            dh = dh.whole()
        first = len(h) - len(dh)
        d, dh_t = np.empty_like(gates), np.zeros_like(h0)
        for t in reversed(range(len(h))):
            if t >= first:
                dh_t = dh_t + dh[t - first]
            (r, z, n, q), h_before = gates[t], h[t - 1] if t else h0
            a = dh_t * (1 - z) * (1 - n * n)
            d[t] = a * q * r * (1 - r), dh_t * (h_before - n) * z * (1 - z), a, a * r
            dh_t = dh_t * z
            for W_k, d_k in zip(W, d[t, BEHIND_W], strict=True):
                dh_t += self.matrix.adjoint(W_k, d_k)
        dW = [
            matrix_gradient(self.matrix, W_k, h0, h, d[:, k])
            for W_k, k in zip(W, BEHIND_W, strict=True)
        ]
        dz = d[:, :3].reshape(len(h), len(U), -1)  # (T, 3N, B)
        dU, dx = input_gradients(U, x, dz, input_gradient)
        return dW, dU, over_time(dz), over_time(d[:, 3]), dx, dh_t

    def _continued(
        self, params: Mapping[str, Array], x: NDArray[Any], state: tuple[Array, ...]
    ) -> Array:
        h = np.empty((len(x), *state[0].shape), np.complex128)
        gates = np.empty((len(x), 4, *state[0].shape), np.complex128)
        W, U, b = self.matrices(params), params["U"], params["b"]
        self._forward(W, U, b, params["b_h"], x, state[0], h, gates)
        return h

    def step_jvp(
        self,
        params: Mapping[str, Array],
        x_t: NDArray[Any],
        state: tuple[Array, ...],
        params_dot: Mapping[str, Array],
        x_t_dot: NDArray[Any] | None,
        state_dot: tuple[Array, ...],
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Make one time step and tell how h moves; see :meth:`Cell.step_jvp`."""
        (h,), (h_dot,) = state, state_dot
        u, u_dot = input_product_jvp(params["U"], x_t, params_dot["U"], x_t_dot)
        u_r, u_z, u_n = np.split(u + params["b"][:, None], 3)  # (N, B) each
        u_r_dot, u_z_dot, u_n_dot = np.split(u_dot + params_dot["b"][:, None], 3)
        (w_r, w_r_dot), (w_z, w_z_dot), (w_n, w_n_dot) = (
            self.matrix.jvp(W, h, W_dot, h_dot)
            for W, W_dot in zip(self.matrices(params), self.matrices(params_dot), strict=True)
        )
        r, r_dot = logistic_jvp(w_r + u_r, w_r_dot + u_r_dot)
        z, z_dot = logistic_jvp(w_z + u_z, w_z_dot + u_z_dot)
        q, q_dot = w_n + params["b_h"][:, None], w_n_dot + params_dot["b_h"][:, None]
        n = np.tanh(u_n + r * q)
        n_dot = (1 - n * n) * (u_n_dot + r_dot * q + r * q_dot)
        h_dot = (1 - z) * n_dot + z * h_dot + z_dot * (h - n)
        return ((1 - z) * n + z * h,), (h_dot,)
