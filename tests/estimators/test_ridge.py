"""The ridge from sums, against scikit-learn's on all features at once."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from kru_ref.estimators.ridge import fit_ridge

N_CASES, P = 90, 7


def batches_of(X, weights, size):
    counted = np.flatnonzero(weights)[::-1]
    return lambda: ((b, X[b]) for b in np.array_split(counted, -(-len(counted) // size)))


@pytest.mark.parametrize("size", [1, 32, 1000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("noise", [1e-3, 1.0, 100.0])
def test_it_is_scikit_learn_s(rng, size, weighted, noise):
    """Of features far from 0, of different sizes, one a sum of others, one that never changes."""
    X = rng.standard_normal((N_CASES, P)) * np.logspace(-3, 3, P) + 1e4
    X[:, 4], X[:, 5] = X[:, 0] + X[:, 1], 0.1
    y = np.stack([X[:, 0] * 1e3 + noise * rng.standard_normal(N_CASES), X[:, 6]], axis=1)
    weights = rng.integers(0, 4, N_CASES).astype(float) if weighted else np.ones(N_CASES)
    alphas = np.logspace(-3, 5, 17)
    found = fit_ridge(batches_of(X, weights, size), y, weights, alphas)
    scaler = StandardScaler().fit(X, sample_weight=weights)
    ridge = RidgeCV(alphas, store_cv_results=True).fit(
        scaler.transform(X), y, sample_weight=weights
    )
    assert found.alpha == ridge.alpha_
    np.testing.assert_allclose(found.errors, ridge.cv_results_.sum(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(found.coef * scaler.scale_, ridge.coef_, rtol=1e-6, atol=1e-6)
    outputs = X @ found.coef.T + found.intercept
    np.testing.assert_allclose(outputs, ridge.predict(scaler.transform(X)), rtol=1e-7, atol=1e-5)


@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0, 100.0])
def test_it_chooses_what_leaving_one_out_finds(rng, noise):
    """Each case left out in turn, with the scaling of all."""
    X = StandardScaler().fit_transform(rng.standard_normal((30, 20)))
    y = X[:, :1] + noise * rng.standard_normal((30, 1))
    alphas = np.logspace(-2, 4, 13)
    found = fit_ridge(batches_of(X, np.ones(30), 8), y, np.ones(30), alphas)
    errors = []
    for alpha in alphas:
        left_out = 0.0
        for i in range(30):
            rest = np.delete(np.arange(30), i)
            mean_x, mean_y = X[rest].mean(axis=0), y[rest].mean(axis=0)
            Z = X[rest] - mean_x
            coef = np.linalg.solve(Z.T @ Z + alpha * np.eye(20), Z.T @ (y[rest] - mean_y))
            left_out += float((y[i] - mean_y - (X[i] - mean_x) @ coef)[0]) ** 2
        errors.append(left_out)
    np.testing.assert_allclose(found.errors, errors, rtol=1e-9)
    assert found.alpha == alphas[np.argmin(errors)]
