"""The recurrence, once: forward over time and backward through time, for every cell.

A cell adds three methods: :meth:`Cell.step`, the equations of one time step, ``step_backward``,
their adjoint, and ``step_jvp``, their tangent.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from .. import arguments
from ..arrays import (
    Array,
    Layout,
    Params,
    ReadoutGradient,
    count_real,
    glorot_uniform,
    over_batch,
    over_time,
    random_vector,
    time_pieces,
)
from ..kronecker import Backward, CellKey
from ..matrices import Matrix
from .eigenbasis import Eigenbasis

# What passes from one time step to the next: h, or h and c.
States = tuple[Array, ...]
# The same as a user holds it: h alone, or the pair.
State = Array | States
# One array (N, B) for each gate.
PerGate = Sequence[Array]
# A dual number: a value and its tangent.
Dual = tuple[Any, Any]
# Numbers of a state whose steps behind the ends of their sequences take as long as one more call.
WORTH_A_CALL = 2**16


class Saved(NamedTuple):
    """What back-propagation through time needs of a forward pass."""

    x: NDArray[Any]  # (T, D, B), or integers (T, B)
    before: States  # before the first step, (N, B) each: h, or h and c
    states: States  # after each step, (T, N, B) each
    gates: Array  # what each step kept of its gates, (T, n_kept, N, B)
    h0_is_learned: bool
    ends: NDArray[np.intp] | None = None  # where each sequence does, the longest first; or all at T
    basis: Eigenbasis | None = None  # in which before and states are, if it is not their own

    @property
    def h(self) -> Array:
        """Hidden states, (T, N, B)."""
        return self.states[0] if self.basis is None else self.basis.out(self.states[0])

    @property
    def last(self) -> State:
        """The state after the last step, for the next chunk's ``h0``: copies, (N, B) each."""
        ends, basis = self.ends, self.basis
        last = tuple(s[-1].copy() if ends is None else at_ends(s, ends) for s in self.states)
        return one_or_all(last if basis is None else tuple(basis.out(part) for part in last))

    def gradient(self, dh: Array | ReadoutGradient) -> Array | ReadoutGradient:
        """Return the gradient of the states as they are kept for that of h."""
        if self.basis is None:
            return dh
        if isinstance(dh, ReadoutGradient):
            return dh._replace(C=self.basis.out_backward(dh.C.T).T)
        return self.basis.out_backward(dh)

    def pieces(self) -> list[tuple[slice, int]]:
        """Cut time where enough sequences have ended; of each piece, how many go on through it."""
        T, N, width = self.states[0].shape
        pieces, first, work = list[tuple[slice, int]](), 0, 0
        ends = np.full(width, T) if self.ends is None else self.ends
        for here, following in itertools.pairwise(np.unique(ends)):
            going_on = int(np.count_nonzero(ends > here))
            work += (width - going_on) // 8 * 8 * N * int(following - here)  # columns of a vector
            if work >= WORTH_A_CALL:
                pieces.append((slice(first, int(here)), width))
                first, width, work = int(here), going_on, 0
        return [*pieces, (slice(first, T), width)]

    def during(self, steps: slice) -> Saved:
        """Return what belongs to some of the steps."""
        first = steps.start
        before = tuple(of_time[first - 1] for of_time in self.states) if first else self.before
        states, is_learned = tuple(of_time[steps] for of_time in self.states), self.h0_is_learned
        return Saved(self.x[steps], before, states, self.gates[steps], is_learned and not first)

    def columns(self, width: int) -> Saved:
        """Return what belongs to the first sequences."""
        return self._replace(
            x=self.x[..., :width],
            before=tuple(part[:, :width] for part in self.before),
            states=tuple(of_time[..., :width] for of_time in self.states),
            gates=self.gates[..., :width],
        )

    def clear_behind_ends(self, steps: slice, width: int) -> None:
        """Set to 0 what a piece has behind its sequences' ends."""
        if self.ends is None:
            return
        for of_time in (*self.states, self.gates):
            of_time[steps, ..., width:] = 0
            for b in np.flatnonzero(self.ends[:width] < steps.stop):
                of_time[self.ends[b] : steps.stop, ..., b] = 0


class Cell(ABC):
    """A recurrent cell: a frozen description, with its parameters in a dict outside it.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    matrix : Dense, Kronecker, RestrictedUnitary, FullUnitary or Diagonal
        The kind of the recurrent matrices, one for each of G gates.
    dtype : {"float32", "float64", "complex64", "complex128"}
        Of W, U and the states; biases are real, of the same precision. An LSTM, a GRU, tanh and
        relu are defined on real numbers only.
    learned_h0 : bool
        Whether the state before the first step is a parameter; if not, it is 0 unless given.

    Raises
    ------
    ValueError, TypeError
        A size below 1, a matrix whose factors do not multiply to N, a dtype that is unknown, or
        complex where the cell is defined on real numbers only.

    Notes
    -----
    Parameters: "W" with the gate's name and the matrix's own behind it ("W.r.0"), "U" (G N, D) and
    "b" (G N,) with the rows of all gates one under the other, and "h0" if learned. Arrays in
    ``step``, ``step_backward`` and ``step_jvp`` are (N, B), states tuples of them: h, or h and c.
    """

    # The suffix of each gate's matrix, in the order of the rows of U.
    gate_names: ClassVar[tuple[str, ...]]
    # Parts of the state before the first step, each (N,) if learned.
    state_names: ClassVar[tuple[str, ...]] = ("h0",)
    # Whether the equations are defined on complex numbers.
    on_complex: ClassVar[bool] = False
    # Which of step_backward's gradients d is that of W_k h; that of U_k x is always the k-th. They
    # are (dz) of an RNN, (dz_i, dz_f, dz_g, dz_o) of an LSTM, (dr, dz, a, dq) of a GRU: only there
    # do W_n h and U_n x have gradients of their own, dq and a.
    d_of_W: ClassVar[tuple[int, ...]]
    # Which are those of biases added to U x or to W h; db of one elsewhere step_backward returns.
    d_of_bias: ClassVar[Mapping[str, slice]] = {}

    input_size: int
    hidden_size: int
    matrix: Matrix
    dtype: str
    learned_h0: bool
    leak: float = 1.0  # how much of a state is new: of the simple cell alone it may be less

    def __post_init__(self) -> None:
        is_matrix = "a matrix such as Dense() or Kronecker()"
        arguments.check_kind("matrix", self.matrix, Matrix, is_matrix)
        arguments.settle_cell(self)
        _ = self.layout  # raises where the matrix does not fit N

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name of the step's equations, by which the engine knows them."""

    @property
    def n_kept(self) -> int:
        """How many arrays a step keeps of its gates, for step_backward."""
        return 0

    def basis(self, params: Mapping[str, Array]) -> Eigenbasis | None:
        """Return the basis in which :meth:`run` keeps the states, if it is not their own."""
        return None

    @abstractmethod
    def step(
        self, params: Params, Wh: PerGate, Ux: PerGate, before: States
    ) -> tuple[States, PerGate]:
        """Make one time step from W_k h and U_k x of each gate k.

        Return the state after it, and ``n_kept`` arrays of its gates.
        """

    @abstractmethod
    def step_backward(
        self, params: Params, before: States, after: States, gates: Array, dafter: States
    ) -> tuple[PerGate, Sequence[Array | float], Params]:
        """Back-propagate through :meth:`step`, for the gradients dafter of the state after it.

        Return the gradients d of W_k h and U_k x (see ``d_of_W``); those of the state before, but
        for what reaches h through W_k h; and, summed over the batch, those of biases within σ.
        """

    @abstractmethod
    def step_jvp(self, params: Dual, Wh: Dual, Ux: Dual, before: Dual) -> Dual:
        """Make one time step with tangents; return the state after it and its tangent."""

    @np.errstate(under="ignore")
    def forward(
        self, params: Mapping[str, Array], x: ArrayLike, h0: Any = None
    ) -> tuple[Array, Saved]:
        """Run the cell over a batch of sequences.

        Parameters
        ----------
        params : mapping of str to ndarray
            As :meth:`init` returns them.
        x : array_like, shape (T, D, B), or integers (T, B)
            Converted to the cell's precision. Integers in 0 … D-1 stand for one-hot columns.
        h0 : array_like, shape (N, B), or a pair of them for an LSTM's h and c, optional
            The state before the first step, such as ``saved.last`` of the chunk before (truncated
            BPTT); it takes the place of the learned one.

        Returns
        -------
        h : ndarray, shape (T, N, B)
            Read-only, for backward reads it too: change a copy.
        saved : Saved
            For :meth:`backward`. It holds x where that needs no conversion: leave it until then.
            Memory, in arrays of h's size: 1, of a GRU 5, of an LSTM 6.

        Raises
        ------
        ValueError, TypeError
            Parameters, x or h0 of another shape or dtype, labels out of range, or x not finite.
        """
        params, x = arguments.check_params(params, self.layout), arguments.checked_input(self, x)
        _, saved = self.run(params, x, self.initial_states(params, x.shape[-1], h0), h0 is None)
        h = saved.h.view()
        h.setflags(write=False)
        return h, saved

    def run(
        self,
        params: Params,
        x: NDArray[Any],
        before: States,
        is_learned: bool,
        ends: NDArray[np.intp] | None = None,
    ) -> tuple[Array, Saved]:
        """Run :meth:`forward` on arguments that have been checked.

        Of sequences that do not end together, given with the longest first, h is 0 behind the end.
        It is given in the basis in which it is kept, ``saved.basis``.
        """
        T, engine = len(x), self.engine_for(x)
        empty = np.empty if engine is None else engine.aligned_empty
        shape, dtype = before[0].shape, np.dtype(self.dtype)
        states = tuple(empty((T, *shape), dtype) for _ in before)
        gates = empty((T, self.n_kept, *shape), dtype)
        saved = Saved(x, before, states, gates, self.learned_h0 and is_learned, ends)
        for steps, width in saved.pieces():
            piece = saved.during(steps)
            if engine is None:
                self.run_numpy(params, *piece.columns(width)[:4])
            else:
                W, of_steps = self.multipliers(params), self.for_engine(params)
                engine.recurrence_forward(self.engine_key, W, of_steps, *piece[:4], width)
            saved.clear_behind_ends(steps, width)
        return states[0], saved

    def run_numpy(
        self, params: Params, x: NDArray[Any], state: States, states: States, gates: Array
    ) -> None:
        """Step through time from a first state, into states and gates."""
        W = self.matrices(params)
        for t in range(len(x)):
            Wh = [self.matrix.matvec(W_k, state[0]) for W_k in W]
            Ux = np.split(input_product(params["U"], x[t]), len(W))
            state, kept = self.step(params, Wh, Ux, state)
            for of_time, part in zip(states, state, strict=True):
                of_time[t] = part
            if self.n_kept:
                gates[t] = kept

    @np.errstate(under="ignore")
    def backward(
        self,
        params: Mapping[str, Array],
        saved: Saved,
        dh: ArrayLike | ReadoutGradient,
        *,
        dc: ArrayLike | None = None,
        input_gradient: bool = True,
    ) -> tuple[Params, Array | None, State]:
        """Back-propagate through time.

        Parameters
        ----------
        params, saved
            The very ones given to :meth:`forward`, and what it returned.
        dh : array_like, shape (T, N, B), or (K, N, B) with K < T
            Gradient with respect to h, ∂L/∂Re h + i ∂L/∂Im h. A shorter one belongs to the last K
            steps; that of the steps before is 0. Where a next chunk starts from this one's last
            state, its dh0 is part of dh[-1].
        dc : array_like, shape (N, B), optional
            Of an LSTM, the gradient with respect to c after the last step: the next chunk's.
        input_gradient : bool
            Whether to compute dx.

        Returns
        -------
        grads : dict of str to ndarray
            The keys and shapes of params. Those of a learned state are 0 where one was given.
        dx : ndarray, shape (T, D, B), or None for integer x or without ``input_gradient``
        dh0 : ndarray, shape (N, B), or a pair of them for an LSTM's h and c
            Gradient with respect to the state before the first step.

        Raises
        ------
        ValueError, TypeError
            dh or dc of another shape, or complex for a real cell; params or saved of another cell.

        Notes
        -----
        h_t reaches the loss directly and, through W_k h_t of each gate k, by the step after. From
        the last step to the first, with d_k the gradient of W_k h_{t-1} and e_k that of U_k x_t
        (``d[d_of_W[k]]`` and ``d[k]``, from ``step_backward``),

            dh_t = (from the loss) + (past the matrices) + Σ_k W_k^H d_k of the step after,
            dx_t = Σ_k U_k^H e_k,   dU_k = Σ_t e_k x_t^H,

        and dW_k sums the matrix's own gradient at (h_{t-1}, d_k).
        """
        params = arguments.check_params(params, self.layout)
        arguments.checked_flag("input_gradient", input_gradient)
        self.check_saved(saved)
        of_h, of_c = arguments.checked_gradients(self, saved.states[0], dh, dc)
        return self.run_backward(params, saved, saved.gradient(of_h), of_c, input_gradient)

    def run_backward(
        self,
        params: Params,
        saved: Saved,
        dh: Array | ReadoutGradient,
        dc: Array | None = None,
        input_gradient: bool = True,
    ) -> tuple[Params, Array | None, State]:
        """Run :meth:`backward` on arguments that have been checked, dh of what :meth:`run` gave."""
        grads: Params = {}
        all_dx: list[Array] = []
        dstate: Any = (None, dc)[: len(saved.states)]
        for steps, width in reversed(saved.pieces()):
            piece, dh_here = saved.during(steps), gradient_during(steps, dh, saved.states[0].shape)
            of_piece, dx, dstate = self._piece_backward(
                params, piece, width, dh_here, dstate, input_gradient
            )
            grads = {n: grads[n] + d for n, d in of_piece.items()} if grads else of_piece
            all_dx = all_dx if dx is None else [dx, *all_dx]
        dx = np.concatenate(all_dx) if len(all_dx) > 1 else dx
        if self.learned_h0:
            for name, d in zip(self.state_names, dstate, strict=True):
                grads[name] = over_batch(d) if saved.h0_is_learned else np.zeros_like(params[name])
        return grads, dx, one_or_all(dstate)

    def _piece_backward(
        self,
        params: Params,
        saved: Saved,
        width: int,
        dh: Array | ReadoutGradient,
        dlast: Sequence[Array | None],
        input_gradient: bool,
    ) -> tuple[Params, Array | None, States]:
        """Return the gradients of all but h0, dx, and those of the state before the piece."""
        engine, B = self.engine_for(saved.x), saved.x.shape[-1]
        if engine is None:
            dh = (dh.whole() if isinstance(dh, ReadoutGradient) else dh)[..., :width]
            dlast = [None if part is None else part[:, :width] for part in dlast]
            piece = saved.columns(width)
            dbefore, grads, dW, dx, d = self.run_numpy_backward(params, piece, dh, dlast)
            dbefore = tuple(with_columns(part, B) for part in dbefore)
        else:
            given = *saved[:4], width, (dh, dlast), input_gradient
            dbefore, grads, dW, dx, d = engine.recurrence_backward(
                self.engine_key, self.multipliers(params), self.for_engine(params), *given
            )
            grads = self.for_engine_backward(params, grads)
            of_gates = zip(self.matrices(params), dW, strict=True) if dW else ()
            dW = [self.matrix.multipliers_backward(W_k, d_k) for W_k, d_k in of_gates]
        if d is not None:
            piece = saved.columns(width)
            dW, grads, dx = self._sums_over_time(params, piece, d, grads, input_gradient)
            dx = None if dx is None else with_columns(dx, B)
        flat = [d for dW_k in dW for d in dW_k]
        return dict(zip(self.matrix_names, flat, strict=True)) | grads, dx, dbefore

    def run_numpy_backward(
        self, params: Params, saved: Saved, dh: Array, dlast: Sequence[Array | None]
    ) -> Backward:
        """Step back through time; dstate is the gradient of the state after a step."""
        _, before, states, gates, *_ = saved
        W, (T, N, B) = self.matrices(params), states[0].shape
        d = np.empty((T, max(self.d_of_W) + 1, N, B), self.dtype)
        dbias: dict[str, Any] = {}
        dstate: Any = [np.zeros_like(before[0]) if part is None else part for part in dlast]
        at = [before, *zip(*states, strict=True)]  # the states before the first step, after each
        for t in reversed(range(T)):
            if t >= T - len(dh):
                dstate[0] = dstate[0] + dh[t - (T - len(dh))]
            d[t], dpast, db = self.step_backward(params, at[t], at[t + 1], gates[t], dstate)
            through_W = [
                self.matrix.adjoint(W_k, d[t, k]) for W_k, k in zip(W, self.d_of_W, strict=True)
            ]
            dstate = [sum(through_W, dpast[0]), *dpast[1:]]
            for name in db:
                dbias[name] = np.add(dbias.get(name, 0), db[name], dtype=np.float64)
        grads = {name: total.astype(params[name].dtype) for name, total in dbias.items()}
        return Backward(tuple(dstate), grads, d=d)

    def _sums_over_time(
        self, params: Params, saved: Saved, d: Array, dbias: Params, input_gradient: bool
    ) -> tuple[list[list[Array]], Params, Array | None]:
        """Return dW, the gradients of U and the biases, and dx, from d of all steps."""
        W, (T, N, B) = self.matrices(params), saved.states[0].shape
        dW = [
            matrix_gradient(self.matrix, W_k, saved.before[0], saved.states[0], d[:, k])
            for W_k, k in zip(W, self.d_of_W, strict=True)
        ]
        d_of_U = d[:, : len(W)].reshape(T, len(W) * N, B)
        dU, dx = input_gradients(params["U"], saved.x, d_of_U, input_gradient)
        for name, rows in self.d_of_bias.items():
            dbias[name] = over_time(d[:, rows].reshape(T, -1, B))
        return dW, {"U": dU, **dbias}, dx

    def init(self, rng: np.random.Generator) -> Params:
        """Draw parameters: W as its matrix says, U Glorot-uniform, b = 0, h_0 of length about 1.

        h_0 is random, not 0: at z = 0 modReLU has no gradient, and an input that begins
        with zeros (a picture's margin) would leave the state there.
        """
        arguments.check_rng(rng)
        D, N, dtype = self.input_size, self.hidden_size, np.dtype(self.dtype)
        drawn = [W for _ in self.gate_names for W in self.matrix.init(N, rng, dtype)]
        params = dict(zip(self.matrix_names, drawn, strict=True))
        params["U"] = np.concatenate([glorot_uniform((N, D), rng, dtype) for _ in self.gate_names])
        params["b"] = np.zeros(len(self.gate_names) * N, self.real_dtype)
        if self.learned_h0:
            params |= {name: random_vector(N, rng, dtype) for name in self.state_names}
        return params

    def penalty(self, params: Mapping[str, Array]) -> tuple[float, Params]:
        """Return how far the recurrent matrices are from unitary, and the gradient of that.

        Σ_f ‖W_f^H W_f - I‖²_F of the factors of a Kronecker product, summed over gates; 0 for a
        matrix that is unitary by construction, or diagonal.
        """
        parts = [self.matrix.penalty(W) for W in self.matrices(params)]
        dW = [d for _, gradients in parts for d in gradients]
        return sum(value for value, _ in parts), dict(zip(self.matrix_names, dW, strict=True))

    def defect(self, params: Mapping[str, Array]) -> float:
        """Return ‖W^H W - I‖₂, the largest of all gates."""
        return max(self.matrix.defect(W) for W in self.matrices(params))

    @property
    def is_complex(self) -> bool:
        """Whether the hidden state is complex."""
        return self.dtype.startswith("complex")

    @cached_property
    def real_dtype(self) -> np.dtype:
        """The real dtype of the cell's precision."""
        return np.finfo(self.dtype).dtype

    @property
    def n_features(self) -> int:
        """Real numbers in a hidden state: N, or 2N if it is complex."""
        return self.hidden_size * (1 + self.is_complex)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter."""
        return {name: shape for name, (shape, _) in self.layout.items()}

    def dtypes(self) -> dict[str, np.dtype]:
        """Return the dtype of each parameter: the cell's, or its real one."""
        return {name: dtype for name, (_, dtype) in self.layout.items()}

    @cached_property
    def layout(self) -> Layout:
        """Shape and dtype of each parameter."""
        N, G, dtype = self.hidden_size, len(self.gate_names), np.dtype(self.dtype)
        of_all = {"U": ((G * N, self.input_size), dtype), "b": ((G * N,), self.real_dtype)}
        learned = self.state_names if self.learned_h0 else ()
        inner = (name for name in self.d_of_bias if name != "b")
        return {**self._of_W, **of_all, **dict.fromkeys((*learned, *inner), ((N,), dtype))}

    @cached_property
    def _of_W(self) -> Layout:
        of_matrix = self.matrix.layout(self.hidden_size, np.dtype(self.dtype))
        return {f"W{gate}{name}": of_matrix[name] for gate in self.gate_names for name in of_matrix}

    @cached_property
    def matrix_names(self) -> tuple[str, ...]:
        """Names of the recurrent matrices' parameters, gate by gate."""
        return tuple(self._of_W)

    @cached_property
    def engine_key(self) -> CellKey:
        """What the engine computes the steps by."""
        shapes = self.matrix.layout(self.hidden_size, np.dtype(self.dtype)).values()
        factors = tuple(shape for shape, _ in shapes)
        sizes = self.input_size, self.hidden_size
        return CellKey(self.kind, factors, *sizes, np.dtype(self.dtype).char, self.leak)

    @property
    def unitary_names(self) -> tuple[str, ...]:
        """Names of matrices that an optimizer must keep unitary; see :class:`FullUnitary`."""
        return self.matrix_names if self.matrix.kept_unitary else ()

    @property
    def n_recurrent_parameters(self) -> int:
        """Real numbers in the recurrent matrices; a complex one counts as two."""
        return count_real(self._of_W)

    def matrices(self, params: Mapping[str, Array]) -> list[list[Array]]:
        """Return each gate's matrix, as the list of its parameter arrays."""
        names, n = self.matrix_names, len(self.matrix_names) // len(self.gate_names)
        return [[params[name] for name in names[k : k + n]] for k in range(0, len(names), n)]

    def multipliers(self, params: Mapping[str, Array]) -> list[list[Array]]:
        """Return what compiled code multiplies by for each gate's matrix."""
        return [self.matrix.multipliers(W) for W in self.matrices(params)]

    def for_engine(self, params: Params) -> Params:
        """Return the parameters by which compiled code makes a step of this cell's ``kind``."""
        return params

    def for_engine_backward(self, params: Params, grads: Params) -> Params:
        """Return the gradients of parameters for those of what :meth:`for_engine` returned."""
        return grads

    @property
    def engine(self) -> ModuleType | None:
        """What runs this cell in compiled code: one of this library's, over such a matrix."""
        own = (type(self).step, type(self.matrix).matvec)
        if not all(method.__module__.startswith("kru_ref.") for method in own):
            return None  # somebody's own equations
        return self.matrix.engine(self.hidden_size)

    def engine_for(self, x: NDArray[Any]) -> ModuleType | None:
        """Return what runs the recurrence over x in compiled code, if anything does."""
        return None if np.iscomplexobj(x) else self.engine

    def initial_states(self, params: Mapping[str, Array], B: int, given: Any) -> States:
        """Return each part of the state before the first step: given, learned, or 0."""
        if given is not None:
            # copies: the caller's own may change before backward
            return tuple(part.copy() for part in arguments.checked_state(self, given, B))
        if self.learned_h0:
            return tuple(np.repeat(params[name][:, None], B, axis=1) for name in self.state_names)
        return tuple(np.zeros((self.hidden_size, B), self.dtype) for _ in self.state_names)

    def check_saved(self, saved: Any) -> None:
        """Raise unless it is what this cell's forward returned: compiled loops trust its sizes."""
        arguments.check_kind("saved", saved, Saved, "the Saved that forward returned")
        arguments.check_sizes(self, saved)


def input_product(U: Array, x_t: NDArray[Any]) -> Array:
    """Return U x_t: columns of U for integers x_t (B,), a product for x_t (D, B)."""
    return U[:, x_t] if x_t.ndim == 1 else U @ x_t


def input_gradients(
    U: Array, x: NDArray[Any], dz: Array, input_gradient: bool
) -> tuple[Array, Array | None]:
    """Return dU = Σ_t dz_t x_t^H and, where x is no label and it is wanted, dx_t = U^H dz_t.

    dz is (T, G N, B).
    """
    dU = np.zeros(U.shape, np.result_type(U, np.float64))
    for steps in time_pieces(len(x), x.shape[-1]):
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
    for steps in time_pieces(len(h), h.shape[-1]):
        first, last = steps.start, steps.stop
        before = h[first - 1 : last - 1] if first else np.concatenate([h0[None], h[: last - 1]])
        columns = _side_by_side(before), _side_by_side(dz[steps])
        for total, part in zip(dW, matrix.gradient(W, *columns), strict=True):
            total += part
    return [total.astype(w.dtype) for total, w in zip(dW, W, strict=True)]


def _side_by_side(a: NDArray[Any]) -> NDArray[Any]:
    """Turn (T, N, B) into (N, T B)."""
    return np.ascontiguousarray(np.moveaxis(a, 0, 1)).reshape(a.shape[1], -1)


def at_ends(of_time: Array, ends: NDArray[np.intp]) -> Array:
    """Return what (T, N, B) holds at each sequence's own last step, (N, B)."""
    return of_time[ends - 1, :, np.arange(len(ends))].T.copy()


def gradient_during(
    steps: slice, dh: Array | ReadoutGradient, shape: tuple[int, ...]
) -> Array | ReadoutGradient:
    """Return the part of dh, that of the last steps of (T, N, B), that belongs to some steps."""
    of_steps = dh.dy if isinstance(dh, ReadoutGradient) else dh
    before = shape[0] - len(of_steps)  # steps without one
    if steps.stop <= before:
        return np.zeros(
            (1, *shape[1:]), dh.C.dtype if isinstance(dh, ReadoutGradient) else dh.dtype
        )
    here = of_steps[max(0, steps.start - before) : steps.stop - before]
    return dh._replace(dy=here) if isinstance(dh, ReadoutGradient) else here


def with_columns(a: Array, B: int) -> Array:
    """Return (…, width) with zeros behind, up to B columns."""
    behind = [(0, 0)] * (a.ndim - 1) + [(0, B - a.shape[-1])]
    return a if a.shape[-1] == B else np.pad(a, behind)


def one_or_all(parts: States) -> State:
    """Return a state as a user holds it: h alone where there is nothing else."""
    return parts[0] if len(parts) == 1 else parts
