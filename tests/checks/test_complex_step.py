"""Gradients of real models against the complex step, which subtracts nothing."""

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.checks.complex_step import forward_on_complex

N, D, M = 6, 2, 3
CELLS = {
    "tanh": lambda matrix: kru.RNN(D, N, matrix, "tanh", "float64"),
    "relu": lambda matrix: kru.RNN(D, N, matrix, "relu", "float64"),
    "identity": lambda matrix: kru.RNN(D, N, matrix, "identity", "float64"),
    "lstm": lambda matrix: kru.LSTM(D, N, matrix, "float64"),
    "gru": lambda matrix: kru.GRU(D, N, matrix, "float64"),
    "layers": lambda matrix: [
        kru.RNN(D, N, matrix, "tanh", "float64"),
        kru.LSTM(N, N, matrix, "float64"),
    ],
}
LOSSES = {
    "softmax": (kru.softmax_cross_entropy, lambda rng, T, B: rng.integers(M, size=(T, B))),
    "squared": (kru.mean_squared_error, lambda rng, T, B: rng.standard_normal((T, M, B))),
    "bernoulli": (kru.bernoulli_cross_entropy, lambda rng, T, B: rng.random((T, M, B))),
}


def moved(model, rng):
    return {k: p + rng.uniform(-0.2, 0.2, p.shape) for k, p in model.init(rng).items()}


def check_every_gradient(rng, cell, loss, T, B, record_error, which):
    model = kru.SequenceModel(cell, M)
    params, x = moved(model, rng), rng.standard_normal((T, D, B))
    function, draw_targets = LOSSES[loss]
    targets = draw_targets(rng, T, B)
    mask = rng.integers(2, size=(T, B)) + (np.arange(T) == 0)[:, None]
    logits, saved = model.forward(params, x)
    grads = model.backward(params, saved, function(logits, targets, mask)[1])
    report = kru.check_gradient(
        lambda p: function(forward_on_complex(model, p, x), targets, mask)[0],
        params,
        grads,
        method="complex-step",
    )
    record_error(f"complex step, {which}", report.max_error)
    assert report, report
    np.testing.assert_allclose(forward_on_complex(model, params, x), logits, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("T", "B"), [(1, 1), (17, 3)])
def test_every_gradient_over_kronecker(rng, kind, loss, T, B, backend, record_error):
    cell = CELLS[kind](kru.Kronecker(((1, 2), (2, 3), (3, 1)), backend))
    check_every_gradient(rng, cell, loss, T, B, record_error, backend)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("matrix", [kru.Dense(), kru.FullUnitary()], ids=str)
def test_every_gradient_over_other_matrices(rng, kind, matrix, record_error):
    check_every_gradient(rng, CELLS[kind](matrix), "softmax", 5, 2, record_error, "numpy")


def test_gradient_of_the_input(rng):
    cell = kru.LSTM(D, N, kru.Kronecker(), "float64")
    params, x, dh = moved(cell, rng), rng.standard_normal((4, D, 2)), rng.standard_normal((4, N, 2))
    _, dx, _ = cell.backward(params, cell.forward(params, x)[1], dh)
    f = lambda p: np.sum(dh * forward_on_complex(cell, params, p["x"]))  # noqa: E731
    kru.assert_gradient(f, {"x": x}, {"x": dx}, method="complex-step")


def test_one_hot_input_and_last_step(rng):
    model = kru.SequenceModel(kru.GRU(D, N, kru.Kronecker(), "float64"), M, last_only=True)
    params, x, targets = moved(model, rng), rng.integers(D, size=(5, 3)), rng.integers(M, size=3)
    logits, saved = model.forward(params, x)
    np.testing.assert_allclose(forward_on_complex(model, params, x), logits, rtol=1e-12, atol=1e-13)
    assert forward_on_complex(model, params, x).shape == logits.shape == (1, M, 3)
    _, dlogits = kru.softmax_cross_entropy(logits, targets, last_only=True)
    f = lambda p: kru.softmax_cross_entropy(  # noqa: E731
        forward_on_complex(model, p, x), targets, last_only=True
    )[0]
    grads = model.backward(params, saved, dlogits)
    kru.assert_gradient(f, params, grads, method="complex-step")


def test_what_has_no_analytic_continuation(rng):
    x = rng.standard_normal((2, D, 1))
    for cell in (kru.KRU(D, N, dtype="complex128"), kru.KRU(D, N, dtype="float64")):
        with pytest.raises(TypeError, match="a complex cell and modReLU have no analytic"):
            forward_on_complex(cell, cell.init(rng), x)
    cell = kru.RNN(D, N, kru.RestrictedUnitary(), dtype="float64")
    with pytest.raises(TypeError, match="RestrictedUnitary has no analytic continuation"):
        forward_on_complex(cell, cell.init(rng), x)
    cell = kru.LSTM(D, N, dtype="float64")
    with pytest.raises(ValueError, match=r"U must have shape \(24, 2\)"):
        forward_on_complex(cell, cell.init(rng) | {"U": np.zeros((24, 3))}, x)
    with pytest.raises(ValueError, match=r"x must have shape \(T, D, B\)"):
        forward_on_complex(cell, cell.init(rng), x[:, :1] + 1e-20j)
