"""Recurrent cells, one above the other, and a readout; see cells/cell.py and readout.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import arguments
from .activations import logistic
from .arrays import Array, Layout, Params, count_real
from .cells import Cell, Saved, State
from .cells.cell import States, one_or_all
from .cells.eigenbasis import Eigenbasis
from .readout import POOLINGS, Pooled, Readout, before_ends, features, features_backward


class ModelSaved(NamedTuple):
    """What the backward pass needs: of each cell, and what dropout multiplied its states by."""

    cells: tuple[Saved, ...]
    kept: tuple[Array | None, ...]
    read: Array  # z, what the readout reads, before dropout
    order: NDArray[np.intp] | None = None  # of the sequences within, by length; or as they came

    @property
    def last(self) -> tuple[State, ...]:
        """Each cell's state after each sequence's last step, for the next chunk's ``h0``."""
        last = tuple(saved.last for saved in self.cells)
        if self.order is None:
            return last
        back = np.argsort(self.order)
        return tuple(
            tuple(np.take(part, back, axis=1) for part in state)
            if isinstance(state, tuple)
            else np.take(state, back, axis=1)
            for state in last
        )


@dataclass(frozen=True)
class SequenceModel:
    """Cells, each above the one before, and a readout.

    A cell reads the hidden states of the one below; of a complex one their real parts, then their
    imaginary parts.

    Parameters
    ----------
    cell : Cell or sequence of Cell
        Each but the first with the ``n_features`` of the one before as its input size.
    output_size : int
        M.
    last_only : bool
        Read out the last step only, as with pooling "last".
    dropout : float
        Share of each cell's states that are set to 0 on their way up, to the next cell or to
        the readout, the others growing by 1/(1 - dropout); only where ``forward`` gets a generator.
    pooling : {"last", "mean", "last-and-mean", "moments"}, optional
        Read out one vector for a whole sequence, not every step: the state after its last step, the
        mean of the states after each, both, or these and the mean of the square of each of their
        real numbers. Logits are then (1, M, B), and neither they nor their gradients are computed
        for each step.

    Raises
    ------
    ValueError
        No cell, output_size below 1, cells whose sizes or precisions do not fit, dropout outside
        [0, 1), an unknown pooling, or another than "last" with last_only.

    Notes
    -----
    Parameters: those of the cell with "cell." before their names, or "cell.0.", "cell.1.", … for
    several; "readout.V" and "readout.c".

    Time comes first and the batch last, in x and in the logits. Libraries for time series have
    (n_cases, n_channels, n_timepoints), whose cases would be taken for time: of such an array give
    ``x.transpose(2, 1, 0)``.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> model = kru.SequenceModel(kru.KRU(input_size=10, hidden_size=128), output_size=9)
    >>> params = model.init(np.random.default_rng(0))
    >>> logits, saved = model.forward(params, np.zeros((5, 2), dtype=int))
    >>> logits.shape
    (5, 9, 2)
    """

    cell: Cell | Sequence[Cell]
    output_size: int
    last_only: bool = False
    dropout: float = 0.0
    pooling: Literal["last", "mean", "last-and-mean", "moments"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Cell):
            object.__setattr__(self, "cell", arguments.checked_cells(self.cell, Cell))
        arguments.settle_model(self, POOLINGS)

    @cached_property
    def readout(self) -> Readout:
        """What reads the last cell's states."""
        return Readout(self.cells[-1], self.output_size, self.pooling)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells, from the input on."""
        return (self.cell,) if isinstance(self.cell, Cell) else tuple(self.cell)

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """What stands before the names of each cell's parameters, without the dot."""
        if isinstance(self.cell, Cell):
            return ("cell",)
        return tuple(f"cell.{i}" for i in range(len(self.cell)))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter: "cell.…", "readout.V", "readout.c"."""
        return {name: shape for name, (shape, _) in self.layout.items()}

    def dtypes(self) -> dict[str, np.dtype]:
        """Return the dtype of each parameter; the readout is real."""
        return {name: dtype for name, (_, dtype) in self.layout.items()}

    @cached_property
    def layout(self) -> Layout:
        """Shape and dtype of each parameter."""
        return self._with_prefixes([cell.layout for cell in self.cells]) | self.readout.layout

    def _with_prefixes(self, of_cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what each cell says of its parameters, by the model's names."""
        return {
            f"{prefix}.{name}": value
            for prefix, of_cell in zip(self.prefixes, of_cells, strict=True)
            for name, value in of_cell.items()
        }

    def cell_params(self, params: Mapping[str, Array]) -> list[Params]:
        """Return each cell's parameters, by the names it gives them."""
        return [{name: params[key] for name, key in names} for names in self._cell_names]

    @cached_property
    def _cell_names(self) -> list[list[tuple[str, str]]]:
        return [
            [(name, f"{prefix}.{name}") for name in cell.layout]
            for prefix, cell in zip(self.prefixes, self.cells, strict=True)
        ]

    @cached_property
    def _step_names(self) -> list[tuple[str, ...]]:
        """Names of each cell's parameters, as the engine takes them for a step."""
        inner = [[name for name in ("U", "b", "b_h") if name in cell.layout] for cell in self.cells]
        return [
            tuple(f"{prefix}.{name}" for name in (*cell.matrix_names, *names))
            for prefix, cell, names in zip(self.prefixes, self.cells, inner, strict=True)
        ]

    @property
    def _step_engine(self) -> ModuleType | None:
        """What makes single steps in compiled code, if anything does."""
        engines = [c.engine if c.matrix.has_compiled_step else None for c in self.cells]
        return None if None in engines or self.readout.has_mean else engines[0]

    def _steps_at_once(self, B: int) -> int:
        """How many steps to predict before states are forgotten: some megabytes of them."""
        kept = [(cell.n_kept + len(cell.state_names)) * cell.n_features for cell in self.cells]
        return max(16, 2**20 // (max(kept) * B))

    @property
    def n_parameters(self) -> int:
        """Real numbers in all parameters; a complex one counts as two."""
        return count_real(self.layout)

    @property
    def n_recurrent_parameters(self) -> int:
        """Real numbers in all recurrent matrices."""
        return sum(cell.n_recurrent_parameters for cell in self.cells)

    @property
    def unitary_names(self) -> tuple[str, ...]:
        """Names of matrices that an optimizer must keep unitary; see :class:`FullUnitary`."""
        return tuple(self._with_prefixes([dict.fromkeys(c.unitary_names) for c in self.cells]))

    def init(self, rng: np.random.Generator) -> Params:
        """Draw parameters: the cells', V Glorot-uniform, c = 0."""
        params: Params = self._with_prefixes([cell.init(rng) for cell in self.cells])
        return params | self.readout.init(rng)

    @np.errstate(under="ignore")
    def forward(
        self,
        params: Mapping[str, Array],
        x: ArrayLike,
        h0: Any = None,
        *,
        lengths: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[NDArray[np.floating], ModelSaved]:
        """Run the model over a batch of sequences.

        Parameters
        ----------
        params, x
            As for the first cell's ``forward``, params with the model's names.
        h0 : optional
            The state before the first step: as for the cell's ``forward``, or one for each cell,
            such as ``saved.last`` of the chunk before (truncated BPTT).
        lengths : array_like of int, shape (B,), optional
            How many steps each sequence has, where they are not all T. What x holds behind is not
            looked at, but must be there; logits of every step are 0 there, the last step is each
            sequence's own, and so is the state after it, ``saved.last``.
        rng : numpy.random.Generator, optional
            Draws what dropout sets to 0. Without it nothing is.

        Returns
        -------
        logits : ndarray, shape (T, M, B), or (1, M, B) with ``pooling`` or ``last_only``
        saved : ModelSaved
            For :meth:`backward`.

        Raises
        ------
        ValueError, TypeError
            As the cells' ``forward``; lengths of another shape, or not in 1 … T.

        Notes
        -----
        Sequences are sorted by length, and time is cut where enough of them have ended: what is
        computed behind the ends takes less time than one more call of the recurrence would.
        """
        params, given = (
            arguments.check_params(params, self.layout),
            arguments.states_of_cells(self, h0),
        )
        if rng is not None:
            arguments.check_rng(rng)
        x, ends, order = arguments.checked_padded_input(self.cells[0], x, lengths)
        all_saved: list[Saved] = []
        all_kept: list[Array | None] = []
        for i, (cell, of_cell) in enumerate(zip(self.cells, self.cell_params(params), strict=True)):
            before = cell.initial_states(of_cell, x.shape[-1], given[i])
            if order is not None:
                before = tuple(np.take(part, order, axis=1) for part in before)
            h, saved = cell.run(of_cell, x, before, given[i] is None, ends)
            is_last, drops = i == len(self.cells) - 1, rng is not None and self.dropout > 0
            basis = saved.basis if is_last and self.readout.is_linear and not drops else None
            h = h if basis is saved.basis else saved.h
            read = h = self.readout.pool(h, ends) if is_last else h
            kept = self.draw_kept(h.shape, rng) if rng is not None and drops else None
            h = h if kept is None else h * kept
            all_saved.append(saved)
            all_kept.append(kept)
            x = x if is_last else features(h)
        logits = self._in_order(self.readout.forward(params, h, basis), ends, order)
        return logits, ModelSaved(tuple(all_saved), tuple(all_kept), read, order)

    def _in_order(
        self,
        logits: NDArray[np.floating],
        ends: NDArray[np.intp] | None,
        order: NDArray[np.intp] | None,
    ) -> NDArray[np.floating]:
        """Return logits as the sequences came, 0 behind their ends."""
        if ends is None:
            return logits
        if self.pooling is None:
            logits *= before_ends(len(logits), ends)
        ordered = np.empty_like(logits)
        ordered[..., order] = logits
        return ordered

    def step(
        self, params: Mapping[str, Array], x_t: ArrayLike, state: Any = None
    ) -> tuple[NDArray[np.floating], tuple[State, ...]]:
        """Make one time step: for inputs that come one after the other.

        Parameters
        ----------
        params : mapping of str to ndarray
            As for :meth:`forward`.
        x_t : array_like, shape (D, B), or integers (B,)
            The input at this step.
        state : optional
            What the step before returned, or ``saved.last`` of a forward pass; without it the state
            before the first step, learned or 0.

        Returns
        -------
        y_t : ndarray, shape (M, B)
            What :meth:`forward` returns of this step, but for rounding.
        state : tuple
            Each cell's state after the step, for the next.

        Raises
        ------
        ValueError, TypeError
            As :meth:`forward`, where the state is called h0; a pooling that takes a mean.
        """
        return self._compiled_step(params, x_t, state) or self._checked_step(params, x_t, state)

    def _compiled_step(
        self, params: Any, x_t: Any, state: Any
    ) -> tuple[NDArray[np.floating], tuple[State, ...]] | None:
        """Make a step in compiled code alone; None where something is not as that takes it."""
        engine, after = self._step_engine, list[State]()
        if engine is None or type(x_t) is not np.ndarray or x_t.ndim not in (1, 2):
            return None
        if type(params) is not dict or params.keys() != self.layout.keys():
            return None
        if type(state) is not tuple or len(state) != len(self.cells):
            return None
        h = x_t.astype(np.int64, copy=False) if x_t.dtype.kind in "iu" else x_t
        for cell, names, before in zip(self.cells, self._step_names, state, strict=True):
            parts = before if len(cell.state_names) > 1 else (before,)
            x = features(h) if after else h
            now = engine.step(cell.engine_key, params, names, x, parts)
            if now is None:
                return None
            h = now[0]
            after.append(one_or_all(now))
        y = engine.read_out(params["readout.V"], params["readout.c"], h, self.output_size)
        return None if y is None else (y, tuple(after))

    @np.errstate(under="ignore")
    def _checked_step(
        self, params: Any, x_t: Any, state: Any
    ) -> tuple[NDArray[np.floating], tuple[State, ...]]:
        """Make a step as :meth:`forward` would: what it is given may need to be converted."""
        if self.readout.has_mean:
            raise ValueError(f"pooling {self.pooling!r} reads out no single step: use predict")
        params = arguments.check_params(params, self.layout)
        x = arguments.checked_step_input(self.cells[0], x_t)
        given = arguments.states_of_cells(self, state)
        before = [
            cell.initial_states(of_cell, x.shape[-1], of_state)
            for cell, of_cell, of_state in zip(
                self.cells, self.cell_params(params), given, strict=True
            )
        ]
        h, after = self._run(params, x, before)
        return self.readout.forward(params, h, self._basis(params))[0], tuple(
            one_or_all(parts) for parts in after
        )

    def sample(
        self,
        params: Mapping[str, Array],
        prefix: ArrayLike,
        length: int,
        rng: np.random.Generator,
        *,
        temperature: float = 1.0,
    ) -> NDArray[Any]:
        """Continue sequences: read the prefix, then draw each next input from the outputs before.

        For a model that was trained to name the next step of its input.

        Parameters
        ----------
        params
            As for :meth:`forward`.
        prefix : array_like, shape (T_0, D, B) of 0 and 1, or integers (T_0, B)
            How B sequences begin, T_0 at least 1. Integers are symbols: the next is one of D, drawn
            from the softmax of the outputs. Of 0 and 1, such as keys that sound or do not, each of
            the D numbers is drawn for itself, 1 with a probability of the sigmoid of its output.
        length : int
            Steps to draw.
        rng : numpy.random.Generator
            The same state of it gives the same sequences.
        temperature : float
            The outputs are divided by it: below 1 what is likely becomes likelier, at 0 it is
            certain.

        Returns
        -------
        drawn : ndarray, shape (length, D, B) in the model's precision, or integers (length, B)
            Without the prefix.

        Raises
        ------
        ValueError, TypeError
            A model whose outputs are not as many as its inputs, or that reads out no single step;
            a prefix that holds other numbers; a temperature below 0; length below 1.

        Examples
        --------
        >>> import numpy as np, kru_ref as kru
        >>> model = kru.SequenceModel(kru.KRU(input_size=5, hidden_size=8), output_size=5)
        >>> rng = np.random.default_rng(0)
        >>> model.sample(model.init(rng), prefix=[[0], [3]], length=100, rng=rng).shape
        (100, 1)
        """
        x = arguments.checked_prefix(self, prefix)
        arguments.check_sampling(length, rng, temperature)
        drawn, state = np.empty((length, *x.shape[1:]), x.dtype), None
        for x_t in x:
            y, state = self.step(params, x_t, state)
        for t in range(length):
            drawn[t] = next_step(y, x.ndim == 2, temperature, rng)
            if t < length - 1:
                y, state = self.step(params, drawn[t], state)
        return drawn

    @np.errstate(under="ignore")
    def predict(
        self, params: Mapping[str, Array], x: ArrayLike, lengths: ArrayLike | None = None
    ) -> NDArray[np.floating]:
        """Run the model and keep nothing over time but its outputs.

        Parameters
        ----------
        params, x
            As for :meth:`forward`.
        lengths : array_like of int, shape (B,), optional
            As for :meth:`forward`.

        Returns
        -------
        logits : ndarray, shape (T, M, B), or (1, M, B) with ``pooling`` or ``last_only``
            As of :meth:`forward`.

        Raises
        ------
        ValueError, TypeError
            As :meth:`forward`.

        Notes
        -----
        Time is cut into pieces, each from where the one before ended. Beside x (in the model's
        precision) and the outputs memory does not depend on T.
        """
        params = arguments.check_params(params, self.layout)
        x, ends, order = arguments.checked_padded_input(self.cells[0], x, lengths)
        basis = self._basis(params)
        if self.pooling is not None:
            logits = self.readout.forward(params, self._pooled(params, x, ends), basis)
            return self._in_order(logits, ends, order)
        logits = np.zeros((len(x), self.output_size, x.shape[-1]), self.cells[0].real_dtype)
        for first, h, _ in self._pieces(params, x, ends):
            y = self.readout.forward(params, h, basis)
            logits[first : first + len(h), :, : h.shape[-1]] = y
        return self._in_order(logits, ends, order)

    @np.errstate(under="ignore")
    def pooled_states(
        self, params: Mapping[str, Array], x: ArrayLike, lengths: ArrayLike | None = None
    ) -> NDArray[np.floating]:
        """Return what the readout reads of each sequence: pooled states, as features.

        Parameters
        ----------
        params, x, lengths
            As for :meth:`predict`.

        Returns
        -------
        features : ndarray, shape (n, B)
            As many as "readout.V" has columns.

        Raises
        ------
        ValueError, TypeError
            As :meth:`predict`; the model has no pooling.
        """
        if self.pooling is None:
            raise ValueError("pooled_states needs a model with pooling, this reads out every step")
        params = arguments.check_params(params, self.layout)
        x, ends, order = arguments.checked_padded_input(self.cells[0], x, lengths)
        z = self.readout.in_own_basis(self._pooled(params, x, ends), self._basis(params))
        return self._in_order(features(z), ends, order)[0]

    def _basis(self, params: Params) -> Eigenbasis | None:
        """Return the basis in which :meth:`_run` returns states, if it is not their own."""
        return (
            self.cells[-1].basis(self.cell_params(params)[-1]) if self.readout.is_linear else None
        )

    def _pooled(self, params: Params, x: NDArray[Any], ends: NDArray[np.intp] | None) -> Array:
        """Return z, (1, N, B) or (1, 2N, B)."""
        pooled = Pooled(self.readout, x.shape[-1])
        for _, h, here in self._pieces(params, x, ends):
            pooled.add(h, here)
        return pooled.z(np.full(x.shape[-1], len(x)) if ends is None else ends)

    def _pieces(
        self, params: Params, x: NDArray[Any], ends: NDArray[np.intp] | None
    ) -> Iterator[tuple[int, Array, NDArray[np.intp]]]:
        """Yield a piece's first step, the last cell's states, and where sequences end in it."""
        B = x.shape[-1]
        of_cells = zip(self.cells, self.cell_params(params), strict=True)
        states = [cell.initial_states(of_cell, B, None) for cell, of_cell in of_cells]
        stops = np.full(B, len(x)) if ends is None else ends
        at_once = self._steps_at_once(B)
        for first in range(0, int(stops.max()), at_once):
            width = int(np.count_nonzero(stops > first))
            here = np.minimum(stops[:width] - first, at_once)
            x_here = x[first : first + int(here.max()), ..., :width]
            h, states = self._run(params, x_here, states, here)
            yield first, h, here

    def _run(
        self,
        params: Params,
        x: NDArray[Any],
        states: Sequence[States],
        ends: NDArray[np.intp] | None = None,
    ) -> tuple[Array, list[States]]:
        """Return the last cell's h over some steps, and each cell's state after them."""
        h, after = x, list[States]()
        for cell, of_cell, before in zip(self.cells, self.cell_params(params), states, strict=True):
            before = tuple(np.ascontiguousarray(part[:, : x.shape[-1]]) for part in before)
            h, saved = cell.run(of_cell, features(h) if after else x, before, False, ends)
            is_last = len(after) == len(self.cells) - 1
            h = h if is_last and self.readout.is_linear else saved.h
            last = saved.last
            after.append(last if isinstance(last, tuple) else (last,))
        return h, after

    @np.errstate(under="ignore")
    def backward(
        self, params: Mapping[str, Array], saved: ModelSaved, dlogits: ArrayLike
    ) -> Params:
        """Back-propagate through the readout and through time, from the last cell to the first.

        Parameters
        ----------
        params, saved
            The params given to :meth:`forward` and what it returned.
        dlogits : array_like, the shape of logits
            Gradient of the loss with respect to the logits.

        Returns
        -------
        grads : dict of str to ndarray
            The keys and shapes of params.

        Raises
        ------
        ValueError, TypeError
            params, saved or dlogits of another model or shape, or dlogits complex.
        """
        params = arguments.check_params(params, self.layout)
        arguments.check_kind("saved", saved, ModelSaved, "the ModelSaved that forward returned")
        arguments.check_model_saved(self, saved)
        ends, kept = saved.cells[-1].ends, saved.kept[-1]
        shape = (len(saved.read), self.output_size, saved.read.shape[-1])
        dlogits = arguments.checked_array("dlogits", dlogits, shape, self.cells[-1].real_dtype)
        if saved.order is not None and ends is not None:
            dlogits = np.take(dlogits, saved.order, axis=-1)
            if self.pooling is None:
                dlogits = np.where(before_ends(len(dlogits), ends), dlogits, 0)
        z = saved.read if kept is None else saved.read * kept
        basis = saved.cells[-1].basis if kept is None and self.readout.is_linear else None
        grads, dz = self.readout.backward(params, z, dlogits, basis)
        dh: Any = dz
        if kept is not None or (self.pooling is not None and not self.readout.is_last_step(ends)):
            whole = dz.whole() if kept is None else dz.whole() * kept
            last = saved.cells[-1]
            h = last.states[0] if self.readout.is_linear else last.h
            dh = self.readout.pool_backward(whole, h, ends)
        dh = dh if basis is not None else saved.cells[-1].gradient(dh)
        for i, of_cell in reversed(list(enumerate(self.cell_params(params)))):
            grads_i, dx, _ = self.cells[i].run_backward(
                of_cell, saved.cells[i], dh, input_gradient=i > 0
            )
            grads |= {f"{self.prefixes[i]}.{name}": grad for name, grad in grads_i.items()}
            if dx is not None:
                kept = saved.kept[i - 1]
                dh = features_backward(dx, self.cells[i - 1].is_complex)
                dh = saved.cells[i - 1].gradient(dh if kept is None else dh * kept)
        return grads

    def penalty(self, params: Mapping[str, Array]) -> tuple[float, Params]:
        """Return the soft unitary penalty of the recurrent matrices and its gradient.

        Returns
        -------
        penalty : float
        grads : dict of str to ndarray
            {"cell.W.0": …}: only the recurrent matrices' parameters.
        """
        of_cells = self.cell_params(arguments.check_params(params, self.layout))
        parts = [cell.penalty(of_cell) for cell, of_cell in zip(self.cells, of_cells, strict=True)]
        return sum(value for value, _ in parts), self._with_prefixes([dW for _, dW in parts])

    def add_penalty(
        self, params: Mapping[str, Array], grads: Mapping[str, Array], strength: float
    ) -> tuple[float, Params]:
        """Return the penalty R and the gradient of a loss + strength R, for grads of the loss."""
        value, dpenalty = self.penalty(params)
        added = {name: grads[name] + strength * d for name, d in dpenalty.items()}
        return value, {**grads, **added}

    def defect(self, params: Mapping[str, Array]) -> float:
        """Return ‖W^H W - I‖₂, the largest of all recurrent matrices."""
        of_cells = self.cell_params(arguments.check_params(params, self.layout))
        return max(cell.defect(of_cell) for cell, of_cell in zip(self.cells, of_cells, strict=True))

    def draw_kept(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Draw what states are multiplied by: 0, or 1/(1 - dropout)."""
        dtype = self.cells[0].real_dtype
        kept = rng.random(shape, dtype=dtype) >= self.dropout
        return kept * dtype.type(1 / (1 - self.dropout))


@np.errstate(over="ignore")
def next_step(
    y: NDArray[np.floating], are_symbols: bool, temperature: float, rng: np.random.Generator
) -> NDArray[Any]:
    """Draw what follows outputs y (D, B): symbols (B,), or 0 and 1 (D, B)."""
    y = y.astype(np.float64)
    if not np.isfinite(y).all():
        raise ValueError("the outputs overflow: parameters are much too large")
    if are_symbols:
        # the largest of y plus noise of Gumbel's is distributed as the softmax of y
        noise = rng.gumbel(size=y.shape)
        return np.argmax((y - y.max(axis=0)) / temperature + noise if temperature else y, axis=0)
    return rng.random(y.shape) < logistic(y / temperature) if temperature else y > 0
