"""Compiled products against NumPy, on every instruction set."""

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.engine import backend

if backend.kernels is None:
    pytest.skip(f"{backend.reason}", allow_module_level=True)


LEVELS = backend.INSTRUCTION_SETS[: int(backend.kernels.supported_level()) + 1]


TOLERANCE = {"float32": 2e-4, "complex64": 2e-4, "float64": 1e-11, "complex128": 1e-11}


def close(actual, expected, dtype):
    scale = np.abs(expected).max(initial=0) or 1.0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("B", [0, 1, 2, 3, 5, 20, 64])
@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 2)] * 7,
        [(2, 3), (5, 4), (1, 2)],
        [(16, 3), (3, 16)],
        [(40, 3), (3, 40)],
        [(64, 7), (2, 64)],
        [(65, 2), (2, 65)],
        [(3, 3)] * 3,
        [(9, 11), (1, 3)],
        [(1, 1)],
    ],
)
def test_the_product_agrees_with_numpy(draw, monkeypatch, level, dtype, B, shapes):
    monkeypatch.setenv("KRU_REF_SIMD", level)
    factors = [draw(shape, dtype) for shape in shapes]
    rows, columns = (int(np.prod(sizes)) for sizes in zip(*shapes, strict=True))
    x, dy = draw((columns, B), dtype), draw((rows, B), dtype)
    y = kru.kron_matvec(factors, x, "cython")
    close(y, kru.kron_matvec(factors, x, "numpy"), dtype)
    dfactors, dx = kru.kron_matvec_backward(factors, x, dy, "cython")
    expected, dx_expected = kru.kron_matvec_backward(factors, x, dy, "numpy")
    close(dx, dx_expected, dtype)
    for ours, reference in zip(dfactors, expected, strict=True):
        close(ours, reference, dtype)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("B", [2, 3, 5, 9, 17])
def test_columns_of_a_product_are_independent(draw, monkeypatch, level, dtype, B):
    """What is no number in one column stays there."""
    monkeypatch.setenv("KRU_REF_SIMD", level)
    factors, x = [draw((2, 2), dtype), draw((3, 5), dtype)], draw((10, B), dtype)
    x[3, 1] = np.nan
    y = kru.kron_matvec(factors, x, "cython")
    _, dx = kru.kron_matvec_backward(factors, x, np.where(np.isnan(y), y, 1), "cython")
    for result in (y, dx):
        assert np.isnan(result[:, 1]).any()
        assert np.isfinite(np.delete(result, 1, axis=1)).all()
