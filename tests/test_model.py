"""The readout, and whole models with every loss."""

import dataclasses
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import kru_ref as kru


def make_model(dtype="complex128", backend="auto", last_only=False):
    activation = "modrelu" if dtype.startswith("complex") else "tanh"
    cell = kru.KRU(3, 12, [(2, 3), (3, 2), (2, 2)], activation, dtype, backend=backend)
    return kru.SequenceModel(cell, 4, last_only)


def drawn_params(model, rng):
    """Away from the start, where b and c are 0 and the unitary penalty has no gradient."""
    params = model.init(rng)
    params["cell.b"] = rng.uniform(-0.2, 0.2, 12)
    params["readout.c"] = rng.standard_normal(4)
    for name in model.cell.matrix_names:
        params[f"cell.{name}"] = params[f"cell.{name}"] * rng.uniform(0.7, 1.3)
    return params


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_readout_is_linear_in_real_and_imaginary_parts(rng, dtype):
    model = make_model(dtype)
    params = drawn_params(model, rng)
    logits, saved = model.forward(params, rng.standard_normal((5, 3, 2)))
    h = saved.cells[0].h
    features = np.concatenate([h.real, h.imag], axis=1) if dtype == "complex128" else h
    expected = params["readout.V"] @ features + params["readout.c"][:, None]
    assert logits.dtype == "float64"
    np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("loss", ["softmax", "squared", "bernoulli"])
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize(("T", "B"), [(1, 1), (5, 3)])
def test_every_gradient(rng, backend, dtype, loss, last_only, T, B, record_error):
    model = make_model(dtype, backend, last_only)
    params = drawn_params(model, rng)
    x = rng.standard_normal((T, 3, B))
    steps = () if last_only else (T,)
    function, targets = {
        "softmax": (kru.softmax_cross_entropy, rng.integers(4, size=(*steps, B))),
        "squared": (kru.mean_squared_error, rng.standard_normal((*steps, 4, B))),
        "bernoulli": (kru.bernoulli_cross_entropy, rng.integers(2, size=(*steps, 4, B))),
    }[loss]
    mask = rng.integers(0, 3, (*steps, B)) if T > 1 else None

    def total(p):
        logits, _ = model.forward(p, x)
        return function(logits, targets, mask, last_only)[0] + 0.3 * model.penalty(p)[0]

    logits, saved = model.forward(params, x)
    assert logits.shape == (1 if last_only else T, 4, B)
    grads = model.backward(params, saved, function(logits, targets, mask, last_only)[1])
    assert {k: (g.shape, g.dtype) for k, g in grads.items()} == {
        k: (p.shape, p.dtype) for k, p in params.items()
    }
    for name, gradient in model.penalty(params)[1].items():
        grads[name] = grads[name] + 0.3 * gradient
    report = kru.check_gradient(total, params, grads, tolerance=1e-7)
    record_error(f"finite differences, {backend}", report.max_error)
    assert report, report


def test_last_only_is_the_last_step(rng):
    every, last = make_model(), make_model(last_only=True)
    params = drawn_params(every, rng)
    x, target = rng.standard_normal((6, 3, 2)), rng.integers(4, size=2)
    logits, saved = every.forward(params, x)
    logits_last, saved_last = last.forward(params, x)
    np.testing.assert_allclose(logits[-1:], logits_last, rtol=1e-12)
    loss, dlogits = kru.softmax_cross_entropy(logits, target, last_only=True)
    loss_last, dlogits_last = kru.softmax_cross_entropy(logits_last, target, last_only=True)
    assert loss == pytest.approx(loss_last)
    grads = every.backward(params, saved, dlogits)
    grads_last = last.backward(params, saved_last, dlogits_last)
    for name in grads:
        np.testing.assert_allclose(grads[name], grads_last[name], rtol=1e-9, atol=1e-14)


def test_truncated_bptt_cuts_the_gradient(rng):
    """A chunk with a given h0 has the gradient of that chunk alone."""
    model = make_model()
    params = drawn_params(model, rng)
    x, targets = rng.standard_normal((6, 3, 2)), rng.integers(4, size=(6, 2))
    _, first = model.forward(params, x[:3])
    carried = first.cells[0].h[-1].copy()
    logits, second = model.forward(params, x[3:], h0=carried)
    _, dlogits = kru.softmax_cross_entropy(logits, targets[3:])
    grads = model.backward(params, second, dlogits)

    def chunk(p):
        return kru.softmax_cross_entropy(model.forward(p, x[3:], carried)[0], targets[3:])[0]

    report = kru.check_gradient(chunk, params, grads, tolerance=1e-7)
    assert report, report
    assert not grads["cell.h0"].any()


def test_parameters_are_counted_as_real_numbers():
    model = kru.SequenceModel(kru.KRU(10, 128), 9)
    params = model.init(np.random.default_rng(0))
    assert sum(p.size * (2 if p.dtype.kind == "c" else 1) for p in params.values()) == 5313
    assert model.n_parameters == 5313
    assert model.cell.n_recurrent_parameters == 56
    assert list(params) == [
        *(f"cell.W.{f}" for f in range(7)),
        *("cell.U", "cell.b", "cell.h0", "readout.V", "readout.c"),
    ]
    assert {k: (p.shape, p.dtype) for k, p in params.items()} == {
        k: (shape, model.dtypes()[k]) for k, shape in model.shapes().items()
    }


def test_defect_grows_with_distance_from_unitary(rng):
    model = kru.SequenceModel(kru.KRU(3, 8, dtype="complex128"), 4)
    params = model.init(rng)
    assert model.defect(params) < 1e-14
    scaled = params | {"cell.W.2": 1.1 * params["cell.W.2"]}
    assert model.defect(scaled) == pytest.approx(1.1**2 - 1)


LAYERS = {
    "complex below real": lambda: [
        kru.KRU(3, 4, dtype="complex128"),
        kru.LSTM(8, 6, kru.Kronecker([(2, 3), (3, 2)]), "float64"),
    ],
    "complex on complex": lambda: [
        kru.KRU(3, 4, dtype="complex128"),
        kru.KRU(8, 6, dtype="complex128"),
    ],
    "three": lambda: [
        kru.GRU(3, 4, dtype="float64"),
        kru.RNN(4, 6, dtype="float64"),
        kru.LSTM(6, 4, kru.FullUnitary(), "float64"),
    ],
}


def test_the_penalty_is_the_sum_over_cells(rng):
    cells = [kru.KRU(3, 4, dtype="complex128"), kru.LSTM(8, 6, kru.Kronecker(), "float64")]
    model = kru.SequenceModel(cells, 4)
    params = {k: 1.1 * p for k, p in model.init(rng).items()}
    value, grads = model.penalty(params)
    parts = [
        cell.penalty({k: params[f"cell.{i}.{k}"] for k in cell.shapes()})
        for i, cell in enumerate(cells)
    ]
    assert value == pytest.approx(parts[0][0] + parts[1][0])
    assert min(parts[0][0], parts[1][0]) > 0
    assert set(grads) == {f"cell.{i}.{k}" for i, (_, dW) in enumerate(parts) for k in dW}
    for i, (_, dW) in enumerate(parts):
        for k, expected in dW.items():
            np.testing.assert_array_equal(grads[f"cell.{i}.{k}"], expected)


def test_the_smallest_model(rng):
    model = kru.SequenceModel(kru.KRU(1, 1, dtype="complex128"), 1)
    logits, _ = model.forward(model.init(rng), np.ones((1, 1, 1)))
    assert logits.shape == (1, 1, 1)


def test_equal_descriptions_are_equal():
    cells = [kru.GRU(3, 4, dtype=np.float32), kru.GRU(4, np.int64(4), dtype="float32")]
    model = kru.SequenceModel(cells, np.int64(2))
    assert model == kru.SequenceModel((kru.GRU(3, 4), kru.GRU(4, 4)), 2)
    assert hash(model) == hash(kru.SequenceModel(tuple(cells), 2))
    assert type(model.output_size) is int
    assert model.cells[0].dtype == "float32"


def test_bad_input(rng):
    model = make_model()
    params = model.init(rng)
    with pytest.raises(ValueError, match="output_size must be at least 1"):
        kru.SequenceModel(model.cell, 0)
    with pytest.raises(ValueError, match=r"missing \['readout.c'\]"):
        model.forward({k: v for k, v in params.items() if k != "readout.c"}, np.zeros((2, 3, 1)))
    _, saved = model.forward(params, np.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match=r"dlogits must have shape \(2, 4, 1\), got \(2, 4, 2\)"):
        model.backward(params, saved, np.zeros((2, 4, 2)))
    with pytest.raises(TypeError, match="dlogits must fit dtype float64"):
        model.backward(params, saved, np.zeros((2, 4, 1), complex))


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize(("T", "B"), [(1, 1), (5, 3)])
def test_gradients_through_layers(rng, layers, dropout, last_only, T, B, record_error):
    model = kru.SequenceModel(LAYERS[layers](), 4, last_only, dropout)
    params = {
        k: (p + rng.uniform(-0.1, 0.1, p.shape)).astype(p.dtype) for k, p in model.init(rng).items()
    }
    x, targets = rng.standard_normal((T, 3, B)), rng.integers(4, size=B if last_only else (T, B))

    def run(p):
        return model.forward(p, x, rng=np.random.default_rng(7))

    def loss(p):
        return kru.softmax_cross_entropy(run(p)[0], targets, last_only=last_only)[0]

    logits, saved = run(params)
    _, dlogits = kru.softmax_cross_entropy(logits, targets, last_only=last_only)
    grads = model.backward(params, saved, dlogits)
    assert grads.keys() == params.keys() == model.shapes().keys()
    report = kru.check_gradient(loss, params, grads, entries=12, rng=rng, tolerance=1e-7)
    record_error("finite differences, layers", report.max_error)
    assert report, report


def test_layers_are_cells_one_above_the_other(rng):
    lower, upper = LAYERS["complex below real"]()
    model = kru.SequenceModel([lower, upper], 4)
    params = model.init(rng)
    x = rng.standard_normal((5, 3, 2))
    h, _ = lower.forward({k: params[f"cell.0.{k}"] for k in lower.shapes()}, x)
    features = np.concatenate([h.real, h.imag], axis=1)
    h, _ = upper.forward({k: params[f"cell.1.{k}"] for k in upper.shapes()}, features)
    logits, saved = model.forward(params, x)
    expected = params["readout.V"] @ h + params["readout.c"][:, None]
    np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-13)
    # and in two chunks
    first, saved_first = model.forward(params, x[:2])
    second, saved_second = model.forward(params, x[2:], saved_first.last)
    np.testing.assert_array_equal(np.concatenate([first, second]), logits)
    np.testing.assert_array_equal(saved_second.last[1], saved.last[1])


def test_dropout_needs_a_generator(rng):
    model = kru.SequenceModel(kru.LSTM(3, 64), 4, dropout=0.25)
    params, x = model.init(rng), rng.standard_normal((50, 3, 8))
    logits, saved = model.forward(params, x)
    assert saved.kept == (None,)
    again, saved = model.forward(params, x, rng=rng)
    assert not np.allclose(logits, again)
    (kept,) = saved.kept
    assert set(np.unique(kept)) == {np.float32(0), np.float32(4 / 3)}
    assert np.mean(kept == 0) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kru.SequenceModel([], 4), "a cell or a sequence of cells"),
        (lambda: kru.SequenceModel([kru.GRU(3, 4), "gru"], 4), "a cell or a sequence of cells"),
        (
            lambda: kru.SequenceModel([kru.KRU(3, 4), kru.GRU(4, 4)], 4),
            "cell 1.*input_size 8.*cell 0",
        ),
        (
            lambda: kru.SequenceModel([kru.GRU(3, 4), kru.GRU(4, 4, dtype="float64")], 4),
            "one precision, got float32 and float64",
        ),
        (lambda: kru.SequenceModel(kru.GRU(3, 4), 4, dropout=1.0), "dropout must lie in"),
    ],
)
def test_bad_layers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_state_for_each_cell(rng):
    model = kru.SequenceModel([kru.GRU(3, 4), kru.GRU(4, 4)], 4)
    for h0, kind in (
        (np.zeros((4, 1)), "ndarray"),
        (np.zeros((2, 1)), "ndarray"),
        ((None,), "tuple"),
    ):
        with pytest.raises(ValueError, match=f"a state for each of 2 cells, got {kind}"):
            model.forward(model.init(rng), np.zeros((2, 3, 1)), h0)


@pytest.mark.parametrize(
    "cell", [kru.GRU(4, 4, dtype="float64"), kru.KRU(8, 4, dtype="complex128")]
)
@pytest.mark.parametrize("last_only", [False, True])
def test_the_same_cell_twice(rng, cell, last_only):
    """Descriptions are values: one may stand in two places, with parameters of its own in each."""
    model = kru.SequenceModel([cell, cell], 3, last_only)
    equal = kru.SequenceModel([cell, dataclasses.replace(cell)], 3, last_only)
    params, x = model.init(rng), rng.standard_normal((6, cell.input_size, 2))
    logits, saved = model.forward(params, x)
    expected, saved_equal = equal.forward(params, x)
    np.testing.assert_array_equal(logits, expected)
    grads, others = (
        m.backward(params, s, np.ones_like(logits))
        for m, s in ((model, saved), (equal, saved_equal))
    )
    for name in grads:
        np.testing.assert_array_equal(grads[name], others[name])
    every = kru.SequenceModel([cell, cell], 3).forward(params, x)[0]
    np.testing.assert_allclose(logits, every[-1:] if last_only else every, rtol=1e-12, atol=1e-14)


def test_backward_checks_params_and_saved(rng):
    model = kru.SequenceModel(kru.GRU(3, 4), 2)
    params = model.init(rng)
    logits, saved = model.forward(params, np.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match=r"readout.V must have shape \(2, 4\), got \(4, 2\)"):
        model.backward(params | {"readout.V": params["readout.V"].T}, saved, logits)
    two = kru.SequenceModel([kru.GRU(3, 4), kru.GRU(4, 4)], 2)
    with pytest.raises(ValueError, match="it holds 1 cells, this one 2"):
        two.backward(two.init(rng), saved, logits)
    with pytest.raises(TypeError, match="whole number"):
        kru.SequenceModel(kru.GRU(3, 4), 2.0)


def test_saved_of_another_model(rng):
    def of(n, size=4, dropout=0.0, dtype="float64"):
        cells = [kru.RNN(size, size, dtype=dtype) for _ in range(n)]
        return kru.SequenceModel(cells, 2, dropout=dropout)

    model, x, dlogits = of(2), rng.standard_normal((5, 4, 3)), np.zeros((5, 2, 3))
    params = model.init(rng)
    for other in (of(3), of(1), of(2, dtype="float32")):
        _, saved = other.forward(other.init(rng), x)
        with pytest.raises(ValueError, match="saved belongs to another"):
            model.backward(params, saved, dlogits)
    gru = kru.SequenceModel([kru.GRU(4, 4, dtype="float64"), kru.GRU(4, 4, dtype="float64")], 2)
    _, saved = gru.forward(gru.init(rng), x)
    with pytest.raises(ValueError, match=r"saved belongs to another cell: gates must be"):
        model.backward(params, saved, dlogits)
    _, saved = model.forward(params, x)
    for wrong in (None, saved.cells[0]):
        with pytest.raises(TypeError, match="saved must be the ModelSaved that forward returned"):
            model.backward(params, wrong, dlogits)
    with pytest.raises(ValueError, match="its dropout has another shape"):
        model.backward(params, saved._replace(kept=(np.ones((4, 4, 3)), None)), dlogits)


def test_the_defect_is_that_of_the_worst_matrix(rng):
    cells = [kru.LSTM(3, 4, kru.Kronecker()), kru.LSTM(4, 4, kru.Kronecker())]
    model = kru.SequenceModel(cells, 2)
    params = model.init(rng)
    for name in ("cell.0.W.i.0", "cell.0.W.o.1", "cell.1.W.f.0", "cell.1.W.o.1"):
        stretched = params | {name: 1.1 * params[name]}
        assert model.defect(stretched) == pytest.approx(1.1**2 - 1, rel=1e-5), name


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, p, x: m.forward(p, x, rng=0), TypeError, "rng must be a numpy.random.Generator"),
        (lambda m, p, x: m.forward(None, x), TypeError, "params must be a dict"),
        (
            lambda m, p, x: m.forward(p | {"readout.c": [0.0]}, x),
            TypeError,
            "readout.c must be an array, got list",
        ),
        (lambda m, p, x: kru.SequenceModel(m.cell, 2.0), TypeError, "output_size must be a whole"),
        (lambda m, p, x: kru.SequenceModel(m.cell, 2, dropout="a"), ValueError, "dropout must lie"),
        (lambda m, p, x: kru.RNN("3", 4), TypeError, "input_size must be a whole number, got '3'"),
    ],
)
def test_messages(rng, call, error, message):
    model = kru.SequenceModel(kru.RNN(3, 4), 2, dropout=0.5)
    with pytest.raises(error, match=message):
        call(model, model.init(rng), np.zeros((2, 3, 1)))


def test_states_in_a_list(rng):
    model = kru.SequenceModel([kru.LSTM(3, 4), kru.RNN(4, 4)], 2)
    params, x = model.init(rng), rng.standard_normal((6, 3, 2))
    _, first = model.forward(params, x[:3])
    expected, _ = model.forward(params, x[3:], first.last)
    found, _ = model.forward(params, x[3:], list(first.last))
    np.testing.assert_array_equal(found, expected)


STEPPING = {
    "KRU": lambda backend: kru.KRU(3, 12, [(2, 3), (3, 2), (2, 2)], backend=backend),
    "real KRU": lambda backend: kru.KRU(3, 8, None, "tanh", "float64", backend=backend),
    "without a start": lambda backend: kru.KRU(3, 8, learned_h0=False, backend=backend),
    "KRU-LSTM": lambda backend: kru.LSTM(3, 16, kru.Kronecker(backend=backend)),
    "KRU-GRU": lambda backend: kru.GRU(3, 5, kru.Kronecker(backend=backend), "float64"),
    "RNN": lambda backend: kru.RNN(3, 40, kru.Dense(backend=backend), "modrelu", "complex128"),
    "LSTM": lambda backend: kru.LSTM(3, 33, kru.Dense(backend=backend)),
    "GRU": lambda backend: kru.GRU(3, 7, kru.FullUnitary(backend), "float64"),
    "RC-uRNN": lambda backend: kru.RNN(3, 6, kru.RestrictedUnitary(), "modrelu", "complex64"),
    "layers": lambda backend: [
        kru.KRU(3, 8, backend=backend),
        kru.LSTM(16, 4, kru.Kronecker(backend=backend)),
        kru.GRU(4, 33, kru.Dense(backend=backend)),
    ],
}


def moved_params(model, rng):
    """Biases of either sign, and factors that are no longer unitary."""
    params = model.init(rng)
    return {k: p + rng.uniform(-0.2, 0.2, p.shape).astype(p.dtype) for k, p in params.items()}


def assert_near(actual, expected):
    tolerance = 2e-5 if expected.dtype == "float32" else 1e-12
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", STEPPING)
@pytest.mark.parametrize("B", [1, 3, 40])
@pytest.mark.parametrize("inputs", ["float64", "float32", "labels", "int16 labels"])
def test_steps_are_those_of_forward(rng, kind, B, inputs, backend, monkeypatch):
    model = kru.SequenceModel(STEPPING[kind](backend), 4)
    params = moved_params(model, rng)
    if "labels" in inputs:
        x = rng.integers(3, size=(6, B)).astype("int16" if "int16" in inputs else "int64")
    else:
        x = rng.standard_normal((6, 3, B)).astype(inputs)
    expected, saved = model.forward(params, x)
    y, state = model.step(params, x[0])
    assert_near(y, expected[0])
    if backend == "cython" and kind != "RC-uRNN":  # from here on in compiled code alone
        monkeypatch.setattr(kru.SequenceModel, "_checked_step", None)
    for t in range(1, 6):
        before = [np.array(part) for part in state]
        y, after = model.step(params, x[t], state)
        assert_near(y, expected[t])
        for old, same in zip(before, state, strict=True):
            np.testing.assert_array_equal(old, np.array(same))
        state = after
    for ours, of_cell in zip(state, saved.last, strict=True):
        np.testing.assert_allclose(np.array(ours), np.array(of_cell), rtol=2e-5, atol=2e-5)


def test_a_step_from_where_forward_ended(rng):
    model = kru.SequenceModel(kru.LSTM(3, 8, kru.Kronecker()), 4)
    params, x = moved_params(model, rng), rng.standard_normal((9, 3, 2))
    expected, _ = model.forward(params, x)
    _, saved = model.forward(params, x[:8])
    for state in (saved.last, [list(part) for part in saved.last], saved.last[0]):
        y, _ = model.step(params, x[8], state)
        assert_near(y, expected[8])


def test_a_step_sees_parameters_change(rng):
    """Nothing that was made of them is kept from one step to the next."""
    model = kru.SequenceModel(kru.KRU(3, 8), 4)
    params, x = moved_params(model, rng), rng.standard_normal((3, 2))
    _, state = model.step(params, x)
    for name in params:
        params[name] *= 1.5
        changed, _ = model.step(params, x, state)
        expected, _ = model.forward(params, x[None], state)
        assert_near(changed, expected[0])


@pytest.mark.parametrize("factor", [[[0, 1], [0, 1]], [[1, 0], [0, 0]], [[1, 1], [1, 1]]])
def test_a_step_with_a_singular_factor(rng, factor):
    model = kru.SequenceModel(kru.KRU(3, 16), 4)
    params, x = moved_params(model, rng), rng.standard_normal((2, 3, 9))
    params["cell.W.1"] = np.array(factor, "complex64")
    expected, _ = model.forward(params, x)
    y, _ = model.step(params, x[1], model.step(params, x[0])[1])
    assert_near(y, expected[1])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p, x, s: (p, x[:2], s), ValueError, r"x_t must have shape \(D, B\) with D = "),
        (lambda p, x, s: (p, x[0], s), ValueError, r"integers of shape \(B,\); got float64 \(2,\)"),
        (lambda p, x, s: (p, x[None], s), ValueError, r"got float64 \(1, 3, 2\)"),
        (lambda p, x, s: (p, x * np.nan, s), ValueError, "x must be finite"),
        (lambda p, x, s: (p, x * 1e300, s), ValueError, "x must fit float32"),
        (lambda p, x, s: (p, x * 1j, s), NotImplementedError, ""),
        (lambda p, x, s: (p, np.array([0, 3]), s), ValueError, "labels from 0 to 2"),
        (lambda p, x, s: (p, np.array([-1, 0]), s), ValueError, "labels from 0 to 2"),
        (lambda p, x, s: (p, x[:, :0], s), ValueError, "needs at least one time step"),
        (lambda p, x, s: (p, np.array(3.0), s), ValueError, r"got float64 \(\)"),
        (lambda p, x, s: (p, np.array(2), s), ValueError, r"got int64 \(\)"),
        (lambda p, x, s: ({**p, "more": x}, x, s), ValueError, "unknown"),
        (
            lambda p, x, s: ({("W" if k == "readout.V" else k): v for k, v in p.items()}, x, s),
            ValueError,
            "missing",
        ),
        (
            lambda p, x, s: (
                p | {"readout.V": np.ones((7, 16), "f"), "readout.c": np.ones(7, "f")},
                x,
                s,
            ),
            ValueError,
            r"readout.V must have shape \(4, 16\)",
        ),
        (lambda p, x, s: (dict(list(p.items())[1:]), x, s), ValueError, "missing"),
        (
            lambda p, x, s: (p | {"cell.W.0": np.ones((3, 3), "complex64")}, x, s),
            ValueError,
            r"cell.W.0 must have shape \(2, 2\)",
        ),
        (
            lambda p, x, s: (p | {"readout.V": np.ones((4, 16))}, x, s),
            TypeError,
            "readout.V must have dtype",
        ),
    ],
)
def test_a_step_on_bad_input(rng, first, change, error, message):
    """The same sentence at the first step and later, where compiled code takes what it can."""
    model = kru.SequenceModel(kru.KRU(3, 8), 4)
    params, x = model.init(rng), rng.standard_normal((3, 2))
    state = None if first else model.step(params, x)[1]
    if error is NotImplementedError:  # complex input is computed, by NumPy
        y, _ = model.step(*change(params, x, state))
        expected, _ = model.forward(params, 1j * x[None], state)
        assert_near(y, expected[0])
        return
    with pytest.raises(error, match=message):
        model.step(*change(params, x, state))


def test_steps_in_several_threads(rng):
    model = kru.SequenceModel(kru.LSTM(3, 16, kru.Kronecker()), 4)
    params, x = moved_params(model, rng), rng.standard_normal((40, 3, 2))
    expected, _ = model.forward(params, x)

    def run(_):
        state, found = None, []
        for x_t in x:
            y, state = model.step(params, x_t, state)
            found.append(y)
        return np.array(found)

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(run, range(50)):
            assert_near(found, expected)


def test_a_step_from_a_bad_state(rng):
    model = kru.SequenceModel(kru.KRU(3, 8), 4)
    params, x = model.init(rng), rng.standard_normal((3, 2))
    _, (h,) = model.step(params, x)
    with pytest.raises(ValueError, match=r"h0 must have shape \(8, 2\), got \(8, 1\)"):
        model.step(params, x, (h[:, :1],))
    for call in (lambda s: model.step(params, x, s), lambda s: model.forward(params, x[None], s)):
        with pytest.raises(ValueError, match="a state for each of 1 cells, got tuple of 2"):
            call((h, h))
    with pytest.raises(ValueError, match=r"h0 must have shape \(8, 5\)"):
        model.step(params, rng.standard_normal((3, 5)), (h,))
    with pytest.raises(ValueError, match="at least one time step and one sequence"):
        model.step(params, x[:, :0], (h[:, :0],))
    with pytest.raises(ValueError, match="h0 must have shape"):
        model.step(params, x, ((h,),))
    lstm = kru.SequenceModel(kru.LSTM(3, 8, kru.Kronecker()), 4)
    params = lstm.init(rng)
    y, (pair,) = lstm.step(params, x)
    np.testing.assert_array_equal(lstm.step(params, x, (list(pair),))[0].shape, y.shape)
    with pytest.raises(ValueError, match="h0 must be the pair"):
        lstm.step(params, x, (pair[:1],))


def test_states_of_one_cell_stacked(rng):
    model = kru.SequenceModel(kru.KRU(3, 8), 4)
    params, x = model.init(rng), rng.standard_normal((5, 3, 2))
    _, saved = model.forward(params, x)
    expected, _ = model.forward(params, x, saved.last)
    np.testing.assert_array_equal(model.forward(params, x, np.array(saved.last))[0], expected)


@pytest.mark.parametrize("kind", STEPPING)
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_predictions_are_those_of_forward(rng, kind, last_only, pieces, backend, monkeypatch):
    model = kru.SequenceModel(STEPPING[kind](backend), 4, last_only)
    params, x = moved_params(model, rng), rng.standard_normal((10, 3, 3))
    monkeypatch.setattr(kru.SequenceModel, "_steps_at_once", lambda self, B: pieces)
    expected, _ = model.forward(params, x)
    np.testing.assert_array_equal(model.predict(params, x), expected)

    lengths = np.array([4, 10, 1])
    predicted = model.predict(params, x, lengths)
    for b, n in enumerate(lengths):
        alone, _ = model.forward(params, x[:n, :, b : b + 1])
        if last_only:
            assert_near(predicted[0, :, b], alone[0, :, 0])
        else:
            assert_near(predicted[:n, :, b], alone[:, :, 0])
            np.testing.assert_array_equal(predicted[n:, :, b], 0)


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_what_stands_behind_the_end_is_not_looked_at(rng, last_only, labels):
    model = kru.SequenceModel(kru.KRU(3, 8), 4, last_only)
    params, lengths = moved_params(model, rng), [2, 5, 3]
    x = rng.integers(3, size=(5, 3)) if labels else rng.standard_normal((5, 3, 3))
    expected = model.predict(params, x, lengths)
    padded = x.copy()
    for b, n in enumerate(lengths):
        padded[n:, ..., b] = -1 if labels else np.nan
    before = padded.copy()
    np.testing.assert_array_equal(model.predict(params, padded, lengths), expected)
    np.testing.assert_array_equal(padded, before)
    with pytest.raises(ValueError, match="must"):
        model.predict(params, padded)


def test_what_predictions_keep_does_not_depend_on_time(rng):
    model = kru.SequenceModel(kru.KRU(1, 64), 2, last_only=True)
    params, peaks = model.init(rng), []
    for T in (3_000, 12_000):
        x = rng.standard_normal((T, 1, 20)).astype("float32")
        model.predict(params, x[:10])
        tracemalloc.start()
        model.predict(params, x)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 12_000 * 20  # beside what checking x takes, a bit a number


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1, 2], r"integers of shape \(3,\), one for each sequence; got int64 \(2,\)"),
        ([1.0, 2.0, 3.0], "must be integers"),
        ([0, 1, 2], "from 1 to T = 5, got 0 to 2"),
        ([1, 6, 2], "from 1 to T = 5, got 1 to 6"),
    ],
)
def test_bad_lengths(rng, lengths, message):
    model = kru.SequenceModel(kru.KRU(3, 8), 4)
    with pytest.raises(ValueError, match=message):
        model.predict(model.init(rng), rng.standard_normal((5, 3, 3)), lengths)


# What a model writes


@pytest.mark.parametrize("temperature", [0, 1e-300, 0.5, 2.0])
@pytest.mark.parametrize("are_symbols", [False, True])
def test_samples_are_distributed_as_the_outputs_say(rng, are_symbols, temperature):
    D, B = 4, 20_000
    model = kru.SequenceModel(kru.KRU(D, 6), D)
    params = {name: 2 * p for name, p in moved_params(model, rng).items()}
    begins = rng.integers(D, size=(3, 1)) if are_symbols else rng.integers(2, size=(3, D, 1)) * 1.0
    prefix = np.repeat(begins, B, axis=-1)
    drawn = model.sample(params, prefix, 1, rng, temperature=temperature)
    assert drawn.shape == (1, *prefix.shape[1:])
    y = model.forward(params, begins)[0][-1, :, 0].astype(float)
    if temperature < 0.1:
        expected = np.eye(D)[y.argmax()] if are_symbols else y > 0
    else:
        odds = np.exp(y / temperature)
        expected = odds / odds.sum() if are_symbols else odds / (1 + odds)
    found = np.bincount(drawn[0], minlength=D) / B if are_symbols else drawn[0].mean(axis=1)
    np.testing.assert_allclose(
        found, expected, atol=5 * 0.5 / np.sqrt(B) if temperature > 0.1 else 0
    )


@pytest.mark.parametrize("are_symbols", [False, True])
@pytest.mark.parametrize("cells", [(kru.LSTM,), (kru.KRU, kru.GRU)])
def test_samples_go_on_from_what_was_drawn(rng, cells, are_symbols):
    """Each step depends on all before: of the same chance, as the outputs over the whole say."""
    D, widths = 5, [5, 12]  # a KRU's state of 6 complex numbers is 12 real ones
    model = kru.SequenceModel([cell(D, 6) for cell, D in zip(cells, widths, strict=False)], D)
    params = {name: 3 * p for name, p in moved_params(model, rng).items()}
    prefix = rng.integers(D, size=(4, 3)) if are_symbols else rng.integers(2, size=(4, D, 3))
    drawn = model.sample(params, prefix, 20, np.random.default_rng(1))
    assert len(np.unique(drawn)) > 1
    y = model.forward(params, np.concatenate([prefix, drawn]))[0][3:-1]
    chance = np.random.default_rng(1)
    noise = chance.gumbel(size=y.shape) if are_symbols else chance.random(y.shape)
    expected = (y + noise).argmax(axis=1) if are_symbols else noise < 1 / (1 + np.exp(-y))
    np.testing.assert_array_equal(drawn, expected)
    drawn = model.sample(params, prefix, 20, rng, temperature=0)
    y = model.forward(params, np.concatenate([prefix, drawn]))[0][3:-1]
    np.testing.assert_array_equal(drawn, y.argmax(axis=1) if are_symbols else y > 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prefix": np.full((2, 5, 1), 0.5)}, ValueError, "0 and 1, or integers"),
        ({"prefix": np.zeros((0, 1), int)}, ValueError, "at least one time step"),
        ({"prefix": [[5]]}, ValueError, "5"),
        ({"prefix": [0, 1]}, ValueError, r"shape \(T, B\)"),
        ({"length": 0}, ValueError, "length must be at least 1"),
        ({"length": 2.0}, TypeError, "length must be a whole number"),
        ({"rng": 0}, TypeError, "default_rng"),
        ({"temperature": -1}, ValueError, "temperature must be finite and at least 0"),
        ({"temperature": np.nan}, ValueError, "temperature must be finite"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number"),
        ({"output_size": 4}, ValueError, "output_size is 4, input_size 5"),
        ({"pooling": "mean"}, ValueError, "leave out pooling"),
        ({"params": {}}, ValueError, "params"),
        ({"scale": 1e38}, ValueError, "overflow"),
    ],
)
def test_bad_samples(rng, change, error, message):
    sizes = {"output_size": 5, "pooling": None} | change
    model = kru.SequenceModel(kru.KRU(5, 8), sizes["output_size"], pooling=sizes["pooling"])
    params = {n: p * change.get("scale", 1) for n, p in model.init(rng).items()}
    given = {"params": params, "prefix": [[0], [1]], "length": 3, "rng": rng, "temperature": 1.0}
    with pytest.raises(error, match=message), np.errstate(over="ignore", invalid="ignore"):
        model.sample(**given | {name: value for name, value in change.items() if name in given})
