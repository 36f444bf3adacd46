"""Losses and activations against arithmetic of 400 digits, over their whole range.

So many, for log(1 + e^-745) has lost all of its own before the 324th.
"""

import decimal
from decimal import Decimal

import numpy as np
import pytest

import kru_ref as kru
from kru_ref import activations

decimal.getcontext().prec = 400
decimal.getcontext().Emin, decimal.getcontext().Emax = -(10**6), 10**6

GAPS = [0, 1e-30, 1e-3, 0.5, 1, 4, 8, 15, 16.5, 17, 20, 30, 36, 37, 40, 60, 80, 87, 88, 90, 95, 100]
MORE = [103, 110, 300, 500, 700, 708, 720, 740, 745]


def digits(dtype, ulps):
    return ulps * float(np.finfo(dtype).eps), float(np.finfo(dtype).smallest_subnormal)


def close(found, exact, dtype, ulps=16):
    """Hold what was found to a few units in the last place; a subnormal number has fewer."""
    rtol, atol = digits(dtype, ulps)
    exact = np.array([float(e) for e in exact]).astype(dtype)
    np.testing.assert_allclose(np.ravel(found), exact, rtol=rtol, atol=2 * atol)


def exp(x):
    return Decimal(float(x)).exp()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", [0, 1, 2])
def test_softmax(dtype, target):
    for gap in [*GAPS, *MORE]:
        for rest in (0.0, -0.25, 3.0):
            y = np.array([gap, 0.0, rest], dtype)
            loss, gradient = kru.softmax_cross_entropy(y[None, :, None], np.array([[target]]))
            e = [exp(v) for v in y]
            exact = (sum(e) / e[target]).ln()
            if exact > Decimal("1e-50"):
                close(loss, [exact], dtype)
            of = [sum(e[k] for k in range(3) if k != target) if m == target else e[m]
                  for m in range(3)]  # fmt: skip
            close(gradient, [(-1 if m == target else 1) * of[m] / sum(e) for m in range(3)], dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", [0, 0.25, 1])
def test_bernoulli(dtype, target):
    t = Decimal(target)
    for size in [*GAPS, *MORE]:
        for y in (np.dtype(dtype).type(size), np.dtype(dtype).type(-size)):
            loss, gradient = kru.bernoulli_cross_entropy(
                np.full((1, 1, 1), y), np.full((1, 1, 1), target)
            )
            p, q = 1 / (1 + exp(-y)), 1 / (1 + exp(y))
            close(loss, [-(t * p.ln() + (1 - t) * q.ln())], dtype)
            if target in (0, 1):
                close(gradient, [p if target == 0 else -q], dtype)
            else:
                close(gradient + 1, [p - t + 1], dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinite_logits(dtype):
    inf = np.dtype(dtype).type(np.inf)
    for y, target, loss, slope in ((inf, 1, 0, 0), (inf, 0, inf, 1), (-inf, 0, 0, 0),
                                   (-inf, 1, inf, -1), (inf, 0.5, inf, 0.5)):  # fmt: skip
        found = kru.bernoulli_cross_entropy(np.full((1, 1, 1), y), np.full((1, 1, 1), target))
        assert (found[0], found[1].item()) == (loss, slope)
    for y, target, loss, gradient in (
        ([inf, 0, 0], 0, 0, [0, 0, 0]),
        ([inf, 0, 0], 1, inf, [1, -1, 0]),
        ([-inf, 0, 0], 0, inf, [-1, 0.5, 0.5]),
        ([-inf, 0, -inf], 1, 0, [0, 0, 0]),
        ([inf, inf, 0], 0, np.log(2), [-0.5, 0.5, 0]),
    ):
        y = np.array(y, dtype)[None, :, None]
        found = kru.softmax_cross_entropy(y, np.array([[target]]))
        np.testing.assert_allclose(found[0], loss, rtol=1e-7)
        np.testing.assert_allclose(found[1].ravel(), gradient, rtol=1e-7)
    nothing = np.full((1, 3, 1), -inf)
    assert np.isnan(kru.softmax_cross_entropy(nothing, np.array([[0]]))[0])


@pytest.mark.parametrize(
    "loss", [kru.softmax_cross_entropy, kru.mean_squared_error, kru.bernoulli_cross_entropy]
)
@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_what_stands_in_a_masked_step_is_nobodys_business(rng, loss, hole):
    logits, mask = rng.standard_normal((3, 4, 2)), np.ones((3, 2))
    targets = rng.integers(2, size=(3, 2) if loss is kru.softmax_cross_entropy else (3, 4, 2))
    mask[1, 1] = 0
    expected = loss(logits, targets, mask)
    logits[1, :, 1] = hole
    found = loss(logits, targets, mask)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


def test_squares_that_single_precision_cannot_hold():
    y = np.full((1, 2, 1), 1e30, "float32")
    loss, gradient = kru.mean_squared_error(y, np.zeros((1, 2, 1)))
    assert loss == pytest.approx(1e60, rel=1e-6)
    np.testing.assert_allclose(gradient, 1e30, rtol=1e-6)
    W = np.full((2, 2), 1e10, "float32")
    penalty, (dW,) = kru.soft_unitary([W])
    assert penalty == pytest.approx(4 * (2e20) ** 2, rel=1e-5)
    np.testing.assert_allclose(dW, 16e30, rtol=1e-5)


POINTS = sorted({s * v for v in [*GAPS, *MORE, 1e-5, 1e-40] for s in (1, -1)})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_in_numpy(dtype):
    z = np.array(POINTS, dtype)
    with np.errstate(under="ignore"):
        close(activations.logistic(z), [1 / (1 + exp(-v)) for v in z], dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gates_of_cells(dtype, kind, backend):
    """The saved gates of one step, at biases over their whole range."""
    n = len(POINTS)
    cls = {"lstm": kru.LSTM, "gru": kru.GRU}[kind]
    size = 1 << (n - 1).bit_length()
    cell = cls(1, size, kru.Kronecker(backend=backend), dtype=dtype)
    params = {name: np.zeros_like(p) for name, p in cell.init(np.random.default_rng(0)).items()}
    z = np.zeros(size, dtype)
    z[:n] = POINTS
    params["b"] = np.tile(z, len(params["b"]) // size)
    _, saved = cell.forward(params, np.zeros((1, 1, 1)))
    sigma = [1 / (1 + exp(-v)) for v in z[:n]]
    tanh = [1 - 2 / (exp(2 * Decimal(float(v))) + 1) for v in z[:n]]
    which = {"lstm": (sigma, sigma, tanh, sigma), "gru": (sigma, sigma, tanh)}[kind]
    for k, exact in enumerate(which):
        close(saved.gates[0, k, :n, 0], exact, dtype)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("b", [0.5, 1e-30, 0.0, -1e-30])
def test_modrelu_at_any_modulus(dtype, b, backend):
    real = np.finfo(dtype).dtype
    exponents = [-323, -310, -300, -150, -45, -40, -38, -30, -10, 0, 10, 30, 37, 150, 300]
    limits = np.finfo(dtype)
    least, most = float(limits.smallest_subnormal), float(limits.max) / 4
    sizes = [s for s in (10.0**e for e in exponents) if least <= s < most]
    z = np.array([s * (1 + 1j) for s in sizes], dtype)
    cell = kru.KRU(len(z), len(z), [(len(z), len(z))], dtype=dtype, backend=backend)
    params = {name: np.zeros_like(p) for name, p in cell.init(np.random.default_rng(0)).items()}
    params["U"] = np.diag(z)
    params["b"] = np.full(len(z), b, real)
    h, _ = cell.forward(params, np.eye(len(z))[None])
    exact = []
    for v in z:
        re, im = Decimal(float(v.real)), Decimal(float(v.imag))
        r = (re * re + im * im).sqrt()
        grown = max(r + Decimal(float(real.type(b))), Decimal(0))
        exact.append(complex(float(grown * re / r), float(grown * im / r)))
    found = np.diagonal(h[0])
    rtol, atol = digits(dtype, 16)
    np.testing.assert_allclose(found, np.array(exact, dtype), rtol=rtol, atol=4 * atol)
