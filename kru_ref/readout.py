"""What a model reads of its last cell's states, and the readout: forward, and backward beneath.

======  ===============  =======================================================================
symbol  code             shape
======  ===============  =======================================================================
z       ``read``         (T, N, B): h_t of every step; pooled (1, N, B), (1, 2N, B) or (1, 3N, B)
V       "readout.V"      (M, n): a column for each real number in z_t; real
c       "readout.c"      (M,), real
y       ``logits``       (T, M, B) or (1, M, B), real: y = V z + c, or V [Re z; Im z] + c
======  ===============  =======================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Layout, Params, ReadoutGradient, glorot_uniform, over_time, time_pieces
from .cells import Cell
from .cells.cell import input_gradients
from .cells.eigenbasis import Eigenbasis

# What may be left of all steps: h after each sequence's last, the mean over its steps, or both; or
# these and the mean square of each number in h, which a wave has whenever it begins.
POOLINGS = {
    "last": ("last",),
    "mean": ("mean",),
    "last-and-mean": ("last", "mean"),
    "moments": ("last", "mean", "square"),
}


@dataclass(frozen=True)
class Readout:
    """The linear map behind a cell, of every step or of what pooling leaves of them all.

    Parameters
    ----------
    cell : Cell
    output_size : int
        M.
    pooling : {"last", "mean", "last-and-mean", "moments"}, optional
    """

    cell: Cell
    output_size: int
    pooling: str | None

    @cached_property
    def layout(self) -> Layout:
        """Shape and dtype of V and c."""
        n = self.cell.n_features * len(self.parts)
        shapes = {"readout.V": (self.output_size, n), "readout.c": (self.output_size,)}
        return {name: (shape, self.cell.real_dtype) for name, shape in shapes.items()}

    def init(self, rng: np.random.Generator) -> Params:
        """Draw V Glorot-uniform; c is 0."""
        dtype = self.cell.real_dtype
        V = glorot_uniform(self.layout["readout.V"][0], rng, dtype)
        return {"readout.V": V, "readout.c": np.zeros(self.output_size, dtype)}

    @property
    def parts(self) -> tuple[str, ...]:
        """What z is put together of."""
        return ("last",) if self.pooling is None else POOLINGS[self.pooling]

    @property
    def has_mean(self) -> bool:
        """Whether z holds a mean over time."""
        return "mean" in self.parts

    @property
    def is_linear(self) -> bool:
        """Whether z is linear in the states: it can then be read in any basis."""
        return "square" not in self.parts

    def is_last_step(self, ends: NDArray[np.intp] | None) -> bool:
        """Whether z is h of the last step, the same one for all sequences."""
        return self.pooling == "last" and ends is None

    def pool(self, h: Array, ends: NDArray[np.intp] | None) -> Array:
        """Return z for states h (T, N, B), 0 behind their sequences' ends."""
        if self.pooling is None:
            return h
        if self.is_last_step(ends):
            return h[-1:]
        ends = np.full(h.shape[-1], len(h)) if ends is None else ends
        pooled = Pooled(self, h.shape[-1])
        pooled.add(h, ends)
        return pooled.z(ends)

    def pool_backward(self, dz: Array, h: Array, ends: NDArray[np.intp] | None) -> Array:
        """Return dh for the gradient of z, (T, N, B), or (1, N, B) of the last step alone.

        A mean hands dz/T_b to each of a sequence's T_b steps, a mean square 2 h_t dz/T_b, where
        real and imaginary parts are numbers of their own.
        """
        if self.pooling is None or self.is_last_step(ends):
            return dz
        (T, N, B), real = h.shape, self.cell.real_dtype
        of = dict(zip(self.parts, np.split(dz, len(self.parts), axis=1), strict=True))
        steps = np.full(B, T) if ends is None else ends
        share = {part: d / steps.astype(real) for part, d in of.items() if part != "last"}
        dh = np.zeros((T, N, B), dz.dtype)
        for during, width in times_between(steps):
            here = dh[during, :, :width]
            if "square" in share:
                scale, states = 2 * share["square"][..., :width], h[during, :, :width]
                np.multiply(real_numbers(states), real_numbers(scale), out=real_numbers(here))
            if "mean" in share:
                here += share["mean"][..., :width]
        if "last" in of:
            dh[steps - 1, :, np.arange(B)] += of["last"][0].T
        return dh

    def forward(
        self, params: Mapping[str, Array], z: Array, basis: Eigenbasis | None = None
    ) -> NDArray[np.floating]:
        """Return logits y = Re(conj(C) z) + c; z may be given in another basis than h's own."""
        C, engine = self.as_matrix(params, basis), self.engine
        if engine is not None:
            return engine.readout(C, params["readout.c"], z)
        return (C.conj() @ z).real + params["readout.c"][:, None]

    def backward(
        self,
        params: Mapping[str, Array],
        z: Array,
        dlogits: NDArray[np.floating],
        basis: Eigenbasis | None = None,
    ) -> tuple[Params, ReadoutGradient]:
        """Return the gradients of V and c, and of z in the basis that it is given in.

        With the rows of a complex readout written as C = V_Re + i V_Im, where
        V = [V_Re, V_Im], the readout is y = V_Re Re z + V_Im Im z + c = Re(conj(C) z) + c.
        For a real dy, δL = Σ dy Re(conj(C) δz) = Re⟨C^T dy, δz⟩, and likewise for C, so

            dz = C^T dy,   dV_Re = Σ dy Re(z)^T and dV_Im = Σ dy Im(z)^T,   dc = Σ dy.

        Of z = Q g, given as g, the readout's matrix is C conj(Q), and dC = (Σ dy g^T) Q^T.
        """
        if self.engine is not None:
            dV = self.engine.readout_backward(z, dlogits)
        else:
            states = features(z)
            dV, _ = input_gradients(params["readout.V"], states, dlogits, input_gradient=False)
        if basis is not None:
            dC = by_part(basis.out, self.as_complex(dV), len(self.parts))
            dV = np.concatenate([dC.real, dC.imag], axis=1)
        grads = {"readout.V": dV, "readout.c": over_time(dlogits)}
        return grads, ReadoutGradient(self.as_matrix(params, basis), dlogits)

    @property
    def engine(self) -> ModuleType | None:
        """What reads out few outputs in compiled code; of many BLAS is the faster."""
        return self.cell.matrix.engine(self.cell.hidden_size) if self.output_size <= 64 else None

    def as_matrix(self, params: Mapping[str, Array], basis: Eigenbasis | None = None) -> Array:
        """Return C, (M, N) or (M, 2N), of y = Re(conj(C) z) + c."""
        V = params["readout.V"]
        if not self.cell.is_complex:
            return V
        C = self.as_complex(V)
        return C if basis is None else by_part(basis.out_backward, C, len(self.parts))

    def as_complex(self, V: Array) -> Array:
        """Return V_Re + i V_Im."""
        n = V.shape[1] // 2
        return (V[:, :n] + 1j * V[:, n:]).astype(self.cell.dtype, copy=False)

    def in_own_basis(self, z: Array, basis: Eigenbasis | None) -> Array:
        """Return z as it is of h itself."""
        if basis is None:
            return z
        return np.concatenate([basis.out(g) for g in np.split(z, len(self.parts), axis=1)], axis=1)


def by_part(change: Callable[[Array], Array], C: Array, n_parts: int) -> Array:
    """Return (M, n) with the rows of each part, (M, N), changed as columns would be."""
    return np.concatenate([change(part.T).T for part in np.split(C, n_parts, axis=1)], axis=1)


class Pooled:
    """The last state and the sum of all of B sequences, over one piece of time after the other."""

    def __init__(self, readout: Readout, B: int) -> None:
        cell = readout.cell
        self.readout, self.last = readout, np.zeros((cell.hidden_size, B), cell.dtype)
        self.total = np.zeros(self.last.shape, np.result_type(self.last, np.float64))
        self.squares = np.zeros_like(self.total)

    def add(self, h: Array, ends: NDArray[np.intp]) -> None:
        """Take the states of a piece, in which the first sequences go on until these ends."""
        width = h.shape[-1]
        self.last[:, :width] = h[ends - 1, :, np.arange(width)].T
        for steps in time_pieces(len(h) if self.readout.has_mean else 0, width):
            self.total[:, :width] += h[steps].sum(axis=0)
            if "square" in self.readout.parts:
                numbers = real_numbers(h[steps])
                squares = np.einsum("tnb,tnb->nb", numbers, numbers)
                self.squares[:, :width] += squares.view(h.dtype)

    def z(self, ends: NDArray[np.intp]) -> Array:
        """Return what is read of sequences of so many steps, (1, N, B) for each part."""
        of = {"last": self.last, "mean": self.total / ends, "square": self.squares / ends}
        z = np.concatenate([of[part] for part in self.readout.parts])
        return z.astype(self.last.dtype)[None]


def real_numbers(h: Array) -> Array:
    """Return complex states (…, B) as a view of their real and imaginary parts (…, 2B)."""
    return h.view(h.real.dtype)


def times_between(ends: NDArray[np.intp]) -> Iterator[tuple[slice, int]]:
    """Cut time wherever sequences end, the longest given first; yield how many go on, too."""
    first = 0
    for end in np.unique(ends):
        yield slice(first, end), int(np.count_nonzero(ends > first))
        first = end


def before_ends(T: int, ends: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which of T steps a sequence has, (T, 1, B)."""
    return np.arange(T)[:, None, None] < ends


def features(h: Array) -> Array:
    """Return what the cell above reads of states (…, N, B): h, or [Re h; Im h] (…, 2N, B)."""
    return np.concatenate([h.real, h.imag], axis=-2) if np.iscomplexobj(h) else h


def features_backward(dx: Array, is_complex: bool) -> Array:
    """Return dh for the gradient of what :func:`features` returned."""
    if not is_complex:
        return dx
    N = dx.shape[1] // 2
    return dx[:, :N] + 1j * dx[:, N:]
