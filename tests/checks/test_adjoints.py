"""Checks of adjoints, and of packing."""

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator

import kru_ref as kru


class Planted(LinearOperator):
    """A matrix whose adjoint may be wrong."""

    def __init__(self, A, adjoint):
        super().__init__(A.dtype, A.shape)
        self.A, self.adjoint_matrix = A, adjoint

    def _matvec(self, x):
        return self.A @ x

    def _rmatvec(self, y):
        return self.adjoint_matrix @ y


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_adjoint_passes_and_catches(draw, rng, dtype):
    A = draw((5, 5), dtype)
    report = kru.check_adjoint(Planted(A, A.conj().T), rng)
    assert report, report
    assert "passed" in str(report)
    for wrong in (A.T, A.conj(), A, 2 * A.conj().T, A.conj().T + 1e-3j, A.conj().T * np.nan):
        report = kru.check_adjoint(Planted(A, wrong), rng)
        assert not report
        assert "FAILED" in str(report)


class Scaled(LinearOperator):
    """A c, with an adjoint that may be the wrong one."""

    def __init__(self, A, factor, wrong):
        super().__init__(A.dtype, A.shape)
        self.A, self.factor, self.wrong = A, A.dtype.type(factor), A.dtype.type(wrong)

    def _matvec(self, x):
        return self.factor * (self.A @ x)

    def _rmatvec(self, y):
        return self.wrong * (self.factor * (self.A.conj().T @ y))


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [("complex128", e) for e in (-300, -165, -100, -24, 0, 19, 100, 154, 300)]
    + [("float64", e) for e in (-300, -165, 154, 300)]
    + [(d, e) for d in ("complex64", "float32") for e in (-36, -24, -20, -10, 0, 10, 19, 30, 36)],
)
def test_scales_of_adjoints(draw, rng, dtype, exponent):
    A, factor = draw((4, 3), dtype), float(f"1e{exponent}")
    assert (report := kru.check_adjoint(Scaled(A, factor, 1), rng)), report
    for wrong in (2, 0.5, -1, 0, 1.01, np.nan):
        report = kru.check_adjoint(Scaled(A, factor, wrong), rng)
        assert not report, (wrong, str(report))


def test_an_adjoint_of_nothing_is_refused(rng):
    with pytest.raises(ValueError, match="or nothing is checked"):
        kru.check_adjoint(np.ones((0, 3)), rng)
    for tolerance in (0, np.nan, np.inf):
        with pytest.raises(ValueError, match="tolerance must be finite and above 0"):
            kru.check_adjoint(np.eye(2), rng, tolerance=tolerance)


def test_adjoint_of_a_real_operator_is_checked_on_complex_vectors(rng):
    A = rng.standard_normal((4, 6))
    assert kru.check_adjoint(Planted(A, A.T), rng)
    assert kru.check_adjoint(np.zeros((3, 2)), rng)
    with pytest.raises(ValueError, match="probes must be at least 1"):
        kru.check_adjoint(A, rng, probes=0)
