"""Readouts of every step and of pooled states, and sequences of different lengths."""

import numpy as np
import pytest
from networks import moved

import kru_ref as kru
from kru_ref.cells import cell as recurrence
from kru_ref.checks.complex_step import forward_on_complex
from kru_ref.readout import POOLINGS

D, M = 3, 2
LENGTHS = np.array([4, 9, 1, 9, 6, 2, 7, 7, 3, 5, 8])
FACTORS = ((1, 2), (2, 3), (3, 1))

STACKS = {
    "kru": lambda backend: kru.KRU(D, 6, FACTORS, dtype="complex128", backend=backend),
    "tanh": lambda backend: kru.KRU(D, 6, None, "tanh", "float64", backend=backend),
    "leaky": lambda backend: kru.KRU(D, 6, dtype="complex128", backend=backend, leak=0.3),
    "lstm": lambda backend: kru.LSTM(D, 6, kru.Kronecker(FACTORS, backend), "float64"),
    "gru": lambda backend: kru.GRU(D, 6, kru.Kronecker(None, backend), "float64"),
    "dense lstm": lambda backend: kru.LSTM(D, 35, kru.Dense(backend=backend), "float64"),
    "full": lambda backend: kru.RNN(D, 5, kru.FullUnitary(backend), "modrelu", "complex128"),
    "restricted": lambda _: kru.RNN(D, 6, kru.RestrictedUnitary(), "modrelu", "complex128"),
    "lru": lambda b: kru.LRU(D, 6, kru.Diagonal(0.5, 0.9, 1.0, b), "complex128"),
    "eigenbasis": lambda backend: kru.KRU(
        D, 6, None, "identity", "complex128", backend=backend, eigenbasis=True
    ),
    "layers": lambda backend: [
        kru.KRU(D, 6, dtype="complex128", backend=backend),
        kru.LSTM(12, 4, kru.Kronecker(backend=backend), "float64"),
        kru.GRU(4, 5, kru.FullUnitary(backend), "float64"),
    ],
}


def near(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-13)


def batch(rng, is_labels=False):
    """Return sequences side by side, and something behind their ends that must not be read."""
    shape = (9, 11) if is_labels else (9, D, 11)
    x = rng.integers(D, size=shape) if is_labels else rng.standard_normal(shape)
    padded = x.copy()
    for b, n in enumerate(LENGTHS):
        padded[n:, ..., b] = -1 if is_labels else np.nan
    return x, padded


@pytest.fixture(params=[0, 2**60], ids=["many pieces", "one piece"])
def pieces(request, monkeypatch):
    """Cut time wherever eight columns have ended, or nowhere."""
    monkeypatch.setattr(recurrence, "WORTH_A_CALL", request.param)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("pooling", [None, *POOLINGS])
@pytest.mark.parametrize("is_labels", [False, True], ids=["numbers", "labels"])
def test_a_batch_of_different_lengths_is_each_sequence_alone(
    rng, backend, pieces, stack, pooling, is_labels
):
    model = kru.SequenceModel(STACKS[stack](backend), M, pooling=pooling)
    params = moved(model, rng)
    x, padded = batch(rng, is_labels)
    logits, saved = model.forward(params, padded, lengths=LENGTHS)
    dlogits = rng.standard_normal(logits.shape)
    total = {name: np.zeros_like(p) for name, p in params.items()}
    for b, n in enumerate(LENGTHS):
        alone, saved_alone = model.forward(params, x[:n, ..., b : b + 1])
        near(logits[: len(alone), :, b : b + 1], alone)
        assert not logits[len(alone) :, :, b].any()
        dalone = dlogits[: len(alone), :, b : b + 1]
        for name, g in model.backward(params, saved_alone, dalone).items():
            total[name] += g
        dlogits[len(alone) :, :, b] = np.nan  # of steps that there are not
        for last, last_alone in zip(saved.last, saved_alone.last, strict=True):
            near(np.stack(last)[..., b], np.stack(last_alone)[..., 0])
    for name, g in model.backward(params, saved, dlogits).items():
        np.testing.assert_allclose(g, total[name], rtol=1e-10, atol=1e-12, err_msg=name)
    near(model.predict(params, padded, LENGTHS), logits)


def test_lengths_cut_time_where_that_saves_a_call():
    ends = np.sort(LENGTHS)[::-1]
    h = np.zeros((9, 10**5, 11))
    saved = recurrence.Saved(h[:, :1], (h[0],), (h,), h[:, :0], False, ends)
    assert saved.pieces() == [(slice(0, 7), 11), (slice(7, 9), 3)]
    many = np.arange(400, 0, -1)
    h = np.zeros((400, 8, 400))
    pieces = recurrence.Saved(h[:, :1], (h[0],), (h,), h[:, :0], False, many).pieces()
    behind = sum(
        np.maximum(0, steps.stop - np.maximum(many[:width], steps.start)).sum()
        for steps, width in pieces
    )
    assert 1 < len(pieces) < 400
    # what is done too much is at most that of a call for each piece, and that of seven columns
    assert 8 * behind <= (len(pieces) + 1) * recurrence.WORTH_A_CALL + 8 * 7 * 400


def test_dropout_with_lengths_and_pooling(rng, pieces):
    """The function that dropout draws is linear in V z: its gradient follows."""
    model = kru.SequenceModel(STACKS["layers"]("auto"), M, dropout=0.4, pooling="last-and-mean")
    params = moved(model, rng)
    _, padded = batch(rng)

    def logits_of(p):
        return model.forward(p, padded, lengths=LENGTHS, rng=np.random.default_rng(7))

    logits, saved = logits_of(params)
    dlogits = rng.standard_normal(logits.shape)
    grads = model.backward(params, saved, dlogits)
    report = kru.check_gradient(
        lambda p: float(np.sum(dlogits * logits_of(p)[0])), params, grads, method="richardson"
    )
    assert report, report


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("stack", ["kru", "layers"])
@pytest.mark.parametrize(("T", "B"), [(1, 1), (9, 3)])
def test_gradients_of_pooled_readouts(rng, backend, stack, pooling, T, B):
    model = kru.SequenceModel(STACKS[stack](backend), M, pooling=pooling)
    params, x = moved(model, rng), rng.standard_normal((T, D, B))
    logits, saved = model.forward(params, x)
    dlogits = rng.standard_normal(logits.shape)
    report = kru.check_gradient(
        lambda p: float(np.sum(dlogits * model.forward(p, x)[0])),
        params,
        model.backward(params, saved, dlogits),
        method="richardson",
    )
    assert report, report


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooled_readouts_of_a_real_model_by_complex_step(rng, backend, pooling):
    model = kru.SequenceModel(STACKS["gru"](backend), M, pooling=pooling)
    params, x = moved(model, rng), rng.standard_normal((7, D, 3))
    logits, saved = model.forward(params, x)
    near(forward_on_complex(model, params, x).real, logits)
    dlogits = rng.standard_normal(logits.shape)
    grads = model.backward(params, saved, dlogits)
    for name, p in params.items():
        direction = rng.standard_normal(p.shape)
        moving = params | {name: p + 1e-30j * direction}
        slope = np.sum(dlogits * forward_on_complex(model, moving, x).imag) / 1e-30
        np.testing.assert_allclose(np.sum(grads[name] * direction), slope, rtol=1e-11)


def test_a_mean_is_that_of_the_states(rng):
    model = kru.SequenceModel(STACKS["kru"]("auto"), M, pooling="last-and-mean")
    params, x = moved(model, rng), rng.standard_normal((5, D, 2))
    logits, saved = model.forward(params, x)
    h = saved.cells[0].h
    z = np.concatenate([h[-1], h.mean(axis=0)])
    V, c = params["readout.V"], params["readout.c"]
    near(logits[0], V @ np.concatenate([z.real, z.imag]) + c[:, None])
    assert V.shape == (M, 24)


def test_a_chunk_goes_on_from_each_sequence_s_own_end(rng, pieces):
    model = kru.SequenceModel(STACKS["layers"]("auto"), M)
    params, (x, padded) = moved(model, rng), batch(rng)
    _, saved = model.forward(params, padded, lengths=LENGTHS)
    behind = rng.standard_normal((3, D, 11))
    logits, _ = model.forward(params, behind, saved.last, lengths=np.full(11, 2))
    for b, n in enumerate(LENGTHS):
        whole = np.concatenate([x[:n, :, b : b + 1], behind[:2, :, b : b + 1]])
        near(logits[:2, :, b : b + 1], model.forward(params, whole)[0][n:])


def test_lengths_give_the_same_bits_on_any_number_of_threads(rng, monkeypatch, pieces):
    model = kru.SequenceModel(kru.KRU(D, 64), M, pooling="mean")
    params, lengths = model.init(rng), rng.integers(1, 30, 150)
    x, results = rng.standard_normal((30, D, 150)), []
    for threads in ("1", "3"):
        monkeypatch.setenv("KRU_REF_NUM_THREADS", threads)
        logits, saved = model.forward(params, x, lengths=lengths)
        results.append([logits, *model.backward(params, saved, logits).values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_states_that_grow_behind_an_end_are_nowhere(rng):
    """A sequence that has ended goes on within its piece, and may overflow there."""
    cell = kru.RNN(1, 2, kru.Dense(), "identity", "float32", learned_h0=False)
    model = kru.SequenceModel(cell, 1, pooling="last")
    params = model.init(rng)
    params["cell.W"] = np.float32([[1e19, 0], [0, 0]])
    params["cell.U"][:] = 1
    x = np.zeros((9, 1, 2), "float32")
    x[0, 0, 0] = 1
    with np.errstate(over="ignore", invalid="ignore"):
        _, saved = model.forward(params, x, lengths=[2, 9])
        grads = model.backward(params, saved, [[[1, 0]]])
    assert all(np.isfinite(g).all() for g in grads.values())


def test_a_readout_that_takes_a_mean_has_no_steps(rng):
    model = kru.SequenceModel(STACKS["kru"]("auto"), M, pooling="mean")
    params = model.init(rng)
    with pytest.raises(ValueError, match="pooling 'mean' reads out no single step: use predict"):
        model.step(params, np.zeros((D, 1)))
    with pytest.raises(ValueError, match="must read out single steps, got pooling 'mean'"):
        kru.rtrl(model, params, np.zeros((2, D, 1)), np.zeros((1, M, 1)))


def test_bad_poolings():
    cell = kru.KRU(D, 6)
    with pytest.raises(ValueError, match="pooling must be one of last, mean, last-and-mean"):
        kru.SequenceModel(cell, M, pooling="max")
    with pytest.raises(ValueError, match="pooling must be 'last' with last_only, got 'mean'"):
        kru.SequenceModel(cell, M, True, pooling="mean")
    assert kru.SequenceModel(cell, M, True) == kru.SequenceModel(cell, M, pooling="last")


def test_saved_of_another_pooling_is_refused(rng):
    x = rng.standard_normal((4, D, 2))
    models = [kru.SequenceModel(kru.KRU(D, 6), M, pooling=p) for p in (None, "last-and-mean")]
    params = models[0].init(rng)
    _, saved = models[0].forward(params, x)
    with pytest.raises(ValueError, match="saved belongs to another model"):
        models[1].backward(models[1].init(rng), saved, np.zeros((1, M, 2)))
