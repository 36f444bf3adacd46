"""Tone."""

import dataclasses
import functools

import numpy as np
import pytest

from kru_ref.training.recipes import RECIPES
from kru_ref.training.tasks import Tone


def test_tone():
    task = Tone(length=31, first_length=None, batch_size=3000, frequency=0.3, noise=0.5)
    x, a = task.batch(0)[:2]
    assert x.shape == (31, 1, 3000)
    assert a.shape == (1, 3000)
    assert abs(a).max() <= 1
    noise = x[:, 0] - a * np.cos(0.3 * (30 - np.arange(31)))[:, None]
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    assert abs(np.corrcoef(noise)[0, 1:]).max() < 0.08
    assert np.mean(a**2) == pytest.approx(task.baseline[1], rel=0.05)
    assert task.metrics(0.0, a[None] + 0.05, task.batch(0)) == {"within_0.1": 1.0}


def test_nothing_linear_comes_below_the_least_error():
    """Least squares on x itself, with as many sequences as it takes, comes to it."""
    task = Tone(length=12, first_length=None, batch_size=200_000, frequency=0.9, noise=0.7)
    (x, a), (x_new, a_new) = (
        (batch.x[:, 0], batch.targets[0]) for batch in (task.batch(0), task.batch(1))
    )
    weights = np.linalg.lstsq(x.T, a, rcond=None)[0]
    assert np.mean((weights @ x_new - a_new) ** 2) == pytest.approx(task.least_error, rel=0.02)


def least_error_of_states(task, cell, params):
    """Return the least error of anything linear in the last state: exact, from its covariance."""
    eye = np.eye(task.length)[:, None]  # an impulse in each sequence
    silence = np.zeros((task.length, 1, task.length))
    at_rest = np.zeros((cell.hidden_size, task.length))
    h, h_silent = (cell.forward(params, x, at_rest)[0][-1] for x in (eye, silence))
    response = np.concatenate([(h - h_silent).real, (h - h_silent).imag])  # to each x_t
    signal, noise = response @ task.tone(task.length), task.noise**2 * response @ response.T
    return 1 / (3 + signal @ np.linalg.solve(noise, signal))


@pytest.mark.parametrize("seed", range(5))
def test_a_random_unitary_reservoir_cannot_do_it(seed):
    """Whatever is read out of it linearly: of sixteen eigenvalues none is the one it takes."""
    task = dataclasses.replace(RECIPES["tone-kru"], seed=seed, dtype="complex128")
    model = task.model()
    params = model.cell_params(model.init(task.rng("parameters")))[0]
    assert least_error_of_states(task, model.cell, params) > 0.9 * task.baseline[1]
    # not for want of size, but of one frequency
    eigenvalues = functools.reduce(np.kron, [np.linalg.eigvals(params[f"W.{f}"]) for f in range(4)])
    turned = np.exp(1j * (task.frequency - np.angle(eigenvalues[0])))
    right = params | {"W.0": params["W.0"] * turned}
    assert least_error_of_states(task, model.cell, right) < 1.3 * task.least_error


def test_it_refuses_what_is_no_tone():
    with pytest.raises(ValueError, match=r"frequency must be between 0 and π, got 3\.5"):
        Tone(frequency=3.5)
    with pytest.raises(ValueError, match="noise must be at least 0, got -1"):
        Tone(noise=-1)
