"""The basis in which a linear recurrence is diagonal, for factors that can be diagonalised.

With W_f = Q_f diag(λ_f) Q_f⁻¹ of each factor, W = Q diag(λ) Q⁻¹ for the Kronecker products Q = ⊗Q_f
and λ = ⊗λ_f. A recurrence without nonlinearity is then, of g = Q⁻¹ h,

    g_t = λ g_{t-1} + Q⁻¹ (U x_t + b),   y_t = Re(conj(C) Q g_t) + c,

N multiply-adds a step beside the input's and the readout's, which take Q⁻¹ and Q into themselves.
Nothing is differentiated that Q is made of: in this basis the gradient of factor f, were it any
matrix, is E_f at diag(λ_f), and a step δW_f is there Q_f⁻¹ δW_f Q_f, so that dW_f = Q_f⁻ᴴ E_f Q_fᴴ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..arrays import Array, Params
from ..kronecker import adjoints, kron_matvec

# What a change of basis may multiply errors of rounding by, and the least |λ|, that the gradients
# of the factors are divided by.
LARGEST_CONDITION, LEAST_EIGENVALUE = 100.0, 1e-6


class Eigenbasis(NamedTuple):
    """Eigenvectors and eigenvalues of the factors of W; arrays (…, N, B) are changed along N.

    Attributes
    ----------
    names : tuple of str
        Of the factors among the parameters.
    Q, inverse : list of ndarray, shapes (P_f, P_f)
    eigenvalues : list of ndarray, shapes (P_f,)
    """

    names: tuple[str, ...]
    Q: list[Array]
    inverse: list[Array]
    eigenvalues: list[Array]

    def into(self, h: Array) -> Array:
        """Return g = Q⁻¹ h."""
        return product(self.inverse, h)

    def into_backward(self, dg: Array) -> Array:
        """Return dh = Q⁻ᴴ dg."""
        return product(adjoints(self.inverse), dg)

    def out(self, g: Array) -> Array:
        """Return h = Q g."""
        return product(self.Q, g)

    def out_backward(self, dh: Array) -> Array:
        """Return dg = Qᴴ dh."""
        return product(adjoints(self.Q), dh)

    def params(self, params: Mapping[str, Array], labels: bool) -> Params:
        """Return diag(λ_f) for each factor, and Q⁻¹ U with Q⁻¹ b as one more column.

        With labels, each of which chooses a column, b is part of all of them.
        """
        own = {name: np.diag(lam) for name, lam in zip(self.names, self.eigenvalues, strict=True)}
        U, b = params["U"], params["b"][:, None]
        columns = U + b if labels else np.concatenate([U, b], axis=1)
        own |= {"U": self.into(columns), "b": np.zeros_like(params["b"])}
        return own | ({"h0": self.into(params["h0"][:, None])[:, 0]} if "h0" in params else {})

    def params_backward(self, grads: Mapping[str, Array], labels: bool) -> Params:
        """Return the gradients of parameters for those of what :meth:`params` returned."""
        inverse, Q = adjoints(self.inverse), adjoints(self.Q)
        own = {
            name: inverse_f @ grads[name] @ Q_f
            for name, inverse_f, Q_f in zip(self.names, inverse, Q, strict=True)
        }
        columns = self.into_backward(grads["U"])
        dU, db = (columns, columns.sum(axis=1)) if labels else (columns[:, :-1], columns[:, -1])
        own |= {"U": np.ascontiguousarray(dU), "b": db.real.copy()}
        if "h0" in grads:
            own["h0"] = self.into_backward(grads["h0"][:, None])[:, 0]
        return own


@np.errstate(over="ignore", invalid="ignore")
def eigenbasis(names: Sequence[str], factors: Sequence[Array]) -> Eigenbasis | None:
    """Return the eigenbasis of W_0 ⊗ … ⊗ W_{F-1}, or None where to go there would cost accuracy.

    That is where Q is ill-conditioned (of unitary factors it is unitary), or an eigenvalue near 0.
    """
    shapes, dtype = list(dict.fromkeys(W.shape for W in factors)), factors[0].dtype
    found: dict[int, tuple[Array, Array, Array]] = {}
    for of_one_shape in ([f for f, W in enumerate(factors) if W.shape == s] for s in shapes):
        lam, Q = np.linalg.eig(np.stack([factors[f] for f in of_one_shape]).astype(np.complex128))
        found |= dict(zip(of_one_shape, zip(lam, Q, inverses(Q), strict=True), strict=True))
    eigenvalues, vectors, inverse = zip(*(found[f] for f in range(len(factors))), strict=True)
    conditions = [
        np.linalg.norm(Q_f) * np.linalg.norm(inverse_f) / len(Q_f)
        for Q_f, inverse_f in zip(vectors, inverse, strict=True)
    ]
    least = math.prod(np.min(np.abs(lam)) for lam in eigenvalues)
    if not (math.prod(conditions) <= LARGEST_CONDITION and least >= LEAST_EIGENVALUE):
        return None
    rounded = ([a.astype(dtype) for a in arrays] for arrays in (vectors, inverse, eigenvalues))
    return Eigenbasis(tuple(names), *rounded)


def inverses(Q: Array) -> Array:
    """Return the inverse of each matrix, infinite where there is none."""
    try:
        return np.linalg.inv(Q)
    except np.linalg.LinAlgError:
        return np.full_like(Q, np.inf)


def product(factors: Sequence[Array], h: Array) -> Array:
    """Return (W_0 ⊗ … ⊗ W_{F-1}) h for each (N, B) of h."""
    if h.ndim == 2:
        return kron_matvec(factors, np.ascontiguousarray(h))
    changed = np.empty_like(h)
    for of_step, before in zip(changed, h, strict=True):
        of_step[...] = product(factors, before)
    return changed
