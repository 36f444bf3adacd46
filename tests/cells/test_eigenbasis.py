"""A linear recurrence in its eigenbasis against the same one outside."""

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.cells.eigenbasis import eigenbasis

D, M = 3, 4
MATRICES = {
    "kronecker": (12, lambda b: kru.Kronecker([(2, 2), (3, 3), (2, 2)], b)),
    "one factor": (5, lambda b: kru.Kronecker([(5, 5)], b)),
    "a large factor": (74, lambda b: kru.Kronecker([(2, 2), (37, 37)], b)),
    "dense": (7, lambda b: kru.Dense(backend=b)),
    "full": (4, kru.FullUnitary),
    "N = 1": (1, lambda b: kru.Kronecker([(1, 1)], b)),
}


def pair(N, matrix, dtype="complex128", learned_h0=True):
    """Return the cell outside its eigenbasis, and in it."""
    return [
        kru.RNN(D, N, matrix, "identity", dtype, learned_h0, eigenbasis=there)
        for there in (False, True)
    ]


def drawn(cell, rng, by=0.05):
    """Draw parameters whose factors are not unitary, but can be diagonalised."""
    params = cell.init(rng)
    return {
        name: (p + by * rng.standard_normal(p.shape) * (1 if p.dtype.kind == "f" else 1 - 2j))
        .astype(p.dtype)
        for name, p in params.items()
    }  # fmt: skip


def near(found, wanted, dtype="complex128"):
    limit = 1e-11 if dtype.endswith("128") else 2e-4
    scale = max(1.0, np.abs(wanted).max(initial=0))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit * scale)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("learned_h0", [True, False])
@pytest.mark.parametrize(("T", "B", "inputs"), [
    (1, 1, "real"), (7, 3, "labels"), (4, 2, "complex"), (40, 9, "real"),
])  # fmt: skip
def test_a_cell_is_the_same_in_its_eigenbasis(
    rng, draw, backend, name, dtype, learned_h0, T, B, inputs
):
    N, matrix = MATRICES[name]
    outside, inside = pair(N, matrix(backend), dtype, learned_h0)
    params = drawn(outside, rng)
    assert inside.basis(params) is not None
    assert outside.basis(params) is None
    x = draw((T, D, B), "complex128" if inputs == "complex" else "float64")
    x = rng.integers(D, size=(T, B)) if inputs == "labels" else x
    (h, saved), (h_inside, saved_inside) = (c.forward(params, x) for c in (outside, inside))
    near(h_inside, h, dtype)
    near(saved_inside.last, saved.last, dtype)
    assert not h_inside.flags.writeable
    dh = draw((max(1, T - 2), N, B), dtype)
    grads, dx, dh0 = outside.backward(params, saved, dh)
    grads_inside, dx_inside, dh0_inside = inside.backward(params, saved_inside, dh)
    near(dh0_inside, dh0, dtype)
    assert (dx is None) == (dx_inside is None)
    if dx is not None:
        assert dx_inside.shape == x.shape
        near(dx_inside, dx, dtype)
    assert {n: (g.shape, g.dtype) for n, g in grads_inside.items()} == {
        n: (p.shape, p.dtype) for n, p in params.items()
    }
    for of_param, g in grads.items():
        near(grads_inside[of_param], g, dtype)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("pooling", [None, "last", "last-and-mean", "moments"])
def test_a_stack_is_the_same(rng, draw, backend, pooling, dropout):
    """Cells above read h itself, and so does what drops or squares parts of it."""
    N, matrix = MATRICES["kronecker"]
    outside, inside = (
        kru.SequenceModel(
            [cell, kru.LSTM(2 * N, 4, dtype="float64"), kru.RNN(4, N, *rest)],
            M, dropout=dropout, pooling=pooling,
        )
        for cell in pair(N, matrix(backend))
        for rest in [(matrix(backend), "identity", "complex128", True, 1.0, cell.eigenbasis)]
    )  # fmt: skip
    params, x = outside.init(rng), draw((9, D, 5), "float64")
    lengths = [9, 2, 5, 1, 9]
    (y, saved), (y_inside, saved_inside) = (
        model.forward(params, x, lengths=lengths, rng=np.random.default_rng(5))
        for model in (outside, inside)
    )
    near(y_inside, y)
    for part, wanted in zip(saved_inside.last, saved.last, strict=True):
        near(np.asarray(part), np.asarray(wanted))
    dy = draw(y.shape, "float64")
    grads, grads_inside = (
        model.backward(params, kept, dy)
        for model, kept in ((outside, saved), (inside, saved_inside))
    )
    for name, g in grads.items():
        near(grads_inside[name], g)
    near(inside.predict(params, x, lengths), outside.predict(params, x, lengths))
    if pooling is not None:
        near(inside.pooled_states(params, x, lengths), outside.pooled_states(params, x, lengths))


def test_chunks_and_steps_hand_on_the_state_itself(rng, draw, backend):
    """W may have moved before the next chunk: its eigenbasis then, too."""
    N, matrix = MATRICES["kronecker"]
    model = kru.SequenceModel(pair(N, matrix(backend))[1], M)
    before, after = model.init(rng), model.init(rng)
    x = draw((8, D, 3), "float64")
    _, saved = model.forward(before, x[:5])
    y, _ = model.forward(after, x[5:], saved.last)
    outside = kru.SequenceModel(pair(N, matrix(backend))[0], M)
    _, saved_outside = outside.forward(before, x[:5])
    wanted, _ = outside.forward(after, x[5:], saved_outside.last)
    near(y, wanted)
    state = saved.last
    for t in range(3):
        y_t, state = model.step(after, x[5 + t], state)
        near(y_t, wanted[t])


def test_gradients_against_differences(rng, draw, backend, record_error):
    """Not against our own recurrence."""
    for N, matrix in (MATRICES["kronecker"], MATRICES["dense"]):
        model = kru.SequenceModel(pair(N, matrix(backend))[1], M)
        params, x = model.init(rng), draw((5, D, 2), "float64")
        params = {n: p + 0.05 * rng.standard_normal(p.shape) for n, p in params.items()}
        targets = rng.integers(M, size=(5, 2))

        def loss(p, model=model, x=x, targets=targets):
            return kru.softmax_cross_entropy(model.forward(p, x)[0], targets)

        logits, saved = model.forward(params, x)
        grads = model.backward(params, saved, kru.softmax_cross_entropy(logits, targets)[1])
        report = kru.check_gradient(lambda p: loss(p)[0], params, grads, tolerance=1e-7)
        record_error("finite differences, eigenbasis", report.max_error)
        assert report, report


@pytest.mark.parametrize("what", ["defective", "singular", "nearly", "without inverse"])
def test_factors_that_cannot_be_diagonalised_stay_as_they_are(rng, draw, backend, what):
    W = {
        "defective": [[1, 1], [0, 1]],
        "singular": [[1, 0], [0, 0]],
        "nearly": [[1, 1], [0, 1 + 1e-4]],
        "without inverse": [[0, 1], [0, 0]],
    }[what]
    N, matrix = MATRICES["kronecker"]
    outside, inside = pair(N, matrix(backend))
    params = outside.init(rng) | {"W.2": np.array(W, "complex128")}
    assert inside.basis(params) is None
    x, dh = draw((6, D, 2), "float64"), draw((6, N, 2), "complex128")
    (h, saved), (h_inside, saved_inside) = (c.forward(params, x) for c in (outside, inside))
    np.testing.assert_array_equal(h_inside, h)
    grads, grads_inside = (
        cell.backward(params, kept, dh)[0]
        for cell, kept in ((outside, saved), (inside, saved_inside))
    )
    for name, g in grads.items():
        np.testing.assert_array_equal(grads_inside[name], g)
    model = kru.SequenceModel(inside, M)
    params = model.init(rng) | {f"cell.{name}": p for name, p in params.items()}
    same = kru.SequenceModel(outside, M)
    np.testing.assert_array_equal(model.predict(params, x), same.predict(params, x))


def test_what_takes_the_basis_is_near_what_a_limit_allows(rng, draw):
    """At the worst condition that is let through, gradients are still good."""
    outside, inside = pair(4, kru.Kronecker())
    params = outside.init(rng) | {"W.0": np.array([[1, 1], [0, 1.03]], "complex128")}
    found = eigenbasis(["W.0"], [params["W.0"]])
    assert found is not None
    assert np.linalg.cond(found.Q[0]) > 50
    x, dh = draw((30, D, 2), "float64"), draw((30, 4, 2), "complex128")
    grads, grads_inside = (
        cell.backward(params, cell.forward(params, x)[1], dh)[0] for cell in (outside, inside)
    )
    for name, g in grads.items():
        near(grads_inside[name], g)


def test_the_identity_is_its_own_eigenbasis():
    """All of whose eigenvalues are one, so that any basis would do."""
    basis = eigenbasis(["W.0", "W.1"], [np.eye(3, dtype="complex64")] * 2)
    np.testing.assert_array_equal(basis.Q[0], np.eye(3))
    assert basis.eigenvalues[1].dtype == np.complex64


@pytest.mark.parametrize(("make", "error", "sentence"), [
    (lambda: kru.KRU(2, 4, eigenbasis=True), ValueError, "'identity', a complex dtype"),
    (lambda: kru.KRU(2, 4, None, "identity", "float64", eigenbasis=True), ValueError, "float64"),
    (lambda: kru.KRU(2, 4, None, "identity", leak=0.5, eigenbasis=True), ValueError, "no leak"),
    (lambda: kru.KRU(2, 6, [(2, 3), (3, 2)], "identity", eigenbasis=True), ValueError, "square"),
    (lambda: kru.RNN(2, 6, kru.RestrictedUnitary(), "identity", "complex64", eigenbasis=True),
     ValueError, "Dense, FullUnitary or Kronecker"),
    (lambda: kru.RNN(2, 6, kru.Diagonal(), "identity", "complex64", eigenbasis=True),
     ValueError, "Dense, FullUnitary or Kronecker"),
    (lambda: kru.KRU(2, 4, activation="identity", eigenbasis="yes"), TypeError, "eigenbasis"),
])  # fmt: skip
def test_it_says_for_what_it_is(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()
