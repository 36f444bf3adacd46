"""Bugs planted in every backward pass, one at a time: the gradient check catches each.

A plant is a function of the package, replaced by a wrong one. The problems that are checked are
those of ``kru-ref gradcheck``: if a wrong gradient passed here, it would pass
there.
"""

import functools
import importlib
import itertools

import numpy as np
import pytest
import scipy.fft
from vector_results import PUBLISHED

import kru_ref as kru
from kru_ref import restricted
from kru_ref.activations import ACTIVATIONS
from kru_ref.arrays import ReadoutGradient
from kru_ref.checks import gradcheck, oracles, vectors, verify
from kru_ref.checks.gradcheck import D, M, N, draw, relative_error
from kru_ref.kronecker import ENGINES
from kru_ref.sweeps import sweep_gradient, sweeps

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
    "dense": lambda: model(kru.RNN(D, N, kru.Dense(backend="numpy"), "modrelu", "complex128")),
    "restricted": lambda: model(kru.RNN(D, N, kru.RestrictedUnitary(), "modrelu", "complex128")),
    "lru": lambda: model(kru.LRU(D, N, kru.Diagonal(0.5, 0.9, 1.0, "numpy"), "complex128")),
    "eigenbasis": lambda: model(
        kru.KRU(D, N, SQUARE, "identity", "complex128", backend="numpy", eigenbasis=True)
    ),
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


def with_row(k, change):
    """Let a step's gradient number k be wrong; change tells how, from (row, gates, c, h before)."""

    def wrong(original, self, params, before, after, gates, dafter):
        d, past, db = original(self, params, before, after, gates, dafter)
        rows = list(d)
        rows[k] = change(rows[k], gates, after[-1], before[0])
        return tuple(rows), past, db

    return wrong


def with_past(change):
    """Let what a step hands to the state before, past the matrices, be wrong."""

    def wrong(original, self, params, before, after, gates, dafter):
        d, past, db = original(self, params, before, after, gates, dafter)
        return d, change(past, gates, dafter), db

    return wrong


def with_dafter(change):
    """Let a step believe in other gradients of the state after it."""

    def wrong(original, self, params, before, after, gates, dafter):
        return original(self, params, before, after, gates, change(dafter, gates, after))

    return wrong


def with_dh(change):
    """Let the loop over time take other gradients of h from the loss."""

    def wrong(original, self, params, saved, dh, *rest):
        dh = dh.whole() if isinstance(dh, ReadoutGradient) else dh
        return original(self, params, saved, change(dh, len(saved.h)), *rest)

    return wrong


def with_before(part):
    """Let the loop take the last state for the first."""

    def wrong(original, self, params, saved, *rest):
        before = list(saved.before)
        before[part] = saved.states[part][-1]
        return original(self, params, saved._replace(before=tuple(before)), *rest)

    return wrong


def every(n):
    """Let a method return its result every n-th time, else 0."""
    calls = itertools.count(1)
    return lambda original, *args: original(*args) * (next(calls) % n == 0)


def every_second_bias(original, self, *args):
    d, past, db = original(self, *args)
    every_second_bias.calls += 1
    return d, past, {name: b * (every_second_bias.calls % 2) for name, b in db.items()}


every_second_bias.calls = 0


def product_backward(back=lambda W: W.conj().T, forward=np.matmul):
    """Return kronecker.numpy_backward with other steps back, or other arrays before a factor."""

    def wrong(original, factors, x, dy):
        plan, before = sweeps(tuple(W.shape for W in factors), x.shape[1]), []
        dfactors, shape = [None] * len(factors), x.shape
        for f, left, right in plan:
            before.append(x.reshape(left, factors[f].shape[1], right))
            x = forward(factors[f], before[-1])
        for (f, left, right), x_f in zip(reversed(plan), reversed(before), strict=True):
            dy = dy.reshape(left, factors[f].shape[0], right)
            dfactors[f] = sweep_gradient(dy, x_f)
            dy = np.matmul(back(factors[f]), dy)
        return dfactors, dy.reshape(shape)

    return wrong


def modrelu_backward(phase=np.conj, longer=1, across=1, over=slice(None), shrunk=1, mask=True):
    """Return activations.modrelu_backward with one mistake."""

    def wrong(original, dh, h, b):
        modulus = np.abs(h)
        u = np.divide(h, modulus, out=np.zeros_like(h), where=modulus != 0)
        along = (phase(u) * dh).real
        r = np.where(modulus == 0, 1, modulus - shrunk * b[:, None])
        stretch = longer * b[:, None] / r
        dz = dh + stretch * (dh - across * u * along)
        return np.where(modulus != 0, dz, 0 if mask else dh), along[:, over].sum(axis=1)

    return wrong


def during(holder, name, wrong):
    """Let another function be wrong, but only while the planted one runs."""

    def planted(original, *args):
        right = getattr(holder, name)
        setattr(holder, name, functools.partial(wrong, right))
        try:
            return original(*args)
        finally:
            setattr(holder, name, right)

    return planted


def reflect_backward(conj_a=np.conj, conj_e=np.conj, along=1):
    """Return restricted.reflect_backward with one mistake."""

    def wrong(original, v, x, dy):
        u, length = v / np.linalg.norm(v), np.linalg.norm(v)
        a, e = u.conj() @ x, u.conj() @ dy
        du = -2 * (dy @ conj_a(a) + x @ conj_e(e)) + 4 * along * np.vdot(e, a).real * u
        return original(v, x, dy)[0], du / length

    return wrong


def without_dropout(i, keys):
    """Let a model's backward forget the dropout behind cell i, for some of its gradients."""

    def wrong(original, self, params, saved, dlogits):
        kept = list(saved.kept)
        kept[i] = None
        forgot = original(self, params, saved._replace(kept=tuple(kept)), dlogits)
        right = original(self, params, saved, dlogits)
        return {name: (forgot if keys(name) else right)[name] for name in right}

    return wrong


def loss_gradient(change):
    """Let the gradient of a loss be wrong."""

    def wrong(original, *args, **options):
        value, gradient = original(*args, **options)
        return value, change(gradient)

    return wrong


def penalty_gradient(of):
    """Let the gradient of the unitary penalty be wrong."""

    def wrong(original, factors):
        errors = [W.conj().T @ W - np.eye(W.shape[1]) for W in factors]
        return original(factors)[0], [of(W, E) for W, E in zip(factors, errors, strict=True)]

    return wrong


def halved(original, *args):
    return [part / 2 for part in original(*args)]


def flat_weights(original, values, gradient, weights, logits):
    flat = np.full_like(weights, 1 / weights.size)
    return original(values, gradient, weights, logits)[0], original(values, gradient, flat, logits)[
        1
    ]


def phases_changed(change):
    return lambda f, self, W, dy: f(self, [change(W[0].copy()), W[1]], dy)


def second_negated(phases):
    phases[1] *= -1
    return phases


def conjugated_halves(original, self, W, h, dy):
    n = len(dy) // 2
    return original(self, W, h, np.concatenate([dy[:n], -dy[n:]]))


KRONECKER, RESTRICTED = "matrices:Kronecker", "restricted:RestrictedUnitary"
EIGENBASIS = "cells.eigenbasis:Eigenbasis"
STEP, LOOP = "step_backward", "cells.cell:Cell.run_numpy_backward"
inverse_order = during(restricted, "permutation", lambda right, seed, n: np.argsort(right(seed, n)))

# where, what is wrong there and the wrong function, the model that must notice
PLANTS = [
    ("kronecker:sweep_gradient", "x conjugated", lambda f, dy, x: f(dy, x.conj()), "complex"),
    ("kronecker:numpy_backward", "back by W^T", product_backward(lambda W: W.T), "complex"),
    ("kronecker:numpy_backward", "back by conj W", product_backward(np.conj), "square"),
    ("kronecker:sweep_gradient", "transposed", lambda f, dy, x: f(dy, x).T, "square"),
    ("kronecker:numpy_backward", "x before all", product_backward(forward=lambda W, x: x), "square"),
    ("activations:modrelu_backward", "u not conjugated", modrelu_backward(np.array), "complex"),
    ("activations:modrelu_backward", "one sequence's b", modrelu_backward(over=[0]), "complex"),
    ("activations:modrelu_backward", "shrinks", modrelu_backward(longer=-1), "complex"),
    ("activations:modrelu_backward", "along u too", modrelu_backward(across=0), "complex"),
    ("activations:modrelu_backward", "modulus of h", modrelu_backward(shrunk=0), "complex"),
    ("activations:modrelu_backward", "inactive too", modrelu_backward(mask=False), "complex"),
    ("activations:tanh_backward", "1 - h", lambda f, dh, h, b: ((1 - h) * dh, f(dh, h, b)[1]), "tanh"),
    ("activations:tanh_backward", "one sequence's b", lambda f, dh, h, b: (f(dh, h, b)[0], f(dh, h, b)[0][:, 0]), "tanh"),
    ("activations:relu_backward", "at 0 too", lambda f, dh, h, b: (np.where(h >= 0, dh, 0), f(dh, h, b)[1]), "relu"),
    ("activations:relu_backward", "b of all units", lambda f, dh, h, b: (f(dh, h, b)[0], dh.sum(axis=1)), "relu"),
    ("activations:identity_backward", "imaginary b", lambda f, dh, h, b: (dh, dh.imag.sum(axis=1)), "identity"),
    ("cells.rnn:RNN.step_backward", "at the state before", lambda f, self, p, before, after, *r: f(self, p, before, before, *r), "complex"),
    (f"{KRONECKER}.adjoint", "no gradient through W", lambda f, *args: 0 * f(*args), "complex"),
    (LOOP, "no loss at the first step", with_dh(lambda dh, T: np.concatenate([0 * dh[:1], dh[1:]])), "complex"),
    (LOOP, "a step late", with_dh(lambda dh, T: np.roll(dh, 1, axis=0)), "complex"),
    (LOOP, "a loss at every step but the first", with_dh(lambda dh, T: np.repeat(dh, T, axis=0)[1:]), "last"),
    ("cells.rnn:RNN.step_backward", "every second b", every_second_bias, "complex"),
    ("cells.rnn:RNN.step_backward", "past the matrix too", with_past(lambda past, gates, dafter: dafter), "complex"),
    (f"{KRONECKER}.adjoint", "W itself", lambda f, self, W, dy: self.matvec(W, dy), "complex"),
    ("arrays:ReadoutGradient.whole", "conjugated", lambda f, self: self.C.conj().T @ self.dy, "complex"),
    ("cells.cell:matrix_gradient", "h_1 for h_0", lambda f, m, W, h0, h, dz: f(m, W, h[0], h, dz), "complex"),
    ("cells.cell:matrix_gradient", "0 for h_0", lambda f, m, W, h0, h, dz: f(m, W, 0 * h0, h, dz), "complex"),
    ("cells.cell:matrix_gradient", "h_t for h_{t-1}", lambda f, m, W, h0, h, dz: f(m, W, h[0], np.concatenate([h[1:], h[-1:]]), dz), "complex"),
    ("cells.cell:matrix_gradient", "halved", halved, "complex"),
    ("cells.cell:_side_by_side", "time reversed", lambda f, a: f(a[::-1]), "layers"),
    ("cells.cell:input_gradients", "x reversed", lambda f, U, x, *rest, **o: f(U, x[::-1], *rest, **o), "complex"),
    ("cells.cell:input_gradients", "U^T for U^H", lambda f, U, *rest, **o: f(U.conj(), *rest, **o), "layers"),
    ("cells.cell:over_batch", "one sequence", lambda f, d: d[:, 0], "complex"),
    ("cells.cell:over_batch", "none", lambda f, d: 0 * d[:, 0], "lstm"),
    (f"{KRONECKER}.adjoint", "no gradient through W", lambda f, *args: 0 * f(*args), "lstm"),
    (LOOP, "the last c for c_0", with_before(1), "lstm"),
    ("cells.lstm:LSTM.step_backward", "c_t for c_{t-1}", lambda f, self, p, before, after, *r: f(self, p, (before[0], after[1]), after, *r), "lstm"),
    ("cells.lstm:LSTM.step_backward", "no dc from behind", with_dafter(lambda d, gates, after: (d[0], 0 * d[1])), "lstm"),
    ("cells.lstm:LSTM.step_backward", "tanh's slope 1", with_dafter(lambda d, gates, after: (d[0], d[1] + d[0] * gates[3] * np.tanh(after[1]) ** 2)), "lstm"),
    ("cells.lstm:LSTM.step_backward", "i: 1 - i", with_row(0, lambda d, gates, c, h: d / gates[0]), "lstm"),
    ("cells.lstm:LSTM.step_backward", "f: f", with_row(1, lambda d, gates, c, h: d / (1 - gates[1])), "lstm"),
    ("cells.lstm:LSTM.step_backward", "g: g", with_row(2, lambda d, gates, c, h: d * gates[2] / (1 - gates[2] ** 2)), "lstm"),
    ("cells.lstm:LSTM.step_backward", "o: c for tanh c", with_row(3, lambda d, gates, c, h: d * c / np.tanh(c)), "lstm"),
    ("cells.lstm:LSTM.step_backward", "c kept whole", with_past(lambda past, gates, dafter: (past[0], past[1] / gates[1])), "lstm"),
    ("cells.lstm:LSTM.d_of_W", "one gate's for all", (0, 0, 0, 3), "lstm"),
    ("cells.cell:over_time", "the last step", lambda f, a: f(a[-1:]), "lstm"),
    (LOOP, "the last h for h_0", with_before(0), "gru"),
    ("cells.gru:GRU.step_backward", "n: no 1 - z", with_row(2, lambda d, gates, c, h: d / (1 - gates[1])), "gru"),
    ("cells.gru:GRU.step_backward", "r: no q", with_row(0, lambda d, gates, c, h: d / gates[3]), "gru"),
    ("cells.gru:GRU.step_backward", "z: n - h", with_row(1, lambda d, gates, c, h: -d), "gru"),
    ("cells.gru:GRU.step_backward", "q: no r", with_row(3, lambda d, gates, c, h: d / gates[0]), "gru"),
    ("cells.gru:GRU.step_backward", "nothing past the matrices", with_past(lambda past, gates, dafter: (0 * past[0],)), "gru"),
    (f"{KRONECKER}.adjoint", "one of three gates", every(3), "gru"),
    (f"{KRONECKER}.adjoint", "no gradient through W", lambda f, *args: 0 * f(*args), "gru"),
    ("cells.gru:GRU.d_of_bias", "a for dq", {"b": slice(3), "b_h": slice(2, 3)}, "gru"),
    ("matrices:Matrix.gradient", "h not conjugated", lambda f, self, W, h, dy: [dy @ h.T], "dense"),
    ("matrices:Matrix.adjoint", "W^T", lambda f, self, W, dy: W[0].T @ dy, "dense"),
    (f"{KRONECKER}.adjoint", "W^T", lambda f, self, W, dy: f(self, [w.conj() for w in W], dy), "complex"),
    (f"{KRONECKER}.adjoint", "conj W", lambda f, self, W, dy: f(self, [w.T for w in W], dy), "square"),
    (f"{RESTRICTED}.adjoint", "the permutation itself", inverse_order, "restricted"),
    (f"{RESTRICTED}.adjoint", "a phase forward", phases_changed(second_negated), "restricted"),
    (f"{RESTRICTED}.adjoint", "no inverse transform", during(scipy.fft, "fft", lambda right, *a, **o: scipy.fft.ifft(*a, **o)), "restricted"),
    (f"{RESTRICTED}.gradient", "the permutation inverted", inverse_order, "restricted"),
    (f"{RESTRICTED}.gradient", "behind the reflection", during(restricted, "reflect_backward", lambda right, v, x, dy: right(v, restricted.reflect(v, x), dy)), "restricted"),
    (f"{RESTRICTED}.gradient", "phases exchanged", lambda f, *args: [f(*args)[0][[1, 0, 2]], f(*args)[1]], "restricted"),
    (f"{RESTRICTED}.gradient", "dy conjugated", conjugated_halves, "halves"),
    ("restricted:turn_backward", "wrong sign", lambda f, *args: (f(*args)[0], -f(*args)[1]), "restricted"),
    ("restricted:turn_backward", "a mean", lambda f, phase, y, dy: (f(phase, y, dy)[0], f(phase, y, dy)[1] / len(y[0])), "restricted"),
    ("restricted:reflect_backward", "a not conjugated", reflect_backward(conj_a=np.array), "restricted"),
    ("restricted:reflect_backward", "along v too", reflect_backward(along=0), "restricted"),
    ("restricted:reflect_backward", "e not conjugated", reflect_backward(conj_e=np.array), "restricted"),
    ("matrices:Diagonal.adjoint", "λ itself", lambda f, self, W, dy: self.matvec(W, dy), "lru"),
    ("matrices:Diagonal.gradient", "h conjugated", lambda f, self, W, h, dy: f(self, W, h.conj(), dy), "lru"),
    ("matrices:Diagonal.gradient", "θ backwards", lambda f, *args: [f(*args)[0], -f(*args)[1]], "lru"),
    ("matrices:Diagonal.multipliers_backward", "no e^ν", lambda f, self, W, d: [f(self, W, d)[0] / np.exp(W[0]), f(self, W, d)[1]], "lru"),
    ("cells.lru:LRU.step_backward", "no e^γ", lambda f, self, p, b, a, g, d: ((d[0], d[0]), *f(self, p, b, a, g, d)[1:]), "lru"),
    ("cells.lru:LRU.step_backward", "dγ of all h", lambda f, self, p, b, a, g, d: (*f(self, p, b, a, g, d)[:2], {"gamma": (d[0].conj() * a[0]).real.sum(axis=1)}), "lru"),
    (f"{EIGENBASIS}.params_backward", "b of one label", lambda f, self, g, labels: f(self, g, labels) | {"b": f(self, g, labels)["b"] / 2}, "eigenbasis"),
    (f"{EIGENBASIS}.params_backward", "factors left there", lambda f, self, g, labels: f(self, g, labels) | {name: g[name] for name in self.names}, "eigenbasis"),
    (f"{EIGENBASIS}.into_backward", "Q⁻¹ itself", lambda f, self, dg: self.into(dg), "eigenbasis"),
    (f"{EIGENBASIS}.out", "V left there", lambda f, self, g: g, "eigenbasis"),
    (f"{EIGENBASIS}.out_backward", "Qᵀ", lambda f, self, dh: f(self, dh.conj()).conj(), "eigenbasis"),
    ("matrices:DiagonalFactors.adjoint", "λ itself", lambda f, self, W, dy: self.matvec(W, dy), "eigenbasis"),
    ("matrices:DiagonalFactors.gradient", "diagonals alone", lambda f, *args: [np.diag(np.diagonal(d)) for d in f(*args)], "eigenbasis"),
    ("model:SequenceModel.backward", "dropout: V", without_dropout(-1, lambda name: name == "readout.V"), "layers"),
    ("model:SequenceModel.backward", "dropout: the last cell", without_dropout(-1, lambda name: name.startswith("cell.1")), "layers"),
    ("model:SequenceModel.backward", "dropout: the first cell", without_dropout(0, lambda name: name.startswith("cell.0")), "layers"),
    ("readout:over_time", "c: the last step", lambda f, a: f(a[-1:]), "complex"),
    ("readout:features", "V: h conjugated", lambda f, h: f(h.conj()), "dense"),
    ("readout:features_backward", "conjugated", lambda f, *args: f(*args).conj(), "layers"),
    ("losses:softmax_cross_entropy", "no minus at the target", loss_gradient(np.abs), "complex"),
    ("losses:softmax_cross_entropy", "over all steps", loss_gradient(lambda d: d / len(d)), "complex"),
    ("losses:mean_squared_error", "no 2", loss_gradient(lambda d: d / 2), "complex"),
    ("losses:bernoulli_cross_entropy", "what is above only", loss_gradient(lambda d: np.maximum(d, 0)), "complex"),
    ("losses:_average", "no weights", flat_weights, "complex"),
    ("losses:_average", "time reversed", lambda f, values, gradient, *rest: (f(values, gradient, *rest)[0], f(values, gradient[::-1], *rest)[1]), "complex"),
    ("unitary:soft_unitary", "2 W E", penalty_gradient(lambda W, E: 2 * W @ E), "complex"),
    ("unitary:soft_unitary", "E W", penalty_gradient(lambda W, E: 4 * E @ W), "square"),
    ("unitary:soft_unitary", "conj W E", penalty_gradient(lambda W, E: 4 * W.conj() @ E), "square"),
]  # fmt: skip
# ruff: noqa: E501


def plant(monkeypatch, place, wrong):
    """Replace a function, wherever it is called, by a wrong one that may ask the right one."""
    module, _, name = place.partition(":")
    module = importlib.import_module(f"kru_ref.{module}")
    *owner, attribute = name.split(".")
    holder = getattr(module, owner[0]) if owner else module
    original = getattr(holder, attribute)
    if not callable(original):
        monkeypatch.setattr(holder, attribute, wrong)
        return

    def planted(*args, **options):
        return wrong(original, *args, **options)

    monkeypatch.setattr(holder, attribute, planted)
    if owner:
        return
    for user in USERS:
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
    for name in ("kronecker", "matrices", "restricted", "cells.cell", "model")
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
    ("place", "wrong", "kind"),
    [(p[0], *p[2:]) for p in PLANTS],
    ids=[f"{p[0]}: {p[1]}" for p in PLANTS],
)
def test_every_planted_bug_is_caught(monkeypatch, place, wrong, kind):
    plant(monkeypatch, place, wrong)
    assert is_caught(kind)


# The vectors have no dropout, and no states in the basis of W's eigenvectors.
UNREACHED = ("cells.eigenbasis:", "matrices:DiagonalFactors.", "model:SequenceModel.backward")


@pytest.fixture(scope="module")
def published():
    cases = vectors.read_index(PUBLISHED)["cases"]
    return {case["name"]: vectors.read_arrays(PUBLISHED / case["file"]) for case in cases}


def fails_a_case(published):
    """Compute the vectors' cases, up to the first that is wrong, or that cannot be computed."""
    try:
        return any(
            verify.compare(published[case.name], case.arrays, verify.TOLERANCE)[0]
            for case in vectors.cases()
        )
    except (ValueError, IndexError):  # planted in one kind, it does not fit another's shapes
        return True


@pytest.mark.parametrize(
    ("place", "wrong"),
    [(p[0], p[2]) for p in PLANTS],
    ids=[f"{p[0]}: {p[1]}" for p in PLANTS],
)
def test_a_published_case_catches_every_planted_bug(monkeypatch, published, place, wrong):
    """All but those in what the vectors have nothing of."""
    plant(monkeypatch, place, wrong)
    assert fails_a_case(published) != place.startswith(UNREACHED)


def test_no_published_case_fails_where_nothing_is_planted(published):
    assert not fails_a_case(published)


@pytest.mark.parametrize(
    ("place", "right", "kind"),
    [
        ("kronecker:numpy_backward", product_backward(), "square"),
        ("activations:modrelu_backward", modrelu_backward(), "complex"),
        ("restricted:reflect_backward", reflect_backward(), "restricted"),
        ("unitary:soft_unitary", penalty_gradient(lambda W, E: 4 * W @ E), "square"),
        (LOOP, with_dh(lambda dh, T: dh), "complex"),
        ("cells.lstm:LSTM.step_backward", with_row(0, lambda d, *_: d), "lstm"),
        ("model:SequenceModel.backward", without_dropout(0, lambda name: False), "layers"),
    ],
)
def test_what_mistakes_are_made_of_is_right_without_them(monkeypatch, place, right, kind):
    plant(monkeypatch, place, right)
    assert not is_caught(kind)


def test_errors_are_relative_to_the_largest_entry():
    wanted = {"a": np.array([1.0, 1e-9]), "b": np.array([1e-6])}
    assert relative_error({"a": np.array([1.0, 1e-9 + 1e-12]), "b": wanted["b"]}, wanted) < 1e-11
    assert relative_error({"a": wanted["a"], "b": np.array([2e-6])}, wanted) == pytest.approx(1e-3)
