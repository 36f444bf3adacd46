"""RC-uRNN's matrix and its stages."""

import math

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.restricted import reflect, turn


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("size", [2, 12, 30])
def test_restricted_unitary(rng, dtype, size):
    """Against the seven matrices multiplied out; unitary whatever its parameters."""
    matrix = kru.RestrictedUnitary(permutation_seed=3)
    dtype = np.dtype(dtype)
    phases, reflections = W = matrix.init(size, rng, dtype)
    n = phases.shape[1]
    assert n == (size if dtype.kind == "c" else size // 2)
    F = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)
    P = np.eye(n)[np.random.default_rng(3).permutation(n)]
    D = [np.diag(np.exp(1j * phase)) for phase in phases]
    R = [np.eye(n) - 2 * np.outer(v, v.conj()) / np.vdot(v, v).real for v in reflections]
    dense = D[2] @ R[1] @ F.conj().T @ D[1] @ P @ R[0] @ F @ D[0]
    if dtype.kind != "c":
        dense = np.block([[dense.real, -dense.imag], [dense.imag, dense.real]])
    ours = matrix.matvec(W, np.eye(size, dtype=dtype))
    tolerance = 1e-5 if dtype.itemsize // (1 + (dtype.kind == "c")) == 4 else 1e-13
    np.testing.assert_allclose(ours, dense, rtol=0, atol=tolerance)
    assert matrix.defect(W) < tolerance
    assert matrix.penalty(W)[0] == 0


def test_reflections_and_turns_are_unitary(draw, rng):
    v, x = draw(5), draw((5, 3))
    np.testing.assert_allclose(reflect(v, reflect(v, x)), x, rtol=1e-12)
    np.testing.assert_allclose(reflect(v, v[:, None]), -v[:, None], rtol=1e-12)
    phase = rng.uniform(-4, 4, 5)
    np.testing.assert_allclose(turn(-phase, turn(phase, x)), x, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_how_a_restricted_unitary_matrix_starts(rng, dtype):
    phases, vectors = kru.RestrictedUnitary().init(400, rng, np.dtype(dtype))
    assert (phases.dtype, vectors.dtype) == (
        ("float32", "complex64") if dtype == "float32" else ("float64", "complex128")
    )
    for part, bound in ((phases, math.pi), (vectors.real, 1), (vectors.imag, 1)):
        assert -bound <= part.min() < -0.98 * bound
        assert 0.98 * bound < part.max() <= bound
    assert abs(np.corrcoef(vectors.real.ravel(), vectors.imag.ravel())[0, 1]) < 0.1
