"""Tangents and real-time recurrent learning: the same derivatives, derived a second time."""

from functools import reduce

import numpy as np
import pytest
from networks import CELLS, MATRICES, MODELS, SHAPES, D, M, N, moved

import kru_ref as kru
from kru_ref.activations import ACTIVATIONS, logistic, logistic_jvp
from kru_ref.checks.adjoints import packed, unpacked
from kru_ref.checks.forward_mode import cell_jvp, model_jvp
from kru_ref.restricted import reflect, reflect_backward, reflect_jvp, turn, turn_backward, turn_jvp


def check_operation(rng, record_error, arguments, f, jvp, backward):
    """Check that the tangent is the derivative of f, and the backward its adjoint.

    f and jvp take dicts and return dicts; backward takes gradients of results.
    """
    results = f(arguments)
    J = kru.Jacobian(arguments, results, jvp, backward)
    report = kru.check_adjoint(J, rng)
    record_error("adjoint of the tangent", report.error)
    assert report, report

    w = rng.standard_normal(J.shape[1])
    step = 1e-6
    at = packed(arguments, arguments)
    plus, minus = (packed(f(unpacked(at + s * step * w, arguments)), results) for s in (1, -1))
    np.testing.assert_allclose(J @ w, (plus - minus) / (2 * step), rtol=1e-6, atol=1e-7)


def named(**arrays):
    return {name: np.asarray(a) for name, a in arrays.items()}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("B", [1, 4])
def test_activations(rng, draw, name, dtype, B, record_error):
    sigma = ACTIVATIONS[name]
    if dtype == "complex128" and not sigma.on_complex:
        with pytest.raises(TypeError, match="defined on real numbers only"):
            kru.RNN(D, N, activation=name, dtype=dtype)
        return
    at = named(z=draw((5, B), dtype), b=rng.uniform(-0.5, 0.5, 5))
    h = sigma.forward(at["z"], at["b"])
    check_operation(
        rng,
        record_error,
        at,
        lambda p: {"h": sigma.forward(p["z"], p["b"])},
        lambda dot: {"h": sigma.jvp(at["z"], at["b"], dot["z"], dot["b"])[1]},
        lambda d: dict(zip("zb", sigma.backward(d["h"], h, at["b"]), strict=True)),
    )
    np.testing.assert_array_equal(sigma.jvp(at["z"], at["b"], at["z"], at["b"])[0], h)


def test_modrelu_does_not_move_at_0():
    z = np.array([[0j], [0], [1e-300]])  # the last one inactive
    h, h_dot = ACTIVATIONS["modrelu"].jvp(z, np.array([0.5, -0.5, -0.5]), z + 1, np.ones(3))
    assert not h.any()
    assert not h_dot.any()


def test_relu_at_its_kink_is_flat():
    """As its backward: the derivative at z + b = 0 is taken from the left."""
    z, b = np.array([[0.5], [0.5 + 1e-9]]), np.array([-0.5, -0.5])
    h, h_dot = ACTIVATIONS["relu"].jvp(z, b, np.ones((2, 1)), np.zeros(2))
    np.testing.assert_array_equal(h_dot, [[0], [1]])
    dz, _ = ACTIVATIONS["relu"].backward(np.ones((2, 1)), h, b)
    np.testing.assert_array_equal(dz, h_dot)


def test_logistic(rng):
    z, z_dot = rng.standard_normal((2, 5))
    opened, moved = logistic_jvp(z, z_dot)
    np.testing.assert_allclose(opened, 1 / (1 + np.exp(-z)), rtol=1e-14)
    step = 1e-20j
    np.testing.assert_allclose(moved, logistic(z + step * z_dot).imag / 1e-20, rtol=1e-12)


@pytest.mark.parametrize("shapes", [[(2, 3), (5, 4), (1, 2)], [(3, 2)], [(2, 2)] * 4])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("columns", [(), (1,), (3,)])
def test_kronecker_product(rng, draw, backend, shapes, dtype, columns, record_error):
    rows = int(np.prod([Q for _, Q in shapes]))
    at = {str(f): draw(shape, dtype) for f, shape in enumerate(shapes)}
    at["x"] = draw((rows, *columns), dtype)

    def split(p):
        return [p[str(f)] for f in range(len(shapes))], p["x"]

    def backward(d):
        dfactors, dx = kru.kron_matvec_backward(*split(at), d["y"], backend)
        return {**{str(f): dW for f, dW in enumerate(dfactors)}, "x": dx}

    check_operation(
        rng,
        record_error,
        at,
        lambda p: {"y": kru.kron_matvec(*split(p), backend)},
        lambda dot: {"y": kru.kron_matvec_jvp(*split(at), *split(dot))[1]},
        backward,
    )
    y, y_dot = kru.kron_matvec_jvp(*split(at), *split(at))
    factors, x = split(at)
    dense = reduce(np.kron, factors) @ x
    np.testing.assert_allclose(y, dense, rtol=1e-12, atol=1e-12)
    # homogeneous of degree F + 1 in all arguments together
    np.testing.assert_allclose(y_dot, (len(shapes) + 1) * dense, rtol=1e-12, atol=1e-12)


MIXED = ["float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("odd", ["factor", "x", "factor_dot", "x_dot"])
@pytest.mark.parametrize("dtype", MIXED)
def test_kronecker_tangents_of_mixed_dtypes(draw, odd, dtype):
    """The result's dtype is that of everything together, wherever the widest stands."""
    dtypes = {"factor": "float32", "x": "float32", "factor_dot": "float32", "x_dot": "float32"}
    dtypes[odd] = dtype
    (W, V), (W_dot, V_dot) = (
        [draw((2, 3), dtypes[name]), draw((3, 2), "float32")] for name in ("factor", "factor_dot")
    )
    x, x_dot = draw((6, 2), dtypes["x"]), draw((6, 2), dtypes["x_dot"])
    y, y_dot = kru.kron_matvec_jvp([W, V], x, [W_dot, V_dot], x_dot)
    assert y.dtype == y_dot.dtype == dtype
    expected = (np.kron(W_dot, V) + np.kron(W, V_dot)) @ x + np.kron(W, V) @ x_dot
    np.testing.assert_allclose(y_dot, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(y, np.kron(W, V) @ x, rtol=1e-4, atol=1e-4)


def test_kronecker_tangents_must_fit(draw):
    W, x = [draw((2, 3)), draw((2, 2))], draw((6, 2))
    with pytest.raises(ValueError, match=r"tangents must have the shapes of factors and x"):
        kru.kron_matvec_jvp(W, x, W, x[:, :1])
    with pytest.raises(ValueError, match=r"got \[\(2, 2\), \(2, 3\)\]"):
        kru.kron_matvec_jvp(W, x, W[::-1], x)
    with pytest.raises(ValueError, match=r"x must have shape \(6,\)"):
        kru.kron_matvec_jvp(W, x[:5], W, x[:5])


def test_turn_and_reflect(rng, draw, record_error):
    x, v, phase = draw((5, 3)), draw(5), rng.uniform(-4, 4, 5)
    check_operation(
        rng,
        record_error,
        named(phase=phase, x=x),
        lambda p: {"y": turn(p["phase"], p["x"])},
        lambda dot: {"y": turn_jvp(phase, x, dot["phase"], dot["x"])[1]},
        lambda d: dict(
            zip(("x", "phase"), turn_backward(phase, turn(phase, x), d["y"]), strict=True)
        ),
    )
    check_operation(
        rng,
        record_error,
        named(v=v, x=x),
        lambda p: {"y": reflect(p["v"], p["x"])},
        lambda dot: {"y": reflect_jvp(v, x, dot["v"], dot["x"])[1]},
        lambda d: dict(zip("xv", reflect_backward(v, x, d["y"]), strict=True)),
    )
    np.testing.assert_allclose(reflect_jvp(v, x, v, x)[0], reflect(v, x), rtol=1e-13)


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("B", [1, 3])
def test_matrices(rng, draw, matrix, dtype, B, record_error):
    drawn = matrix.init(N, rng, np.dtype(dtype))
    at = {str(k): W + rng.uniform(-0.2, 0.2, W.shape) for k, W in enumerate(drawn)}
    at["h"] = draw((N, B), dtype)

    def split(p):
        return [p[str(k)] for k in range(len(drawn))], p["h"]

    def backward(d):
        W, h = split(at)
        dW = {str(k): g for k, g in enumerate(matrix.gradient(W, h, d["y"]))}
        return dW | {"h": matrix.adjoint(W, d["y"])}

    check_operation(
        rng,
        record_error,
        at,
        lambda p: {"y": matrix.matvec(*split(p))},
        lambda dot: {"y": matrix.jvp(*split(at), *split(dot))[1]},
        backward,
    )
    y, _ = matrix.jvp(*split(at), *split(at))
    np.testing.assert_allclose(y, matrix.matvec(*split(at)), rtol=1e-12, atol=1e-13)


def soft_unitary_jvp(factors, factors_dot):
    """R, and R_dot: with E = W^H W - I and E_dot = W_dot^H W + W^H W_dot, 2 Re Σ conj(E) E_dot."""
    value = moved = 0.0
    for W, W_dot in zip(factors, factors_dot, strict=True):
        E = W.conj().T @ W - np.eye(W.shape[1])
        E_dot = W_dot.conj().T @ W + W.conj().T @ W_dot
        value += np.sum(np.abs(E) ** 2)
        moved += 2 * np.vdot(E, E_dot).real
    return value, moved


def test_the_penalty(rng, draw, record_error):
    at = {"0": draw((3, 2)), "1": draw((2, 4), "float64")}
    check_operation(
        rng,
        record_error,
        at,
        lambda p: {"R": np.array(kru.soft_unitary([p["0"], p["1"]])[0])},
        lambda dot: {"R": np.array(soft_unitary_jvp([*at.values()], [dot["0"], dot["1"]])[1])},
        lambda d: {str(f): d["R"] * g for f, g in enumerate(kru.soft_unitary([*at.values()])[1])},
    )
    assert soft_unitary_jvp([*at.values()], [*at.values()])[0] == pytest.approx(
        kru.soft_unitary([*at.values()])[0], rel=1e-14
    )


def softmax_jvp(y, y_dot, targets):
    """Log Σ exp(y_m) moves by the mean of y_dot that softmax(y) weighs, y_target by its own."""
    p = np.exp(y - y.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    at_target = np.take_along_axis(y_dot, targets[:, None], axis=1)
    return np.sum(p * (y_dot - at_target), axis=1)


def squared_jvp(y, y_dot, targets):
    return np.mean(2 * (y - targets) * y_dot, axis=1)


def bernoulli_jvp(y, y_dot, targets):
    return np.sum((1 / (1 + np.exp(-y)) - targets) * y_dot, axis=1)


LOSSES = {
    "softmax": (kru.softmax_cross_entropy, softmax_jvp),
    "squared": (kru.mean_squared_error, squared_jvp),
    "bernoulli": (kru.bernoulli_cross_entropy, bernoulli_jvp),
}


def loss_jvp(step_jvp, y, y_dot, targets, mask=None, last_only=False):
    """How the weighted mean over steps (T, B) moves, of what a step's loss moves by."""
    if last_only:
        y, y_dot, targets = y[-1:], y_dot[-1:], targets[None]
    weights = np.ones((len(y), y.shape[-1])) if mask is None else np.reshape(mask, (len(y), -1))
    return np.sum(step_jvp(y, y_dot, targets) * weights) / weights.sum()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_losses(rng, name, last_only, masked, record_error):
    T, B = 4, 3
    loss, jvp = LOSSES[name]
    time = () if last_only else (T,)
    targets = {
        "softmax": rng.integers(M, size=(*time, B)),
        "squared": rng.standard_normal((*time, M, B)),
        "bernoulli": rng.integers(2, size=(*time, M, B)).astype(float),
    }[name]
    mask = rng.integers(2, size=(*time, B)) if masked else None
    if masked:
        mask[..., 0] = 1
    logits = rng.standard_normal((T, M, B))
    check_operation(
        rng,
        record_error,
        {"y": logits},
        lambda p: {"L": np.array(loss(p["y"], targets, mask, last_only)[0])},
        lambda dot: {"L": np.array(loss_jvp(jvp, logits, dot["y"], targets, mask, last_only))},
        lambda d: {"y": d["L"] * loss(logits, targets, mask, last_only)[1]},
    )


@pytest.mark.parametrize("name", LOSSES)
def test_losses_count_every_step_unless_told(rng, name):
    loss, jvp = LOSSES[name]
    logits, dot = rng.standard_normal((2, 4, M, 3))
    targets = rng.integers(2, size=(4, 3) if name == "softmax" else (4, M, 3))
    slope = loss_jvp(jvp, logits, dot, targets)
    assert slope == pytest.approx(np.sum(loss(logits, targets)[1] * dot))


def test_large_logits_move_too(rng):
    logits, dot = rng.standard_normal((2, 2, M, 1))
    targets = np.array([[1], [2]])
    far = logits + np.array([[[1e4]], [[-1e4]]])  # the same probabilities
    expected = loss_jvp(softmax_jvp, logits, dot, targets)
    slope = np.sum(kru.softmax_cross_entropy(far, targets)[1] * dot)
    np.testing.assert_allclose(slope, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("matrix", MATRICES, ids=str)
@pytest.mark.parametrize(("T", "B"), SHAPES)
def test_cells(rng, kind, matrix, T, B, record_error):
    cell = CELLS[kind](matrix)
    params, x = moved(cell, rng), rng.standard_normal((T, D, B))
    at = params | {"x": x}
    h, saved = cell.forward(params, x)

    def backward(d):
        grads, dx, _ = cell.backward(params, saved, d["h"])
        return grads | {"x": dx}

    def jvp(dot):
        return {"h": cell_jvp(cell, params, x, {k: dot[k] for k in params}, dot["x"])[1]}

    def f(p):
        return {"h": cell.forward({k: p[k] for k in params}, p["x"])[0]}

    check_operation(rng, record_error, at, f, jvp, backward)
    zeros = {k: np.zeros_like(p) for k, p in params.items()}
    again, still = cell_jvp(cell, params, x, zeros)
    np.testing.assert_allclose(again, h, rtol=1e-12, atol=1e-13)
    assert not still.any()


@pytest.mark.parametrize("kind", ["rnn-modrelu-complex128", "lstm", "gru"])
def test_a_given_state_moves(rng, kind, record_error):
    cell = CELLS[kind](kru.Kronecker())
    params, x = moved(cell, rng), rng.integers(D, size=(3, 2))
    state = {name: rng.standard_normal((N, 2)).astype(cell.dtype) for name in cell.state_names}

    def given(p):
        parts = tuple(p[name] for name in cell.state_names)
        return parts if len(parts) > 1 else parts[0]

    zeros = {k: np.zeros_like(p) for k, p in params.items()}
    _, saved = cell.forward(params, x, given(state))

    def backward(d):
        state_gradient = cell.backward(params, saved, d["h"])[2]
        parts = state_gradient if isinstance(state_gradient, tuple) else (state_gradient,)
        return dict(zip(cell.state_names, parts, strict=True))

    check_operation(
        rng,
        record_error,
        state,
        lambda p: {"h": cell.forward(params, x, given(p))[0]},
        lambda dot: {"h": cell_jvp(cell, params, x, zeros, None, given(state), given(dot))[1]},
        backward,
    )
    # a learned state that moves is not the one that was given
    for name in cell.state_names:
        zeros[name] = np.ones_like(zeros[name])
    _, still = cell_jvp(cell, params, x, zeros, None, given(state))
    assert not still.any()


def test_a_complex_input_moves(rng, draw):
    """A cell is linear in its input where modReLU is the identity, at b = 0."""
    cell = kru.KRU(D, 6, dtype="complex64")
    params, x, x_dot = cell.init(rng), draw((3, D, 2), "complex64"), draw((3, D, 2), "complex128")
    zeros = {k: np.zeros_like(p) for k, p in params.items()}
    h, h_dot = cell_jvp(cell, params, x, zeros, x_dot)
    assert h_dot.dtype == "complex64"
    moved_on, _ = cell.forward(params, x + x_dot.astype("complex64"))
    np.testing.assert_allclose(h_dot, moved_on - h, rtol=1e-4, atol=1e-5)


def test_tangents_that_do_not_fit(rng):
    cell = kru.KRU(D, N, dtype="complex128")
    params, x = cell.init(rng), rng.standard_normal((3, D, 2))
    with pytest.raises(ValueError, match=r"x_dot must have shape \(3, 2, 2\)"):
        cell_jvp(cell, params, x, params, x[:2])
    with pytest.raises(ValueError, match="integers x do not move"):
        cell_jvp(cell, params, np.zeros((3, 2), int), params, x)
    with pytest.raises(ValueError, match="h0_dot needs h0"):
        cell_jvp(cell, params, x, params, None, None, np.zeros((N, 2)))
    with pytest.raises(ValueError, match="missing"):
        cell_jvp(cell, params, x, {"U": params["U"]})


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("T", "B"), SHAPES)
def test_models(rng, kind, T, B, backend, record_error):
    """With layers and dropout: the same generator drops the same states."""
    model = MODELS[kind](backend)
    params, x = moved(model, rng), rng.standard_normal((T, D, B))
    drop = lambda: np.random.default_rng(3)  # noqa: E731
    logits, saved = model.forward(params, x, rng=drop())
    check_operation(
        rng,
        record_error,
        params,
        lambda p: {"y": model.forward(p, x, rng=drop())[0]},
        lambda dot: {"y": model_jvp(model, params, x, dot, rng=drop())[1]},
        lambda d: model.backward(params, saved, d["y"]),
    )
    again, _ = model_jvp(model, params, x, params, rng=drop())
    np.testing.assert_allclose(again, logits, rtol=1e-12, atol=1e-13)


def test_models_from_a_given_state(rng):
    """A sequence in two pieces moves as the whole does in its last steps, if only V and c move."""
    model = MODELS["layers"]("numpy")
    params, x = moved(model, rng), rng.standard_normal((5, D, 2))
    dot = {k: rng.standard_normal(p.shape) * k.startswith("readout") for k, p in params.items()}
    dot = {k: v.astype(params[k].dtype) for k, v in dot.items()}
    whole = model_jvp(model, params, x, dot)
    _, saved = model.forward(params, x[:2])
    piece = model_jvp(model, params, x[2:], dot, h0=saved.last)
    for found, expected in zip(piece, whole, strict=True):
        np.testing.assert_allclose(found, expected[2:], rtol=1e-12)


def test_packing_is_strict():
    like = {"a": np.zeros(2), "z": np.zeros((1, 2), complex)}
    vector = np.arange(6.0)
    np.testing.assert_array_equal(packed(unpacked(vector, like), like), vector)
    with pytest.raises(ValueError, match="expected arrays"):
        packed({"a": np.zeros(2)}, like)
    with pytest.raises(ValueError, match=r"a must have shape \(2,\)"):
        packed(like | {"a": np.zeros(3)}, like)
    with pytest.raises(TypeError, match="a must be real"):
        packed(like | {"a": np.zeros(2, complex)}, like)
