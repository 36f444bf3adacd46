"""Sequences of different length: padding, epochs, masks."""

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.training.tasks.task import epoch_of, pad


def test_pad():
    padded, mask = pad([np.ones((2, 3)), 2 * np.ones((4, 3)), 3 * np.ones((1, 3))])
    assert padded.shape == (4, 3, 3)
    np.testing.assert_array_equal(mask.sum(axis=0), [2, 4, 1])
    np.testing.assert_array_equal(padded.sum(axis=(0, 1)), [6, 24, 9])
    np.testing.assert_array_equal(padded[:, 0] * (1 - mask), 0)
    labels, _ = pad([np.array([5, 6]), np.array([7])])
    np.testing.assert_array_equal(labels, [[5, 7], [6, 0]])


def test_epochs():
    assert [epoch_of(u, 5, 2) for u in range(5)] == [(0, 0), (0, 2), (0, 4), (1, 0), (1, 2)]


CELLS = {
    "kru": lambda backend: kru.KRU(3, 12, dtype="complex128", backend=backend),
    "lstm": lambda backend: kru.LSTM(3, 12, kru.Kronecker(backend=backend), "float64"),
    "gru": lambda backend: kru.GRU(3, 12, kru.Kronecker(backend=backend), "float64"),
    "dense": lambda backend: kru.LSTM(3, 12, kru.Dense(), "float64"),
}


@pytest.mark.parametrize("cell", CELLS)
def test_padded_steps_change_nothing(rng, cell, backend):
    """Neither loss nor gradients: those of the batch are the sums of the sequences' own."""
    model = kru.SequenceModel(CELLS[cell](backend), 4)
    params = model.init(rng)
    xs = [rng.standard_normal((T, 3)) for T in (5, 2, 7)]
    targets = [rng.integers(2, size=(len(x), 4)) for x in xs]
    total, n = dict.fromkeys(params, 0.0), sum(len(x) for x in xs)
    value = 0.0
    for x, target in zip(xs, targets, strict=True):
        logits, saved = model.forward(params, x[..., None])
        loss, dlogits = kru.bernoulli_cross_entropy(logits, target[..., None])
        value += loss * len(x) / n
        for name, g in model.backward(params, saved, dlogits).items():
            total[name] = total[name] + g * len(x) / n
    x, mask = pad(xs)
    logits, saved = model.forward(params, x)
    loss, dlogits = kru.bernoulli_cross_entropy(logits, pad(targets)[0], mask)
    grads = model.backward(params, saved, dlogits)
    assert loss == pytest.approx(value, rel=1e-13)
    for name, g in grads.items():
        np.testing.assert_allclose(g, total[name], rtol=1e-10, atol=1e-14)
