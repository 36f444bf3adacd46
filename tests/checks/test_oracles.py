"""PyTorch's and JAX's automatic differentiation of the same networks, in double precision."""

import dataclasses
import itertools

import pytest

import kru_ref as kru
from kru_ref.checks import gradcheck, oracles
from kru_ref.checks.gradcheck import BATCHES, draw, relative_error

ORACLES = {"torch": oracles.pytorch, "jax": oracles.jax}


SUBJECTS = {f"{s.name}, {s.backend}": s for s in gradcheck.subjects()}


FACTORS = [((2, 3), (3, 2), (2, 2)), ((1, 4), (12, 3)), None]


@pytest.fixture(params=ORACLES)
def oracle(request):
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return request.param


def check(model, problem, params, oracle, record_error):
    value, wanted = ORACLES[oracle](problem, params)
    assert problem.value(params) == pytest.approx(value, rel=1e-12)
    error = relative_error(problem.gradient(params), wanted)
    record_error(f"{oracle}'s autograd", error)
    assert error < 1e-11


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_gradient(rng, subject, oracle, record_error):
    model = kru.SequenceModel(SUBJECTS[subject].cell, gradcheck.M)
    losses = oracles.LOSSES if oracle == "torch" else ("softmax",)
    for (T, B, _, masked, one_hot), loss in itertools.product(BATCHES, losses):
        problem, params = draw(model, rng, T, B, loss, masked, one_hot)
        check(model, problem, params, oracle, record_error)


@pytest.mark.parametrize("loss", oracles.LOSSES)
@pytest.mark.parametrize("masked", [False, True])
def test_every_loss(rng, loss, masked, oracle, record_error):
    model = kru.SequenceModel(kru.KRU(gradcheck.D, 6, dtype="complex128"), gradcheck.M)
    problem, params = draw(model, rng, 3, 4, loss, masked, False)
    check(model, problem, params, oracle, record_error)


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("kind", [kru.RNN, kru.LSTM, kru.GRU])
def test_awkward_factors(rng, factors, kind, backend, oracle, record_error):
    matrix = kru.Kronecker(factors, backend)
    cell = kind(gradcheck.D, 12, matrix)
    cell = dataclasses.replace(cell, dtype="float64")
    if kind is kru.RNN:
        cell = dataclasses.replace(cell, activation="modrelu", dtype="complex128")
    model = kru.SequenceModel(cell, gradcheck.M)
    problem, params = draw(model, rng, 7, 3, "softmax", True, False)
    check(model, problem, params, oracle, record_error)


def test_layers(rng, oracle, record_error):
    cells = [
        kru.KRU(gradcheck.D, 6, dtype="complex128"),
        kru.LSTM(12, 4, kru.Kronecker(), "float64"),
        kru.RNN(4, 6, kru.RestrictedUnitary(), "modrelu", "float64"),
    ]
    model = kru.SequenceModel(cells, gradcheck.M)
    problem, params = draw(model, rng, 5, 2, "bernoulli", True, True)
    check(model, problem, params, oracle, record_error)


def test_what_cannot_be_compared_is_refused(rng, oracle):
    """The oracles take no targets at their word that the loss itself refuses."""
    cell = kru.KRU(gradcheck.D, 6, dtype="complex128")
    problem, params = draw(kru.SequenceModel(cell, 3), rng, 2, 4, "softmax", True, False)
    refused = {
        "loss must be one of": problem._replace(loss="cosine"),
        "every time step": problem._replace(model=kru.SequenceModel(cell, 3, last_only=True)),
        "targets": problem._replace(targets=problem.targets + 3),
        "mask": problem._replace(mask=0 * problem.mask),
        "x ": problem._replace(x=problem.x[:0]),
    }
    for words, other in refused.items():
        with pytest.raises(ValueError, match=words):
            ORACLES[oracle](other, params)


def test_what_is_said_without_an_oracle(monkeypatch, rng):
    model = kru.SequenceModel(kru.KRU(gradcheck.D, 6, dtype="complex128"), gradcheck.M)
    problem, params = draw(model, rng, 1, 1, "softmax", False, False)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(
        ImportError, match=r"needs the package torch: pip install 'kru_ref\[oracles"
    ):
        oracles.pytorch(problem, params)
