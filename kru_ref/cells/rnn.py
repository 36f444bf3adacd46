"""The simple recurrent cell, h_t = σ(W h_{t-1} + U x_t), and KRU, its Kronecker form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..activations import ACTIVATIONS
from ..arrays import Array, ReadoutGradient, checked_choice, checked_flag
from ..engine import recurrence
from ..engine.backend import Backend
from ..matrices import Dense, Kronecker, Matrix
from .cell import (
    Cell,
    Params,
    check_params,
    input_gradients,
    input_product,
    input_product_jvp,
    matrix_gradient,
    read_only,
)


class RNNSaved(NamedTuple):
    """What back-propagation through time needs: the input and the hidden states."""

    x: NDArray[Any]
    h0: Array
    h: Array
    h0_is_learned: bool

    @property
    def last(self) -> Array:
        """The state after the last step, (N, B): a copy, of which nothing here depends."""
        return self.h[-1].copy()


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
    Parameters: "W" (dense) or "W.0", "W.1", … (Kronecker), "U", "b", and "h0" if learned.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("",)
    saved_type: ClassVar[type[Any]] = RNNSaved

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

    @np.errstate(under="ignore")
    def forward(
        self,
        params: Mapping[str, Array],
        x: ArrayLike,
        h0: ArrayLike | None = None,
        *,
        reuse: RNNSaved | None = None,
    ) -> tuple[Array, RNNSaved]:
        """Run the cell over a batch of sequences.

        Parameters
        ----------
        params : mapping of str to ndarray
            As :meth:`init` returns them.
        x : array_like, shape (T, D, B), or integers (T, B)
            Converted to the cell's precision. Integers in 0 … D-1 stand for one-hot columns.
        h0 : array_like, shape (N, B), optional
            State before the first step, such as ``h[-1]`` of the chunk before (truncated
            BPTT); it takes the place of the learned one.
        reuse : RNNSaved, optional
            What an earlier call returned and nobody needs any longer. Its hidden states are
            written over if they have the right shape and are not part of the input: fresh
            memory costs up to a third of a forward pass.

        Returns
        -------
        h : ndarray, shape (T, N, B)
            Read-only, for backward reads it too: change a copy.
        saved : RNNSaved
            For :meth:`backward`. It holds h, and x and h0 where they need no conversion: leave
            them as they are until then.

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
        shape = (len(x), self.hidden_size, x.shape[-1])
        h = self._memory(shape, None if reuse is None else reuse.h, x, h0)
        (W,), U, b = self.matrices(params), params["U"], params["b"]
        if self._is_compiled(x):
            recurrence.forward(W, U, b, self.activation, x, first_h, h)
        else:
            self._forward(W, U, b, x, first_h, h)
        return read_only(h), RNNSaved(x, first_h, h, is_learned)

    def _forward(
        self, W: list[Array], U: Array, b: Array, x: NDArray[Any], h_t: Array, h: Array
    ) -> None:
        """Step through time, h_t = σ(W h_{t-1} + U x_t), from the first state h_t into h."""
        sigma = ACTIVATIONS[self.activation].forward
        for t in range(len(x)):
            h_t = sigma(self.matrix.matvec(W, h_t) + input_product(U, x[t]), b)
            h[t] = h_t

    @np.errstate(under="ignore")
    def backward(
        self,
        params: Mapping[str, Array],
        saved: RNNSaved,
        dh: ArrayLike | ReadoutGradient,
        *,
        input_gradient: bool = True,
    ) -> tuple[Params, Array | None, Array]:
        """Back-propagate through time.

        Parameters
        ----------
        params : mapping of str to ndarray
            The very ones given to :meth:`forward`.
        saved : RNNSaved
            As :meth:`forward` returned it.
        dh : array_like, shape (T, N, B), or (K, N, B) with K < T
            Gradient with respect to h, ∂L/∂Re h + i ∂L/∂Im h. A shorter one belongs to
            the last K steps; that of the steps before is 0.
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
            dh of another shape, or complex for a real cell; params or saved of another cell.

        Notes
        -----
        h_t reaches the loss directly and through z_{t+1} = W h_t + U x_{t+1}, so with
        g_t the gradient of h_t and dz_t that of z_t, from the last step to the first,

            g_t = dh_t + W^H dz_{t+1},   (dz_t, db_t) = σ_backward(g_t, h_t),   dx_t = U^H dz_t,
            dU = Σ_t dz_t x_t^H,   db = Σ_t db_t,   dh_0 = W^H dz_1,

        with σ_backward the activation's own (activations.py), and dW sums the matrix's own
        gradient at (h_{t-1}, dz_t). Nothing but h is needed of the forward pass.
        """
        params = check_params(params, self.shapes(), self.dtypes())
        checked_flag("input_gradient", input_gradient)
        self.check_saved(saved)
        x, h0, h, h0_is_learned = saved
        dh = self._checked_gradient(dh, h)
        (W,), U, b = self.matrices(params), params["U"], params["b"]
        if self._is_compiled(x):
            dW, dU, db, dx, dh0 = recurrence.backward(
                W, U, b, self.activation, x, h0, h, dh, input_gradient
            )
        else:
            dW, dU, db, dx, dh0 = self._backward(W, U, b, x, h0, h, dh, input_gradient)
        grads = self._gradients(params, [dW], {"U": dU, "b": db}, (dh0,), h0_is_learned)
        return grads, dx, dh0

    def _backward(
        self,
        W: list[Array],
        U: Array,
        b: Array,
        x: NDArray[Any],
        h0: Array,
        h: Array,
        dh: Array | ReadoutGradient,
        input_gradient: bool,
    ) -> tuple[list[Array], Array, Array, Array | None, Array]:
        """Step back through time; g is the gradient of h_t, then of the state before it."""
        sigma_backward = ACTIVATIONS[self.activation].backward
        if isinstance(dh, ReadoutGradient):
            dh = dh.whole()
        first = len(h) - len(dh)
        dz, db, g = np.empty_like(h), np.zeros(b.shape), np.zeros_like(h0)
        for t in reversed(range(len(h))):
            if t >= first:
                g = g + dh[t - first]
            dz[t], db_t = sigma_backward(g, h[t], b)
            db += db_t
            g = self.matrix.adjoint(W, dz[t])
        dW = matrix_gradient(self.matrix, W, h0, h, dz)
        dU, dx = input_gradients(U, x, dz, input_gradient)
        return dW, dU, db.astype(b.dtype), dx, g

    def _continued(
        self, params: Mapping[str, Array], x: NDArray[Any], state: tuple[Array, ...]
    ) -> Array:
        (W,) = self.matrices(params)
        h = np.empty((len(x), *state[0].shape), np.complex128)
        self._forward(W, params["U"], params["b"], x, state[0], h)
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
        (W,), (W_dot,) = self.matrices(params), self.matrices(params_dot)
        (h,), (h_dot,) = state, state_dot
        z, z_dot = self.matrix.jvp(W, h, W_dot, h_dot)
        u, u_dot = input_product_jvp(params["U"], x_t, params_dot["U"], x_t_dot)
        sigma_jvp = ACTIVATIONS[self.activation].jvp
        h, h_dot = sigma_jvp(z + u, params["b"], z_dot + u_dot, params_dot["b"])
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
