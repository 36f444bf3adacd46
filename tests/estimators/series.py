"""Small sets of sequences to classify, in each form that X may have."""

import numpy as np


def waves(rng, n=24, T=20, D=2):
    """Return sequences (n, D, T) of noise and, in the second class, a wave; and labels."""
    X, y = 0.5 * rng.standard_normal((n, D, T)), np.array(["noise", "wave"] * (n // 2))
    X[1::2] += np.sin(np.arange(T))
    return X, y


def of_different_lengths(X, rng):
    """Cut each sequence at an end of its own."""
    return [x[:, : rng.integers(6, X.shape[2] + 1)] for x in X]


def symbols(rng, n=24):
    """Return sequences of symbols: in the second class one follows on another more often."""
    X, y = [], np.array([0, 1] * (n // 2))
    for label in y:
        x = rng.choice([3, 7, 20], size=rng.integers(8, 20))
        if label:
            x[1::2] = 7
        X.append(x)
    return X, y


def forms(rng):
    """Return X and y in each form."""
    X, y = waves(rng)
    return {
        "3-D": (X, y),
        "2-D": (X[:, 0], y),
        "lists": (X[:, 0].tolist(), y),
        "lengths": (of_different_lengths(X, rng), y),
        "one channel each": ([x[0] for x in of_different_lengths(X, rng)], y),
        "symbols": symbols(rng),
    }
