"""The numbers behind docs/figures.md: computed with kru_ref, written as JavaScript.

A page that is opened from a disk may run a script beside it, but may not fetch a file. So
numbers.js sets a constant. conf.py calls :func:`write` at every build.
"""

import json
import math
from pathlib import Path

import numpy as np

import kru_ref as kru

F, N, T = 6, 64, 1000  # 2×2 factors, hidden size, time steps
EVERY = 20  # of so many steps one is recorded
EPSILONS = np.geomspace(1e-5, 1e-2, 31)


def eigenvalues(n_draws=12):
    """Return the phases of 2×2 unitary factors' eigenvalues, for 2 to F of them."""
    rng = np.random.default_rng(0)

    def phases(factors):
        return [np.angle(np.linalg.eigvals(W)).tolist() for W in factors]

    return {
        n: {
            "random": [
                phases([kru.random_unitary(2, rng) for _ in range(n)]) for _ in range(n_draws)
            ],
            "spread": phases(kru.spread_unitary([2] * n, rng)),
        }
        for n in range(2, F + 1)
    }


def log_norms(factors, g):
    """Return log10 of ‖(W^H)^k g‖ / ‖g‖ at every recorded k, for the Kronecker product of factors.

    The power of a Kronecker product is the product of the factors' powers.
    """
    adjoints = [np.linalg.matrix_power(W.conj().T, EVERY) for W in factors]
    norms = [np.linalg.norm(g)]
    for _ in range(T // EVERY):
        g = kru.kron_matvec(adjoints, g)
        norms.append(np.linalg.norm(g))
    return np.log10(np.array(norms) / norms[0])


def log_norms_of(cell, params, rng):
    """Return the same of a network with random input, by the library's own backward pass."""
    state, saved = None, []
    for x in np.split(rng.standard_normal((T, cell.input_size, 1)), T // EVERY):
        _, piece = cell.forward(params, x, state)
        saved.append(piece)
        state = piece.last
    dstate = rng.standard_normal((N, 1)).astype(cell.dtype)
    norms = [np.linalg.norm(dstate)]
    for piece in reversed(saved):
        dh = np.zeros_like(piece.h)
        dh[-1] = dstate
        _, _, dstate = cell.backward(params, piece, dh)
        norms.append(np.linalg.norm(dstate))
    return np.log10(np.array(norms) / norms[0])


def gradient_norms():
    """Return how gradients' norms change over T steps back, of linear recurrences and networks."""
    rng = np.random.default_rng(1)
    gaussian = rng.standard_normal((N, N)) / math.sqrt(N)
    radius = np.abs(np.linalg.eigvals(gaussian)).max()
    orthogonal = kru.random_unitary(N, rng, "float64")
    unitary = [kru.random_unitary(2, rng) for _ in range(F)]
    g = rng.standard_normal(N)
    tanh = kru.RNN(2, N, kru.Dense(), "tanh", "float64")  # starts as a random orthogonal matrix
    modrelu = kru.KRU(2, N, dtype="complex128")  # with unitary factors and b = 0
    params = tanh.init(rng)
    curves = {
        "Gaussian": log_norms([gaussian], g),
        "orthogonal": log_norms([orthogonal], g),
        "Kronecker, unitary": log_norms(unitary, g),
        "tanh, Gaussian": log_norms_of(tanh, params | {"W": gaussian}, rng),
        "tanh, orthogonal": log_norms_of(tanh, params, rng),
        "modReLU, Kronecker unitary": log_norms_of(modrelu, modrelu.init(rng), rng),
    }
    nearly = [nearly_unitary(rng) for _ in range(3)]
    return {
        "factors": F,
        "steps": T,
        "every": EVERY,
        "radius": radius,  # of the Gaussian matrix as it was drawn
        "curves": {name: curve.round(5).tolist() for name, curve in curves.items()},
        "epsilons": EPSILONS.tolist(),
        "nearly": [[draw(epsilon).round(4).tolist() for draw in nearly] for epsilon in EPSILONS],
    }


def nearly_unitary(rng):
    """Draw F pairs of unitary 2×2 matrices and a gradient; return the curve as a function of ε."""
    pairs = [(kru.random_unitary(2, rng), kru.random_unitary(2, rng)) for _ in range(F)]
    g = rng.standard_normal(N)

    def curve(epsilon):
        S = np.diag([1 + epsilon, 1 - epsilon])
        return log_norms([A @ S @ B for A, B in pairs], g)

    return curve


def unfolding():
    """Return sets of F real 2×2 factors, and a vector to multiply by them."""
    rng = np.random.default_rng(2)
    return {
        "positive": rng.uniform(0.3, 1, (F, 2, 2)).round(2).tolist(),
        "orthogonal": [kru.random_unitary(2, rng, "float64").tolist() for _ in range(F)],
        "x": rng.standard_normal(N).round(2).tolist(),
    }


def numbers():
    """Return what the figures need."""
    return {
        "eigenvalues": eigenvalues(),
        "gradientNorms": gradient_norms(),
        "unfolding": unfolding(),
    }


def write(path):
    """Write it, unless it is there: a page whose script is new would be built again."""
    text = f'"use strict";\n\nconst NUMBERS = {json.dumps(numbers())};\n'
    path = Path(path)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
