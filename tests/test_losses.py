"""Each loss against SciPy's definition, its gradient against finite differences."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

import kru_ref as kru

T, M, B = 4, 5, 3


def case(name, rng):
    """Return the loss, random logits and targets, and the loss of each step (T, B)."""
    logits = 3 * rng.standard_normal((T, M, B))
    if name == "softmax":
        targets = rng.integers(M, size=(T, B))
        log_p = scipy.special.log_softmax(logits, axis=1)
        steps = -np.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
        return kru.softmax_cross_entropy, logits, targets, steps
    if name == "squared":
        targets = rng.standard_normal((T, M, B))
        return kru.mean_squared_error, logits, targets, ((logits - targets) ** 2).mean(axis=1)
    targets = rng.integers(2, size=(T, M, B))
    p = scipy.special.expit(logits)
    steps = -scipy.stats.bernoulli(p).logpmf(targets).sum(axis=1)
    return kru.bernoulli_cross_entropy, logits, targets, steps


NAMES = ["softmax", "squared", "bernoulli"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["all", "mask", "weights", "last", "last mask"])
def test_value_and_gradient(rng, name, form, record_error):
    loss, logits, targets, steps = case(name, rng)
    last_only = form.startswith("last")
    if last_only:
        targets, steps = targets[-1], steps[-1]
    mask = {
        "mask": rng.random((T, B)) < 0.5,
        "weights": rng.uniform(0, 2, (T, B)),
        "last mask": np.array([True, False, True]),
    }.get(form)
    weights = np.ones(steps.shape) if mask is None else mask.astype(float)

    value, dlogits = loss(logits, targets, mask, last_only)
    assert value == pytest.approx(np.sum(steps * weights) / weights.sum())
    report = kru.check_gradient(
        lambda p: loss(p["logits"], targets, mask, last_only)[0],
        {"logits": logits},
        {"logits": dlogits},
        tolerance=1e-7,
    )
    record_error("finite differences, numpy", report.max_error)
    assert report, report


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(rng, name):
    """Steps with weight 0 count neither in loss nor gradient, whatever they hold."""
    loss, logits, targets, _ = case(name, rng)
    mask = np.ones((T, B), bool)
    mask[2:, 1] = False
    value, dlogits = loss(logits, targets, mask)
    wild, wild_targets = logits.copy(), targets.copy()
    wild[2:, :, 1] = 1e300 if name == "squared" else -1e300
    wild_targets[2:, ..., 1] = 0
    with np.errstate(over="ignore"):
        value_wild, dlogits_wild = loss(wild, wild_targets, mask)
    assert value_wild == value
    np.testing.assert_array_equal(dlogits_wild, dlogits)
    assert not dlogits[2:, :, 1].any()


@pytest.mark.parametrize("name", NAMES)
def test_single_precision(rng, name):
    loss, logits, targets, _ = case(name, rng)
    value, dlogits = loss(logits.astype("float32"), targets)
    exact, dexact = loss(logits, targets)
    assert isinstance(value, float)
    assert dlogits.dtype == "float32"
    assert value == pytest.approx(exact, rel=1e-5)
    np.testing.assert_allclose(dlogits, dexact, rtol=0, atol=1e-6)


def test_large_logits_do_not_overflow():
    logits = np.array([1e4, -1e4, 0.0])[None, :, None]
    loss, dlogits = kru.softmax_cross_entropy(logits, [[1]])
    assert loss == pytest.approx(2e4)
    np.testing.assert_allclose(dlogits[0, :, 0], [1, -1, 0])
    loss, dlogits = kru.bernoulli_cross_entropy(logits, np.array([0, 1, 1])[None, :, None])
    assert loss == pytest.approx(2e4 + np.log(2))
    np.testing.assert_allclose(dlogits[0, :, 0], [1, -1, -0.5])


def test_bernoulli_keeps_small_probabilities():
    """log(1 + e^y) - y cancels in single precision; its true value is e^-y."""
    for y in (10.0, 15.0, 40.0):
        logits = np.full((1, 1, 1), y, "float32")
        for sign, target in ((1, 1), (-1, 0)):
            loss, dlogits = kru.bernoulli_cross_entropy(sign * logits, [[[target]]])
            assert loss == pytest.approx(np.log1p(np.exp(-y)), rel=1e-5)
            assert dlogits.item() == pytest.approx(-sign / (1 + np.exp(y)), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_targets_of_padding_may_be_anything(rng, name):
    loss, logits, targets, _ = case(name, rng)
    mask = np.ones((T, B))
    mask[1, 2] = 0
    padded = targets.copy()
    padded[1, ..., 2] = -1 if name == "softmax" else 7
    for given in (padded, np.where(padded == 7, np.nan, padded) if name != "softmax" else padded):
        value, dlogits = loss(logits, given, mask)
        expected, dexpected = loss(logits, targets, mask)
        assert value == expected
        np.testing.assert_array_equal(dlogits, dexpected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_logits_of_padding_may_be_anything(rng, name, garbage):
    loss, logits, targets, _ = case(name, rng)
    mask = np.ones((T, B))
    mask[1, 2] = 0
    wild = logits.copy()
    wild[1, :, 2] = garbage
    with np.errstate(invalid="ignore"):
        value, dlogits = loss(wild, targets, mask)
    expected, dexpected = loss(logits, targets, mask)
    assert value == expected
    np.testing.assert_array_equal(dlogits, dexpected)


def test_weights_may_be_small(rng):
    loss, logits, targets, _ = case("squared", rng)
    weights = rng.uniform(0.01, 0.02, (T, B))
    value, dlogits = loss(logits, targets, weights)
    scaled, dscaled = loss(logits, targets, 100 * weights)
    assert value == pytest.approx(scaled, rel=1e-13)
    np.testing.assert_allclose(dlogits, dscaled, rtol=1e-13)


def test_nan_logits_give_a_nan_loss():
    nan = np.full((1, 1, 1), np.nan)
    with np.errstate(invalid="ignore"):
        assert np.isnan(kru.mean_squared_error(nan, np.zeros((1, 1, 1)))[0])
        assert np.isnan(kru.softmax_cross_entropy(nan, [[0]])[0])
        assert np.isnan(kru.bernoulli_cross_entropy(nan, [[[0]]])[0])


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (np.full((2, 3), 4), ValueError, r"classes from 0 to 3 \(4 outputs\), got 4 to 4"),
        (np.full((2, 3), -1), ValueError, "got -1 to -1"),
        (np.zeros((2, 3)), TypeError, "targets must be integer classes, got float64"),
        (np.zeros((3, 2), int), ValueError, r"targets must have shape \(2, 3\)"),
        (np.zeros(3, int), ValueError, "without the time axis for last_only"),
    ],
)
def test_bad_classes(targets, error, message):
    with pytest.raises(error, match=message):
        kru.softmax_cross_entropy(np.zeros((2, 4, 3)), targets)


@pytest.mark.parametrize("loss", [kru.mean_squared_error, kru.bernoulli_cross_entropy])
def test_bad_targets(loss):
    logits = np.zeros((2, 4, 3))
    with pytest.raises(ValueError, match=r"targets must have shape \(2, 4, 3\)"):
        loss(logits, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="must be finite real numbers"):
        loss(logits, np.full((2, 4, 3), np.nan))
    with pytest.raises(ValueError, match="must be finite real numbers"):
        loss(logits, np.zeros((2, 4, 3), complex))


def test_bernoulli_targets_are_probabilities():
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], got 0.0 to 2.0"):
        kru.bernoulli_cross_entropy(np.zeros((1, 2, 1)), [[[0.0], [2.0]]])


@pytest.mark.parametrize("mask", [np.zeros((1, 2)), [[1, -1]], [[np.nan, 1]], [[np.inf, 1]]])
def test_bad_masks(mask):
    with pytest.raises(ValueError, match="finite weights ≥ 0, with one step at least"):
        kru.softmax_cross_entropy(np.zeros((1, 3, 2)), [[0, 1]], mask)


def test_bad_shapes_of_mask_and_logits():
    with pytest.raises(ValueError, match=r"mask must have shape \(1, 2\), got \(2,\)"):
        kru.softmax_cross_entropy(np.zeros((1, 3, 2)), [[0, 1]], [1, 1])
    with pytest.raises(ValueError, match=r"targets must have shape \(1, 2\).*got \(1, 3\)"):
        kru.softmax_cross_entropy(np.zeros((1, 3, 2)), [[0, 1, 2]], [[1, 1]])
    with pytest.raises(ValueError, match=r"shape \(2,\), \(B,\) with last_only, got \(1, 2\)"):
        kru.softmax_cross_entropy(np.zeros((4, 3, 2)), [[0, 1]], last_only=True)
    with pytest.raises(ValueError, match=r"\(3, 2\), \(M, B\) with last_only, got \(4, 3, 2\)"):
        kru.mean_squared_error(np.zeros((4, 3, 2)), np.zeros((4, 3, 2)), last_only=True)
    with pytest.raises(ValueError, match=r"non-empty \(T, M, B\), got shape \(3, 2\)"):
        kru.softmax_cross_entropy(np.zeros((3, 2)), [0, 1])
    with pytest.raises(TypeError, match="real floating-point numbers, got complex128"):
        kru.softmax_cross_entropy(np.full((1, 3, 2), 1e-3j), [[0, 1]])


def test_weights_of_any_size(rng):
    logits, targets = rng.standard_normal((4, 3, 2)), rng.integers(3, size=(4, 2))
    expected, dexpected = kru.softmax_cross_entropy(logits, targets)
    loss, dlogits = kru.softmax_cross_entropy(logits, targets, np.full((4, 2), 1e308))
    assert loss == pytest.approx(expected)
    np.testing.assert_allclose(dlogits, dexpected)
    with pytest.raises(TypeError, match="mask must hold real weights"):
        kru.softmax_cross_entropy(logits, targets, np.ones((4, 2), complex))


def test_a_complex_step_beside_a_logit_that_is_minus_infinite():
    logits = np.array([[[0.0], [-np.inf], [1.0]]])
    expected, _ = kru.softmax_cross_entropy(logits, [[0]])
    found, gradient = kru.softmax_cross_entropy(logits + 0j, [[0]])
    assert found == pytest.approx(expected, rel=1e-15)
    assert np.isfinite(gradient).all()


def test_an_array_in_another_layout_is_named_by_its_targets(rng):
    """Cases first, as libraries for time series have them: they were taken for time."""
    cases_first = rng.standard_normal((40, 3, 7))
    model = kru.SequenceModel(kru.KRU(3, 4), 2, last_only=True)
    logits, _ = model.forward(model.init(rng), cases_first)
    message = r"targets must have shape \(7,\).*got \(40,\); x goes in as \(T, D, B\), time first"
    with pytest.raises(ValueError, match=message):
        kru.softmax_cross_entropy(logits, np.zeros(40, int), last_only=True)
