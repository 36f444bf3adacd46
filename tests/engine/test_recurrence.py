"""Compiled recurrences against NumPy, on every instruction set."""

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.engine import backend, memory
from kru_ref.engine import recurrence as compiled
from kru_ref.matrices import DiagonalFactors

if backend.kernels is None:
    pytest.skip(f"{backend.reason}", allow_module_level=True)


LEVELS = backend.INSTRUCTION_SETS[: int(backend.kernels.supported_level()) + 1]


TOLERANCE = {"float32": 2e-4, "complex64": 2e-4, "float64": 1e-11, "complex128": 1e-11}


KINDS = [
    *(("modrelu", dtype) for dtype in TOLERANCE),
    *(("identity", dtype) for dtype in TOLERANCE),
    *((name, dtype) for name in ("tanh", "relu") for dtype in ("float32", "float64")),
]


FACTORS = [
    (12, ((2, 3), (3, 2), (2, 2))),
    (12, ((1, 4), (12, 3))),
    (7, None),
    (32, None),
    (30, ((5, 6), (6, 5))),
    (42, ((21, 3), (2, 14))),
]


def close(actual, expected, dtype):
    scale = np.abs(expected).max(initial=0) or 1.0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def pair(D, N, factors, activation, dtype):
    """Return the same model on both backends."""
    return [
        kru.SequenceModel(kru.KRU(D, N, factors, activation, dtype, backend=b), 5)
        for b in ("numpy", "cython")
    ]


def drawn_params(model, rng):
    params = model.init(rng)
    params["cell.b"] = rng.uniform(-0.2, 0.2, params["cell.b"].shape).astype(params["cell.b"].dtype)
    return params


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("activation", "dtype"), KINDS)
@pytest.mark.parametrize(("N", "factors"), FACTORS)
@pytest.mark.parametrize(
    ("T", "B", "one_hot"),
    [(1, 1, False), (3, 5, True), (19, 20, False), (9, 57, False), (9, 26, True)],
)
def test_it_agrees_with_numpy(
    rng, draw, monkeypatch, level, activation, dtype, N, factors, T, B, one_hot
):
    monkeypatch.setenv("KRU_REF_SIMD", level)
    reference, ours = pair(3, N, factors, activation, dtype)
    assert ours.cell.matrix.engine(N) is not None
    params = drawn_params(reference, rng)
    x = rng.integers(3, size=(T, B)) if one_hot else draw((T, 3, B), "float64")
    logits, saved = reference.forward(params, x)
    logits_ours, saved_ours = ours.forward(params, x)
    close(saved_ours.cells[0].h, saved.cells[0].h, dtype)
    close(logits_ours, logits, dtype)

    dlogits = draw(logits.shape, "float64").astype(logits.dtype)
    grads = reference.backward(params, saved, dlogits)
    grads_ours = ours.backward(params, saved_ours, dlogits)
    assert {k: (g.shape, g.dtype) for k, g in grads_ours.items()} == {
        k: (p.shape, p.dtype) for k, p in params.items()
    }
    for name, g in grads.items():
        close(grads_ours[name], g, dtype)

    cell_params = {k.removeprefix("cell."): p for k, p in params.items() if k.startswith("cell.")}
    dh = draw((max(1, T - 2), N, B), dtype)
    grads, dx, dh0 = reference.cell.backward(cell_params, saved.cells[0], dh)
    grads_ours, dx_ours, dh0_ours = ours.cell.backward(cell_params, saved_ours.cells[0], dh)
    close(dh0_ours, dh0, dtype)
    assert (dx_ours is None) == one_hot
    if not one_hot:
        close(dx_ours, dx, dtype)
    for name, g in grads.items():
        close(grads_ours[name], g, dtype)


def over_a_diagonal(kind, N, dtype, b):
    W = kru.Diagonal(0.5, 0.9, 1.0, b)
    cell = kru.LRU(3, N, W, dtype) if kind == "lru" else kru.RNN(3, N, W, "modrelu", dtype)
    return kru.SequenceModel(cell, 5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("kind", ["lru", "modrelu"])
@pytest.mark.parametrize(
    ("T", "B", "N", "one_hot"),
    [(1, 1, 1, False), (3, 5, 7, True), (19, 20, 33, False), (9, 57, 64, False), (18, 3, 2, True)],
)
def test_a_diagonal_agrees_with_numpy(rng, draw, monkeypatch, level, dtype, kind, T, B, N, one_hot):
    monkeypatch.setenv("KRU_REF_SIMD", level)
    reference, ours = (over_a_diagonal(kind, N, dtype, b) for b in ("numpy", "cython"))
    assert ours.cell.engine is not None
    params = reference.init(rng)
    x = rng.integers(3, size=(T, B)) if one_hot else draw((T, 3, B), "float64")
    (logits, saved), (logits_ours, saved_ours) = (m.forward(params, x) for m in (reference, ours))
    close(logits_ours, logits, dtype)
    grads, grads_ours = (
        model.backward(params, kept, logits)
        for model, kept in ((reference, saved), (ours, saved_ours))
    )
    assert {k: (g.shape, g.dtype) for k, g in grads_ours.items()} == {
        k: (p.shape, p.dtype) for k, p in params.items()
    }
    for name, g in grads.items():
        close(grads_ours[name], g, dtype)
    of_cell = {k.removeprefix("cell."): p for k, p in params.items() if k.startswith("cell.")}
    dh, h0 = draw((max(1, T - 2), N, B), dtype), draw((N, B), dtype)
    found = [
        model.cell.backward(of_cell, model.cell.forward(of_cell, x, h0)[1], dh)
        for model in (reference, ours)
    ]
    close(found[1][2], found[0][2], dtype)
    if not one_hot:
        close(found[1][1], found[0][1], dtype)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("factors", [[1], [2, 3], [2] * 5, [3, 2, 2, 5], [16, 2], [27, 1, 2]])
@pytest.mark.parametrize(("T", "B", "one_hot"), [(1, 1, False), (19, 20, True), (9, 57, False)])
def test_diagonal_factors_agree_with_numpy(
    rng, draw, monkeypatch, level, dtype, factors, T, B, one_hot
):
    """The gradients of all entries, most of which are 0 forward."""
    monkeypatch.setenv("KRU_REF_SIMD", level)
    N, shapes = int(np.prod(factors)), [(P, P) for P in factors]
    reference, ours = (
        kru.RNN(3, N, DiagonalFactors(kru.Kronecker(shapes, b)), "identity", dtype)
        for b in ("numpy", "cython")
    )
    assert ours.engine is not None
    params = reference.init(rng)
    x = rng.integers(3, size=(T, B)) if one_hot else draw((T, 3, B), "float64")
    dh = draw((T, N, B), dtype)
    (h, saved), (h_ours, saved_ours) = (c.forward(params, x) for c in (reference, ours))
    close(h_ours, h, dtype)
    grads, _, dh0 = reference.backward(params, saved, dh)
    grads_ours, _, dh0_ours = ours.backward(params, saved_ours, dh)
    close(dh0_ours, dh0, dtype)
    for name, g in grads.items():
        close(grads_ours[name], g, dtype)


@pytest.mark.parametrize("kind", ["lru", "modrelu"])
def test_threads_of_a_diagonal_give_the_same_bits(rng, monkeypatch, kind):
    model = over_a_diagonal(kind, 12, "complex64", "cython")
    params, x = model.init(rng), rng.standard_normal((9, 3, 77))
    results = []
    for threads in (1, 2, 8):
        monkeypatch.setattr(compiled, "n_threads", lambda threads=threads: threads)
        logits, saved = model.forward(params, x)
        results.append([logits, *model.backward(params, saved, logits).values()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_steps_and_predictions_over_a_diagonal(rng):
    for kind in ("lru", "modrelu"):
        model = over_a_diagonal(kind, 6, "complex128", "cython")
        params, x = model.init(rng), rng.standard_normal((5, 3, 2))
        logits, _ = model.forward(params, x)
        close(model.predict(params, x), logits, "complex128")
        state = None
        for t in range(5):
            y, state = model.step(params, x[t], state)
            close(y, logits[t], "complex128")


@pytest.mark.parametrize("B", [1, 25, 33, 77])
def test_any_number_of_threads_gives_the_same_bits(rng, monkeypatch, B):
    _, model = pair(3, 32, None, "modrelu", "complex64")
    params, x = drawn_params(model, rng), rng.standard_normal((9, 3, B))
    results = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(compiled, "n_threads", lambda threads=threads: threads)
        logits, saved = model.forward(params, x)
        results.append([logits, saved.cells[0].h, *model.backward(params, saved, logits).values()])
    for other in results[1:]:
        for first, same in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, same)


def test_what_runs_compiled():
    assert kru.KRU(3, 66, ((33, 33), (2, 2)), backend="cython").matrix.engine(66) is not None
    assert kru.KRU(3, 64, ((32, 32), (2, 2)), backend="cython").matrix.engine(64) is not None
    assert kru.KRU(3, 66, ((66, 66),), backend="cython").matrix.engine(66) is not None
    assert kru.KRU(3, 32, backend="numpy").matrix.engine(32) is None
    assert kru.Dense(backend="cython").engine(512) is not None
    assert kru.FullUnitary("numpy").engine(5) is None


@pytest.fixture
def no_shelf():
    """Let all memory be fresh, and so counted."""
    backend.kernels.keep_at_most(0)
    yield
    backend.kernels.keep_at_most(memory.MOST_KEPT)


@pytest.mark.parametrize("dtype", ["complex64", "float32"])
def test_memory_is_that_of_the_hidden_states(rng, dtype, no_shelf):
    """What grows with T is h, and at most a tenth more: no gradient of h, no copy of the input."""
    activation = "modrelu"
    model = pair(1, 64, None, activation, dtype)[1]
    params = model.init(rng)
    peaks, states = [], []
    for T in (100, 300):
        x = rng.standard_normal((T, 1, 25)).astype("float32")
        targets = rng.integers(5, size=25)
        tracemalloc.start()
        logits, saved = model.forward(params, x)
        _, dlogits = kru.softmax_cross_entropy(logits[-1:], targets, last_only=True)
        model.cell.backward(
            {k.removeprefix("cell."): p for k, p in params.items() if k.startswith("cell.")},
            saved.cells[0],
            compiled.ReadoutGradient(model.readout.as_matrix(params), dlogits),
            input_gradient=False,
        )
        peaks.append(tracemalloc.get_traced_memory()[1] - logits.nbytes)
        tracemalloc.stop()
        states.append(saved.cells[0].h.nbytes)
    assert peaks[1] - peaks[0] <= 1.1 * (states[1] - states[0])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tanh_is_accurate(monkeypatch, level, dtype):
    """To a few units in the last place everywhere, and exact at 0, infinity and NaN."""
    monkeypatch.setenv("KRU_REF_SIMD", level)
    cell = kru.KRU(1, 4, None, "tanh", dtype, learned_h0=False, backend="cython")
    params = {name: np.zeros(shape, dtype) for name, shape in cell.shapes().items()}
    params["U"][:] = 1
    sizes = np.geomspace(1e-30, 1e30, 4001)
    x = np.concatenate([sizes, -sizes, np.linspace(-12, 12, 4000), [0, -0.0]]).astype(dtype)
    h, _ = cell.forward(params, x[:, None, None])
    expected = np.tanh(x.astype("longdouble"))
    np.testing.assert_allclose(h[:, 0, 0], expected, rtol=4 * np.finfo(dtype).eps)
    params["b"][:] = [np.inf, -np.inf, np.nan, 0]
    h, _ = cell.forward(params, np.zeros((1, 1, 1), dtype))
    np.testing.assert_array_equal(h[0, :, 0], [1, -1, np.nan, 0])


def test_nan_stays_nan_through_time(rng):
    """In the sequence it entered, from the step it entered on, and in the gradients."""
    _, model = pair(3, 32, None, "modrelu", "complex64")
    params = drawn_params(model, rng)
    h0 = np.zeros((32, 30), "complex64")
    h0[4, 7] = np.nan
    logits, saved = model.forward(params, rng.standard_normal((5, 3, 30)), h0)
    assert np.isnan(logits[..., 7]).all()
    assert np.isfinite(np.delete(logits, 7, axis=2)).all()
    grads = model.backward(params, saved, np.ones_like(logits))
    assert np.isnan(grads["cell.W.0"]).any()
    assert np.isnan(grads["cell.b"]).any()


BITS = """
import hashlib
import numpy as np, kru_ref as kru
models = [
    kru.SequenceModel(kru.KRU(3, 512), 64),
    kru.SequenceModel([kru.KRU(3, 256), kru.KRU(512, 32, dtype="complex64")], 5),
    kru.SequenceModel(kru.KRU(3, 512, [(16, 16), (32, 32)], "tanh", "float32"), 9, last_only=True),
    kru.SequenceModel(kru.LSTM(3, 1024, kru.Kronecker([(32, 32), (32, 32)])), 64),
    kru.SequenceModel(kru.GRU(3, 96, kru.Kronecker()), 7, dropout=0.5),
]
for model in models:
    rng = np.random.default_rng(0)
    params = model.init(rng)
    optimizer = kru.Adam()
    state = optimizer.init(params)
    digest = hashlib.sha256()
    for _ in range(2):
        x = rng.standard_normal((7, 3, 100)).astype("float32")
        logits, saved = model.forward(params, x, rng=rng)
        grads = model.backward(params, saved, logits)
        for name, dW in model.penalty(params)[1].items():
            grads[name] = grads[name] + dW
        grads, _ = kru.clip_by_global_norm(grads, 1.0)
        params, state = optimizer.update(params, grads, state)
    for p in params.values():
        digest.update(np.ascontiguousarray(p).tobytes())
    print(digest.hexdigest())
"""


def test_updates_have_the_same_bits_for_any_number_of_threads():
    """Of the networks of which README says so, BLAS's threads included."""
    found = set()
    for threads in ("1", "2", "3"):
        named = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(named, threads)
        run = [sys.executable, "-P", "-c", BITS]
        found.add(subprocess.run(run, env=environment, check=True, capture_output=True).stdout)
    assert len(found) == 1
    assert len(set(found.pop().split())) == 5


DENSE = [
    (kru.RNN, "modrelu", "complex64"),
    (kru.RNN, "modrelu", "complex128"),
    (kru.RNN, "identity", "complex128"),
    (kru.RNN, "tanh", "float32"),
    (kru.RNN, "relu", "float64"),
    (kru.LSTM, None, "float32"),
    (kru.LSTM, None, "float64"),
    (kru.GRU, None, "float32"),
    (kru.GRU, None, "float64"),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("kind", "activation", "dtype"), DENSE)
@pytest.mark.parametrize("N", [33, 70])
@pytest.mark.parametrize(
    ("T", "B", "D", "one_hot"),
    [(1, 1, 1, False), (3, 5, 40, True), (19, 20, 37, False), (5, 57, 3, False)],
)
def test_a_dense_matrix(
    rng, draw, monkeypatch, level, kind, activation, dtype, N, T, B, D, one_hot
):
    """From a size on BLAS multiplies, and adds up over time."""
    monkeypatch.setenv("KRU_REF_SIMD", level)
    options = {"activation": activation} if activation else {}
    reference, ours = (
        kind(D, N, kru.Dense(backend=b), dtype=dtype, **options) for b in ("numpy", "cython")
    )
    assert reference.engine_for(np.zeros(1)) is None is not ours.engine_for(np.zeros(1))
    params = {k: p + 0.1 * draw(p.shape, p.dtype.name) for k, p in reference.init(rng).items()}
    x = rng.integers(D, size=(T, B)) if one_hot else draw((T, D, B), "float64")
    given = tuple(draw((N, B), dtype) for _ in reference.state_names)
    dh, dc = draw((max(1, T - 2), N, B), dtype), draw((N, B), dtype)
    found = []
    for cell in (reference, ours):
        h, saved = cell.forward(params, x, given if len(given) > 1 else given[0])
        back = {"dc": dc} if len(given) > 1 else {}
        grads, dx, dh0 = cell.backward(params, saved, dh, **back)
        before = dh0 if isinstance(dh0, tuple) else (dh0,)
        found.append([h, *saved.states, saved.gates, *before, *([] if one_hot else [dx])])
        found[-1] += [grads[name] for name in params]
        assert grads.keys() == params.keys()
    for expected, actual in zip(*found, strict=True):
        assert actual.dtype == expected.dtype
        close(actual, expected, dtype)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [kru.RNN, kru.LSTM, kru.GRU])
def test_single_steps_over_a_large_factor(rng, monkeypatch, level, kind):
    monkeypatch.setenv("KRU_REF_SIMD", level)
    networks = [
        kru.SequenceModel(kind(3, 74, kru.Kronecker(((2, 1), (37, 74)), backend=backend)), 2)
        for backend in ("numpy", "cython")
    ]
    params = networks[0].init(rng)
    compiled._one_step.cache_clear()
    for B in (1, 5):
        x, steps = rng.standard_normal((4, 3, B)), []
        for network in networks:
            state, steps_of_network = None, []
            for x_t in x:
                y, state = network.step(params, x_t, state)
                steps_of_network.append(y)
            steps.append(steps_of_network)
        np.testing.assert_allclose(*steps, atol=1e-5)
    assert compiled._one_step.cache_info().misses == 2  # one for each B


def test_the_gradient_of_a_large_factor_is_not_kept_lane_by_lane():
    """That would take 16 times the memory."""
    factors = [np.eye(2, dtype="float32"), np.eye(500, dtype="float32")]
    params = {"U": np.zeros((1000, 1), "float32"), "b": np.zeros(1000, "float32")}
    cell = kru.KRU(1, 1000, ((2, 2), (500, 500)), "tanh", "float32")
    loop = compiled._Loop(cell.engine_key, [factors], params, np.zeros((9, 1, 1)), 1)
    assert loop.sizes.backward_scratch < 3 * 500**2


def test_scratch_of_a_dense_matrix_does_not_grow_with_the_input(rng):
    """Sums over time are made elsewhere: no copies of the input are needed for them."""
    sizes = []
    for D in (1, 50_000):
        U = np.zeros((4 * 64, D), "float32")
        W = [[np.eye(64, dtype="float32")]] * 4
        params = {"U": U, "b": np.zeros(4 * 64, "float32")}
        cell = kru.LSTM(D, 64)
        sizes.append(compiled._Loop(cell.engine_key, W, params, np.zeros((9, 50), int), 50).sizes)
    assert sizes[0].backward_scratch == sizes[1].backward_scratch
