"""The recurrence against a dense loop, and back-propagation through time."""

from functools import reduce

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.activations import ACTIVATIONS

FACTORS = {
    "mixed": ((2, 3), (3, 2), (2, 2)),
    "wide first": ((1, 4), (12, 3)),
    "one": ((12, 12),),
    "primes": None,
}
KINDS = [(name, dtype) for name in ACTIVATIONS for dtype in ("float64", "complex128")]
KINDS = [(n, d) for n, d in KINDS if ACTIVATIONS[n].on_complex or d == "float64"]
N, D = 12, 3


def make_cell(matrix, activation, dtype, backend="numpy", **kwargs):
    if matrix == "dense":
        return kru.RNN(D, N, kru.Dense(backend=backend), activation, dtype, **kwargs)
    return kru.KRU(D, N, FACTORS[matrix], activation, dtype, backend=backend, **kwargs)


def drawn_params(cell, rng):
    params = cell.init(rng)
    params["b"] = rng.uniform(-0.2, 0.2, N).astype(cell.real_dtype)
    for name in cell.matrix_names:
        params[name] = params[name] * (0.8 + 0.4 * rng.random())
    return params


def dense_matrix(cell, params):
    return reduce(np.kron, [params[name] for name in cell.matrix_names])


@pytest.mark.parametrize("matrix", [*FACTORS, "dense"])
@pytest.mark.parametrize(("activation", "dtype"), KINDS)
def test_forward_is_the_recurrence(rng, draw, matrix, activation, dtype, backend):
    cell = make_cell(matrix, activation, dtype, backend)
    params = drawn_params(cell, rng)
    x = rng.standard_normal((4, D, 2))
    h, _ = cell.forward(params, x)
    W, state = dense_matrix(cell, params), np.repeat(params["h0"][:, None], 2, axis=1)
    for t in range(4):
        z = W @ state + params["U"] @ x[t]
        state = ACTIVATIONS[activation].forward(z, params["b"])
        np.testing.assert_allclose(h[t], state, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("matrix", [*FACTORS, "dense"])
@pytest.mark.parametrize(("activation", "dtype"), KINDS)
@pytest.mark.parametrize(("T", "B"), [(1, 1), (2, 3), (5, 1)])
@pytest.mark.parametrize("inputs", ["real", "complex", "one-hot"])
def test_every_gradient(rng, draw, matrix, activation, dtype, T, B, inputs, backend, record_error):
    """Of params, x and a given h0, under a loss that mixes all of h."""
    if inputs == "complex" and dtype != "complex128":
        inputs = "real"
    cell = make_cell(matrix, activation, dtype, backend)
    params = drawn_params(cell, rng)
    x = rng.integers(D, size=(T, B)) if inputs == "one-hot" else draw((T, D, B), "float64")
    if inputs == "complex":
        x = x + 1j * draw((T, D, B), "float64")
    weights = draw((T, N, B), dtype)

    def run(values):
        own = {k: v for k, v in values.items() if k not in ("x", "given")}
        return cell.forward(own, values.get("x", x), values.get("given"))

    def loss(values):
        h, _ = run(values)
        value = np.sum(weights.real * np.sin(h.real))
        if cell.is_complex:
            value += np.sum(weights.imag * np.cos(h.imag) * h.real)
        return float(value)

    def gradient(h):
        dh = weights.real * np.cos(h.real)
        if not cell.is_complex:
            return dh
        dh = dh + weights.imag * np.cos(h.imag)
        return dh - 1j * weights.imag * np.sin(h.imag) * h.real

    for given in ({}, {"given": draw((N, B), dtype)}):
        values = params | given
        if inputs != "one-hot":
            values = values | {"x": x}
        h, saved = run(values)
        grads, dx, dh0 = cell.backward(params, saved, gradient(h))
        expected = dict(grads)
        if given:
            expected["given"] = dh0
            np.testing.assert_array_equal(grads["h0"], 0)
        else:
            np.testing.assert_allclose(grads["h0"], dh0.sum(axis=1))
        if inputs == "one-hot":
            assert dx is None
        else:
            expected["x"] = dx
        report = kru.check_gradient(loss, values, expected, entries=12, rng=rng, tolerance=1e-7)
        record_error(f"finite differences, {backend}", report.max_error)
        assert report, report


@pytest.mark.parametrize(("activation", "dtype"), KINDS)
def test_one_hot_is_a_look_up(rng, draw, activation, dtype, backend):
    cell = make_cell("mixed", activation, dtype, backend)
    params = drawn_params(cell, rng)
    labels = rng.integers(D, size=(6, 4))
    one_hot = (labels[:, None] == np.arange(D)[:, None]).astype(float)
    h, saved = cell.forward(params, labels)
    h_dense, saved_dense = cell.forward(params, one_hot)
    np.testing.assert_allclose(h, h_dense, rtol=1e-12, atol=1e-14)
    dh = draw(h.shape, dtype)
    grads, dx, _ = cell.backward(params, saved, dh)
    grads_dense, dx_dense, _ = cell.backward(params, saved_dense, dh)
    assert dx is None
    assert dx_dense.shape == one_hot.shape
    for name in grads:
        np.testing.assert_allclose(grads[name], grads_dense[name], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("activation", "dtype"), KINDS)
def test_chunks_carry_state_and_gradient(rng, draw, activation, dtype, backend):
    """BPTT in one piece equals BPTT in chunks whose dh0 is handed back to the chunk before."""
    cell = make_cell("mixed", activation, dtype, backend)
    params = drawn_params(cell, rng)
    x, dh = rng.standard_normal((7, D, 3)), draw((7, N, 3), dtype)
    h, saved = cell.forward(params, x)
    grads, dx, dh0 = cell.backward(params, saved, dh)

    first, saved_first = cell.forward(params, x[:4])
    second, saved_second = cell.forward(params, x[4:], h0=first[-1])
    np.testing.assert_array_equal(np.concatenate([first, second]), h)
    grads_second, dx_second, carried = cell.backward(params, saved_second, dh[4:])
    dh_first = dh[:4].copy()
    dh_first[-1] += carried
    grads_first, dx_first, dh0_first = cell.backward(params, saved_first, dh_first)
    np.testing.assert_allclose(np.concatenate([dx_first, dx_second]), dx, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(dh0_first, dh0, rtol=1e-11, atol=1e-12)
    for name in grads:
        total = grads_first[name] + grads_second[name]
        np.testing.assert_allclose(total, grads[name], rtol=1e-10, atol=1e-11)


def test_a_short_dh_belongs_to_the_last_steps(rng, draw, backend):
    cell = make_cell("mixed", "modrelu", "complex128", backend)
    params = drawn_params(cell, rng)
    _, saved = cell.forward(params, rng.standard_normal((5, D, 2)))
    last = draw((2, N, 2))
    padded = np.concatenate([np.zeros((3, N, 2)), last])
    short, dx, _ = cell.backward(params, saved, last)
    full, dx_full, _ = cell.backward(params, saved, padded)
    np.testing.assert_array_equal(dx, dx_full)
    for name in short:
        np.testing.assert_array_equal(short[name], full[name])


@pytest.mark.parametrize("layout", ["fortran", "transposed", "strided", "read-only"])
@pytest.mark.parametrize("inputs", ["real", "one-hot"])
def test_any_memory_layout(rng, draw, backend, layout, inputs):
    """Of x, h0, dh, logits' gradient and parameters: values count, not where they lie."""

    def laid_out(a):
        if layout == "fortran":
            return np.asfortranarray(a)
        if layout == "transposed":  # as a batch that came as (B, T, D)
            return np.ascontiguousarray(np.moveaxis(a, -1, 0)).transpose(*range(1, a.ndim), 0)
        if layout == "strided":
            return np.repeat(a, 2, axis=-1)[..., ::2]
        a = a.copy()
        a.setflags(write=False)
        return a

    model = kru.SequenceModel(make_cell("mixed", "modrelu", "complex128", backend), 4)
    params = model.init(rng)
    cell_params = {k.removeprefix("cell."): p for k, p in params.items() if k.startswith("cell.")}
    x = rng.integers(D, size=(5, 3)) if inputs == "one-hot" else rng.standard_normal((5, D, 3))
    h0, dh, dlogits = draw((N, 3)), draw((5, N, 3)), rng.standard_normal((5, 4, 3))
    results = []
    for lay in (np.ascontiguousarray, laid_out):
        own = {name: lay(p) for name, p in cell_params.items()}
        h, saved = model.cell.forward(own, lay(x), lay(h0))
        grads, dx, dh0 = model.cell.backward(own, saved, lay(dh))
        all_params = {name: lay(p) for name, p in params.items()}
        logits, model_saved = model.forward(all_params, lay(x), lay(h0))
        model_grads = model.backward(all_params, model_saved, lay(dlogits))
        gradients = [dh0, *grads.values(), *model_grads.values()]
        results.append([h, logits, *gradients, *([] if dx is None else [dx])])
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


def test_sequences_of_a_batch_are_independent(rng, draw, backend):
    cell = make_cell("mixed", "modrelu", "complex128", backend)
    params = drawn_params(cell, rng)
    x, dh = rng.standard_normal((5, D, 3)), draw((5, N, 3))
    h, saved = cell.forward(params, x)
    grads, dx, _ = cell.backward(params, saved, dh)
    totals = dict.fromkeys(grads, 0)
    for b in range(3):
        h_b, saved_b = cell.forward(params, x[:, :, b : b + 1])
        np.testing.assert_allclose(h_b[..., 0], h[..., b], rtol=1e-12, atol=1e-14)
        grads_b, dx_b, _ = cell.backward(params, saved_b, dh[..., b : b + 1])
        np.testing.assert_allclose(dx_b[..., 0], dx[..., b], rtol=1e-11, atol=1e-13)
        totals = {name: totals[name] + grads_b[name] for name in totals}
    for name in grads:
        np.testing.assert_allclose(totals[name], grads[name], rtol=1e-10, atol=1e-12)


def test_only_h_is_kept(rng):
    """For BPTT the input, the first state and the hidden states: T·N·B numbers, not more."""
    cell = kru.KRU(D, 64, dtype="complex64")
    x = rng.standard_normal((50, D, 8)).astype("float32")
    h, saved = cell.forward(cell.init(rng), x)
    arrays = [saved.x, *saved.before, *saved.states, saved.gates]
    assert any(np.shares_memory(a, h) for a in arrays)
    assert sum(a.size for a in arrays) == h.size + x.size + 64 * 8


def test_without_learned_h0(rng, draw):
    cell = make_cell("mixed", "modrelu", "complex128", learned_h0=False)
    params = cell.init(rng)
    assert "h0" not in params
    x = rng.standard_normal((3, D, 2))
    h, saved = cell.forward(params, x)
    h_zero, _ = cell.forward(params, x, h0=np.zeros((N, 2)))
    np.testing.assert_array_equal(h, h_zero)
    grads, _, dh0 = cell.backward(params, saved, draw(h.shape))
    assert grads.keys() == params.keys()
    assert dh0.shape == (N, 2)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision_agrees_with_double(rng, draw, dtype, backend):
    double = {"float32": "float64", "complex64": "complex128"}[dtype]
    cell, exact = (make_cell("mixed", "modrelu", d, backend) for d in (dtype, double))
    params = drawn_params(cell, rng)
    wide = {k: v.astype(exact.dtypes()[k]) for k, v in params.items()}
    x = rng.standard_normal((20, D, 3)).astype("float32")
    h, saved = cell.forward(params, x)
    h_exact, saved_exact = exact.forward(wide, x)
    assert h.dtype == dtype
    np.testing.assert_allclose(h, h_exact, rtol=0, atol=2e-5 * np.abs(h_exact).max())
    dh = draw(h.shape, dtype)
    grads, dx, dh0 = cell.backward(params, saved, dh)
    grads_exact, dx_exact, dh0_exact = exact.backward(wide, saved_exact, dh)
    pairs = [(dx, dx_exact), (dh0, dh0_exact), *((grads[k], grads_exact[k]) for k in grads)]
    assert {k: g.dtype for k, g in grads.items()} == {k: p.dtype for k, p in params.items()}
    for single, reference in pairs:
        np.testing.assert_allclose(single, reference, rtol=0, atol=1e-4 * np.abs(reference).max())


def test_initialisation(rng):
    cell = kru.KRU(10, 512)
    params = cell.init(rng)
    assert (cell.dtype, cell.activation) == ("complex64", "modrelu")
    assert [params[f"W.{f}"].shape for f in range(9)] == [(2, 2)] * 9
    assert cell.n_recurrent_parameters == 72
    assert cell.defect(params) < 1e-5
    assert cell.penalty(params)[0] < 1e-10
    limit = np.sqrt(6 / (512 + 10))
    assert 0.9 * limit < np.sqrt(3 * np.mean(np.abs(params["U"]) ** 2)) < 1.1 * limit
    for part in (params["h0"].real, params["h0"].imag):
        assert np.linalg.norm(part) == pytest.approx(np.sqrt(0.5), rel=0.2)
    assert not params["b"].any()
    dense = kru.RNN(10, 512, kru.Dense(), dtype="complex64", activation="modrelu")
    assert dense.n_recurrent_parameters == 524_288
    assert dense.dtypes().keys() == dense.shapes().keys()
    assert dense.defect(dense.init(rng)) < 1e-4
    glorot = kru.RNN(10, 64, kru.Dense("glorot")).init(rng)["W"]
    assert np.abs(glorot).max() <= np.sqrt(6 / 128)


def test_same_seed_same_parameters():
    cell = kru.KRU(3, 12)
    first, second = (cell.init(np.random.default_rng(5)) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: kru.KRU(3, 12, [(2, 2), (2, 2)]),
            ValueError,
            r"to 4×4.*hidden_size is 12",
        ),
        (lambda: kru.KRU(3, 12, [(2, 3), (3, 3)]), ValueError, "multiply to 6×9"),
        (lambda: kru.KRU(3, 12, [(2,), (6, 6)]), ValueError, r"must be shapes \(P, Q\)"),
        (lambda: kru.KRU(3, 12, []), ValueError, "at least one shape"),
        (lambda: kru.KRU(0, 12), ValueError, "input_size must be at least 1, got 0"),
        (lambda: kru.KRU(3, -1), ValueError, "hidden_size must be at least 1, got -1"),
        (
            lambda: kru.KRU(3, 12, activation="gelu"),
            ValueError,
            "one of modrelu, tanh, .*'gelu'",
        ),
        (lambda: kru.GRU(3, 12, dtype="complex64"), TypeError, "^GRU"),
        (lambda: kru.LSTM(3, 12, dtype="complex64"), TypeError, "^LSTM"),
        (lambda: kru.KRU(3, 12, activation="tanh"), TypeError, "defined on real numbers only"),
        (lambda: kru.RNN(3, 12, activation="relu", dtype="complex64"), TypeError, "real numbers"),
        (lambda: kru.KRU(3, 12, dtype="float16"), TypeError, "dtype must be one of"),
        (lambda: kru.KRU(3, 12, backend="gpu"), ValueError, "backend must be"),
        (lambda: kru.KRU(3, 4, factors=[(2.5, 2), (2, 2)]), ValueError, "must be shapes"),
        (lambda: kru.KRU(3, 4, factors=4), ValueError, "must be shapes"),
        (lambda: kru.RNN(3, 4.5), TypeError, "hidden_size must be a whole number"),
        (lambda: kru.RNN(3, 4, kru.Dense), TypeError, r"such as Dense\(\) or Kronecker\(\)"),
        (lambda: kru.RNN(3, 4, "dense"), TypeError, "matrix must be a matrix"),
        (lambda: kru.RNN(3, 4).init(0), TypeError, "rng must be a numpy.random.Generator"),
        (lambda: kru.LRU(3, 4, dtype="float32"), TypeError, "complex states: use complex64 or"),
        (lambda: kru.GRU(3, 4, kru.Diagonal()), TypeError, "Diagonal matrix goes with RNN and LRU"),
        (lambda: kru.LRU(3, 4, kru.Kronecker()), TypeError, r"matrix must be Diagonal\(\)"),
        (lambda: kru.Dense("zeros"), ValueError, "haar, glorot, identity, got 'zeros'"),
    ],
)
def test_bad_descriptions(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((4, 2, 5)), ValueError, r"shape \(T, D, B\) with D = input_size = 3"),
        (np.zeros((4, 5)), ValueError, r"got float64 \(4, 5\)"),
        (np.zeros((4, 3, 5), complex), TypeError, "x is complex, but the cell's dtype is float32"),
        (np.full((4, 3, 5), np.nan), ValueError, r"must be finite, but x\[t, d, b\] is nan at \(0"),
        (
            np.where(np.arange(60).reshape(4, 3, 5) % 40 == 17, np.inf, 0.0),
            ValueError,
            r"\(1, 0, 2",
        ),
        (np.full((2, 5), 3), ValueError, r"labels from 0 to 2 \(input_size is 3\), got 3 to 3"),
        (np.full((2, 5), -1), ValueError, "got -1 to -1"),
        (np.zeros((0, 3, 5)), ValueError, "at least one time step"),
        (np.zeros((4, 0), int), ValueError, "at least one time step and one sequence"),
        (np.array([["a"]]), TypeError, "expected real or complex numbers, got <U1"),
    ],
)
def test_bad_input(rng, x, error, message):
    cell = kru.RNN(3, 4)
    with pytest.raises(error, match=message):
        cell.forward(cell.init(rng), x)


def test_bad_params(rng):
    cell = kru.KRU(3, 4)
    params, x = cell.init(rng), np.zeros((2, 3, 1))
    with pytest.raises(ValueError, match=r"missing \['W.1'\], unknown \['W.7'\]"):
        cell.forward({("W.7" if k == "W.1" else k): v for k, v in params.items()}, x)
    with pytest.raises(ValueError, match=r"W.0 must have shape \(2, 2\), got \(2,\)"):
        cell.forward(params | {"W.0": params["W.0"][0]}, x)
    with pytest.raises(TypeError, match="U must have dtype complex64, got complex128"):
        cell.forward(params | {"U": params["U"].astype(complex)}, x)
    with pytest.raises(ValueError, match=r"h0 must have shape \(4, 1\), got \(4, 2\)"):
        cell.forward(params, x, h0=np.zeros((4, 2)))


def test_bad_gradient(rng):
    cell = kru.RNN(3, 4)
    params = cell.init(rng)
    _, saved = cell.forward(params, np.zeros((2, 3, 1)))
    for shape in ((3, 4, 1), (2, 4, 2), (0, 4, 1), (4, 1)):
        with pytest.raises(ValueError, match=r"dh must have the shape of h, \(2, 4, 1\)"):
            cell.backward(params, saved, np.zeros(shape))
    with pytest.raises(ValueError, match="missing"):
        cell.backward({}, saved, np.zeros((2, 4, 1)))
    other = kru.RNN(3, 8)
    with pytest.raises(ValueError, match="saved belongs to another cell"):
        other.backward(other.init(rng), saved, np.zeros((2, 4, 1)))
    with pytest.raises(TypeError, match="dh must fit dtype float32, got complex128"):
        cell.backward(params, saved, np.zeros((2, 4, 1), complex))


@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize(
    "cell",
    [
        kru.KRU(D, N, FACTORS["mixed"], dtype="complex128", backend="numpy"),
        kru.RNN(D, N, kru.FullUnitary(), "modrelu", "complex128"),
        kru.LSTM(D, N, kru.Dense(backend="numpy"), "float64"),
        kru.GRU(D, N, kru.RestrictedUnitary(), "float64"),
    ],
    ids=["kru", "full", "lstm", "gru"],
)
def test_the_pieces_of_a_sum_over_time(rng, draw, monkeypatch, cell, steps):
    """However many steps make one product, the last piece being shorter or not."""
    params = cell.init(rng)
    x, dh = rng.standard_normal((7, D, 2)), draw((7, N, 2), cell.dtype)
    _, saved = cell.forward(params, x)
    whole, _, _ = cell.backward(params, saved, dh)
    monkeypatch.setattr("kru_ref.arrays.COLUMNS", 2 * steps)
    pieces, _, _ = cell.backward(params, saved, dh)
    for name in whole:
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_input_is_read_in_the_precision_of_the_cell(rng, draw, dtype):
    cell = kru.RNN(3, 4, activation="identity", dtype=dtype)
    params, x = cell.init(rng), rng.standard_normal((2, 3, 1))
    assert cell.forward(params, x)[1].x.dtype == "float32"
    if cell.is_complex:
        assert cell.forward(params, draw((2, 3, 1), "complex128"))[1].x.dtype == "complex64"


def test_a_complex_matrix_may_be_odd_where_a_real_one_may_not(rng):
    cell = kru.RNN(3, 5, kru.RestrictedUnitary(), "identity", "complex64")
    ((phases, vectors),) = cell.matrices(cell.init(rng))
    assert (phases.shape, vectors.shape) == ((3, 5), (2, 5))


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_the_first_state_starts_with_length_1(rng, dtype):
    h0 = kru.RNN(2, 4096, kru.Kronecker(), "identity", dtype).init(rng)["h0"]
    assert h0.dtype == dtype
    assert np.linalg.norm(h0) == pytest.approx(1, rel=0.03)
    parts = [h0.real, h0.imag] if h0.dtype.kind == "c" else [h0]
    for part in parts:
        assert np.linalg.norm(part) ** 2 == pytest.approx(1 / len(parts), rel=0.06)
        assert abs(part.mean()) < 0.05 * part.std()
    if len(parts) == 2:
        assert abs(np.corrcoef(*parts)[0, 1]) < 0.05


@pytest.mark.parametrize("make", [kru.RNN, kru.GRU, kru.LSTM])
def test_a_state_that_is_not_learned_has_no_gradient(rng, make):
    cell = make(3, 4, learned_h0=False)
    params = cell.init(rng)
    h, saved = cell.forward(params, rng.standard_normal((2, 3, 1)))
    assert saved.h0_is_learned is False
    assert set(cell.backward(params, saved, h)[0]) == set(params)


class Twice(kru.Dense):
    def matvec(self, W, h):
        return 2 * (W[0] @ h)


class Shifted(kru.LSTM):
    def step(self, params, Wh, Ux, before):
        return super().step(params, [part + 1 for part in Wh], Ux, before)


class Named(kru.RNN):
    kind = "a kind of one's own"

    def step(self, params, Wh, Ux, before):
        return (Wh[0] + Ux[0],), ()


@pytest.mark.parametrize("N", [4, 40])
def test_equations_of_ones_own_are_computed(rng, N):
    """Compiled code knows the library's alone."""
    x = rng.standard_normal((3, D, 2))
    dense = kru.Dense(backend="numpy")
    cell, twice = kru.RNN(D, N, dense, "tanh", "float64"), kru.RNN(D, N, Twice(), "tanh", "float64")
    params = cell.init(rng)
    doubled = params | {"W": 2 * params["W"]}
    np.testing.assert_allclose(twice.forward(params, x)[0], cell.forward(doubled, x)[0])

    lstm, shifted = (of(D, N, dtype="float64") for of in (kru.LSTM, Shifted))
    params = lstm.init(rng)
    moved = params | {"b": params["b"] + 1}
    np.testing.assert_allclose(shifted.forward(params, x)[0], lstm.forward(moved, x)[0])

    named, linear = (of(D, N, kru.Dense(), "identity", "float64") for of in (Named, kru.RNN))
    params = linear.init(rng)
    np.testing.assert_allclose(named.forward(params, x)[0], linear.forward(params, x)[0])


def lru(rng, backend="numpy", N=5, D=3):
    cell = kru.LRU(D, N, kru.Diagonal(0.5, 0.9, 1.0, backend), "complex128")
    return cell, {name: p + rng.uniform(-0.2, 0.2, p.shape) for name, p in cell.init(rng).items()}


def test_an_lru_is_its_recurrence(rng, draw, backend):
    cell, p = lru(rng, backend)
    x = draw((4, 3, 2), "float64")
    h, _ = cell.forward(p, x)
    state = np.repeat(p["h0"][:, None], 2, axis=1)
    for t in range(4):
        turned = np.exp(-np.exp(p["W.nu"]) + 1j * np.exp(p["W.theta"]))[:, None] * state
        state = turned + np.exp(p["gamma"])[:, None] * (p["U"] @ x[t])
        np.testing.assert_allclose(h[t], state, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("T", "B"), [(1, 1), (4, 3)])
@pytest.mark.parametrize("inputs", ["real", "complex", "one-hot"])
def test_every_gradient_of_an_lru(rng, draw, T, B, inputs, backend, record_error):
    cell, params = lru(rng, backend)
    x = rng.integers(3, size=(T, B)) if inputs == "one-hot" else draw((T, 3, B), "complex128")
    x = x.real.copy() if inputs == "real" else x
    target, h0 = draw((T, 5, B), "complex128"), draw((5, B), "complex128")
    values = {**params, "given": h0} if inputs == "complex" else dict(params)
    values |= {} if inputs == "one-hot" else {"x": x}

    def run(p):
        of_cell = {name: p[name] for name in params}
        return cell.forward(of_cell, p.get("x", x), p.get("given"))

    h, saved = run(values)
    grads, dx, dh0 = cell.backward(params, saved, 2 * (h - target))
    found = (
        grads | ({"given": dh0} if "given" in values else {}) | ({} if dx is None else {"x": dx})
    )
    report = kru.check_gradient(
        lambda p: float(np.sum(np.abs(run(p)[0] - target) ** 2)), values, found, tolerance=1e-7
    )
    record_error("finite differences, cells", report.max_error)
    assert report, report


def test_states_of_an_lru_are_of_one_size(rng):
    """Whatever their memory: that is what γ is for."""
    cell = kru.LRU(1, 4000, kru.Diagonal(0.5, 0.99), "complex128", False)
    params = cell.init(rng)
    assert list(params) == ["W.nu", "W.theta", "U", "gamma"]
    h, _ = cell.forward(params, rng.standard_normal((600, 1, 1)))
    size = np.sqrt(np.mean(np.abs(h[300:, :, 0]) ** 2, axis=0))
    short, long = np.exp(params["gamma"]) > 0.6, np.exp(params["gamma"]) < 0.3
    assert np.mean(size[short]) == pytest.approx(np.mean(size[long]), rel=0.15)
    assert np.mean(size) == pytest.approx(0.9, abs=0.15)
