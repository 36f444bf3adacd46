"""The recurrent matrices: what they are, their gradients, and the unitary ones' unitarity."""

import math

import numpy as np
import pytest

import kru_ref as kru

N = 12


MATRICES = [
    kru.Dense(),
    kru.Dense("glorot"),
    kru.Dense("identity"),
    kru.Kronecker(((2, 3), (3, 2), (2, 2)), "numpy"),
    kru.RestrictedUnitary(),
    kru.RestrictedUnitary(permutation_seed=5),
    kru.FullUnitary(),
]


def moved(matrix, dtype, rng):
    return [
        (W + rng.uniform(-0.2, 0.2, W.shape)).astype(W.dtype) for W in matrix.init(N, rng, dtype)
    ]


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_shapes_and_dtypes(rng, draw, matrix, dtype):
    dtype = np.dtype(dtype)
    W = matrix.init(N, rng, dtype)
    assert [(w.shape, w.dtype) for w in W] == list(matrix.layout(N, dtype).values())
    h, dy = draw((N, 3), dtype), draw((N, 3), dtype)
    y = matrix.matvec(W, h)
    dW, dh = matrix.gradient(W, h, dy), matrix.adjoint(W, dy)
    assert (y.dtype, y.shape, dh.dtype, dh.shape) == (dtype, (N, 3), dtype, (N, 3))
    assert [(d.dtype, d.shape) for d in dW] == [(w.dtype, w.shape) for w in W]
    value, dW = matrix.penalty(W)
    assert isinstance(value, float)
    assert [d.shape for d in dW] == [w.shape for w in W]


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("B", [1, 3])
def test_every_gradient(rng, draw, matrix, dtype, B, record_error):
    W = moved(matrix, np.dtype(dtype), rng)
    h, dy = draw((N, B), dtype), draw((N, B), dtype)
    values = {str(k): w for k, w in enumerate(W)} | {"h": h}

    def loss(p):
        y = matrix.matvec([p[str(k)] for k in range(len(W))], p["h"])
        return float(np.vdot(dy, y).real)

    dW, dh = matrix.gradient(W, h, dy), matrix.adjoint(W, dy)
    grads = {str(k): d for k, d in enumerate(dW)} | {"h": dh}
    report = kru.check_gradient(loss, values, grads, tolerance=1e-7)
    record_error("finite differences, matrices", report.max_error)
    assert report, report


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_adjoint(rng, draw, matrix, dtype):
    W = moved(matrix, np.dtype(dtype), rng)
    h, dy = draw((N, 3), dtype), draw((N, 3), dtype)
    dh = matrix.adjoint(W, dy)
    forward, backward = np.vdot(dy, matrix.matvec(W, h)), np.vdot(dh, h)
    if dtype == "float64" or not isinstance(matrix, kru.RestrictedUnitary):
        assert forward == pytest.approx(backward, rel=1e-12)
    assert forward.real == pytest.approx(backward.real, rel=1e-12)


DIAGONAL = kru.Diagonal(0.5, 0.9, max_phase=1.0)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_a_diagonal_matrix_is_one(rng, draw, dtype):
    dtype = np.dtype(dtype)
    W = DIAGONAL.init(N, rng, dtype)
    assert [(w.shape, w.dtype) for w in W] == list(DIAGONAL.layout(N, dtype).values())
    nu, theta = (w.astype(float) for w in W)
    dense = np.diag(np.exp(-np.exp(nu)) * np.exp(1j * np.exp(theta)))
    h, dy, tolerance = draw((N, 3), dtype), draw((N, 3), dtype), 50 * np.finfo(dtype).eps
    for found, expected in (
        (DIAGONAL.matvec(W, h), dense @ h),
        (DIAGONAL.adjoint(W, dy), dense.conj().T @ dy),
    ):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert DIAGONAL.defect(W) == pytest.approx(1 - (np.abs(np.diag(dense)) ** 2).min(), rel=1e-5)
    value, gradients = DIAGONAL.penalty(W)
    assert value == 0
    assert all(w.shape == d.shape and not d.any() for w, d in zip(W, gradients, strict=True))


@pytest.mark.parametrize("B", [1, 3])
def test_every_gradient_of_a_diagonal_matrix(rng, draw, B, record_error):
    W = moved(DIAGONAL, np.dtype("complex128"), rng)
    h, dy = draw((N, B), "complex128"), draw((N, B), "complex128")

    def loss(p):
        return float(np.vdot(dy, DIAGONAL.matvec([p["nu"], p["theta"]], p["h"])).real)

    grads = dict(zip(("nu", "theta"), DIAGONAL.gradient(W, h, dy), strict=True))
    values = {"nu": W[0], "theta": W[1], "h": h}
    report = kru.check_gradient(
        loss, values, grads | {"h": DIAGONAL.adjoint(W, dy)}, tolerance=1e-7
    )
    record_error("finite differences, matrices", report.max_error)
    assert report, report


def test_where_eigenvalues_start(rng):
    """Uniform on the ring: as much of its area, as many of them."""
    matrix = kru.Diagonal(0.4, 0.8, max_phase=math.pi)
    values = matrix.eigenvalues(matrix.init(20_000, rng, np.dtype("complex128")))
    radii, angles = np.abs(values), np.angle(values)
    assert 0.4 <= radii.min() < 0.405
    assert 0.795 < radii.max() <= 0.8
    assert np.mean(radii < 0.6) == pytest.approx((0.36 - 0.16) / (0.64 - 0.16), abs=0.02)
    assert 0 < angles.min() < 0.01
    assert 3.13 < angles.max() <= math.pi
    assert np.mean(angles < 1) == pytest.approx(1 / math.pi, abs=0.02)
    assert kru.LRU(1, 7).n_recurrent_parameters == 14


@pytest.mark.parametrize("r_max", [1e-200, 0.5, 1 - 1e-9])
def test_eigenvalues_at_the_ends_of_what_they_may_be(rng, r_max):
    """Near 1 single precision does not tell |λ| from it, but 1 - |λ|² of γ is right."""
    for dtype in ("complex64", "complex128"):
        cell = kru.LRU(2, 500, kru.Diagonal(0.0 if r_max < 0.9 else r_max, r_max), dtype)
        params = cell.init(rng)
        h, saved = cell.forward(params, rng.standard_normal((4, 2, 3)))
        grads, _, _ = cell.backward(params, saved, h)
        assert all(np.isfinite(a).all() for a in (*params.values(), *grads.values()))
        if r_max > 0.9:
            np.testing.assert_allclose(np.exp(2 * params["gamma"]), 2e-9, rtol=1e-4)


def test_parameter_counts():
    for N in (128, 512):
        cell = kru.RNN(1, N, kru.RestrictedUnitary(), "modrelu", "complex64")
        assert cell.n_recurrent_parameters == 7 * N
        cell = kru.RNN(1, N, kru.FullUnitary(), "modrelu", "complex64")
        assert cell.n_recurrent_parameters == 2 * N * N
        assert kru.RNN(1, N).n_recurrent_parameters == N * N


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("activation", ["modrelu", "identity"])
@pytest.mark.parametrize("matrix", MATRICES[4:], ids=str)
def test_gradients_through_time(rng, dtype, activation, matrix, record_error):
    cell = kru.RNN(3, N, matrix, activation, dtype)
    params = cell.init(rng)
    params["b"] = rng.uniform(-0.2, 0.2, N)
    x, weights = rng.standard_normal((5, 3, 2)), rng.standard_normal((5, N, 2))

    def loss(p):
        h, _ = cell.forward(p, x)
        return float(np.sum(weights * np.abs(h + 0.3) ** 2))

    h, saved = cell.forward(params, x)
    grads, _, _ = cell.backward(params, saved, 2 * weights * (h + 0.3))
    report = kru.check_gradient(loss, params, grads, entries=20, rng=rng, tolerance=1e-7)
    record_error("finite differences, unitary matrices", report.max_error)
    assert report, report


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("make", [kru.SGD, kru.RMSprop, kru.Adam])
def test_full_unitary_stays_unitary(rng, draw, dtype, make):
    """To rounding, over 10,000 updates along whatever gradients."""
    cell = kru.RNN(3, 8, kru.FullUnitary(), "modrelu", dtype)
    params = {"W": cell.init(rng)["W"]}
    assert cell.unitary_names == ("W",)
    optimizer = make(rate=0.05, unitary=cell.unitary_names)
    state, first = optimizer.init(params), params["W"]
    for _ in range(10_000):
        params, state = optimizer.update(params, {"W": draw((8, 8), dtype)}, state)
    assert params["W"].dtype == dtype
    assert np.linalg.norm(params["W"] - first) > 1
    assert kru.unitarity_defect([params["W"]]) < 20 * np.finfo(dtype).eps


def test_cayley_goes_downhill(rng, draw):
    """To first order by rate · ½‖A‖², and from a random unitary matrix to a given one."""
    from kru_ref.optimizers import cayley

    W, target = (kru.random_unitary(6, rng) for _ in range(2))

    def loss(W):
        return np.linalg.norm(W - target) ** 2

    G = 2 * (W - target)
    A = G @ W.conj().T - W @ G.conj().T
    rate = 1e-6
    drop = (loss(W) - loss(cayley(W, G, rate))) / rate
    assert drop == pytest.approx(np.linalg.norm(A) ** 2 / 2, rel=1e-4)
    for _ in range(300):
        W = cayley(W, 2 * (W - target), 0.2)
    assert loss(W) < 1e-12
    np.testing.assert_allclose(cayley(W, G, 0.0), W, rtol=0, atol=1e-14)


def test_other_parameters_move_as_without(rng, draw):
    params = {"W": kru.random_unitary(4, rng), "U": draw((4, 3))}
    grads = {"W": draw((4, 4)), "U": draw((4, 3))}
    results = []
    for unitary in ((), ("W",)):
        optimizer = kru.Adam(unitary=unitary)
        results.append(optimizer.update(params, grads, optimizer.init(params))[0])
    np.testing.assert_array_equal(results[0]["U"], results[1]["U"])
    assert kru.unitarity_defect([results[0]["W"]]) > 1e-4
    assert kru.unitarity_defect([results[1]["W"]]) < 1e-14


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kru.RestrictedUnitary(-1), "permutation_seed must be at least 0, got -1"),
        (lambda: kru.RNN(3, 5, kru.RestrictedUnitary()), "hidden_size must be even, got 5"),
        (lambda: kru.Diagonal(0.9, 0.8), "0 ≤ r_min ≤ r_max < 1, .* got 0.9 and 0.8"),
        (lambda: kru.Diagonal(0.9, 1.0), "r_max < 1, .* got 0.9 and 1.0"),
        (lambda: kru.Diagonal(0.0, 0.0), "r_max above 0"),
        (lambda: kru.Diagonal(max_phase=7), "max_phase must be above 0 and at most 2π, got 7"),
        (lambda: kru.Adam(unitary=["V"]).init({"W": np.eye(3)}), "no square matrix is called 'V'"),
        (lambda: kru.Adam(unitary=["U"]).init({"U": np.ones((3, 2))}), "no square matrix"),
    ],
)
def test_bad_descriptions(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_any_memory_layout_and_precision(rng, draw, matrix, dtype, backend):
    """Values count, not where they lie; h of another precision is promoted."""
    if isinstance(matrix, kru.Kronecker):
        matrix = kru.Kronecker(matrix.factors, backend)
    W = moved(matrix, np.dtype(dtype), rng)
    h, dy = draw((N, 4), dtype), draw((N, 4), dtype)
    expected = [matrix.matvec(W, h), matrix.adjoint(W, dy), *matrix.gradient(W, h, dy)]
    for lay in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2]):
        own = [lay(w) for w in W]
        laid = [
            matrix.matvec(own, lay(h)),
            matrix.adjoint(own, lay(dy)),
            *matrix.gradient(own, lay(h), lay(dy)),
        ]
        for a, b in zip(laid, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    wide = h.astype(np.result_type(dtype, np.float64))
    np.testing.assert_allclose(matrix.matvec(W, wide), expected[0], rtol=0, atol=1e-5)


def test_rate_0_freezes_a_unitary_matrix(rng, draw):
    params = {"W": kru.random_unitary(4, rng)}
    optimizer = kru.Adam(unitary=["W"], rates={"W": 0.0})
    moved_, _ = optimizer.update(params, {"W": draw((4, 4))}, optimizer.init(params))
    np.testing.assert_array_equal(moved_["W"], params["W"])


def test_a_matrix_that_is_always_unitary_costs_nothing(rng):
    W = kru.FullUnitary().init(N, rng, np.dtype("complex128"))
    strength, gradient = kru.FullUnitary().penalty(W)
    assert strength == 0
    np.testing.assert_array_equal(gradient, np.zeros((1, N, N)))


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_how_a_dense_matrix_starts(rng, dtype):
    n = 40
    start = lambda scheme: kru.Dense(scheme).init(n, rng, np.dtype(dtype))[0]  # noqa: E731
    assert kru.unitarity_defect([start("haar")]) < 1e-5
    assert abs(np.trace(start("haar"))) < 10  # 40 for the identity
    np.testing.assert_array_equal(start("identity"), np.eye(n))
    W = start("glorot")
    assert W.dtype == dtype
    limit = math.sqrt(6 / (n + n))
    parts = [W.real, W.imag] if W.dtype.kind == "c" else [W]
    for part in parts:
        bound = limit / math.sqrt(len(parts))
        assert 0.99 * bound < np.abs(part).max() <= bound * (1 + 1e-6)
        assert abs(part.mean()) < 0.05 * bound
    if len(parts) == 2:
        assert abs(np.corrcoef(parts[0].ravel(), parts[1].ravel())[0, 1]) < 0.1


def test_descriptions_given_as_lists_are_the_same_descriptions():
    matrix = kru.Kronecker([[2, 3], np.array([3, 2])])
    assert matrix == kru.Kronecker(((2, 3), (3, 2)))
    assert {matrix: "as a key"}[kru.Kronecker(((2, 3), (3, 2)))] == "as a key"
    assert kru.Adam(unitary=["cell.W"]).unitary == ("cell.W",)


def test_spread_factors_keep_their_dtype(rng):
    for W in kru.Kronecker(init_scheme="spread").init(8, rng, np.dtype("complex64")):
        assert W.dtype == "complex64"


def test_a_size_with_a_large_prime_comes_with_a_warning():
    """It would be a dense factor, and nobody would know."""
    with pytest.warns(UserWarning, match=r"has the prime factor 127: .* 126 and 128 have small"):
        kru.KRU(3, 127)
    with pytest.warns(UserWarning, match=r"has the prime factor 37: .* 72 and 75 have small"):
        kru.LSTM(3, 74, kru.Kronecker())
    kru.KRU(3, 62)
    kru.KRU(3, 127, [(127, 127)])
