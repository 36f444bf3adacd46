"""The compiled recurrence against the NumPy one: instruction sets, threads, sizes, memory."""

import os
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.engine import backend, memory, plans
from kru_ref.engine import recurrence as compiled

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


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("B", [0, 1, 2, 3, 5, 20, 64])
@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 2)] * 7,
        [(2, 3), (5, 4), (1, 2)],
        [(16, 3), (3, 16)],
        [(40, 3), (3, 40)],
        [(3, 3)] * 3,
        [(9, 11), (1, 3)],
        [(1, 1)],
    ],
)
def test_the_product_agrees_with_numpy(draw, monkeypatch, level, dtype, B, shapes):
    monkeypatch.setenv("KRU_REF_SIMD", level)
    factors = [draw(shape, dtype) for shape in shapes]
    rows, columns = (int(np.prod(sizes)) for sizes in zip(*shapes, strict=True))
    x, dy = draw((columns, B), dtype), draw((rows, B), dtype)
    y = kru.kron_matvec(factors, x, "cython")
    close(y, kru.kron_matvec(factors, x, "numpy"), dtype)
    dfactors, dx = kru.kron_matvec_backward(factors, x, dy, "cython")
    expected, dx_expected = kru.kron_matvec_backward(factors, x, dy, "numpy")
    close(dx, dx_expected, dtype)
    for ours, reference in zip(dfactors, expected, strict=True):
        close(ours, reference, dtype)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("B", [2, 3, 5, 9, 17])
def test_columns_of_a_product_are_independent(draw, monkeypatch, level, dtype, B):
    """What is no number in one column stays there."""
    monkeypatch.setenv("KRU_REF_SIMD", level)
    factors, x = [draw((2, 2), dtype), draw((3, 5), dtype)], draw((10, B), dtype)
    x[3, 1] = np.nan
    y = kru.kron_matvec(factors, x, "cython")
    _, dx = kru.kron_matvec_backward(factors, x, np.where(np.isnan(y), y, 1), "cython")
    for result in (y, dx):
        assert np.isnan(result[:, 1]).any()
        assert np.isfinite(np.delete(result, 1, axis=1)).all()


@pytest.fixture(params=[2**7, 2**14])
def small_cache(monkeypatch, request):
    """Let products be cut into phases and panels at sizes that a test can afford."""
    monkeypatch.setattr(plans, "PANEL", request.param)
    plans.phases_of.cache_clear()
    yield
    plans.phases_of.cache_clear()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("B", [1, 3, 20, 67])
@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 2)] * 11,
        [(3, 3), (2, 2), (5, 5), (2, 2), (2, 2)],
        [(3, 2), (2, 3), (2, 2), (4, 4), (3, 1)],
        [(2, 2), (19, 19), (2, 2), (2, 2)],
        [(20, 18), (5, 5)],
    ],
)
@pytest.mark.usefixtures("small_cache")
def test_a_product_beyond_the_cache(draw, monkeypatch, dtype, B, shapes):
    """Cut into phases and panels; with any number of threads the same bits."""
    factors = [draw(shape, dtype) for shape in shapes]
    rows, columns = (int(np.prod(sizes)) for sizes in zip(*shapes, strict=True))
    x, dy = draw((columns, B), dtype), draw((rows, B), dtype)
    before = x.copy()
    phases = plans.phases_of(tuple(shapes), B, x.dtype.char)
    assert len(phases) > 1 or max(x.nbytes, dy.nbytes) <= 2 * plans.PANEL
    if len(shapes) == 11 and plans.PANEL == 2**14 and B > 3:
        assert any(len(phase.cuts) > 2 and len(phase.plan.sweeps) > 1 for phase in phases)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(compiled, "n_threads", lambda threads=threads: threads)
        dfactors, dx = kru.kron_matvec_backward(factors, x, dy, "cython")
        results.append([kru.kron_matvec(factors, x, "cython"), *dfactors, dx])
    for first, same in zip(*results, strict=True):
        np.testing.assert_array_equal(first, same)
    np.testing.assert_array_equal(x, before)
    close(results[0][0], kru.kron_matvec(factors, x, "numpy"), dtype)
    dfactors, dx = kru.kron_matvec_backward(factors, x, dy, "numpy")
    for ours, reference in zip(results[0][1:], [*dfactors, dx], strict=True):
        close(ours, reference, dtype)


@pytest.mark.parametrize("cut", [2**11, 2**18])
def test_panels_cover_all_columns(cut):
    """Once each, in order, none shorter than a vector unless all are."""
    for B in (1, 15, 16, 17, 500, 4096, 4097):
        for itemsize in (4, 8, 16):
            cuts = plans._cuts(B, max(16, cut // 512 // itemsize), itemsize)
            assert cuts[0] == 0
            assert cuts[-1] == B
            assert (np.diff(cuts) >= min(B, 8)).all()


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


def test_large_factors_are_left_to_blas(rng):
    assert kru.KRU(3, 66, ((33, 33), (2, 2)), backend="cython").matrix.engine(66) is None
    assert kru.KRU(3, 64, ((32, 32), (2, 2)), backend="cython").matrix.engine(64) is not None
    assert kru.KRU(3, 32, backend="numpy").matrix.engine(32) is None


@pytest.mark.parametrize("dtype", ["complex64", "float32"])
def test_memory_is_that_of_the_hidden_states(rng, dtype):
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
            compiled.ReadoutGradient(model._readout(params), dlogits),
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


def test_an_instruction_set_can_be_forced(monkeypatch, capsys):
    for level in LEVELS:
        monkeypatch.setenv("KRU_REF_SIMD", level)
        kru.show_config()
        assert level in capsys.readouterr().out
    monkeypatch.setenv("KRU_REF_SIMD", "mmx")
    with pytest.raises(ValueError, match=r"KRU_REF_SIMD must be one of baseline.*got 'mmx'"):
        kru.show_config()


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


FORK = """
import os, numpy as np, kru_ref as kru
model = kru.SequenceModel(kru.KRU(3, 32, backend="cython"), 2)
params, x = model.init(np.random.default_rng(0)), np.ones((5, 3, 80))
expected, _ = model.forward(params, x)
child = os.fork()
logits, _ = model.forward(params, x)
if child == 0:
    os._exit(0 if (logits == expected).all() else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_computes_too():
    """It did not: OpenMP waited for ever for the parent's threads."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-P", "-W", "ignore", "-c", FORK]  # -P: not the source tree
    subprocess.run(command, env=environment, check=True, timeout=600)


@pytest.mark.parametrize(
    "call",
    [
        lambda: kru.kron_matvec([np.eye(2)], np.ones(2), backend="cython"),
        lambda: kru.KroneckerProduct([np.eye(2)], backend="cython"),
        lambda: kru.KRU(2, 4, backend="cython"),
    ],
)
def test_a_backend_that_is_missing(monkeypatch, call):
    monkeypatch.setattr(backend, "kernels", None)
    with pytest.raises(ImportError, match=r"backend 'cython' is not available.* C compiler"):
        call()


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


# Memory that is used again


BYTE = np.dtype("uint8")


@pytest.fixture
def shelf():
    """Start with an empty shelf; return the kernels."""
    backend.kernels.keep_at_most(0)
    backend.kernels.keep_at_most(memory.MOST_KEPT)
    return backend.kernels


def address_of(a):
    return a.__array_interface__["data"][0]


def test_large_memory_is_used_again(shelf):
    a = memory.aligned_empty((memory.LARGE // 8 + 1,), np.dtype("float64"))
    where, size = address_of(a), a.nbytes
    assert where % 64 == 0
    assert a.flags.writeable
    assert shelf.bytes_on_shelf() == 0
    del a
    assert shelf.bytes_on_shelf() >= size
    for other in (size // 2, size + 1000):  # by far too small, and larger
        assert address_of(memory.aligned_empty((other,), BYTE)) != where
    again = memory.aligned_empty((size // 8,), np.dtype("complex64"))
    assert address_of(again) == where


@pytest.mark.parametrize("view", [lambda a: a[3:5, ::2], lambda a: a.T, memoryview, np.asarray])
def test_memory_is_not_used_again_while_a_view_of_it_is_held(shelf, view):
    a = memory.aligned_empty((4, memory.LARGE), BYTE)
    a[...] = 7
    where, held = address_of(a), view(a)
    del a
    assert shelf.bytes_on_shelf() == 0
    other = memory.aligned_empty((4, memory.LARGE), BYTE)
    other[...] = 9
    assert (np.asarray(held) == 7).all()
    del held
    assert shelf.bytes_on_shelf() > 0
    assert address_of(memory.aligned_empty((4, memory.LARGE), BYTE)) == where


@pytest.mark.parametrize("cell", [kru.KRU(3, 64), kru.LSTM(3, 64, kru.Kronecker())])
def test_a_result_outlives_later_calls(rng, cell):
    """It did not, where it had been handed back as memory for a later one."""
    params, x = cell.init(rng), rng.standard_normal((2, 60, 3, 40))
    assert memory.LARGE <= 60 * 64 * 40 * 4
    h, saved = cell.forward(params, x[0])
    last, copies = h[-1], [part.copy() for part in (*saved.states, saved.gates)]
    expected = cell.backward(params, saved, h)
    del h
    for _ in range(3):
        h, other = cell.forward(params, x[1])
        cell.backward(params, other, h)
    for part, copy in zip((*saved.states, saved.gates), copies, strict=True):
        np.testing.assert_array_equal(part, copy)
    np.testing.assert_array_equal(cell.backward(params, saved, copies[0])[1], expected[1])
    del saved, other, h
    cell.forward(params, x[1])
    np.testing.assert_array_equal(last, copies[0][-1])


def test_no_more_than_a_limit_is_kept(shelf):
    size, limit = memory.LARGE, 10 * memory.LARGE
    shelf.keep_at_most(limit)
    held = [memory.aligned_empty((size,), BYTE) for _ in range(30)]
    first = address_of(held[0])
    while held:
        del held[0]
        assert shelf.bytes_on_shelf() <= limit
    assert shelf.bytes_on_shelf() > limit - 2 * size
    again = [memory.aligned_empty((size,), BYTE) for _ in range(9)]
    assert first not in map(address_of, again)  # the oldest had to go
    del again
    before = shelf.bytes_on_shelf()
    memory.aligned_empty((2 * limit,), BYTE)  # not kept, and nothing else goes for it
    assert shelf.bytes_on_shelf() == before
    shelf.keep_at_most(0)
    assert shelf.bytes_on_shelf() == 0
    shelf.keep_at_most(memory.MOST_KEPT)
    held = [memory.aligned_empty((size,), BYTE) for _ in range(40)]
    del held
    assert 10 * size < shelf.bytes_on_shelf() < 20 * size  # nor too many small ones


def test_threads_do_not_share_memory(shelf):
    wrong = []

    def use(number):
        rng = np.random.default_rng(number)
        for _ in range(200):
            a = memory.aligned_empty((int(rng.integers(1, 4)), memory.LARGE), BYTE)
            a[...] = number
            b = memory.aligned_empty(a.shape, BYTE)
            b[...] = 100 + number
            if not ((a == number).all() and (b == 100 + number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert shelf.bytes_on_shelf() <= memory.MOST_KEPT


FORKED_MEMORY = """
import os, numpy as np
from kru_ref.engine import backend, memory
def make(value):
    a = memory.aligned_empty((memory.LARGE,), np.dtype("float64"))
    a[...] = value
    return a
held = make(1)
make(2)
assert backend.kernels.bytes_on_shelf() > 0
child = os.fork()
more = [make(3 + (child == 0)) for _ in range(3)]
right = (held == 1).all() and all((a == 3 + (child == 0)).all() for a in more)
del more
assert right and backend.kernels.bytes_on_shelf() > 0
if child:
    assert os.waitpid(child, 0)[1] == 0
kept_until_the_end = [held, backend.kernels.Memory(10**6)]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_memory_after_a_fork_and_at_exit():
    run = [sys.executable, "-P", "-W", "ignore", "-c", FORKED_MEMORY]
    done = subprocess.run(run, check=True, timeout=600, capture_output=True, text=True)
    assert done.stderr == ""
