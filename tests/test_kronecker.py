"""The Kronecker product against np.kron, and its backward against finite differences."""

import itertools
import math
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kru_ref as kru
from kru_ref.sweeps import sweeps
from kru_ref.training.tasks import Copying

SHAPES = [
    [(2, 3), (5, 4), (1, 2)],
    [(3, 5)],
    [(1, 1)],
    [(2, 2)] * 5,
    [(4, 2), (1, 5), (6, 1), (2, 3)],
    [(7, 3), (2, 9)],
]
TOLERANCE = {"float32": 2e-5, "complex64": 2e-5, "float64": 1e-13, "complex128": 1e-13}
DTYPES = list(TOLERANCE)


def dense(factors):
    return reduce(np.kron, factors)


def assert_close(actual, expected, dtype):
    scale = np.abs(expected).max(initial=0) or 1.0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("B", [None, 0, 1, 7])
def test_matvec_is_the_dense_product(draw, backend, shapes, dtype, B):
    factors = [draw(shape, dtype) for shape in shapes]
    W = dense(factors)
    x = draw(W.shape[1] if B is None else (W.shape[1], B), dtype)
    y = kru.kron_matvec(factors, x, backend)
    assert y.dtype == dtype
    assert y.shape == (W @ x).shape
    assert_close(y, W @ x, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("B", [None, 0, 1, 7])
def test_backward_is_the_dense_gradient(draw, backend, shapes, dtype, B):
    """δL = Re⟨dy, δ(W x)⟩ contracted with δW = … ⊗ E_pq ⊗ …, entry by entry."""
    factors = [draw(shape, dtype) for shape in shapes]
    W = dense(factors)
    columns = () if B is None else (B,)
    x, dy = draw((W.shape[1], *columns), dtype), draw((W.shape[0], *columns), dtype)
    dfactors, dx = kru.kron_matvec_backward(factors, x, dy, backend)
    assert dx.dtype == dtype
    assert dx.shape == x.shape
    assert_close(dx, W.conj().T @ dy, dtype)
    dW = np.outer(dy, x.conj()) if B is None else dy @ x.conj().T
    for f, dfactor in enumerate(dfactors):
        expected = np.empty_like(factors[f])
        for index in np.ndindex(*expected.shape):
            unit = np.zeros_like(factors[f])
            unit[index] = 1
            # ⟨dL/dW, ∂W/∂W_f[p, q]⟩, conjugated: the coefficient of conj(δW_f[p, q])
            direction = dense([*factors[:f], unit, *factors[f + 1 :]])
            expected[index] = np.vdot(direction, dW)
        assert dfactor.dtype == dtype
        assert_close(dfactor, expected, dtype)


def test_backward_against_finite_differences(draw, backend, record_error):
    shapes = [(2, 3), (5, 4), (1, 2)]
    params = {f"W{f}": draw(shape) for f, shape in enumerate(shapes)}
    params["x"] = draw((24, 3))
    weights = draw((10, 3))

    def split(p):
        return [p[f"W{f}"] for f in range(len(shapes))], p["x"]

    def loss(p):
        y = kru.kron_matvec(*split(p), backend)
        return float(np.sum(np.sin(y.real) * weights.real + np.cos(y.imag) * weights.imag))

    y = kru.kron_matvec(*split(params), backend)
    dy = np.cos(y.real) * weights.real - 1j * np.sin(y.imag) * weights.imag
    dfactors, dx = kru.kron_matvec_backward(*split(params), dy, backend)
    grads = {f"W{f}": d for f, d in enumerate(dfactors)} | {"x": dx}
    report = kru.check_gradient(loss, params, grads, tolerance=1e-7)
    record_error(f"finite differences, {backend}", report.max_error)
    assert report, report


@pytest.mark.parametrize("factor_dtype", [*DTYPES, "int64", "bool", "int8", "float16"])
@pytest.mark.parametrize("x_dtype", [*DTYPES, "int32"])
def test_mixed_dtypes_promote_as_numpy(rng, backend, factor_dtype, x_dtype):
    factors = [
        rng.integers(0, 2, (2, 3)).astype(factor_dtype),
        rng.integers(-3, 4, (3, 2)).astype("int64"),
    ]
    x = rng.integers(-5, 6, (6, 2)).astype(x_dtype)
    expected = np.result_type(np.float32, factor_dtype, "int64", x_dtype)
    y = kru.kron_matvec(factors, x, backend)
    assert y.dtype == expected
    np.testing.assert_array_equal(y, dense([W.astype(expected) for W in factors]) @ x)


def test_gradients_live_in_the_space_of_their_values(draw, backend):
    factors = [draw((2, 3), "float32"), draw((3, 2), "complex128")]
    x, dy = draw((6, 2), "float64"), draw((6, 2), "complex64")
    dfactors, dx = kru.kron_matvec_backward(factors, x, dy, backend)
    assert [d.dtype.name for d in dfactors] == ["float32", "complex128"]
    assert dx.dtype == "float64"
    W = dense(factors)
    np.testing.assert_allclose(dx, (W.conj().T @ dy).real, rtol=1e-6)
    exact, _ = kru.kron_matvec_backward([W.astype(complex) for W in factors], x, dy, backend)
    np.testing.assert_allclose(dfactors[0], exact[0].real, rtol=1e-5)
    np.testing.assert_allclose(dfactors[1], exact[1], rtol=1e-6)


def test_any_memory_layout(draw, backend):
    factors = [draw((3, 2)), draw((4, 5))]
    x, dy = draw((10, 6)), draw((12, 6))
    expected = kru.kron_matvec(factors, x, backend)
    expected_back = kru.kron_matvec_backward(factors, x, dy, backend)
    strided = np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3]
    fortran = [np.asfortranarray(W) for W in factors]
    reversed_twice = np.ascontiguousarray(x[::-1])[::-1]
    for layout in (np.asfortranarray(x), strided, reversed_twice):
        np.testing.assert_array_equal(kru.kron_matvec(fortran, layout, backend), expected)
        dfactors, dx = kru.kron_matvec_backward(fortran, layout, np.asfortranarray(dy), backend)
        np.testing.assert_array_equal(dx, expected_back[1])
        for actual, wanted in zip(dfactors, expected_back[0], strict=True):
            np.testing.assert_array_equal(actual, wanted)


def test_arguments_are_left_alone(draw, backend):
    factors, x, dy = [draw((3, 2)), draw((4, 5))], draw((10, 6)), draw((12, 6))
    for array in (*factors, x, dy):
        array.setflags(write=False)
    y = kru.kron_matvec(factors, x, backend)
    dfactors, dx = kru.kron_matvec_backward(factors, x, dy, backend)
    for fresh in (y, dx, *dfactors):
        assert fresh.flags.writeable
        assert not any(np.shares_memory(fresh, given) for given in (*factors, x, dy))


def test_nan_stays_nan_and_in_its_column(draw, backend):
    factors = [draw((2, 2)), draw((3, 3))]
    x = draw((6, 2))
    x[4, 0] = np.nan
    y = kru.kron_matvec(factors, x, backend)
    assert np.isnan(y[:, 0]).all()
    np.testing.assert_allclose(y[:, 1], dense(factors) @ x[:, 1])


def count_calls(monkeypatch, kernels):
    """Count the calls of each compiled function."""
    calls = dict.fromkeys(("matvec", "matvec_backward"), 0)
    calls |= dict.fromkeys(("recurrence_forward", "recurrence_backward"), 0)

    def counting(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    for name in calls:
        monkeypatch.setattr(kernels, name, counting(name, getattr(kernels, name)))
    return calls


def test_the_backend_asked_for_is_the_one_that_computes(draw, rng, monkeypatch):
    kernels = pytest.importorskip(
        "kru_ref.engine._kernels", reason="the compiled kernels are not built"
    )
    calls = count_calls(monkeypatch, kernels)
    factors, x = [draw((2, 2)), draw((3, 3))], draw((6, 2))
    for backend, expected in (("numpy", 0), ("cython", 1), ("auto", 2)):
        kru.kron_matvec(factors, x, backend)
        kru.kron_matvec_backward(factors, x, x, backend)
        _ = kru.KroneckerProduct(factors, backend) @ x
        model = Copying(delay=3, hidden_size=8, backend=backend).model()
        params = model.init(rng)
        logits, saved = model.forward(params, np.zeros((4, 1), int))
        model.backward(params, saved, logits)
        assert calls == {
            "matvec": 2 * expected,
            "matvec_backward": expected,
            "recurrence_forward": expected,
            "recurrence_backward": expected,
        }


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_long_sums_keep_single_precision(rng, backend, dtype):
    """Gradients sum over all rows and columns: here four million products of one sign."""
    factors = [np.eye(2, dtype=dtype)] * 10
    x = rng.uniform(0.5, 1.5, (1024, 2000)).astype(dtype)
    dfactors, _ = kru.kron_matvec_backward(factors, x, x, backend)
    exact, _ = kru.kron_matvec_backward([W.astype(complex) for W in factors], x, x, "numpy")
    for single, reference in zip(dfactors, exact, strict=True):
        assert np.abs(single - reference).max() < 2e-5 * np.abs(reference).max()


@pytest.mark.parametrize("shapes", [[(2, 3), (5, 4), (1, 2)], [(6, 1), (1, 6), (2, 2)]])
def test_backends_agree(draw, shapes):
    pytest.importorskip("kru_ref.engine._kernels", reason="no compiled kernels")
    factors = [draw(shape) for shape in shapes]
    x = draw((math.prod(Q for _, Q in shapes), 5))
    dy = draw((math.prod(P for P, _ in shapes), 5))
    by_numpy = kru.kron_matvec_backward(factors, x, dy, "numpy")
    by_cython = kru.kron_matvec_backward(factors, x, dy, "cython")
    np.testing.assert_allclose(by_numpy[1], by_cython[1], rtol=1e-12)
    for a, b in zip(by_numpy[0], by_cython[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


sizes = st.tuples(st.integers(1, 7), st.integers(1, 7))


@given(st.lists(sizes, min_size=1, max_size=5))
def test_the_order_of_sweeps_is_the_cheapest(shapes):
    """Against all orders: dynamic programming over the set of factors applied so far."""

    def cost_of(applied, f):
        others = [shapes[g][0] if g in applied else shapes[g][1] for g in range(len(shapes))]
        del others[f]
        return math.prod(shapes[f]) * math.prod(others)

    best = {frozenset(): 0}
    for _ in shapes:
        grown = {}
        for applied, cost in best.items():
            for f in set(range(len(shapes))) - applied:
                key = applied | {f}
                grown[key] = min(grown.get(key, math.inf), cost + cost_of(applied, f))
        best = grown
    ours, applied = 0, frozenset()
    for sweep in sweeps(tuple(shapes), 1):
        ours += cost_of(applied, sweep.factor)
        applied |= {sweep.factor}
    assert ours == best[frozenset(range(len(shapes)))]


@given(st.lists(sizes, min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_any_factors_and_batch(shapes, B, seed):
    rng = np.random.default_rng(seed)
    factors = [rng.standard_normal(s) + 1j * rng.standard_normal(s) for s in shapes]
    x = rng.standard_normal((math.prod(Q for _, Q in shapes), B)) * (1 - 2j)
    expected = dense(factors) @ x
    for backend in ("numpy", "auto"):
        y = kru.kron_matvec(factors, x, backend)
        np.testing.assert_allclose(y, expected, atol=1e-12 * (1 + np.abs(expected).max(initial=0)))


def test_a_million_rows(draw, backend):
    factors = [draw((2, 2), "complex64") for _ in range(20)]
    x = draw(2**20, "complex64")
    y = kru.kron_matvec(factors, x, backend)
    # one row of W, the outer product of the factors' rows
    row = 0b10110011100011110101
    bits = [row >> (19 - f) & 1 for f in range(20)]
    weights = reduce(
        np.kron, [W[bit].astype(complex) for W, bit in zip(factors, bits, strict=True)]
    )
    scale = np.linalg.norm(weights) * np.linalg.norm(x)
    assert abs(y[row] - weights @ x) < 1e-6 * scale


@pytest.mark.parametrize(
    ("factors", "x", "message"),
    [
        ([], np.ones(1), "^factors must hold at least one matrix, got none$"),
        ([np.ones(3)], np.ones(3), r"factor 0 must be a non-empty matrix.*got shape \(3,\)"),
        ([np.ones((2, 2)), np.ones((2, 0))], np.ones(0), "factor 1 must be a non-empty"),
        ([np.ones((2, 3))], np.ones(2), r"^x must have shape \(3,\) or \(3, B\).*got \(2,\)"),
        ([np.ones((2, 3))], np.ones((3, 1, 1)), r"got \(3, 1, 1\)"),
        ([np.ones((2, 3))], np.float64(1), r"got \(\)"),
        ([[[1, 2, 3]]], [1, 2], r"^x must have shape \(3,\) or \(3, B\).*got \(2,\)"),
    ],
)
def test_wrong_shapes(backend, factors, x, message):
    with pytest.raises(ValueError, match=message):
        kru.kron_matvec(factors, x, backend)


@pytest.mark.parametrize(
    "bad", [np.array([["a"]]), np.array([[None]]), np.ones((1, 1), "clongdouble")]
)
def test_wrong_dtypes(backend, bad):
    with pytest.raises(TypeError, match=r"expected .*numbers"):
        kru.kron_matvec([bad], np.ones(1), backend)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            np.zeros((1, 1), "datetime64[D]"),
            r"^factor 0: expected real or complex numbers, got datetime64\[D\] in a ndarray",
        ),
        (
            np.ones((1, 1), "clongdouble"),
            "^expected numbers that fit one of float32, float64, complex64, complex128, got "
            "(clongdouble|complex256), float64; ",
        ),
    ],
)
def test_what_a_wrong_dtype_is_told(backend, bad, message):
    with pytest.raises(TypeError, match=message):
        kru.kron_matvec([bad], np.ones(1), backend)


def test_gradients_of_integers_are_fractions(backend):
    (dW,), dx = kru.kron_matvec_backward([np.array([[1, 2]])], [1, 3], [0.25], backend)
    np.testing.assert_array_equal(dW, [[0.25, 0.75]])
    np.testing.assert_array_equal(dx, [0.25, 0.5])


def test_the_widest_argument_decides_how_gradients_are_computed(backend):
    """In single precision 1 + 2^-40 is 1, and 1 - 1 leaves nothing."""
    wide, narrow = np.array([[1 + 2.0**-40, -1.0]]), np.ones((1, 2), "float32")
    for x, dy in ((wide, narrow), (narrow, wide)):
        (dW,), _ = kru.kron_matvec_backward([np.ones((1, 1), "float32")], x, dy, backend)
        assert dW.dtype == "float32"
        assert dW == 2.0**-40


def test_bad_rows_of_a_backward_pass(backend):
    with pytest.raises(ValueError, match=r"^x must have shape \(3,\) or \(3, B\).*got \(2,\)"):
        kru.kron_matvec_backward([np.ones((2, 3))], np.ones(2), np.ones(2), backend)


def test_wrong_gradient_shape(backend):
    with pytest.raises(ValueError, match=r"dy must have the shape of y, \(2, 4\), got \(3, 4\)"):
        kru.kron_matvec_backward([np.ones((2, 3))], np.ones((3, 4)), np.ones((3, 4)), backend)


def test_unknown_backend():
    with pytest.raises(ValueError, match="auto, numpy, cython, got 'fortran'"):
        kru.kron_matvec([np.eye(2)], np.ones(2), "fortran")


@pytest.mark.parametrize(
    ("N", "n_factors", "expected"),
    [
        (512, None, (2,) * 9),
        (300, 3, (5, 6, 10)),
        (300, None, (2, 2, 3, 5, 5)),
        (1, None, (1,)),
        (1, 1, (1,)),
        (2, None, (2,)),
        (2**40, None, (2,) * 40),
        (97, None, (97,)),
        (64, 2, (8, 8)),
        (360, 4, (3, 4, 5, 6)),
    ],
)
def test_factor_sizes(N, n_factors, expected):
    assert kru.factor_sizes(N, n_factors) == expected


@given(st.integers(1, 3000), st.data())
def test_factor_sizes_multiply_to_the_whole(N, data):
    primes = kru.factor_sizes(N)
    n_factors = data.draw(st.integers(1, len(primes)))
    sizes = kru.factor_sizes(N, n_factors)
    assert len(sizes) == n_factors
    assert math.prod(sizes) == N
    assert list(sizes) == sorted(sizes)
    assert N == 1 or min(sizes) >= 2
    for i, j in itertools.combinations(range(n_factors), 2):  # no two could be better balanced
        product = sizes[i] * sizes[j]
        pairs = [(s, product // s) for s in range(2, product) if product % s == 0]
        assert all(a * a + b * b >= sizes[i] ** 2 + sizes[j] ** 2 for a, b in pairs)


@pytest.mark.parametrize("bad", [8.5, "8", None])
def test_sizes_are_integers(bad):
    with pytest.raises(TypeError):
        kru.factor_sizes(bad)
    assert kru.factor_sizes(np.int64(8)) == (2, 2, 2)


@pytest.mark.parametrize(("N", "n_factors"), [(0, None), (-8, 2), (8, 4), (7, 2), (8, 0), (1, 2)])
def test_factor_sizes_refuses(N, n_factors):
    with pytest.raises(ValueError, match="must be"):
        kru.factor_sizes(N, n_factors)
    with pytest.raises(ValueError, match=r"between 1 and 1 for N = 1 .*, got 2"):
        kru.factor_sizes(1, 2)


def test_sums_over_a_large_batch_keep_their_digits(rng, backend):
    for factors in ([(2, 2), (2, 2)], [(4, 4)], [(40, 40)]):
        rows = math.prod(P for P, _ in factors)
        Ws = [rng.standard_normal(shape).astype("float32") for shape in factors]
        x, dy = rng.uniform(0.5, 1.5, (2, rows, 4_000_000 // rows)).astype("float32")
        found, _ = kru.kron_matvec_backward(Ws, x, dy, backend)
        wide = [a.astype(float) for a in (*Ws, x, dy)]
        exact, _ = kru.kron_matvec_backward(wide[:-2], *wide[-2:], "numpy")
        for got, want in zip(found, exact, strict=True):
            assert np.abs(got - want).max() <= 5e-7 * np.abs(want).max()
