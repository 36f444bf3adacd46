"""PyTorch's and JAX's automatic differentiation of the same networks, in double precision."""

import dataclasses
import importlib.util
import itertools

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.checks import gradcheck, oracles
from kru_ref.checks.gradcheck import BATCHES, Row, Subject, draw, relative_error
from kru_ref.training import cli

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


def test_the_table(capsys, monkeypatch):
    """Each oracle that applies has its column; a wrong gradient fails the command."""
    some = [
        SUBJECTS["LSTM over Kronecker, numpy"],
        SUBJECTS["RNN tanh over RestrictedUnitary, numpy"],
    ]
    monkeypatch.setattr(gradcheck, "subjects", lambda: iter(some))
    monkeypatch.setattr(gradcheck, "BATCHES", gradcheck.BATCHES[:2])
    assert cli.main(["gradcheck", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-6:] == ["complex", "step", "differences", "RTRL", "PyTorch", "JAX"]
    assert lines[2].startswith("LSTM over Kronecker, numpy")
    assert lines[3].split()[5] == "-"  # no analytic continuation
    assert lines[-1] == "passed"

    backward = kru.LSTM.run_backward

    def wrong(self, *arguments, **options):
        grads, dx, dh0 = backward(self, *arguments, **options)
        return grads | {"b": grads["b"] * (1 + 1e-6)}, dx, dh0

    monkeypatch.setattr(kru.LSTM, "run_backward", wrong)
    assert cli.main(["gradcheck", "--all"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("<- wrong")
    assert not lines[3].endswith("<- wrong")
    assert lines[-1] == "FAILED"


def test_limits_of_a_row():
    subject = SUBJECTS["GRU over Dense, numpy"]
    for oracle, limit in gradcheck.LIMITS.items():
        assert Row(subject, {oracle: limit}).passed
        assert not Row(subject, {oracle: 1.01 * limit}).passed
        assert not Row(subject, {oracle: float("nan")}).passed
    assert not Row(subject, {}).passed


def test_a_comparison_of_nothing_does_not_pass(rng, monkeypatch, capsys):
    one = {"a": np.ones(2), "b": np.ones((2, 2))}
    assert relative_error(one, one) == 0
    nothing = {"a": np.zeros(2)}
    assert relative_error(nothing, nothing) == 0
    assert relative_error({"a": np.ones(2)}, nothing) > 1
    for grads in ({}, {"a": np.ones(2)}, one | {"c": np.ones(1)}):
        with pytest.raises(ValueError, match="expected gradients of"):
            relative_error(grads, one)
        with pytest.raises(ValueError, match="expected gradients of"):
            relative_error(one, grads)
    with pytest.raises(ValueError, match="at least one gradient"):
        relative_error({}, {})
    for other in (np.ones(1), np.ones((2, 1)), np.ones(()), np.ones(0)):
        with pytest.raises(ValueError, match=r"a must have shape \(2,\)"):
            relative_error(one | {"a": other}, one)
    with pytest.raises(ValueError, match=r"a must have shape \(0,\)"):
        relative_error({"a": np.ones(0)}, {"a": np.ones(0)})
    for bad in (np.nan, np.inf, -np.inf):
        for name in one:
            a = one[name].copy()
            a.flat[0] = bad
            for pair in ((one | {name: a}, one), (one, one | {name: a}), (one | {name: a},) * 2):
                assert not relative_error(*pair) <= 1
    subject = SUBJECTS["GRU over Dense, numpy"]
    with monkeypatch.context() as patch:
        patch.setattr(gradcheck, "BATCHES", [])
        assert not gradcheck.check(subject, rng).passed
    with monkeypatch.context() as patch:
        patch.setattr(gradcheck, "compare", lambda *arguments: {"RTRL": float("nan")})
        assert not gradcheck.check(subject, rng).passed
    monkeypatch.setattr(gradcheck, "subjects", lambda: iter(()))
    assert cli.main(["gradcheck", "--all"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAILED"


def test_there_is_a_subject_for_every_cell_and_matrix():
    assert isinstance(next(gradcheck.subjects()), Subject)
    kinds = {(type(s.cell).__name__, type(s.cell.matrix).__name__) for s in SUBJECTS.values()}
    matrices = ("Kronecker", "Dense", "RestrictedUnitary", "FullUnitary")
    assert kinds == set(itertools.product(("RNN", "LSTM", "GRU"), matrices))
    if importlib.util.find_spec("kru_ref.engine._kernels"):
        assert {s.backend for s in SUBJECTS.values()} == {"numpy", "cython"}
    np.testing.assert_array_less(0, list(gradcheck.LIMITS.values()))
