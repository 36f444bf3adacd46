"""KroneckerProduct among SciPy's linear operators."""

import math
from functools import reduce

import numpy as np
import pytest
import scipy.linalg
from scipy.sparse.linalg import LinearOperator, aslinearoperator, expm_multiply, gmres, svds

import kru_ref as kru
from kru_ref.kronecker import ENGINES


@pytest.fixture
def product(draw, backend):
    return kru.KroneckerProduct([draw((2, 3)), draw((5, 4)), draw((1, 2))], backend)


@pytest.fixture
def square(draw, backend):
    return kru.KroneckerProduct([draw((2, 2)), draw((3, 3)), draw((4, 4))], backend)


def test_it_is_the_dense_matrix(product, draw):
    W = reduce(np.kron, product.factors)
    assert isinstance(product, LinearOperator)
    assert product.shape == (10, 24)
    assert product.dtype == "complex128"
    np.testing.assert_allclose(product.to_dense(), W)
    x, y = draw((24, 3)), draw((10, 3))
    np.testing.assert_allclose(product @ x, W @ x)
    np.testing.assert_allclose(product @ x[:, 0], W @ x[:, 0])
    np.testing.assert_allclose(product.H @ y, W.conj().T @ y)
    np.testing.assert_allclose(product.T @ y, W.T @ y)
    np.testing.assert_allclose(product.rmatvec(y[:, 0]), W.conj().T @ y[:, 0])
    np.testing.assert_allclose(product.rmatmat(y), W.conj().T @ y)
    assert isinstance(product.H, kru.KroneckerProduct)
    np.testing.assert_allclose(product.H.to_dense(), W.conj().T)


def test_adjoint(product, rng):
    report = kru.check_adjoint(product, rng)
    assert report, report


def test_sums_and_products_with_other_operators(square, draw):
    W, A, x = square.to_dense(), draw((24, 24)), draw(24)
    other = aslinearoperator(A)
    np.testing.assert_allclose((square + other) @ x, W @ x + A @ x)
    np.testing.assert_allclose((square * other) @ x, W @ (A @ x))
    np.testing.assert_allclose((other @ square).H @ x, W.conj().T @ (A.conj().T @ x))
    np.testing.assert_allclose((2j * square - other) @ x, 2j * (W @ x) - A @ x)
    np.testing.assert_allclose((square**3) @ x, W @ (W @ (W @ x)))


def test_svds(product):
    """The largest singular values, found through matvec and rmatvec alone."""
    found = svds(product, k=3, return_singular_vectors=False, v0=np.ones(10))
    np.testing.assert_allclose(np.sort(found)[::-1], product.singular_values()[:3])


def test_gmres(square, draw):
    b = draw(24)
    shifted = aslinearoperator(8 * np.eye(24)) + square * (1 / np.linalg.norm(square.to_dense(), 2))
    x, status = gmres(shifted, b, rtol=1e-12)
    assert status == 0
    np.testing.assert_allclose(shifted @ x, b, rtol=1e-10, atol=1e-10)


def test_expm_multiply(square, draw):
    b = draw((24, 2))
    scaled = kru.KroneckerProduct([0.3 * W for W in square.factors], square.backend)
    expected = scipy.linalg.expm(scaled.to_dense()) @ b
    np.testing.assert_allclose(expm_multiply(scaled, b, traceA=scaled.trace()), expected)


@pytest.mark.parametrize(
    "shapes",
    [[(2, 3), (5, 4), (1, 2)], [(2, 3), (3, 2)], [(4, 4), (3, 3)], [(3, 1), (1, 4), (2, 2)]],
)
def test_spectrum(draw, shapes):
    product = kru.KroneckerProduct([draw(shape) for shape in shapes])
    expected = np.linalg.svd(product.to_dense(), compute_uv=False)
    np.testing.assert_allclose(product.singular_values(), expected, atol=1e-13 * expected[0])
    complete = math.prod(map(min, shapes)) == min(product.shape)
    assert product.cond() == pytest.approx(expected[0] / expected[-1] if complete else math.inf)


def test_singular_values_keep_single_precision(draw):
    product = kru.KroneckerProduct([draw((2, 3), "float32"), draw((3, 2), "float32")])
    assert len(product.singular_values()) == 6
    assert product.singular_values().dtype == "float32"


def test_condition_of_a_singular_matrix():
    assert kru.KroneckerProduct([np.diag([1.0, 0.0]), np.eye(2)]).cond() == math.inf
    assert kru.KroneckerProduct([np.diag([3.0, 2.0, 0.0]), [[2.0]]]).cond() == math.inf
    assert kru.KroneckerProduct([np.diag([3.0, 1.0]), np.eye(2)]).cond() == 3


def test_the_backend_is_kept(square, monkeypatch):
    product = kru.KroneckerProduct(square.factors, "numpy")
    assert {product.H.backend, product.T.backend} == {"numpy"}
    monkeypatch.delitem(ENGINES, "cython")
    for x in (np.ones(24), np.ones((24, 2))):
        np.testing.assert_allclose(product @ x, square.to_dense() @ x)
        np.testing.assert_allclose(product.H @ x, square.to_dense().conj().T @ x)


def test_trace(square, product):
    assert square.trace() == pytest.approx(np.trace(square.to_dense()))
    with pytest.raises(ValueError, match=r"factor 0 is \(2, 3\)"):
        product.trace()


def test_parameters_are_counted_as_real_numbers(draw):
    assert kru.KroneckerProduct([draw((2, 3), "float32"), draw((5, 4))]).n_parameters == 6 + 2 * 20
    assert kru.KroneckerProduct([draw((2, 2)) for _ in range(9)]).n_parameters == 72


def test_integer_factors_and_mixed_dtypes():
    product = kru.KroneckerProduct([[[1, 2], [3, 4]], np.eye(2, dtype="complex64")])
    assert product.dtype == "complex128"
    np.testing.assert_array_equal(product @ [1, 0, 0, 0], [1, 0, 3, 0])


def test_it_refuses_what_kron_matvec_refuses(product):
    with pytest.raises(ValueError, match="at least one matrix"):
        kru.KroneckerProduct([])
    with pytest.raises(ValueError, match="backend must be"):
        kru.KroneckerProduct([np.eye(2)], "fortran")
    with pytest.raises(TypeError, match=r"got <U1 in a ndarray; convert"):
        kru.kron_matvec([np.array([["a"]])], np.ones(1))
    with pytest.raises(ValueError, match=r"(?i)dimension mismatch"):
        product @ np.ones(3)
