"""Butterflies: 2×2 factors whose diagonals are pulled out, in NumPy, as the kernels do it.

A factor costs four complex multiplications a pair of numbers, most of them by its scale and phase.
These can be done once for all factors. P exchanges the columns of W where that makes its diagonal
the larger, |w_00 w_11| ≥ |w_01 w_10|; from what is left the diagonals L and D are taken away,

    W = L R D P,   L = diag(l_0, l_1),   R = [[1, u], [v, 1]],   D = diag(1, r),
    q = w_01 / w_00,   u = |q|,   r = q / |q|,   l_0 = w_00,   l_1 = w_11 / r,   v = w_10 / l_1

(r = 1 and u = q of a real factor). Factors act on axes of their own, so the product of several is

    ⊗W_f = (⊗L_f) (⊗R_f) (⊗D_f) (⊗P_f):

two diagonals of N numbers for all, and for each factor a *butterfly*, of which u is real,

    y_0 = x_0 + u x_1,   y_1 = x_1 + v x_0:

6 real multiply-adds a pair of complex numbers where there were 16.

**Backward.** Let x be what a butterfly takes and dy the gradient of what it gives, the other
factors having been applied to x or, as adjoints, to dy. Then dR_01 = Σ dy_0 conj(x_1) and
dR_10 = Σ dy_1 conj(x_0) over all pairs, and off the diagonal of W, its columns exchanged,

    dw_01 = dR_01 / conj(l_0 r),   dw_10 = dR_10 / conj(l_1).

On it no sum of its own is needed. With dx = R^H dy, the sums E_q = Σ dx_q conj(x_q) are those of
conj(R_pq) dR_pq over p, and so of conj(w_pq) dw_pq; and they do not change when another factor is
applied to both. So N sums Σ_b dx_i conj(x_i) serve all factors:

    dw_00 = (E_0 - conj(w_10) dw_10) / conj(w_00),   dw_11 = (E_1 - conj(w_01) dw_01) / conj(w_11).

**When.** l_p R_pq r_q is w_pq but for two or three roundings, so the result is that of a matrix
whose entries are off by so many units in the last place, as the plain product's is. What can go
wrong is the range, and E_0, larger than conj(w_00) dw_00 by as much as |w_10| is than |w_00|. So
butterflies are used where |w_00 w_11| ≥ LEAST_PRODUCT max|w|², which bounds u, v and that ratio by
1 / LEAST_PRODUCT, and where ⊗L stays within the precision's range. A unitary factor has
|w_00 w_11| ≥ 1/2, whatever its phases. If one is nearer to singular, the plain product is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arrays import Array, kron_vector

# Of |w_00 w_11|, relative to the largest |w|².
LEAST_PRODUCT = 1 / 16


class Butterfly(NamedTuple):
    """W = L R D P of one factor."""

    w: tuple[complex, ...]  # w_00, w_01, w_10, w_11, the columns exchanged by P
    exchanged: bool
    l: tuple[complex, complex]  # noqa: E741 (L's entries)
    u: float
    v: complex
    r: tuple[complex, complex]  # 1 and r


def butterfly(W: Array) -> Butterfly | None:
    """Take a 2×2 factor apart; None if it is too near singular for that."""
    (w_00, w_01), (w_10, w_11) = W.tolist()  # in double precision, and fast
    try:
        exchanged = abs(w_01 * w_10) > abs(w_00 * w_11)
        if exchanged:
            w_00, w_01, w_10, w_11 = w_01, w_00, w_11, w_10
        product, largest = abs(w_00 * w_11), max(map(abs, (w_00, w_01, w_10, w_11))) ** 2
    except OverflowError:
        return None
    if not math.inf > product >= LEAST_PRODUCT * largest > 0:
        return None
    q = w_01 / w_00
    r = q / abs(q) if np.iscomplexobj(W) and q != 0 else 1
    u = abs(q) if np.iscomplexobj(W) else q
    l_1 = w_11 / r
    return Butterfly((w_00, w_01, w_10, w_11), exchanged, (w_00, l_1), u, w_10 / l_1, (1, r))


def matvec(factors: Sequence[Array], x: Array) -> Array:
    """Return (W_0 ⊗ … ⊗ W_{F-1}) x for x (2^F, B)."""
    forms = _forms(factors)
    x = _diagonal([form.r for form in forms]) * _exchanged(forms, x)
    for f, form in enumerate(forms):
        x = _mixed(form, f, x)
    return _diagonal([form.l for form in forms]) * x


def matvec_backward(factors: Sequence[Array], x: Array, dy: Array) -> tuple[list[Array], Array]:
    """Return dfactors and dx."""
    forms = _forms(factors)
    L, D = _diagonal([form.l for form in forms]), _diagonal([form.r for form in forms])
    x = D * _exchanged(forms, x)
    before = []
    for f, form in enumerate(forms):
        before.append(x)
        x = _mixed(form, f, x)
    dy = L.conj() * dy
    off_diagonal: list[complex] = []
    for f in reversed(range(len(forms))):
        (x_0, x_1), (dy_0, dy_1) = _halves(f, before[f]), _halves(f, dy)
        off_diagonal[:0] = [np.sum(dy_0 * x_1.conj()), np.sum(dy_1 * x_0.conj())]
        dy = _mixed_adjoint(forms[f], f, dy)
    each = np.sum(dy * before[0].conj(), axis=1)
    dx = _exchanged(forms, D.conj() * dy)
    return factor_gradients(factors, np.concatenate([off_diagonal, each])), dx


def factor_gradients(factors: Sequence[Array], sums: Array) -> list[Array]:
    """Return each factor's gradient from dR_01 and dR_10 of each, and 2^F sums dx_i conj(x_i)."""
    F = len(factors)
    off_diagonal, each = sums[: 2 * F].tolist(), sums[2 * F :]
    dfactors = []
    for f, ((w_00, w_01, w_10, w_11), exchanged, (l_0, l_1), _, _, (_, r)) in enumerate(
        _forms(factors)
    ):
        E_0, E_1 = each.reshape(2**f, 2, -1).sum(axis=(0, 2)).tolist()
        dw_01 = off_diagonal[2 * f] / (l_0 * r).conjugate()
        dw_10 = off_diagonal[2 * f + 1] / l_1.conjugate()
        dw_00 = (E_0 - w_10.conjugate() * dw_10) / w_00.conjugate()
        dw_11 = (E_1 - w_01.conjugate() * dw_01) / w_11.conjugate()
        dW = np.array([[dw_00, dw_01], [dw_10, dw_11]])
        dfactors.append(dW[:, ::-1] if exchanged else dW)
    return dfactors


def _forms(factors: Sequence[Array]) -> list[Butterfly]:
    forms = [form for W in factors if (form := butterfly(W)) is not None]
    if len(forms) < len(factors):
        raise ValueError("a factor is too near singular for butterflies: use kron_matvec")
    return forms


def _halves(f: int, x: Array) -> tuple[Array, Array]:
    """Return the numbers of x (2^F, B) whose index on axis f is 0, and those where it is 1."""
    pairs = x.reshape(2**f, 2, -1)
    return pairs[:, 0], pairs[:, 1]


def _mixed(form: Butterfly, f: int, x: Array) -> Array:
    """Return R x on axis f: y_0 = x_0 + u x_1, y_1 = x_1 + v x_0."""
    x_0, x_1 = _halves(f, x)
    return np.stack([x_0 + form.u * x_1, x_1 + form.v * x_0], axis=1).reshape(x.shape)


def _mixed_adjoint(form: Butterfly, f: int, dy: Array) -> Array:
    """Return R^H dy: dx_0 = dy_0 + conj(v) dy_1, dx_1 = dy_1 + u dy_0."""
    dy_0, dy_1 = _halves(f, dy)
    dx = np.stack([dy_0 + np.conj(form.v) * dy_1, dy_1 + form.u * dy_0], axis=1)
    return dx.reshape(dy.shape)


def _exchanged(forms: Sequence[Butterfly], x: Array) -> Array:
    """Return P x, or P^H x, which is the same."""
    for f, form in enumerate(forms):
        if form.exchanged:
            x = np.stack(_halves(f, x)[::-1], axis=1).reshape(x.shape)
    return x


def _diagonal(of_factors: Sequence[Sequence[complex]]) -> Array:
    """Return the Kronecker product of diagonals, as a column."""
    return kron_vector([np.array(of_factor) for of_factor in of_factors])[:, None]
