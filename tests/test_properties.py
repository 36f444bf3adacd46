"""What holds for any factors, any cell and any batch (hypothesis draws them)."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kru_ref as kru
from kru_ref.engine.backend import kernels

BACKENDS = ["numpy"] + ["cython"] * (kernels is not None)
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5))
SHAPES = st.lists(SIZES, min_size=1, max_size=4)
DTYPES = st.sampled_from(["float64", "complex128"])
SEEDS = st.integers(0, 2**32 - 1)
backends = pytest.mark.parametrize("backend", BACKENDS)


def test_no_example_fails_for_being_slow():
    """A busy machine is no mistake of the code; see conftest.py."""
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check


def gaussian(rng, shape, dtype):
    a = rng.standard_normal(shape)
    return a + 1j * rng.standard_normal(shape) if dtype == "complex128" else a


def drawn(seed, shapes, dtype, B):
    rng = np.random.default_rng(seed)
    factors = [gaussian(rng, shape, dtype) for shape in shapes]
    x = gaussian(rng, (math.prod(Q for _, Q in shapes), B), dtype)
    return rng, factors, x


def close(actual, expected):
    scale = float(np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * scale + 1e-300)


@backends
@given(st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=1, max_size=4), DTYPES, SEEDS)
def test_mixed_product(backend, sizes, dtype, seed):
    """(A_0 ⊗ …)(B_0 ⊗ …) = A_0 B_0 ⊗ …, the rule behind all else."""
    rng = np.random.default_rng(seed)
    A = [gaussian(rng, (p, q), dtype) for p, q, _ in sizes]
    B = [gaussian(rng, (q, r), dtype) for _, q, r in sizes]
    x = gaussian(rng, (math.prod(r for _, _, r in sizes), 2), dtype)
    products = [a @ b for a, b in zip(A, B, strict=True)]
    twice = kru.kron_matvec(A, kru.kron_matvec(B, x, backend), backend)
    # a product may cancel: relative to what the parts could have been
    size = math.prod(
        float(np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(A, B, strict=True)
    )
    once = kru.kron_matvec(products, x, backend)
    np.testing.assert_allclose(twice, once, rtol=0, atol=1e-12 * size * float(np.linalg.norm(x)))


@backends
@given(SHAPES, DTYPES, SEEDS)
def test_the_adjoint_is_the_product_of_adjoints(backend, shapes, dtype, seed):
    """⟨y, (A ⊗ B) x⟩ = ⟨(A^H ⊗ B^H) y, x⟩, and it is the dx of the backward pass."""
    rng, factors, x = drawn(seed, shapes, dtype, 2)
    Wx = kru.kron_matvec(factors, x, backend)
    y = gaussian(rng, Wx.shape, dtype)
    adjoint = kru.kron_matvec([W.conj().T for W in factors], y, backend)
    size = float(np.linalg.norm(y) * np.linalg.norm(Wx)) + 1e-300
    assert abs(np.vdot(y, Wx) - np.vdot(adjoint, x)) <= 1e-12 * size
    close(kru.kron_matvec_backward(factors, x, y, backend)[1], adjoint)


@backends
@given(SHAPES, DTYPES, SEEDS)
def test_linear_in_x_and_in_each_factor(backend, shapes, dtype, seed):
    rng, factors, x = drawn(seed, shapes, dtype, 3)
    other = gaussian(rng, x.shape, dtype)
    a, b = gaussian(rng, 2, dtype)
    sum_first = kru.kron_matvec(factors, a * x + b * other, backend)
    parts = [kru.kron_matvec(factors, v, backend) for v in (x, other)]
    size = max(float(np.abs(part).max()) for part in parts) * (abs(a) + abs(b))
    np.testing.assert_allclose(sum_first, a * parts[0] + b * parts[1], rtol=0, atol=1e-12 * size)
    f = int(rng.integers(len(factors)))
    moved = [gaussian(rng, W.shape, dtype) if k == f else W for k, W in enumerate(factors)]
    both = [
        a * W + b * V if k == f else W for k, (W, V) in enumerate(zip(factors, moved, strict=True))
    ]
    parts = [kru.kron_matvec(Ws, x, backend) for Ws in (factors, moved)]
    size = max(float(np.abs(part).max()) for part in parts) * (abs(a) + abs(b))
    np.testing.assert_allclose(
        kru.kron_matvec(both, x, backend), a * parts[0] + b * parts[1], rtol=0, atol=1e-12 * size
    )


@backends
@given(SHAPES, DTYPES, SEEDS, st.data())
def test_neighbours_may_be_multiplied_together(backend, shapes, dtype, seed, data):
    """Regrouping (A ⊗ B) ⊗ C leaves the product alone, and its gradients fit together."""
    rng, factors, x = drawn(seed, shapes, dtype, 2)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(shapes)))) | {0, len(shapes)})
    merged = []
    for begin, end in itertools.pairwise(cuts):
        group = factors[begin]
        for W in factors[begin + 1 : end]:
            group = np.kron(group, W)
        merged.append(group)
    y = kru.kron_matvec(factors, x, backend)
    close(kru.kron_matvec(merged, x, backend), y)
    dy = gaussian(rng, y.shape, dtype)
    dfactors, dx = kru.kron_matvec_backward(factors, x, dy, backend)
    dmerged, dx_merged = kru.kron_matvec_backward(merged, x, dy, backend)
    size = float(np.linalg.norm(dy)) * float(np.linalg.norm(x)) + 1e-300
    size *= math.prod(max(1.0, float(np.linalg.norm(W))) for W in factors)
    np.testing.assert_allclose(dx_merged, dx, rtol=0, atol=1e-12 * size)
    # along the factors themselves all gradients agree: ⟨dW_f, W_f⟩ = ⟨dy, y⟩ for each f
    for dW, W in [*zip(dfactors, factors, strict=True), *zip(dmerged, merged, strict=True)]:
        assert abs(np.vdot(W, dW).real - np.vdot(y, dy).real) <= 1e-11 * size


CELLS = {
    "kru": lambda backend: kru.KRU(
        2, 6, ((1, 2), (2, 3), (3, 1)), dtype="complex128", backend=backend
    ),
    "real": lambda backend: kru.KRU(2, 6, None, "tanh", "float64", backend=backend),
    "lstm": lambda backend: kru.LSTM(2, 6, kru.Kronecker(None, backend), "float64"),
    "gru": lambda backend: kru.GRU(2, 6, kru.Kronecker(None, backend), "float64"),
    "restricted": lambda backend: kru.RNN(2, 6, kru.RestrictedUnitary(), "modrelu", "complex128"),
}
LENGTHS = st.integers(1, 9)


def network(kind, backend, seed):
    rng = np.random.default_rng(seed)
    model = kru.SequenceModel(CELLS[kind](backend), 3)
    params = {k: p + rng.uniform(-0.2, 0.2, p.shape) for k, p in model.init(rng).items()}
    return rng, model, params


@backends
@pytest.mark.parametrize("kind", ["kru", "real", "lstm", "gru"])
@settings(max_examples=25)
@given(T=LENGTHS, B=st.integers(1, 4), seed=SEEDS, data=st.data())
def test_bptt_in_pieces_is_bptt_in_one(backend, kind, T, B, seed, data):
    """Pieces hand their state on, and back the gradient of it."""
    rng, model, params = network(kind, backend, seed)
    cell = model.cells[0]
    params = {k.removeprefix("cell."): p for k, p in params.items() if k.startswith("cell.")}
    x, dh = rng.standard_normal((T, 2, B)), gaussian(rng, (T, 6, B), cell.dtype)
    h, saved = cell.forward(params, x)
    grads, dx, dh0 = cell.backward(params, saved, dh)
    cuts = sorted(data.draw(st.sets(st.integers(1, T))) | {0, T})
    pieces, state = [], None
    for begin, end in itertools.pairwise(cuts):
        _, piece = cell.forward(params, x[begin:end], state)
        pieces.append((begin, end, piece))
        state = piece.last
        close(piece.h, h[begin:end])
    total = {name: np.zeros_like(p) for name, p in params.items()}
    handed_back = None
    for begin, end, piece in reversed(pieces):
        d, options = dh[begin:end].copy(), {}
        if handed_back is not None:
            own = handed_back if isinstance(handed_back, tuple) else (handed_back,)
            d[-1] += own[0]
            options = {"dc": own[1]} if len(own) > 1 else {}
        part, dx_part, handed_back = cell.backward(params, piece, d, **options)
        close(dx_part, dx[begin:end])
        for name, g in part.items():
            total[name] += g
    own = handed_back if isinstance(handed_back, tuple) else (handed_back,)
    wanted = dh0 if isinstance(dh0, tuple) else (dh0,)
    for g, w in zip(own, wanted, strict=True):
        close(g, w)
    for name, g in grads.items():
        np.testing.assert_allclose(total[name], g, rtol=0, atol=1e-11 * max(1, np.abs(g).max()))


@backends
@pytest.mark.parametrize("kind", CELLS)
@settings(max_examples=25)
@given(T=LENGTHS, B=st.integers(1, 5), seed=SEEDS)
def test_sequences_of_a_batch_are_independent(backend, kind, T, B, seed):
    """The whole batch at once, or each sequence alone and the gradients added."""
    rng, model, params = network(kind, backend, seed)
    x = rng.standard_normal((T, 2, B))
    logits, saved = model.forward(params, x)
    dlogits = rng.standard_normal(logits.shape)
    grads = model.backward(params, saved, dlogits)
    total = {name: np.zeros_like(p) for name, p in params.items()}
    for b in range(B):
        alone, saved = model.forward(params, x[..., b : b + 1])
        close(alone[..., 0], logits[..., b])
        for name, g in model.backward(params, saved, dlogits[..., b : b + 1]).items():
            total[name] += g
    for name, g in grads.items():
        np.testing.assert_allclose(total[name], g, rtol=0, atol=1e-11 * max(1, np.abs(g).max()))


@backends
@pytest.mark.parametrize("kind", CELLS)
@settings(max_examples=25)
@given(lengths=st.lists(LENGTHS, min_size=1, max_size=4), padding=st.integers(0, 4), seed=SEEDS)
def test_a_mask_hides_padding(backend, kind, lengths, padding, seed):
    """Sequences of any lengths, padded with anything: the loss and gradient of each by itself."""
    rng, model, params = network(kind, backend, seed)
    T, B = max(lengths) + padding, len(lengths)
    x, targets = rng.standard_normal((T, 2, B)), rng.integers(3, size=(T, B))
    mask = (np.arange(T)[:, None] < np.array(lengths)).astype(float)
    logits, saved = model.forward(params, x)
    value, dlogits = kru.softmax_cross_entropy(logits, targets, mask)
    grads = model.backward(params, saved, dlogits)
    total, total_value = {name: np.zeros_like(p) for name, p in params.items()}, 0.0
    for b, n in enumerate(lengths):
        alone, saved = model.forward(params, x[:n, :, b : b + 1])
        loss, d = kru.softmax_cross_entropy(alone, targets[:n, b : b + 1])
        share = n / sum(lengths)
        total_value += share * loss
        for name, g in model.backward(params, saved, share * d).items():
            total[name] += g
    assert value == pytest.approx(total_value, rel=1e-12)
    for name, g in grads.items():
        np.testing.assert_allclose(total[name], g, rtol=0, atol=1e-11 * max(1, np.abs(g).max()))
