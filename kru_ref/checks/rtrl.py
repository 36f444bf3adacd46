"""Real-time recurrent learning: the same gradient as by back-propagation, forward in time.

Williams and Zipser (1989). Beside its state a network carries the *influence*, how the state
moves with each single parameter: J_t = ∂h_t/∂h_{t-1} J_{t-1} + ∂h_t/∂θ. The gradient of a step's
loss is then known at that step, and no step is ever gone back to. The price is an array as large
as state times parameters, and as many tangents a step as there are parameters: for small networks
and for checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import as_array, checked_array, checked_input, checked_size, states_of_cells
from ..arrays import Array
from ..cells import Params, check_params
from ..model import SequenceModel
from ..readout import features
from .forward_mode import time_step_jvp

# Of each cell, the parts of its state.
States = list[tuple[Array, ...]]


@dataclass(frozen=True)
class Direction:
    """One real number among the parameters: of which array, where, real or imaginary part."""

    name: str
    index: tuple[int, ...]
    unit: complex


class RealTimeLearning:
    """A network that knows at each time step how its logits move with each parameter.

    Parameters
    ----------
    model : SequenceModel
        Of any cells, over any matrices; its dropout stays out.
    params : mapping of str to ndarray
    B : int
        Sequences in a batch.
    h0 : optional
        As for :meth:`SequenceModel.forward`; it takes the place of the learned state.

    Raises
    ------
    ValueError, TypeError
        As :meth:`SequenceModel.forward`.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> model = kru.SequenceModel(kru.KRU(1, 4, dtype="complex128"), output_size=1)
    >>> learning = kru.RealTimeLearning(model, model.init(np.random.default_rng(0)), B=1)
    >>> logits = learning.step(np.ones((1, 1)))
    >>> grads = learning.gradient(2 * logits)  # of the loss logits²
    """

    def __init__(
        self, model: SequenceModel, params: Mapping[str, Array], B: int, h0: Any = None
    ) -> None:
        check_model(model)
        params = check_params(params, model.layout)
        self.model, self.params = model, dict(params)
        B = checked_size("B", B, most=2**31)
        self._given = states_of_cells(model, h0)
        self._state = self._initial(self.params, B)
        self.directions = [
            Direction(name, index, unit)
            for name, p in self.params.items()
            if not name.startswith("readout.")
            for index in np.ndindex(p.shape)
            for unit in ((1, 1j) if np.iscomplexobj(p) else (1,))
        ]
        self.influence = [
            self._initial(params_dot, B, moves=True) for params_dot in self._tangents()
        ]

    def step(self, x_t: ArrayLike) -> NDArray[np.floating]:
        """Read one time step of the input.

        Parameters
        ----------
        x_t : array_like, shape (D, B), or integers (B,)

        Returns
        -------
        logits : ndarray, shape (M, B)

        Raises
        ------
        ValueError, TypeError
            x_t of another shape or number of sequences, as for the first cell's ``forward``.
        """
        x = checked_input(self.model.cells[0], as_array("x_t", x_t)[None])[0]
        if x.shape[-1] != self._read.shape[-1]:
            raise ValueError(f"x_t must hold {self._read.shape[-1]} sequences, got {x.shape[-1]}")
        state = self._state
        for k, params_dot in enumerate(self._tangents()):
            state, self.influence[k] = self._advanced(x, params_dot, self.influence[k])
        self._state = state
        return self.params["readout.V"] @ self._read + self.params["readout.c"][:, None]

    def gradient(self, dlogits: ArrayLike) -> Params:
        """Return the gradient of a loss of the last step's logits.

        Parameters
        ----------
        dlogits : array_like, shape (M, B)
            Gradient of the loss with respect to what :meth:`step` returned.

        Returns
        -------
        grads : dict of str to ndarray
            The keys and shapes of params. The sum over steps is the gradient of the sum.

        Raises
        ------
        ValueError, TypeError
            dlogits of another shape, or complex.
        """
        c = self.params["readout.c"]
        dlogits = checked_array("dlogits", dlogits, (len(c), self._read.shape[-1]), c.dtype)
        grads = {name: np.zeros_like(p) for name, p in self.params.items()}
        grads["readout.V"] = dlogits @ self._read.T
        grads["readout.c"] = dlogits.sum(axis=1)
        dread = self.params["readout.V"].T @ dlogits
        for d, moved in zip(self.directions, self.influence, strict=True):
            grads[d.name][d.index] += d.unit * np.sum(dread * features(moved[-1][0]))
        return grads

    @property
    def _read(self) -> Array:
        return features(self._state[-1][0])

    def _tangents(self) -> Iterator[Params]:
        """Yield, for each direction, parameters that move by 1 along it."""
        zeros = {name: np.zeros_like(p) for name, p in self.params.items()}
        for d in self.directions:
            zeros[d.name][d.index] = d.unit
            yield zeros
            zeros[d.name][d.index] = 0

    def _initial(self, params: Mapping[str, Array], B: int, moves: bool = False) -> States:
        """Return each cell's state before the first step, or how it moves with the learned one."""
        given = self._given
        if moves:  # a state that was given does not
            given = tuple(None if h0 is None else np.multiply(h0, 0) for h0 in given)
        parts = zip(self.model.cells, self.model.cell_params(params), given, strict=True)
        return [cell.initial_states(of_cell, B, h0) for cell, of_cell, h0 in parts]

    def _advanced(self, x: Array, params_dot: Params, influence: States) -> tuple[States, States]:
        """Make one step of all cells and of one direction's influence."""
        x_dot, after, after_dot = None, [], []
        for cell, of_cell, of_cell_dot, state, state_dot in zip(
            self.model.cells,
            self.model.cell_params(self.params),
            self.model.cell_params(params_dot),
            self._state,
            influence,
            strict=True,
        ):
            state, state_dot = time_step_jvp(
                cell, (of_cell, of_cell_dot), x, x_dot, (state, state_dot)
            )
            x, x_dot = features(state[0]), features(state_dot[0])
            after.append(state)
            after_dot.append(state_dot)
        return after, after_dot


def check_model(model: SequenceModel) -> None:
    """Raise unless it is a model that reads out single steps."""
    if not isinstance(model, SequenceModel):
        raise TypeError(f"model must be a SequenceModel, got {model!r}")
    if model.readout.has_mean:
        raise ValueError(f"model must read out single steps, got pooling {model.pooling!r}")


def rtrl(
    model: SequenceModel, params: Mapping[str, Array], x: ArrayLike, dlogits: ArrayLike
) -> Params:
    """Return the gradient that ``model.backward`` returns, by real-time recurrent learning.

    Parameters
    ----------
    model, params, x
        As for ``model.forward``.
    dlogits : array_like, the shape of logits
        Gradient of the loss with respect to the logits.

    Returns
    -------
    grads : dict of str to ndarray
        The keys and shapes of params.

    Raises
    ------
    ValueError, TypeError
        As ``model.forward``; dlogits of another shape.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> rng = np.random.default_rng(0)
    >>> model = kru.SequenceModel(kru.KRU(2, 6, dtype="complex128"), output_size=3)
    >>> params, x = model.init(rng), rng.standard_normal((7, 2, 4))
    >>> logits, saved = model.forward(params, x)
    >>> back = model.backward(params, saved, np.ones_like(logits))
    >>> forth = kru.rtrl(model, params, x, np.ones_like(logits))
    >>> all(np.allclose(back[name], forth[name]) for name in params)
    True
    """
    check_model(model)
    x, dlogits = checked_input(model.cells[0], x), as_array("dlogits", dlogits)
    shape = (1 if model.last_only else len(x), model.output_size, x.shape[-1])
    if dlogits.shape != shape:
        raise ValueError(f"dlogits must have the shape of logits, {shape}, got {dlogits.shape}")
    learning = RealTimeLearning(model, params, x.shape[-1])
    grads = {name: np.zeros(p.shape, np.result_type(p, float)) for name, p in params.items()}
    first = len(x) - len(dlogits)
    for t in range(len(x)):
        learning.step(x[t])
        if t >= first:
            for name, g in learning.gradient(dlogits[t - first]).items():
                grads[name] += g
    return {name: g.astype(params[name].dtype) for name, g in grads.items()}
