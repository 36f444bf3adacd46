"""LSTM and GRU over every matrix: forward against the equations, backward against differences."""

import itertools

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.checks.forward_mode import cell_jvp

N, D = 12, 3
MATRICES = {
    "dense": lambda backend: kru.Dense(backend=backend),
    "2x3, 3x2, 2x2": lambda backend: kru.Kronecker(((2, 3), (3, 2), (2, 2)), backend),
    "1x4, 12x3": lambda backend: kru.Kronecker(((1, 4), (12, 3)), backend),
    "primes": lambda backend: kru.Kronecker(None, backend),
    "restricted": lambda backend: kru.RestrictedUnitary(),
    "full": lambda backend: kru.FullUnitary(),
}
CELLS = {"lstm": kru.LSTM, "gru": kru.GRU}


def make(cell, matrix, backend="numpy", **kwargs):
    return CELLS[cell](D, N, MATRICES[matrix](backend), kwargs.pop("dtype", "float64"), **kwargs)


def drawn_params(cell, rng):
    return {
        name: (p + rng.uniform(-0.3, 0.3, p.shape)).astype(p.dtype)
        for name, p in cell.init(rng).items()
    }


def logistic(z):
    return 1 / (1 + np.exp(-z))


def dense_step(cell, params, x_t, state):
    """Make a step by the equations of the class's docstring, with dense matrices."""
    W = [cell.matrix.matvec(W_k, np.eye(N)) for W_k in cell.matrices(params)]
    u = np.split(params["U"] @ x_t + params["b"][:, None], len(W))
    if isinstance(cell, kru.LSTM):
        h, c = state
        i, f, g, o = (W_k @ h + u_k for W_k, u_k in zip(W, u, strict=True))
        c = logistic(f) * c + logistic(i) * np.tanh(g)
        return logistic(o) * np.tanh(c), c
    (h,) = state
    r, z = logistic(W[0] @ h + u[0]), logistic(W[1] @ h + u[1])
    n = np.tanh(u[2] + r * (W[2] @ h + params["b_h"][:, None]))
    return ((1 - z) * n + z * h,)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("B", [1, 5, 33])
def test_forward_is_the_recurrence(rng, kind, matrix, B, backend):
    cell = make(kind, matrix, backend)
    params = drawn_params(cell, rng)
    x = rng.standard_normal((4, D, B))
    h, saved = cell.forward(params, x)
    state = tuple(np.repeat(params[name][:, None], B, axis=1) for name in cell.state_names)
    for t in range(4):
        state = dense_step(cell, params, x[t], state)
        np.testing.assert_allclose(h[t], state[0], rtol=1e-12, atol=1e-14)
    last = saved.last if kind == "lstm" else (saved.last,)
    for ours, expected in zip(last, state, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(("T", "B"), [(1, 1), (2, 3), (5, 2)])
@pytest.mark.parametrize("inputs", ["real", "one-hot"])
def test_every_gradient(rng, kind, matrix, T, B, inputs, backend, record_error):
    """Of params, x and a given state, under a loss that mixes all of h, and c behind the end."""
    cell = make(kind, matrix, backend)
    params = drawn_params(cell, rng)
    x = rng.integers(D, size=(T, B)) if inputs == "one-hot" else rng.standard_normal((T, D, B))
    weights, end = rng.standard_normal((T, N, B)), rng.standard_normal((N, B))

    def run(values):
        own = {k: v for k, v in values.items() if k in params}
        given = tuple(values[k] for k in ("given h", "given c") if k in values)
        state = (given if kind == "lstm" else given[0]) if given else None
        return cell.forward(own, values.get("x", x), state)

    def loss(values):
        h, saved = run(values)
        value = np.sum(weights * np.sin(h))
        return float(value + (np.sum(end * saved.last[1]) if kind == "lstm" else 0))

    names = ("given h", "given c") if kind == "lstm" else ("given h",)
    for given in ({}, {name: rng.standard_normal((N, B)) for name in names}):
        values = params | given | ({} if inputs == "one-hot" else {"x": x})
        h, saved = run(values)
        more = {"dc": end} if kind == "lstm" else {}
        grads, dx, dstate = cell.backward(params, saved, weights * np.cos(h), **more)
        dstate = dstate if kind == "lstm" else (dstate,)
        expected = dict(grads)
        for name, d, learned in zip(names, dstate, cell.state_names, strict=True):
            if given:
                expected[name] = d
                np.testing.assert_array_equal(grads[learned], 0)
            else:
                np.testing.assert_allclose(grads[learned], d.sum(axis=1))
        if inputs == "one-hot":
            assert dx is None
        else:
            expected["x"] = dx
        report = kru.check_gradient(loss, values, expected, entries=12, rng=rng, tolerance=1e-7)
        record_error(f"finite differences, {kind} {backend}", report.max_error)
        assert report, report


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("matrix", ["dense", "2x3, 3x2, 2x2"])
def test_chunks_carry_state_and_gradient(rng, kind, matrix, backend):
    cell = make(kind, matrix, backend)
    params = drawn_params(cell, rng)
    x, dh = rng.standard_normal((7, D, 3)), rng.standard_normal((7, N, 3))
    h, saved = cell.forward(params, x)
    grads, dx, dstate = cell.backward(params, saved, dh)
    first, saved_first = cell.forward(params, x[:4])
    second, saved_second = cell.forward(params, x[4:], saved_first.last)
    np.testing.assert_array_equal(np.concatenate([first, second]), h)
    grads_second, dx_second, carried = cell.backward(params, saved_second, dh[4:])
    dh_first = dh[:4].copy()
    dh_first[-1] += carried[0] if kind == "lstm" else carried
    more = {"dc": carried[1]} if kind == "lstm" else {}
    grads_first, dx_first, dstate_first = cell.backward(params, saved_first, dh_first, **more)
    np.testing.assert_allclose(np.concatenate([dx_first, dx_second]), dx, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(dstate_first, dstate, rtol=1e-11, atol=1e-13)
    for name in grads:
        total = grads_first[name] + grads_second[name]
        np.testing.assert_allclose(total, grads[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("factors", [((2, 3), (3, 2), (2, 2)), ((12, 12),), None])
@pytest.mark.parametrize(("T", "B"), [(1, 1), (3, 2), (4, 7), (2, 20), (3, 50), (20, 33)])
@pytest.mark.parametrize("inputs", ["real", "few labels", "many labels", "readout"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_backends_agree(rng, kind, factors, T, B, inputs, dtype, instruction_set):
    """On each instruction set; with the gradient behind a readout, and with long label lists."""
    size = 20 if inputs == "many labels" else D
    ours, reference = (
        CELLS[kind](size, N, kru.Kronecker(factors, backend), dtype)
        for backend in ("cython", "numpy")
    )
    params = drawn_params(ours, rng)
    real = inputs in ("real", "readout")
    x = rng.standard_normal((T, size, B)) if real else rng.integers(size, size=(T, B))
    results = []
    for cell in (ours, reference):
        seeded = np.random.default_rng(4)
        h, saved = cell.forward(params, x)
        if inputs == "readout":
            model = kru.SequenceModel(cell, 5)
            own = {f"cell.{name}": p for name, p in params.items()}
            own["readout.V"] = seeded.standard_normal((5, N)).astype(dtype)
            own["readout.c"] = seeded.standard_normal(5).astype(dtype)
            logits, model_saved = model.forward(own, x)
            dlogits = seeded.standard_normal(logits.shape).astype(dtype)
            results.append([logits, *model.backward(own, model_saved, dlogits).values()])
            continue
        dh = seeded.standard_normal(h.shape)
        more = {"dc": seeded.standard_normal((N, B))} if kind == "lstm" else {}
        grads, dx, dstate = cell.backward(params, saved, dh, **more)
        results.append([h, saved.gates, *grads.values(), np.stack([*dstate])])
        results[-1] += [] if dx is None else [dx]
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    for actual, expected in zip(*results, strict=True):
        scale = max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def test_threads_do_not_change_a_bit(rng, monkeypatch, instruction_set):
    for kind in CELLS:
        cell = CELLS[kind](D, 64, kru.Kronecker(backend="cython"), "float32")
        params = drawn_params(cell, rng)
        x, dh = rng.standard_normal((5, D, 100)), rng.standard_normal((5, 64, 100))
        results = []
        for threads in (1, 2, 3):
            monkeypatch.setattr(
                "kru_ref.engine.recurrence.n_threads", lambda threads=threads: threads
            )
            h, saved = cell.forward(params, x)
            grads, dx, dstate = cell.backward(params, saved, dh)
            results.append([h, dx, *grads.values(), *dstate])
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", CELLS)
def test_large_numbers_saturate(kind, rng, backend):
    """And a NaN in a parameter stays one."""
    cell = make(kind, "primes", backend)
    params = {name: p * 1e3 for name, p in drawn_params(cell, rng).items()}
    h, saved = cell.forward(params, 1e6 * rng.standard_normal((3, D, 2)))
    assert np.isfinite(h).all()
    grads, dx, _ = cell.backward(params, saved, np.ones_like(h))
    assert all(np.isfinite(g).all() for g in [*grads.values(), dx])
    params["U"][0, 0] = np.nan
    h, _ = cell.forward(params, rng.standard_normal((3, D, 2)))
    assert np.isnan(h[0, 0]).all()


def test_initialisation(rng):
    params = kru.LSTM(D, N).init(rng)
    np.testing.assert_array_equal(params["b"], np.repeat([0, 1, 0, 0], N))
    assert set(params) == {"W.i", "W.f", "W.g", "W.o", "U", "b", "h0", "c0"}
    params = kru.GRU(D, N, learned_h0=False).init(rng)
    assert set(params) == {"W.r", "W.z", "W.n", "U", "b", "b_h"}
    cell = kru.LSTM(D, 512, kru.Kronecker())
    assert cell.n_recurrent_parameters == 4 * 36
    assert kru.LSTM(D, 512).n_recurrent_parameters == 4 * 512**2
    assert cell.init(rng)["U"].shape == (2048, D)
    assert cell.defect(cell.init(rng)) < 1e-5


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: kru.LSTM(3, 12, dtype="complex64"), TypeError, "LSTM is defined on real numbers"),
        (lambda: kru.GRU(3, 12, dtype="complex128"), TypeError, "float32 or float64"),
        (lambda: kru.LSTM(3, 0), ValueError, "hidden_size must be at least 1"),
        (lambda: kru.GRU(3, 12, kru.Kronecker([(2, 2)])), ValueError, "hidden_size is 12"),
        (lambda: kru.LSTM(3, 11, kru.RestrictedUnitary()), ValueError, "must be even, got 11"),
    ],
)
def test_bad_descriptions(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bad_calls(rng):
    cell = kru.LSTM(3, 4)
    params, x = cell.init(rng), np.zeros((2, 3, 1))
    with pytest.raises(ValueError, match=r"c0 must have shape \(4, 1\), got \(4, 2\)"):
        cell.forward(params, x, (np.zeros((4, 1)), np.zeros((4, 2))))
    _, saved = cell.forward(params, x)
    with pytest.raises(ValueError, match=r"dc must have shape \(4, 1\)"):
        cell.backward(params, saved, np.zeros((2, 4, 1)), dc=np.zeros(4))
    with pytest.raises(TypeError, match="x is complex"):
        cell.forward(params, x + 0j)
    for kind, wrong in itertools.product((kru.LSTM, kru.GRU), (np.zeros((2, 4)), np.nan * x)):
        other = kind(3, 4)
        with pytest.raises(ValueError, match="x must"):
            other.forward(other.init(rng), wrong)


SAVED = {
    "gru's for an lstm": (
        lambda m: kru.LSTM(3, 8, m),
        lambda m: kru.GRU(3, 8, m),
        ValueError,
        "saved belongs to another cell: its state has 1 parts, this cell's 2",
    ),
    "other input size": (
        lambda m: kru.LSTM(30_000, 8, m),
        lambda m: kru.LSTM(3, 8, m),
        ValueError,
        r"saved belongs to another cell: its x is float32 \(5, 3, 4\), input_size is 30000",
    ),
    "other labels": (
        lambda m: kru.GRU(20, 8, m),
        lambda m: kru.GRU(100_000, 8, m),
        ValueError,
        r"saved belongs to another cell: .*labels from 0 to 19",
    ),
    "other dtype": (
        lambda m: kru.GRU(3, 8, m, "float64"),
        lambda m: kru.GRU(3, 8, m, "float32"),
        ValueError,
        "saved belongs to another cell: h0 must be float64",
    ),
}


@pytest.mark.parametrize("case", SAVED)
def test_saved_of_another_cell(rng, case, backend):
    """The compiled loops trust its sizes, so they are checked before."""
    mine, other, error, message = (f for f in SAVED[case])
    mine, other = (make(kru.Kronecker(backend=backend)) for make in (mine, other))
    D = other.input_size
    x = rng.integers(D, size=(5, 4)) if "labels" in case else rng.standard_normal((5, D, 4))
    h, saved = other.forward(other.init(rng), x)
    with pytest.raises(error, match=message):
        mine.backward(mine.init(rng), saved, np.ones_like(h))
    with pytest.raises(ValueError, match=r"gates must be .*\(5, 4, 8, 4\)"):
        other.backward(other.init(rng), saved._replace(gates=saved.gates[:-1]), np.ones_like(h))


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("matrix", ["dense", "2x3, 3x2, 2x2", "restricted"])
@pytest.mark.parametrize("inputs", ["real", "one-hot"])
def test_any_memory_layout(rng, kind, matrix, inputs, backend):
    """Of parameters, x, states and gradients: values count, not where they lie."""
    cell = make(kind, matrix, backend)
    params = drawn_params(cell, rng)
    x = rng.integers(D, size=(5, 3)) if inputs == "one-hot" else rng.standard_normal((5, D, 3))
    state, dh = rng.standard_normal((2, N, 3)), rng.standard_normal((5, N, 3))
    results = []
    for lay in (np.ascontiguousarray, np.asfortranarray, lambda a: np.repeat(a, 2, -1)[..., ::2]):
        own = {name: lay(p) for name, p in params.items()}
        given = tuple(map(lay, state)) if kind == "lstm" else lay(state[0])
        h, saved = cell.forward(own, lay(x), given)
        more = {"dc": lay(state[1])} if kind == "lstm" else {}
        grads, dx, dstate = cell.backward(own, saved, lay(dh), **more)
        results.append([h, *grads.values(), *dstate, *([] if dx is None else [dx])])
    for other in results[1:]:
        for expected, actual in zip(results[0], other, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


def test_states_of_an_lstm(rng):
    cell = kru.LSTM(3, 4)
    params, x, h = cell.init(rng), np.zeros((2, 3, 1)), np.zeros((4, 1))
    with pytest.raises(ValueError, match=r"the pair \(h, c\), neither of them None, got ndarray"):
        cell.forward(params, x, h)
    with pytest.raises(ValueError, match=r"pair \(h, c\), neither of them None, got a tuple of 3"):
        cell.forward(params, x, (h, h, h))
    with pytest.raises(ValueError, match=r"pair \(h, c\), neither of them None, got a tuple of 2"):
        cell.forward(params, x, (h, None))
    for wrong in (h, (h, h, h), (h, None), np.zeros((2, 4, 1))):
        with pytest.raises(ValueError, match="h0 must be"):
            cell_jvp(cell, params, x, params, None, wrong)


@pytest.mark.parametrize("cell", [kru.RNN(3, 4), kru.GRU(3, 4), kru.LSTM(3, 4)], ids=str)
def test_saved_arrays_that_do_not_fit(rng, cell):
    """Compiled loops go by these sizes."""
    params = cell.init(rng)
    h, saved = cell.forward(params, rng.standard_normal((5, 3, 2)))
    places = {"h0": ("before", 0), "h": ("states", 0), "gates": ("gates", None)}
    if isinstance(cell, kru.LSTM):
        places |= {"c0": ("before", 1), "c": ("states", 1)}
    for name, (field, i) in places.items():
        value = getattr(saved, field)
        array = value if i is None else value[i]
        for wrong in (array[..., :1], array[1:], array[..., :-1, :], array.astype("float64"), None):
            bad = saved._replace(
                **{field: wrong if i is None else (*value[:i], wrong, *value[i + 1 :])}
            )
            with pytest.raises(ValueError, match=f"^saved belongs to another cell: {name} must be"):
                cell.backward(params, bad, h)


@pytest.mark.parametrize("kind", CELLS)
def test_saved_of_another_kind(rng, kind):
    cell, other = CELLS[kind](3, 4), kru.RNN(3, 4)
    x = np.zeros((2, 3, 1))
    h, of_the_other = other.forward(other.init(rng), x)
    _, saved = cell.forward(cell.init(rng), x)
    with pytest.raises(ValueError, match=r"^saved belongs to another cell: "):
        cell.backward(cell.init(rng), of_the_other, h)
    with pytest.raises(ValueError, match=r"^saved belongs to another cell: "):
        other.backward(other.init(rng), saved, h)
    with pytest.raises(TypeError, match="saved must be the Saved that forward returned, got tuple"):
        cell.backward(cell.init(rng), tuple(saved), h)


@pytest.mark.parametrize("cell", [kru.RNN(3, 4), kru.GRU(3, 4)], ids=str)
def test_only_an_lstm_has_a_gradient_of_c(rng, cell):
    params = cell.init(rng)
    h, saved = cell.forward(params, np.zeros((2, 3, 1)))
    with pytest.raises(TypeError, match="dc is the gradient of an LSTM's c"):
        cell.backward(params, saved, h, dc=h[0])


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [-12.0, -20.0, -40.0, -80.0])
def test_gates_that_are_nearly_closed(rng, kind, bias, backend):
    """What passes them is small, and its gradient is that exactly."""
    cell = make(kind, "2x3, 3x2, 2x2", backend)
    params = drawn_params(cell, rng)
    params["b"][: N if kind == "gru" else 4 * N] = bias
    x, dh = rng.standard_normal((3, D, 2)), rng.standard_normal((3, N, 2))
    h, saved = cell.forward(params, x)
    grads, _, _ = cell.backward(params, saved, dh)
    state = tuple(params[name][:, None].repeat(2, 1) for name in cell.state_names)
    for t in range(3):
        state = dense_step(cell, params, x[t], state)
        # relative to each entry, however small
        np.testing.assert_allclose(h[t], state[0], rtol=1e-11)
    moved = {name: rng.standard_normal(p.shape) for name, p in params.items()}
    _, h_dot = cell_jvp(cell, params, x, moved)
    left, right = np.sum(dh * h_dot), sum(np.sum(g * moved[name]) for name, g in grads.items())
    assert left == pytest.approx(right, rel=1e-10)
