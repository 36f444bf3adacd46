"""How close factors are to unitary, the penalty that keeps them there, and where they start."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import arguments
from .arrays import Array
from .kronecker import factor_singular_values


@np.errstate(under="ignore")
def soft_unitary(factors: Sequence[ArrayLike]) -> tuple[float, list[Array]]:
    """Measure how far the factors are from unitary, R = Σ_f ‖W_f^H W_f - I‖²_F, and its gradient.

    Parameters
    ----------
    factors : sequence of array_like, shapes (P_f, Q_f)

    Returns
    -------
    penalty : float
        R, to be added to a loss with a strength λ (equation 7 of Jose, Cissé and Fleuret).
    dfactors : list of ndarray, shapes (P_f, Q_f)
        dR/dW_f = 4 W_f (W_f^H W_f - I).

    Raises
    ------
    ValueError, TypeError
        As :func:`kru_ref.kron_matvec`, for the factors.

    Notes
    -----
    With E = W^H W - I, which is Hermitian, δR = 2 Re tr(E δE) and
    δE = δW^H W + W^H δW, so δR = 4 Re tr(E W^H δW) = Re⟨4 W E, δW⟩.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> penalty, gradients = kru.soft_unitary([2 * np.eye(2), np.eye(3)])
    >>> penalty  # ‖4 I - I‖²; the second factor costs nothing
    18.0
    >>> gradients[0]
    array([[24.,  0.],
           [ 0., 24.]])
    """
    arrays, penalty = arguments.as_factors(factors), 0.0
    gradients: dict[int, Array] = {}
    for alike in dict.fromkeys((W.shape, W.dtype) for W in arrays):  # those of one shape at once
        which = [f for f, single in enumerate(arrays) if (single.shape, single.dtype) == alike]
        W = np.stack([arrays[f] for f in which])
        W = W.astype(np.result_type(W, np.float64))  # squares of large entries overflow
        E = W.conj().mT @ W - np.eye(W.shape[-1])
        penalty += float(np.sum(np.abs(E) ** 2))
        gradients.update(zip(which, 4 * W @ E, strict=True))
    return penalty, [gradients[f].astype(single.dtype) for f, single in enumerate(arrays)]


def unitarity_defect(factors: Sequence[ArrayLike]) -> float:
    """Return ‖W^H W - I‖₂ of W = W_0 ⊗ … ⊗ W_{F-1}, from the factors alone.

    Parameters
    ----------
    factors : sequence of array_like, shapes (P_f, Q_f)

    Returns
    -------
    defect : float
        0 for a unitary matrix; 1 at least where W has fewer rows than columns.

    Raises
    ------
    ValueError, TypeError
        As :func:`kru_ref.kron_matvec`, for the factors.

    Notes
    -----
    The eigenvalues of W^H W are all products of those of W_f^H W_f, which are the squared
    singular values of W_f and a zero for each column beyond its rows. None is negative,
    so the extreme products are the products of the extremes.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> kru.unitarity_defect([np.diag([1.0, 2.0]), np.eye(3)])
    3.0
    """
    arrays = arguments.as_factors(factors)
    values = factor_singular_values(arrays)
    largest = math.prod(float(s[0]) for s in values)
    smallest = math.prod(
        float(s[-1]) if W.shape[0] >= W.shape[1] else 0.0
        for W, s in zip(arrays, values, strict=True)
    )
    return max(abs(largest * largest - 1), abs(smallest * smallest - 1))


def random_unitary(
    shape: int | tuple[int, int], rng: np.random.Generator, dtype: DTypeLike = "complex128"
) -> Array:
    """Draw a unitary matrix (orthogonal for a real dtype) from the Haar distribution.

    Parameters
    ----------
    shape : int or (P, Q)
        A rectangular one gets orthonormal columns, or orthonormal rows when P < Q.
    rng : numpy.random.Generator
    dtype : float32, float64, complex64 or complex128

    Returns
    -------
    W : ndarray, shape (P, Q)

    Raises
    ------
    ValueError, TypeError
        A size below 1 or no integer, another dtype, no generator.

    Notes
    -----
    Q of a Gaussian matrix's QR decomposition, its columns turned so that R has a positive
    diagonal: without that step the distribution is not uniform (Mezzadri 2007).

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> W = kru.random_unitary((3, 3), np.random.default_rng(0), dtype="complex128")
    >>> bool(np.allclose(W.conj().T @ W, np.eye(3)))
    True
    """
    dtype = arguments.checked_dtype(dtype)
    arguments.check_rng(rng)
    P, Q = arguments.checked_pair_of_sizes(shape)
    A = rng.standard_normal((max(P, Q), min(P, Q)))
    if dtype.kind == "c":
        A = A + 1j * rng.standard_normal(A.shape)
    unitary, R = np.linalg.qr(A)
    diagonal = np.diagonal(R)
    unitary = unitary * (diagonal / np.abs(diagonal))
    return np.ascontiguousarray(unitary if P >= Q else unitary.T, dtype=dtype)


def spread_unitary(
    sizes: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = "complex128"
) -> list[Array]:
    """Draw unitary factors whose Kronecker product has equally spaced eigenvalues.

    Those of Haar-random factors fall where they may: sums of a few phases, often close
    together, and what differs only by a power of W is then hard to tell apart.

    Parameters
    ----------
    sizes : sequence of int
        P_f of each factor (P_f, P_f).
    rng : numpy.random.Generator
    dtype : complex64 or complex128

    Returns
    -------
    factors : list of ndarray
        Their eigenvectors are Haar-random.

    Raises
    ------
    ValueError, TypeError
        A size below 1, no factor, or a real dtype: eigenvalues of real matrices come in pairs.

    Notes
    -----
    Factor f has the eigenvalues exp(2πi (j/S_f + α_f)), j = 0 … P_f-1, with α_f random and S_f the
    product of the sizes up to its own in a random order. With N = ∏P_f the sums Σ_f j_f/S_f are all
    multiples of 1/N: their digits in mixed radix.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> factors = kru.spread_unitary([2, 2, 2], np.random.default_rng(0), dtype="complex128")
    >>> W = kru.KroneckerProduct(factors).to_dense()
    >>> phases = np.sort(np.angle(np.linalg.eigvals(W)))
    >>> np.diff(phases).round(4)  # 2π/8, every time
    array([0.7854, 0.7854, 0.7854, 0.7854, 0.7854, 0.7854, 0.7854])
    """
    dtype, sizes = arguments.checked_spread(dtype, sizes)
    arguments.check_rng(rng)
    strides, stride = {}, 1
    for f in rng.permutation(len(sizes)):
        stride *= sizes[f]
        strides[f] = stride
    factors = []
    for f, P in enumerate(sizes):
        V = random_unitary(P, rng)
        eigenvalues = np.exp(2j * np.pi * (np.arange(P) / strides[f] + rng.uniform()))
        factors.append(((V * eigenvalues) @ V.conj().T).astype(dtype))
    return factors
