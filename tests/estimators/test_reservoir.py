"""Reservoirs: their features against sums over time, their readouts, scikit-learn's checks."""

import tracemalloc

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: kru_ref[sklearn]")
from series import forms, of_different_lengths, waves
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import kru_ref as kru
from kru_ref.estimators import KroneckerReservoir, ReservoirClassifier, ReservoirRegressor
from kru_ref.estimators import reservoir as module
from kru_ref.estimators.reservoir import STATISTICS

WEIGHTS = "the scaling and the thresholds are those of all sequences; weights act on the readout"


def expected_failures(estimator):
    return {"check_sample_weight_equivalence_on_dense_data": WEIGHTS}


@parametrize_with_checks(
    [
        kind(32, dtype="complex128")  # in single precision another batch has other last bits
        for kind in (KroneckerReservoir, ReservoirClassifier, ReservoirRegressor)
    ],
    expected_failed_checks=expected_failures,
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


def plain_states(part, x):
    """Step through time by the equation, with W multiplied out; return (T, n_features)."""
    p, cell = part.params, part.cell
    W = np.eye(1)
    for name in cell.matrix_names:
        W = np.kron(W, p[name])
    h, found = np.zeros(cell.hidden_size, cell.dtype), []
    for x_t in x:
        z = W @ h + (p["U"][:, x_t] if x.ndim == 1 else p["U"] @ x_t)
        if cell.activation == "tanh":
            s = np.tanh(z + p["b"])
        elif cell.activation == "modrelu":
            s = np.maximum(np.abs(z) + p["b"], 0) * z / np.abs(z)
        else:
            s = z + p["b"]
        h = (1 - cell.leak) * h + cell.leak * s
        found.append(np.concatenate([h.real, h.imag]) if cell.is_complex else h)
    return np.array(found)


SETTINGS = {
    "linear": {},
    "leaky tanh": {"activation": "tanh", "leak": 0.3, "bias_scaling": 0.5, "dtype": "float64"},
    "modrelu": {"activation": "modrelu", "bias_scaling": 0.1, "spectral_radius": 0.9},
    "washout": {"washout": 8, "factors": [(2, 2), (2, 2)], "input_scaling": 0.2},
}


@pytest.mark.parametrize("form", ["3-D", "lengths", "symbols"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_features_are_statistics_of_the_states(rng, monkeypatch, form, setting):
    """In whole batches, and over pieces of time."""
    X, _ = forms(rng)[form]
    settings = {"dtype": "complex128", "spectral_radius": (0.5, 0.9)} | SETTINGS[setting]
    reservoir = KroneckerReservoir(8, statistics=STATISTICS, random_state=0, **settings)
    features = reservoir.fit(X).transform(X)
    monkeypatch.setattr(module, "AT_ONCE", 1)
    np.testing.assert_allclose(reservoir.transform(X), features, rtol=1e-9, atol=1e-12)
    assert features.shape == (24, reservoir.n_features_out_)
    names = list(reservoir.get_feature_names_out())
    assert len(set(names)) == len(names) == features.shape[1]
    scaled = reservoir.scaling_.transform(list(X))
    for x, row in zip(scaled, features, strict=True):
        least, most = [], []
        for part in reservoir.parts_:
            h = plain_states(part, x)[min(reservoir.washout, len(x) - 1) :]
            others = [h.mean(axis=0), h.std(axis=0), h.max(axis=0), h[-1]]
            for found, rounding in ((least, 1e-9), (most, -1e-9)):  # a state may be a threshold
                found += [(h > t + rounding).mean(axis=0) for t in part.thresholds]
                found += [other - rounding for other in others]
        low, high = np.concatenate(least) - 1e-6, np.concatenate(most) + 1e-6
        assert ((low <= row) & (row <= high)).all()


def test_the_recurrence_is_unitary_but_for_its_radius(rng):
    X, _ = waves(rng)
    reservoir = KroneckerReservoir(32, (0.5, 0.9), dtype="complex128", random_state=0).fit(X)
    for part, radius in zip(reservoir.parts_, (0.5, 0.9), strict=True):
        factors = [part.params[name] for name in part.cell.matrix_names]
        assert [W.shape for W in factors] == [(2, 2)] * 4
        assert kru.unitarity_defect([factors[0] / radius, *factors[1:]]) < 1e-12


def test_thresholds_are_quantiles_of_the_states(rng):
    X, _ = waves(rng, n=200, T=50)
    reservoir = KroneckerReservoir(
        8, 0.9, n_thresholds=2, statistics=["proportion"], random_state=0
    ).fit(X)
    above = reservoir.transform(X).reshape(200, 2, -1).mean(axis=0)
    assert (np.abs(above[0] - 0.75) < 0.3).all()
    assert (np.abs(above[1] - 0.25) < 0.3).all()
    assert np.ptp(above[0]) > 0.2


def test_classes_are_told_apart_and_so_are_numbers(rng):
    X, y = waves(rng, n=60)
    fresh, labels = waves(np.random.default_rng(1), n=60)
    classifier = ReservoirClassifier(64, random_state=0)
    assert classifier.fit(of_different_lengths(X, rng), y).score(fresh, labels) > 0.9
    assert classifier.decision_function(fresh).shape == (60,)
    three = np.where(np.arange(60) < 20, "early", y)
    assert classifier.fit(X, three).decision_function(X).shape == (60, 3)
    targets = 100 + np.stack([X[:, 0].mean(axis=1), X[:, 1].std(axis=1)], axis=1)
    regressor = ReservoirRegressor(256, random_state=0, statistics=["proportion", "mean"])
    assert regressor.fit(X, targets).score(X, targets) > 0.8
    assert regressor.fit(X, targets[:, 0]).predict(X).shape == (60,)


def test_the_readout_is_scikit_learn_s_ridge(rng):
    X, y = waves(rng, n=40)
    classifier = ReservoirClassifier(16, random_state=0).fit(X, y)
    reservoir = KroneckerReservoir(16, random_state=0)
    ridge = make_pipeline(reservoir, StandardScaler(), RidgeClassifierCV(module.ALPHAS))
    np.testing.assert_allclose(
        ridge.fit(X, y).decision_function(X), classifier.decision_function(X), atol=1e-3
    )
    assert cross_val_score(classifier, X, y, cv=2).shape == (2,)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("targets", ["two", "three", "numbers", "columns"])
def test_a_ridge_from_sums_is_scikit_learn_s_ridge(rng, monkeypatch, targets, weighted):
    """Of many sequences of different length, in batches of 64, features far from 0 among them."""
    lengths = rng.integers(3, 12, 150)
    X = [1e3 + rng.standard_normal((2, T)).cumsum(axis=1) for T in lengths]
    level = np.array([x.mean() + rng.standard_normal() for x in X])
    y = {
        "two": np.where(level > 1e3, "b", "a"),
        "three": np.digitize(level, [999.5, 1000.5]),
        "numbers": level,
        "columns": np.stack([level, rng.standard_normal(150)], axis=1),
    }[targets]
    weights = rng.integers(0, 3, 150) if weighted else None
    settings = {"statistics": ["mean", "last", "deviation"], "normalize": False}
    kind = ReservoirRegressor if targets in ("numbers", "columns") else ReservoirClassifier
    model = kind(6, 0.9, random_state=0, dtype="complex128", **settings)
    monkeypatch.setattr(module, "AT_ONCE", 1)
    chosen = []
    for scale in (1e-3, 1, 1e6):
        monkeypatch.setattr(module, "ALPHAS", scale * np.logspace(-3, 3, 10))
        monkeypatch.setattr(module, "FEATURES_AT_ONCE", 2**22)
        at_once = clone(model).fit(X, y, weights)
        monkeypatch.setattr(module, "FEATURES_AT_ONCE", 1)
        from_sums = clone(model).fit(X, y, weights)
        chosen.append(from_sums.alpha_)
        assert from_sums.alpha_ == at_once.alpha_
        np.testing.assert_allclose(from_sums.coef_, at_once.coef_, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(from_sums.intercept_, at_once.intercept_, rtol=1e-5)
    assert len(set(chosen)) == 3


def test_a_fit_keeps_no_features_of_many_sequences(rng, monkeypatch):
    monkeypatch.setattr(module, "FEATURES_AT_ONCE", 2**14)
    monkeypatch.setattr(module, "AT_ONCE", 2**14)
    peaks = []
    for n in (600, 2400):
        X, y = rng.standard_normal((n, 1, 20)), np.arange(n) % 2
        tracemalloc.start()
        ReservoirClassifier(32, 0.9, random_state=0).fit(X, y).predict(X)
        peaks.append(tracemalloc.get_traced_memory()[1] - 6 * X.nbytes)
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_the_same_seed_gives_the_same_features(rng):
    X, _ = waves(rng)
    reservoir = KroneckerReservoir(16, random_state=3)
    first = reservoir.fit_transform(X)
    np.testing.assert_array_equal(clone(reservoir).fit(X).transform(X), first)
    assert not np.array_equal(reservoir.set_params(random_state=4).fit_transform(X), first)


def test_a_large_reservoir_needs_no_matrix(rng):
    """N = 2^16, of which a dense matrix would take 32 GiB."""
    X, _ = waves(rng, n=2, T=5)
    reservoir = KroneckerReservoir(2**16, 0.9, statistics=["last"], random_state=0)
    features = reservoir.fit_transform(X)
    assert features.shape == (2, 2**17)
    assert np.isfinite(features).all()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("hidden_size", 3, "at least 1 for each spectral radius, got 3 for 5"),
        ("spectral_radius", -0.1, "spectral_radius must be at least 0"),
        ("spectral_radius", [], "spectral_radius must be at least 0"),
        ("spectral_radius", np.inf, "spectral_radius must be at least 0"),
        ("statistics", "mean", "statistics must be a list of names"),
        ("statistics", ["median"], "statistics must be one of"),
        ("statistics", ["mean", "mean"], "statistics must be different ones"),
        ("statistics", None, "statistics must be a list of names"),
        ("bias_scaling", -1.0, "bias_scaling must be at least 0"),
        ("n_thresholds", 0, "n_thresholds"),
        ("washout", -1, "washout"),
        ("leak", 0.0, "leak must be above 0"),
        ("activation", "tanh", "defined on real numbers only"),
        ("missing", "drop", "missing must be one of"),
        ("input_scaling", "much", "input_scaling"),
    ],
)
def test_bad_settings(rng, setting, value, message):
    X, _ = waves(rng)
    with pytest.raises((ValueError, TypeError), match=message):
        KroneckerReservoir(**{"hidden_size": 8, setting: value}).fit(X)


def test_washout_takes_no_part_in_thresholds(rng):
    X = rng.standard_normal((30, 1, 100))
    X[:, :, :50] += 1000
    reservoir = KroneckerReservoir(
        16, 0.5, washout=60, normalize=False, statistics=["proportion"], random_state=0
    )
    features = reservoir.fit_transform(X)
    assert (np.ptp(features, axis=0) > 0).all()


def test_no_state_that_was_seen_is_a_threshold(rng):
    """By a rounding it would be above, or not: not the largest either, nor one that never moves."""
    X = rng.integers(0, 2, (9, 2, 3)).astype(float)
    X[:, 1] = 1
    reservoir = KroneckerReservoir(16, (0.0, 0.5), dtype="complex128", n_thresholds=9)
    for seed in range(20):
        reservoir.set_params(random_state=seed).fit(X)
        scaled = reservoir.scaling_.transform(list(X))
        for part in reservoir.parts_:
            h = np.concatenate([plain_states(part, x) for x in scaled])
            assert np.abs(h[:, None] - part.thresholds).min() > 1e-9


@pytest.mark.parametrize("statistics", [["proportion"], ["maximum"], ["last"]])
def test_states_that_overflow_are_told_of(rng, statistics):
    X = rng.standard_normal((4, 1, 1250))
    reservoir = KroneckerReservoir(16, 1.5, statistics=statistics, random_state=0)
    with pytest.raises(ValueError, match="the states overflow: X holds numbers much larger"):
        reservoir.fit(X).transform(X)
    reservoir.fit(X[:, :, :20])
    with pytest.raises(ValueError, match="the states overflow"):
        reservoir.transform(X)


def test_counts_of_many_steps(rng):
    """More than a byte holds, of states that are nearly always above their thresholds."""
    X = rng.standard_normal((3, 1, 1300))
    X[1:, :, 10:] += 1000
    reservoir = KroneckerReservoir(6, 0.5, statistics=["proportion"], random_state=0)
    (part,) = reservoir.fit(X).parts_
    for x, row in zip(reservoir.scaling_.transform(list(X)), reservoir.transform(X), strict=True):
        above = [(plain_states(part, x) > t).mean(axis=0) for t in part.thresholds]
        np.testing.assert_allclose(row, np.concatenate(above), atol=2.5e-3)


def test_fitting_keeps_no_states_over_time(rng):
    peaks = []
    for T in (8000, 32000):
        X = rng.standard_normal((16, 1, T))
        tracemalloc.start()
        KroneckerReservoir(32, 0.9, random_state=0).fit(X)
        peaks.append(tracemalloc.get_traced_memory()[1] - 6 * X.nbytes)
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
