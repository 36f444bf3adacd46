"""Bugs planted in every backward pass, one at a time: the gradient check catches each.

A plant is a function of the package and a piece of its text to be replaced by another. The problems
that are checked are those of ``kru-ref gradcheck``: if a wrong gradient passed here, it would pass
there.
"""

import importlib
import inspect
import re
import textwrap

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.activations import ACTIVATIONS
from kru_ref.checks import gradcheck, oracles
from kru_ref.checks.gradcheck import D, M, N, draw, relative_error
from kru_ref.kronecker import ENGINES

FACTORS = ((1, 2), (2, 3), (3, 1))
SQUARE = ((3, 3), (2, 2))


def model(cell, **options):
    return kru.SequenceModel(cell, M, **options)


MODELS = {
    "complex": lambda: model(kru.KRU(D, N, FACTORS, dtype="complex128", backend="numpy")),
    "square": lambda: model(kru.KRU(D, N, SQUARE, dtype="complex128", backend="numpy")),
    "last": lambda: model(
        kru.KRU(D, N, SQUARE, dtype="complex128", backend="numpy"), last_only=True
    ),
    "identity": lambda: model(kru.KRU(D, N, SQUARE, "identity", "complex128", backend="numpy")),
    "tanh": lambda: model(kru.KRU(D, N, SQUARE, "tanh", "float64", backend="numpy")),
    "relu": lambda: model(kru.KRU(D, N, SQUARE, "relu", "float64", backend="numpy")),
    "dense": lambda: model(kru.RNN(D, N, kru.Dense(), "modrelu", "complex128")),
    "restricted": lambda: model(kru.RNN(D, N, kru.RestrictedUnitary(), "modrelu", "complex128")),
    "halves": lambda: model(kru.RNN(D, N, kru.RestrictedUnitary(), "tanh", "float64")),
    "lstm": lambda: model(kru.LSTM(D, N, kru.Kronecker(SQUARE, "numpy"), "float64")),
    "gru": lambda: model(kru.GRU(D, N, kru.Kronecker(SQUARE, "numpy"), "float64")),
    "layers": lambda: model(
        [
            kru.KRU(D, N, SQUARE, dtype="complex128", backend="numpy"),
            kru.KRU(2 * N, 4, dtype="complex128", backend="numpy"),
        ],
        dropout=0.4,
    ),
}

# ruff: noqa: E501
# module, function, what stands there, what is planted, the model that must notice
PLANTS = [
    ("kronecker", "numpy_backward", "sweep_gradient(dy, x)", "sweep_gradient(dy, x.conj())", "complex"),
    ("kronecker", "numpy_backward", "factors[f].conj().T, dy", "factors[f].T, dy", "complex"),
    ("kronecker", "numpy_backward", "factors[f].conj().T, dy", "factors[f].conj(), dy", "square"),
    ("kronecker", "numpy_backward", "sweep_gradient(dy, x)", "sweep_gradient(dy, x).T", "square"),
    ("kronecker", "numpy_backward", "        x = np.matmul(factors[f], x)", "        pass", "square"),
    ("activations", "modrelu_backward", "(u.conj() * dh).real", "(u * dh).real", "complex"),
    ("activations", "modrelu_backward", "along.sum(axis=1)", "along[:, 0]", "complex"),
    ("activations", "modrelu_backward", "dh + stretch *", "dh - stretch *", "complex"),
    ("activations", "modrelu_backward", "(dh - u * along)", "dh", "complex"),
    ("activations", "modrelu_backward", "modulus - b[:, None]", "modulus", "complex"),
    ("activations", "modrelu_backward", "np.where(active, dh", "np.where(True, dh", "complex"),
    ("activations", "tanh_backward", "(1 - h * h)", "(1 - h)", "tanh"),
    ("activations", "tanh_backward", "dz.sum(axis=1)", "dz[:, 0]", "tanh"),
    ("activations", "relu_backward", "h > 0", "h >= 0", "relu"),
    ("activations", "relu_backward", "dz.sum(axis=1)", "dh.sum(axis=1)", "relu"),
    ("activations", "identity_backward", "dh.real.sum", "dh.imag.sum", "identity"),
    ("cells.rnn", "RNN._backward", "sigma_backward(g, h[t], b)", "sigma_backward(g, h[t - 1], b)", "complex"),
    ("cells.rnn", "RNN._backward", "g = g + dh[t - first]", "g = dh[t - first]", "complex"),
    ("cells.rnn", "RNN._backward", "if t >= first:", "if t > first:", "complex"),
    ("cells.rnn", "RNN._backward", "dh[t - first]", "dh[t - first - 1]", "complex"),
    ("cells.rnn", "RNN._backward", "if t >= first:", "if t > 0:", "last"),
    ("cells.rnn", "RNN._backward", "db += db_t", "db = db_t", "complex"),
    ("cells.rnn", "RNN._backward", "self.matrix.adjoint(W, dz[t])", "self.matrix.adjoint(W, g)", "complex"),
    ("cells.rnn", "RNN._backward", "self.matrix.adjoint(W, dz[t])", "self.matrix.matvec(W, dz[t])", "complex"),
    ("arrays", "ReadoutGradient.whole", "self.C.T", "self.C.conj().T", "complex"),
    ("cells.cell", "matrix_gradient", "h0[None], h", "h[:1], h", "complex"),
    ("cells.cell", "matrix_gradient", "h0[None], h", "0 * h0[None], h", "complex"),
    ("cells.cell", "matrix_gradient", "_side_by_side(before), ", "_side_by_side(h[first:last]), ", "complex"),
    ("cells.cell", "matrix_gradient", "total += part", "total[...] = part / 2", "complex"),
    ("cells.cell", "_side_by_side", "np.moveaxis(a, 0, 1)", "np.moveaxis(a[::-1], 0, 1)", "layers"),
    ("cells.cell", "input_gradients", "_side_by_side(x[steps]).conj().T", "_side_by_side(x[steps][::-1]).conj().T", "complex"),
    ("cells.cell", "input_gradients", "U.conj().T, dz", "U.T, dz", "layers"),
    ("cells.cell", "Cell._gradients", "over_batch(d)", "d[:, 0]", "complex"),
    ("cells.cell", "Cell._gradients", "over_batch(d)", "0 * d[:, 0]", "lstm"),
    ("cells.lstm", "LSTM._backward", "dh_t = dh_t + dh", "dh_t = dh", "lstm"),
    ("cells.lstm", "LSTM._backward", "c[t - 1] if t else c0", "c[t - 1]", "lstm"),
    ("cells.lstm", "LSTM._backward", "c[t - 1] if t else c0", "c[t]", "lstm"),
    ("cells.lstm", "LSTM._backward", "dc = dc + dh_t", "dc = dh_t", "lstm"),
    ("cells.lstm", "LSTM._backward", "(1 - tanh_c * tanh_c)", "1", "lstm"),
    ("cells.lstm", "LSTM._backward", "* i * (1 - i)", "* (1 - i)", "lstm"),
    ("cells.lstm", "LSTM._backward", "* f * (1 - f)", "* f", "lstm"),
    ("cells.lstm", "LSTM._backward", "* (1 - g * g)", "* g", "lstm"),
    ("cells.lstm", "LSTM._backward", "tanh_c * o * (1 - o)", "c[t] * o * (1 - o)", "lstm"),
    ("cells.lstm", "LSTM._backward", "dc = dc * f", "pass", "lstm"),
    ("cells.lstm", "LSTM._backward", "h0, h, dz[:, k]", "h0, h, dz[:, 0]", "lstm"),
    ("cells.lstm", "LSTM._backward", "over_time(dz)", "dz[-1].sum(axis=1)", "lstm"),
    ("cells.gru", "GRU._backward", "h[t - 1] if t else h0", "h[t - 1]", "gru"),
    ("cells.gru", "GRU._backward", "* (1 - z) * (1 - n * n)", "* (1 - n * n)", "gru"),
    ("cells.gru", "GRU._backward", "a * q * r", "a * r", "gru"),
    ("cells.gru", "GRU._backward", "(h_before - n)", "(n - h_before)", "gru"),
    ("cells.gru", "GRU._backward", ", a, a * r", ", a, a", "gru"),
    ("cells.gru", "GRU._backward", "dh_t = dh_t * z", "dh_t = 0 * dh_t", "gru"),
    ("cells.gru", "GRU._backward", "dh_t += self", "dh_t = self", "gru"),
    ("cells.gru", "GRU._backward", "over_time(d[:, 3])", "over_time(d[:, 2])", "gru"),
    ("cells.gru", "GRU._backward", "dh_t = dh_t + dh", "dh_t = dh", "gru"),
    ("matrices", "Entries.gradient", "h.conj().T", "h.T", "dense"),
    ("matrices", "Entries.adjoint", "W[0].conj().T", "W[0].T", "dense"),
    ("matrices", "Kronecker.adjoint", "W_f.conj().T", "W_f.T", "complex"),
    ("matrices", "Kronecker.adjoint", "W_f.conj().T", "W_f.conj()", "square"),
    ("matrices", "RestrictedUnitary.adjoint", "np.argsort(", "(", "restricted"),
    ("matrices", "RestrictedUnitary.adjoint", "turn(-phases[1]", "turn(phases[1]", "restricted"),
    ("matrices", "RestrictedUnitary.adjoint", "scipy.fft.fft(d", "scipy.fft.ifft(d", "restricted"),
    ("matrices", "RestrictedUnitary.gradient", "np.argsort(order)", "order", "restricted"),
    ("matrices", "RestrictedUnitary.gradient", "reflect_backward(v_2, back", "reflect_backward(v_2, turned_2", "restricted"),
    ("matrices", "RestrictedUnitary.gradient", "dphase_1, dphase_2", "dphase_2, dphase_1", "restricted"),
    ("matrices", "RestrictedUnitary.gradient", "_as_complex(dy)", "_as_complex(dy).conj()", "halves"),
    ("matrices", "turn_backward", "dy * y.conj()", "dy.conj() * y", "restricted"),
    ("matrices", "turn_backward", "axis=1", "axis=1) / len(y[0]", "restricted"),
    ("matrices", "reflect_backward", "a.conj() + x", "a + x", "restricted"),
    ("matrices", "reflect_backward", "np.vdot(e, a).real", "0", "restricted"),
    ("matrices", "reflect_backward", "x @ e.conj()", "x @ e", "restricted"),
    ("model", "SequenceModel.backward", "h = h * kept", "pass", "layers"),
    ("model", "SequenceModel.backward", "dh.whole() * kept", "dh.whole()", "layers"),
    ("model", "SequenceModel.backward", "dh = dh * kept", "pass", "layers"),
    ("model", "SequenceModel.backward", "over_time(dlogits)", "dlogits[-1].sum(axis=1)", "complex"),
    ("model", "SequenceModel.backward", "features(h)", "features(h.conj())", "dense"),
    ("model", "_features_backward", "+ 1j *", "- 1j *", "layers"),
    ("losses", "softmax_cross_entropy", "-others, exp", "exp, exp", "complex"),
    ("losses", "softmax_cross_entropy", "exp) / total", "exp) / total.sum()", "complex"),
    ("losses", "mean_squared_error", "2 / steps.shape[1]", "1 / steps.shape[1]", "complex"),
    ("losses", "bernoulli_cross_entropy", "- q * t", "", "complex"),
    ("losses", "_average", "* weights[:, None].astype(gradient.dtype)", "/ weights.size", "complex"),
    ("losses", "_average", "np.where(counts[:, None], gradient, 0)", "gradient[::-1]", "complex"),
    ("unitary", "soft_unitary", "4 * W @ E", "2 * W @ E", "complex"),
    ("unitary", "soft_unitary", "4 * W @ E", "4 * E @ W", "square"),
    ("unitary", "soft_unitary", "4 * W @ E", "4 * W.conj() @ E", "square"),
]  # fmt: skip


def plant(monkeypatch, module, name, old, new):
    """Replace a function by one whose text differs."""
    module = importlib.import_module(f"kru_ref.{module}")
    *owner, attribute = name.split(".")
    holder = getattr(module, owner[0]) if owner else module
    source = textwrap.dedent(inspect.getsource(getattr(holder, attribute)))
    code = re.sub(r'r?""".*?"""', "", source, count=1, flags=re.DOTALL)
    assert code.count(old) >= 1, f"{name} has changed: plant another bug"
    made = {}
    exec(compile(code.replace(old, new), "planted", "exec"), vars(module), made)
    planted = made[attribute]
    if owner:
        monkeypatch.setattr(holder, attribute, planted)
        return
    original = getattr(module, attribute)
    for user in [module, *USERS]:
        if getattr(user, attribute, None) is original:
            monkeypatch.setattr(user, attribute, planted)
    for table in (ACTIVATIONS, ENGINES, oracles.LOSSES):
        for key, entry in table.items():
            if entry is original:
                monkeypatch.setitem(table, key, planted)
            elif getattr(entry, "backward", None) is original:
                monkeypatch.setitem(table, key, entry._replace(backward=planted))


USERS = [
    importlib.import_module(f"kru_ref.{name}")
    for name in ("matrices", "cells.rnn", "cells.lstm", "cells.gru", "cells.cell", "model")
]


def is_caught(kind):
    """Check the gradients of a model's problems as a user would; some sequences have one step."""
    rng = np.random.default_rng(7)
    subject = MODELS[kind]()
    for T, B, loss, masked, one_hot in gradcheck.BATCHES:
        if subject.last_only and masked:
            continue
        problem, params = draw(subject, rng, T, B, loss, masked, one_hot)
        if subject.last_only:
            problem = problem._replace(targets=problem.targets[-1])
        for name in params:  # a penalty and a reflection of parameters that are not small
            params[name] = params[name] * 1.3
        grads = gradient(problem, params)
        report = kru.check_gradient(
            lambda p, problem=problem: value(problem, p), params, grads, directions=3, rng=rng,
            tolerance=1e-6,
        )  # fmt: skip
        if not report:
            return True
    return False


def value(problem, params):
    logits, _ = problem.model.forward(params, problem.x, rng=np.random.default_rng(1))
    loss = oracles.LOSSES[problem.loss]
    found, _ = loss(logits, problem.targets, problem.mask, problem.model.last_only)
    return found + problem.strength * problem.model.penalty(params)[0]


def gradient(problem, params):
    logits, saved = problem.model.forward(params, problem.x, rng=np.random.default_rng(1))
    loss = oracles.LOSSES[problem.loss]
    _, dlogits = loss(logits, problem.targets, problem.mask, problem.model.last_only)
    grads = problem.model.backward(params, saved, dlogits)
    return problem.model.add_penalty(params, grads, problem.strength)[1]


@pytest.mark.parametrize("kind", MODELS)
def test_nothing_is_caught_where_nothing_is_planted(kind):
    assert not is_caught(kind)


@pytest.mark.parametrize(
    ("module", "name", "old", "new", "kind"), PLANTS, ids=[f"{p[1]}: {p[3]}"[:60] for p in PLANTS]
)
def test_every_planted_bug_is_caught(monkeypatch, module, name, old, new, kind):
    plant(monkeypatch, module, name, old, new)
    assert is_caught(kind)


def test_errors_are_relative_to_the_largest_entry():
    wanted = {"a": np.array([1.0, 1e-9]), "b": np.array([1e-6])}
    assert relative_error({"a": np.array([1.0, 1e-9 + 1e-12]), "b": wanted["b"]}, wanted) < 1e-11
    assert relative_error({"a": wanted["a"], "b": np.array([2e-6])}, wanted) == pytest.approx(1e-3)
