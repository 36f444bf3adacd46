"""How a product is cut: panels cover it, and what is beyond the cache comes out the same."""

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.engine import backend, plans
from kru_ref.engine import recurrence as compiled

if backend.kernels is None:
    pytest.skip(f"{backend.reason}", allow_module_level=True)


TOLERANCE = {"float32": 2e-4, "complex64": 2e-4, "float64": 1e-11, "complex128": 1e-11}


def close(actual, expected, dtype):
    scale = np.abs(expected).max(initial=0) or 1.0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


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


@pytest.mark.parametrize("at_once", [2, 3])
@pytest.mark.parametrize("F", range(3, 14))
def test_how_a_run_of_butterflies_is_cut(F, at_once):
    parts = plans._threes_and_twos(tuple(range(F)), at_once)
    assert [f for part in parts for f in part] == list(range(F))
    sizes = [len(part) for part in parts]
    assert set(sizes) <= {2, 3}
    assert sizes.count(5 - at_once) <= at_once - 1  # of the other size only what must be
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("level", backend.INSTRUCTION_SETS)
def test_two_at_once_where_registers_are_few(monkeypatch, dtype, level):
    if backend.INSTRUCTION_SETS.index(level) > backend.kernels.supported_level():
        pytest.skip(f"this processor has no {level}")
    monkeypatch.setenv("KRU_REF_SIMD", level)
    W = [np.eye(2, dtype=dtype)] * 6
    params = {"U": np.zeros((64, 1), dtype), "b": np.zeros(64, "float32")}
    cell = kru.KRU(1, 64, None, "identity", dtype)
    loop = compiled._Loop(cell.engine_key, [W], params, np.zeros((1, 1, 20), "float32"), 20)
    sizes = [len(group.factors) for group in loop.plan.groups]
    few = dtype == "complex64" and level != "avx512"
    assert sizes == ([2, 2, 2] if few or not backend.kernels.has_vectors() else [3, 3])
