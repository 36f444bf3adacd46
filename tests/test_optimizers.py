"""Updates against their formulas; test_torch.py compares them with PyTorch's."""

import math

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.optimizers import cayley

OPTIMIZERS = [
    kru.SGD(rate=0.1),
    kru.SGD(rate=0.1, momentum=0.9),
    kru.RMSprop(rate=0.1),
    kru.Adam(rate=0.1),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_it_finds_a_minimum(optimizer, draw):
    target = {"z": draw((3, 2)), "x": draw(4, "float64")}
    params = {"z": np.zeros((3, 2), complex), "x": np.zeros(4)}
    state = optimizer.init(params)
    for _ in range(500):
        grads = {name: p - target[name] for name, p in params.items()}
        params, state = optimizer.update(params, grads, state)
    assert all(np.abs(params[name] - target[name]).max() < 0.1 for name in params)
    assert state["steps"] == 500


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_updates_are_what_the_papers_say(optimizer):
    """One number at a time, in the order of the formulas."""
    gradients = [0.3, -2.0, 1e-9, 0.0, 0.7]
    p, m, v = 1.5, 0.0, 0.0
    params, state = {"p": np.array([p])}, optimizer.init({"p": np.array([p])})
    for k, g in enumerate(gradients, 1):
        if isinstance(optimizer, kru.SGD):
            m = optimizer.momentum * m + g
            p -= 0.1 * m
        elif isinstance(optimizer, kru.RMSprop):
            v = 0.9 * v + 0.1 * g**2
            p -= 0.1 * g / (math.sqrt(v) + 1e-8)
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            p -= 0.1 * (m / (1 - 0.9**k)) / (math.sqrt(v / (1 - 0.999**k)) + 1e-8)
        params, state = optimizer.update(params, {"p": np.array([g])}, state)
        np.testing.assert_allclose(params["p"], [p], rtol=1e-13)


@pytest.mark.parametrize("optimizer", [kru.RMSprop(rate=1.0), kru.Adam(rate=1.0)], ids=repr)
def test_epsilon_is_added_to_the_root(optimizer):
    """Where a gradient is as small as ε it decides, and keeps 0 / 0 from happening."""
    params = {"p": np.zeros(2)}
    moved, _ = optimizer.update(params, {"p": np.array([1e-8, 0.0])}, optimizer.init(params))
    root = 1e-8 * (math.sqrt(0.1) if isinstance(optimizer, kru.RMSprop) else 1)
    np.testing.assert_allclose(moved["p"], [-1e-8 / (root + 1e-8), 0], rtol=1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_complex_parameter_is_two_real_ones(optimizer, draw):
    z = draw((3, 2))
    together = {"z": z}
    apart = {"re": z.real.copy(), "im": z.imag.copy()}
    state_together, state_apart = optimizer.init(together), optimizer.init(apart)
    for _ in range(5):
        g = draw((3, 2))
        together, state_together = optimizer.update(together, {"z": g}, state_together)
        grads = {"re": g.real, "im": g.imag}
        apart, state_apart = optimizer.update(apart, grads, state_apart)
    np.testing.assert_array_equal(together["z"], apart["re"] + 1j * apart["im"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_updates_are_pure_and_keep_the_dtype(optimizer, draw, dtype):
    params, grads = {"p": draw((2, 3), dtype)}, {"p": draw((2, 3), dtype)}
    for arrays in (params, grads):
        arrays["p"].setflags(write=False)
    state = optimizer.init(params)
    first, state_first = optimizer.update(params, grads, state)
    again, _ = optimizer.update(params, grads, state)
    assert state["steps"] == 0
    assert first["p"].dtype == dtype
    np.testing.assert_array_equal(first["p"], again["p"])
    for slot in optimizer.slots:
        assert state_first[slot]["p"].dtype == dtype
        assert state_first[slot]["p"].shape == (2, 3)
        assert not state[slot]["p"].any()


def test_rates_of_groups():
    optimizer = kru.SGD(rate=1.0, rates={"cell.W": 0.1, "cell.W.1": 0.0})
    names = ["cell.W.0", "cell.W.1", "cell.W.10", "cell.Wide", "cell.W"]
    params = {name: np.zeros(1) for name in names}
    grads = {name: np.ones(1) for name in names}
    updated, _ = optimizer.update(params, grads, optimizer.init(params))
    assert [float(updated[name][0]) for name in names] == [-0.1, 0, -0.1, -1, -0.1]


def test_unknown_group():
    with pytest.raises(ValueError, match=r"no parameter belongs to group 'cell\.V'"):
        kru.Adam(rates={"cell.V": 0.1}).init({"cell.W": np.zeros(1)})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: kru.SGD(rate=-1), "learning rate 'rate' must be finite and ≥ 0, got -1"),
        (lambda: kru.Adam(rate=math.nan), "learning rate 'rate' must"),
        (lambda: kru.Adam(rates={"U": math.inf}), "learning rate 'U' must"),
        (lambda: kru.SGD(momentum=1.0), "^momentum must"),
        (lambda: kru.RMSprop(decay=-0.1), "^decay must"),
        (lambda: kru.Adam(beta1=1.5), "^beta1 must"),
        (lambda: kru.Adam(beta2=1.0), "^beta2 must"),
    ],
)
def test_bad_settings(make, name):
    with pytest.raises(ValueError, match=name):
        make()


def test_a_unitary_matrix_moves_at_its_own_rate(draw):
    W, G = kru.random_unitary(3, np.random.default_rng(0)), draw((3, 3))
    own = kru.SGD(rate=5.0, rates={"cell.W": 0.1}, unitary=["cell.W"])
    moved, _ = own.update({"cell.W": W}, {"cell.W": G}, own.init({"cell.W": W}))
    np.testing.assert_allclose(moved["cell.W"], cayley(W, G, 0.1), rtol=1e-14)


def test_gradients_of_another_model():
    optimizer, params = kru.SGD(), {"p": np.zeros(2)}
    with pytest.raises(ValueError, match=r"grads must have the keys of params, \['p'\]"):
        optimizer.update(params, {"q": np.zeros(2)}, optimizer.init(params))
    with pytest.raises(ValueError, match=r"gradient of p must have shape \(2,\), got \(3,\)"):
        optimizer.update(params, {"p": np.zeros(3)}, optimizer.init(params))


@pytest.mark.parametrize("optimizer", [kru.SGD, kru.RMSprop, kru.Adam])
def test_numpy_scalars_change_no_dtype(optimizer):
    """A rate from np.logspace once promoted single precision, and a view then read garbage."""
    p, rate = np.ones(3, "float32"), np.float64(1e-3)
    ours = optimizer(rate=rate, rates={"a": rate})
    expected = optimizer(rate=1e-3)
    for o in (ours, expected):
        assert o.update({"a": p}, {"a": p / 2}, o.init({"a": p}))[0]["a"].dtype == "float32"
    first, second = (
        o.update({"a": p}, {"a": p / 2}, o.init({"a": p}))[0]["a"] for o in (ours, expected)
    )
    np.testing.assert_array_equal(first, second)
    clipped, _ = kru.clip_by_global_norm({"a": p}, np.float64(0.5))
    assert clipped["a"].dtype == "float32"


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">c8"])
def test_any_byte_order_and_shape(dtype):
    o = kru.SGD(rate=0.5)
    for p in (np.ones((2, 1), dtype), np.ones((), dtype)):
        updated, _ = o.update({"a": p}, {"a": p}, o.init({"a": p}))
        assert updated["a"].shape == p.shape
        np.testing.assert_array_equal(updated["a"], 0.5)


def test_a_complex_gradient_of_a_real_parameter():
    o, params = kru.SGD(), {"a": np.ones(2)}
    with pytest.raises(TypeError, match="a must be real or complex floating point"):
        o.update(params, {"a": np.ones(2, complex)}, o.init(params))
    for kind in (int, "S1"):
        with pytest.raises(TypeError, match=r"a(:| must be) .*real or complex"):
            o.update({"a": np.ones(2, kind)}, {"a": np.ones(2)}, {"steps": 0, "momentum": params})


def test_clipping(draw):
    grads = {"z": draw((3, 2)), "x": draw(4, "float64")}
    norm = math.sqrt(sum(np.sum(np.abs(g) ** 2) for g in grads.values()))
    clipped, measured = kru.clip_by_global_norm(grads, norm / 2)
    assert measured == pytest.approx(norm)
    for name in grads:
        np.testing.assert_allclose(clipped[name], grads[name] / 2)
    huge, measured = kru.clip_by_global_norm({"x": np.full(4, 1e30, "float32")}, 1.0)
    assert measured == pytest.approx(2e30)
    np.testing.assert_allclose(huge["x"], 0.5)
    for limit in (2 * norm, math.inf):
        same, _ = kru.clip_by_global_norm(grads, limit)
        assert all(same[name] is grads[name] for name in grads)
    with pytest.raises(ValueError, match="max_norm must be above 0"):
        kru.clip_by_global_norm(grads, 0)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("kind", [kru.Adam, kru.RMSprop])
def test_epsilon_is_positive(kind, value):
    with pytest.raises(ValueError, match="epsilon must be finite and above 0"):
        kind(rate=0.1, epsilon=value)


def test_the_state_of_another_model():
    optimizer, params = kru.Adam(rate=0.1), {"p": np.zeros(3)}
    for other in ({"p": np.zeros(1)}, {"q": np.zeros(3)}):
        with pytest.raises(ValueError, match="state belongs to another optimizer or model"):
            optimizer.update(params, params, optimizer.init(other))
    with pytest.raises(ValueError, match="'mean' must hold"):
        optimizer.update(params, params, kru.SGD(rate=0.1).init(params))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_clipping_of_any_size(scale):
    grads, norm = kru.clip_by_global_norm({"p": np.array([3.0, 4.0]) * scale}, 2 * scale)
    assert norm == pytest.approx(5 * scale)
    np.testing.assert_allclose(grads["p"], np.array([1.2, 1.6]) * scale)


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 1e6), ("complex64", 1e6), ("float64", 1e6), ("float64", 1e12)]
)
def test_a_matrix_stays_unitary_after_a_huge_gradient(draw, rng, dtype, size):
    W = kru.random_unitary(31, rng, dtype)
    moved = cayley(W, (size * draw((31, 31), dtype)).astype(dtype), 0.1)
    assert moved.dtype == W.dtype
    assert np.abs(moved.conj().T @ moved - np.eye(31)).max() < 100 * np.finfo(dtype).eps


def test_a_gradient_that_is_not_finite_is_refused_where_it_would_leave_the_manifold(rng):
    params = {"W": kru.random_unitary(3, rng)}
    optimizer = kru.SGD(rate=0.1, unitary=("W",))
    with pytest.raises(ValueError, match="gradient of W must be finite"):
        optimizer.update(params, {"W": np.full((3, 3), np.nan + 0j)}, optimizer.init(params))


def test_a_slot_with_masked_entries(rng):
    params = {"W": rng.standard_normal((2, 2))}
    optimizer = kru.SGD(momentum=0.5)
    _, state = optimizer.update(params, params, optimizer.init(params))
    state["momentum"]["W"] = np.ma.masked_array(state["momentum"]["W"], np.eye(2, dtype=bool))
    with pytest.raises(ValueError, match="mask"):
        optimizer.update(params, params, state)
