"""What callers may hold instead of a plain array: at every public function, for every argument."""

import dataclasses
import io
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse

import kru_ref as kru
from kru_ref.arrays import apart, as_one_vector
from kru_ref.checks.forward_mode import model_jvp

# np.matrix is being retired, but what SciPy's todense() returns is still one
pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")

N, B = 4, 4  # as many rows as columns: np.matrix's product passes unnoticed there


class Loud(np.ndarray):
    """A subclass that gives its operators another meaning."""

    def __mul__(self, other):
        raise AssertionError("a subclass's own product was used")

    __rmul__ = __matmul__ = __rmatmul__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__


def masked(a):
    return np.ma.masked_array(a, mask=np.zeros(a.shape, bool))


def strided(a):
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def read_only(a):
    a = a.copy()
    a.setflags(write=False)
    return a


def unaligned(a):
    memory = np.zeros(a.nbytes + 1, np.uint8)
    view = memory[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


AS = {
    "matrix": lambda a: np.matrix(a) if a.ndim == 2 else a.view(Loud),
    "subclass": lambda a: a.view(Loud),
    "masked array without a masked entry": masked,
    "column by column": np.asfortranarray,
    "every other column": strided,
    "read-only": read_only,
    "unaligned": unaligned,
    "negative strides": lambda a: a[::-1].copy()[::-1],
    "todense": lambda a: scipy.sparse.csr_matrix(a).todense() if a.ndim == 2 else a.view(Loud),
}
OTHER_ORDER = {"other byte order": lambda a: a.astype(a.dtype.newbyteorder())}


def same(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            same(found[name], expected[name])
    elif isinstance(expected, tuple | list):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif expected is not None:
        if isinstance(expected, np.ndarray):
            assert type(found) is np.ndarray, type(found)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("as_", [*AS.values(), *OTHER_ORDER.values()], ids=[*AS, *OTHER_ORDER])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_products(draw, backend, as_, dtype):
    factors, x = [draw((2, 2), dtype), draw((2, 2), dtype)], draw((N, B), dtype)
    dy = draw((N, B), dtype)
    for i in range(4):
        F = [as_(W) if i in (f, 3) else W for f, W in enumerate(factors)]
        X = as_(x) if i in (2, 3) else x
        same(kru.kron_matvec(F, X, backend), kru.kron_matvec(factors, x, backend))
        same(
            kru.kron_matvec_backward(F, X, as_(dy), backend),
            kru.kron_matvec_backward(factors, x, dy, backend),
        )
        same(kru.kron_matvec_jvp(F, X, F, as_(dy)), kru.kron_matvec_jvp(factors, x, factors, dy))
        same(kru.soft_unitary(F), kru.soft_unitary(factors))
        assert kru.unitarity_defect(F) == kru.unitarity_defect(factors)
        same(kru.KroneckerProduct(F).to_dense(), kru.KroneckerProduct(factors).to_dense())


CELLS = {
    "kru": lambda: kru.KRU(N, N, dtype="complex64"),
    "kru numpy": lambda: kru.KRU(N, N, dtype="complex64", backend="numpy"),
    "rnn": lambda: kru.RNN(N, N, dtype="float64"),
    "lstm": lambda: kru.LSTM(N, N, kru.Kronecker()),
    "gru": lambda: kru.GRU(N, N),
    "restricted": lambda: kru.RNN(N, N, kru.RestrictedUnitary(), "modrelu", "complex64"),
}


@pytest.mark.parametrize("as_", AS.values(), ids=AS)
@pytest.mark.parametrize("kind", CELLS)
def test_cells_and_models(rng, kind, as_):
    cell = CELLS[kind]()
    model = kru.SequenceModel(cell, N)
    params, x = model.init(rng), rng.standard_normal((3, N, B)).astype("float32")
    given = {name: as_(p) for name, p in params.items()}
    state = [rng.standard_normal((N, B)).astype(cell.dtype) for _ in cell.state_names]
    h0 = state[0] if len(state) == 1 else tuple(state)
    given_h0 = as_(state[0]) if len(state) == 1 else tuple(as_(s) for s in state)
    logits, saved = model.forward(params, x, h0)
    found, given_saved = model.forward(given, as_(x), given_h0)
    same(found, logits)
    dlogits = rng.standard_normal(logits.shape).astype(logits.dtype)
    same(model.backward(given, given_saved, as_(dlogits)), model.backward(params, saved, dlogits))
    same(model_jvp(model, given, as_(x), given), model_jvp(model, params, x, params))
    same(model.penalty(given)[0], model.penalty(params)[0])
    if kind != "kru":
        same(kru.rtrl(model, given, as_(x), as_(dlogits)), kru.rtrl(model, params, x, dlogits))


@pytest.mark.parametrize("as_", [*AS.values(), *OTHER_ORDER.values()], ids=[*AS, *OTHER_ORDER])
def test_losses(rng, as_):
    logits = rng.standard_normal((3, N, B))
    classes, values = rng.integers(N, size=(3, B)), rng.uniform(size=(3, N, B))
    mask = rng.uniform(size=(3, B))
    for loss, targets in (
        (kru.softmax_cross_entropy, classes),
        (kru.mean_squared_error, values),
        (kru.bernoulli_cross_entropy, values),
    ):
        same(loss(as_(logits), as_(targets), as_(mask)), loss(logits, targets, mask))


@pytest.mark.parametrize("as_", [*AS.values(), *OTHER_ORDER.values()], ids=[*AS, *OTHER_ORDER])
@pytest.mark.parametrize("optimizer", [kru.SGD(momentum=0.9), kru.RMSprop(), kru.Adam()], ids=str)
def test_optimizers(draw, optimizer, as_):
    params = {"a": draw((4, 4), "complex64"), "b": draw((4, 4), "float32")}
    grads = {name: draw(p.shape, p.dtype.name) for name, p in params.items()}
    given = [{name: as_(a) for name, a in arrays.items()} for arrays in (params, grads)]
    same(optimizer.update(*given, optimizer.init(given[0])),
         optimizer.update(params, grads, optimizer.init(params)))  # fmt: skip
    same(kru.clip_by_global_norm(given[1], 0.5), kru.clip_by_global_norm(grads, 0.5))


@pytest.mark.parametrize("optimizer", [kru.SGD(momentum=0.9), kru.RMSprop(), kru.Adam()], ids=str)
def test_a_state_through_savez(draw, optimizer):
    params, state = {"a": draw((2, 3), "float32"), "z": draw((2, 3), "complex64")}, None
    state = optimizer.init(params)
    stored = state
    kept, other = params, params
    for _ in range(3):
        grads = {name: draw(p.shape, p.dtype.name) for name, p in params.items()}
        kept, state = optimizer.update(kept, grads, state)
        file = io.BytesIO()
        flat = {"steps": stored["steps"]}
        flat |= {f"{s}/{k}": a for s in optimizer.slots for k, a in stored[s].items()}
        np.savez(file, **flat)
        file.seek(0)
        loaded = np.load(file)
        stored = {"steps": loaded["steps"]}
        stored |= {s: {k: loaded[f"{s}/{k}"] for k in params} for s in optimizer.slots}
        other, stored = optimizer.update(other, grads, stored)
        same(other, kept)
        assert {k: p.dtype for k, p in other.items()} == {k: p.dtype for k, p in params.items()}
    for steps in (-1, 1.5, None, "3", np.zeros(2, int), np.nan):
        with pytest.raises(ValueError, match="number of updates"):
            optimizer.update(params, grads, {**state, "steps": steps})


@pytest.mark.parametrize("as_", AS.values(), ids=AS)
def test_checks_of_gradients(as_):
    a = np.arange(1.0, 17).reshape(4, 4)
    assert kru.check_gradient(lambda p: np.sum(p["a"] * p["a"]), {"a": as_(a)}, {"a": as_(2 * a)})
    assert not kru.check_gradient(lambda p: np.sum(p["a"] * p["a"]), {"a": as_(a)}, {"a": as_(a)})


HALF_MASKED = np.ma.masked_array(np.ones((4, 4)), mask=np.eye(4))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (HALF_MASKED, ValueError, "has masked entries"),
        (
            scipy.sparse.csr_array(np.eye(4)),
            TypeError,
            r"numbers, got object .*toarray",
        ),
        (
            scipy.sparse.coo_matrix(np.eye(4)),
            TypeError,
            r"numbers, got object .*toarray",
        ),
        ([[1.0, 2], [3]], ValueError, "must be an array, got a list that is none"),
        ({"a": 1}, TypeError, "expected real or complex numbers"),
        (None, TypeError, "expected real or complex numbers"),
        (np.array([[Fraction(1, 2)]]), TypeError, "expected real or complex numbers"),
        ("text", TypeError, "expected real or complex numbers"),
        (np.array(["a"]), TypeError, "expected real or complex numbers"),
        (np.datetime64("2020-01-01"), TypeError, "expected real or complex numbers"),
        (np.zeros(3, [("a", float)]), TypeError, "expected real or complex numbers"),
    ],
    ids=str,
)
def test_what_is_no_array_is_refused_with_a_sentence(value, error, message):
    cell = kru.KRU(4, 4, dtype="complex128")
    params = cell.init(np.random.default_rng(0))
    h, saved = cell.forward(params, np.ones((2, 4, 4)))
    calls = {
        "x of a product": lambda: kru.kron_matvec([np.eye(4)], value),
        "dy": lambda: kru.kron_matvec_backward([np.eye(4)], np.ones((4, 4)), value),
        "a factor": lambda: kru.kron_matvec([value], np.ones(4)),
        "x of a cell": lambda: cell.forward(params, value),
        "logits": lambda: kru.mean_squared_error(value, np.ones((1, 4, 4))),
        "targets": lambda: kru.mean_squared_error(np.ones((1, 4, 4)), value),
        "a penalty's": lambda: kru.soft_unitary([value]),
        "a gradient": lambda: kru.check_gradient(lambda p: 1.0, {"a": np.ones(4)}, {"a": value}),
    }
    if value is not None:
        calls["h0"] = lambda: cell.forward(params, np.ones((2, 4, 4)), value)
        calls["mask"] = lambda: kru.mean_squared_error(
            np.ones((4, 1, 4)), np.ones((4, 1, 4)), value
        )
        calls["dh"] = lambda: cell.backward(params, saved, value)
    for name, call in calls.items():
        with pytest.raises(error, match=message) as raised:
            call()
        assert 10 < len(str(raised.value)) < 400, name
    del h


@pytest.mark.parametrize("kind", CELLS)
def test_parameters_that_are_no_arrays(rng, kind):
    cell = CELLS[kind]()
    params = cell.init(rng)
    name = next(iter(params))
    for value in (None, 1.0, [[1.0]], params[name].tolist(), scipy.sparse.csr_array(np.eye(2))):
        with pytest.raises(TypeError, match=f"{name} must be an array"):
            cell.forward({**params, name: value}, np.zeros((2, N, B)))
    big = params[name].astype(params[name].dtype.newbyteorder())
    same(cell.forward({**params, name: big}, np.zeros((2, N, B)))[0],
         cell.forward(params, np.zeros((2, N, B)))[0])  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_numbers_too_large_for_the_precision(dtype):
    cell = kru.KRU(3, 4, dtype=dtype)
    params, x = cell.init(np.random.default_rng(0)), np.ones((2, 3, 1))
    h, saved = cell.forward(params, x)
    for call in (
        lambda: cell.forward(params, np.full((2, 3, 1), 1e300)),
        lambda: cell.forward(params, x, np.full((4, 1), 1e300)),
        lambda: cell.backward(params, saved, np.full(h.shape, 1e300)),
        lambda: kru.mean_squared_error(np.ones((1, 1, 1), "float32"), np.full((1, 1, 1), 1e300)),
    ):
        with pytest.raises(ValueError, match=r"must fit (float32|complex64), but holds \(?1e\+300"):
            call()


def test_a_dtype_of_none_is_refused():
    for make in (
        lambda: kru.KRU(3, 4, dtype=None),
        lambda: kru.random_unitary(2, np.random.default_rng(0), None),
        lambda: kru.LSTM(3, 4, dtype=None),
        lambda: kru.KRU(3, 4, dtype="no dtype"),
        lambda: kru.KRU(3, 4, dtype=int),
    ):
        with pytest.raises(TypeError, match=r"dtype must be one of float32, .*got"):
            make()


@pytest.mark.parametrize("value", [None, 0, -1, 2.0, np.nan, np.inf, "a", True, [3], 1e300])
def test_sizes(value, rng):
    for make in (
        lambda: kru.KRU(value, 4),
        lambda: kru.KRU(3, value),
        lambda: kru.SequenceModel(kru.KRU(3, 4), value),
        lambda: kru.factor_sizes(value),
        lambda: kru.factor_sizes(8, [value] if value is None else value),
        lambda: kru.random_unitary(value, rng),
        lambda: kru.random_unitary((value, 2), rng),
        lambda: kru.spread_unitary([2, value], rng),
        lambda: kru.check_adjoint(np.eye(2), rng, probes=value),
    ):
        with pytest.raises((TypeError, ValueError), match=r"must (be|hold)"):
            make()


@pytest.mark.parametrize("value", [np.float32(0.3), np.float64(0.3), Fraction(3, 10), 0.3, 0])
def test_rates_may_be_any_number(value):
    assert type(kru.SequenceModel(kru.KRU(3, 4), 2, dropout=value).dropout) is float
    assert type(kru.Adam(rate=value).rate) is float


@pytest.mark.parametrize("value", [None, "a", True, [0.3], 1j, np.zeros(1)])
def test_rates_that_are_no_number(value):
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\)"):
        kru.SequenceModel(kru.KRU(3, 4), 2, dropout=value)
    for make in (
        lambda: kru.Adam(rate=value),
        lambda: kru.Adam(beta1=value),
        lambda: kru.RMSprop(decay=value),
        lambda: kru.SGD(momentum=value),
        lambda: kru.SGD(rates={"a": value}),
    ):
        with pytest.raises(TypeError, match="must be a number, got"):
            make()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_clipping_leaves_what_has_no_length(value):
    grads = {"a": np.array([value, 1.0]), "b": np.ones(2)}
    for max_norm in (1.0, np.inf):
        clipped, norm = kru.clip_by_global_norm(grads, max_norm)
        assert not np.isfinite(norm)
        same(clipped, grads)


def test_one_state_in_a_list_of_one_row(rng):
    for cell in (kru.KRU(2, 1), kru.GRU(2, 1)):
        model = kru.SequenceModel(cell, 2)
        params, x = model.init(rng), rng.standard_normal((3, 2, 3))
        expected = model.forward(params, x, np.array([[1.0, 2, 3]]))[0]
        same(model.forward(params, x, [[1.0, 2, 3]])[0], expected)
        same(model.forward(params, x, (np.array([[1.0, 2, 3]]),))[0], expected)
    lstm = kru.SequenceModel(kru.LSTM(2, 1), 2)
    params, state = lstm.init(rng), ([[1.0, 2, 3]], [[3.0, 2, 1]])
    expected = lstm.forward(params, x, tuple(np.array(s) for s in state))[0]
    for given in (state, list(state), (state,), [list(state)]):
        same(lstm.forward(params, x, given)[0], expected)


@pytest.mark.parametrize("kind", CELLS)
def test_nothing_that_a_call_returned_changes_by_another_call(rng, kind):
    cell = CELLS[kind]()
    model = kru.SequenceModel(cell, N)
    params, x = model.init(rng), rng.standard_normal((5, 3, N, B)).astype("float32")
    _, first = model.forward(params, x[0])
    logits, second = model.forward(params, x[1], first.last)
    dlogits = rng.standard_normal(logits.shape).astype(logits.dtype)
    expected = model.backward(params, second, dlogits)
    model.forward(params, x[2], second.last)
    same(model.backward(params, second, dlogits), expected)
    (state,) = second.last
    for part in state if isinstance(state, tuple) else (state,):
        part[:, 1] = 0
    same(model.backward(params, second, dlogits), expected)


@pytest.mark.parametrize("kind", CELLS)
def test_states_are_read_only(rng, kind):
    cell = CELLS[kind]()
    h, _ = cell.forward(cell.init(rng), np.zeros((3, N, B)))
    with pytest.raises(ValueError, match="read-only"):
        h[-1][:, 0] = 0


@pytest.mark.parametrize("kind", CELLS)
def test_a_state_that_was_given_may_change_before_backward(rng, kind):
    cell = CELLS[kind]()
    params, x = cell.init(rng), rng.standard_normal((3, N, B)).astype("float32")
    state = tuple(rng.standard_normal((N, B)).astype(cell.dtype) for _ in cell.state_names)
    h, saved = cell.forward(params, x, state if len(state) > 1 else state[0])
    expected = cell.backward(params, saved, h)[0]
    for part in state:
        part[...] = 7
    same(cell.backward(params, saved, h)[0], expected)


@pytest.mark.parametrize("kind", CELLS)
def test_harmless_underflow_raises_nowhere(rng, kind):
    cell = CELLS[kind]()
    model = kru.SequenceModel(cell, N)
    params = {name: p * 1e-30 for name, p in model.init(rng).items()}
    params["readout.c"] = (np.arange(N) * 300.0).astype(params["readout.c"].dtype)
    gated = "b" if not isinstance(cell, kru.RNN) else ""
    if gated:
        params["cell.b"] = np.full_like(params["cell.b"], -95)
    x = (1e-20 * rng.standard_normal((3, N, B))).astype("float32")
    targets = rng.integers(N, size=(3, B))
    optimizer = kru.Adam()
    with np.errstate(all="raise"):
        logits, saved = model.forward(params, x)
        for loss, of in (
            (kru.softmax_cross_entropy, targets),
            (kru.bernoulli_cross_entropy, np.ones(logits.shape)),
            (kru.mean_squared_error, np.ones(logits.shape)),
        ):
            _, dlogits = loss(logits, of)
            grads = model.backward(params, saved, 1e-30 * dlogits)
            grads, _ = kru.clip_by_global_norm(grads, 1e-20)
            optimizer.update(params, grads, optimizer.init(params))
        model_jvp(model, params, x, params)
        model.penalty(params)


@pytest.mark.parametrize("length", [1e-45, 1e-38, 1e-20, 1e-10, 1, 1e10, 1e19, 1e38])
def test_reflections_of_any_length_in_single_precision(rng, length):
    check_restricted("complex64", length, rng, 1e-5)


@pytest.mark.parametrize("length", [1e-320, 1e-300, 1e-160, 1, 1e160, 1e300])
def test_reflections_of_any_length(rng, length):
    check_restricted("complex128", length, rng, 1e-12)


def check_restricted(dtype, length, rng, tolerance):
    cell = kru.RNN(2, 5, kru.RestrictedUnitary(), "modrelu", dtype)
    params = cell.init(rng)
    v = params["W.reflections"]
    v[1] = np.array([1, 1j, 0, 0, -1])  # what survives where numbers have few digits
    params["W.reflections"] = (v * v.real.dtype.type(length)).astype(dtype)
    with np.errstate(all="raise", under="ignore"):
        assert cell.defect(params) < tolerance
    params["W.reflections"] *= 0
    assert cell.defect(params) < tolerance


def test_gradients_of_reflections_scale_with_their_length(rng):
    cell = kru.RNN(2, 5, kru.RestrictedUnitary(), "modrelu", "complex128")
    params, x = cell.init(rng), rng.standard_normal((4, 2, 3))
    h, saved = cell.forward(params, x)
    expected = cell.backward(params, saved, h)[0]["W.reflections"]
    for scale in (1e-140, 1e-20, 1e20, 1e140):
        longer = {**params, "W.reflections": params["W.reflections"] * scale}
        _, saved = cell.forward(longer, x)
        found = cell.backward(longer, saved, h)[0]["W.reflections"]
        np.testing.assert_allclose(found * scale, expected, rtol=1e-11, atol=1e-13)


def test_descriptions_keep_plain_numbers():
    cell = dataclasses.replace(kru.KRU(3, 4), hidden_size=np.int64(8))
    assert type(cell.hidden_size) is int


def test_arrays_as_one_vector_and_apart(draw):
    params = {
        "a": draw((2, 3), "complex64"), "b": draw((4,), "float32"), "c": draw((), "float32"),
        "none": draw((0, 2), "complex64"), "strided": strided(draw((3, 2), "complex64")),
    }  # fmt: skip
    row = as_one_vector(params.values())
    assert row.shape == (2 * 6 + 4 + 1 + 2 * 6,)
    assert row.dtype == "float32"
    for part, a in zip(apart(row, params.values()), params.values(), strict=True):
        assert part.dtype == a.dtype
        np.testing.assert_array_equal(part, a)
        assert np.shares_memory(part, row) or not a.size
