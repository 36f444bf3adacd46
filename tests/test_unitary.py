"""The unitary penalty, its gradient, the defect and the Haar distribution."""

from functools import reduce

import numpy as np
import pytest
import scipy.stats

import kru_ref as kru


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_penalty_and_its_gradient(draw, dtype, record_error):
    factors = {f"{f}": draw(s, dtype) for f, s in enumerate([(2, 3), (5, 4), (3, 3), (1, 1)])}
    penalty, dfactors = kru.soft_unitary(list(factors.values()))
    assert penalty == pytest.approx(
        sum(np.linalg.norm(W.conj().T @ W - np.eye(W.shape[1])) ** 2 for W in factors.values())
    )
    report = kru.check_gradient(
        lambda p: kru.soft_unitary(list(p.values()))[0],
        factors,
        dict(zip(factors, dfactors, strict=True)),
        tolerance=1e-7,
    )
    record_error("finite differences, numpy", report.max_error)
    assert report, report


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_penalty_keeps_the_dtype_and_vanishes_on_unitary_factors(rng, dtype):
    factors = [kru.random_unitary(n, rng, dtype) for n in (2, 5)]
    penalty, dfactors = kru.soft_unitary(factors)
    eps = np.finfo(dtype).eps
    assert penalty < 1e3 * eps**2
    assert all(d.dtype == dtype and np.abs(d).max() < 1e2 * eps for d in dfactors)


@pytest.mark.parametrize(
    "shapes", [[(2, 2), (3, 3)], [(3, 2), (4, 4)], [(2, 3), (3, 2)], [(2, 3), (5, 4), (1, 2)]]
)
@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7])
def test_defect_is_that_of_the_whole_product(draw, shapes, scale):
    factors = [scale * draw(shape) for shape in shapes]
    W = reduce(np.kron, factors)
    expected = np.linalg.norm(W.conj().T @ W - np.eye(W.shape[1]), 2)
    assert kru.unitarity_defect(factors) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("shape", [1, 2, 7, (5, 3), (3, 5), (1, 4)])
def test_random_unitary_is_unitary(rng, shape, dtype):
    W = kru.random_unitary(shape, rng, dtype)
    assert W.dtype == dtype
    assert W.shape == ((shape, shape) if isinstance(shape, int) else shape)
    gram = W.conj().T @ W if W.shape[0] >= W.shape[1] else W @ W.conj().T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_random_unitary_is_haar(rng, dtype):
    """One entry of a Haar matrix is distributed as one coordinate of a random unit vector."""
    n, draws = 3, 2000
    entries = np.array([kru.random_unitary(n, rng, dtype)[2, 1] for _ in range(draws)])
    parts = 2 if dtype == "complex128" else 1
    # a squared coordinate of a point on the sphere in R^m is Beta(1/2, (m - 1)/2)
    law = scipy.stats.beta(0.5, (parts * n - 1) / 2)
    assert scipy.stats.kstest(entries.real**2, law.cdf).pvalue > 1e-3
    assert abs(np.mean(entries.real > 0) - 0.5) < 0.05
    # the diagonal too, which a QR without the phase correction gets wrong
    diagonal = np.array([kru.random_unitary(n, rng, dtype)[0, 0] for _ in range(draws)])
    assert abs(np.mean(diagonal.real > 0) - 0.5) < 0.05


def test_bad_arguments(rng):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        kru.random_unitary((3, 0), rng)
    with pytest.raises(
        TypeError, match="dtype must be one of float32, float64, complex64, complex128, "
    ):
        kru.random_unitary(3, rng, "int32")
    with pytest.raises(ValueError, match="at least one matrix"):
        kru.soft_unitary([])
    with pytest.raises(ValueError, match="factor 0 must be"):
        kru.unitarity_defect([np.ones(3)])


@pytest.mark.parametrize("sizes", [[2] * 7, [2, 3, 5], [4], [1, 6, 2]])
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_eigenvalues_of_spread_factors(rng, sizes, dtype):
    factors = kru.spread_unitary(sizes, rng, dtype)
    assert [W.shape for W in factors] == [(P, P) for P in sizes]
    assert {W.dtype for W in factors} == {np.dtype(dtype)}
    W = kru.KroneckerProduct(factors).to_dense()
    tolerance = 1e-5 if dtype == "complex64" else 1e-13
    assert kru.unitarity_defect(factors) < tolerance
    phases = np.sort(np.angle(np.linalg.eigvals(W)) / (2 * np.pi) % 1)
    gaps = np.diff([*phases, phases[0] + 1])
    np.testing.assert_allclose(gaps, 1 / len(W), rtol=0, atol=tolerance)


def test_spread_factors_of_a_cell(rng):
    matrix = kru.Kronecker(init_scheme="spread")
    cell = kru.RNN(3, 12, matrix, "modrelu", "complex128")
    params = cell.init(rng)
    W = kru.KroneckerProduct([params[name] for name in cell.matrix_names]).to_dense()
    np.testing.assert_allclose(np.abs(np.linalg.matrix_power(W, 12)), np.eye(12), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda rng: kru.spread_unitary([2], rng, "float64"),
            TypeError,
            "need a complex dtype.*the scheme 'haar'$",
        ),
        (lambda rng: kru.spread_unitary([], rng), ValueError, "at least one"),
        (
            lambda rng: kru.spread_unitary([2, 0], rng),
            ValueError,
            r"a size must be at least 1, got 0",
        ),
        (lambda rng: kru.spread_unitary([2], 0), TypeError, "rng must be"),
        (lambda rng: kru.Kronecker(init_scheme="x"), ValueError, "haar, spread, got 'x'"),
        (
            lambda rng: kru.Kronecker([(2, 3), (3, 2)], init_scheme="spread").init(
                6, rng, np.dtype("complex64")
            ),
            ValueError,
            "needs square factors",
        ),
    ],
)
def test_factors_that_cannot_be_spread(rng, make, error, message):
    with pytest.raises(error, match=message):
        make(rng)


def test_real_and_complex_factors_of_one_shape():
    penalty, (real, complex_) = kru.soft_unitary([2 * np.eye(2), 1j * np.eye(2)])
    assert penalty == 2 * 9
    assert real.dtype == float
    np.testing.assert_array_equal(real, 24 * np.eye(2))
    np.testing.assert_array_equal(complex_, np.zeros((2, 2), complex))
