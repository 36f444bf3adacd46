"""What all recurrent cells share: sizes, parameters, input, the state before the first step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from ..arrays import (
    Array,
    ReadoutGradient,
    as_array,
    check_dtype,
    check_rng,
    checked_array,
    checked_flag,
    checked_size,
    converted,
)
from ..engine.memory import aligned_empty
from ..matrices import Matrix, RestrictedUnitary, glorot_uniform
from ..sweeps import COLUMNS

Params = dict[str, Array]
# What passes from one chunk of a sequence to the next: h, or h and c.
State = Array | tuple[Array, ...]


class Saved(Protocol):
    """What a cell's backward needs of its forward."""

    @property
    def h(self) -> Array:
        """Hidden states (T, N, B)."""
        ...

    @property
    def last(self) -> State:
        """The state after the last step, for the next chunk's ``h0``."""
        ...


class Cell(ABC):
    """A recurrent cell: a frozen description, with its parameters in a dict outside it.

    The recurrent matrices, one for each gate, are called "W" with the gate's and the matrix's own
    names behind it; "U" holds the input weights of all gates one under the other, "b" their biases.
    """

    # The suffix of each gate's matrix, in the order of the rows of U.
    gate_names: ClassVar[tuple[str, ...]]
    # Parts of the state that may be learned, each (N,).
    states: ClassVar[tuple[str, ...]] = ("h0",)
    # What forward returns for backward.
    saved_type: ClassVar[type[Any]]

    input_size: int
    hidden_size: int
    matrix: Matrix
    dtype: str
    learned_h0: bool

    def _check(self) -> None:
        for name in ("input_size", "hidden_size"):
            object.__setattr__(self, name, checked_size(name, getattr(self, name)))
        object.__setattr__(self, "dtype", check_dtype(self.dtype).name)
        object.__setattr__(self, "learned_h0", checked_flag("learned_h0", self.learned_h0))
        if isinstance(self.matrix, type) or not hasattr(self.matrix, "is_compiled"):
            raise TypeError(
                f"matrix must be a matrix such as Dense() or Kronecker(), got {self.matrix!r}"
            )
        self.matrix.shapes(self.hidden_size, np.dtype(self.dtype))

    @property
    def is_complex(self) -> bool:
        """Whether the hidden state is complex."""
        return self.dtype.startswith("complex")

    @property
    def real_dtype(self) -> np.dtype:
        """The real dtype of the cell's precision."""
        return np.finfo(self.dtype).dtype

    @property
    def n_features(self) -> int:
        """Real numbers in a hidden state: N, or 2N if it is complex."""
        return self.hidden_size * (1 + self.is_complex)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter."""
        D, N, n_gates = self.input_size, self.hidden_size, len(self.gate_names)
        own = self.matrix.shapes(N, np.dtype(self.dtype))
        shapes: dict[str, tuple[int, ...]] = self._for_each_gate(own)
        shapes |= {"U": (n_gates * N, D), "b": (n_gates * N,)}
        return shapes | (dict.fromkeys(self.states, (N,)) if self.learned_h0 else {})

    def dtypes(self) -> dict[str, np.dtype]:
        """Return the dtype of each parameter: the cell's, but biases are real."""
        own = self.matrix.dtypes(self.hidden_size, np.dtype(self.dtype))
        dtypes = dict.fromkeys(self.shapes(), np.dtype(self.dtype))
        dtypes |= self._for_each_gate(own)
        return dtypes | {"b": self.real_dtype}

    @property
    def matrix_names(self) -> tuple[str, ...]:
        """Names of the recurrent matrices' parameters, gate by gate."""
        return tuple(
            self._for_each_gate(self.matrix.shapes(self.hidden_size, np.dtype(self.dtype)))
        )

    def _for_each_gate(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Give each gate what a matrix says of its parameters, by their whole names."""
        return {f"W{gate}{name}": of for gate in self.gate_names for name, of in own.items()}

    @property
    def unitary_names(self) -> tuple[str, ...]:
        """Names of matrices that an optimizer must keep unitary; see :class:`FullUnitary`."""
        return self.matrix_names if self.matrix.kept_unitary else ()

    @property
    def n_recurrent_parameters(self) -> int:
        """Real numbers in the recurrent matrices; a complex one counts as two."""
        shapes, dtypes = self.shapes(), self.dtypes()
        return sum(
            math.prod(shapes[name]) * (2 if dtypes[name].kind == "c" else 1)
            for name in self.matrix_names
        )

    def matrices(self, params: Mapping[str, Array]) -> list[list[Array]]:
        """Return each gate's matrix, as the list of its parameter arrays."""
        names = self.matrix.shapes(self.hidden_size, np.dtype(self.dtype))
        return [[params[f"W{gate}{name}"] for name in names] for gate in self.gate_names]

    def init(self, rng: np.random.Generator) -> Params:
        """Draw parameters: W as its matrix says, U Glorot-uniform, b = 0, h_0 of length about 1.

        h_0 is random, not 0: at z = 0 modReLU has no gradient, and an input that begins
        with zeros (a picture's margin) would leave the state there.
        """
        check_rng(rng)
        D, N, dtype = self.input_size, self.hidden_size, np.dtype(self.dtype)
        drawn = [W for _ in self.gate_names for W in self.matrix.init(N, rng, dtype)]
        params = dict(zip(self.matrix_names, drawn, strict=True))
        params["U"] = np.concatenate([glorot_uniform((N, D), rng, dtype) for _ in self.gate_names])
        params["b"] = np.zeros(len(self.gate_names) * N, self.real_dtype)
        if self.learned_h0:
            params |= {name: random_state(N, rng, dtype) for name in self.states}
        return params

    @abstractmethod
    def forward(
        self, params: Mapping[str, Array], x: ArrayLike, h0: Any = None, *, reuse: Any = None
    ) -> tuple[Array, Any]:
        """Run the cell over a batch of sequences; return h (T, N, B) and what backward needs."""

    @abstractmethod
    def backward(
        self,
        params: Mapping[str, Array],
        saved: Any,
        dh: ArrayLike | ReadoutGradient,
        *,
        input_gradient: bool = True,
    ) -> tuple[Params, Array | None, Any]:
        """Back-propagate through time; return the gradients of params, of x and of the state."""

    @np.errstate(under="ignore")
    def continued(self, params: Mapping[str, Array], x: ArrayLike) -> Array:
        """Run a real cell on complex numbers: the analytic continuation of :meth:`forward`.

        For the complex-step method, whose numbers leave the real line by 1e-20 i. The NumPy
        loop of forward itself, in double precision.

        Parameters
        ----------
        params : mapping of str to ndarray
            Those of :meth:`init` by names and shapes; any of them complex.
        x : array_like, shape (T, D, B), real or complex, or integers (T, B)

        Returns
        -------
        h : ndarray of complex128, shape (T, N, B)

        Raises
        ------
        TypeError
            A complex cell, modReLU or RestrictedUnitary: not analytic in their real numbers.
        ValueError
            Parameters of other names or shapes.
        """
        if self.is_complex or getattr(self, "activation", None) == "modrelu":
            raise TypeError(
                "a complex cell and modReLU have no analytic continuation: they take moduli"
            )
        if isinstance(self.matrix, RestrictedUnitary):
            raise TypeError(
                "RestrictedUnitary has no analytic continuation: it reads a real state as the "
                "two parts of a complex one"
            )
        params = {name: as_array(name, p) for name, p in params.items()}
        check_params(params, self.shapes(), {name: p.dtype for name, p in params.items()})
        x = as_array("x", x)
        if np.iscomplexobj(x):
            self.checked_input(x.real)
        else:
            x = self.checked_input(x)
        return self._continued(params, x, self.initial_states(params, x.shape[-1], None))

    @abstractmethod
    def _continued(
        self, params: Mapping[str, Array], x: NDArray[Any], state: tuple[Array, ...]
    ) -> Array:
        """Run the NumPy loop of forward on complex numbers."""

    @abstractmethod
    def step_jvp(
        self,
        params: Mapping[str, Array],
        x_t: NDArray[Any],
        state: tuple[Array, ...],
        params_dot: Mapping[str, Array],
        x_t_dot: NDArray[Any] | None,
        state_dot: tuple[Array, ...],
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Make one time step; return the state after it, and how that moves.

        Parameters
        ----------
        params : mapping of str to ndarray
        x_t : ndarray, shape (D, B), or integers (B,)
        state : tuple of ndarray, shapes (N, B)
            One array for each of ``states``, the hidden state first.
        params_dot, x_t_dot, state_dot
            How params, x_t and state move; no x_t_dot for an input that does not.

        Returns
        -------
        state, state_dot : tuples of ndarray, shapes (N, B)
        """

    @np.errstate(under="ignore")
    def jvp(
        self,
        params: Mapping[str, Array],
        x: ArrayLike,
        params_dot: Mapping[str, Array],
        x_dot: ArrayLike | None = None,
        h0: Any = None,
        h0_dot: Any = None,
    ) -> tuple[Array, Array]:
        """Run the cell, and tell how its states move with params, x and h0 (forward mode).

        A derivation of its own: nothing in it is shared with :meth:`backward`. In NumPy,
        whatever the backend.

        Parameters
        ----------
        params, x, h0
            As for :meth:`forward`.
        params_dot : mapping of str to ndarray
            How each of params moves: its keys, shapes and dtypes.
        x_dot : array_like, shape (T, D, B), optional
            How x moves; not at all if not given.
        h0_dot : as h0, optional
            How a given h0 moves; not at all if not given.

        Returns
        -------
        h, h_dot : ndarray, shapes (T, N, B)

        Raises
        ------
        ValueError, TypeError
            As :meth:`forward`, for tangents too; x_dot for integer x, h0_dot without h0.
        """
        params = check_params(params, self.shapes(), self.dtypes())
        params_dot = check_params(params_dot, self.shapes(), self.dtypes())
        x = self.checked_input(x)
        if x_dot is not None:
            if x.ndim == 2:
                raise ValueError("integers x do not move: leave x_dot out")
            x_dot = checked_array("x_dot", x_dot, x.shape, np.dtype(self.dtype))
        if h0 is None and h0_dot is not None:
            raise ValueError("h0_dot needs h0; the learned state moves by params_dot")
        state = self.initial_states(params, x.shape[-1], h0)
        if h0 is not None and h0_dot is None:
            state_dot = tuple(np.zeros_like(part) for part in state)
        else:
            state_dot = self.initial_states(params_dot, x.shape[-1], h0_dot)
        h = np.empty((len(x), *state[0].shape), self.dtype)
        h_dot = np.empty_like(h)
        for t in range(len(x)):
            x_t_dot = None if x_dot is None else x_dot[t]
            state, state_dot = self.step_jvp(params, x[t], state, params_dot, x_t_dot, state_dot)
            h[t], h_dot[t] = state[0], state_dot[0]
        return h, h_dot

    def initial_states(self, params: Mapping[str, Array], B: int, given: Any) -> tuple[Array, ...]:
        """Return each part of the state before the first step: given, learned, or 0."""
        names = tuple(name.removesuffix("0") for name in self.states)
        if given is None:
            parts = [None] * len(names)
        elif len(names) == 1:
            parts = [given]
        elif isinstance(given, tuple | list) and len(given) == len(names):
            parts = list(given)
        else:
            what = type(given).__name__
            if isinstance(given, tuple | list):
                what = f"a {what} of {len(given)}"
            raise ValueError(f"h0 must be the pair ({', '.join(names)}), got {what}")
        if given is not None and any(part is None for part in parts):
            raise ValueError("h0 must be given whole: a part of it is None")
        return tuple(
            self._initial_state(params, name, B, part)
            for name, part in zip(self.states, parts, strict=True)
        )

    def _gradients(
        self,
        params: Mapping[str, Array],
        dW: list[list[Array]],
        own: Params,
        dstate: tuple[Array, ...],
        state_is_learned: bool,
    ) -> Params:
        """Return gradients by name: of the matrices, the cell's own, and the learned state's."""
        flat = [d for dW_k in dW for d in dW_k]
        grads = dict(zip(self.matrix_names, flat, strict=True)) | own
        if self.learned_h0:
            for name, d in zip(self.states, dstate, strict=True):
                grads[name] = over_batch(d) if state_is_learned else np.zeros_like(params[name])
        return grads

    def penalty(self, params: Mapping[str, Array]) -> tuple[float, Params]:
        """Return how far the recurrent matrices are from unitary, and the gradient of that.

        Σ_f ‖W_f^H W_f - I‖²_F of the factors of a Kronecker product, summed over gates; 0 for a
        matrix that is unitary by construction.
        """
        parts = [self.matrix.penalty(W) for W in self.matrices(params)]
        dW = [d for _, gradients in parts for d in gradients]
        return sum(value for value, _ in parts), dict(zip(self.matrix_names, dW, strict=True))

    def defect(self, params: Mapping[str, Array]) -> float:
        """Return ‖W^H W - I‖₂, the largest of all gates."""
        return max(self.matrix.defect(W) for W in self.matrices(params))

    def _is_compiled(self, x: NDArray[Any]) -> bool:
        return self.matrix.is_compiled(self.hidden_size) and not np.iscomplexobj(x)

    def checked_input(self, x: ArrayLike) -> NDArray[Any]:
        """Return x (T, D, B) in the cell's precision, or integers (T, B); raise for another."""
        x = as_array("x", x)
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
            if x.dtype.kind in "fc" and not np.isfinite(x).all():
                where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
                raise ValueError(f"x must be finite, but x[t, d, b] is {x[where]} at {where}")
            dtype = np.dtype(self.dtype) if np.iscomplexobj(x) else self.real_dtype
            x = converted("x", x, dtype)
        else:
            raise ValueError(
                f"x must have shape (T, D, B) with D = input_size = {D}, or be integers of "
                f"shape (T, B); got {x.dtype} {x.shape}"
            )
        if 0 in x.shape:
            raise ValueError(f"x needs at least one time step and one sequence, got {x.shape}")
        return x

    def _initial_state(
        self, params: Mapping[str, Array], name: str, B: int, given: ArrayLike | None
    ) -> Array:
        """Return (N, B): what is given, else what is learned, else 0."""
        shape = (self.hidden_size, B)
        if given is not None:  # a copy: the caller's own may change before backward
            return checked_array(name, given, shape, np.dtype(self.dtype)).copy()
        if self.learned_h0:
            return np.repeat(params[name][:, None], B, axis=1)
        return np.zeros(shape, self.dtype)

    def _memory(self, shape: tuple[int, ...], old: Array | None, *inputs: Any) -> Array:
        """Return memory for states: an old array that fits and is no input, else fresh."""
        fits = old is not None and old.shape == shape and old.dtype == self.dtype
        given = [a for a in inputs if isinstance(a, np.ndarray)]
        if old is not None and fits and not any(np.may_share_memory(old, a) for a in given):
            return old
        return aligned_empty(shape, np.dtype(self.dtype))

    def check_saved(self, saved: Any) -> None:
        """Raise unless it is what this cell's forward returned: compiled loops trust its sizes."""
        self._check_type("saved", saved)
        try:
            x = self.checked_input(saved.x)
        except (ValueError, TypeError) as error:
            raise ValueError(f"saved belongs to another cell: {error}") from error
        T, N, B = len(x), self.hidden_size, x.shape[-1]
        shapes = {"h0": (N, B), "c0": (N, B), "h": (T, N, B), "c": (T, N, B)}
        shapes["gates"] = (T, 4, N, B)
        for name in saved._fields:
            if name not in shapes:
                continue
            a = np.asarray(getattr(saved, name))
            if a.shape != shapes[name] or a.dtype != self.dtype:
                raise ValueError(
                    f"saved belongs to another cell: {name} must be {self.dtype} {shapes[name]}, "
                    f"got {a.dtype} {a.shape}"
                )

    def _check_type(self, name: str, saved: Any) -> None:
        if not isinstance(saved, self.saved_type):
            raise TypeError(
                f"{name} must be the {self.saved_type.__name__} that forward returned, got "
                f"{type(saved).__name__}"
            )

    def _checked_gradient(
        self, dh: ArrayLike | ReadoutGradient, h: Array
    ) -> Array | ReadoutGradient:
        if isinstance(dh, ReadoutGradient):
            return dh
        dh = as_array("dh", dh)
        if dh.ndim != 3 or dh.shape[1:] != h.shape[1:] or not 1 <= len(dh) <= len(h):
            raise ValueError(
                f"dh must have the shape of h, {h.shape}, or that of its last steps; got {dh.shape}"
            )
        return checked_array("dh", dh, dh.shape, np.dtype(self.dtype))


def input_product(U: Array, x_t: NDArray[Any]) -> Array:
    """Return U x_t: columns of U for integers x_t (B,), a product for x_t (D, B)."""
    return U[:, x_t] if x_t.ndim == 1 else U @ x_t


def input_product_jvp(
    U: Array, x_t: NDArray[Any], U_dot: Array, x_t_dot: NDArray[Any] | None
) -> tuple[Array, Array]:
    """Return U x_t and U_dot x_t + U x_t_dot."""
    moved = input_product(U_dot, x_t)
    if x_t_dot is not None:
        moved = moved + U @ x_t_dot
    return input_product(U, x_t), moved


def input_gradients(
    U: Array, x: NDArray[Any], dz: Array, input_gradient: bool
) -> tuple[Array, Array | None]:
    """Return dU = Σ_t dz_t x_t^H and, where x is real or complex and it is wanted, dx_t = U^H dz_t.

    dz is (T, G N, B).
    """
    dU = np.zeros(U.shape, np.result_type(U, np.float64))
    for steps in _pieces(len(x), x.shape[-1]):
        columns = _side_by_side(dz[steps])  # (G N, T B)
        if x.ndim == 2:  # a one-hot matrix (D, T B), of which only the ones are stored
            labels = x[steps].reshape(-1)
            ones = np.ones(labels.size, dU.dtype)
            one_hot = scipy.sparse.csc_array(
                (ones, labels, np.arange(labels.size + 1)), shape=(U.shape[1], labels.size)
            )
            dU += (one_hot @ columns.T).T
        else:
            dU += columns @ _side_by_side(x[steps]).conj().T
    dU = np.ascontiguousarray(dU, U.dtype)
    if x.ndim == 2 or not input_gradient:
        return dU, None
    dx = np.matmul(U.conj().T, dz)
    return dU, dx if np.iscomplexobj(x) else np.ascontiguousarray(dx.real)


def matrix_gradient(matrix: Matrix, W: list[Array], h0: Array, h: Array, dz: Array) -> list[Array]:
    """Return dW, the sum over time of the gradients of W h_{t-1} for dz_t.

    Columns are independent: those of many steps stand side by side, and make one product.
    """
    dW = [np.zeros(w.shape, np.result_type(w, np.float64)) for w in W]
    for steps in _pieces(len(h), h.shape[-1]):
        first, last = steps.start, steps.stop
        before = h[first - 1 : last - 1] if first else np.concatenate([h0[None], h[: last - 1]])
        columns = _side_by_side(before), _side_by_side(dz[steps])
        for total, part in zip(dW, matrix.gradient(W, *columns), strict=True):
            total += part
    return [total.astype(w.dtype) for total, w in zip(dW, W, strict=True)]


def _pieces(T: int, B: int) -> Iterator[slice]:
    """Cut time into pieces of some COLUMNS; their sums are then added in double precision."""
    steps = max(1, COLUMNS // B)
    for first in range(0, T, steps):
        yield slice(first, min(T, first + steps))


def read_only(a: Array) -> Array:
    """Return a view that cannot be written to: backward reads the same memory."""
    view = a.view()
    view.setflags(write=False)
    return view


def over_batch(a: NDArray[Any]) -> NDArray[Any]:
    """Sum (N, B) over the batch, in double precision."""
    return a.sum(axis=1, dtype=np.result_type(a, np.float64)).astype(a.dtype)


def over_time(a: NDArray[Any]) -> NDArray[Any]:
    """Sum (T, N, B) over time and batch, in double precision."""
    return a.sum(axis=(0, 2), dtype=np.result_type(a, np.float64)).astype(a.dtype)


def _side_by_side(a: NDArray[Any]) -> NDArray[Any]:
    """Turn (T, N, B) into (N, T B)."""
    return np.ascontiguousarray(np.moveaxis(a, 0, 1)).reshape(a.shape[1], -1)


def check_real(cell: str, dtype: str) -> None:
    """Raise for a complex dtype, on which gates are not defined."""
    if dtype.startswith("complex"):
        raise TypeError(
            f"{cell} is defined on real numbers only, dtype is {dtype}; "
            "use float32 or float64, or the simple cell"
        )


def random_state(N: int, rng: np.random.Generator, dtype: np.dtype) -> Array:
    """Draw a vector with uniform entries and an expected squared length of 1."""
    parts = 2 if dtype.kind == "c" else 1
    limit = math.sqrt(3 / (parts * N))
    entries = rng.uniform(-limit, limit, (parts, N))
    return (entries[0] + 1j * entries[1] if parts == 2 else entries[0]).astype(dtype)


def check_params(
    params: Mapping[str, Array],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, np.dtype],
) -> Params:
    """Return params as plain arrays; raise unless they have these names, shapes and dtypes."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict of arrays by name, got {type(params).__name__}")
    if params.keys() != shapes.keys():
        missing, unknown = shapes.keys() - params.keys(), params.keys() - shapes.keys()
        raise ValueError(
            f"params do not belong to this model: missing {sorted(missing) or 'none'}, "
            f"unknown {sorted(unknown) or 'none'}"
        )
    plain = {}
    for name, value in params.items():
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{name} must be an array, got {type(value).__name__}")
        value = plain[name] = as_array(name, value)
        if value.shape != shapes[name]:
            raise ValueError(f"{name} must have shape {shapes[name]}, got {value.shape}")
        if value.dtype != dtypes[name]:
            raise TypeError(f"{name} must have dtype {dtypes[name]}, got {value.dtype}")
    return plain
