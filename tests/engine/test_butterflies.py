"""Butterflies against dense matrices and exact arithmetic, in NumPy and compiled."""

import functools
from fractions import Fraction

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.engine import backend, butterflies, plans, products

compiled = pytest.mark.skipif(backend.kernels is None, reason=f"{backend.reason}")
vectors = pytest.mark.skipif(
    backend.kernels is None or not backend.kernels.has_vectors(),
    reason="the kernels were built without vector types, and have no butterflies",
)
LEVELS = (
    backend.INSTRUCTION_SETS[: int(backend.kernels.supported_level()) + 1]
    if backend.kernels
    else ("baseline",)
)


def dense(factors):
    return functools.reduce(np.kron, factors)


def fitting(rng, n, dtype):
    """Draw factors that can be taken apart, their columns to be exchanged or not."""
    factors = []
    while len(factors) < n:
        W = rng.standard_normal((2, 2))
        if dtype.startswith("complex"):
            W = W + 1j * rng.standard_normal((2, 2))
        W = W.astype(dtype)
        if butterflies.butterfly(W) is not None:
            factors.append(W)
    return factors


def array(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x).astype(dtype)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_factor_is_the_product_of_its_parts(rng, dtype):
    for W in [*fitting(rng, 20, dtype), np.eye(2, dtype=dtype), np.eye(2, dtype=dtype)[::-1]]:
        form = butterflies.butterfly(W)
        R = np.array([[1, form.u], [form.v, 1]])
        whole = np.diag(form.l) @ R @ np.diag(form.r)
        np.testing.assert_allclose(whole[:, ::-1] if form.exchanged else whole, W, rtol=1e-14)
        assert np.isreal(form.u)
        assert abs(form.u * form.v) <= 1 + 1e-14
        np.testing.assert_allclose(np.abs(form.r), 1, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("F", "B"), [(1, 1), (2, 3), (3, 1), (5, 4)])
def test_the_readable_twin(rng, dtype, F, B):
    factors = fitting(rng, F, dtype)
    x, dy = array(rng, (2**F, B), dtype), array(rng, (2**F, B), dtype)
    scale = np.abs(dense(factors)).max()
    y = butterflies.matvec(factors, x)
    np.testing.assert_allclose(y, dense(factors) @ x, atol=1e-12 * scale)
    dfactors, dx = butterflies.matvec_backward(factors, x, dy)
    np.testing.assert_allclose(dx, dense(factors).conj().T @ dy, atol=1e-12 * scale)
    expected, _ = kru.kron_matvec_backward(factors, x, dy, "numpy")
    for ours, reference in zip(dfactors, expected, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-10, atol=1e-11 * scale)


def test_unitary_factors_can_always_be_taken_apart(rng):
    for dtype in ("float64", "complex128"):
        for _ in range(300):
            form = butterflies.butterfly(kru.random_unitary(2, rng, dtype))
            assert abs(form.w[0] * form.w[3]) >= 0.5 - 1e-12
            assert abs(form.u) <= 1 + 1e-12
            assert abs(form.v) <= 1 + 1e-12


@pytest.mark.parametrize(
    "W",
    [
        np.zeros((2, 2)),
        [[1, 0], [0, 0]],
        [[0, 1], [0, 1e-3]],
        [[1, 0.2], [0.2, 0.04]],
        [[1e-200, 0], [0, 1]],
        [[np.nan, 1], [1, 1]],
        [[np.inf, 1], [1, 1]],
    ],
)
def test_what_is_too_near_singular(W):
    assert butterflies.butterfly(np.array(W, float)) is None
    assert butterflies.butterfly(np.array(W, complex)) is None


# Compiled


def forget_plans():
    plans.plan_of.cache_clear()
    plans.phases_of.cache_clear()


@pytest.fixture(autouse=True)
def fresh_plans():
    """Plans made under a patched constant are nobody else's."""
    yield
    forget_plans()


FAMILIES = {
    "unitary": lambda rng: kru.random_unitary(2, rng),
    "real unitary": lambda rng: kru.random_unitary(2, rng, "float64"),
    "Gaussian": lambda rng: rng.standard_normal((2, 2)) + 1j * rng.standard_normal((2, 2)),
    "real Gaussian": lambda rng: rng.standard_normal((2, 2)),
    "nearly singular": lambda rng: np.outer(*rng.standard_normal((2, 2))) + 1e-6 * np.eye(2),
    "at the threshold": lambda rng: np.array([[1, 0.26 * rng.uniform(0.8, 1)], [0.25, 0.0626]]),
    "like a permutation": lambda rng: np.eye(2)[::-1] + 1e-5 * rng.standard_normal((2, 2)),
    "diagonal": lambda rng: np.diag(rng.standard_normal(2)),
    "upper triangular": lambda rng: np.triu(rng.standard_normal((2, 2))),
    "lower triangular": lambda rng: np.tril(rng.standard_normal((2, 2)) + 1j),
    "rank one": lambda rng: np.outer(*rng.standard_normal((2, 2))),
    "of small scale": lambda rng: 1e-9 * rng.standard_normal((2, 2)),
}


def exact(factors, x, dy):
    """Return y, dx and dfactors of real and imaginary parts as fractions, rounded at the end."""
    y, dx, dfactors = [], [], [np.zeros((2, 2), complex) for _ in factors]
    W = [[[_Exact(w) for w in row] for row in factor] for factor in factors]
    N = len(x)
    entry = [
        [
            functools.reduce(_Exact.__mul__, (w[i >> s & 1][j >> s & 1] for s, w in _bits(W)))
            for j in range(N)
        ]
        for i in range(N)
    ]
    xs, dys = [_Exact(v) for v in x[:, 0]], [_Exact(v) for v in dy[:, 0]]
    y = [_sum(entry[i][j] * xs[j] for j in range(N)).rounded() for i in range(N)]
    dx = [_sum(entry[i][j].conj() * dys[i] for i in range(N)).rounded() for j in range(N)]
    for f in range(len(factors)):
        s = len(factors) - 1 - f
        for p in range(2):
            for q in range(2):
                terms = []
                for i in range(N):
                    for j in range(N):
                        if (i >> s & 1, j >> s & 1) == (p, q):
                            others = [w[i >> r & 1][j >> r & 1] for r, w in _bits(W) if r != s]
                            others = functools.reduce(_Exact.__mul__, others, _Exact(1))
                            terms.append(dys[i] * (others * xs[j]).conj())
                dfactors[f][p, q] = _sum(terms).rounded()
    return np.array(y), np.array(dx), dfactors


class _Exact:
    """A complex number of fractions."""

    def __init__(self, value, imaginary=None):
        if imaginary is None:
            value, imaginary = Fraction(float(value.real)), Fraction(float(value.imag))
        self.parts = value, imaginary

    def __mul__(self, other):
        (a, b), (c, d) = self.parts, other.parts
        return _Exact(a * c - b * d, a * d + b * c)

    def conj(self):
        return _Exact(self.parts[0], -self.parts[1])

    def rounded(self):
        return complex(*(float(part) for part in self.parts))


def _sum(terms):
    terms = list(terms)
    return _Exact(*(sum((t.parts[k] for t in terms), Fraction(0)) for k in (0, 1)))


def _bits(W):
    return [(len(W) - 1 - f, w) for f, w in enumerate(W)]


@vectors
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_digit_is_lost_that_the_plain_product_keeps(rng, monkeypatch, level, precision, family):
    """Relative to the largest that the sums of moduli allow, as exact arithmetic has them."""
    monkeypatch.setenv("KRU_REF_SIMD", level)
    worst = {"plain": 0.0, "butterflies": 0.0}
    for _ in range(4):
        factors = [np.ascontiguousarray(FAMILIES[family](rng)) for _ in range(3)]
        kind = "complex" if any(np.iscomplexobj(W) for W in factors) else "float"
        dtype = f"{kind}{(32 if precision == 'single' else 64) * (2 if kind == 'complex' else 1)}"
        factors = [W.astype(dtype) for W in factors]
        x, dy = array(rng, (8, 9), dtype), array(rng, (8, 9), dtype)
        x[:, 1:], dy[:, 1:] = 0, 0  # what fills the vectors
        expected = exact(factors, x, dy)
        moduli = [np.abs(W).astype(float) for W in factors]
        bounds = exact(moduli, np.abs(x).astype(float), np.abs(dy).astype(float))
        eps = np.finfo(dtype).eps
        for name, shortest in (("plain", 99), ("butterflies", 3)):
            with monkeypatch.context() as m:
                m.setattr(plans, "SHORTEST_RUN", shortest)
                forget_plans()
                y = kru.kron_matvec(factors, x, "cython")[:, 0]
                dfactors, dx = kru.kron_matvec_backward(factors, x, dy, "cython")
            found = [y, dx[:, 0], *dfactors]
            for a, b, c in zip(
                found, [*expected[:2], *expected[2]], [*bounds[:2], *bounds[2]], strict=True
            ):
                error = np.abs(a - b) / (eps * np.abs(c) + np.finfo(dtype).smallest_normal)
                worst[name] = max(worst[name], float(error.max()))
    assert worst["plain"] < 16
    assert worst["butterflies"] < 10 * max(worst["plain"], 2), worst


@compiled
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_near_singular_factors_take_the_plain_product(rng, draw, monkeypatch, dtype):
    """To the bit, in products, their backward, products of several phases and recurrences."""
    factors = fitting(rng, 4, dtype)
    factors[2] = np.array([[1, 0.2], [0.2, 0.04]], dtype)

    def results():
        forget_plans()
        y = kru.kron_matvec(factors, x, "cython")
        dfactors, dx = kru.kron_matvec_backward(factors, x, dy, "cython")
        h, saved = cell.forward(params, u)
        grads, *_ = cell.backward(params, saved, h)
        return [y, dx, *dfactors, h, *grads.values()]

    x, dy = array(rng, (16, 5), dtype), array(rng, (16, 5), dtype)
    cell = kru.KRU(2, 16, dtype=dtype, backend="cython")
    params = cell.init(rng) | {f"W.{f}": W for f, W in enumerate(factors)}
    u = rng.standard_normal((3, 2, 5)).astype(cell.real_dtype)
    with_them = results()
    monkeypatch.setattr(plans, "SHORTEST_RUN", 99)
    for a, b in zip(with_them, results(), strict=True):
        np.testing.assert_array_equal(a, b)


@compiled
def test_diagonals_beyond_the_range_take_the_plain_product(rng):
    """Twelve factors of scale 1e-4, and x of 1e30: ⊗L alone would be 0 in single precision."""
    factors = [1e-4 * W for W in fitting(rng, 12, "complex64")]
    factors = [W.astype("complex64") for W in factors]
    x = (1e30 * array(rng, (4096, 4), "complex128")).astype("complex64")
    y = kru.kron_matvec(factors, x, "cython")
    expected = kru.kron_matvec([W.astype("complex128") for W in factors], x, "numpy")
    assert np.abs(expected).max() < 1e-10
    np.testing.assert_allclose(y, expected, atol=1e-4 * np.abs(expected).max())


@compiled
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("B", [2, 4, 5, 8, 11, 33])
@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 2)] * 3,
        [(2, 2)] * 4,
        [(2, 2)] * 8,
        [(3, 2), *[(2, 2)] * 3, (5, 5), *[(2, 2)] * 4, (2, 3)],
        [*[(2, 2)] * 3, (2, 5)],
        [(5, 2), *[(2, 2)] * 5],
    ],
    ids=str,
)
def test_compiled_products(rng, draw, monkeypatch, level, dtype, B, shapes):
    monkeypatch.setenv("KRU_REF_SIMD", level)
    factors = [
        fitting(rng, 1, dtype)[0] if shape == (2, 2) else draw(shape, dtype) for shape in shapes
    ]
    phases = products.phases_of(tuple(shapes), B, np.dtype(dtype).char)
    parts = 2 if dtype.startswith("complex") else 1
    uses_them = any(group.run for phase in phases for group in phase.plan.groups)
    expected = B * parts >= plans.FEWEST_PARTS and backend.kernels.has_vectors()
    assert uses_them == expected
    rows, columns = (int(np.prod(sizes)) for sizes in zip(*shapes, strict=True))
    x, dy = array(rng, (columns, B), dtype), array(rng, (rows, B), dtype)
    tolerance = 3e-5 if dtype in ("float32", "complex64") else 1e-13
    wide = [W.astype(np.result_type(W, np.float64)) for W in factors]
    y = kru.kron_matvec(factors, x, "cython")
    expected = kru.kron_matvec(wide, x, "numpy")
    np.testing.assert_allclose(y, expected, atol=tolerance * np.abs(expected).max())
    dfactors, dx = kru.kron_matvec_backward(factors, x, dy, "cython")
    dwide, dx_wide = kru.kron_matvec_backward(wide, x, dy, "numpy")
    np.testing.assert_allclose(dx, dx_wide, atol=tolerance * np.abs(dx_wide).max())
    for ours, reference in zip(dfactors, dwide, strict=True):
        np.testing.assert_allclose(ours, reference, atol=10 * tolerance * np.abs(reference).max())


def left_exchanged(original, factors, sums):
    exchanged = [butterflies.butterfly(W).exchanged for W in factors]
    dfactors = original(factors, sums)
    return [dW[:, ::-1] if e else dW for e, dW in zip(exchanged, dfactors, strict=True)]


def other_half(original, factors, sums):
    n = 2 * len(factors)
    return original(factors, np.concatenate([sums[:n], sums[n:][::-1]]))


def conjugated(original, factors, sums):
    n = 2 * len(factors)
    return original(factors, np.concatenate([sums[:n].conj(), sums[n:]]))


def of_the_next(original, factors, sums):
    n = 2 * len(factors)
    return original(factors, np.concatenate([np.roll(sums[:n], 2), sums[n:]]))


@vectors
@pytest.mark.parametrize("mistake", [None, left_exchanged, other_half, conjugated, of_the_next])
def test_a_mistake_in_what_the_sums_become_is_found(rng, monkeypatch, mistake):
    """By finite differences, through a recurrence."""
    model = kru.SequenceModel(kru.KRU(2, 16, dtype="complex128", backend="cython"), 3)
    params = model.init(rng)
    for f, exchanged in enumerate([True, False, True, False]):  # both ways, whatever was drawn
        W = params[f"cell.W.{f}"]
        if butterflies.butterfly(W).exchanged != exchanged:
            params[f"cell.W.{f}"] = np.ascontiguousarray(W[:, ::-1])
    x, targets = rng.standard_normal((3, 2, 5)), rng.integers(3, size=(3, 5))
    if mistake is not None:
        original = butterflies.factor_gradients
        wrong = lambda factors, sums: mistake(original, factors, sums)  # noqa: E731
        monkeypatch.setattr(butterflies, "factor_gradients", wrong)

    def loss(p):
        return kru.softmax_cross_entropy(model.forward(p, x)[0], targets)[0]

    logits, saved = model.forward(params, x)
    grads = model.backward(params, saved, kru.softmax_cross_entropy(logits, targets)[1])
    assert bool(kru.check_gradient(loss, params, grads)) == (mistake is None)
