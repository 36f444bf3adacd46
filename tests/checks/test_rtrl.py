"""Real-time recurrent learning: the same gradients, forward in time."""

import numpy as np
import pytest
from networks import CELLS, MATRICES, MODELS, SHAPES, D, M, N, moved

import kru_ref as kru


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("T", "B"), SHAPES)
@pytest.mark.parametrize("one_hot", [False, True])
def test_real_time_recurrent_learning(rng, kind, T, B, one_hot, backend, record_error):
    model = MODELS[kind](backend)
    T = min(T, 4) if kind == "layers" else T  # some hundred parameters, each with a tangent
    params = moved(model, rng)
    x = rng.integers(D, size=(T, B)) if one_hot else rng.standard_normal((T, D, B))
    logits, saved = model.forward(params, x)
    dlogits = rng.standard_normal(logits.shape)
    grads = model.backward(params, saved, dlogits)
    forward = kru.rtrl(model, params, x, dlogits)
    for name, g in grads.items():
        error = np.abs(g - forward[name]).max() / max(np.abs(g).max(), 1e-3)
        record_error(f"real-time recurrent learning, {backend}", error)
        assert error < 1e-12, name


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_real_time_recurrent_learning_of_every_cell(rng, kind, matrix, record_error):
    model = kru.SequenceModel(CELLS[kind](matrix), M)
    params, x = moved(model, rng), rng.standard_normal((4, D, 2))
    logits, saved = model.forward(params, x)
    dlogits = rng.standard_normal(logits.shape)
    grads, forward = model.backward(params, saved, dlogits), kru.rtrl(model, params, x, dlogits)
    for name, g in grads.items():
        error = np.abs(g - forward[name]).max() / max(np.abs(g).max(), 1e-3)
        record_error("real-time recurrent learning, numpy", error)
        assert error < 1e-12, name


def test_the_gradient_is_known_at_each_step(rng):
    """What it says of the first steps is the gradient of a sequence that ends there."""
    model = kru.SequenceModel(kru.KRU(D, N, dtype="complex128"), M)
    params, x = moved(model, rng), rng.standard_normal((5, D, 2))
    h0 = rng.standard_normal((N, 2)) + 1j
    for given in (None, h0):
        learning = kru.RealTimeLearning(model, params, 2, given)
        for t in range(5):
            logits = learning.step(x[t])
            whole, saved = model.forward(params, x[: t + 1], given)
            np.testing.assert_allclose(logits, whole[-1], rtol=1e-12)
            dlogits = np.zeros_like(whole)
            dlogits[-1] = rng.standard_normal((M, 2))
            grads = model.backward(params, saved, dlogits)
            for name, g in learning.gradient(dlogits[-1]).items():
                np.testing.assert_allclose(g, grads[name], rtol=1e-10, atol=1e-12)


def test_real_time_learning_of_what_does_not_fit(rng):
    model = kru.SequenceModel(kru.KRU(D, N, dtype="complex128"), M)
    params, x = model.init(rng), rng.standard_normal((5, D, 2))
    with pytest.raises(ValueError, match=r"dlogits must have the shape of logits, \(5, 3, 2\)"):
        kru.rtrl(model, params, x, np.zeros((4, M, 2)))
    with pytest.raises(ValueError, match=r"x must have shape \(T, D, B\)"):
        kru.RealTimeLearning(model, params, 2).step(np.zeros((D + 1, 2)))
    with pytest.raises(ValueError, match="x_t must hold 2 sequences, got 1"):
        kru.RealTimeLearning(model, params, 2).step(np.zeros((D, 1)))
    with pytest.raises(ValueError, match="B must be at least 1, got 0"):
        kru.RealTimeLearning(model, params, 0)
    with pytest.raises(ValueError, match="params do not belong to this model"):
        kru.RealTimeLearning(model, {}, 2)
    learning = kru.RealTimeLearning(model, params, 2)
    with pytest.raises(ValueError, match="dlogits must have shape"):
        learning.gradient(np.zeros((M, 1)))
    with pytest.raises(TypeError, match="dlogits must fit"):
        learning.gradient(np.zeros((M, 2), complex))
    with pytest.raises(ValueError, match="needs at least one time step"):
        kru.rtrl(model, params, np.zeros((0, D, 2)), np.zeros((0, M, 2)))
