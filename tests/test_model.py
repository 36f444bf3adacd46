"""The readout, and whole models with every loss."""

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
    h = saved.cell.h
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
    carried = first.cell.h[-1].copy()
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
