"""A recurrent cell with a linear readout.

======  ===============  =======================================================
symbol  code             shape
======  ===============  =======================================================
M       output_size      size of an output y_t
V       "readout.V"      (M, N) for a real cell, (M, 2N) for a complex one; real
c       "readout.c"      (M,), real
y       ``logits``       (T, M, B), real: y_t = V h_t + c, or V [Re h_t; Im h_t] + c
======  ===============  =======================================================
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import compiled
from .cells import RNN, Params, RNNSaved, check_params, checked_array
from .compiled import ReadoutGradient
from .matrices import glorot_uniform
from .sweeps import Array


class ModelSaved(NamedTuple):
    """What the backward pass needs; ``cell.h[-1]`` is the state to carry to the next chunk."""

    cell: RNNSaved


@dataclass(frozen=True)
class SequenceModel:
    """A cell and its readout.

    Parameters
    ----------
    cell : RNN
    output_size : int
        M.
    last_only : bool
        Read out the last step only: logits are then (1, M, B), and neither they nor their
        gradients are computed for the steps before.

    Raises
    ------
    ValueError
        output_size below 1.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> model = kru.SequenceModel(kru.KRU(input_size=10, hidden_size=128), output_size=9)
    >>> params = model.init(np.random.default_rng(0))
    >>> logits, saved = model.forward(params, np.zeros((5, 2), dtype=int))
    >>> logits.shape
    (5, 9, 2)
    """

    cell: RNN
    output_size: int
    last_only: bool = False

    def __post_init__(self) -> None:
        if self.output_size < 1:
            raise ValueError(f"output_size must be at least 1, got {self.output_size}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter: "cell.…", "readout.V", "readout.c"."""
        features = self.cell.hidden_size * (1 + self.cell.is_complex)
        shapes = {f"cell.{name}": shape for name, shape in self.cell.shapes().items()}
        return shapes | {
            "readout.V": (self.output_size, features),
            "readout.c": (self.output_size,),
        }

    def dtypes(self) -> dict[str, np.dtype]:
        """Return the dtype of each parameter; the readout is real."""
        dtypes = {f"cell.{name}": dtype for name, dtype in self.cell.dtypes().items()}
        return dtypes | dict.fromkeys(("readout.V", "readout.c"), self.cell.real_dtype)

    @property
    def n_parameters(self) -> int:
        """Real numbers in all parameters; a complex one counts as two."""
        dtypes = self.dtypes()
        return sum(
            math.prod(shape) * (2 if dtypes[name].kind == "c" else 1)
            for name, shape in self.shapes().items()
        )

    def init(self, rng: np.random.Generator) -> Params:
        """Draw parameters: the cell's, V Glorot-uniform, c = 0."""
        params = {f"cell.{name}": value for name, value in self.cell.init(rng).items()}
        params["readout.V"] = glorot_uniform(self.shapes()["readout.V"], rng, self.cell.real_dtype)
        params["readout.c"] = np.zeros(self.output_size, self.cell.real_dtype)
        return params

    def forward(
        self,
        params: Mapping[str, Array],
        x: ArrayLike,
        h0: ArrayLike | None = None,
        *,
        reuse: ModelSaved | None = None,
    ) -> tuple[NDArray[np.floating], ModelSaved]:
        """Run the model over a batch of sequences.

        Parameters
        ----------
        params, x, h0
            As for the cell's ``forward``, params with the model's names.
        reuse : ModelSaved, optional
            What an earlier call returned and nobody needs any longer: its memory is used again.

        Returns
        -------
        logits : ndarray, shape (T, M, B), or (1, M, B) with ``last_only``
        saved : ModelSaved
            For :meth:`backward`.

        Raises
        ------
        ValueError, TypeError
            As the cell's ``forward``.
        """
        check_params(params, self.shapes(), self.dtypes())
        h, saved = self.cell.forward(
            self._cell_params(params), x, h0, reuse=None if reuse is None else reuse.cell
        )
        if self.last_only:
            h = h[-1:]
        if self._readout_is_compiled:
            logits = compiled.readout(params["readout.V"], params["readout.c"], h)
        else:
            C = self._readout(params)
            logits = (C.conj() @ h).real + params["readout.c"][:, None]
        return logits, ModelSaved(saved)

    def backward(
        self, params: Mapping[str, Array], saved: ModelSaved, dlogits: ArrayLike
    ) -> Params:
        """Back-propagate through the readout and through time.

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
            dlogits of another shape, or complex.

        Notes
        -----
        With the rows of a complex readout written as C = V_Re + i V_Im, where
        V = [V_Re, V_Im], the readout is y = V_Re Re h + V_Im Im h + c = Re(conj(C) h) + c.
        For a real dy, δL = Σ dy Re(conj(C) δh) = Re⟨C^T dy, δh⟩, and likewise for C, so

            dh = C^T dy,   dV_Re = Σ dy Re(h)^T and dV_Im = Σ dy Im(h)^T,   dc = Σ dy.
        """
        h = saved.cell.h[-1:] if self.last_only else saved.cell.h
        shape = (len(h), self.output_size, h.shape[-1])
        dlogits = checked_array("dlogits", dlogits, shape, self.cell.real_dtype)

        if self._readout_is_compiled:
            dV = compiled.readout_backward(h, dlogits)
        else:
            dC = np.tensordot(dlogits, h, axes=((0, 2), (0, 2)))  # (M, N)
            dV = np.concatenate([dC.real, dC.imag], axis=1) if self.cell.is_complex else dC
        dh = ReadoutGradient(self._readout(params), dlogits)
        grads, _, _ = self.cell.backward(
            self._cell_params(params), saved.cell, dh, input_gradient=False
        )
        return {f"cell.{name}": grad for name, grad in grads.items()} | {
            "readout.V": dV,
            "readout.c": dlogits.sum(axis=(0, 2)),
        }

    def penalty(self, params: Mapping[str, Array]) -> tuple[float, Params]:
        """Return the soft unitary penalty of the recurrent matrix and its gradient.

        Returns
        -------
        penalty : float
        grads : dict of str to ndarray
            {"cell.W.0": …}: only the recurrent matrix's parameters.
        """
        value, grads = self.cell.penalty(self._cell_params(params))
        return value, {f"cell.{name}": grad for name, grad in grads.items()}

    def defect(self, params: Mapping[str, Array]) -> float:
        """Return ‖W^H W - I‖₂ of the recurrent matrix."""
        return self.cell.defect(self._cell_params(params))

    @property
    def _readout_is_compiled(self) -> bool:
        """For few outputs; BLAS is the faster for many."""
        return self.cell.matrix.is_compiled(self.cell.hidden_size) and self.output_size <= 64

    def _cell_params(self, params: Mapping[str, Array]) -> dict[str, Any]:
        return {name: params[f"cell.{name}"] for name in self.cell.shapes()}

    def _readout(self, params: Mapping[str, Array]) -> Array:
        """Return C (M, N) of y = Re(conj(C) h) + c."""
        V = params["readout.V"]
        if not self.cell.is_complex:
            return V
        N = self.cell.hidden_size
        return (V[:, :N] + 1j * V[:, N:]).astype(self.cell.dtype, copy=False)
