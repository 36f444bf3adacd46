"""A ridge whose strength is chosen by leaving one out, from features that come batch by batch.

scikit-learn's RidgeCV needs the features of all n cases at once. Where there are more cases than
features, P, the same follows from sums over cases, a P × P matrix among them, and one more look at
each case: memory does not grow with n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.preprocessing import StandardScaler

# Some cases' numbers, and their features.
Batch = tuple[NDArray[np.intp], NDArray[np.floating]]


class Ridge(NamedTuple):
    """A readout: targets are features @ coef.T + intercept."""

    coef: NDArray[np.float64]  # (n_outputs, P)
    intercept: NDArray[np.float64]  # (n_outputs,)
    alpha: float
    errors: NDArray[np.float64]  # with each of the alphas, Σ w (error at a case left out)²


class Sums(NamedTuple):
    """What a ridge needs to know of all cases, their features being scaled."""

    scaler: StandardScaler
    gram: NDArray[np.float64]  # Σ w z zᵀ, (P, P)
    products: NDArray[np.float64]  # Σ w z (y - ȳ)ᵀ, (P, n_outputs)


def fit_ridge(
    batches: Callable[[], Iterable[Batch]],
    y: NDArray[np.float64],
    weights: NDArray[np.float64],
    alphas: NDArray[np.float64],
) -> Ridge:
    """Fit a ridge to scaled features, as StandardScaler and RidgeCV(alphas) would.

    Parameters
    ----------
    batches : callable
        Gives the features of all cases whose weight is above 0, batch by batch; called twice.
    y : ndarray, shape (n, n_outputs)
    weights : ndarray, shape (n,)
    alphas : ndarray, shape (n_alphas,)
        Strengths to choose from, above 0.

    Notes
    -----
    With H = (G + αI)⁻¹ the error at a case that was left out is (y - ŷ) / (1 - w (zᵀHz + 1/Σw)),
    1/Σw being the intercept's part.
    """
    total, mean = weights.sum(), np.average(y, axis=0, weights=weights)
    scaler, gram, products = sums_over(batches(), y - mean, weights)
    eigenvalues, V = eigh(gram, overwrite_a=True)
    inverse = 1 / (np.maximum(eigenvalues, 0)[:, None] + alphas)  # (P, n_alphas)
    products = V.T @ products
    errors = np.zeros(len(alphas))
    for of_batch, x in batches():
        w, z = weights[of_batch, None], scaler.transform(x.astype(np.float64)) @ V
        left = 1 - w * (np.square(z) @ inverse + 1 / total)
        for k, shrunk in enumerate(inverse.T):
            error = y[of_batch] - mean - z @ (shrunk[:, None] * products)
            errors[k] += (w * np.square(error / left[:, k, None])).sum()
    best = int(errors.argmin())
    coef = (V @ (inverse[:, best, None] * products)).T / scaler.scale_
    return Ridge(coef, mean - coef @ scaler.mean_, float(alphas[best]), errors)


def sums_over(
    batches: Iterable[Batch], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> Sums:
    """Return the sums over all cases; y has mean 0."""
    scaler, about = StandardScaler(), None
    for of_batch, x in batches:
        x = x.astype(np.float64)
        w = weights[of_batch]
        scaler.partial_fit(x, sample_weight=w)
        # about a value near the mean, or the difference of two large sums would remain
        if about is None:
            about = x.mean(axis=0)
            gram, products = np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1], y.shape[1]))
            moved = np.zeros(x.shape[1])
        x -= about
        weighted = x.T * w
        gram += weighted @ x
        products += weighted @ y[of_batch]
        moved += weighted.sum(axis=1)
    gram -= np.outer(moved, moved / weights.sum())
    gram /= np.outer(scaler.scale_, scaler.scale_)
    return Sums(scaler, gram, products / scaler.scale_[:, None])
