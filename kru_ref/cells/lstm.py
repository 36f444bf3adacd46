"""Long short-term memory over any recurrent matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..activations import logistic, logistic_jvp
from ..arrays import Array, ReadoutGradient, checked_array, checked_flag
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


class LSTMSaved(NamedTuple):
    """What back-propagation through time needs: input, states, and the open gates (T, 4, N, B)."""

    x: NDArray[Any]
    h0: Array
    c0: Array
    h: Array
    c: Array
    gates: Array
    h0_is_learned: bool

    @property
    def last(self) -> tuple[Array, Array]:
        """The state after the last step, h and c, (N, B) each: copies."""
        return self.h[-1].copy(), self.c[-1].copy()


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
    saved_type: ClassVar[type[Any]] = LSTMSaved

    input_size: int
    hidden_size: int
    matrix: Matrix = field(default_factory=Dense)
    dtype: str = "float32"
    learned_h0: bool = True

    def __post_init__(self) -> None:
        self._check()
        check_real("LSTM", self.dtype)

    def init(self, rng: np.random.Generator) -> Params:
        """Draw parameters as :meth:`Cell.init`; the forget gate's bias is 1."""
        params = super().init(rng)
        N = self.hidden_size
        params["b"][N : 2 * N] = 1
        return params

    @np.errstate(under="ignore")
    def forward(
        self,
        params: Mapping[str, Array],
        x: ArrayLike,
        h0: tuple[ArrayLike, ArrayLike] | None = None,
        *,
        reuse: LSTMSaved | None = None,
    ) -> tuple[Array, LSTMSaved]:
        """Run the cell over a batch of sequences.

        Parameters
        ----------
        params : mapping of str to ndarray
            As :meth:`init` returns them.
        x : array_like, shape (T, D, B), or integers (T, B)
            Converted to the cell's precision. Integers in 0 … D-1 stand for one-hot columns.
        h0 : pair of array_like, shapes (N, B), optional
            h and c before the first step, such as ``saved.last`` of the chunk before
            (truncated BPTT); they take the place of the learned ones.
        reuse : LSTMSaved, optional
            What an earlier call returned and nobody needs any longer: its memory is used again.

        Returns
        -------
        h : ndarray, shape (T, N, B)
            Read-only, for backward reads it too: change a copy.
        saved : LSTMSaved
            For :meth:`backward`: six numbers for each one of h. Leave them and x as they are
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
        first_h, first_c = self.initial_states(params, x.shape[-1], h0)
        T, N, B = len(x), self.hidden_size, x.shape[-1]
        old = reuse or LSTMSaved(x, first_h, first_c, *(np.empty(0),) * 3, False)
        h = self._memory((T, N, B), old.h, x, *(h0 or ()))
        c = self._memory((T, N, B), old.c, x, *(h0 or ()))
        gates = self._memory((T, 4, N, B), old.gates, x, *(h0 or ()))
        W, U, b = self.matrices(params), params["U"], params["b"]
        if self._is_compiled(x):
            recurrence.gated_forward("lstm", W, U, b, None, x, first_h, first_c, h, c, gates)
        else:
            self._forward(W, U, b, x, first_h, first_c, h, c, gates)
        is_learned = self.learned_h0 and h0 is None
        return read_only(h), LSTMSaved(x, first_h, first_c, h, c, gates, is_learned)

    def _forward(
        self,
        W: list[list[Array]],
        U: Array,
        b: Array,
        x: NDArray[Any],
        h_t: Array,
        c_t: Array,
        h: Array,
        c: Array,
        gates: Array,
    ) -> None:
        """Step through time from the states h_t and c_t, into h, c and gates."""
        for t in range(len(x)):
            z = np.concatenate([self.matrix.matvec(W_k, h_t) for W_k in W])  # (4N, B)
            z = z + input_product(U, x[t]) + b[:, None]
            z_i, z_f, z_g, z_o = z.reshape(gates[t].shape)
            i, f, g, o = logistic(z_i), logistic(z_f), np.tanh(z_g), logistic(z_o)
            c_t = f * c_t + i * g
            h_t = o * np.tanh(c_t)
            gates[t], c[t], h[t] = (i, f, g, o), c_t, h_t

    @np.errstate(under="ignore")
    def backward(
        self,
        params: Mapping[str, Array],
        saved: LSTMSaved,
        dh: ArrayLike | ReadoutGradient,
        *,
        dc: ArrayLike | None = None,
        input_gradient: bool = True,
    ) -> tuple[Params, Array | None, tuple[Array, Array]]:
        """Back-propagate through time.

        Parameters
        ----------
        params : mapping of str to ndarray
            The very ones given to :meth:`forward`.
        saved : LSTMSaved
            As :meth:`forward` returned it.
        dh : array_like, shape (T, N, B), or (K, N, B) with K < T
            Gradient with respect to h. A shorter one belongs to the last K steps; that of the
            steps before is 0.
        dc : array_like, shape (N, B), optional
            Gradient with respect to c after the last step, such as the chunk behind hands back.
        input_gradient : bool
            Whether to compute dx.

        Returns
        -------
        grads : dict of str to ndarray
            The keys and shapes of params. "h0" and "c0" are 0 where the state was given.
        dx : ndarray, shape (T, D, B), or None for integer x or without ``input_gradient``
        dh0, dc0 : pair of ndarray, shapes (N, B)
            Gradients with respect to the state before the first step.

        Raises
        ------
        ValueError, TypeError
            dh or dc of another shape; params or saved of another cell.

        Notes
        -----
        σ' = σ(1-σ) and tanh' = 1-tanh². From the last step to the first, with dh_t from the loss
        and from the step after, and dc_t from the step after,

            do = dh_t tanh(c_t),   dc_t ← dc_t + dh_t o (1 - tanh²c_t),
            di = dc_t g,   dg = dc_t i,   df = dc_t c_{t-1},   dc_{t-1} = dc_t f,

        each times its gate's derivative gives dz_k; then dh_{t-1} = Σ_k W_k^T dz_k, and dU, db and
        the matrices' own gradients are sums over time as in :class:`RNN`.
        """
        params = check_params(params, self.shapes(), self.dtypes())
        checked_flag("input_gradient", input_gradient)
        self.check_saved(saved)
        x, h0, c0, h, c, gates, h0_is_learned = saved
        dh = self._checked_gradient(dh, h)
        dc = np.zeros_like(c0) if dc is None else checked_array("dc", dc, c0.shape, c0.dtype)
        W, U = self.matrices(params), params["U"]
        if self._is_compiled(x):
            dW, dU, db, _, dx, dh0, dc0 = recurrence.gated_backward(
                "lstm", W, U, x, h0, c0, h, c, gates, dh, dc, input_gradient
            )
        else:
            dW, dU, db, dx, dh0, dc0 = self._backward(
                W, U, x, h0, c0, h, c, gates, dh, dc, input_gradient
            )
        grads = self._gradients(params, dW, {"U": dU, "b": db}, (dh0, dc0), h0_is_learned)
        return grads, dx, (dh0, dc0)

    def _backward(
        self,
        W: list[list[Array]],
        U: Array,
        x: NDArray[Any],
        h0: Array,
        c0: Array,
        h: Array,
        c: Array,
        gates: Array,
        dh: Array | ReadoutGradient,
        dc: Array,
        input_gradient: bool,
    ) -> tuple[list[list[Array]], Array, Array, Array | None, Array, Array]:
        """Step back through time; dh_t and dc are the gradients of the states after the step."""
        if isinstance(dh, ReadoutGradient):
            dh = dh.whole()
        first = len(h) - len(dh)
        dz, dh_t = np.empty_like(gates), np.zeros_like(h0)
        for t in reversed(range(len(h))):
            if t >= first:
                dh_t = dh_t + dh[t - first]
            (i, f, g, o), tanh_c, c_before = gates[t], np.tanh(c[t]), c[t - 1] if t else c0
            dc = dc + dh_t * o * (1 - tanh_c * tanh_c)
            dz[t, 0] = dc * g * i * (1 - i)
            dz[t, 1] = dc * c_before * f * (1 - f)
            dz[t, 2] = dc * i * (1 - g * g)
            dz[t, 3] = dh_t * tanh_c * o * (1 - o)
            dc = dc * f
            dh_t = np.sum([self.matrix.adjoint(*pair) for pair in zip(W, dz[t], strict=True)], 0)
        dW = [matrix_gradient(self.matrix, W_k, h0, h, dz[:, k]) for k, W_k in enumerate(W)]
        dz = dz.reshape(len(h), len(U), -1)  # (T, 4N, B)
        dU, dx = input_gradients(U, x, dz, input_gradient)
        return dW, dU, over_time(dz), dx, dh_t, dc

    def _continued(
        self, params: Mapping[str, Array], x: NDArray[Any], state: tuple[Array, ...]
    ) -> Array:
        h, c = np.empty((2, len(x), *state[0].shape), np.complex128)
        gates = np.empty((len(x), 4, *state[0].shape), np.complex128)
        W, U, b = self.matrices(params), params["U"], params["b"]
        self._forward(W, U, b, x, state[0], state[1], h, c, gates)
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
        """Make one time step and tell how h and c move; see :meth:`Cell.step_jvp`."""
        (h, c), (h_dot, c_dot) = state, state_dot
        u, u_dot = input_product_jvp(params["U"], x_t, params_dot["U"], x_t_dot)
        inputs = np.split(u + params["b"][:, None], 4)  # (N, B) each
        inputs_dot = np.split(u_dot + params_dot["b"][:, None], 4)
        gates = []
        for k, W, W_dot in zip(
            range(4), self.matrices(params), self.matrices(params_dot), strict=True
        ):
            z, z_dot = self.matrix.jvp(W, h, W_dot, h_dot)
            gates.append((z + inputs[k], z_dot + inputs_dot[k]))
        (i, i_dot), (f, f_dot) = logistic_jvp(*gates[0]), logistic_jvp(*gates[1])
        g = np.tanh(gates[2][0])
        g_dot = (1 - g * g) * gates[2][1]
        o, o_dot = logistic_jvp(*gates[3])
        c_dot = f_dot * c + f * c_dot + i_dot * g + i * g_dot
        c = f * c + i * g
        tanh_c = np.tanh(c)
        h_dot = o_dot * tanh_c + o * (1 - tanh_c * tanh_c) * c_dot
        return (o * tanh_c, c), (h_dot, c_dot)
