"""Each nonlinearity against its definition, each backward against finite differences."""

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.activations import (
    ACTIVATIONS,
    identity,
    logistic,
    modrelu,
    modrelu_backward,
    relu,
    tanh,
)

CASES = [
    (name, dtype)
    for name, activation in ACTIVATIONS.items()
    for dtype in ("float64", "complex128")
    if activation.on_complex or dtype == "float64"
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.parametrize("B", [1, 4])
def test_backward(draw, rng, name, dtype, B, record_error):
    forward, backward, *_ = ACTIVATIONS[name]
    params = {"z": draw((9, B), dtype), "b": rng.uniform(-1, 1, 9)}
    weights = draw((9, B), dtype)

    def loss(p):
        h = forward(p["z"], p["b"])
        return float(np.sum(weights.real * np.sin(h.real) + weights.imag * np.cos(h.imag)))

    h = forward(params["z"], params["b"])
    dh = weights.real * np.cos(h.real)
    if dtype == "complex128":
        dh = dh - 1j * weights.imag * np.sin(h.imag)
    dz, db = backward(dh, h, params["b"])
    report = kru.check_gradient(loss, params, {"z": dz, "b": db}, tolerance=1e-7)
    record_error("finite differences, numpy", report.max_error)
    assert report, report


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_dtype_is_kept(draw, name, dtype):
    single = {"float64": "float32", "complex128": "complex64"}[dtype]
    z, b = draw((3, 2), single), np.float32([-0.5, 0, 0.5])
    forward, backward, *_ = ACTIVATIONS[name]
    h = forward(z, b)
    dz, db = backward(z, h, b)
    assert (h.dtype, dz.dtype, db.dtype) == (single, single, "float32")


def test_values(draw, rng):
    b = rng.uniform(-1, 1, 5)
    z, x = draw((5, 3)), draw((5, 3), "float64")
    for row in np.ndindex(5, 3):
        r = abs(z[row])
        expected = max(r + b[row[0]], 0) * z[row] / r
        assert modrelu(z, b)[row] == pytest.approx(expected, abs=1e-15)
    np.testing.assert_array_equal(tanh(x, b), np.tanh(x + b[:, None]))
    np.testing.assert_array_equal(relu(x, b), np.maximum(x + b[:, None], 0))
    np.testing.assert_array_equal(identity(z, b), z + b[:, None])
    soft = np.sign(x) * np.maximum(np.abs(x) + b[:, None], 0)
    np.testing.assert_allclose(modrelu(x, b), soft)


def test_modrelu_at_zero_and_where_it_is_inactive():
    z = np.array([[0j, 0.5 + 0j, 0, -1e-200j]])
    b = np.array([-1.0])
    h = modrelu(z, b)
    dz, db = modrelu_backward(np.ones_like(z), h, b)
    for array in (h, dz, db):
        np.testing.assert_array_equal(array, 0)
    h = modrelu(z, np.array([1.0]))
    np.testing.assert_allclose(h, [[0, 1.5, 0, -1j]])
    dz, _ = modrelu_backward(np.ones_like(z), h, np.array([1.0]))
    assert dz[0, 0] == dz[0, 2] == 0
    assert dz[0, 1] == pytest.approx(1)
    assert np.isfinite(dz).all()


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("exponent", [-39, -25, -19, 19, 25, 37])
def test_modrelu_at_any_scale(dtype, exponent, backend):
    """|z|² over- or underflows in single precision, and 1/|z| of a denormal |z| does."""
    exponent = exponent if dtype == "complex64" else 8 * exponent
    u = (3 + 4j) / 5
    z = np.full((1, 1), u * 10.0**exponent).astype(dtype)
    for b in (0.0, 0.5, -0.5):
        cell = kru.KRU(1, 1, dtype=dtype, backend=backend, learned_h0=False)
        real = cell.real_dtype
        params = {"W.0": np.zeros((1, 1), dtype), "U": z, "b": np.array([b], real)}
        h, saved = cell.forward(params, np.ones((1, 1, 1)))
        expected = max(abs(complex(z[0, 0])) + b, 0) * u
        assert h.item() == pytest.approx(expected, rel=1e-5, abs=0)
        if b == 0:
            grads, _, _ = cell.backward(params, saved, np.full((1, 1, 1), 1 - 2j, dtype))
            assert grads["U"].item() == pytest.approx(1 - 2j, rel=1e-5)
            assert grads["b"].item() == pytest.approx((u.conjugate() * (1 - 2j)).real, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64", "complex128"])
def test_modrelu_gradient_stays_finite_where_the_modulus_is_lost(dtype):
    """|z| far below the rounding of b cannot be told from h: the gradient is capped, not NaN."""
    tiny = np.finfo(dtype).eps * 1e-3
    z = np.array([[tiny, -tiny]]).astype(dtype) * (1j if np.dtype(dtype).kind == "c" else 1)
    b = np.ones(1, z.real.dtype)
    h = modrelu(z, b)
    dz, db = modrelu_backward(np.full_like(z, 1), h, b)
    assert np.isfinite(dz).all()
    assert np.isfinite(db).all()


def test_modrelu_keeps_nan():
    z, b = np.array([[np.nan + 1j, 1]]), np.zeros(1)
    with np.errstate(invalid="ignore"):
        h = modrelu(z, b)
        dz, db = modrelu_backward(np.ones_like(z), h, b)
    assert np.isnan(h[0, 0])
    assert h[0, 1] == 1
    assert np.isnan(dz[0, 0])
    assert np.isnan(db[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_logistic_function_keeps_its_digits(dtype):
    z = np.linspace(-80, 80, 321, dtype=dtype)
    expected = 1 / (1 + np.exp(-z.astype(np.longdouble)))
    found = logistic(z)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected.astype(float), rtol=4 * np.finfo(dtype).eps)
    assert logistic(np.array([-1e4, 1e4])).tolist() == [0, 1]
    step = logistic(np.array([-30.0, 0.3]) + 1e-20j).imag / 1e-20
    np.testing.assert_allclose(step, (s := logistic(np.array([-30.0, 0.3]))) * (1 - s), rtol=1e-13)
