"""Recurrent cells: forward over time, backward through time.

======  ===========  =========================================================
symbol  code         shape
======  ===========  =========================================================
T, B                 time steps, sequences in a batch
D       input_size   size of an input x_t
N       hidden_size  size of a hidden state h_t
x       ``x``        (T, D, B), or integers (T, B) that stand for one-hot columns
h       ``h``        (T, N, B): ``h[t]`` is h_t for t = 0 … T-1
h0      ``h0``       (N,) learned, (N, B) given: the state before the first step
W       ``W``        the recurrent matrix's parameters, see matrices.py
U, b    ``U, b``     (N, D) input weights; (N,) real bias inside the nonlinearity
======  ===========  =========================================================

A cell is a frozen description. Its parameters are a dict of arrays outside it, and
``forward`` returns all that ``backward`` needs.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import compiled
from .activations import ACTIVATIONS
from .backend import Backend
from .compiled import ReadoutGradient
from .kronecker import check_dtype
from .matrices import Dense, Kronecker, Matrix, glorot_uniform
from .sweeps import Array
from .unitary import check_rng

Params = dict[str, Array]


class RNNSaved(NamedTuple):
    """What back-propagation through time needs: the input and the hidden states."""

    x: NDArray[Any]
    h0: Array
    h: Array
    h0_is_learned: bool


@dataclass(frozen=True)
class RNN:
    """Simple recurrent cell, h_t = σ(W h_{t-1} + U x_t) with the bias b inside σ.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    matrix : Dense or Kronecker
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

    input_size: int
    hidden_size: int
    matrix: Matrix = field(default_factory=Dense)
    activation: str = "tanh"
    dtype: str = "float32"
    learned_h0: bool = True

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size"):
            object.__setattr__(self, name, operator.index(getattr(self, name)))
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        object.__setattr__(self, "dtype", check_dtype(self.dtype).name)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )
        if self.is_complex and not ACTIVATIONS[self.activation].on_complex:
            raise TypeError(
                f"activation {self.activation!r} is defined on real numbers only, dtype is "
                f"{self.dtype}; use 'modrelu' or 'identity', or a real dtype"
            )
        if isinstance(self.matrix, type) or not hasattr(self.matrix, "is_compiled"):
            raise TypeError(
                f"matrix must be a matrix such as Dense() or Kronecker(), got {self.matrix!r}"
            )
        self.matrix.shapes(self.hidden_size)

    @property
    def is_complex(self) -> bool:
        """Whether the hidden state is complex."""
        return self.dtype.startswith("complex")

    @property
    def real_dtype(self) -> np.dtype:
        """The real dtype of the cell's precision."""
        return np.finfo(self.dtype).dtype

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter."""
        D, N = self.input_size, self.hidden_size
        shapes = {f"W{name}": shape for name, shape in self.matrix.shapes(N).items()}
        shapes |= {"U": (N, D), "b": (N,)}
        return shapes | {"h0": (N,)} if self.learned_h0 else shapes

    def dtypes(self) -> dict[str, np.dtype]:
        """Return the dtype of each parameter: the cell's, but b is real."""
        return dict.fromkeys(self.shapes(), np.dtype(self.dtype)) | {"b": self.real_dtype}

    @property
    def matrix_names(self) -> tuple[str, ...]:
        """Names of the recurrent matrix's parameters, in order."""
        return tuple(f"W{name}" for name in self.matrix.shapes(self.hidden_size))

    @property
    def n_recurrent_parameters(self) -> int:
        """Real numbers in W: Σ P_f Q_f for factors, N² for a dense matrix, twice if complex."""
        shapes = self.matrix.shapes(self.hidden_size).values()
        return (1 + self.is_complex) * sum(math.prod(shape) for shape in shapes)

    def init(self, rng: np.random.Generator) -> Params:
        """Draw parameters: W as its matrix says, U Glorot-uniform, b = 0, h_0 of length about 1.

        h_0 is random, not 0: at z = 0 modReLU has no gradient, and an input that begins
        with zeros (a picture's margin) would leave the state there.
        """
        check_rng(rng)
        D, N, dtype = self.input_size, self.hidden_size, np.dtype(self.dtype)
        params = dict(zip(self.matrix_names, self.matrix.init(N, rng, dtype), strict=True))
        params["U"] = glorot_uniform((N, D), rng, dtype)
        params["b"] = np.zeros(N, self.real_dtype)
        if self.learned_h0:
            params["h0"] = random_state(N, rng, dtype)
        return params

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
        saved : RNNSaved
            For :meth:`backward`. It holds h, and x and h0 where they need no conversion: leave
            them as they are until then.

        Raises
        ------
        ValueError, TypeError
            Parameters, x or h0 of another shape or dtype, labels out of range, or x not
            finite.
        """
        check_params(params, self.shapes(), self.dtypes())
        x = self._checked_input(x)
        h0, is_learned = self._initial_state(params, x.shape[-1], h0)
        h = self._hidden_states(x, h0, reuse)
        W, U, b = [params[name] for name in self.matrix_names], params["U"], params["b"]
        if self._is_compiled(x):
            compiled.forward(W, U, b, self.activation, x, h0, h)
            return h, RNNSaved(x, h0, h, is_learned)

        sigma = ACTIVATIONS[self.activation].forward
        previous = h0
        for t in range(len(x)):
            z = self.matrix.matvec(W, previous)
            z += U[:, x[t]] if x.ndim == 2 else U @ x[t]
            h[t] = previous = sigma(z, b)
        return h, RNNSaved(x, h0, h, is_learned)

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

            g_t = dh_t + W^H dz_{t+1},   dz_t = σ'(g_t; h_t),   dx_t = U^H dz_t,
            dU = Σ_t dz_t x_t^H,   db = Σ_t db_t,   dh_0 = W^H dz_1,

        and dW sums the matrix's own gradient at (h_{t-1}, dz_t). Nothing but h is needed
        of the forward pass.
        """
        check_params(params, self.shapes(), self.dtypes())
        x, h0, h, h0_is_learned = saved
        if h.shape[1] != self.hidden_size or h.dtype != self.dtype:
            raise ValueError(
                f"saved belongs to another cell: its hidden states are {h.dtype} {h.shape}"
            )
        dh = self._checked_gradient(dh, h)
        W, U, b = [params[name] for name in self.matrix_names], params["U"], params["b"]
        if self._is_compiled(x):
            dW, dU, db, dx, dh0 = compiled.backward(
                W, U, b, self.activation, x, h0, h, dh, input_gradient
            )
        else:
            dW, dU, db, dx, dh0 = self._backward(W, U, b, x, h0, h, dh, input_gradient)
        grads = dict(zip(self.matrix_names, dW, strict=True)) | {"U": dU, "b": db}
        if self.learned_h0:
            grads["h0"] = dh0.sum(axis=1) if h0_is_learned else np.zeros_like(params["h0"])
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
        sigma_backward = ACTIVATIONS[self.activation].backward
        dW, dU, db = [np.zeros_like(w) for w in W], np.zeros_like(U), np.zeros_like(b)
        dx = np.empty_like(x) if input_gradient and x.ndim == 3 else None
        g = np.zeros_like(h0)
        if isinstance(dh, ReadoutGradient):
            dh = dh.C.T @ dh.dy
        first = len(h) - len(dh)
        for t in reversed(range(len(h))):
            if t >= first:
                g = g + dh[t - first]
            dz, db_t = sigma_backward(g, h[t], b)
            dW_t, g = self.matrix.backward(W, h[t - 1] if t else h0, dz)
            for total, part in zip(dW, dW_t, strict=True):
                total += part
            db += db_t
            if x.ndim == 2:
                np.add.at(dU.T, x[t], dz.T)
            else:
                dU += dz @ x[t].conj().T
            if dx is not None:
                dx_t = U.conj().T @ dz
                dx[t] = dx_t if np.iscomplexobj(x) else dx_t.real
        return dW, dU, db, dx, g

    def penalty(self, params: Mapping[str, Array]) -> tuple[float, Params]:
        """Return Σ_f ‖W_f^H W_f - I‖²_F and its gradient, {"W.0": …}."""
        value, dW = self.matrix.penalty([params[name] for name in self.matrix_names])
        return value, dict(zip(self.matrix_names, dW, strict=True))

    def defect(self, params: Mapping[str, Array]) -> float:
        """Return ‖W^H W - I‖₂."""
        return self.matrix.defect([params[name] for name in self.matrix_names])

    def _is_compiled(self, x: NDArray[Any]) -> bool:
        return self.matrix.is_compiled(self.hidden_size) and not np.iscomplexobj(x)

    def _checked_input(self, x: ArrayLike) -> NDArray[Any]:
        x = np.asarray(x)
        D = self.input_size
        if np.issubdtype(x.dtype, np.integer) and x.ndim == 2:
            if x.size and not 0 <= x.min() <= x.max() < D:
                raise ValueError(
                    f"integer x must hold labels from 0 to {D - 1} (input_size is {D}), "
                    f"got {x.min()} to {x.max()}"
                )
        elif x.ndim == 3 and x.shape[1] == D and x.dtype.kind in "fciub":
            if np.iscomplexobj(x) and not self.is_complex:
                raise TypeError(f"x is complex, but the cell's dtype is {self.dtype}")
            x = np.ascontiguousarray(x, self.dtype if np.iscomplexobj(x) else self.real_dtype)
            if not np.isfinite(x).all():
                where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
                raise ValueError(f"x must be finite, but x[t, d, b] is {x[where]} at {where}")
        else:
            raise ValueError(
                f"x must have shape (T, D, B) with D = input_size = {D}, or be integers of "
                f"shape (T, B); got {x.dtype} {x.shape}"
            )
        if 0 in x.shape:
            raise ValueError(f"x needs at least one time step and one sequence, got {x.shape}")
        return x

    def _initial_state(
        self, params: Mapping[str, Array], B: int, h0: ArrayLike | None
    ) -> tuple[Array, bool]:
        shape = (self.hidden_size, B)
        if h0 is None and self.learned_h0:
            return np.repeat(params["h0"][:, None], B, axis=1), True
        if h0 is None:
            return np.zeros(shape, self.dtype), False
        return checked_array("h0", h0, shape, np.dtype(self.dtype)), False

    def _hidden_states(self, x: NDArray[Any], h0: Array, reuse: RNNSaved | None) -> Array:
        """Return memory for h."""
        shape = (len(x), self.hidden_size, x.shape[-1])
        if reuse is not None:
            h = reuse.h
            fits = h.shape == shape and h.dtype == self.dtype
            if fits and not (np.may_share_memory(h, x) or np.may_share_memory(h, h0)):
                return h
        return compiled.aligned_empty(shape, np.dtype(self.dtype))

    def _checked_gradient(
        self, dh: ArrayLike | ReadoutGradient, h: Array
    ) -> Array | ReadoutGradient:
        if isinstance(dh, ReadoutGradient):
            return dh
        dh = np.asarray(dh)
        if dh.ndim != 3 or dh.shape[1:] != h.shape[1:] or not 1 <= len(dh) <= len(h):
            raise ValueError(
                f"dh must have the shape of h, {h.shape}, or that of its last steps; got {dh.shape}"
            )
        return checked_array("dh", dh, dh.shape, np.dtype(self.dtype))


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
    matrix = Kronecker(None if factors is None else factors, backend)  # type: ignore[arg-type]
    return RNN(input_size, hidden_size, matrix, activation, dtype, learned_h0)


def random_state(N: int, rng: np.random.Generator, dtype: np.dtype) -> Array:
    """Draw a vector with uniform entries and an expected squared length of 1."""
    parts = 2 if dtype.kind == "c" else 1
    limit = math.sqrt(3 / (parts * N))
    entries = rng.uniform(-limit, limit, (parts, N))
    return (entries[0] + 1j * entries[1] if parts == 2 else entries[0]).astype(dtype)


def checked_array(name: str, value: ArrayLike, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return value as a contiguous array of that shape and dtype; refuse complex for real."""
    array = np.asarray(value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.dtype.kind not in "fciub" or (np.iscomplexobj(array) and dtype.kind != "c"):
        raise TypeError(f"{name} must fit dtype {dtype}, got {array.dtype}")
    return np.ascontiguousarray(array, dtype)


def check_params(
    params: Mapping[str, Array],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, np.dtype],
) -> None:
    """Raise unless params holds just these names, with these shapes and dtypes."""
    if params.keys() != shapes.keys():
        missing, unknown = shapes.keys() - params.keys(), params.keys() - shapes.keys()
        raise ValueError(
            f"params do not belong to this model: missing {sorted(missing) or 'none'}, "
            f"unknown {sorted(unknown) or 'none'}"
        )
    for name, value in params.items():
        if value.shape != shapes[name]:
            raise ValueError(f"{name} must have shape {shapes[name]}, got {value.shape}")
        if value.dtype != dtypes[name]:
            raise TypeError(f"{name} must have dtype {dtypes[name]}, got {value.dtype}")
