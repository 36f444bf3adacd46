"""The table of all gradients against all oracles."""

import importlib.util
import itertools

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.checks import gradcheck, oracles
from kru_ref.checks.gradcheck import Row, Subject, relative_error
from kru_ref.training import cli

ORACLES = {"torch": oracles.pytorch, "jax": oracles.jax}


SUBJECTS = {f"{s.name}, {s.backend}": s for s in gradcheck.subjects()}


@pytest.fixture(params=ORACLES)
def oracle(request):
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return request.param


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
    of_diagonal = {("RNN", "Diagonal"), ("LRU", "Diagonal")}
    assert kinds == of_diagonal | set(itertools.product(("RNN", "LSTM", "GRU"), matrices))
    if importlib.util.find_spec("kru_ref.engine._kernels"):
        assert {s.backend for s in SUBJECTS.values()} == {"numpy", "cython"}
    np.testing.assert_array_less(0, list(gradcheck.LIMITS.values()))
